//! What the server counts, under upstream's names where upstream has one, in the text that Prometheus reads.
//!
//! Labels come from the resource table and from fixed lists, never from what a client sends, so their number is bounded.
//! Source: `k8s.io/apiserver/pkg/endpoints/metrics`.

use std::borrow::Cow;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::fairness::FlowMetrics;

pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
pub const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Upper bounds of the request duration histogram, in seconds: upstream's range, less fine, and finer below 5 ms.
const DURATION_BUCKETS_S: &[f64] = &[
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 4.0, 6.0, 10.0,
    20.0, 30.0, 60.0,
];

/// What a request was about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Labels {
    /// `GET`, `LIST`, `WATCH`, `POST`, `PUT`, `PATCH`, `APPLY`, `DELETE`, `DELETECOLLECTION`, `CONNECT`
    pub verb: Cow<'static, str>,
    pub group: Cow<'static, str>,
    pub version: Cow<'static, str>,
    /// Empty for paths that are no resource's and for resources that are not served.
    pub resource: Cow<'static, str>,
    pub subresource: Cow<'static, str>,
    /// `resource`, `namespace`, `cluster`, or empty.
    pub scope: Cow<'static, str>,
    /// `All` or empty.
    pub dry_run: Cow<'static, str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    verb: Cow<'static, str>,
    group: Cow<'static, str>,
    version: Cow<'static, str>,
    resource: Cow<'static, str>,
    subresource: Cow<'static, str>,
    scope: Cow<'static, str>,
    dry_run: Cow<'static, str>,
    component: &'static str,
    code: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestKind {
    request_kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResource {
    group: Cow<'static, str>,
    resource: Cow<'static, str>,
}

/// What is looked at when somebody asks, rather than counted as it happens.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub resources: Vec<ObservedResource>,
    pub cache_revision: u64,
    pub store_bytes: u64,
}

#[derive(Clone, Debug)]
pub struct ObservedResource {
    pub group: Cow<'static, str>,
    pub resource: Cow<'static, str>,
    pub objects: usize,
    pub watchers: usize,
}

/// Registers what somebody else counts.
pub type Register = Box<dyn FnOnce(&mut Registry) + Send>;

type Gauges<L> = Family<L, Gauge>;

