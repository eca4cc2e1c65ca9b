//! How long to wait before the next pod of a node on which they keep failing.
//!
//! Invariant: what is remembered of a DaemonSet is one entry for each node, and only of its present generation.
//! Source: `failedPodsBackoff`, a `flowcontrol.Backoff`.

use std::collections::HashMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use wharf_client::ObjectKey;

/// The pause after a first failure; it doubles with each further one.
const FIRST: SignedDuration = SignedDuration::from_secs(1);
const MOST: SignedDuration = SignedDuration::from_secs(15 * 60);

/// Which failures count together: the set's UID and the generation that its status is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Era {
    pub uid: Option<String>,
    pub generation: Option<i64>,
}

#[derive(Default)]
pub struct Backoff {
    sets: HashMap<ObjectKey, (Era, HashMap<String, Pause>)>,
}

struct Pause {
    length: SignedDuration,
    since: Timestamp,
}

impl Pause {
    /// So long ago that failures begin anew.
    fn is_over(&self, now: Timestamp) -> bool {
        now.duration_since(self.since) > MOST * 2
    }
}

impl Backoff {
    /// How long the node's failed pods must stay yet.
    pub fn left(&self, set: &ObjectKey, era: &Era, node: &str, now: Timestamp) -> Option<Duration> {
        let (of, pauses) = self.sets.get(set)?;
        let pause = pauses.get(node).filter(|pause| of == era && !pause.is_over(now))?;
        let left = pause.length - now.duration_since(pause.since);
        Duration::try_from(left).ok().filter(|left| !left.is_zero())
    }

    /// A failed pod of the node is deleted.
    pub fn failed(&mut self, set: &ObjectKey, era: &Era, node: &str, now: Timestamp) {
        let (of, pauses) = self.sets.entry(set.clone()).or_default();
        if of != era {
            (*of, *pauses) = (era.clone(), HashMap::new());
        }
        pauses.retain(|_, pause| !pause.is_over(now));
        let length = pauses.get(node).map_or(FIRST, |pause| (pause.length * 2).min(MOST));
        pauses.insert(node.to_owned(), Pause { length, since: now });
    }

    pub fn forget(&mut self, set: &ObjectKey) {
        self.sets.remove(set);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::fixtures::{NOW_S, now};

    fn at(after_s: i64) -> Timestamp {
        Timestamp::from_second(NOW_S + after_s).expect("in range")
    }

    fn check(backoff: &Backoff, era: &Era, after_s: i64, expected_s: Option<u64>) {
        let left = backoff.left(&ObjectKey::new("default", "agent"), era, "n1", at(after_s));
        assert_eq!(left.map(|left| left.as_secs()), expected_s);
    }

    #[test]
    fn pauses_double_up_to_a_limit_and_end() {
        let (mut backoff, era, set) = (Backoff::default(), Era::default(), ObjectKey::new("default", "agent"));
        check(&backoff, &era, 0, None);
        backoff.failed(&set, &era, "n1", now());
        check(&backoff, &era, 0, Some(1));
        check(&backoff, &era, 1, None);
        backoff.failed(&set, &era, "n1", at(1));
        check(&backoff, &era, 1, Some(2));
        (0..20).for_each(|_| backoff.failed(&set, &era, "n1", at(2)));
        check(&backoff, &era, 2, Some(900));
        backoff.failed(&set, &era, "n1", at(3 + 1800));
        check(&backoff, &era, 3 + 1800, Some(1));
    }

    #[test]
    fn a_new_generation_begins_anew() {
        let (mut backoff, set) = (Backoff::default(), ObjectKey::new("default", "agent"));
        let era = |generation| Era { uid: None, generation: Some(generation) };
        backoff.failed(&set, &era(1), "n1", now());
        check(&backoff, &era(2), 0, None);
        backoff.failed(&set, &era(2), "n2", now());
        check(&backoff, &era(1), 0, None);
        backoff.forget(&set);
        assert!(backoff.sets.is_empty());
    }
}
