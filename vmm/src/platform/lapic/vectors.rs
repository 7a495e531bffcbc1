//! A set of interrupt vectors: ISR, TMR and IRR.

/// 256 bits, one for each vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct VectorSet(pub(crate) [u64; 4]);

impl VectorSet {
    /// Vectors below 16, which no interrupt may have.
    const ILLEGAL: u64 = 0xffff;

    fn zip(self, other: Self, operation: impl Fn(u64, u64) -> u64) -> Self {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        Self([operation(a, e), operation(b, f), operation(c, g), operation(d, h)])
    }

    /// What is in either.
    pub(super) fn union(self, other: Self) -> Self {
        self.zip(other, |one, other| one | other)
    }

    /// What is not in `other`.
    pub(super) fn without(self, other: Self) -> Self {
        self.zip(other, |one, other| one & !other)
    }

    /// Whether nothing is in it.
    #[inline(always)]
    pub(super) const fn is_empty(self) -> bool {
        let [a, b, c, d] = self.0;
        a | b | c | d == 0
    }

    /// Whether a vector is in it that no interrupt may have.
    pub(super) const fn has_illegal(self) -> bool {
        let [low, ..] = self.0;
        low & Self::ILLEGAL != 0
    }

    /// The others.
    pub(super) const fn legal(self) -> Self {
        let [low, middle, upper, top] = self.0;
        Self([low & !Self::ILLEGAL, middle, upper, top])
    }

    /// Adds `vector`.
    #[inline(always)]
    pub(super) fn insert(&mut self, vector: u8) {
        if let Some(word) = self.0.get_mut(usize::from(vector >> 6)) {
            *word |= 1 << (vector & 63);
        }
    }

    /// Removes `vector`; says whether it was there.
    #[inline(always)]
    pub(super) fn remove(&mut self, vector: u8) -> bool {
        let was = self.contains(vector);
        if let Some(word) = self.0.get_mut(usize::from(vector >> 6)) {
            *word &= !(1 << (vector & 63));
        }
        was
    }

    /// Whether `vector` is in the set.
    #[inline(always)]
    pub(super) fn contains(&self, vector: u8) -> bool {
        self.0.get(usize::from(vector >> 6)).is_some_and(|word| word >> (vector & 63) & 1 != 0)
    }

    /// The highest vector.
    #[inline(always)]
    pub(super) fn highest(&self) -> Option<u8> {
        let [low, middle, upper, top] = self.0;
        let (word, base) = if top != 0 {
            (top, 192)
        } else if upper != 0 {
            (upper, 128)
        } else if middle != 0 {
            (middle, 64)
        } else {
            (low, 0)
        };
        word.checked_ilog2().map(|bit| base + bit as u8)
    }

    /// Register `index` (0 to 7) of the eight 32-bit registers that show the set.
    pub(super) fn register(&self, index: u16) -> u32 {
        let word = self.0.get(usize::from(index >> 1)).copied().unwrap_or(0);
        (word >> (32 * (index & 1))) as u32
    }
}
