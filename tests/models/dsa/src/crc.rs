//! CRC (appendix A): 32 bits with the polynomial of iSCSI, in the bit order of its tables.

/// 0x11edc6f41, reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// A CRC that is computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crc {
    remainder: u32,
    /// Seed and result are neither inverted nor reflected.
    raw: bool,
    /// Bytes are not reflected.
    unreflected: bool,
    bytes: u64,
}

impl Crc {
    pub(crate) fn new(seed: u32, raw: bool, unreflected: bool) -> Self {
        let remainder = if raw { seed.reverse_bits() } else { !seed };
        Self { remainder, raw, unreflected, bytes: 0 }
    }

    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        for byte in bytes {
            let byte = if self.unreflected { byte.reverse_bits() } else { *byte };
            self.remainder ^= u32::from(byte);
            for _ in 0..8 {
                let low = self.remainder & 1;
                self.remainder = (self.remainder >> 1) ^ (POLYNOMIAL * low);
            }
        }
    }

    /// Ends the data, which is padded with zeros to a multiple of the CRC's size.
    pub(crate) fn pad(&mut self) {
        let missing = self.bytes.next_multiple_of(4) - self.bytes;
        self.take(&[0; 3][..missing as usize]);
    }

    pub(crate) fn value(&self) -> u32 {
        if self.raw { self.remainder.reverse_bits() } else { !self.remainder }
    }
}
