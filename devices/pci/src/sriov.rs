//! Virtual functions (9.2, 9.3.3): a physical function's capability is told how many there are to be and where their BARs
//! lie, one behind the other; then they exist, each under a requester ID of its own, maybe on further buses.

use alloc::vec::Vec;
use core::ops::Range;

use hw::{Clock, Deadline, Function, RequesterId};

use crate::access::{Config, ConfigAccess};
use crate::bars;
use crate::function::{Bar, BarKind, FunctionInfo, find};
use crate::spec::capability::{self, express};
use crate::spec::extended::{self, sriov};
use crate::windows;

/// How long virtual functions may take until they answer (9.3.3.3.1).
const READY_NS: u64 = 100_000_000;

/// Why a function has no virtual functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SriovError {
    /// It has no such capability.
    None,
    /// It has not that many.
    Count {
        /// How many it has.
        most: u16,
    },
    /// Their requester IDs are others', or on buses that the bridge above does not lead to.
    Numbers,
    /// There is no room for this BAR of theirs.
    Room(u8),
    /// One does not answer.
    Absent(Function),
}

/// A physical function's capability, as it is to be while there are virtual functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sriov {
    physical: Function,
    offset: u16,
    count: u16,
    ari: bool,
    /// Of the first virtual function; the others' follow.
    bars: [Option<Bar>; 6],
}

impl Sriov {
    /// Reads the capability and finds room for the BARs of `count` virtual functions; there are none yet. `reserved` are
    /// addresses that no function of `functions` says it has, `holes` those at which only PCI can be. Windows and BARs of
    /// others may be moved.
    ///
    /// # Errors
    /// [`SriovError`].
    pub fn prepare(
        access: &impl ConfigAccess,
        functions: &mut [FunctionInfo],
        physical: Function,
        count: u16,
        reserved: &[Range<u64>],
        holes: &[Range<u64>],
    ) -> Result<Self, SriovError> {
        let info = find(functions, physical).ok_or(SriovError::None)?;
        let parent = info.parent;
        let found = info.extended_capability(extended::SRIOV).ok_or(SriovError::None)?;
        let (offset, config) = (found.offset, Config::new(access, physical));
        let most = config.read16(offset + sriov::TOTAL);
        if most == u16::MAX || count == 0 || count > most {
            return Err(SriovError::Count { most: if most == u16::MAX { 0 } else { most } });
        }
        let ari = forward_ari(access, functions, info);
        let mut new = Self { physical, offset, count, ari, bars: [None; 6] };
        new.set_up(config);
        new.bars = bars::read_all(config, offset + sriov::BAR0, 6);
        let placed = new.place(access, functions, parent, reserved, holes);
        if let (Err(full), Some(port)) = (placed, parent) {
            let bars = || new.bars.iter().flatten().filter(|bar| bar.kind != BarKind::Io);
            let align = bars().map(|bar| bar.bytes).max().unwrap_or(1);
            let bytes = bars().try_fold(0_u64, |sum, bar| {
                let bytes = bar.bytes.checked_mul(count.into())?;
                sum.checked_add(bytes.checked_next_multiple_of(align)?)
            });
            bytes
                .and_then(|bytes| {
                    windows::widen(access, functions, port, align, bytes, reserved, holes)
                })
                .ok_or(full)?;
        }
        new.place(access, functions, parent, reserved, holes)?;
        Ok(new)
    }

    /// Gives each BAR its place, as far as windows have room now.
    fn place(
        &mut self,
        access: &impl ConfigAccess,
        functions: &[FunctionInfo],
        parent: Option<Function>,
        reserved: &[Range<u64>],
        holes: &[Range<u64>],
    ) -> Result<(), SriovError> {
        let mut reserved = Vec::from(reserved);
        for bar in self.bars.iter_mut().flatten().filter(|bar| bar.kind != BarKind::Io) {
            let bytes = bar.bytes.checked_mul(self.count.into());
            let room = bytes.and_then(|bytes| {
                windows::room(access, functions, parent, bar, bytes, &reserved, holes)
            });
            let room = room.ok_or(SriovError::Room(bar.index))?;
            bar.base = room.start;
            reserved.push(room);
        }
        Ok(())
    }

    /// The function whose they are.
    #[must_use]
    pub const fn physical(&self) -> Function {
        self.physical
    }

    /// How many they are.
    #[must_use]
    pub const fn count(&self) -> u16 {
        self.count
    }

