//! Hosting functions as bits. Layout only, shared by the drivers and the models; since both would agree on a mistake here,
//! each structure is pinned by bytes from a second source (`tests`).
//!
//! [`dsa`] is the Intel Data Streaming Accelerator.
//!
//! Every structure is its words, so a value that the specification does not define is representable and survives.

#![no_std]
#![forbid(unsafe_code)]

pub mod dsa;