pub struct Metrics {
    registry: Registry,
    requests: Family<Outcome, Counter>,
    durations: Family<Labels, Histogram, fn() -> Histogram>,
    in_flight: Gauges<RequestKind>,
    long_running: Gauges<Labels>,
    rejected: Family<RequestKind, Counter>,
    objects: Gauges<OfResource>,
    watchers: Gauges<OfResource>,
    cache_revision: Gauge<u64, AtomicU64>,
    store_bytes: Gauge<u64, AtomicU64>,
    resident_bytes: Gauge<u64, AtomicU64>,
    pub flow: FlowMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let durations: fn() -> Histogram = || Histogram::new(DURATION_BUCKETS_S.iter().copied());
        let metrics = Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(durations),
            in_flight: Family::default(),
            long_running: Family::default(),
            rejected: Family::default(),
            objects: Family::default(),
            watchers: Family::default(),
            cache_revision: Gauge::default(),
            store_bytes: Gauge::default(),
            resident_bytes: Gauge::default(),
            flow: FlowMetrics::default(),
            registry: Registry::default(),
        };
        registry.register(
            "apiserver_request",
            "Requests by what they were about and how they were answered",
            metrics.requests.clone(),
        );
        registry.register_with_unit(
            "apiserver_request_duration",
            "Time from the request's headers to its reply; watches and other long-running requests are left out",
            Unit::Seconds,
            metrics.durations.clone(),
        );
        registry.register("apiserver_current_inflight_requests", "Requests under way", metrics.in_flight.clone());
        registry.register(
            "apiserver_longrunning_requests",
            "Watches and other long-running requests under way",
            metrics.long_running.clone(),
        );
        registry.register(
            "apiserver_dropped_requests",
            "Requests refused with 429 because too many were under way",
            metrics.rejected.clone(),
        );
        registry.register("apiserver_storage_objects", "Objects stored", metrics.objects.clone());
        registry.register("apiserver_watch_cache_watchers", "Watchers of a resource", metrics.watchers.clone());
        registry.register(
            "apiserver_watch_cache_revision",
            "The revision that reads see",
            metrics.cache_revision.clone(),
        );
        registry.register("apiserver_storage_size_bytes", "Size of the store", metrics.store_bytes.clone());
        registry.register(
            "process_resident_memory_bytes",
            "Resident memory of the process",
            metrics.resident_bytes.clone(),
        );
        metrics.flow.register(&mut registry);
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// For what others count.
    pub fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// A request has been answered. `duration` is none for a long-running one.
    pub fn answered(&self, labels: &Labels, code: u16, duration: Option<Duration>) {
        let Labels { verb, group, version, resource, subresource, scope, dry_run } = labels.clone();
        let component = "apiserver";
        let outcome = Outcome { verb, group, version, resource, subresource, scope, dry_run, component, code };
        self.requests.get_or_create(&outcome).inc();
        if let Some(duration) = duration {
            self.durations.get_or_create(labels).observe(duration.as_secs_f64());
        }
    }

    /// Counts a request as under way for as long as the guard lives.
    pub fn in_flight(&self, mutating: bool) -> Under {
        Under::new(self.in_flight.get_or_create(&kind(mutating)).clone())
    }

    /// Counts a long-running request as under way for as long as the guard lives.
    pub fn long_running(&self, labels: &Labels) -> Under {
        Under::new(self.long_running.get_or_create(labels).clone())
    }

    /// A request was refused with 429.
    pub fn rejected(&self, mutating: bool) {
        self.rejected.get_or_create(&kind(mutating)).inc();
    }

    /// All metrics as text, with what was observed just now.
    pub fn render(&self, observed: &Observed) -> Result<String, std::fmt::Error> {
        for held in &observed.resources {
            let labels = OfResource { group: held.group.clone(), resource: held.resource.clone() };
            self.objects.get_or_create(&labels).set(held.objects as i64);
            self.watchers.get_or_create(&labels).set(held.watchers as i64);
        }
        self.cache_revision.set(observed.cache_revision);
        self.store_bytes.set(observed.store_bytes);
        self.resident_bytes.set(resident_bytes().unwrap_or_default());
        let mut text = String::with_capacity(16 << 10);
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn kind(mutating: bool) -> RequestKind {
    RequestKind { request_kind: if mutating { "mutating" } else { "readOnly" } }
}

/// Resident memory as Linux tells it.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes << 10)
}

/// One more while it lives.
pub struct Under(Gauge);

impl Under {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Under {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(metrics: &Metrics, line: &str) {
        let text = metrics.render(&Observed::default()).expect("render");
        assert!(text.lines().any(|held| held == line), "{line} is not in\n{text}");
    }

    #[test]
    fn requests_are_counted_under_upstreams_names() {
        let metrics = Metrics::default();
        let labels = Labels { verb: "LIST".into(), version: "v1".into(), resource: "pods".into(), ..Labels::default() };
        metrics.answered(&labels, 200, Some(Duration::from_millis(3)));
        metrics.answered(&labels, 200, None);
        let held = r#"verb="LIST",group="",version="v1",resource="pods",subresource="",scope="",dry_run="""#;
        check(&metrics, &format!(r#"apiserver_request_total{{{held},component="apiserver",code="200"}} 2"#));
        check(&metrics, &format!("apiserver_request_duration_seconds_count{{{held}}} 1"));
    }

    #[test]
    fn guards_count_what_is_under_way() {
        let metrics = Metrics::default();
        let line = |count: u32| format!(r#"apiserver_current_inflight_requests{{request_kind="mutating"}} {count}"#);
        let guard = metrics.in_flight(true);
        check(&metrics, &line(1));
        drop(guard);
        check(&metrics, &line(0));
    }

    #[test]
    fn what_is_observed_shows() {
        let metrics = Metrics::default();
        let pods = ObservedResource { group: "".into(), resource: "pods".into(), objects: 3, watchers: 2 };
        let observed = Observed { resources: vec![pods], cache_revision: 7, store_bytes: 9 };
        let text = metrics.render(&observed).expect("render");
        for line in [
            r#"apiserver_storage_objects{group="",resource="pods"} 3"#,
            r#"apiserver_watch_cache_watchers{group="",resource="pods"} 2"#,
            "apiserver_watch_cache_revision 7",
            "apiserver_storage_size_bytes 9",
        ] {
            assert!(text.lines().any(|held| held == line), "{line} is not in\n{text}");
        }
        assert!(text.contains("process_resident_memory_bytes"));
    }
}
