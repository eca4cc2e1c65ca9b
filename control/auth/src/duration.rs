//! Durations as Go writes them: `1m30s`.
//!
//! Source: `time.ParseDuration` and `time.Duration.String`, for durations that are not negative.

use std::time::Duration;

/// None for what is no duration.
pub fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        seconds += number
            * match &rest[..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

/// Of whole milliseconds, or of nanoseconds; what is finer than that is left out.
pub fn shown(time: Duration) -> String {
    let millis = time.as_millis();
    match (millis, time.as_nanos()) {
        (0, nanos @ 1..1000) => return format!("{nanos}ns"),
        (0, _) => return "0s".to_owned(),
        (1..1000, _) => return format!("{millis}ms"),
        _ => {}
    }
    let (hours, minutes) = (millis / 3_600_000, millis / 60_000 % 60);
    let mut seconds = format!("{}.{:03}", millis / 1000 % 60, millis % 1000);
    seconds.truncate(seconds.trim_end_matches('0').trim_end_matches('.').len());
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, expected) in [
            ("1m30s", Some(Duration::from_secs(90))),
            ("500ms", Some(Duration::from_millis(500))),
            ("0", Some(Duration::ZERO)),
            ("5", None),
            ("", None),
            ("1x", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn durations_are_shown_as_go_shows_them() {
        for text in ["0s", "1ns", "5ms", "1s", "1.5s", "10s", "1m0s", "1h0m0s", "26h3m20s"] {
            assert_eq!(shown(parse(text).expect("a duration")), text);
        }
    }
}
