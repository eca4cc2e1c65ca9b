//! Schedules of CronJobs: which are well-formed, and what a bad one is told.
//!
//! Source: `github.com/robfig/cron/v3` (`ParseStandard`), whose rules differ from other crons': Sunday is 0 and never 7, a range
//! may not wrap, `?` is `*`, and `@every 90s` is a schedule. Invariant: what parses here parses there, with the same words if not.
//! Absent on purpose: the database of time zones, which the caller asks for.

mod next;

/// The minutes at which something happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Again after this many seconds, at least one.
    Every {
        seconds: u64,
    },
    Calendar(Calendar),
}

/// A bit for each value that a field may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calendar {
    pub minutes: u64,
    pub hours: u64,
    /// With [`STAR`] set, the days of the month do not widen the days of the week.
    pub days: u64,
    pub months: u64,
    pub weekdays: u64,
}

/// Set where a field says `*` or `?`.
pub const STAR: u64 = 1 << 63;

struct Bounds {
    min: u64,
    max: u64,
    /// The name of `min`, of `min + 1`, and so on.
    names: &'static [&'static str],
}

const MINUTES: Bounds = Bounds { min: 0, max: 59, names: &[] };
const HOURS: Bounds = Bounds { min: 0, max: 23, names: &[] };
const DAYS: Bounds = Bounds { min: 1, max: 31, names: &[] };
const MONTHS: Bounds = Bounds {
    min: 1,
    max: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAYS: Bounds = Bounds { min: 0, max: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

impl Schedule {
    /// Reads a schedule, and the time zone that it names, which `load_zone` finds or says what is wrong with its name.
    pub fn parse<Z>(text: &str, load_zone: impl Fn(&str) -> Result<Z, String>) -> Result<(Self, Option<Z>), String> {
        if text.is_empty() {
            return Err("empty spec string".to_owned());
        }
        let (mut text, mut named) = (text, None);
        if let Some(rest) = text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) {
            let (zone, spec) = rest.split_once(' ').unwrap_or((rest, ""));
            named = Some(load_zone(zone).map_err(|why| format!("provided bad location {zone}: {why}"))?);
            text = spec.trim();
        }
        if text.starts_with('@') {
            return Ok((descriptor(text)?, named));
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
        };
        let calendar = Calendar {
            minutes: field(minutes, &MINUTES)?,
            hours: field(hours, &HOURS)?,
            days: field(days, &DAYS)?,
            months: field(months, &MONTHS)?,
            weekdays: field(weekdays, &WEEKDAYS)?,
        };
        Ok((Schedule::Calendar(calendar), named))
    }
}

fn all(bounds: &Bounds) -> u64 {
    bits(bounds.min, bounds.max, 1) | STAR
}

fn bits(start: u64, end: u64, step: u64) -> u64 {
    (start..=end).step_by(usize::try_from(step).unwrap_or(usize::MAX)).fold(0, |bits, bit| bits | 1 << bit)
}

fn descriptor(text: &str) -> Result<Schedule, String> {
    let midnight = Calendar { minutes: 1, hours: 1, days: all(&DAYS), months: all(&MONTHS), weekdays: all(&WEEKDAYS) };
    let first = 1 << 1;
    Ok(Schedule::Calendar(match text {
        "@yearly" | "@annually" => Calendar { days: first, months: first, ..midnight },
        "@monthly" => Calendar { days: first, ..midnight },
        "@weekly" => Calendar { weekdays: 1, ..midnight },
        "@daily" | "@midnight" => midnight,
        "@hourly" => Calendar { hours: all(&HOURS), ..midnight },
        _ => {
            let Some(duration) = text.strip_prefix("@every ") else {
                return Err(format!("unrecognized descriptor: {text}"));
            };
            let seconds = seconds(duration).map_err(|why| format!("failed to parse duration {text}: {why}"))?;
            return Ok(Schedule::Every { seconds: seconds.max(1) });
        }
    }))
}

/// A list of ranges; empty ones do not count.
fn field(text: &str, bounds: &Bounds) -> Result<u64, String> {
    text.split(',').filter(|part| !part.is_empty()).try_fold(0, |bits, part| Ok(bits | range(part, bounds)?))
}

/// `number`, `number-number` or `*`, and perhaps `/step`.
fn range(text: &str, bounds: &Bounds) -> Result<u64, String> {
    let range_and_step: Vec<&str> = text.split('/').collect();
    let low_and_high: Vec<&str> = range_and_step[0].split('-').collect();
    let mut star = 0;
    let (start, mut end) = if matches!(low_and_high[0], "*" | "?") {
        star = STAR;
        (bounds.min, bounds.max)
    } else {
        let start = number_or_name(low_and_high[0], bounds)?;
        match low_and_high[1..] {
            [] => (start, start),
            [high] => (start, number_or_name(high, bounds)?),
            _ => return Err(format!("too many hyphens: {text}")),
        }
    };
    let step = match range_and_step[1..] {
        [] => 1,
        [step] => {
            let step = number(step)?;
            // `5/15` goes on from 5 to the last value.
            if low_and_high.len() == 1 {
                end = bounds.max;
            }
            if step > 1 {
                star = 0;
            }
            step
        }
        _ => return Err(format!("too many slashes: {text}")),
    };
    match () {
        () if start < bounds.min => Err(format!("beginning of range ({start}) below minimum ({}): {text}", bounds.min)),
        () if end > bounds.max => Err(format!("end of range ({end}) above maximum ({}): {text}", bounds.max)),
        () if start > end => Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}")),
        () if step == 0 => Err(format!("step of range should be a positive number: {text}")),
        () => Ok(bits(start, end, step) | star),
    }
}

