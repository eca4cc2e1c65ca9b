//! What is counted of calls to plugins, as upstream counts calls to webhooks (`k8s.io/apiserver/pkg/admission/metrics`).

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::hooks::Refusal;

/// Upper bounds of the duration histogram, in seconds: from a call that computes little to the longest deadline.
const DURATION_BUCKETS_S: &[f64] =
    &[0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 30.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    name: String,
    r#type: &'static str,
    operation: &'static str,
    rejected: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rejection {
    name: String,
    r#type: &'static str,
    operation: &'static str,
    error_type: &'static str,
    rejection_code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailedOpen {
    name: String,
    r#type: &'static str,
}

pub struct Metrics {
    durations: Family<Call, Histogram, fn() -> Histogram>,
    rejections: Family<Rejection, Counter>,
    failed_open: Family<FailedOpen, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let durations: fn() -> Histogram = || Histogram::new(DURATION_BUCKETS_S.iter().copied());
        Self {
            durations: Family::new_with_constructor(durations),
            rejections: Family::default(),
            failed_open: Family::default(),
        }
    }
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "apiserver_admission_plugin_admission_duration",
            "Time that calls to admission plugins took, by name, type and operation",
            Unit::Seconds,
            self.durations.clone(),
        );
        registry.register(
            "apiserver_admission_plugin_rejection",
            "Writes that admission plugins have refused, or that were refused for their failure",
            self.rejections.clone(),
        );
        registry.register(
            "apiserver_admission_plugin_fail_open",
            "Failures of admission plugins that were passed over",
            self.failed_open.clone(),
        );
    }

    pub(super) fn called<T>(
        &self,
        (name, kind, operation): (&str, &'static str, &'static str),
        took: Duration,
        result: &Result<T, Refusal>,
    ) {
        let rejected = if result.is_ok() { "false" } else { "true" };
        let call = Call { name: name.to_owned(), r#type: kind, operation, rejected };
        self.durations.get_or_create(&call).observe(took.as_secs_f64());
        let (error_type, rejection_code) = match result {
            Ok(_) => return,
            Err(Refusal::Failed(_)) => ("calling_plugin_error", 0),
            Err(Refusal::Denied(error)) => ("no_error", error.code),
        };
        let name = name.to_owned();
        let rejection = Rejection { name, r#type: kind, operation, error_type, rejection_code };
        self.rejections.get_or_create(&rejection).inc();
    }

    pub(super) fn failed_open(&self, name: &str, kind: &'static str) {
        self.failed_open.get_or_create(&FailedOpen { name: name.to_owned(), r#type: kind }).inc();
    }
}
