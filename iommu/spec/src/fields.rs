//! A declarative list of fields makes a type: a getter and a setter for each field, from one statement of its place.

/// A structure of 64-bit words. `flag, with_flag = word[bit]: "what it is"`; a number says its type and `[high:low]`; an
/// address stands in its own place in the word.
macro_rules! words {
    (
        $(#[$doc:meta])* $name:ident[$count:literal] {
            $(flags { $($flag:ident, $with_flag:ident = $fw:literal[$bit:literal]: $fdoc:literal;)* })?
            $(numbers { $($num:ident, $with_num:ident: $ty:ty = $nw:literal[$nh:literal:$nl:literal]: $ndoc:literal;)* })?
            $(addresses { $($addr:ident, $with_addr:ident = $aw:literal[$ah:literal:$al:literal]: $adoc:literal;)* })?
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[repr(transparent)]
        pub struct $name(pub [u64; $count]);

        impl $name {
            $($(
                #[doc = $fdoc]
                #[must_use]
                pub const fn $flag(self) -> bool {
                    self.0[$fw] >> $bit & 1 != 0
                }
                #[doc = concat!("Sets [`Self::", stringify!($flag), "`].")]
                #[must_use]
                pub const fn $with_flag(mut self, value: bool) -> Self {
                    self.0[$fw] = self.0[$fw] & !(1 << $bit) | (value as u64) << $bit;
                    self
                }
            )*)?
            $($(
                #[doc = $ndoc]
                #[must_use]
                pub const fn $num(self) -> $ty {
                    (self.0[$nw] >> $nl & (u64::MAX >> (63 - ($nh - $nl)))) as $ty
                }
                #[doc = concat!("Sets [`Self::", stringify!($num), "`].")]
                #[must_use]
                pub const fn $with_num(mut self, value: $ty) -> Self {
                    let mask = u64::MAX >> (63 - ($nh - $nl));
                    self.0[$nw] = self.0[$nw] & !(mask << $nl) | (value as u64 & mask) << $nl;
                    self
                }
            )*)?
            $($(
                #[doc = $adoc]
                #[must_use]
                pub const fn $addr(self) -> hw::Hpa {
                    hw::Hpa::new(self.0[$aw] & u64::MAX << $al & u64::MAX >> (63 - $ah))
                }
                #[doc = concat!("Sets [`Self::", stringify!($addr), "`].")]
                #[must_use]
                pub const fn $with_addr(mut self, value: hw::Hpa) -> Self {
                    let mask = u64::MAX << $al & u64::MAX >> (63 - $ah);
                    self.0[$aw] = self.0[$aw] & !mask | value.raw() & mask;
                    self
                }
            )*)?
        }
    };
}

/// A register of one word that is made of [`words!`]: how it is put on the bus.
macro_rules! on_bus {
    ($($name:ident: $width:ident),*) => {$(
        impl hw::RegisterValue for $name {
            const WIDTH: hw::Width = hw::Width::$width;
            fn from_raw(raw: u64) -> Self {
                Self([raw])
            }
            fn raw(self) -> u64 {
                self.0[0]
            }
        }
    )*};
}
