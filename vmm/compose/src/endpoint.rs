//! [`VdevEndpoint`]: a VDEV in its VM's PCI.

use alloc::sync::Arc;

use hw::{Gpa, Width};
use spin::Mutex;
use vmm::pci::{Endpoint, Shape, Slot, Source};

use crate::vdev::Vdev;

/// What a VM holds of a VDEV. Dropped with the VM's devices, the VDEV goes with it, as if by force.
#[derive(Debug)]
pub struct VdevEndpoint {
    shape: Shape,
    vdev: Arc<Mutex<Vdev>>,
}

impl VdevEndpoint {
    pub(crate) fn new(vdev: Arc<Mutex<Vdev>>) -> Self {
        let shape = vdev.lock().shape().clone();
        Self { shape, vdev }
    }
}

impl Drop for VdevEndpoint {
    fn drop(&mut self) {
        self.vdev.lock().leave(true);
    }
}

impl Endpoint for VdevEndpoint {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    // All of configuration space that there is, is emulated.
    fn config_read(&mut self, _: u16, width: Width) -> u32 {
        width.mask() as u32
    }

    fn config_write(&mut self, _: u16, _: Width, _: u32) {}

    fn place(&mut self, bar: u8, at: Option<Gpa>) {
        self.vdev.lock().place(bar, at);
    }

    fn bar_read(&mut self, bar: u8, offset: u64, width: Width) -> u64 {
        self.vdev.lock().read(bar, offset, width)
    }

    fn bar_write(&mut self, bar: u8, offset: u64, width: Width, value: u64) {
        self.vdev.lock().write(bar, offset, width, value);
    }

    fn bar_write_line(&mut self, bar: u8, offset: u64, line: &[u8; 64]) {
        self.vdev.lock().write_line(bar, offset, line);
    }

    fn interrupt(&mut self, source: Source, state: Slot) {
        if let Source::Msix(index) = source {
            self.vdev.lock().interrupt(index, state);
        }
    }

    fn pending(&self, source: Source) -> bool {
        matches!(source, Source::Msix(index) if self.vdev.lock().is_pending(index))
    }

    fn master(&mut self, on: bool) {
        self.vdev.lock().master(on);
    }

    fn reset(&mut self) {
        self.vdev.lock().reset();
    }

    fn is_ready(&mut self) -> bool {
        self.vdev.lock().is_ready()
    }
}
