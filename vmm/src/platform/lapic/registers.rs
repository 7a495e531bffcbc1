//! The local APIC's registers as the guest reads and writes them: which exist in which mode, and which bits.

use hw::{Msr, Width};
use x86_spec::apic::{Esr, Icr, Lvt, Svr, TimerMode, lapic as offset_of, x2apic_offset};

use super::{Effect, LocalApic, Mode};
use crate::platform::{GeneralProtection, part_of_dword};

/// Version 0x14, six LVT entries, no suppression of EOI broadcasts (SDM vol. 3, 11.4.8).
const VERSION: u32 = 0x0005_0014;
/// Bits of the SVR that software can write.
pub(super) const SVR_WRITABLE: u32 = 0x3ff;
/// Status bits of an LVT entry: writing them has no effect.
const LVT_STATUS: u32 = Lvt::DELIVERY_STATUS | Lvt::REMOTE_IRR;

/// Bits of the LVT entry at `offset` that software can write, or `None` where there is no entry.
pub(super) const fn lvt_writable(offset: u16) -> Option<u32> {
    let common = 0xff | Lvt::MASKED;
    let delivery = 7 << 8;
    match offset {
        offset_of::LVT_TIMER => Some(common | 3 << Lvt::TIMER_MODE_SHIFT),
        offset_of::LVT_THERMAL | offset_of::LVT_PMC => Some(common | delivery),
        offset_of::LVT_LINT0 | offset_of::LVT_LINT1 => {
            Some(common | delivery | Lvt::ACTIVE_LOW | Lvt::LEVEL)
        }
        offset_of::LVT_ERROR => Some(common),
        _ => None,
    }
}

impl LocalApic {
    /// Reads the xAPIC page. Registers stand at multiples of 16 and are 32 bits wide; the bytes between read 0.
    pub fn read(&mut self, offset: u64, width: Width, now: u64) -> u64 {
        if self.mode() != Mode::Xapic || offset & 0xc != 0 {
            return 0;
        }
        let register = (offset & 0xff0) as u16;
        let value = self.read_register(register, now).unwrap_or_else(|| {
            self.report(Esr::ILLEGAL_REGISTER);
            0
        });
        part_of_dword(value, offset, width)
    }

    /// Writes the xAPIC page. Anything but an aligned 32-bit access is dropped (SDM vol. 3, 11.4.1).
    pub fn write(&mut self, offset: u64, width: Width, value: u64, now: u64) -> Effect {
        if self.mode() != Mode::Xapic || offset & 0xf != 0 || width != Width::W4 {
            return Effect::None;
        }
        let value = value as u32;
        match (offset & 0xff0) as u16 {
            // The ID is wired: writes are dropped, as on current CPUs.
            offset_of::ID => Effect::None,
            offset_of::LDR => {
                self.ldr = value & 0xff00_0000;
                Effect::Readdressed
            }
            offset_of::DFR => {
                self.dfr = value | 0x0fff_ffff;
                Effect::Readdressed
            }
            offset_of::ICR_LOW => {
                self.icr = Icr(self.icr.0 & !0xffff_ffff | u64::from(value & Icr::WRITABLE_LOW));
                self.send()
            }
            offset_of::ICR_HIGH => {
                self.icr = Icr(self.icr.0 & 0xffff_ffff | u64::from(value & 0xff00_0000) << 32);
                Effect::None
            }
            register => self.write_register(register, value, now).unwrap_or_else(|| {
                self.report(Esr::ILLEGAL_REGISTER);
                Effect::None
            }),
        }
    }

    /// RDMSR of an x2APIC register (SDM vol. 3, table 11-6).
    pub(super) fn read_x2apic(&mut self, msr: Msr, now: u64) -> Result<u64, GeneralProtection> {
        match x2apic_offset(msr).ok_or(GeneralProtection)? {
            offset_of::ICR_LOW => Ok(self.icr.0),
            offset_of::ID => Ok(self.id.into()),
            offset_of::LDR => Ok(self.logical_id().into()),
            offset_of::DFR | offset_of::ICR_HIGH | offset_of::EOI => Err(GeneralProtection),
            register => self.read_register(register, now).map(u64::from).ok_or(GeneralProtection),
        }
    }

    /// WRMSR to an x2APIC register. Reserved bits and read-only registers fault (SDM vol. 3, 11.12.1.2).
    pub(super) fn write_x2apic(
        &mut self,
        msr: Msr,
        value: u64,
        now: u64,
    ) -> Result<Effect, GeneralProtection> {
        let register = x2apic_offset(msr).ok_or(GeneralProtection)?;
        if register == offset_of::ICR_LOW {
            if value as u32 & !(Icr::WRITABLE_LOW | Icr::DELIVERY_STATUS as u32) != 0 {
                return Err(GeneralProtection);
            }
            self.icr = Icr(value & !Icr::DELIVERY_STATUS);
            return Ok(self.send());
        }
        let allowed = match register {
            offset_of::TPR | offset_of::SELF_IPI => 0xff,
            offset_of::EOI | offset_of::ESR => 0,
            offset_of::SVR => SVR_WRITABLE,
            offset_of::TIMER_INITIAL => u32::MAX,
            offset_of::TIMER_DIVIDE => 0b1011,
            _ => lvt_writable(register).ok_or(GeneralProtection)? | LVT_STATUS,
        };
        if value & !u64::from(allowed) != 0 {
            return Err(GeneralProtection);
        }
        if register == offset_of::SELF_IPI {
            return Ok(self.send_to_self(value as u8));
        }
        self.write_register(register, value as u32, now).ok_or(GeneralProtection)
    }

