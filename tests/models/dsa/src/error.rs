//! The software error register (9.2.15).

use device_spec::dsa::registers::{SWERROR_CLEAR, SoftwareError, cause};

use crate::{Bus, Device};

impl Device {
    /// Records an error, or that there was one more.
    pub(crate) fn software_error(&mut self, error: SoftwareError, bus: &mut impl Bus) {
        if self.error.valid() {
            self.error = self.error.with_overflow(true);
            return;
        }
        // A second error may have been forgotten before the first one was.
        self.error = error.with_valid(true).with_overflow(self.error.overflow());
        if self.control.software_error() {
            self.interrupt(cause::SOFTWARE_ERROR, bus);
        }
    }

    pub(crate) fn clear_error(&mut self, bits: u64) {
        self.error.0[0] &= !(bits & SWERROR_CLEAR);
    }
}
