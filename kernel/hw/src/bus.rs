//! The buses a CPU speaks besides memory: I/O ports, model-specific registers and CPUID.

/// The width of one access, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Width {
    /// One byte.
    W1 = 1,
    /// Two bytes.
    W2 = 2,
    /// Four bytes.
    W4 = 4,
    /// Eight bytes; memory only.
    W8 = 8,
}

impl Width {
    /// The width of `bytes`, or `None` where no single access has it.
    #[must_use]
    pub const fn try_new(bytes: u64) -> Option<Self> {
        match bytes {
            1 => Some(Self::W1),
            2 => Some(Self::W2),
            4 => Some(Self::W4),
            8 => Some(Self::W8),
            _ => None,
        }
    }

    /// Bytes of the access.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self as u64
    }

    /// All-ones of this width: what an access to nothing reads.
    #[must_use]
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self as u32)
    }
}

/// The number of an I/O port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(pub u16);

/// I/O port space.
pub trait PortBus {
    /// Reads `width` (at most four bytes) from `port`, zero-extended.
    fn read(&self, port: Port, width: Width) -> u32;
    /// Writes the low `width` (at most four bytes) of `value` to `port`.
    fn write(&self, port: Port, width: Width, value: u32);
}

/// The number of a model-specific register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Msr(pub u32);

/// An access to a model-specific register that the CPU answered with #GP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrFault(pub Msr);

/// Model-specific registers of the CPU the caller runs on.
pub trait MsrBus {
    /// RDMSR.
    ///
    /// # Errors
    /// [`MsrFault`] where the CPU has no such register.
    fn read(&self, msr: Msr) -> Result<u64, MsrFault>;
    /// WRMSR.
    ///
    /// # Errors
    /// [`MsrFault`] where the CPU has no such register or refuses the value.
    fn write(&self, msr: Msr, value: u64) -> Result<(), MsrFault>;
}

/// The four registers CPUID answers with (SDM vol. 2A, CPUID).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct CpuidResult {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// CPUID of the CPU the caller runs on, or of a described one.
pub trait CpuidBus {
    /// CPUID with EAX = `leaf` and ECX = `subleaf`. A leaf past the maximum answers whatever the CPU answers: check first.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidResult;
}
