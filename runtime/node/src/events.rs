//! Events, written beside everything else and never in its way.
//!
//! [`Recorder::record`] puts an event into a bounded queue and returns; one task writes them. The same event again within
//! [`REMEMBERED`] others becomes a higher count on the first one, as upstream's event correlator does. Invariants: a full
//! queue drops events (and counts them), never delays a pod. Absent on purpose: retries (an event is a hint, not state).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::names;

/// Events that wait to be written.
const QUEUE_LIMIT: usize = 16_384;
/// Written at the same time.
const MAX_WRITES: usize = 8;
/// Events that may still be counted up.
const REMEMBERED: usize = 4096;
/// Longest message, as upstream's validation has it.
const MAX_MESSAGE_BYTES: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Normal,
    Warning,
}

struct Entry {
    about: ObjectReference,
    kind: Kind,
    reason: &'static str,
    message: String,
    at: Timestamp,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Entry>,
    clock: crate::Clock,
    dropped: Arc<AtomicU64>,
}

/// The other end: writes what was recorded.
pub struct Writer {
    queue: mpsc::Receiver<Entry>,
    client: Client,
    host: String,
}

pub fn recorder(client: Client, host: &str, clock: crate::Clock) -> (Recorder, Writer) {
    let (sender, queue) = mpsc::channel(QUEUE_LIMIT);
    (Recorder { queue: sender, clock, dropped: Arc::default() }, Writer { queue, client, host: host.to_owned() })
}

impl Recorder {
    /// About a pod, or one of its containers.
    pub fn pod(
        &self,
        pod: &Pod,
        container: Option<&str>,
        kind: Kind,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            field_path: container.map(|name| field_path(pod, name)),
        };
        self.record(about, kind, reason, message.into());
    }

    pub fn record(&self, about: ObjectReference, kind: Kind, reason: &'static str, mut message: String) {
        if message.len() > MAX_MESSAGE_BYTES {
            let end = (0..=MAX_MESSAGE_BYTES).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
            message.truncate(end);
        }
        let entry = Entry { about, kind, reason, message, at: (self.clock)() };
        if self.queue.try_send(entry).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Events that were not written because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

fn field_path(pod: &Pod, container: &str) -> String {
    let main = pod.spec.as_ref().is_none_or(|spec| spec.containers.iter().any(|main| main.name == container));
    format!("spec.{}{{{container}}}", if main { "containers" } else { "initContainers" })
}

/// What makes two events the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Sameness {
    uid: Option<String>,
    field_path: Option<String>,
    kind: Kind,
    reason: &'static str,
    message: String,
}

/// What to write for an entry.
enum Write {
    Create(Box<Event>),
    Count { namespace: String, name: String, count: i32, at: Timestamp },
}

/// Remembers the latest events to count them up.
#[derive(Default)]
struct Correlator {
    known: HashMap<Sameness, (String, i32)>,
    order: VecDeque<Sameness>,
}

impl Correlator {
    fn write(&mut self, entry: Entry, host: &str) -> Write {
        let same = Sameness {
            uid: entry.about.uid.clone(),
            field_path: entry.about.field_path.clone(),
            kind: entry.kind,
            reason: entry.reason,
            message: entry.message.clone(),
        };
        if let Some((name, count)) = self.known.get_mut(&same) {
            *count = count.saturating_add(1);
            let namespace = entry.about.namespace.unwrap_or_else(|| "default".to_owned());
            return Write::Count { namespace, name: name.clone(), count: *count, at: entry.at };
        }
        let name = format!("{}.{:016x}", entry.about.name.as_deref().unwrap_or_default(), unique_stamp(entry.at));
        if self.order.len() >= REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(same.clone());
        self.known.insert(same, (name.clone(), 1));
        Write::Create(Box::new(event(entry, name, host)))
    }
}

/// Nanoseconds, made unique within the process.
fn unique_stamp(at: Timestamp) -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = u64::try_from(at.as_nanosecond()).unwrap_or(0);
    let next = |last: u64| Some(now.max(last + 1));
    LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).map_or(now, |last| now.max(last + 1))
}

fn event(entry: Entry, name: String, host: &str) -> Event {
    let at = Some(names::time(entry.at));
    let namespace = entry.about.namespace.clone().unwrap_or_else(|| "default".to_owned());
    Event {
        metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..ObjectMeta::default() },
        involved_object: entry.about,
        reason: Some(entry.reason.to_owned()),
        message: Some(entry.message),
        type_: Some(match entry.kind {
            Kind::Normal => "Normal".to_owned(),
            Kind::Warning => "Warning".to_owned(),
        }),
        count: Some(1),
        first_timestamp: at.clone(),
        last_timestamp: at,
        source: Some(EventSource { component: Some("kubelet".to_owned()), host: Some(host.to_owned()) }),
        reporting_component: Some("kubelet".to_owned()),
        reporting_instance: Some(host.to_owned()),
        ..Event::default()
    }
}

impl Writer {
    /// Writes until `cancel`; what waits then is given up.
    pub async fn run(self, cancel: CancellationToken) {
        let Writer { queue, client, host } = self;
        let mut correlator = Correlator::default();
        let writes =
            futures::stream::unfold(queue, |mut queue| async move { queue.recv().await.map(|entry| (entry, queue)) })
                .map(|entry| send(client.clone(), correlator.write(entry, &host)))
                .buffer_unordered(MAX_WRITES)
                .for_each(|()| std::future::ready(()));
        cancel.run_until_cancelled(writes).await;
    }
}

async fn send(client: Client, write: Write) {
    let result = match write {
        Write::Create(event) => {
            let namespace = event.metadata.namespace.clone().unwrap_or_default();
            Api::<Event>::namespaced(client, &namespace).create(&PostParams::default(), &event).await.map(drop)
        }
        Write::Count { namespace, name, count, at } => {
            let patch = json!({"count": count, "lastTimestamp": names::time(at)});
            Api::<Event>::namespaced(client, &namespace)
                .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
                .await
                .map(drop)
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "write event");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(reason: &'static str, message: &str) -> Entry {
        let about = ObjectReference {
            name: Some("p".into()),
            namespace: Some("d".into()),
            uid: Some("u".into()),
            ..Default::default()
        };
        Entry { about, kind: Kind::Normal, reason, message: message.into(), at: Timestamp::from_second(5).unwrap() }
    }

    fn show(write: Write) -> String {
        match write {
            Write::Create(event) => format!("create {} {}", event.reason.unwrap(), event.message.unwrap()),
            Write::Count { count, .. } => format!("count {count}"),
        }
    }

    #[test]
    fn the_same_event_is_counted_and_a_forgotten_one_is_new() {
        let mut correlator = Correlator::default();
        let mut write = |entry| show(correlator.write(entry, "n"));
        assert_eq!(write(entry("BackOff", "x")), "create BackOff x");
        assert_eq!(write(entry("BackOff", "x")), "count 2");
        assert_eq!(write(entry("BackOff", "y")), "create BackOff y");
        for index in 0..REMEMBERED {
            write(entry("Other", &index.to_string()));
        }
        assert_eq!(write(entry("BackOff", "x")), "create BackOff x");
    }

    #[test]
    fn names_are_unique_at_one_instant() {
        let at = Timestamp::from_second(7).unwrap();
        assert_ne!(unique_stamp(at), unique_stamp(at));
    }
}
