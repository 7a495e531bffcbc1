//! Loading a guest's kernel into its memory.

mod layout;

pub mod linux;

pub use layout::{GuestLayout, RamRange};
