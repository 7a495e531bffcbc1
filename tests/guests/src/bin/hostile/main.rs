//! A guest that does what no guest should. The command line says what: each kind is a virtual machine of its own, beside one
//! that must not notice. What comes of it is the architectural exception, nothing, or the end of this one machine; xtask's
//! suite knows which.

#![no_std]
#![no_main]

mod ends;
mod random;
mod sweep;

use guests::println;

guests::guest!("hostile", run);

fn run() {
    let line = core::str::from_utf8(guests::command_line()).unwrap_or_default();
    let mut words = line.split_ascii_whitespace();
    let kind = words.next().unwrap_or_default();
    let mut number = || words.next().and_then(|word| word.parse().ok());
    match kind {
        "triple-fault" => ends::triple_fault(),
        "no-code" => ends::no_code(),
        "no-tables" => ends::no_tables(),
        "no-instruction" => ends::no_instruction(),
        "halt" => ends::halt(),
        "reset" => ends::reset(),
        "msrs" => sweep::msrs(),
        "ports" => sweep::ports(),
        "pci" => sweep::pci(),
        "hypercalls" => sweep::hypercalls(),
        "holes" => sweep::holes(),
        "memory" => sweep::memory(),
        "random" => {
            let (first, seeds) = (number().unwrap_or(1), number().unwrap_or(1000));
            random::run(first, seeds, number().unwrap_or(1000));
        }
        other => println!("FAIL unknown-kind {other}"),
    }
}

/// Xorshift: the same numbers from the same seed on every bed.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }
}
