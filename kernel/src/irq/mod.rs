//! (being written)
pub(crate) fn dispatch(_v: u8) {}
