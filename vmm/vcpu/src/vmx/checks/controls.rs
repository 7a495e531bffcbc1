//! Checks of the control fields (SDM vol. 3, 27.2.1).

use x86_spec::cpu::{Cr0, vector};
use x86_spec::vmx::capability::EptVpid;
use x86_spec::vmx::control::{EntryControls, ExitControls, PinBased, Primary, Secondary};
use x86_spec::vmx::exit::{InterruptionInfo, InterruptionType};
use x86_spec::vmx::field::{Field64, control, guest};

use super::{EntryCheck, ensure};
use crate::vmx::capabilities::Capabilities;
use crate::vmx::fields::Fields;

pub(super) fn check(fields: &impl Fields, capabilities: &Capabilities) -> Result<(), EntryCheck> {
    execution(fields, capabilities)?;
    apic(fields, capabilities)?;
    translation(fields, capabilities)?;
    exit(fields, capabilities)?;
    entry(fields, capabilities)?;
    event(fields, capabilities)
}

/// The secondary controls as the CPU takes them: zero where they are not activated.
pub(super) fn secondary(fields: &impl Fields) -> Secondary {
    let primary = Primary::from_bits_retain(fields.read(control::PRIMARY));
    if primary.contains(Primary::ACTIVATE_SECONDARY) {
        Secondary::from_bits_retain(fields.read(control::SECONDARY))
    } else {
        Secondary::empty()
    }
}

fn is_structure(fields: &impl Fields, caps: &Capabilities, field: Field64, align: u64) -> bool {
    let address = fields.read(field);
    address & (align - 1) == 0 && caps.is_physical(address, true)
}

fn execution(fields: &impl Fields, capabilities: &Capabilities) -> Result<(), EntryCheck> {
    let pin = PinBased::from_bits_retain(fields.read(control::PIN_BASED));
    let primary = Primary::from_bits_retain(fields.read(control::PRIMARY));
    ensure(capabilities.pin_based.permits(pin.bits()), EntryCheck::PinBased)?;
    ensure(capabilities.primary.permits(primary.bits()), EntryCheck::Primary)?;
    if primary.contains(Primary::ACTIVATE_SECONDARY) {
        let secondary = secondary(fields).bits();
        ensure(capabilities.secondary.permits(secondary), EntryCheck::Secondary)?;
    }
    ensure(fields.read(control::CR3_TARGET_COUNT) <= 4, EntryCheck::Cr3TargetCount)?;
    if primary.contains(Primary::USE_MSR_BITMAPS) {
        let valid = is_structure(fields, capabilities, control::MSR_BITMAP, 4096);
        ensure(valid, EntryCheck::MsrBitmap)?;
    }
    let virtual_nmis = pin.contains(PinBased::VIRTUAL_NMIS);
    ensure(!virtual_nmis || pin.contains(PinBased::NMI_EXITING), EntryCheck::VirtualNmis)?;
    let nmi_window = primary.contains(Primary::NMI_WINDOW_EXITING);
    ensure(!nmi_window || virtual_nmis, EntryCheck::NmiWindow)
}

fn apic(fields: &impl Fields, capabilities: &Capabilities) -> Result<(), EntryCheck> {
    let pin = PinBased::from_bits_retain(fields.read(control::PIN_BASED));
    let primary = Primary::from_bits_retain(fields.read(control::PRIMARY));
    let exit = ExitControls::from_bits_retain(fields.read(control::EXIT));
    let secondary = secondary(fields);
    let delivery = secondary.contains(Secondary::VIRTUAL_INTERRUPT_DELIVERY);
    if primary.contains(Primary::USE_TPR_SHADOW) {
        let page = is_structure(fields, capabilities, control::VIRTUAL_APIC_ADDRESS, 4096);
        ensure(page, EntryCheck::TprShadow)?;
        let threshold = fields.read(control::TPR_THRESHOLD);
        ensure(delivery || threshold & !0xf == 0, EntryCheck::TprThreshold)?;
    } else {
        let needs = Secondary::VIRTUALIZE_X2APIC
            | Secondary::APIC_REGISTER_VIRTUALIZATION
            | Secondary::VIRTUAL_INTERRUPT_DELIVERY;
        ensure(!secondary.intersects(needs), EntryCheck::ApicNeedsTprShadow)?;
    }
    if secondary.contains(Secondary::VIRTUALIZE_APIC_ACCESSES) {
        let page = is_structure(fields, capabilities, control::APIC_ACCESS_ADDRESS, 4096);
        ensure(page, EntryCheck::ApicAccess)?;
        let x2apic = secondary.contains(Secondary::VIRTUALIZE_X2APIC);
        ensure(!x2apic, EntryCheck::X2apicAndApicAccesses)?;
    }
    let interrupts_exit = pin.contains(PinBased::EXTERNAL_INTERRUPT_EXITING);
    ensure(!delivery || interrupts_exit, EntryCheck::InterruptDelivery)?;
    if pin.contains(PinBased::PROCESS_POSTED_INTERRUPTS) {
        let acknowledged = exit.contains(ExitControls::ACKNOWLEDGE_INTERRUPT);
        let descriptor =
            is_structure(fields, capabilities, control::POSTED_INTERRUPT_DESCRIPTOR, 64);
        ensure(delivery && acknowledged && descriptor, EntryCheck::PostedInterrupts)?;
    }
    Ok(())
}

