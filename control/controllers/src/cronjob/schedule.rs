//! When a CronJob is due. Pure: time and zones come in as arguments.
//!
//! Source of the behaviour: `k8s.io/kubernetes/pkg/controller/cronjob/utils.go` (`mostRecentScheduleTime`).

use std::time::Duration;

use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};
use wharf_machinery::cron::Schedule;
use wharf_machinery::zone;
use wharf_types::k8s::api::batch::v1::CronJob;

/// Waited longer than until the next time, in case clocks differ a little. Source: `nextScheduleDelta`.
const MARGIN: SignedDuration = SignedDuration::from_millis(100);
/// More missed times than this are told of.
const MANY: i64 = 100;

/// Where time zones are found.
#[derive(Clone, Debug)]
pub struct Zones {
    pub database: &'static TimeZoneDatabase,
    /// Of schedules that name no zone.
    pub local: TimeZone,
}

impl Zones {
    pub fn load(&self, name: &str) -> Result<TimeZone, String> {
        zone::load(name, self.database, &self.local)
    }
}

/// A schedule and the zone whose clocks it goes by.
#[derive(Debug)]
pub struct Timetable {
    schedule: Schedule,
    zone: TimeZone,
}

/// What has become due of a timetable.
#[derive(Debug, PartialEq, Eq)]
pub struct Due {
    /// What times are counted from.
    since: Timestamp,
    pub latest: Option<Timestamp>,
    missed: Missed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missed {
    None,
    Few,
    Many,
}

impl Due {
    pub fn missed_many(&self) -> bool {
        self.missed == Missed::Many
    }
}

impl Timetable {
    /// A zone within the schedule, which old objects may have, comes before the one beside it. The error is in upstream's words.
    pub fn of(job: &CronJob, zones: &Zones) -> Result<Self, String> {
        let (schedule, named) = Schedule::parse(&job.spec.schedule, |name| zones.load(name))?;
        let beside = job.spec.time_zone.as_deref().filter(|_| !names_zone(job));
        let zone = named.or_else(|| beside.and_then(|name| zones.load(name).ok()));
        Ok(Self { schedule, zone: zone.unwrap_or_else(|| zones.local.clone()) })
    }

    /// The latest time until `now`, with `with_deadline` none that is too late to start. The error is in upstream's words.
    pub fn due(&self, job: &CronJob, now: Timestamp, with_deadline: bool) -> Result<Due, &'static str> {
        let since = self.since(job, now, with_deadline);
        let (first, second) = match self.next(since) {
            Some(first) => (first, self.next(first)),
            None => return Err(NEVER),
        };
        if now < first {
            return Ok(Due { since, latest: None, missed: Missed::None });
        }
        let Some(second) = second else { return Err(NEVER) };
        if now < second {
            return Ok(Due { since, latest: Some(first), missed: Missed::None });
        }
        let interval_s = second.duration_since(first).as_secs();
        if interval_s < 1 {
            return Err(NEVER);
        }
        // A guess from the first interval, from which one goes back a little and then forward by the schedule itself.
        let missed = now.duration_since(first).as_secs() / interval_s + 1;
        let guess = SignedDuration::from_secs(interval_s.saturating_mul(missed - 2));
        let mut latest = None;
        let mut at = first.checked_add(guess).ok().and_then(|guess| self.next(guess));
        while let Some(time) = at.filter(|time| *time <= now) {
            latest = Some(time);
            at = self.next(time);
        }
        let missed = if missed > MANY { Missed::Many } else { Missed::Few };
        Ok(Due { since, latest, missed })
    }

    /// How long until the next time. None if there is none.
    pub fn wait(&self, job: &CronJob, now: Timestamp) -> Option<Duration> {
        let from = match self.due(job, now, false) {
            Ok(Due { latest: Some(latest), .. }) => latest,
            Ok(Due { since, missed: Missed::None, .. }) => since,
            Ok(_) | Err(_) => now,
        };
        let left = self.next(from)?.duration_since(now) + MARGIN;
        Some(Duration::try_from(left).unwrap_or(Duration::ZERO))
    }

    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        self.schedule.next(after, &self.zone)
    }

    /// The last time that was started, or the beginning of the object; with the deadline, nothing before that.
    fn since(&self, job: &CronJob, now: Timestamp, with_deadline: bool) -> Timestamp {
        let started = job.status.as_ref().and_then(|status| status.last_schedule_time.as_ref());
        let since = started.or(job.metadata.creation_timestamp.as_ref()).map_or(now, |time| time.0);
        let deadline_s = job.spec.starting_deadline_seconds.filter(|_| with_deadline);
        let earliest = deadline_s.and_then(|deadline_s| now.checked_sub(SignedDuration::from_secs(deadline_s)).ok());
        earliest.map_or(since, |earliest| since.max(earliest))
    }
}

const NEVER: &str = "time difference between two schedules is less than 1 second";

/// Whether a zone stands in the schedule itself.
pub fn names_zone(job: &CronJob) -> bool {
    job.spec.schedule.contains("TZ")
}

