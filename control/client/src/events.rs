//! Reports what happened to an object as a `core/v1` Event.
//!
//! Best effort: reporting never waits, and what does not fit the queue is dropped and counted. A report that repeats raises
//! `count` and `lastTimestamp` of the Event that is there; many similar reports about one object fold into one.
//! An object that is reported on all the time has a budget, so a large scale-up costs tens of writes and not thousands.
//! Source of the behaviour: `k8s.io/client-go/tools/record` (`EventCorrelator`).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wharf_types::k8s::api::core::v1::{Event, EventSource, ObjectReference};
use wharf_types::meta::{ObjectMeta, Time};

use crate::clock::Clock;

/// Reports that wait to be written.
const QUEUE_LIMIT: usize = 1000;
/// Events that are remembered, to count repetitions.
const MEMORY_LIMIT: usize = 4096;
/// So many different messages with the same reason about one object fold into one, within this time.
const SIMILAR_LIMIT: usize = 10;
const SIMILAR_WINDOW: SignedDuration = SignedDuration::from_secs(600);
/// Writes about one object that may come at once, and how often one more is allowed. Source: `maxBurst` and `qps` of the
/// spam filter.
const BURST: u32 = 25;
const REFILL: SignedDuration = SignedDuration::from_secs(300);
/// Source: `validation.NoteLengthLimit`.
const MESSAGE_LIMIT_BYTES: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Normal,
    Warning,
}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Severity::Normal => "Normal",
            Severity::Warning => "Warning",
        }
    }
}

/// Takes reports; cheap to clone. Made together with the [`Writer`] that must be run.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Report>,
    dropped: Arc<AtomicU64>,
}

/// Writes what the recorders took.
pub struct Writer {
    client: Client,
    component: &'static str,
    clock: Clock,
    reports: mpsc::Receiver<Report>,
    correlator: Correlator,
}

#[derive(Clone, Debug)]
struct Report {
    about: ObjectReference,
    severity: Severity,
    reason: &'static str,
    message: String,
}

impl Recorder {
    /// `component` is shown as the event's source.
    pub fn new(client: Client, component: &'static str, clock: Clock) -> (Self, Writer) {
        let (queue, reports) = mpsc::channel(QUEUE_LIMIT);
        let writer = Writer { client, component, clock, reports, correlator: Correlator::default() };
        (Self { queue, dropped: Arc::default() }, writer)
    }

    pub fn normal<K: kube::Resource<DynamicType = ()>>(
        &self,
        about: &K,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.report(about.object_ref(&()), Severity::Normal, reason, message.into());
    }

    pub fn warning<K: kube::Resource<DynamicType = ()>>(
        &self,
        about: &K,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.report(about.object_ref(&()), Severity::Warning, reason, message.into());
    }

    pub fn report(&self, about: ObjectReference, severity: Severity, reason: &'static str, message: String) {
        let message = clipped(message);
        if self.queue.try_send(Report { about, severity, reason, message }).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Reports that found the queue full, or nobody to write them.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

fn clipped(mut message: String) -> String {
    if message.len() > MESSAGE_LIMIT_BYTES {
        let end = (0..=MESSAGE_LIMIT_BYTES).rev().find(|&at| message.is_char_boundary(at)).unwrap_or(0);
        message.truncate(end);
    }
    message
}

impl Writer {
    /// Writes reports until `cancel`; those that wait then are dropped.
    pub async fn run(&mut self, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                report = self.reports.recv() => match report {
                    Some(report) => self.write(report).await,
                    None => return,
                },
            }
        }
    }

