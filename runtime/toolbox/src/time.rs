//! Tools over time, in UTC: a Wasm container has no time zones.

use std::time::{Duration, SystemTime};

use crate::io::{Failure, Io, Options};

type Ended = Result<i32, Failure>;

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];

/// `sleep 1.5`, `sleep 2m`; several are summed.
pub fn sleep(_: &mut Io<'_>, arguments: &[String]) -> Ended {
    let mut total = Duration::ZERO;
    for word in arguments {
        let (number, unit) = match word.strip_suffix(['s', 'm', 'h', 'd']) {
            Some(number) => (number, word.chars().last().unwrap_or('s')),
            None => (word.as_str(), 's'),
        };
        let unit = match unit {
            'm' => 60.0,
            'h' => 3600.0,
            'd' => 86_400.0,
            _ => 1.0,
        };
        let wrong = || Failure::of(format!("invalid number '{word}'"));
        let seconds: f64 = if number == "infinity" { f64::MAX } else { number.parse().map_err(|_| wrong())? };
        total = total.saturating_add(Duration::try_from_secs_f64(seconds * unit).unwrap_or(Duration::MAX));
    }
    if arguments.is_empty() {
        return Err(Failure::usage("missing operand"));
    }
    // A clock counts no further than centuries.
    std::thread::sleep(total.min(Duration::from_secs(3_000_000_000)));
    Ok(0)
}

pub fn date(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(arguments, "uR", "I", &[("utc", 'u'), ("iso-8601", 'I')])?;
    let format = match options.operands.first() {
        Some(word) => word.strip_prefix('+').ok_or_else(|| Failure::of(format!("invalid date '{word}'")))?,
        None if options.has('I') => "%Y-%m-%dT%H:%M:%S+00:00",
        None if options.has('R') => "%a, %d %b %Y %H:%M:%S +0000",
        None => "%a %b %e %H:%M:%S UTC %Y",
    };
    let text = formatted(SystemTime::now(), format);
    io.line(&text);
    Ok(0)
}

/// As `ls -l` shows a file's time.
pub fn of_file(when: SystemTime) -> String {
    formatted(when, "%b %e %H:%M")
}

/// As `tar tv` shows it.
pub fn of_archive(when: SystemTime) -> String {
    formatted(when, "%F %H:%M")
}

/// As `stat` shows it.
pub fn exact(when: SystemTime) -> String {
    formatted(when, "%F %T.%N %z")
}

fn formatted(when: SystemTime, format: &str) -> String {
    let since = when.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (seconds, nanos) = (since.as_secs(), since.subsec_nanos());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    let weekday = DAYS[((days + 4) % 7) as usize];
    let name = MONTHS[month as usize - 1];
    let (mut out, mut letters) = (String::new(), format.chars());
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        out += &match letters.next() {
            Some('Y') => format!("{year}"),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('e') => format!("{day:>2}"),
            Some('H') => format!("{hour:02}"),
            Some('M') => format!("{minute:02}"),
            Some('S') => format!("{second:02}"),
            Some('N') => format!("{nanos:09}"),
            Some('s') => format!("{seconds}"),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('a') => weekday.to_owned(),
            Some('b' | 'h') => name.to_owned(),
            Some('Z') => "UTC".to_owned(),
            Some('z') => "+0000".to_owned(),
            Some('n') => "\n".to_owned(),
            Some('%') => "%".to_owned(),
            Some(other) => format!("%{other}"),
            None => "%".to_owned(),
        };
    }
    out
}

/// Year, month and day of a day since 1970. Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}