#[cfg(test)]
pub mod fixtures {
    //! CronJobs for tests.

    use super::*;

    pub fn zones() -> Zones {
        Zones { database: jiff::tz::db(), local: TimeZone::UTC }
    }

    /// Made at `created`, with more fields of its spec and with this status.
    pub fn cron_job(schedule: &str, created: &str, spec: serde_json::Value, status: serde_json::Value) -> CronJob {
        let mut object = serde_json::json!({
            "metadata": {"name": "tick", "namespace": "default", "uid": "u", "creationTimestamp": created},
            "spec": {"schedule": schedule, "jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"template": {}}}},
            "status": status,
        });
        for (field, value) in spec.as_object().into_iter().flatten() {
            object["spec"][field] = value.clone();
        }
        serde_json::from_value(object).expect("a CronJob")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::fixtures::{cron_job, zones};
    use super::*;

    /// What is due at `now`, and how long it is until the next time.
    #[track_caller]
    fn check(schedule: &str, spec: Value, last: Option<&str>, now: &str, expected: &str) {
        let job = cron_job(schedule, "2026-05-01T10:00:10Z", spec, json!({"lastScheduleTime": last}));
        let now: Timestamp = now.parse().expect("a time");
        let table = Timetable::of(&job, &zones()).expect("a timetable");
        let due = match table.due(&job, now, true) {
            Ok(Due { latest: Some(latest), missed, .. }) => format!("{latest} missed {missed:?}"),
            Ok(Due { latest: None, missed, .. }) => format!("nothing missed {missed:?}"),
            Err(why) => why.to_owned(),
        };
        let wait = table.wait(&job, now).map_or("for ever".to_owned(), |wait| format!("{}ms", wait.as_millis()));
        assert_eq!(format!("{due}; again in {wait}"), expected);
    }

    #[test]
    fn nothing_is_due_before_the_first_time() {
        check("*/5 * * * *", json!({}), None, "2026-05-01T10:04:00Z", "nothing missed None; again in 60100ms");
        check("@every 1m", json!({}), None, "2026-05-01T10:01:09Z", "nothing missed None; again in 1100ms");
    }

    #[test]
    fn the_latest_time_since_the_last_start_is_due() {
        let at = |time: &str| format!("{time} missed None; again in 90100ms");
        check("*/5 * * * *", json!({}), None, "2026-05-01T10:08:30Z", &at("2026-05-01T10:05:00Z"));
        let last = Some("2026-05-01T10:05:00Z");
        check("*/5 * * * *", json!({}), last, "2026-05-01T10:08:30Z", "nothing missed None; again in 90100ms");
        check(
            "*/5 * * * *",
            json!({}),
            last,
            "2026-05-01T10:21:00Z",
            "2026-05-01T10:20:00Z missed Few; again in 240100ms",
        );
        check(
            "30 6-16/4 * * 1-5",
            json!({}),
            Some("2026-05-01T14:30:00Z"),
            "2026-05-04T11:00:00Z",
            "2026-05-04T10:30:00Z missed Few; again in 12600100ms",
        );
    }

    #[test]
    fn more_than_a_hundred_missed_times_are_noticed() {
        let last = Some("2026-05-01T10:00:00Z");
        let few = "2026-05-01T11:40:00Z missed Few; again in 30100ms";
        check("* * * * *", json!({}), last, "2026-05-01T11:40:30Z", few);
        let many = "2026-05-01T11:41:00Z missed Many; again in 30100ms";
        check("* * * * *", json!({}), last, "2026-05-01T11:41:30Z", many);
        let soon = json!({"startingDeadlineSeconds": 90});
        let none = "2026-05-01T11:41:00Z missed None; again in 30100ms";
        check("* * * * *", soon, last, "2026-05-01T11:41:30Z", none);
    }

    #[test]
    fn clocks_are_those_of_the_zone() {
        let berlin = json!({"timeZone": "Europe/Berlin"});
        let due = "2026-05-01T13:00:00Z missed None; again in 84600100ms";
        check("0 15 * * *", berlin.clone(), None, "2026-05-01T13:30:00Z", due);
        // The zone in an old schedule is stronger.
        let due = "2026-05-01T15:00:00Z missed None; again in 84600100ms";
        check("TZ=UTC 0 15 * * *", berlin, None, "2026-05-01T15:30:00Z", due);
    }

    #[test]
    fn a_schedule_that_never_comes_is_told_of() {
        check("59 23 31 2 *", json!({}), None, "2026-05-01T13:30:00Z", &format!("{NEVER}; again in for ever"));
    }

    #[test]
    fn bad_schedules_and_zones_are_told_in_upstreams_words() {
        let why = |schedule: &str| {
            let job = cron_job(schedule, "2026-05-01T10:00:10Z", json!({}), json!({}));
            Timetable::of(&job, &zones()).expect_err("not a schedule")
        };
        assert_eq!(why("* * *"), "expected exactly 5 fields, found 3: [* * *]");
        assert_eq!(why("TZ=Mars/Base * * * * *"), "provided bad location Mars/Base: unknown time zone Mars/Base");
    }
}
