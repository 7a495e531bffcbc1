//! Memory-mapped registers: an offset that knows what it holds and what may be done with it, and the bus it is reached
//! over. Reading a write-only register, or writing to one that is cleared by ones, does not compile.

use core::marker::PhantomData;

use crate::bus::Width;

/// The registers of one device: a window of its own, addressed from its start.
pub trait RegisterBus {
    /// Reads `width` bytes at `offset`, zero-extended. A device that is gone reads all ones.
    fn load(&self, offset: u64, width: Width) -> u64;
    /// Writes the low `width` bytes of `value` at `offset`, in one access.
    fn store(&self, offset: u64, width: Width, value: u64);

    /// Reads a register.
    fn read<T: RegisterValue, A: Readable>(&self, reg: Reg<T, A>) -> T
    where
        Self: Sized,
    {
        T::from_raw(self.load(reg.offset, T::WIDTH))
    }

    /// Writes a register.
    fn write<T: RegisterValue, A: Writable>(&self, reg: Reg<T, A>, value: T)
    where
        Self: Sized,
    {
        self.store(reg.offset, T::WIDTH, value.raw());
    }

    /// Clears the bits that are set in `bits`, and no others.
    fn clear<T: RegisterValue>(&self, reg: Reg<T, ClearedByOnes>, bits: T)
    where
        Self: Sized,
    {
        self.store(reg.offset, T::WIDTH, bits.raw());
    }
}

/// What a register holds.
pub trait RegisterValue: Copy {
    /// The width of its accesses.
    const WIDTH: Width;
    /// From the bits on the bus.
    fn from_raw(raw: u64) -> Self;
    /// To the bits on the bus.
    fn raw(self) -> u64;
}

impl RegisterValue for u32 {
    const WIDTH: Width = Width::W4;
    fn from_raw(raw: u64) -> Self {
        raw as Self
    }
    fn raw(self) -> u64 {
        self.into()
    }
}

impl RegisterValue for u64 {
    const WIDTH: Width = Width::W8;
    fn from_raw(raw: u64) -> Self {
        raw
    }
    fn raw(self) -> u64 {
        self
    }
}

/// May only be read.
#[derive(Clone, Copy, Debug)]
pub enum ReadOnly {}
/// May only be written.
#[derive(Clone, Copy, Debug)]
pub enum WriteOnly {}
/// May be read and written.
#[derive(Clone, Copy, Debug)]
pub enum ReadWrite {}
/// May be read; a one that is written clears its bit.
#[derive(Clone, Copy, Debug)]
pub enum ClearedByOnes {}

/// Registers that may be read.
pub trait Readable {}
impl Readable for ReadOnly {}
impl Readable for ReadWrite {}
impl Readable for ClearedByOnes {}

/// Registers that may be written.
pub trait Writable {}
impl Writable for WriteOnly {}
impl Writable for ReadWrite {}

/// A register at an offset, holding a `T`, to be accessed as `A` says.
#[derive(Debug)]
pub struct Reg<T, A> {
    offset: u64,
    holds: PhantomData<(T, A)>,
}

impl<T, A> Clone for Reg<T, A> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T, A> Copy for Reg<T, A> {}

impl<T, A> Reg<T, A> {
    /// The register at `offset`.
    #[must_use]
    pub const fn at(offset: u64) -> Self {
        Self { offset, holds: PhantomData }
    }

    /// Its offset.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.offset
    }
}
