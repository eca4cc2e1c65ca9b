//! HorizontalPodAutoscalers: how many pods a workload has, by what they measure.
//!
//! Source: `pkg/apis/autoscaling/v2/defaults.go`, `pkg/apis/autoscaling/validation`, `pkg/registry/autoscaling`.
//! Absent on purpose: a generation, which upstream does not count here either.

mod printer;
pub mod v1;
mod validation;

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::{Errors, Path};
use wharf_types::k8s::api::autoscaling::v2::{
    HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerStatus, MetricSpec,
    MetricTarget, ResourceMetricSource,
};

use super::{created, name};
use crate::checks;
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct HorizontalPodAutoscalers;

/// Percent of what the pods request.
const CPU_UTILIZATION: i32 = 80;
const PERIOD_S: i32 = 15;
const UP_PODS: i32 = 4;
const UP_PERCENT: i32 = 100;
const DOWN_PERCENT: i32 = 100;

impl Strategy for HorizontalPodAutoscalers {
    type Object = HorizontalPodAutoscaler;

    fn default(&self, scaler: &mut HorizontalPodAutoscaler) {
        let spec = &mut scaler.spec;
        spec.min_replicas.get_or_insert(1);
        let metrics = spec.metrics.get_or_insert_default();
        if metrics.is_empty() {
            metrics.push(cpu());
        }
        if let Some(behavior) = &mut spec.behavior {
            let up = [("Pods", UP_PODS), ("Percent", UP_PERCENT)];
            default_rules(behavior.scale_up.get_or_insert_default(), Some(0), &up);
            // How long to wait before scaling down is the controller's to say.
            default_rules(behavior.scale_down.get_or_insert_default(), None, &[("Percent", DOWN_PERCENT)]);
        }
    }

    fn prepare_for_create(&self, scaler: &mut HorizontalPodAutoscaler) {
        scaler.status = Some(HorizontalPodAutoscalerStatus::default());
    }

    fn prepare_for_update(&self, scaler: &mut HorizontalPodAutoscaler, old: &HorizontalPodAutoscaler) {
        scaler.status.clone_from(&old.status);
    }

    fn prepare_for_status_update(&self, scaler: &mut HorizontalPodAutoscaler, old: &HorizontalPodAutoscaler) {
        scaler.spec.clone_from(&old.spec);
    }

    fn validate(&self, scaler: &HorizontalPodAutoscaler) -> Errors {
        validation::spec(&scaler.spec, &Path::new("spec"))
    }

    fn validate_new(&self, scaler: &HorizontalPodAutoscaler) -> Errors {
        validation::target_version(&scaler.spec.scale_target_ref)
    }

    fn validate_update(&self, new: &HorizontalPodAutoscaler, old: &HorizontalPodAutoscaler) -> Errors {
        let (target, held) = (&new.spec.scale_target_ref, &old.spec.scale_target_ref);
        if target.api_version == held.api_version && target.kind == held.kind {
            return Vec::new();
        }
        validation::target_version(target)
    }

