//! Bytes in a ring.

/// The last `N` bytes put in, or as many as were not taken yet.
#[derive(Debug)]
pub struct Ring<const N: usize> {
    bytes: [u8; N],
    /// Next to take, and how many there are.
    first: usize,
    len: usize,
}

impl<const N: usize> Default for Ring<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Ring<N> {
    /// An empty ring.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: [0; N], first: 0, len: 0 }
    }

    /// Puts a byte in; the oldest goes where there is no room.
    pub fn push(&mut self, byte: u8) {
        self.bytes[(self.first + self.len) % N] = byte;
        if self.len < N {
            self.len += 1;
        } else {
            self.first = (self.first + 1) % N;
        }
    }

    /// Puts a byte in if there is room.
    pub fn try_push(&mut self, byte: u8) -> bool {
        let room = self.len < N;
        if room {
            self.push(byte);
        }
        room
    }

    /// Whether it holds nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What it holds, the oldest first.
    pub fn bytes(&self) -> impl Iterator<Item = u8> {
        (0..self.len).map(|at| self.bytes[(self.first + at) % N])
    }

    /// Takes the oldest byte.
    pub fn pop(&mut self) -> Option<u8> {
        if self.len == 0 {
            return None;
        }
        let byte = self.bytes[self.first];
        self.first = (self.first + 1) % N;
        self.len -= 1;
        Some(byte)
    }
}
