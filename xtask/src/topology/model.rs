//! What a drawing shows: [`Topology`], a tree from VMs to the interfaces of what they have, and the functions these are
//! of. `described` and `machine` make it, `layout` draws it.

/// What is connected to what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Topology {
    /// Whose picture it is, and what it does not know.
    pub(super) about: Vec<String>,
    /// The machine's functions, by which interfaces name them.
    pub(super) functions: Vec<Label>,
    pub(super) vms: Vec<Vm>,
}

/// The text of a box: its first line is its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Label(pub(super) Vec<String>);

impl Label {
    pub(super) fn new<const N: usize>(lines: [&str; N]) -> Self {
        Self(lines.map(str::to_owned).into())
    }
}

/// A virtual machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Vm {
    pub(super) label: Label,
    pub(super) vdevs: Vec<Vdev>,
}

/// A device as a VM sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Vdev {
    pub(super) label: Label,
    pub(super) pages: Vec<(Speed, String)>,
    pub(super) interfaces: Vec<Interface>,
}

/// How pages are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Speed {
    /// They are mapped.
    Fast,
    /// Accesses come to Kerf.
    Slow,
}

/// What a device is composed of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) label: Label,
    /// Of which of [`Topology::functions`]; `None` where none has one to give.
    pub(super) function: Option<usize>,
}
