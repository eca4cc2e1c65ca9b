//! Pods that wait for a node: ready ones by priority and age, failed ones resting, unschedulable ones until something changes.
//!
//! Source: `pkg/scheduler/backend/queue`. Invariant: a pod is in at most one of the three.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use wharf_client::ObjectKey;

use crate::framework::{Change, Framework};
use crate::pod::PodInfo;

/// The rest after a pod's first failure; doubles up to [`MAX_BACKOFF`].
pub const INITIAL_BACKOFF: Duration = Duration::from_secs(1);
pub const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// An unschedulable pod is tried again after this, should a wake-up have been missed.
pub const UNSCHEDULABLE_LIMIT: Duration = Duration::from_secs(5 * 60);

/// Highest priority first, then first come.
type Order = (Reverse<i32>, Timestamp, u64);

#[derive(Default)]
pub struct Queue {
    entries: HashMap<ObjectKey, Entry>,
    ready: BTreeMap<Order, ObjectKey>,
    /// Wake times of resting and unschedulable pods.
    timers: BTreeSet<(Timestamp, ObjectKey)>,
    arrivals: u64,
}

struct Entry {
    pod: Arc<PodInfo>,
    since: Timestamp,
    arrival: u64,
    attempts: u32,
    place: Place,
}

enum Place {
    Ready,
    /// Popped: a cycle or a bind has it.
    InFlight,
    Resting {
        until: Timestamp,
    },
    Unschedulable {
        until: Timestamp,
        rest_until: Timestamp,
        rejected_by: Vec<&'static str>,
    },
    /// Held by a pre-enqueue plugin until the pod changes.
    Held,
}

impl Queue {
    /// Adds a pod, or takes note of its change; a changed pod that was unschedulable is tried again.
    pub fn put(&mut self, pod: Arc<PodInfo>, framework: &Framework, now: Timestamp) {
        let held = framework.hold(&pod).is_some();
        let key = pod.key.clone();
        let before = self.take(&key);
        let (since, arrival, attempts) = match &before {
            Some(entry) if entry.pod.uid == pod.uid => (entry.since, entry.arrival, entry.attempts),
            _ => {
                self.arrivals += 1;
                (now, self.arrivals, 0)
            }
        };
        let place = match before {
            Some(Entry { pod: old, place, .. }) if old.uid == pod.uid => kept(place, same_wishes(&old, &pod), held),
            _ if held => Place::Held,
            _ => Place::Ready,
        };
        self.insert(key, Entry { pod, since, arrival, attempts, place });
    }

    /// Forgets a pod: it is bound, gone or somebody else's.
    pub fn remove(&mut self, key: &ObjectKey) {
        self.take(key);
    }

    /// The next pod to try.
    pub fn pop(&mut self) -> Option<Arc<PodInfo>> {
        let (_, key) = self.ready.pop_first()?;
        let entry = self.entries.get_mut(&key)?;
        entry.place = Place::InFlight;
        entry.attempts += 1;
        Some(entry.pod.clone())
    }

    /// Puts a popped pod back until something changes that could help.
    pub fn unschedulable(&mut self, key: &ObjectKey, rejected_by: Vec<&'static str>, now: Timestamp) {
        let Some(mut entry) = self.take(key) else { return };
        let rest_until = now + backoff(entry.attempts);
        entry.place = Place::Unschedulable { until: now + UNSCHEDULABLE_LIMIT, rest_until, rejected_by };
        self.insert(key.clone(), entry);
    }

    /// Puts a popped pod back after a failure that is not its own.
    pub fn failed(&mut self, key: &ObjectKey, now: Timestamp) {
        let Some(mut entry) = self.take(key) else { return };
        entry.place = Place::Resting { until: now + backoff(entry.attempts) };
        self.insert(key.clone(), entry);
    }

    /// Moves the pods that a change could help.
    pub fn wake(&mut self, change: &Change, framework: &Framework, now: Timestamp) {
        let helped = self.entries.iter().filter_map(|(key, entry)| match &entry.place {
            Place::Unschedulable { rest_until, rejected_by, .. }
                if framework.helps(&entry.pod, rejected_by, change) =>
            {
                Some((key.clone(), *rest_until))
            }
            _ => None,
        });
        for (key, rest_until) in helped.collect::<Vec<_>>() {
            let Some(mut entry) = self.take(&key) else { continue };
            entry.place = if rest_until > now { Place::Resting { until: rest_until } } else { Place::Ready };
            self.insert(key, entry);
        }
    }

