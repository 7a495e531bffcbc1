//! What the tests across crates stand on: guest memory in a vector, a host that only counts, and Linux kernels of a few
//! bytes. The tests are in `tests/`; each walks one path of the architecture from end to end.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use hw::{CpuidBus, CpuidResult, Gpa};
use vmm::{GuestMemory, Host, NoMemory};

/// Guest memory from address 0 on.
pub struct VectorMemory(RefCell<Vec<u8>>);

impl VectorMemory {
    /// `bytes` bytes of zeroes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self(RefCell::new(vec![0; bytes]))
    }

    /// Copies `N` bytes out.
    ///
    /// # Panics
    /// Where they are not all inside the memory.
    #[must_use]
    pub fn get<const N: usize>(&self, gpa: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.read(Gpa::new(gpa), &mut bytes).expect("inside the memory");
        bytes
    }
}

fn range(gpa: Gpa, len: usize) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(gpa.raw()).ok()?;
    Some(start..start.checked_add(len)?)
}

impl GuestMemory for VectorMemory {
    fn read(&self, gpa: Gpa, into: &mut [u8]) -> Result<(), NoMemory> {
        let bytes = self.0.borrow();
        let found = range(gpa, into.len()).and_then(|range| bytes.get(range));
        into.copy_from_slice(found.ok_or(NoMemory(gpa))?);
        Ok(())
    }

    fn write(&self, gpa: Gpa, from: &[u8]) -> Result<(), NoMemory> {
        let mut bytes = self.0.borrow_mut();
        let found = range(gpa, from.len()).and_then(|range| bytes.get_mut(range));
        found.ok_or(NoMemory(gpa))?.copy_from_slice(from);
        Ok(())
    }
}

/// A host whose time stands still until a test moves it.
#[derive(Debug, Default)]
pub struct StillHost {
    /// Its time-stamp counter.
    pub tsc: Cell<u64>,
    /// What the guest's console showed.
    pub shown: Vec<u8>,
    /// What is typed at it.
    pub typed: VecDeque<u8>,
    /// The virtual CPUs that were kicked, in order.
    pub kicked: Vec<u32>,
}

impl Host for StillHost {
    fn tsc(&self) -> u64 {
        self.tsc.get()
    }

    fn unix_time(&self) -> u64 {
        1_700_000_000
    }

    fn console_write(&mut self, bytes: &[u8]) {
        self.shown.extend_from_slice(bytes);
    }

    fn console_read(&mut self) -> Option<u8> {
        self.typed.pop_front()
    }

    fn kick(&mut self, vcpu: u32) {
        self.kicked.push(vcpu);
    }
}

/// A host CPU that says nothing about itself.
#[derive(Clone, Copy, Debug)]
pub struct BlankCpu;

impl CpuidBus for BlankCpu {
    fn cpuid(&self, _: u32, _: u32) -> CpuidResult {
        CpuidResult::default()
    }
}

/// A bzImage that starts, at its 64-bit entry, with `code`. It wants to be at [`KERNEL`].
#[must_use]
pub fn bzimage(code: &[u8]) -> Vec<u8> {
    const SETUP_SECTORS: usize = 1;
    const ENTRY: usize = 0x200;
    let mut kernel = vec![0; ENTRY];
    kernel.extend_from_slice(code);
    kernel.resize(kernel.len().next_multiple_of(16), 0);
    let mut file = vec![0; (SETUP_SECTORS + 1) * 512];
    let mut put = |offset: usize, bytes: &[u8]| {
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(0x1f1, &[SETUP_SECTORS as u8]);
    put(0x1f4, &(kernel.len() as u32 / 16).to_le_bytes());
    put(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(0x202, b"HdrS\x0f\x02");
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(0x230, &0x20_0000u32.to_le_bytes());
    put(0x234, &[1, 21, 3, 0]);
    put(0x238, &255u32.to_le_bytes());
    put(0x258, &KERNEL.to_le_bytes());
    put(0x260, &0x1000u32.to_le_bytes());
    file.extend_from_slice(&kernel);
    file
}

/// Where [`bzimage`]'s kernels want to be.
pub const KERNEL: u64 = 0x20_0000;
