//! The real-time clock and its CMOS memory: an MC146818 with the century byte that PCs added. It has no alarm and raises
//! no interrupt.

use hw::{Port, Width};

use crate::platform::PortWindow;

/// Its ports: index and data.
pub const PORTS: PortWindow = PortWindow { first: Port(0x70), count: 2 };
/// Register of the century; the FADT names it.
pub const CENTURY: u8 = 0x32;

const SECONDS: u8 = 0;
const MINUTES: u8 = 2;
const HOURS: u8 = 4;
const WEEKDAY: u8 = 6;
const DAY: u8 = 7;
const MONTH: u8 = 8;
const YEAR: u8 = 9;
const STATUS_A: u8 = 0xa;
const STATUS_B: u8 = 0xb;
const STATUS_C: u8 = 0xc;
const STATUS_D: u8 = 0xd;

/// Status A: 32.768 kHz time base, 1024 Hz rate; update-in-progress (bit 7) is never seen, as reads are atomic.
const A_RESET: u8 = 0x26;
/// Status B: the time stands still while it is set.
const B_SET: u8 = 1 << 7;
/// Status B: binary, as opposed to BCD.
const B_BINARY: u8 = 1 << 2;
/// Status B: 24 hours, as opposed to 12.
const B_24_HOURS: u8 = 1 << 1;
/// Status D: RAM and time are valid.
const D_VALID: u8 = 1 << 7;
/// The hours register in 12-hour mode: afternoon.
const PM: u8 = 1 << 7;

const SECONDS_PER_DAY: i64 = 86_400;

/// A broken-down time, fields as numbers. While being set, the fields need not make a date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Civil {
    year: i64,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

impl Civil {
    /// The proleptic Gregorian date of `unix` seconds since 1970, by eras of 400 years that start on 1 March.
    fn from_unix(unix: i64) -> Self {
        let days = unix.div_euclid(SECONDS_PER_DAY) + 719_468;
        let of_day = unix.rem_euclid(SECONDS_PER_DAY);
        let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Self {
            year,
            month: month as u8,
            day: day as u8,
            hour: (of_day / 3600) as u8,
            minute: (of_day / 60 % 60) as u8,
            second: (of_day % 60) as u8,
        }
    }

    /// Seconds since 1970. Fields past their range carry over, as a clock that ticks on from them would.
    fn to_unix(self) -> i64 {
        let month = i64::from(self.month).clamp(1, 12);
        let year = self.year - i64::from(month <= 2);
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let shifted_month = (month + 9) % 12;
        let day_of_year = (153 * shifted_month + 2) / 5 + i64::from(self.day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * 146_097 + day_of_era - 719_468;
        let of_day =
            i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second);
        days * SECONDS_PER_DAY + of_day
    }

    /// Sunday is 1.
    fn weekday(self) -> u8 {
        let days = self.to_unix().div_euclid(SECONDS_PER_DAY);
        ((days + 4).rem_euclid(7) + 1) as u8
    }
}

/// A real-time clock.
#[derive(Clone, Debug)]
pub struct Rtc {
    index: u8,
    status_b: u8,
    /// Added to the host's time, in seconds: what the guest has set.
    offset: i64,
    /// The time that stands still while [`B_SET`] is set.
    frozen: Option<Civil>,
    ram: [u8; 128],
}

impl Default for Rtc {
    fn default() -> Self {
        Self::new()
    }
}

impl Rtc {
    /// A clock that shows the host's time, UTC, in BCD and 24 hours.
    #[must_use]
    pub const fn new() -> Self {
        Self { index: 0, status_b: B_24_HOURS, offset: 0, frozen: None, ram: [0; 128] }
    }

    /// Reads a port; `unix_time` in seconds since 1970.
    pub fn read(&mut self, offset: u64, width: Width, unix_time: u64) -> u64 {
        if offset == 1 { self.register(unix_time).into() } else { width.mask() }
    }

