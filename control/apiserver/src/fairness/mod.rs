//! Priority and fairness: which requests run when there are more than the server can carry.
//!
//! Source: KEP-1040, `k8s.io/apiserver/pkg/util/flowcontrol`. A request is sorted by the flow schemas into a priority level, which
//! has seats of its own; within a level, flows that wait share its seats by fair queuing. Levels lend what they do not use.
//! The configuration is read again when its objects have changed, by the request that finds them so. Where nothing is stored
//! yet, what `wharf_registry::flowcontrol` suggests holds; what it makes mandatory always does.
//! Absent on purpose: a timer. Seats are divided anew by the first request after a period.

mod level;
mod metrics;
mod schema;
mod shares;
mod shuffle;
mod spec;
mod width;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName};
use parking_lot::Mutex;
use wharf_auth::User;
use wharf_registry::flowcontrol::{mandatory_levels, mandatory_schemas, suggested_levels, suggested_schemas};
use wharf_types::k8s::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};

pub use self::level::{Figures, Level, Refusal, Ticket};
use self::metrics::Counted;
pub use self::metrics::FlowMetrics;
use self::schema::Schema;
use self::spec::Spec;
pub use self::width::Width;
use crate::request::Info;

pub const GROUP: &str = "flowcontrol.apiserver.k8s.io";
/// Seats of the whole server: upstream's `--max-requests-inflight` and `--max-mutating-requests-inflight` together.
pub const SEATS: u32 = 600;
/// How often seats are divided anew. Source: `borrowingAdjustmentPeriod`.
const PERIOD: Duration = Duration::from_secs(10);
/// How long a request waits for its turn: a quarter of what it may take. Source: `RequestWaitLimit`.
const PATIENCE: Duration = Duration::from_secs(15);

const FLOW_SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const PRIORITY_LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// A schema with the level that it leads to.
pub struct Sorted {
    schema: Schema,
    pub level: Arc<Level>,
    counted: Counted,
}

impl Sorted {
    pub fn schema(&self) -> &str {
        &self.schema.name
    }

    /// Tells the client how its request was sorted.
    pub fn mark(&self, headers: &mut HeaderMap) {
        if let Some(uid) = &self.schema.uid {
            headers.insert(FLOW_SCHEMA_UID, uid.clone());
        }
        if let Some(uid) = &self.level.uid {
            headers.insert(PRIORITY_LEVEL_UID, uid.clone());
        }
    }
}

struct Config {
    /// In the order in which they are asked.
    schemas: Vec<Arc<Sorted>>,
    levels: Vec<Arc<Level>>,
}

pub struct Fairness {
    config: ArcSwap<Config>,
    total: u32,
    metrics: FlowMetrics,
    /// The version that the configuration was made of; held while it is made anew.
    read: Mutex<u64>,
    seen: AtomicU64,
    began: Instant,
    /// When seats were divided last, in milliseconds since the beginning.
    divided_ms: AtomicU64,
}

impl Default for Fairness {
    fn default() -> Self {
        Self::new(SEATS, FlowMetrics::default())
    }
}

impl Fairness {
    pub fn new(total: u32, metrics: FlowMetrics) -> Self {
        let began = Instant::now();
        let fairness = Self {
            config: ArcSwap::from_pointee(Config { schemas: Vec::new(), levels: Vec::new() }),
            total,
            metrics,
            read: Mutex::new(0),
            seen: AtomicU64::new(0),
            began,
            divided_ms: AtomicU64::new(0),
        };
        fairness.configure(&[], &[]);
        fairness
    }

    /// Where a request belongs. There is always somewhere: the catch-all takes what nothing else does.
    pub fn sort(&self, user: &User, info: &Info) -> Arc<Sorted> {
        let config = self.config.load();
        let found = config.schemas.iter().find(|sorted| sorted.schema.matches(user, info));
        // The mandatory schemas are always there, the catch-all last.
        found.or(config.schemas.last()).expect("the mandatory schemas are there").clone()
    }

    /// Seats for the request, as soon as it is its turn.
    pub async fn admit(&self, sorted: &Sorted, user: &User, info: &Info, width: Width) -> Result<Ticket, Refusal> {
        self.divide_if_due();
        let began = Instant::now();
        let result = sorted.level.acquire(width, PATIENCE, || sorted.schema.flow(user, info)).await;
        match &result {
            Ok(ticket) => {
                sorted.counted.dispatched.inc();
                sorted.counted.waits.observe(ticket.since().saturating_duration_since(began).as_secs_f64());
            }
            Err(refusal) => self.metrics.rejected(&sorted.level.name, &sorted.schema.name, refusal.reason()),
        }
        result
    }

    /// True where the stored configuration is not the one that holds. `version` is that of the newest change of either kind.
    pub fn is_stale(&self, version: u64) -> bool {
        self.seen.load(Ordering::Relaxed) != version
    }

    /// Takes up the stored configuration, as of this version.
    pub fn refresh(&self, version: u64, schemas: &[FlowSchema], levels: &[PriorityLevelConfiguration]) {
        let mut read = self.read.lock();
        if *read == version {
            return;
        }
        *read = version;
        self.configure(schemas, levels);
        self.seen.store(version, Ordering::Relaxed);
    }