    async fn write(&mut self, report: Report) {
        let now = self.clock.now();
        let namespace = report.about.namespace.clone().filter(|name| !name.is_empty());
        let api = Api::<Event>::namespaced(self.client.clone(), namespace.as_deref().unwrap_or("default"));
        if !self.correlator.affords(&report.about, now) {
            return;
        }
        let (slot, message) = self.correlator.count(&report, now);
        if let Some(name) = slot.event.clone() {
            let patch = json!({"count": slot.count, "lastTimestamp": Time(now), "message": message});
            match api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => return,
                Err(kube::Error::Api(status)) if status.is_not_found() => slot.count = 1,
                Err(error) => return tracing::debug!(error = &error as &dyn std::error::Error, "patch event"),
            }
        }
        let (first, count) = (slot.first, slot.count);
        let event = new_event(&report, &message, self.component, first, now, count);
        slot.event = event.metadata.name.clone();
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            slot.event = None;
            // An event about an object in a namespace that is going away, for example.
            tracing::debug!(error = &error as &dyn std::error::Error, "create event");
        }
    }
}

fn new_event(report: &Report, message: &str, component: &str, first: Timestamp, now: Timestamp, count: i32) -> Event {
    let about = &report.about;
    let namespace = about.namespace.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned());
    let name = about.name.as_deref().unwrap_or_default();
    Event {
        metadata: ObjectMeta {
            // Upstream's form: unique, and sorts by time for an object.
            name: Some(format!("{name}.{:x}", now.as_nanosecond())),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        involved_object: about.clone(),
        type_: Some(report.severity.name().to_owned()),
        reason: Some(report.reason.to_owned()),
        message: Some(message.to_owned()),
        source: Some(EventSource { component: Some(component.to_owned()), host: None }),
        reporting_component: Some(component.to_owned()),
        reporting_instance: Some(String::new()),
        first_timestamp: Some(Time(first)),
        last_timestamp: Some(Time(now)),
        count: Some(count),
        ..Event::default()
    }
}

/// Which reports are the same, and which are so similar that they count as the same.
#[derive(Default)]
struct Correlator {
    slots: HashMap<Key, Slot>,
    similar: HashMap<Key, Similar>,
    budgets: HashMap<String, Budget>,
}

/// What may still be written about an object.
struct Budget {
    left: u32,
    since: Timestamp,
}

/// Object UID, severity, reason; and the message, or nothing where messages are folded.
type Key = (String, &'static str, &'static str, Option<String>);

struct Slot {
    /// The Event that counts it, once written.
    event: Option<String>,
    count: i32,
    first: Timestamp,
    last: Timestamp,
}

struct Similar {
    messages: Vec<String>,
    last: Timestamp,
}

impl Correlator {
    /// Takes one write from the object's budget, if one is left.
    fn affords(&mut self, about: &ObjectReference, now: Timestamp) -> bool {
        if self.budgets.len() >= MEMORY_LIMIT {
            self.budgets.retain(|_, budget| now.duration_since(budget.since) < REFILL);
        }
        if self.budgets.len() >= MEMORY_LIMIT {
            return false;
        }
        let budget = self.budgets.entry(identity(about)).or_insert(Budget { left: BURST, since: now });
        let earned = now.duration_since(budget.since).as_secs() / REFILL.as_secs();
        if let Some(earned) = u32::try_from(earned).ok().filter(|earned| *earned > 0) {
            budget.left = budget.left.saturating_add(earned).min(BURST);
            budget.since = now;
        }
        let affords = budget.left > 0;
        budget.left = budget.left.saturating_sub(1);
        affords
    }

    fn count(&mut self, report: &Report, now: Timestamp) -> (&mut Slot, String) {
        self.forget_old();
        let folded: Key = (identity(&report.about), report.severity.name(), report.reason, None);
        let similar = self.similar.entry(folded.clone()).or_insert(Similar { messages: Vec::new(), last: now });
        if now.duration_since(similar.last) > SIMILAR_WINDOW {
            similar.messages.clear();
        }
        similar.last = now;
        let known = similar.messages.contains(&report.message);
        let (key, message) = if !known && similar.messages.len() >= SIMILAR_LIMIT {
            (folded, format!("(combined from similar events): {}", report.message))
        } else {
            if !known {
                similar.messages.push(report.message.clone());
            }
            let (identity, severity, reason, _) = folded;
            ((identity, severity, reason, Some(report.message.clone())), report.message.clone())
        };
        let slot = self.slots.entry(key).or_insert(Slot { event: None, count: 0, first: now, last: now });
        slot.count += 1;
        slot.last = now;
        (slot, message)
    }

