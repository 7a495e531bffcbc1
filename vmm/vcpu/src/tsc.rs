//! How fast a guest's time-stamp counter runs.

/// What the host's time-stamp counter is multiplied by to give the guest's, before the offset is added: 32 bits of fraction,
/// as SVM has it (APM vol. 2, 15.30.5). The CPU and Kerf reckon alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TscRatio(u64);

impl TscRatio {
    /// As fast as the host's.
    pub const ONE: Self = Self(1 << 32);

    /// For a guest's counter of `khz` beside a host's of `host_hz`; `None` where the one is 256 times the other or more, either
    /// way.
    #[must_use]
    pub fn new(khz: u32, host_hz: u64) -> Option<Self> {
        let ratio = ((u128::from(khz) * 1000) << 32).checked_div(host_hz.into())?;
        u64::try_from(ratio).ok().filter(|ratio| (1 << 24..1 << 40).contains(ratio)).map(Self)
    }

    /// The multiplier itself.
    pub(crate) const fn raw(self) -> u64 {
        self.0
    }

    /// The host's counter, scaled.
    #[inline]
    #[must_use]
    pub const fn scale(self, host: u64) -> u64 {
        if self.0 == Self::ONE.0 {
            return host;
        }
        ((host as u128 * self.0 as u128) >> 32) as u64
    }

    /// The first moment of the host's counter at which the scaled one has come to `scaled`.
    #[inline]
    #[must_use]
    pub fn unscale(self, scaled: u64) -> u64 {
        if self == Self::ONE {
            return scaled;
        }
        let host = (u128::from(scaled) << 32).div_ceil(self.0.into());
        u64::try_from(host).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_never_early_and_at_most_a_tick_late() {
        for (khz, host_hz) in [(2_500_000, 1_000_000_000), (100_000, 2_112_004_000), (3, 5_000)] {
            let ratio = TscRatio::new(khz, host_hz).expect("in range");
            for scaled in [0, 1, 12_345, 1 << 40, 0x0123_4567_89ab_cdef] {
                let host = ratio.unscale(scaled);
                assert!(ratio.scale(host) >= scaled, "{khz} {scaled}");
                assert!(host == 0 || ratio.scale(host - 1) < scaled, "{khz} {scaled}");
            }
        }
        let half = TscRatio::new(500_000, 1_000_000_000).expect("in range");
        assert_eq!((half.scale(1001), half.unscale(u64::MAX)), (500, u64::MAX));
    }

    #[test]
    fn only_what_both_vendors_can_is_a_ratio() {
        assert_eq!(TscRatio::new(1_000_000, 1_000_000_000), Some(TscRatio::ONE));
        assert_eq!(TscRatio::new(256, 1_000), None);
        assert_eq!(TscRatio::new(1, 1_000_000_000), None);
        assert_eq!(TscRatio::new(1, 0), None);
    }
}