    fn send_to_self(&mut self, vector: u8) -> Effect {
        if vector < 16 {
            self.report(Esr::SEND_ILLEGAL_VECTOR);
        } else {
            self.request(vector, false);
        }
        Effect::None
    }

    /// A register that both modes have, or that xAPIC mode alone has; `None` where there is none.
    fn read_register(&mut self, register: u16, now: u64) -> Option<u32> {
        Some(match register {
            offset_of::ID => self.id << 24,
            offset_of::VERSION => VERSION,
            offset_of::TPR => self.tpr.into(),
            offset_of::PPR => self.processor_priority().into(),
            offset_of::EOI => 0,
            offset_of::LDR => self.ldr,
            offset_of::DFR => self.dfr,
            offset_of::SVR => self.svr.bits(),
            offset_of::ISR..offset_of::TMR => self.isr.register((register - offset_of::ISR) >> 4),
            offset_of::TMR..offset_of::IRR => self.tmr.register((register - offset_of::TMR) >> 4),
            offset_of::IRR..offset_of::ESR => {
                self.poll(now);
                self.irr.register((register - offset_of::IRR) >> 4)
            }
            offset_of::ESR => self.esr.bits(),
            offset_of::ICR_LOW => self.icr.0 as u32,
            offset_of::ICR_HIGH => (self.icr.0 >> 32) as u32,
            offset_of::TIMER_INITIAL => self.timer.initial(),
            offset_of::TIMER_CURRENT => self.current_count(now),
            offset_of::TIMER_DIVIDE => self.timer.divide(),
            _ => self.lvt_mut(register)?.0,
        })
    }

    fn current_count(&mut self, now: u64) -> u32 {
        self.poll(now);
        match self.lvt.timer.timer_mode() {
            TimerMode::TscDeadline => 0,
            _ => self.timer.current(now),
        }
    }

    /// Writes a register that both modes have; `None` where there is none that can be written.
    fn write_register(&mut self, register: u16, value: u32, now: u64) -> Option<Effect> {
        match register {
            offset_of::TPR => self.tpr = value as u8,
            offset_of::EOI => return Some(self.end_of_interrupt()),
            offset_of::SVR => {
                self.svr = Svr::from_bits_retain(value & SVR_WRITABLE);
                if !self.svr.contains(Svr::APIC_ENABLED) {
                    self.lvt.mask_all();
                }
                return Some(Effect::Readdressed);
            }
            offset_of::ESR => self.esr = core::mem::take(&mut self.errors),
            offset_of::TIMER_INITIAL => {
                if self.lvt.timer.timer_mode() != TimerMode::TscDeadline {
                    self.poll(now);
                    self.timer.start(value, now);
                }
            }
            offset_of::TIMER_DIVIDE => {
                self.poll(now);
                self.timer.set_divide(value, now, self.lvt.timer.timer_mode());
            }
            _ => self.write_lvt(register, value, now)?,
        }
        Some(Effect::None)
    }

    pub(super) fn lvt_mut(&mut self, register: u16) -> Option<&mut Lvt> {
        Some(match register {
            offset_of::LVT_TIMER => &mut self.lvt.timer,
            offset_of::LVT_THERMAL => &mut self.lvt.thermal,
            offset_of::LVT_PMC => &mut self.lvt.pmc,
            offset_of::LVT_LINT0 => &mut self.lvt.lint0,
            offset_of::LVT_LINT1 => &mut self.lvt.lint1,
            offset_of::LVT_ERROR => &mut self.lvt.error,
            _ => return None,
        })
    }

    fn write_lvt(&mut self, register: u16, value: u32, now: u64) -> Option<()> {
        let mut value = value & lvt_writable(register)?;
        if !self.svr.contains(Svr::APIC_ENABLED) {
            value |= Lvt::MASKED;
        }
        if register == offset_of::LVT_TIMER {
            // What fell due under the old entry fires under the old entry.
            self.poll(now);
            let deadline = |entry: Lvt| entry.timer_mode() == TimerMode::TscDeadline;
            if deadline(self.lvt.timer) != deadline(Lvt(value)) {
                self.timer.disarm();
            }
        }
        *self.lvt_mut(register)? = Lvt(value);
        Some(())
    }
}
