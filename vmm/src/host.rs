//! What a virtual machine needs from outside.

use hw::Gpa;
use vcpu::{Code64, SecondStageFault};

/// Guest physical memory, bytes only, as the virtual CPU's current view shows it: what the view hides, or protects against
/// the access, is no RAM. Interior mutability: the guest itself changes it at any time.
pub trait GuestMemory {
    /// Copies from guest memory; all of `into` or nothing is meaningful.
    ///
    /// # Errors
    /// [`NoMemory`] where any byte of the range is not RAM.
    fn read(&self, gpa: Gpa, into: &mut [u8]) -> Result<(), NoMemory>;
    /// Eight bytes, as one load where they are aligned; `None` where any of them is not RAM, or where that is not found
    /// out at once: [`GuestMemory::read`] has the last word.
    #[inline]
    fn read_u64(&self, gpa: Gpa) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(gpa, &mut bytes).ok()?;
        Some(u64::from_le_bytes(bytes))
    }
    /// Eight bytes of code, as [`crate::walk::code_word`] finds them; it may know a shorter way that leads to the same.
    #[inline]
    fn code(&self, code: Code64) -> Option<u64>
    where
        Self: Sized,
    {
        crate::walk::code_word(code, self)
    }
    /// Copies into guest memory.
    ///
    /// # Errors
    /// [`NoMemory`] where any byte of the range is not RAM; nothing is written then.
    fn write(&self, gpa: Gpa, from: &[u8]) -> Result<(), NoMemory>;
}

/// The guest named an address at which it has no RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory(pub Gpa);

/// The machine around the guest.
pub trait Host {
    /// The host's time-stamp counter, at the frequency of the guest's. The guest's is this plus the machine's offset.
    fn tsc(&self) -> u64;
    /// Seconds since 1970.
    fn unix_time(&self) -> u64;
    /// Puts bytes that the guest's UART sent on the guest's console.
    fn console_write(&mut self, bytes: &[u8]);
    /// The next byte typed at the guest's console.
    fn console_read(&mut self) -> Option<u8>;
    /// That virtual CPU's mailbox has news: makes it leave its guest, or its wait, soon.
    fn kick(&mut self, vcpu: u32);
    /// What is behind a guest physical address that the second stage does not map so.
    fn fault(&mut self, _fault: &SecondStageFault) -> Backing {
        Backing::Device
    }
}

/// What is behind a guest physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// A device, or nothing: the access is emulated.
    Device,
    /// Memory that is mapped by now: the guest tries again.
    Mapped,
    /// Memory that this view does not show: reads give all-ones, writes nothing.
    Hidden,
    /// Memory on which the access is not allowed.
    Protected,
}
