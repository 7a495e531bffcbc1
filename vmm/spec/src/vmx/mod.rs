//! VT-x as bits: VMCS fields, controls, exit information and capability registers (SDM vol. 3, chapters 25 to 28 and
//! appendices A to C, numbered as in revision 080).

pub mod capability;
pub mod control;
pub mod exit;
pub mod field;

pub use field::{Field, Field16, Field32, Field64, Natural};
