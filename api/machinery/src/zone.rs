//! Time zones by their names, as Go finds them.
//!
//! Source: `time.LoadLocation`. The database and the machine's own zone are the caller's: nothing here reads a file by itself.

use jiff::tz::{TimeZone, TimeZoneDatabase};

/// The zone of this name; `local` is the one called `Local`. The error is in Go's words.
///
/// Names are told apart by case, as in a file system.
pub fn load(name: &str, zones: &TimeZoneDatabase, local: &TimeZone) -> Result<TimeZone, String> {
    match name {
        "" | "UTC" => return Ok(TimeZone::UTC),
        "Local" => return Ok(local.clone()),
        _ => {}
    }
    if name.contains("..") || name.starts_with(['/', '\\']) {
        return Err("time: invalid location name".to_owned());
    }
    let known = zones.get(name).ok().filter(|known| known.iana_name() == Some(name));
    known.ok_or_else(|| format!("unknown time zone {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expected: Result<Option<&str>, &str>) {
        let local = TimeZone::get("Asia/Tokyo").expect("a zone");
        let zone = load(name, jiff::tz::db(), &local);
        let shown = zone.as_ref().map(TimeZone::iana_name).map_err(String::as_str);
        assert_eq!(shown, expected, "{name}");
    }

    #[test]
    fn zones_are_found_by_their_exact_names() {
        check("Europe/Berlin", Ok(Some("Europe/Berlin")));
        check("europe/berlin", Err("unknown time zone europe/berlin"));
        check("Mars/Base", Err("unknown time zone Mars/Base"));
        check("../etc/passwd", Err("time: invalid location name"));
        check("", Ok(Some("UTC")));
        check("Local", Ok(Some("Asia/Tokyo")));
    }
}
