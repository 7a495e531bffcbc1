//! (being written)
pub(crate) fn power_off() {}