    /// Writes a port. Bit 7 of the index masks NMIs on a PC; there are none.
    pub fn write(&mut self, offset: u64, _width: Width, value: u64, unix_time: u64) {
        match offset {
            0 => self.index = value as u8 & 0x7f,
            1 => self.set_register(value as u8, unix_time),
            _ => {}
        }
    }

    fn civil(&self, unix_time: u64) -> Civil {
        self.frozen.unwrap_or_else(|| {
            // Past the year 140,000 the clock stands still.
            let unix = unix_time.min(1 << 42) as i64;
            Civil::from_unix(unix.saturating_add(self.offset))
        })
    }

    fn register(&self, unix_time: u64) -> u8 {
        let civil = self.civil(unix_time);
        match self.index {
            SECONDS => self.encode(civil.second),
            MINUTES => self.encode(civil.minute),
            HOURS => self.encode_hour(civil.hour),
            WEEKDAY => self.encode(civil.weekday()),
            DAY => self.encode(civil.day),
            MONTH => self.encode(civil.month),
            YEAR => self.encode(civil.year.rem_euclid(100) as u8),
            CENTURY => self.encode(civil.year.div_euclid(100).rem_euclid(100) as u8),
            STATUS_A => A_RESET,
            STATUS_B => self.status_b,
            STATUS_C => 0,
            STATUS_D => D_VALID,
            index => self.ram.get(usize::from(index)).copied().unwrap_or(0xff),
        }
    }

    fn set_register(&mut self, value: u8, unix_time: u64) {
        match self.index {
            SECONDS | MINUTES | HOURS | DAY | MONTH | YEAR | CENTURY => {
                let mut civil = self.civil(unix_time);
                self.set_field(&mut civil, value);
                self.set_time(civil, unix_time);
            }
            STATUS_B => {
                let civil = self.civil(unix_time);
                self.status_b = value;
                self.set_time(civil, unix_time);
            }
            // The day of the week follows from the date, and the other status registers are read-only.
            WEEKDAY | STATUS_A | STATUS_C | STATUS_D => {}
            index => {
                if let Some(byte) = self.ram.get_mut(usize::from(index)) {
                    *byte = value;
                }
            }
        }
    }

    /// Shows `civil` from now on: standing still while [`B_SET`] is set, else running.
    fn set_time(&mut self, civil: Civil, unix_time: u64) {
        if self.status_b & B_SET != 0 {
            self.frozen = Some(civil);
        } else {
            self.frozen = None;
            self.offset = civil.to_unix() - unix_time.min(1 << 42) as i64;
        }
    }

    fn set_field(&self, civil: &mut Civil, value: u8) {
        let number = self.decode(value);
        let wide = i64::from(number);
        match self.index {
            SECONDS => civil.second = number,
            MINUTES => civil.minute = number,
            HOURS => civil.hour = self.decode_hour(value),
            DAY => civil.day = number,
            MONTH => civil.month = number,
            YEAR => civil.year = civil.year.div_euclid(100) * 100 + wide,
            _ => civil.year = wide * 100 + civil.year.rem_euclid(100),
        }
    }

