//! What all metrics of an autoscaler together ask for.
//!
//! The most that any metric asks for counts. A metric that cannot be had stops shrinking, and everything where there is no other.
//! Source: `computeReplicasForMetrics` of `k8s.io/kubernetes/pkg/controller/podautoscaler/horizontal.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use kube::Client;
use wharf_client::Lister;
use wharf_machinery::quantity::Quantity;
use wharf_machinery::selector::LabelSelector;
use wharf_types::k8s::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscaler, MetricStatus};
use wharf_types::k8s::api::core::v1::Pod;

use super::metric::{Proposal, Question, Unknown};
use super::target::{Scale, Targets};
use crate::note::Note;

/// Upstream's `--horizontal-pod-autoscaler-tolerance`.
const TOLERANCE: f64 = 0.1;

/// What metrics are read with.
pub struct Asking<'a> {
    pub client: &'a Client,
    pub targets: &'a Targets,
    pub pods: &'a Lister<Pod>,
    pub now: Timestamp,
}

pub struct Wish {
    pub replicas: i32,
    /// The metric that asks for most, as events name it.
    pub by: String,
}

/// Why there is no wish.
pub struct Failure {
    pub reason: &'static str,
    /// As the condition says it.
    pub text: String,
    /// As the event about all metrics says it.
    pub all: String,
}

pub struct Told {
    pub outcome: Result<Wish, Failure>,
    /// What is to be reported of single metrics.
    pub notes: Vec<Note>,
    /// In the order of the metrics; nothing in the place of one that cannot be had.
    pub statuses: Vec<MetricStatus>,
}

pub async fn wish(asking: &Asking<'_>, scaler: &HorizontalPodAutoscaler, scale: &Scale) -> Told {
    let namespace = scaler.metadata.namespace.as_deref().unwrap_or_default();
    let selector = match selector(scale) {
        Ok(selector) => selector,
        Err((note, failure)) => return Told { outcome: Err(failure), notes: vec![note], statuses: Vec::new() },
    };
    let none = BTreeMap::new();
    let mut pods: Vec<Arc<Pod>> = asking.pods.list_in(namespace);
    pods.retain(|pod| selector.matches(pod.metadata.labels.as_ref().unwrap_or(&none)));
    let pods = pods.iter().map(|pod| &**pod).collect();
    let question = Question { asking, namespace, scale, pods, tolerance: tolerance(scaler) };
    let mut proposals = Vec::new();
    for metric in scaler.spec.metrics.as_deref().unwrap_or_default() {
        proposals.push(question.ask(metric).await);
    }
    sum_up(proposals, scale.replicas)
}

/// How far from the target nothing is done: below, above.
fn tolerance(scaler: &HorizontalPodAutoscaler) -> (f64, f64) {
    let of = |rules: Option<&HPAScalingRules>| {
        let text = rules.and_then(|rules| rules.tolerance.as_ref());
        let quantity = text.and_then(|text| text.0.parse::<Quantity>().ok());
        quantity.map_or(TOLERANCE, |quantity| quantity.as_f64())
    };
    let behavior = scaler.spec.behavior.as_ref();
    let down = behavior.and_then(|behavior| behavior.scale_down.as_ref());
    let up = behavior.and_then(|behavior| behavior.scale_up.as_ref());
    (of(down), of(up))
}

fn selector(scale: &Scale) -> Result<LabelSelector, (Note, Failure)> {
    let reason = "InvalidSelector";
    if scale.selector.is_empty() {
        let (text, all) =
            ("the HPA target's scale is missing a selector".to_owned(), "selector is required".to_owned());
        return Err((Note::Warning("SelectorRequired", all.clone()), Failure { reason, text, all }));
    }
    LabelSelector::parse(&scale.selector).map_err(|error| {
        let text = format!("couldn't convert selector into a corresponding internal selector object: {error}");
        (Note::Warning(reason, text.clone()), Failure { reason, all: text.clone(), text })
    })
}

fn sum_up(proposals: Vec<Result<Proposal, Unknown>>, current: i32) -> Told {
    let total = proposals.len();
    let (mut best, mut first, mut unknown) = (None::<Wish>, None::<Unknown>, 0);
    let (mut notes, mut statuses) = (Vec::new(), Vec::new());
    for proposal in proposals {
        match proposal {
            Ok(Proposal { replicas, by, status }) => {
                statuses.push(status);
                if best.as_ref().is_none_or(|best| replicas > best.replicas) {
                    best = Some(Wish { replicas, by });
                }
            }
            Err(why) => {
                statuses.push(MetricStatus::default());
                notes.push(Note::Warning(why.reason, why.why.clone()));
                unknown += 1;
                first.get_or_insert(why);
            }
        }
    }
    let outcome = match (best, first) {
        (Some(best), None) => Ok(best),
        (Some(best), Some(_)) if best.replicas >= current => Ok(best),
        (_, Some(Unknown { reason, why, what })) => Err(Failure {
            reason,
            text: format!("the HPA was unable to compute the replica count: {why}"),
            all: format!(
                "invalid metrics ({unknown} invalid out of {total}), first error is: failed to get {what} metric value: {why}"
            ),
        }),
        (None, None) => {
            let text = "there are no metrics to scale by".to_owned();
            Err(Failure { reason: "InvalidMetricSourceType", all: text.clone(), text })
        }
    };
    Told { outcome, notes, statuses }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each metric's replicas, or why it has none, and what comes of them all for a target of three.
    #[track_caller]
    fn check(metrics: &[Result<i32, &str>], expected: &str) {
        let proposals = metrics.iter().enumerate().map(|(number, metric)| match metric {
            Ok(replicas) => {
                Ok(Proposal { replicas: *replicas, by: format!("m{number}"), status: MetricStatus::default() })
            }
            Err(why) => Err(Unknown { reason: "Failed", why: (*why).to_owned(), what: format!("m{number}") }),
        });
        let told = sum_up(proposals.collect(), 3);
        let shown = match told.outcome {
            Ok(Wish { replicas, by }) => format!("{replicas} by {by}"),
            Err(Failure { text, all, .. }) => format!("{text}; {all}"),
        };
        assert_eq!(shown, expected);
        assert_eq!(told.statuses.len(), metrics.len(), "each stands in its metric's place");
        assert_eq!(told.notes.len(), metrics.iter().filter(|metric| metric.is_err()).count());
    }

    #[test]
    fn the_metric_that_asks_for_most_counts() {
        check(&[Ok(2), Ok(5), Ok(4)], "5 by m1");
        check(&[Ok(0)], "0 by m0");
    }

    #[test]
    fn a_metric_that_cannot_be_had_forbids_to_shrink() {
        check(&[Err("lost"), Ok(5)], "5 by m1");
        let why = "the HPA was unable to compute the replica count: lost; invalid metrics (1 invalid out of 2), first error is: failed to get m0 metric value: lost";
        check(&[Err("lost"), Ok(2)], why);
        let why = "the HPA was unable to compute the replica count: lost; invalid metrics (2 invalid out of 2), first error is: failed to get m0 metric value: lost";
        check(&[Err("lost"), Err("gone")], why);
    }
}
