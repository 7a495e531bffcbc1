//! A ring of bytes.

/// At most `N` bytes, first in, first out.
#[derive(Clone, Debug)]
pub(super) struct Fifo<const N: usize> {
    bytes: [u8; N],
    first: usize,
    len: usize,
}

impl<const N: usize> Fifo<N> {
    pub(super) const fn new() -> Self {
        Self { bytes: [0; N], first: 0, len: 0 }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) const fn free(&self) -> usize {
        N - self.len
    }

    /// Adds a byte; says whether there was room.
    pub(super) fn push(&mut self, byte: u8) -> bool {
        if self.len == N {
            return false;
        }
        if let Some(slot) = self.bytes.get_mut((self.first + self.len) % N) {
            *slot = byte;
            self.len += 1;
        }
        true
    }

    pub(super) fn pop(&mut self) -> Option<u8> {
        if self.len == 0 {
            return None;
        }
        let byte = self.bytes.get(self.first).copied();
        self.first = (self.first + 1) % N;
        self.len -= 1;
        byte
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }
}