    fn configure(&self, schemas: &[FlowSchema], levels: &[PriorityLevelConfiguration]) {
        let now = Instant::now();
        let is_empty = schemas.is_empty() && levels.is_empty();
        let suggested = if is_empty { suggested_levels() } else { Vec::new() };
        let levels = in_force(levels, mandatory_levels().into_iter().chain(suggested));
        let specs: Vec<(String, String, Spec)> = levels
            .iter()
            .filter_map(|object| {
                let meta = &object.metadata;
                Some((meta.name.clone()?, meta.uid.clone().unwrap_or_default(), Spec::read(object)?))
            })
            .collect();
        let bounds = shares::bounds(&specs.iter().map(|(_, _, spec)| *spec).collect::<Vec<_>>(), self.total);
        let held = self.config.load();
        let mut by_name: HashMap<&str, Arc<Level>> = HashMap::new();
        for ((name, uid, spec), bounds) in specs.iter().zip(bounds) {
            // A level that is here keeps its seats and its queues.
            let same = held.levels.iter().find(|level| {
                let own = level.uid.as_ref().and_then(|uid| uid.to_str().ok()).unwrap_or_default();
                level.name == *name && own == uid
            });
            let level = same.cloned().unwrap_or_else(|| Arc::new(Level::new(name, uid, now)));
            level.configure(*spec, bounds);
            by_name.insert(name, level);
        }
        let suggested = if is_empty { suggested_schemas() } else { Vec::new() };
        let schemas = in_force(schemas, mandatory_schemas().into_iter().chain(suggested));
        let mut sorted: Vec<Schema> = schemas.iter().filter_map(Schema::read).collect();
        sorted.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        // A schema whose level is missing leads nowhere, and is passed over.
        let schemas = sorted.into_iter().filter_map(|schema| {
            let level = by_name.get(schema.level.as_str())?.clone();
            let counted = self.metrics.counted(&level.name, &schema.name);
            Some(Arc::new(Sorted { schema, level, counted }))
        });
        let config = Config { schemas: schemas.collect(), levels: by_name.values().cloned().collect() };
        drop(held);
        self.config.store(Arc::new(config));
    }

    fn divide_if_due(&self) {
        let now_ms = self.began.elapsed().as_millis() as u64;
        let last = self.divided_ms.load(Ordering::Relaxed);
        let is_due = now_ms.saturating_sub(last) >= PERIOD.as_millis() as u64;
        let won = || self.divided_ms.compare_exchange(last, now_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_due && won() {
            self.divide();
        }
    }

    /// Divides the seats by what the levels wanted since the last time.
    fn divide(&self) {
        let now = Instant::now();
        let config = self.config.load();
        let limited: Vec<_> = config
            .levels
            .iter()
            .map(|level| (level, level.demand(now)))
            .filter(|(_, (spec, _, _))| matches!(spec, Spec::Limited(_)))
            .collect();
        let wanted: Vec<_> = limited.iter().map(|(_, (_, bounds, demand))| (*bounds, *demand)).collect();
        for ((level, _), limit) in limited.iter().zip(shares::divide(&wanted, self.total)) {
            level.set_limit(limit, now);
        }
    }

    /// Brings what the metrics show of the levels up to date.
    pub fn show(&self) {
        self.config.load().levels.iter().for_each(|level| self.metrics.show(&level.name, &level.figures()));
    }
}

/// What is stored, and of the rest what has no object of its name.
fn in_force<K: Clone + kube::Resource>(stored: &[K], rest: impl Iterator<Item = K>) -> Vec<K> {
    let is_stored = |object: &K| stored.iter().any(|held| held.meta().name == object.meta().name);
    let rest: Vec<K> = rest.filter(|object| !is_stored(object)).collect();
    stored.iter().cloned().chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::json;

    use super::*;
    use crate::query::Query;

    fn pods() -> Info {
        Info::parse(&Method::GET, "/api/v1/namespaces/default/pods", &Query::parse(""))
    }

    fn check(fairness: &Fairness, user: &User, expected: (&str, &str)) {
        let sorted = fairness.sort(user, &pods());
        assert_eq!((sorted.schema(), sorted.level.name.as_str()), expected, "{}", user.name);
    }

    #[test]
    fn what_is_stored_holds_and_what_is_mandatory_always_does() {
        let fairness = Fairness::default();
        let (jane, admin) = (User::new("jane", &[]), User::new("admin", &[wharf_auth::MASTERS]));
        check(&fairness, &jane, ("global-default", "global-default"));
        let level: PriorityLevelConfiguration = serde_json::from_value(json!({
            "metadata": {"name": "slow", "uid": "l-1"},
            "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}}},
        }))
        .expect("a level");
        let schema: FlowSchema = serde_json::from_value(json!({
            "metadata": {"name": "jane", "uid": "s-1"},
            "spec": {
                "priorityLevelConfiguration": {"name": "slow"}, "matchingPrecedence": 50,
                "rules": [{
                    "subjects": [{"kind": "User", "user": {"name": "jane"}}],
                    "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["pods"], "namespaces": ["*"]}],
                }],
            },
        }))
        .expect("a schema");
        fairness.refresh(7, &[schema], &[level]);
        assert!(!fairness.is_stale(7) && fairness.is_stale(8));
        check(&fairness, &jane, ("jane", "slow"));
        check(&fairness, &admin, ("exempt", "exempt"));
        check(&fairness, &User::new("joe", &[]), ("catch-all", "catch-all"));
        let mut headers = HeaderMap::new();
        fairness.sort(&jane, &pods()).mark(&mut headers);
        assert_eq!(
            (&headers[FLOW_SCHEMA_UID], &headers[PRIORITY_LEVEL_UID]),
            (&"s-1".parse().unwrap(), &"l-1".parse().unwrap())
        );
    }

    #[test]
    fn every_default_schema_leads_somewhere() {
        let config = Fairness::default().config.load_full();
        let schemas = mandatory_schemas().len() + suggested_schemas().len();
        let levels = mandatory_levels().len() + suggested_levels().len();
        assert_eq!((config.schemas.len(), config.levels.len()), (schemas, levels));
    }
}