    /// Moves the pods whose rest is over.
    pub fn tick(&mut self, now: Timestamp) {
        while let Some((_, key)) = self.timers.first().filter(|(at, _)| *at <= now).cloned() {
            let Some(mut entry) = self.take(&key) else { break };
            entry.place = Place::Ready;
            self.insert(key, entry);
        }
    }

    /// When [`Queue::tick`] has something to do next.
    pub fn next_tick(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Pods that wait, for the metric.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn take(&mut self, key: &ObjectKey) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        match &entry.place {
            Place::Ready => drop(self.ready.remove(&order(&entry))),
            Place::Resting { until } | Place::Unschedulable { until, .. } => {
                self.timers.remove(&(*until, key.clone()));
            }
            Place::InFlight | Place::Held => {}
        }
        Some(entry)
    }

    fn insert(&mut self, key: ObjectKey, entry: Entry) {
        match &entry.place {
            Place::Ready => drop(self.ready.insert(order(&entry), key.clone())),
            Place::Resting { until } | Place::Unschedulable { until, .. } => {
                self.timers.insert((*until, key.clone()));
            }
            Place::InFlight | Place::Held => {}
        }
        self.entries.insert(key, entry);
    }
}

/// Where a pod that is in the queue goes when it changes. A status patch of our own is no reason to try again.
fn kept(place: Place, same_wishes: bool, held: bool) -> Place {
    match place {
        Place::InFlight | Place::Resting { .. } => place,
        Place::Unschedulable { .. } if same_wishes => place,
        Place::Unschedulable { rest_until, .. } => Place::Resting { until: rest_until },
        Place::Ready | Place::Held if held => Place::Held,
        Place::Ready | Place::Held => Place::Ready,
    }
}

fn same_wishes(old: &PodInfo, new: &PodInfo) -> bool {
    old.pod.spec == new.pod.spec && old.pod.metadata.labels == new.pod.metadata.labels
}

fn order(entry: &Entry) -> Order {
    (Reverse(entry.pod.priority), entry.since, entry.arrival)
}

fn backoff(attempts: u32) -> Duration {
    INITIAL_BACKOFF.saturating_mul(1 << attempts.saturating_sub(1).min(10)).min(MAX_BACKOFF)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::tests::{node, pod, pod_with};
    use crate::plugins::tests::framework;

    const START: Timestamp = Timestamp::UNIX_EPOCH;

    fn name(pod: Option<Arc<PodInfo>>) -> Option<String> {
        pod.map(|pod| pod.key.name.to_string())
    }

    #[test]
    fn the_highest_priority_goes_first_then_the_oldest() {
        let (mut queue, framework) = (Queue::default(), framework());
        queue.put(Arc::new(pod("old", "1")), &framework, START);
        queue.put(Arc::new(pod("young", "1")), &framework, START);
        queue.put(Arc::new(pod_with("vip", json!({ "priority": 10, "containers": [] }))), &framework, START);
        let order: Vec<_> = std::iter::from_fn(|| name(queue.pop())).collect();
        assert_eq!(order, ["vip", "old", "young"]);
    }

    #[test]
    fn an_unschedulable_pod_wakes_when_something_could_help_it_and_its_rest_is_over() {
        let (mut queue, framework) = (Queue::default(), framework());
        queue.put(Arc::new(pod("p", "1")), &framework, START);
        let key = queue.pop().unwrap().key.clone();
        queue.unschedulable(&key, vec!["NodeResourcesFit"], START);
        assert_eq!(name(queue.pop()), None);
        queue.wake(&Change::NodeAdded(node("small", "100m")), &framework, START);
        queue.tick(START + Duration::from_secs(2));
        assert_eq!(name(queue.pop()), None, "too small a node helps nobody");
        queue.wake(&Change::NodeAdded(node("big", "4")), &framework, START);
        assert_eq!(name(queue.pop()), None, "it still rests");
        queue.tick(START + Duration::from_secs(1));
        assert_eq!(name(queue.pop()).as_deref(), Some("p"));
    }

    #[test]
    fn rests_double_up_to_their_limit() {
        let seconds: Vec<u64> = (1..=6).map(|attempts| backoff(attempts).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn gated_pods_wait_until_they_change() {
        let (mut queue, framework) = (Queue::default(), framework());
        let gated = json!({ "schedulingGates": [{ "name": "example.com/wait" }], "containers": [] });
        queue.put(Arc::new(pod_with("p", gated)), &framework, START);
        assert_eq!(name(queue.pop()), None);
        queue.put(Arc::new(pod_with("p", json!({ "containers": [] }))), &framework, START);
        assert_eq!(name(queue.pop()).as_deref(), Some("p"));
    }
}