fn translation(fields: &impl Fields, capabilities: &Capabilities) -> Result<(), EntryCheck> {
    let secondary = secondary(fields);
    if secondary.contains(Secondary::ENABLE_VPID) {
        ensure(fields.read(control::VPID) != 0, EntryCheck::Vpid)?;
    }
    let ept = secondary.contains(Secondary::ENABLE_EPT);
    if ept {
        let valid = is_ept_pointer(fields.read(control::EPT_POINTER), capabilities);
        ensure(valid, EntryCheck::EptPointer)?;
    }
    let unrestricted = secondary.contains(Secondary::UNRESTRICTED_GUEST);
    ensure(!unrestricted || ept, EntryCheck::UnrestrictedGuest)
}

/// SDM vol. 3, table 25-9.
fn is_ept_pointer(pointer: u64, capabilities: &Capabilities) -> bool {
    let offers = |feature| capabilities.ept_vpid.contains(feature);
    let memory_type = match pointer & 7 {
        0 => offers(EptVpid::UNCACHEABLE),
        6 => offers(EptVpid::WRITE_BACK),
        _ => false,
    };
    let levels = pointer >> 3 & 7 == 3 && offers(EptVpid::FOUR_LEVELS);
    let flags = pointer & 1 << 6 == 0 || offers(EptVpid::ACCESSED_DIRTY);
    let reserved = pointer & 0xf80 == 0 && capabilities.is_physical(pointer, false);
    memory_type && levels && flags && reserved
}

fn exit(fields: &impl Fields, capabilities: &Capabilities) -> Result<(), EntryCheck> {
    let exit = ExitControls::from_bits_retain(fields.read(control::EXIT));
    let pin = PinBased::from_bits_retain(fields.read(control::PIN_BASED));
    ensure(capabilities.exit.permits(exit.bits()), EntryCheck::ExitControls)?;
    let timer = pin.contains(PinBased::PREEMPTION_TIMER);
    let saved = exit.contains(ExitControls::SAVE_PREEMPTION_TIMER);
    ensure(timer || !saved, EntryCheck::SavePreemptionTimer)?;
    if fields.read(control::EXIT_MSR_STORE_COUNT) != 0 {
        let area = is_structure(fields, capabilities, control::EXIT_MSR_STORE_ADDRESS, 16);
        ensure(area, EntryCheck::ExitMsrStore)?;
    }
    if fields.read(control::EXIT_MSR_LOAD_COUNT) != 0 {
        let area = is_structure(fields, capabilities, control::EXIT_MSR_LOAD_ADDRESS, 16);
        ensure(area, EntryCheck::ExitMsrLoad)?;
    }
    Ok(())
}

fn entry(fields: &impl Fields, capabilities: &Capabilities) -> Result<(), EntryCheck> {
    let entry = EntryControls::from_bits_retain(fields.read(control::ENTRY));
    ensure(capabilities.entry.permits(entry.bits()), EntryCheck::EntryControls)?;
    if fields.read(control::ENTRY_MSR_LOAD_COUNT) != 0 {
        let area = is_structure(fields, capabilities, control::ENTRY_MSR_LOAD_ADDRESS, 16);
        ensure(area, EntryCheck::EntryMsrLoad)?;
    }
    let smm = EntryControls::ENTRY_TO_SMM | EntryControls::DEACTIVATE_DUAL_MONITOR;
    ensure(!entry.intersects(smm), EntryCheck::EntrySmm)
}

/// The event to deliver (SDM vol. 3, 27.2.1.3).
fn event(fields: &impl Fields, capabilities: &Capabilities) -> Result<(), EntryCheck> {
    let info = InterruptionInfo(fields.read(control::ENTRY_INTERRUPTION_INFO));
    if !info.is_valid() {
        return Ok(());
    }
    ensure(info.0 & 0x7fff_f000 == 0, EntryCheck::EventReserved)?;
    let kind = info.kind();
    // Type 7 delivers a pending monitor-trap exit, which Kerf has no use for.
    let known = !matches!(kind, InterruptionType::Reserved | InterruptionType::Other);
    ensure(known, EntryCheck::EventType)?;
    let fits = match kind {
        InterruptionType::Nmi => info.vector() == vector::NMI,
        InterruptionType::HardwareException => info.vector() < 32,
        _ => true,
    };
    ensure(fits, EntryCheck::EventVector)?;
    ensure(error_code_fits(info, fields, capabilities), EntryCheck::EventErrorCode)?;
    if info.has_error_code() {
        let code = fields.read(control::ENTRY_EXCEPTION_ERROR_CODE);
        ensure(code >> 16 == 0, EntryCheck::EventErrorCodeBits)?;
    }
    if kind.has_instruction_length() {
        let length = fields.read(control::ENTRY_INSTRUCTION_LENGTH);
        let zero_allowed = capabilities.misc & 1 << 30 != 0;
        ensure(length <= 15 && (length != 0 || zero_allowed), EntryCheck::EventLength)?;
    }
    Ok(())
}

fn error_code_fits(
    info: InterruptionInfo,
    fields: &impl Fields,
    capabilities: &Capabilities,
) -> bool {
    let exception = info.kind() == InterruptionType::HardwareException;
    let real_mode = secondary(fields).contains(Secondary::UNRESTRICTED_GUEST)
        && fields.read(guest::CR0) & Cr0::PE.bits() == 0;
    if !exception || real_mode {
        return !info.has_error_code();
    }
    let pushes = matches!(
        info.vector(),
        vector::DF | vector::TS | vector::NP | vector::SS | vector::GP | vector::PF | vector::AC
    );
    capabilities.basic.error_code_is_free() || info.has_error_code() == pushes
}
