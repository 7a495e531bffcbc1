//! Physical memory: the firmware's map made sane, and the frame allocator fed by it.

#![no_std]
#![forbid(unsafe_code)]