    fn validate_status_update(&self, new: &HorizontalPodAutoscaler, _old: &HorizontalPodAutoscaler) -> Errors {
        let Some(status) = &new.status else { return Vec::new() };
        let path = Path::new("status");
        let current = status.current_replicas.unwrap_or_default();
        let mut errors = checks::non_negative(current, &path.child("currentReplicas"));
        errors.extend(checks::non_negative(status.desired_replicas, &path.child("desiredReplicas")));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new(
                "Reference",
                "string",
                "scaleTargetRef points to the target resource to scale, and is used to the pods for which metrics should be collected, as well as to actually change the replica count.",
            ),
            Column::new(
                "Targets",
                "string",
                "metrics contains the specifications for which to use to calculate the desired replica count (the maximum replica count across all metrics will be used).  The desired replica count is calculated multiplying the ratio between the target value and the current value by the current number of pods.  Ergo, metrics used must decrease as the pod count is increased, and vice-versa.  See the individual metric source types for more information about how each type of metric must respond.",
            ),
            Column::new(
                "MinPods",
                "string",
                "minReplicas is the lower limit for the number of replicas to which the autoscaler can scale down.  It defaults to 1 pod.  minReplicas is allowed to be 0 if the alpha feature gate HPAScaleToZero is enabled and at least one Object or External metric is configured.  Scaling is active as long as at least one metric value is available.",
            ),
            Column::new(
                "MaxPods",
                "string",
                "maxReplicas is the upper limit for the number of replicas to which the autoscaler can scale up. It cannot be less that minReplicas.",
            ),
            Column::new(
                "Replicas",
                "string",
                "currentReplicas is current number of replicas of pods managed by this autoscaler, as last seen by the autoscaler.",
            ),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, scaler: &HorizontalPodAutoscaler, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (&scaler.spec, scaler.status.clone().unwrap_or_default());
        let specs = spec.metrics.as_deref().unwrap_or_default();
        let statuses = status.current_metrics.as_deref().unwrap_or_default();
        vec![
            name(&scaler.metadata),
            format!("{}/{}", spec.scale_target_ref.kind, spec.scale_target_ref.name).into(),
            printer::metrics(specs, statuses).into(),
            spec.min_replicas.map_or_else(|| "<unset>".to_owned(), |min| min.to_string()).into(),
            spec.max_replicas.into(),
            status.current_replicas.unwrap_or_default().into(),
            created(&scaler.metadata, now),
        ]
    }
}

/// What is measured where nothing is said.
fn cpu() -> MetricSpec {
    let target = MetricTarget {
        type_: "Utilization".to_owned(),
        average_utilization: Some(CPU_UTILIZATION),
        ..MetricTarget::default()
    };
    let resource = Some(ResourceMetricSource { name: "cpu".to_owned(), target });
    MetricSpec { type_: "Resource".to_owned(), resource, ..MetricSpec::default() }
}

fn default_rules(rules: &mut HPAScalingRules, window_s: Option<i32>, policies: &[(&str, i32)]) {
    rules.select_policy.get_or_insert_with(|| "Max".to_owned());
    rules.stabilization_window_seconds = rules.stabilization_window_seconds.or(window_s);
    let policy = |(kind, value): &(&str, i32)| HPAScalingPolicy {
        type_: (*kind).to_owned(),
        value: *value,
        period_seconds: PERIOD_S,
    };
    rules.policies.get_or_insert_with(|| policies.iter().map(policy).collect());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_cells, object};

    const WEB: &str = "{metadata: {name: web}, spec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}, maxReplicas: 5}}";

    #[test]
    fn cpu_is_measured_by_default() {
        let spec = object(&HorizontalPodAutoscalers, WEB).spec;
        assert_eq!(spec.min_replicas, Some(1));
        assert_eq!(
            checks::json(&spec.metrics).to_string(),
            r#"[{"resource":{"name":"cpu","target":{"averageUtilization":80,"type":"Utilization"}},"type":"Resource"}]"#
        );
        assert_eq!(spec.behavior, None);
    }

    #[test]
    fn a_behavior_is_filled_in() {
        let yaml = WEB.replace("maxReplicas", "behavior: {scaleDown: {stabilizationWindowSeconds: 60}}, maxReplicas");
        let behavior = object(&HorizontalPodAutoscalers, &yaml).spec.behavior.unwrap();
        assert_eq!(
            checks::json(&behavior).to_string(),
            r#"{"scaleDown":{"policies":[{"periodSeconds":15,"type":"Percent","value":100}],"selectPolicy":"Max","stabilizationWindowSeconds":60},"scaleUp":{"policies":[{"periodSeconds":15,"type":"Pods","value":4},{"periodSeconds":15,"type":"Percent","value":100}],"selectPolicy":"Max","stabilizationWindowSeconds":0}}"#
        );
    }

    #[test]
    fn cells_show_what_is_measured() {
        check_cells(
            &HorizontalPodAutoscalers,
            WEB,
            "web | Deployment/web | cpu: <unknown>/80% | 1 | 5 | 0 | <unknown>",
        );
    }
}
