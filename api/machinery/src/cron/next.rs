//! When a schedule comes next.
//!
//! Source: `SpecSchedule.Next` and `ConstantDelaySchedule.Next` of robfig/cron, whose way with daylight saving is kept: what falls
//! into an hour that is left out does not happen that day, and what falls into one that comes twice happens twice.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _};

use super::{Calendar, STAR, Schedule};

/// A date that does not come in so many years never comes.
const YEARS: i16 = 5;

impl Schedule {
    /// The first time after `after`, as clocks of `zone` show it. None if there is none in the next years.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let after = Timestamp::from_second(after.as_second() - i64::from(after.subsec_nanosecond() < 0)).ok()?;
        match self {
            Schedule::Every { seconds } => {
                after.checked_add(SignedDuration::from_secs(i64::try_from(*seconds).ok()?)).ok()
            }
            Schedule::Calendar(calendar) => {
                let at = after.checked_add(SignedDuration::from_secs(1)).ok()?;
                Search { calendar, zone, at, moved: false }.run()
            }
        }
    }
}

/// A moment that goes forward until every field fits.
struct Search<'a> {
    calendar: &'a Calendar,
    zone: &'a TimeZone,
    at: Timestamp,
    /// Whether a field was raised; the lower ones are at their beginning then.
    moved: bool,
}

#[derive(PartialEq, Eq)]
enum Fits {
    Yes,
    /// A higher field has changed with this one, and is to be looked at again.
    Again,
}