    /// Keeps the younger half when full.
    fn forget_old(&mut self) {
        if self.slots.len() >= MEMORY_LIMIT {
            let mut ages: Vec<Timestamp> = self.slots.values().map(|slot| slot.last).collect();
            ages.sort_unstable();
            let middle = ages[ages.len() / 2];
            self.slots.retain(|_, slot| slot.last > middle);
        }
        if self.similar.len() >= MEMORY_LIMIT {
            let mut ages: Vec<Timestamp> = self.similar.values().map(|similar| similar.last).collect();
            ages.sort_unstable();
            let middle = ages[ages.len() / 2];
            self.similar.retain(|_, similar| similar.last > middle);
        }
    }
}

fn identity(about: &ObjectReference) -> String {
    about.uid.clone().or_else(|| about.name.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(correlator: &mut Correlator, at_s: i64, message: &str, expected_count: i32, expected_message: &str) {
        let about = ObjectReference { uid: Some("uid".to_owned()), ..ObjectReference::default() };
        let report = Report { about, severity: Severity::Normal, reason: "Reason", message: message.to_owned() };
        let now = Timestamp::from_second(at_s).expect("in range");
        let (slot, message) = correlator.count(&report, now);
        assert_eq!((slot.count, message.as_str()), (expected_count, expected_message));
    }

    #[test]
    fn repetitions_raise_the_count() {
        let mut correlator = Correlator::default();
        check(&mut correlator, 0, "a", 1, "a");
        check(&mut correlator, 1, "b", 1, "b");
        check(&mut correlator, 2, "a", 2, "a");
    }

    #[test]
    fn many_similar_reports_fold_into_one() {
        let mut correlator = Correlator::default();
        for number in 0..SIMILAR_LIMIT {
            check(&mut correlator, 0, &number.to_string(), 1, &number.to_string());
        }
        check(&mut correlator, 1, "x", 1, "(combined from similar events): x");
        check(&mut correlator, 2, "y", 2, "(combined from similar events): y");
        check(&mut correlator, 3, "1", 2, "1");
        check(&mut correlator, 4 + SIMILAR_WINDOW.as_secs(), "z", 1, "z");
    }

    #[test]
    fn what_is_remembered_has_a_limit() {
        let mut correlator = Correlator::default();
        for number in 0..3 * MEMORY_LIMIT as i64 {
            let about = ObjectReference { uid: Some(number.to_string()), ..ObjectReference::default() };
            let report = Report { about, severity: Severity::Warning, reason: "Reason", message: "m".to_owned() };
            correlator.count(&report, Timestamp::from_second(number).expect("in range"));
            assert!(correlator.slots.len() <= MEMORY_LIMIT && correlator.similar.len() <= MEMORY_LIMIT);
        }
    }

    #[test]
    fn an_object_has_a_budget_that_refills() {
        let mut correlator = Correlator::default();
        let about = ObjectReference { uid: Some("uid".to_owned()), ..ObjectReference::default() };
        let mut written = |at_s: i64| {
            let now = Timestamp::from_second(at_s).expect("in range");
            (0..100).filter(|_| correlator.affords(&about, now)).count()
        };
        assert_eq!([written(0), written(10), written(REFILL.as_secs() * 2)], [BURST as usize, 0, 2]);
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        assert_eq!(clipped("é".repeat(MESSAGE_LIMIT_BYTES)).len(), MESSAGE_LIMIT_BYTES);
        assert_eq!(clipped(format!("a{}", "é".repeat(MESSAGE_LIMIT_BYTES))).len(), MESSAGE_LIMIT_BYTES - 1);
    }
}
