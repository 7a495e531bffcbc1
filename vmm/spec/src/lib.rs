//! x86 as bits: control registers, MSRs, CPUID, segments, VMCS fields, VMCB, APIC registers. Layout only, each with
//! its section of the manual; nothing here acts.
//!
//! "SDM" is Intel's Software Developer's Manual, "APM" AMD's Architecture Programmer's Manual.

#![no_std]
#![forbid(unsafe_code)]

pub mod apic;
pub mod cpu;
pub mod cpuid;
pub mod mce;
pub mod msr;
pub mod segment;
pub mod svm;
pub mod topology;
pub mod vmx;