    /// How many, and how their numbers are made.
    fn set_up<A: ConfigAccess>(&self, config: Config<'_, A>) {
        config.write16(self.offset + sriov::CONTROL, if self.ari { sriov::ARI } else { 0 });
        config.write16(self.offset + sriov::COUNT, self.count);
        config.write32(self.offset + sriov::PAGE_SIZE, 1);
    }

    /// Makes them exist, as after [`Sriov::prepare`] and after each reset of the physical function, and waits until they
    /// have to answer: 0.1 s.
    pub fn enable(&self, access: &impl ConfigAccess, clock: &impl Clock) {
        let config = Config::new(access, self.physical);
        self.set_up(config);
        for bar in self.bars.iter().flatten().filter(|bar| bar.kind != BarKind::Io) {
            bars::write(config, self.offset + sriov::BAR0 + 4 * u16::from(bar.index), bar);
        }
        let control = config.read16(self.offset + sriov::CONTROL);
        let on = control | sriov::ENABLE | sriov::MEMORY_ENABLE;
        config.write16(self.offset + sriov::CONTROL, on);
        let ready = Deadline::after_ns(clock, READY_NS);
        while !ready.has_passed(clock) {
            clock.relax();
        }
    }

    /// What there is, once they are enabled.
    ///
    /// # Errors
    /// [`SriovError::Numbers`] and [`SriovError::Absent`].
    pub fn functions(
        &self,
        access: &impl ConfigAccess,
        functions: &[FunctionInfo],
    ) -> Result<Vec<FunctionInfo>, SriovError> {
        let config = Config::new(access, self.physical);
        let physical = find(functions, self.physical).ok_or(SriovError::None)?;
        let device = config.read16(self.offset + sriov::DEVICE);
        let read = |index: u16| {
            let function = self.function(config, functions, physical, index)?;
            let bars = self.bars.map(|bar| {
                let bar = bar.filter(|bar| bar.kind != BarKind::Io)?;
                Some(Bar { base: bar.base + bar.bytes * u64::from(index), ..bar })
            });
            let config = Config::new(access, function);
            let found = FunctionInfo::read_virtual(config, physical, device, bars);
            found.ok_or(SriovError::Absent(function))
        };
        (0..self.count).map(read).collect()
    }

    /// The number of a virtual function (9.2.1.2).
    fn function<A: ConfigAccess>(
        &self,
        config: Config<'_, A>,
        functions: &[FunctionInfo],
        physical: &FunctionInfo,
        index: u16,
    ) -> Result<Function, SriovError> {
        let first = config.read16(self.offset + sriov::FIRST);
        let stride = config.read16(self.offset + sriov::STRIDE);
        let own = physical.function.rid;
        let number =
            stride.checked_mul(index).and_then(|far| own.0.checked_add(first)?.checked_add(far));
        let rid = number.filter(|_| first != 0 && (stride != 0 || self.count == 1));
        let rid = RequesterId(rid.ok_or(SriovError::Numbers)?);
        let buses = physical.parent.map(|parent| find(functions, parent)?.buses());
        // Configuration requests reach further buses by a bridge alone.
        let leads = buses.map_or(rid.bus() == own.bus(), |buses| {
            buses.is_some_and(|(first, last)| (first..=last).contains(&rid.bus()))
        });
        let function = Function { rid, ..physical.function };
        if leads && find(functions, function).is_none() {
            Ok(function)
        } else {
            Err(SriovError::Numbers)
        }
    }
}

/// Whether the port above takes device and function as one number, which it is told to where it and the function can.
fn forward_ari<A: ConfigAccess>(
    access: &A,
    functions: &[FunctionInfo],
    info: &FunctionInfo,
) -> bool {
    let port = info.parent.and_then(|parent| find(functions, parent));
    let port = port.filter(|_| info.extended_capability(extended::ARI).is_some());
    let Some(port) = port else { return false };
    let has = |found: &&crate::Capability| found.bytes == Some(express::BYTES);
    if let Some(found) = port.capability(capability::EXPRESS).filter(has) {
        let config = Config::new(access, port.function);
        let offered = config.read32(found.offset + express::DEVICE_CAPABILITIES_2);
        if offered & express::CAN_FORWARD_ARI != 0 {
            let at = found.offset + express::DEVICE_CONTROL_2;
            config.write16(at, config.read16(at) | express::ARI_FORWARDING);
        }
    }
    port.forwards_ari(access)
}

#[cfg(test)]
mod tests;