impl Search<'_> {
    fn run(mut self) -> Option<Timestamp> {
        let last = self.local().year().checked_add(YEARS)?;
        while self.local().year() <= last {
            let fits = self.month()? == Fits::Yes
                && self.day()? == Fits::Yes
                && self.hour()? == Fits::Yes
                && self.minute()? == Fits::Yes
                && self.second()? == Fits::Yes;
            if fits {
                return Some(self.at);
            }
        }
        None
    }

    fn local(&self) -> DateTime {
        self.zone.to_datetime(self.at)
    }

    /// Goes to a local time. Source: Go's `time.Date`, which takes one of two offsets for a time that does not exist.
    fn go(&mut self, local: DateTime) -> Option<()> {
        let as_utc = TimeZone::UTC.to_timestamp(local).ok()?;
        let minus = |at: Timestamp| as_utc.checked_sub(self.zone.to_offset(at).seconds().seconds()).ok();
        self.at = minus(minus(as_utc)?)?;
        Some(())
    }

    fn add(&mut self, seconds: i64) -> Option<()> {
        self.at = self.at.checked_add(SignedDuration::from_secs(seconds)).ok()?;
        Some(())
    }

    /// The first time that a field does not fit: to the beginning of its present value.
    fn begin(&mut self, beginning: impl FnOnce(DateTime) -> Option<DateTime>) -> Option<()> {
        if std::mem::replace(&mut self.moved, true) {
            return Some(());
        }
        self.go(beginning(self.local())?)
    }

    fn month(&mut self) -> Option<Fits> {
        while self.calendar.months & 1 << self.local().month() == 0 {
            self.begin(|now| now.date().first_of_month().to_datetime(jiff::civil::Time::midnight()).into())?;
            self.go(self.local().checked_add(1.month()).ok()?)?;
            if self.local().month() == 1 {
                return Some(Fits::Again);
            }
        }
        Some(Fits::Yes)
    }

    fn day(&mut self) -> Option<Fits> {
        while !self.is_day() {
            self.begin(|now| now.date().to_datetime(jiff::civil::Time::midnight()).into())?;
            self.go(self.local().checked_add(1.day()).ok()?)?;
            // There are zones where a day begins at one o'clock.
            match i64::from(self.local().hour()) {
                0 => {}
                hour @ 13.. => self.add((24 - hour) * 3600)?,
                hour => self.add(-hour * 3600)?,
            }
            if self.local().day() == 1 {
                return Some(Fits::Again);
            }
        }
        Some(Fits::Yes)
    }

    /// Days of the month and of the week widen each other, unless one of them says nothing.
    fn is_day(&self) -> bool {
        let local = self.local();
        let Calendar { days, weekdays, .. } = *self.calendar;
        let in_month = days & 1 << local.day() != 0;
        let in_week = weekdays & 1 << local.weekday().to_sunday_zero_offset() != 0;
        if (days | weekdays) & STAR != 0 { in_month && in_week } else { in_month || in_week }
    }

    fn hour(&mut self) -> Option<Fits> {
        while self.calendar.hours & 1 << self.local().hour() == 0 {
            self.begin(|now| now.with().minute(0).second(0).subsec_nanosecond(0).build().ok())?;
            self.add(3600)?;
            if self.local().hour() == 0 {
                return Some(Fits::Again);
            }
        }
        Some(Fits::Yes)
    }

    fn minute(&mut self) -> Option<Fits> {
        while self.calendar.minutes & 1 << self.local().minute() == 0 {
            if !std::mem::replace(&mut self.moved, true) {
                self.add(-self.at.as_second().rem_euclid(60))?;
            }
            self.add(60)?;
            if self.local().minute() == 0 {
                return Some(Fits::Again);
            }
        }
        Some(Fits::Yes)
    }

    /// Schedules are for the beginning of a minute.
    fn second(&mut self) -> Option<Fits> {
        let second = i64::from(self.local().second());
        if second == 0 {
            return Some(Fits::Yes);
        }
        self.moved = true;
        self.add(60 - second)?;
        Some(Fits::Again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What follows `after`, in turn, each as clocks of the zone show it.
    #[track_caller]
    fn check(schedule: &str, zone: &str, after: &str, expected: &[&str]) {
        let (schedule, _) = Schedule::parse(schedule, |_| Ok(())).expect("a schedule");
        let zone = TimeZone::get(zone).expect("a zone");
        let mut at: Timestamp = after.parse().expect("a time");
        for expected in expected {
            at = schedule.next(at, &zone).expect("a next time");
            assert_eq!(at.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(), *expected);
        }
    }

    #[test]
    fn times_follow_one_another() {
        let after = "2026-12-31T23:59:30.5Z";
        check("* * * * *", "UTC", after, &["2027-01-01T00:00:00+00:00", "2027-01-01T00:01:00+00:00"]);
        check(
            "*/20 6,18 * * *",
            "UTC",
            "2026-05-01T06:30:00Z",
            &["2026-05-01T06:40:00+00:00", "2026-05-01T18:00:00+00:00"],
        );
        check("0 0 31 * *", "UTC", "2026-01-31T00:00:00Z", &["2026-03-31T00:00:00+00:00", "2026-05-31T00:00:00+00:00"]);
        check("0 0 29 feb *", "UTC", "2026-01-01T00:00:00Z", &["2028-02-29T00:00:00+00:00"]);
        check(
            "@every 90s",
            "UTC",
            "2026-01-01T00:00:00.7Z",
            &["2026-01-01T00:01:30+00:00", "2026-01-01T00:03:00+00:00"],
        );
        check("30 6-16/4 * * 1-5", "UTC", "2026-01-02T14:30:00Z", &["2026-01-05T06:30:00+00:00"]);
    }

    #[test]
    fn days_of_the_week_widen_days_of_the_month_where_both_are_named() {
        check(
            "0 0 13 * fri",
            "UTC",
            "2026-03-01T00:00:00Z",
            &["2026-03-06T00:00:00+00:00", "2026-03-13T00:00:00+00:00"],
        );
        check("0 0 * * fri", "UTC", "2026-03-07T00:00:00Z", &["2026-03-13T00:00:00+00:00"]);
        check("0 0 13 * *", "UTC", "2026-03-01T00:00:00Z", &["2026-03-13T00:00:00+00:00"]);
    }

    #[test]
    fn an_hour_that_is_left_out_is_skipped_and_one_that_comes_twice_counts_twice() {
        let spring = "2026-03-28T12:00:00Z";
        check("30 2 * * *", "Europe/Berlin", spring, &["2026-03-30T02:30:00+02:00"]);
        check("0 3 * * *", "Europe/Berlin", spring, &["2026-03-29T03:00:00+02:00"]);
        let autumn = "2026-10-24T23:45:00Z";
        check("30 * * * *", "Europe/Berlin", autumn, &["2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00"]);
        let twice = ["2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00", "2026-10-26T02:30:00+01:00"];
        check("30 2 * * *", "Europe/Berlin", autumn, &twice);
    }

    #[test]
    fn a_day_may_begin_at_one_o_clock() {
        let before = "2018-11-03T12:00:00Z";
        check("0 12 4 11 *", "America/Sao_Paulo", before, &["2018-11-04T12:00:00-02:00"]);
        check("0 12 5 11 *", "America/Sao_Paulo", before, &["2018-11-05T12:00:00-02:00"]);
    }

    #[test]
    fn what_never_comes_is_not_waited_for() {
        let (schedule, _) = Schedule::parse("59 23 31 2 *", |_| Ok(())).expect("well-formed");
        assert_eq!(schedule.next(Timestamp::UNIX_EPOCH, &TimeZone::UTC), None);
        let (schedule, _) = Schedule::parse("@every 2562047h", |_| Ok(())).expect("well-formed");
        assert_eq!(schedule.next(Timestamp::MAX, &TimeZone::UTC), None);
    }
}
