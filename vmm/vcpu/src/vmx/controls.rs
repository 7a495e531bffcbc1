//! Which controls Kerf sets, made from what it needs, what it likes and what the CPU allows (SDM vol. 3, A.2). Pure.

use x86_spec::vmx::capability::Allowed;
use x86_spec::vmx::control::{EntryControls, ExitControls, PinBased, Primary, Secondary};

use super::capabilities::Capabilities;
use crate::Unsupported;

/// The five control fields as a new VMCS gets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Controls {
    pub(super) pin_based: PinBased,
    pub(super) primary: Primary,
    pub(super) secondary: Secondary,
    pub(super) exit: ExitControls,
    pub(super) entry: EntryControls,
}

/// A control by its bit and the manual's name.
type Named = (u32, &'static str);

const PIN_BASED: &[Named] = &[
    (PinBased::EXTERNAL_INTERRUPT_EXITING.bits(), "external-interrupt exiting"),
    (PinBased::NMI_EXITING.bits(), "NMI exiting"),
    (PinBased::VIRTUAL_NMIS.bits(), "virtual NMIs"),
];

const PRIMARY: &[Named] = &[
    (Primary::USE_TSC_OFFSETTING.bits(), "use TSC offsetting"),
    (Primary::HLT_EXITING.bits(), "HLT exiting"),
    (Primary::MWAIT_EXITING.bits(), "MWAIT exiting"),
    (Primary::MONITOR_EXITING.bits(), "MONITOR exiting"),
    (Primary::RDPMC_EXITING.bits(), "RDPMC exiting"),
    (Primary::CR8_LOAD_EXITING.bits(), "CR8-load exiting"),
    (Primary::CR8_STORE_EXITING.bits(), "CR8-store exiting"),
    (Primary::UNCONDITIONAL_IO_EXITING.bits(), "unconditional I/O exiting"),
    (Primary::USE_MSR_BITMAPS.bits(), "use MSR bitmaps"),
    (Primary::ACTIVATE_SECONDARY.bits(), "activate secondary controls"),
];

/// Controls that would cost exits for nothing, or exits that no one handles: a CPU that cannot switch them off is none
/// that Kerf knows.
const PRIMARY_UNWANTED: &[Named] = &[
    (Primary::INVLPG_EXITING.bits(), "INVLPG without exits"),
    (Primary::CR3_LOAD_EXITING.bits(), "MOV to CR3 without exits"),
    (Primary::CR3_STORE_EXITING.bits(), "MOV from CR3 without exits"),
];

const SECONDARY: &[Named] = &[
    (Secondary::ENABLE_EPT.bits(), "EPT"),
    (Secondary::UNRESTRICTED_GUEST.bits(), "unrestricted guest"),
];

const SECONDARY_OPTIONAL: Secondary = Secondary::ENABLE_RDTSCP
    .union(Secondary::ENABLE_VPID)
    .union(Secondary::ENABLE_INVPCID)
    .union(Secondary::WBINVD_EXITING);

const EXIT: &[Named] = &[
    (ExitControls::SAVE_DEBUG_CONTROLS.bits(), "save debug controls"),
    (ExitControls::HOST_ADDRESS_SPACE_SIZE.bits(), "host address-space size"),
    (ExitControls::SAVE_PAT.bits(), "save IA32_PAT"),
    (ExitControls::LOAD_PAT.bits(), "load IA32_PAT on exit"),
    (ExitControls::SAVE_EFER.bits(), "save IA32_EFER"),
    (ExitControls::LOAD_EFER.bits(), "load IA32_EFER on exit"),
];

const ENTRY: &[Named] = &[
    (EntryControls::LOAD_DEBUG_CONTROLS.bits(), "load debug controls"),
    (EntryControls::LOAD_PAT.bits(), "load IA32_PAT on entry"),
    (EntryControls::LOAD_EFER.bits(), "load IA32_EFER on entry"),
    (EntryControls::IA32E_MODE_GUEST.bits(), "IA-32e mode guest"),
];

/// Where VT-x is itself emulated, the preemption timer counts what a guest has run in all, and ends it now and then. Bochs
/// masks the host's interrupts after an entry whose guest has IF clear, until that guest changes IF: one that leaves it
/// clear would keep the CPU for ever (3.0: the mask is made before the CPU counts as in the guest). A physical CPU has
/// the dual-monitor treatment (A.1) and is spared the timer, as is one that cannot save its count (26.5.1).
fn has_watchdog(capabilities: &Capabilities) -> bool {
    !capabilities.basic.has_dual_monitor()
        && capabilities.pin_based.may & PinBased::PREEMPTION_TIMER.bits() != 0
        && capabilities.exit.may & ExitControls::SAVE_PREEMPTION_TIMER.bits() != 0
}

impl Controls {
    /// The controls for a CPU of these capabilities.
    ///
    /// # Errors
    /// [`Unsupported::Missing`] with the manual's name of the first control of the minimum that the CPU lacks.
    pub(super) fn plan(capabilities: &Capabilities) -> Result<Self, Unsupported> {
        for (bit, name) in PRIMARY_UNWANTED {
            if capabilities.primary.must & bit != 0 {
                return Err(Unsupported::Missing(name));
            }
        }
        let mut entry = adjust(ENTRY, 0, capabilities.entry)?;
        // Needed, and set only while the guest is in that mode.
        entry &= !EntryControls::IA32E_MODE_GUEST.bits();
        let (timer, save_timer) = match has_watchdog(capabilities) {
            true => (PinBased::PREEMPTION_TIMER, ExitControls::SAVE_PREEMPTION_TIMER),
            false => (PinBased::empty(), ExitControls::empty()),
        };
        let pin_based = adjust(PIN_BASED, timer.bits(), capabilities.pin_based)?;
        let exit = adjust(EXIT, save_timer.bits(), capabilities.exit)?;
        Ok(Self {
            pin_based: PinBased::from_bits_retain(pin_based),
            primary: Primary::from_bits_retain(adjust(PRIMARY, 0, capabilities.primary)?),
            secondary: Secondary::from_bits_retain(adjust(
                SECONDARY,
                SECONDARY_OPTIONAL.bits(),
                capabilities.secondary,
            )?),
            exit: ExitControls::from_bits_retain(exit),
            entry: EntryControls::from_bits_retain(entry),
        })
    }

    /// The same for a guest that waits by itself.
    pub(super) fn idle_in_guest(mut self, capabilities: &Capabilities) -> Self {
        let exits = Primary::HLT_EXITING
            | Primary::MWAIT_EXITING
            | Primary::MONITOR_EXITING
            | Primary::PAUSE_EXITING;
        self.primary.remove(exits);
        self.primary |= Primary::from_bits_retain(capabilities.primary.must);
        self
    }
}

/// What the CPU demands, all of `required`, and of `optional` what it offers.
fn adjust(required: &[Named], optional: u32, allowed: Allowed) -> Result<u32, Unsupported> {
    let mut controls = allowed.must | optional & allowed.may;
    for (bit, name) in required {
        if allowed.may & bit == 0 {
            return Err(Unsupported::Missing(name));
        }
        controls |= bit;
    }
    Ok(controls)
}
