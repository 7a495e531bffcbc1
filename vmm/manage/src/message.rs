//! What can be asked and what is answered. No text here but names that the configuration or the machine gave.

use alloc::{string::String, vec::Vec};
use core::fmt;

/// Version of requests and responses: raised whenever either changes in a way that an old front end would misread.
pub const VERSION: u16 = 1;

/// A message with the version it speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    /// [`VERSION`] of whoever made it.
    pub version: u16,
    /// What it says.
    pub body: T,
}

impl<T> Versioned<T> {
    /// A message of this version.
    pub const fn new(body: T) -> Self {
        Self { version: VERSION, body }
    }

    /// What it says.
    ///
    /// # Errors
    /// [`Refusal::Version`] where it speaks another version.
    pub fn checked(self) -> Result<T, Refusal> {
        if self.version == VERSION { Ok(self.body) } else { Err(Refusal::Version(self.version)) }
    }
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// What there is to ask.
    Help,
    /// All virtual machines.
    Vms,
    /// One of them.
    Vm(String),
    /// The CPUs, and which virtual CPUs each runs.
    Cpus,
    /// What memory is used for.
    Memory,
    /// The latest of what the console printed.
    Log,
    /// Exits of one virtual machine by kind, and the last ones.
    Exits(String),
    /// The machine's PCI functions, and who has them.
    Functions,
    /// What the IOMMU has in use.
    Iommu,
    /// Which functions cannot be held apart, and why.
    Groups,
    /// What the IOMMU has blocked.
    Faults,
    /// Virtual devices.
    Vdevs,
    /// What is composed of what, for a program.
    Topology,
    /// Stop its virtual CPUs where they are.
    Pause(String),
    /// Let them go on.
    Resume(String),
    /// End it and free its memory.
    Stop(String),
    /// Start it again from its images, as after power-on.
    Reset(String),
    /// Restart the machine.
    Reboot,
    /// Switch the machine off.
    PowerOff,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// To [`Request::Help`].
    Help,
    /// To [`Request::Vms`], in the configuration's order.
    Vms(Vec<VmSummary>),
    /// To [`Request::Vm`].
    Vm(VmDetail),
    /// To [`Request::Cpus`].
    Cpus(Vec<CpuUse>),
    /// To [`Request::Memory`].
    Memory(MemoryUse),
    /// To [`Request::Log`]: bytes as they were printed.
    Log(Vec<u8>),
    /// To [`Request::Exits`].
    Exits(Exits),
    /// To [`Request::Functions`].
    Functions(Vec<FunctionUse>),
    /// To [`Request::Iommu`]; `None` where the machine has none.
    Iommu(Option<IommuUse>),
    /// To [`Request::Groups`]: one in a text, with its ties in lines of their own.
    Groups(Vec<String>),
    /// To [`Request::Faults`], the latest last.
    Faults(Vec<FaultUse>),
    /// To [`Request::Vdevs`].
    Vdevs(Vec<VdevUse>),
    /// To [`Request::Topology`].
    Topology(Topology),
    /// A virtual machine was brought into this state.
    Done(String, State),
    /// The machine ends.
    Ending,
    /// Nothing was done.
    Refused(Refusal),
}

/// Why nothing was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The request speaks this version, not [`VERSION`].
    Version(u16),
    /// No virtual machine has that name; the one that is meant, perhaps.
    NoVm(String, Option<String>),
    /// It is in this state, in which that cannot be done.
    State(String, State),
    /// It was tried and failed; the cause, in words.
    Failed(String, String),
}

/// The state of a virtual machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Its virtual CPUs run when they can.
    Running,
    /// They stand still.
    Paused,
    /// It is ending: not all of its virtual CPUs have left it yet.
    Stopping,
    /// It has ended, and how: `poweroff`, `exit 0`, `crashed`, `stopped`.
    Ended(String),
    /// It could not be started; why.
    Failed(String),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running => f.pad("running"),
            Self::Paused => f.pad("paused"),
            Self::Stopping => f.pad("stopping"),
            Self::Ended(how) => f.pad(how),
            Self::Failed(_) => f.pad("not started"),
        }
    }
}

