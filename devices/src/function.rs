//! [`HostingFunction`]: what every kind of hosting function can do.

use alloc::vec::Vec;
use core::fmt;

use hw::{Function, Iova, Pasid};

use crate::dsa;
use crate::error::{CarveError, Fault};
use crate::interface::{Interface, InterfaceId, InterfaceState, Mode};
use crate::sriov::Namespace;

/// A PCIe function that is carved. One object per function, behind one lock of its owner's: interfaces are named by ids, as
/// all share the function's registers.
///
/// **Who implements it** owes: an interface is carved [`Disabled`](crate::State::Disabled), with every slot empty and
/// masked; nothing done to one changes another; no call waits for the device longer than a register access takes; carving,
/// releasing and commanding one take the same time however many there are; after [`HostingFunction::release`] nothing of the
/// former owner is left in it.
///
/// **Who uses it** owes: requests and interrupts of an interface are held back (no PASID attached, no interrupt entry) until
/// it has an owner; a page is unmapped before its interface is released; [`HostingFunction::poll`] is called until what was
/// begun is at its end; [`HostingFunction::attend`] is called when the function's own interrupt comes, and now and then.
pub trait HostingFunction: Send + fmt::Debug {
    /// Its place.
    fn function(&self) -> Function;
    /// What it is.
    fn kind(&self) -> Kind;
    /// What it has, and has left.
    fn resources(&self) -> Resources;

    /// Gives out an interface with at least what is wanted.
    ///
    /// # Errors
    /// [`CarveError`].
    fn carve(&mut self, want: &Want) -> Result<InterfaceId, CarveError>;

    /// Takes an interface back and forgets its owner's settings. It has to be disabled.
    ///
    /// # Errors
    /// [`Fault::Stale`], [`Fault::Busy`], or [`Fault::State`] where it may still have work under way.
    fn release(&mut self, id: InterfaceId) -> Result<(), Fault>;

    /// An interface.
    fn interface(&self, id: InterfaceId) -> Option<&Interface>;

    /// Has requests of a disabled interface carry a PASID, or none.
    ///
    /// # Errors
    /// [`Fault::Unsupported`] where they have a requester ID of their own, [`Fault::State`] where it is enabled.
    fn bind(&mut self, id: InterfaceId, pasid: Option<Pasid>) -> Result<(), Fault>;

    /// Changes a setting of a disabled interface.
    ///
    /// # Errors
    /// [`Fault::Unsupported`] where it has no such setting, or more was asked for than was carved.
    fn set(&mut self, id: InterfaceId, setting: Setting) -> Result<(), Fault>;

    /// Begins something that may take long. One at a time per interface.
    ///
    /// # Errors
    /// [`Fault`]; nothing was begun then.
    fn start(&mut self, id: InterfaceId, command: Command) -> Result<(), Fault>;

    /// Goes on with what was begun; `Some` at the end, once. Without anything begun: at once, well.
    fn poll(&mut self, id: InterfaceId) -> Option<Result<(), Fault>>;

    /// Sets what a slot of an interface sends, or nothing, and whether it is held back. The slot's PASID is the interface's.
    ///
    /// # Errors
    /// [`Fault::Slot`].
    fn slot(
        &mut self,
        id: InterfaceId,
        index: u16,
        message: Option<SlotMessage>,
        masked: bool,
    ) -> Result<Handle, Fault>;

    /// Whether a slot that is held back has something to send.
    fn is_pending(&self, id: InterfaceId, index: u16) -> bool;

    /// What another interface needs to go on as this one, which is disabled or drained.
    ///
    /// # Errors
    /// [`Fault::State`], [`Fault::Busy`].
    fn save(&mut self, id: InterfaceId) -> Result<InterfaceState, Fault>;

    /// Makes a disabled interface go on as the saved one, but for enabling it.
    ///
    /// # Errors
    /// [`Fault::Unsupported`] where it has too little for that.
    fn restore(&mut self, id: InterfaceId, state: &InterfaceState) -> Result<(), Fault>;

    /// Looks after the function: what has happened since the last time. Recovers it where it can be recovered, over as many
    /// calls as that takes.
    fn attend(&mut self) -> Vec<Report>;
}

/// Kinds of hosting functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Intel's Data Streaming Accelerator: an interface is a work queue.
    Dsa,
    /// NVMe with SR-IOV: an interface is a virtual function.
    Nvme,
    /// Intel's 82576 with SR-IOV, likewise.
    Igb,
    /// Any function: it is its only interface.
    Whole,
}

/// A version of the function's programming interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub struct Version {
    pub major: u8,
    pub minor: u8,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// How many of something are left, of how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Count {
    pub left: u32,
    pub of: u32,
}

/// What a function has, and has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Interfaces.
    pub interfaces: Count,
    /// Queues; as many as interfaces where each is one.
    pub queues: Count,
    /// Entries of all queues together; 0 where they are their owner's memory.
    pub entries: Count,
    /// Interrupt slots.
    pub slots: Count,
    /// The newest version that interfaces can be asked for in.
    pub version: Version,
}

/// What an interface is to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// Queues: 1 where an interface is one.
    pub queues: u32,
    /// Entries of each queue; not looked at where they are their owner's memory.
    pub entries: u32,
    /// Interrupt slots.
    pub slots: u32,
    /// Who submits work.
    pub mode: Mode,
    /// The version. Older ones than the function's are met by it.
    pub version: Version,
}

/// What the owner of an interface may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// Of a work queue of DSA.
    Queue(dsa::Settings),
    /// On NVMe, the namespace that nobody else is to have meanwhile.
    Namespace(Namespace),
}

/// What may take long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Takes work from now on.
    Enable,
    /// Takes no work any more, and ends what it has.
    Disable,
    /// Ends what it has, and goes on taking work.
    Drain,
    /// Drops what it has, and goes on taking work.
    Abort,
    /// Drops what it has, and is disabled with its settings as carved.
    Reset,
}

/// An interrupt message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SlotMessage {
    pub address: u64,
    pub data: u32,
}

/// By what number descriptors or software name a slot. It is the function's own: another function's means nothing to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle(pub u16);

/// Something that has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// To which interface; `None` where to all of the function, or to one that is no more.
    pub interface: Option<InterfaceId>,
    /// What.
    pub what: Trouble,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Work was refused, or failed where nobody could be told.
    Work {
        /// The function's code for it.
        error: u8,
        /// The operation.
        operation: u8,
        /// The address, if one is to blame.
        address: Option<Iova>,
    },
    /// More happened than could be told.
    Lost,
    /// It has halted: all interfaces are disabled, and what they had is lost.
    Halted,
    /// It works again. Interfaces have their settings, and are to be enabled.
    Recovered,
    /// It cannot be recovered from here: it is to be reset as a whole, or is gone.
    Dead(Fault),
}
