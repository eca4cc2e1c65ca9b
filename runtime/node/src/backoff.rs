//! How long to wait before trying again: 10 s, doubled up to 300 s, forgotten after twice that.
//!
//! Source: `k8s.io/client-go/util/flowcontrol.Backoff` as the kubelet uses it for restarts and pulls.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub initial: Duration,
    pub max: Duration,
}

/// Upstream's for container restarts and for image pulls.
pub const KUBELET: Policy = Policy { initial: Duration::from_secs(10), max: Duration::from_secs(300) };
/// Upstream's for volumes (`goroutinemap/exponentialbackoff`).
pub const VOLUMES: Policy = Policy { initial: Duration::from_millis(500), max: Duration::from_secs(122) };

/// The delay in force and the failure that set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    pub delay: Duration,
    pub since: Timestamp,
}

impl Policy {
    /// What follows `held` after a failure at `event`.
    pub fn next(&self, held: Option<Backoff>, event: Timestamp) -> Backoff {
        let delay = match held {
            Some(held) if !self.expired(held, event) => (held.delay * 2).min(self.max),
            _ => self.initial,
        };
        Backoff { delay, since: event }
    }

    /// Until when a failure at `event` must wait, if `now` is before that.
    pub fn waits_until(&self, held: Option<Backoff>, event: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let held = held.filter(|held| !self.expired(*held, event))?;
        let until = after(event, held.delay);
        (now < until).then_some(until)
    }

    fn expired(&self, held: Backoff, event: Timestamp) -> bool {
        event.duration_since(held.since) > SignedDuration::try_from(self.max * 2).unwrap_or(SignedDuration::MAX)
    }
}

/// `at` + `delay`, at most the end of time.
pub fn after(at: Timestamp, delay: Duration) -> Timestamp {
    SignedDuration::try_from(delay).ok().and_then(|delay| at.checked_add(delay).ok()).unwrap_or(Timestamp::MAX)
}

/// Time from `now` to `at`; zero if it has passed.
pub fn until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO)
}

/// A delay as Go prints it: `10s`, `1m20s`, `5m0s`, `500ms`.
pub fn go_duration(delay: Duration) -> String {
    let (total_s, millis) = (delay.as_secs(), delay.subsec_millis());
    if total_s == 0 {
        return if millis == 0 { "0s".to_owned() } else { format!("{millis}ms") };
    }
    let (hours, minutes, seconds) = (total_s / 3600, total_s / 60 % 60, total_s % 60);
    let seconds = if millis == 0 {
        format!("{seconds}s")
    } else {
        format!("{seconds}.{millis:03}s").replace("00s", "s").replace("0s", "s")
    };
    match (hours, minutes) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails at each of `at_s` seconds; returns the delays in seconds.
    fn check(at_s: &[i64], delays_s: &[u64]) {
        let mut held = None;
        let seen: Vec<u64> = at_s
            .iter()
            .map(|at| {
                let next = KUBELET.next(held, Timestamp::from_second(*at).unwrap());
                held = Some(next);
                next.delay.as_secs()
            })
            .collect();
        assert_eq!(seen, delays_s);
    }

    #[test]
    fn delays_double_to_the_cap_and_are_forgotten_after_ten_minutes() {
        check(&[0, 10, 40, 90, 200, 400, 800], &[10, 20, 40, 80, 160, 300, 300]);
        check(&[0, 600], &[10, 20]);
        check(&[0, 601], &[10, 10]);
    }

    #[test]
    fn a_wait_is_counted_from_the_failure() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let held = Some(Backoff { delay: Duration::from_secs(10), since: at(0) });
        assert_eq!(KUBELET.waits_until(None, at(5), at(5)), None);
        assert_eq!(KUBELET.waits_until(held, at(5), at(14)), Some(at(15)));
        assert_eq!(KUBELET.waits_until(held, at(5), at(15)), None);
        assert_eq!(KUBELET.waits_until(held, at(700), at(701)), None);
    }

    #[test]
    fn durations_print_as_go_prints_them() {
        for (millis, shown) in [
            (0, "0s"),
            (500, "500ms"),
            (1200, "1.2s"),
            (10_000, "10s"),
            (80_000, "1m20s"),
            (300_000, "5m0s"),
            (1_050, "1.05s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(millis)), shown);
        }
    }
}
