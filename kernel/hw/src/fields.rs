//! A declarative list of fields makes a type: a getter and a setter for each field, from one statement of its place.

/// A structure of 64-bit words. Each field says its getter, its setter, its type and its place: `word[bit]` or
/// `word[high:low]`. A `bool` is a bit; an `Hpa` is an address that stands in its own place of the word; anything else is a
/// number.
#[macro_export]
macro_rules! words {
    ($(#[$doc:meta])* $name:ident[$count:literal] {
        $($get:ident, $with:ident: $ty:ident = $word:literal[$high:literal $(: $low:literal)?]: $fdoc:literal;)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[repr(transparent)]
        pub struct $name(pub [u64; $count]);

        impl $name {
            $(
                #[doc = $fdoc]
                #[must_use]
                pub const fn $get(self) -> $crate::words!(@type $ty) {
                    $crate::words!(@get $ty, self.0[$word], $high $(, $low)?)
                }
                #[doc = concat!("Sets [`Self::", stringify!($get), "`].")]
                #[must_use]
                pub const fn $with(mut self, value: $crate::words!(@type $ty)) -> Self {
                    self.0[$word] = $crate::words!(@with $ty, self.0[$word], value, $high $(, $low)?);
                    self
                }
            )*
        }
    };
    (@type Hpa) => { $crate::Hpa };
    (@type $ty:ident) => { $ty };
    (@get bool, $word:expr, $bit:literal) => { $word >> $bit & 1 != 0 };
    (@get Hpa, $word:expr, $high:literal, $low:literal) => {
        $crate::Hpa::new($word & u64::MAX << $low & u64::MAX >> (63 - $high))
    };
    (@get $ty:ident, $word:expr, $high:literal, $low:literal) => {
        ($word >> $low & u64::MAX >> (63 - ($high - $low))) as $ty
    };
    (@with bool, $word:expr, $value:expr, $bit:literal) => {
        $word & !(1 << $bit) | ($value as u64) << $bit
    };
    (@with Hpa, $word:expr, $value:expr, $high:literal, $low:literal) => {{
        let mask = u64::MAX << $low & u64::MAX >> (63 - $high);
        $word & !mask | $value.raw() & mask
    }};
    (@with $ty:ident, $word:expr, $value:expr, $high:literal, $low:literal) => {{
        let mask = u64::MAX >> (63 - ($high - $low));
        $word & !(mask << $low) | ($value as u64 & mask) << $low
    }};
}

/// Registers of one word that are made of [`words!`](crate::words): how they are put on the bus.
#[macro_export]
macro_rules! on_bus {
    ($($name:ident: $width:ident),*) => {$(
        impl $crate::RegisterValue for $name {
            const WIDTH: $crate::Width = $crate::Width::$width;
            fn from_raw(raw: u64) -> Self {
                Self([raw])
            }
            fn raw(self) -> u64 {
                self.0[0]
            }
        }
    )*};
}
