//! The rate of a counter of CPU time, from two readings.

use std::time::Duration;

use jiff::Timestamp;

/// A counter that somebody reads now and then.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    last: Option<(Timestamp, u64)>,
    rate: Option<Rate>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Billionths of a core.
    pub nano_cores: u64,
    /// Over how long it was measured.
    pub window: Duration,
}

impl Meter {
    /// Readings that are closer together tell nothing of a rate.
    pub const SHORTEST: Duration = Duration::from_secs(1);
    /// What was used before tells nothing of now.
    pub const LONGEST: Duration = Duration::from_secs(60);

    /// Takes a reading. The rate up to it, or up to the one before where that is too close; none while there is only one.
    pub fn read(&mut self, at: Timestamp, total_nanos: u64) -> Option<Rate> {
        let (since, before) = *self.last.get_or_insert((at, total_nanos));
        let window = Duration::try_from(at.duration_since(since)).unwrap_or_default();
        if window < Self::SHORTEST {
            return self.rate;
        }
        let used = total_nanos.checked_sub(before).filter(|_| window <= Self::LONGEST);
        self.last = Some((at, total_nanos));
        self.rate = used.map(|used| {
            let nano_cores = u128::from(used) * 1_000_000_000 / window.as_nanos();
            Rate { nano_cores: u64::try_from(nano_cores).unwrap_or(u64::MAX), window }
        });
        self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readings at milliseconds, and the rate in thousandths of a core that the last one gives.
    fn check(readings: &[(i64, u64)], expected: Option<u64>) {
        let mut meter = Meter::default();
        let mut rate = None;
        for (at_ms, used_ms) in readings {
            let at = Timestamp::from_millisecond(*at_ms).expect("a time");
            rate = meter.read(at, used_ms * 1_000_000);
        }
        assert_eq!(rate.map(|rate| rate.nano_cores / 1_000_000), expected, "{readings:?}");
    }

    #[test]
    fn two_readings_make_a_rate() {
        check(&[(0, 0)], None);
        check(&[(0, 0), (2_000, 500)], Some(250));
        check(&[(0, 0), (2_000, 500), (12_000, 10_500)], Some(1_000));
    }

    #[test]
    fn readings_that_are_too_close_repeat_the_rate() {
        check(&[(0, 0), (500, 500)], None);
        check(&[(0, 0), (2_000, 500), (2_500, 1_000)], Some(250));
        // The reading that was too close is not what the next one is measured from.
        check(&[(0, 0), (2_000, 500), (2_500, 1_000), (4_000, 1_500)], Some(500));
    }

    #[test]
    fn an_old_reading_and_a_counter_that_began_anew_tell_nothing() {
        check(&[(0, 0), (100_000, 100_000)], None);
        check(&[(0, 0), (100_000, 100_000), (101_000, 100_500)], Some(500));
        check(&[(0, 5_000), (2_000, 100)], None);
    }
}
