//! Guest runtime (being written).
#![no_std]