/// A virtual machine in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmSummary {
    /// Its name.
    pub name: String,
    /// What it does.
    pub state: State,
    /// The CPU of each of its virtual CPUs.
    pub cpus: Vec<u32>,
    /// Its memory; what it has of it now, so 0 once it is freed.
    pub memory_bytes: u64,
    /// Exits so far, of all its virtual CPUs.
    pub exits: u64,
}

/// A virtual machine in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmDetail {
    /// The row.
    pub summary: VmSummary,
    /// Bytes of its memory, in whole pages of its second stage, that it has written since this was last asked, where the
    /// CPU tells.
    pub written: Option<u64>,
    /// Counters by name, the sums of all its virtual CPUs, without those that are 0.
    pub counters: Vec<(&'static str, u64)>,
}

/// A CPU in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuUse {
    /// Kerf's number for it.
    pub number: u32,
    /// Its local APIC's ID.
    pub apic_id: u32,
    /// Package, core in it, thread of that.
    pub place: [u32; 3],
    /// Thousandths of the time since the last question in which it did not wait.
    pub load_permille: u32,
    /// Its virtual CPUs: VM's name and number in it.
    pub vcpus: Vec<(String, u32)>,
}

/// What memory is used for, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// All that Kerf manages.
    pub total: u64,
    /// Free of it.
    pub free: u64,
    /// Each VM's RAM.
    pub guests: Vec<(String, u64)>,
    /// Kerf's heap, tables and control structures: what is neither free nor a guest's.
    pub own: u64,
    /// The kernel's image, which lies apart from `total`.
    pub image: u64,
}

/// A PCI function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionUse {
    /// Its address, as `0000:01:00.0`.
    pub address: String,
    /// Vendor and device.
    pub ids: [u16; 2],
    /// Its class code of 24 bits.
    pub class: u32,
    /// Its memory BARs: index, address, bytes.
    pub bars: Vec<(u8, u64, u64)>,
    /// Vectors of MSI and of MSI-X.
    pub interrupts: [u16; 2],
    /// How it can be reset.
    pub reset: &'static str,
    /// What it is a virtual function of.
    pub physical: Option<String>,
    /// The VM that has it.
    pub owner: Option<String>,
}

/// Functions, virtual machines, and what is composed for these of those.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The machine's functions.
    pub functions: Vec<FunctionUse>,
    /// All virtual machines.
    pub vms: Vec<VmSummary>,
    /// Their virtual devices.
    pub vdevs: Vec<VdevUse>,
}

/// A virtual device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VdevUse {
    /// Its number.
    pub id: u32,
    /// The VM that has it.
    pub owner: String,
    /// Its work queues.
    pub queues: Vec<QueueUse>,
    /// Registers that came to Kerf: name, reads and writes.
    pub registers: Vec<(&'static str, [u64; 2])>,
    /// Lines to portals that came to Kerf, and how many of them were lost.
    pub lines: [u64; 2],
}

/// A work queue of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueUse {
    /// The hosting function's address.
    pub function: String,
    /// The interface's number in that.
    pub interface: u16,
    /// By what its requests are known.
    pub pasid: u32,
    /// How its portals are served.
    pub portals: String,
}

/// What the IOMMU has in use: the same before and after something that gave everything back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IommuUse {
    /// By which tables it translates.
    pub stage: &'static str,
    /// Units that the machine names.
    pub listed: usize,
    /// Units that work.
    pub units: usize,
    /// DMA spaces.
    pub spaces: usize,
    /// Functions that are attached or cut off.
    pub functions: usize,
    /// Interrupt entries.
    pub interrupts: usize,
    /// Teardowns under way.
    pub teardowns: usize,
}

/// What was blocked of a function, for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultUse {
    /// The VM that has the function.
    pub owner: Option<String>,
    /// How often.
    pub count: u64,
    /// The last one, in words.
    pub last: String,
}

/// Exits of one virtual machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exits {
    /// Its name.
    pub name: String,
    /// Each of its virtual CPUs.
    pub vcpus: Vec<VcpuExits>,
}

/// Exits of one virtual CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VcpuExits {
    /// Counters by name, without those that are 0.
    pub counters: Vec<(&'static str, u64)>,
    /// The last exits, newest last.
    pub last: Vec<LastExit>,
}

/// One exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastExit {
    /// Its kind.
    pub kind: &'static str,
    /// The guest's instruction pointer.
    pub rip: u64,
    /// What it was about: port, register, guest physical address.
    pub detail: u64,
}
