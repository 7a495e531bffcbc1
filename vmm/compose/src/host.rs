//! [`Host`]: what composition needs from the kernel for one VM.

use core::fmt;

use devices::{Page, SlotMessage};
use hw::{Function, Gpa, Pasid};
use vmm::pci::Route;
use vmm::platform::InterruptMessage;

/// There is no way to do that: none is left, or the hardware refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoWay;

/// Names an interrupt on its way from a function to a vector of the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WireId(pub u32);

/// Such an interrupt, and the message that begins it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Wire {
    pub id: WireId,
    pub message: SlotMessage,
}

/// The kernel's part for one VM. No call waits for a virtual CPU or takes the lock of the VM's devices.
pub trait Host: fmt::Debug + Send + Sync {
    /// Has requests of a function that carry the PASID that this gives reach the VM's memory, at the VM's own addresses.
    ///
    /// # Errors
    /// [`NoWay`].
    fn attach(&self, function: Function) -> Result<Pasid, NoWay>;
    /// Has a PASID lead nowhere. It is given out again once the hardware is done with it, or never where it is not `free`:
    /// something that nobody could stop still has it.
    fn detach(&self, function: Function, pasid: Pasid, free: bool);
    /// Shows pages of a function, one after the other, from `gpa` on.
    ///
    /// # Errors
    /// [`NoWay`]: accesses come to the VDEV then.
    fn map(&self, gpa: Gpa, function: Function, pages: &[Page]) -> Result<(), NoWay>;
    /// Takes pages away again. When it returns, virtual CPUs have been told to forget them, and none that runs the guest
    /// next still knows them.
    fn unmap(&self, gpa: Gpa, bytes: u64);
    /// Whether the CPU translates the PASIDs that the guest gives to ENQCMD and ENQCMDS.
    fn translates_pasids(&self) -> bool;
    /// Makes an interrupt of a function come as the guest wants it, in place of an `old` one that it was before.
    ///
    /// # Errors
    /// [`NoWay`]; the old one is no more either.
    fn wire(&self, function: Function, old: Option<WireId>, to: &Route) -> Result<Wire, NoWay>;
    /// Makes one come no more.
    fn unwire(&self, id: WireId);
    /// Something is under way now that ends without the guest: [`Composer::poll`](crate::Composer::poll) is to be called soon,
    /// and until it is [idle](crate::Composer::is_idle).
    fn look_after(&self);
    /// Interrupts the guest.
    fn deliver(&self, message: &InterruptMessage);
    /// Writes a line to a page of a function at once, at an offset in it.
    fn write_line(&self, function: Function, page: &Page, offset: u64, line: &[u8; 64]);
}