    fn encode(&self, number: u8) -> u8 {
        if self.status_b & B_BINARY != 0 { number } else { ((number / 10) << 4) | (number % 10) }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.status_b & B_BINARY != 0 { value } else { (value >> 4) * 10 + (value & 15) }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.status_b & B_24_HOURS != 0 {
            return self.encode(hour);
        }
        let afternoon = if hour >= 12 { PM } else { 0 };
        let hour = if matches!(hour, 0 | 12) { 12 } else { hour % 12 };
        self.encode(hour) | afternoon
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.status_b & B_24_HOURS != 0 {
            return self.decode(value);
        }
        let hour = self.decode(value & !PM) % 12;
        if value & PM != 0 { hour + 12 } else { hour }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2024-02-29 23:05:09, a Thursday.
    const LEAP_DAY: u64 = 1_709_247_909;

    fn look(rtc: &mut Rtc, index: u8, unix_time: u64) -> u8 {
        rtc.write(0, Width::W1, index.into(), unix_time);
        rtc.read(1, Width::W1, unix_time) as u8
    }

    fn put(rtc: &mut Rtc, index: u8, value: u8, unix_time: u64) {
        rtc.write(0, Width::W1, index.into(), unix_time);
        rtc.write(1, Width::W1, value.into(), unix_time);
    }

    fn date(rtc: &mut Rtc, unix_time: u64) -> [u8; 8] {
        [CENTURY, YEAR, MONTH, DAY, WEEKDAY, HOURS, MINUTES, SECONDS]
            .map(|index| look(rtc, index, unix_time))
    }

    #[test]
    fn it_shows_the_hosts_time_in_bcd() {
        let mut rtc = Rtc::new();
        let shown = date(&mut rtc, LEAP_DAY);
        assert_eq!(shown, [0x20, 0x24, 0x02, 0x29, 5, 0x23, 0x05, 0x09]);
        assert_eq!(look(&mut rtc, STATUS_A, LEAP_DAY) & 0x80, 0, "no update in progress");
        assert_eq!(look(&mut rtc, STATUS_D, LEAP_DAY), D_VALID);
    }

    #[test]
    fn binary_and_twelve_hours_follow_status_b() {
        let mut rtc = Rtc::new();
        put(&mut rtc, STATUS_B, B_BINARY, LEAP_DAY);
        assert_eq!(look(&mut rtc, HOURS, LEAP_DAY), 11 | PM);
        assert_eq!(look(&mut rtc, YEAR, LEAP_DAY), 24);
        put(&mut rtc, HOURS, 12, LEAP_DAY);
        assert_eq!(look(&mut rtc, HOURS, LEAP_DAY), 12);
        put(&mut rtc, STATUS_B, B_24_HOURS, LEAP_DAY);
        assert_eq!(look(&mut rtc, HOURS, LEAP_DAY), 0, "midnight is 12 in the morning");
    }

    #[test]
    fn a_time_that_was_set_runs_on() {
        let mut rtc = Rtc::new();
        put(&mut rtc, STATUS_B, B_SET | B_24_HOURS, LEAP_DAY);
        put(&mut rtc, YEAR, 0x99, LEAP_DAY);
        put(&mut rtc, CENTURY, 0x19, LEAP_DAY + 5);
        put(&mut rtc, DAY, 0x31, LEAP_DAY);
        put(&mut rtc, MONTH, 0x12, LEAP_DAY + 60);
        put(&mut rtc, MINUTES, 0x59, LEAP_DAY + 60);
        put(&mut rtc, STATUS_B, B_24_HOURS, LEAP_DAY + 100);
        let shown = date(&mut rtc, LEAP_DAY + 100 + 51);
        assert_eq!(shown, [0x20, 0, 1, 1, 7, 0, 0, 0]);
    }

    #[test]
    fn cmos_bytes_keep_what_was_written() {
        let mut rtc = Rtc::new();
        put(&mut rtc, 0x7f, 0xa5, 0);
        put(&mut rtc, 0x0f, 0x5a, 0);
        assert_eq!((look(&mut rtc, 0x7f, 0), look(&mut rtc, 0xff, 0)), (0xa5, 0xa5));
        assert_eq!(look(&mut rtc, 0x0f, 0), 0x5a);
        assert_eq!(rtc.read(0, Width::W1, 0), 0xff);
    }

    proptest! {
        #[test]
        fn dates_and_seconds_are_inverse(unix in 0_i64..1 << 42) {
            prop_assert_eq!(Civil::from_unix(unix).to_unix(), unix);
        }

        #[test]
        fn no_access_panics(
            accesses in proptest::collection::vec((0_u64..3, any::<u8>(), any::<u64>()), 0..100),
        ) {
            let mut rtc = Rtc::new();
            for (offset, value, time) in accesses {
                rtc.write(offset, Width::W1, value.into(), time);
                rtc.read(offset, Width::W1, time);
            }
        }
    }
}