fn number_or_name(text: &str, bounds: &Bounds) -> Result<u64, String> {
    let lower = text.to_lowercase();
    match (bounds.min..).zip(bounds.names).find(|(_, name)| **name == lower) {
        Some((number, _)) => Ok(number),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let failed = |why: &str| Err(format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: {why}"));
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return failed("invalid syntax");
    }
    match text.parse::<i64>() {
        Ok(number) => u64::try_from(number).map_err(|_| format!("negative number ({number}) not allowed: {text}")),
        Err(_) => failed("value out of range"),
    }
}

/// Nanoseconds in each unit that a duration may be told in.
const UNITS: &[(&str, f64)] =
    &[("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];

/// The whole seconds of a Go duration such as `1h30m`. Source: `time.ParseDuration`.
fn seconds(text: &str) -> Result<u64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.strip_prefix(['+', '-']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut nanoseconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let number: f64 = number.parse().map_err(|_| invalid())?;
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {text:?}"));
        }
        let known = UNITS.iter().find(|(name, _)| *name == unit);
        let (_, scale) = known.ok_or_else(|| format!("time: unknown unit {unit:?} in duration {text:?}"))?;
        nanoseconds += number * scale;
        rest = after;
    }
    if nanoseconds > i64::MAX as f64 {
        return Err(invalid());
    }
    Ok(if negative { 0 } else { (nanoseconds / 1e9) as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<Schedule, &str>) {
        let zone = |name: &str| match name {
            "UTC" => Ok(()),
            name => Err(format!("unknown time zone {name}")),
        };
        let parsed = Schedule::parse(text, zone).map(|(schedule, _)| schedule);
        assert_eq!(parsed, expected.map_err(str::to_owned), "{text}");
    }

    fn at(minutes: u64, hours: u64, days: u64, months: u64, weekdays: u64) -> Result<Schedule, &'static str> {
        Ok(Schedule::Calendar(Calendar { minutes, hours, days, months, weekdays }))
    }

    const ANY: [u64; 5] =
        [0x0fff_ffff_ffff_ffff | STAR, 0x00ff_ffff | STAR, 0xffff_fffe | STAR, 0x1ffe | STAR, 0x7f | STAR];

    #[test]
    fn fields_are_lists_of_ranges_with_steps() {
        check("* * * * ?", at(ANY[0], ANY[1], ANY[2], ANY[3], ANY[4]));
        check("*/15 0 1,15 jan-MAR Sun", at(1 | 1 << 15 | 1 << 30 | 1 << 45, 1, 1 << 1 | 1 << 15, 0b1110, 1));
        check("50/5 22-23 * * 1-5/2", at(1 << 50 | 1 << 55, 0b11 << 22, ANY[2], ANY[3], 0b10_1010));
        check("*/1 * * * *", at(ANY[0], ANY[1], ANY[2], ANY[3], ANY[4]));
    }

    #[test]
    fn names_stand_for_common_schedules() {
        check("@hourly", at(1, ANY[1], ANY[2], ANY[3], ANY[4]));
        check("@weekly", at(1, 1, ANY[2], ANY[3], 1));
        check("@annually", at(1, 1, 2, 2, ANY[4]));
        check("@every 1h30m", Ok(Schedule::Every { seconds: 5400 }));
        check("@every 10ms", Ok(Schedule::Every { seconds: 1 }));
        check("@every 1.5m", Ok(Schedule::Every { seconds: 90 }));
    }

    #[test]
    fn a_zone_stands_in_front() {
        check("CRON_TZ=UTC @monthly", at(1, 1, 2, ANY[3], ANY[4]));
        let named = |text| Schedule::parse(text, |name| Ok(name.to_owned())).map(|(_, zone)| zone);
        assert_eq!(named("TZ=Asia/Tokyo 0 0 * * *"), Ok(Some("Asia/Tokyo".to_owned())));
        assert_eq!(named("0 0 * * *"), Ok(None));
        check("TZ=Mars 0 0 * * *", Err("provided bad location Mars: unknown time zone Mars"));
    }

    #[test]
    fn bad_schedules_are_told_in_upstreams_words() {
        for (text, why) in [
            ("", "empty spec string"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("* * * * * *", "expected exactly 5 fields, found 6: [* * * * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("* * * * 7", "end of range (7) above maximum (6): 7"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("*/-1 * * * *", "negative number (-1) not allowed: -1"),
            ("a * * * *", "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax"),
            ("@often", "unrecognized descriptor: @often"),
            ("@every x", "failed to parse duration @every x: time: invalid duration \"x\""),
            ("@every 5", "failed to parse duration @every 5: time: missing unit in duration \"5\""),
            ("@every 5d", "failed to parse duration @every 5d: time: unknown unit \"d\" in duration \"5d\""),
        ] {
            check(text, Err(why));
        }
    }
}
