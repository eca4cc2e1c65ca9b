//! What priority and fairness counts, under upstream's names. Source: `k8s.io/apiserver/pkg/util/flowcontrol/metrics`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::Figures;

/// Upper bounds of the waits, in seconds.
const WAIT_BUCKETS_S: &[f64] = &[0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0];

/// Names of stored objects, so as many as there are of those.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfFlow {
    pub priority_level: String,
    pub flow_schema: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfRefusal {
    pub priority_level: String,
    pub flow_schema: String,
    pub reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfLevel {
    pub priority_level: String,
}

type Gauges = Family<OfLevel, Gauge>;

#[derive(Clone)]
pub struct FlowMetrics {
    dispatched: Family<OfFlow, Counter>,
    rejected: Family<OfRefusal, Counter>,
    waits: Family<OfFlow, Histogram, fn() -> Histogram>,
    waiting: Gauges,
    executing: Gauges,
    in_use: Gauges,
    nominal: Gauges,
    lowest: Gauges,
    highest: Gauges,
    limit: Gauges,
}

/// What is counted for each request of a schema.
pub struct Counted {
    pub dispatched: Counter,
    pub waits: Histogram,
}

impl Default for FlowMetrics {
    fn default() -> Self {
        let waits: fn() -> Histogram = || Histogram::new(WAIT_BUCKETS_S.iter().copied());
        Self {
            dispatched: Family::default(),
            rejected: Family::default(),
            waits: Family::new_with_constructor(waits),
            waiting: Family::default(),
            executing: Family::default(),
            in_use: Family::default(),
            nominal: Family::default(),
            lowest: Family::default(),
            highest: Family::default(),
            limit: Family::default(),
        }
    }
}

impl FlowMetrics {
    pub fn register(&self, registry: &mut Registry) {
        let named = |name: &str| format!("apiserver_flowcontrol_{name}");
        registry.register(named("dispatched_requests"), "Requests that were let in", self.dispatched.clone());
        registry.register(named("rejected_requests"), "Requests that were refused with 429", self.rejected.clone());
        let wait = "How long requests waited for their seats";
        registry.register_with_unit(named("request_wait_duration"), wait, Unit::Seconds, self.waits.clone());
        for (name, help, gauges) in [
            ("current_inqueue_requests", "Requests that wait", &self.waiting),
            ("current_executing_requests", "Requests under way", &self.executing),
            ("current_executing_seats", "Seats in use", &self.in_use),
            ("nominal_limit_seats", "Seats by shares", &self.nominal),
            ("lower_limit_seats", "Seats that are never lent", &self.lowest),
            ("upper_limit_seats", "Seats with all that may be borrowed", &self.highest),
            ("current_limit_seats", "Seats that the level has now", &self.limit),
        ] {
            registry.register(named(name), help, gauges.clone());
        }
    }

    pub fn counted(&self, priority_level: &str, flow_schema: &str) -> Counted {
        let flow = OfFlow { priority_level: priority_level.to_owned(), flow_schema: flow_schema.to_owned() };
        Counted {
            dispatched: self.dispatched.get_or_create(&flow).clone(),
            waits: self.waits.get_or_create(&flow).clone(),
        }
    }

    pub fn rejected(&self, priority_level: &str, flow_schema: &str, reason: &'static str) {
        let refusal =
            OfRefusal { priority_level: priority_level.to_owned(), flow_schema: flow_schema.to_owned(), reason };
        self.rejected.get_or_create(&refusal).inc();
    }

    pub fn show(&self, level: &str, figures: &Figures) {
        let of = OfLevel { priority_level: level.to_owned() };
        let Figures { bounds, limit, executing, in_use, waiting } = *figures;
        for (gauges, value) in [
            (&self.waiting, waiting as i64),
            (&self.executing, executing.into()),
            (&self.in_use, in_use.into()),
            (&self.nominal, bounds.nominal.into()),
            (&self.lowest, bounds.lowest.into()),
            (&self.highest, bounds.highest.into()),
            (&self.limit, limit.into()),
        ] {
            gauges.get_or_create(&of).set(value);
        }
    }
}
