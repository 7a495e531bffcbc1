//! [`Igb`]: the physical function of Intel's 82576, which switches frames between its virtual functions and the wire and
//! answers their mailboxes (82576EB datasheet 3.1: 7.10.3 virtualization, 8 registers). It sends and receives nothing
//! itself, so it has no rings.

mod mailbox;
mod registers;

use hw::{Clock, Deadline, RegisterBus, Timeout, Width, wait_until};

use super::{Job, Physical, Started};
use crate::{Count, Fault, Kind, Resource, Resources};
use registers::*;

/// Vendor ID: Intel.
pub(super) const VENDOR: u16 = 0x8086;
/// Device ID: 82576, copper.
pub(super) const DEVICE: u16 = 0x10c9;

/// Virtual functions that there can be.
const MOST: u16 = 8;
/// How long the PHY may take for an access to one of its registers.
const PHY_NS: u64 = 10_000_000;

/// What is known of a virtual function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Nobody has it.
    #[default]
    Free,
    /// It was given, and is to ask for its reset.
    Given,
    /// It may use its queues and ask for more.
    ClearToSend,
}

/// The driver.
#[derive(Debug)]
pub(super) struct Igb<R, C> {
    registers: R,
    clock: C,
    /// The physical function's own address, of which the others are made.
    mac: [u8; 6],
    states: [State; MOST as usize],
    done: Option<Result<(), Fault>>,
}

impl<R: RegisterBus, C: Clock> Igb<R, C> {
    /// For the registers of BAR 0.
    pub(super) const fn new(registers: R, clock: C) -> Self {
        Self { registers, clock, mac: [0; 6], states: [State::Free; MOST as usize], done: None }
    }

    fn read(&self, register: u64) -> u32 {
        self.registers.load(register, Width::W4) as u32
    }

    fn write(&self, register: u64, value: u32) {
        self.registers.store(register, Width::W4, value.into());
    }

    fn set(&self, register: u64, bits: u32, on: bool) {
        let old = self.read(register);
        self.write(register, if on { old | bits } else { old & !bits });
    }

    fn state(&self, number: u16) -> State {
        self.states.get(usize::from(number)).copied().unwrap_or_default()
    }

    fn set_state(&mut self, number: u16, state: State) {
        if let Some(place) = self.states.get_mut(usize::from(number)) {
            *place = state;
        }
    }

    /// The address of a virtual function: locally administered, and another one for each.
    fn mac_of(&self, number: u16) -> [u8; 6] {
        let [first, second, rest @ ..] = self.mac;
        let [a, b, c, d] = rest;
        [first & 0xfe | 2, second ^ (number as u8 + 1), a, b, c, d]
    }

    /// Frames to a virtual function's address come to it, and those to all; or none do.
    fn filter(&self, number: u16, on: bool) {
        let [a, b, c, d, e, f] = self.mac_of(number);
        // Entry 0 is the physical function's.
        let entry = u64::from(number) + 1;
        let high = u32::from(u16::from_le_bytes([e, f])) | ADDRESS_VALID | FIRST_POOL << number;
        self.write(RAL + 8 * entry, u32::from_le_bytes([a, b, c, d]));
        self.write(RAH + 8 * entry, if on { high } else { 0 });
        let offload = FRAME_BYTES | ACCEPT_UNTAGGED | ACCEPT_BROADCAST | STRIP_POOL_CRC;
        self.write(VMOLR + 4 * u64::from(number), if on { offload } else { 0 });
        self.set(VFRE, 1 << number, on);
        self.set(VFTE, 1 << number, on);
    }

    /// Has the PHY find out what the link can do, for both sides to agree.
    fn negotiate(&self) -> Result<(), Fault> {
        self.set(CTRL, SET_LINK_UP, true);
        self.write(MDIC, PHY_WRITE | PHY_ADDRESS | PHY_CONTROL << 16 | PHY_NEGOTIATE);
        let done = || (self.read(MDIC) & PHY_READY != 0).then_some(());
        let deadline = Deadline::after_ns(&self.clock, PHY_NS);
        wait_until(&self.clock, deadline, done).map_err(|Timeout| Fault::Timeout)
    }

