//! The framebuffer.

use consoles::Pixels;
use hw::Hva;

/// A framebuffer that the kernel has mapped, for good. Made by [`crate::mem::map_screen`].
#[derive(Debug)]
pub(crate) struct Framebuffer {
    base: Hva,
    width: u32,
    height: u32,
    stride: u32,
}

impl Framebuffer {
    /// The lines of 32-bit pixels from `base` on, each `stride` pixels after the one before.
    ///
    /// # Safety
    /// `height` times `stride` pixels are mapped for writing as long as the kernel runs, and are no memory of Rust's.
    pub(crate) const unsafe fn new(base: Hva, width: u32, height: u32, stride: u32) -> Self {
        Self { base, width, height, stride }
    }
}

impl Pixels for Framebuffer {
    fn draw(&mut self, x: u32, y: u32, pixels: &[u32]) {
        if y >= self.height || x >= self.width {
            return;
        }
        let room = (self.width.min(self.stride) - x.min(self.stride)) as usize;
        let first = u64::from(y) * u64::from(self.stride) + u64::from(x);
        let mut to = self.base.wrapping_add(4 * first).raw() as *mut u32;
        for &pixel in pixels.iter().take(room) {
            // SAFETY: within the line, of the lines there are, which are mapped as `new` was promised.
            unsafe {
                to.write_volatile(pixel);
                to = to.add(1);
            }
        }
    }
}
