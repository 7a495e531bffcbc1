//! Fields of the VMCS that one exit may ask for more than once: each is read at most once.

use core::cell::Cell;

/// What was read or written since the last exit.
#[derive(Clone, Debug, Default)]
pub(super) struct Cache {
    /// Which of the values hold; one store forgets them all.
    valid: Cell<u8>,
    values: [Cell<u64>; 3],
}

macro_rules! cached {
    ($($index:literal: $field:ident, $set:ident;)*) => {
        $(
            #[inline]
            pub(super) fn $field(&self) -> Option<u64> {
                (self.valid.get() & 1 << $index != 0).then(|| self.values[$index].get())
            }

            #[inline]
            pub(super) fn $set(&self, value: u64) {
                self.values[$index].set(value);
                self.valid.set(self.valid.get() | 1 << $index);
            }
        )*
    };
}

impl Cache {
    /// Forgets all: the guest has run.
    #[inline]
    pub(super) fn clear(&self) {
        self.valid.set(0);
    }

    cached! {
        0: rip, set_rip;
        1: rflags, set_rflags;
        2: interruptibility, set_interruptibility;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_the_guest_makes_every_value_unknown() {
        let cache = Cache::default();
        assert_eq!(cache.rip(), None);
        cache.set_rip(7);
        cache.set_rflags(2);
        assert_eq!(
            (cache.rip(), cache.rflags(), cache.interruptibility()),
            (Some(7), Some(2), None)
        );
        cache.clear();
        assert_eq!((cache.rip(), cache.rflags()), (None, None));
    }
}