    fn start(&mut self) -> Result<(), Fault> {
        if self.read(STATUS) == u32::MAX {
            return Err(Fault::Gone);
        }
        self.states = [State::Free; MOST as usize];
        self.write(IMC, u32::MAX);
        self.write(EIMC, u32::MAX);
        let [a, b, c, d] = self.read(RAL).to_le_bytes();
        let [e, f, ..] = self.read(RAH).to_le_bytes();
        self.mac = [a, b, c, d, e, f];
        self.write(RAH, 0);
        // Each virtual function's pool has two queues; what is addressed to none of them is dropped.
        self.write(MRQC, POOLS_BY_ADDRESS);
        self.write(VT_CTL, NO_DEFAULT_POOL | REPLICATE);
        (0..MOST).for_each(|number| self.filter(number, false));
        // One that does not fetch what comes must not hold the others up, and none sends under another's address.
        self.write(QDE, u32::from(u16::MAX));
        self.write(DTXSWC, CHECK_SOURCES | LOOPBACK);
        self.negotiate()?;
        self.write(RCTL, RECEIVE | ACCEPT_ALL_BROADCAST | STRIP_CRC);
        self.write(TCTL, TRANSMIT | PAD_SHORT | COLLISIONS);
        // What is pending from before would interrupt no more.
        self.read(ICR);
        self.write(EICR, u32::MAX);
        // Its only interrupt is for mailboxes and the link, by the first MSI-X entry.
        self.write(GPIE, MULTIPLE_MSIX | CLEAR_ON_READ);
        self.write(IVAR_MISC, ENTRY_VALID << 8);
        self.write(MBVFIMR, (1 << MOST) - 1);
        self.write(IMS, MAILBOX | LINK_CHANGE);
        self.write(EIMS, 1);
        self.set(CTRL_EXT, RESET_DONE | DRIVER_LOADED, true);
        Ok(())
    }

    fn give(&mut self, number: u16) -> Result<(), Fault> {
        if number >= MOST {
            return Err(Fault::Lacks(Resource::Interfaces));
        }
        self.set_state(number, State::Given);
        // It may have been reset before anybody listened.
        self.write(MBVFICR, REQUEST << number);
        self.write(VFLRE, 1 << number);
        self.set(CTRL_EXT, RESET_DONE, true);
        Ok(())
    }
}

impl<R, C> Physical for Igb<R, C>
where
    R: RegisterBus + core::fmt::Debug + Send,
    C: Clock + core::fmt::Debug + Send,
{
    fn kind(&self) -> Kind {
        Kind::Igb
    }

    fn each(&self) -> Resources {
        let count = |count| Count { left: count, of: count };
        Resources { queues: count(2), slots: count(3), ..Resources::default() }
    }

    fn begin(&mut self, job: Job) {
        self.done = Some(match job {
            Job::Start => self.start(),
            Job::Give(number, _) => self.give(number),
            Job::Take(number) => {
                self.set_state(number, State::Free);
                self.filter(number, false);
                Ok(())
            }
        });
    }

    fn poll(&mut self) -> Option<Result<Started, Fault>> {
        self.done.take().map(|done| done.map(|()| Started::Ready))
    }

    fn on_interrupt(&mut self) -> Result<(), Fault> {
        // In this order, and before it listens: what comes meanwhile interrupts anew.
        self.write(EICR, 1);
        let causes = self.read(ICR);
        if causes == u32::MAX {
            return Err(Fault::Gone);
        }
        self.listen();
        if causes & LINK_CHANGE != 0 {
            self.tell_all();
        }
        self.write(EIMS, 1);
        Ok(())
    }

    fn wants_interrupt(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;
