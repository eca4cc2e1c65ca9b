//! What an autoscaler must hold. Source: `pkg/apis/autoscaling/validation`.

use std::cmp::Ordering;

use wharf_machinery::names;
use wharf_types::GroupVersion;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::autoscaling::v2::{
    CrossVersionObjectReference, HPAScalingRules, HorizontalPodAutoscalerSpec, MetricIdentifier, MetricSpec,
    MetricTarget,
};
use wharf_types::k8s::apimachinery::pkg::api::resource::Quantity;

use crate::checks;
use crate::quantity::{self, Amount};

const MIN_REPLICAS: i32 = 1;
const PERIOD_MAX_S: i32 = 1800;
const WINDOW_MAX_S: i32 = 3600;
const SELECT_POLICIES: &[&str] = &["Disabled", "Max", "Min"];
const POLICY_TYPES: &[&str] = &["Percent", "Pods"];
const METRIC_TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];
const RAW_OR_UTILIZATION: &str = "must set either a target raw value or a target utilization";
const NOT_BOTH: &str = "may not set both a target raw value and a target utilization";

pub fn spec(spec: &HorizontalPodAutoscalerSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let max = spec.max_replicas;
    if let Some(min) = spec.min_replicas.filter(|min| *min < MIN_REPLICAS) {
        let why = format!("must be greater than or equal to {MIN_REPLICAS}");
        errors.push(Error::invalid(&path.child("minReplicas"), min, why));
    }
    if max < 1 {
        errors.push(Error::invalid(&path.child("maxReplicas"), max, "must be greater than 0"));
    }
    if spec.min_replicas.is_some_and(|min| max < min) {
        let why = "must be greater than or equal to `minReplicas`";
        errors.push(Error::invalid(&path.child("maxReplicas"), max, why));
    }
    errors.extend(reference(&spec.scale_target_ref, &path.child("scaleTargetRef")));
    for (index, item) in spec.metrics.iter().flatten().enumerate() {
        errors.extend(metric(item, &path.child("metrics").index(index)));
    }
    if let Some(behavior) = &spec.behavior {
        let path = path.child("behavior");
        for (field, rules) in [("scaleUp", &behavior.scale_up), ("scaleDown", &behavior.scale_down)] {
            errors.extend(rules.iter().flat_map(|rules| scaling_rules(rules, &path.child(field))));
        }
    }
    errors
}

/// What is scaled is of an API group; all but the oldest kind that can be.
pub fn target_version(target: &CrossVersionObjectReference) -> Errors {
    let version = target.api_version.as_deref().unwrap_or_default();
    let path = Path::new("spec").child("scaleTargetRef").child("apiVersion");
    version_of_group(version, target.kind == "ReplicationController", &path)
}

fn version_of_group(version: &str, may_lack_group: bool, path: &Path) -> Errors {
    if version.matches('/').count() > 1 {
        return vec![Error::invalid(path, version, format!("unexpected GroupVersion string: {version}"))];
    }
    if !may_lack_group && GroupVersion::parse(version).group.is_empty() {
        return vec![Error::invalid(path, version, "apiVersion must specify API group")];
    }
    Vec::new()
}

fn reference(target: &CrossVersionObjectReference, path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (field, value) in [("kind", &target.kind), ("name", &target.name)] {
        let path = path.child(field);
        match value.as_str() {
            "" => errors.push(Error::required(&path, "")),
            value => errors.extend(checks::invalid(names::path_segment(value), &path, value)),
        }
    }
    errors
}

fn scaling_rules(rules: &HPAScalingRules, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let at = path.child("stabilizationWindowSeconds");
    match rules.stabilization_window_seconds {
        Some(window) if window < 0 => {
            errors.push(Error::invalid(&at, window, "must be greater than or equal to zero"));
        }
        Some(window) if window > WINDOW_MAX_S => {
            errors.push(Error::invalid(&at, window, format!("must be less than or equal to {WINDOW_MAX_S}")));
        }
        _ => {}
    }
    if let Some(policy) = &rules.select_policy {
        errors.extend(checks::one_of(policy, SELECT_POLICIES, &path.child("selectPolicy")));
    }
    let (policies, at) = (rules.policies.as_deref().unwrap_or_default(), path.child("policies"));
    if policies.is_empty() {
        errors.push(Error::required(&at, "must specify at least one Policy"));
    }
    for (index, policy) in policies.iter().enumerate() {
        let path = at.index(index);
        errors.extend(checks::one_of(&policy.type_, POLICY_TYPES, &path.child("type")));
        let period = policy.period_seconds;
        for (field, value) in [("value", policy.value), ("periodSeconds", period)] {
            if value <= 0 {
                errors.push(Error::invalid(&path.child(field), value, "must be greater than zero"));
            }
        }
        if period > PERIOD_MAX_S {
            let why = format!("must be less than or equal to {PERIOD_MAX_S}");
            errors.push(Error::invalid(&path.child("periodSeconds"), period, why));
        }
    }
    if let Some(tolerance) = rules.tolerance.as_ref().filter(|tolerance| sign(tolerance) == Some(Ordering::Less)) {
        errors.push(Error::invalid(&path.child("tolerance"), &tolerance.0, checks::NOT_NEGATIVE));
    }
    errors
}

fn metric(spec: &MetricSpec, path: &Path) -> Errors {
    let (kind, at) = (spec.type_.as_str(), path.child("type"));
    let mut errors = Vec::new();
    if kind.is_empty() {
        errors.push(Error::required(&at, "must specify a metric source type"));
    }
    // Upstream tells it twice.
    errors.extend(checks::one_of(kind, METRIC_TYPES, &at));
    let present = [
        ("object", spec.object.is_some()),
        ("external", spec.external.is_some()),
        ("pods", spec.pods.is_some()),
        ("resource", spec.resource.is_some()),
        ("containerResource", spec.container_resource.is_some()),
    ];
    let present: Vec<&str> = present.iter().filter(|(_, is_there)| *is_there).map(|(field, _)| *field).collect();
    if let Some(first) = present.first() {
        errors.extend(source(spec, first, &path.child(first)));
    }
    let expected = match kind {
        "Object" => "object",
        "Pods" => "pods",
        "Resource" => "resource",
        "External" => "external",
        "ContainerResource" => "containerResource",
        _ => "",
    };
    if expected.is_empty() {
        errors.extend(checks::one_of(kind, METRIC_TYPES, &at));
    } else if !present.contains(&expected) {
        let why = "must populate information for the given metric source";
        errors.push(Error::required(&path.child(expected), why));
    }
    if present.len() != 1 {
        let others = present.iter().filter(|field| **field != expected);
        errors.extend(
            others.map(|field| Error::forbidden(&path.child(field), "must populate the given metric source only")),
        );
    }
    errors
}

/// The source that stands in `field`.
fn source(spec: &MetricSpec, field: &str, path: &Path) -> Errors {
    let (mut errors, at) = (Vec::new(), path.child("target"));
    let average = at.child("averageValue");
    if let (Some(source), "object") = (&spec.object, field) {
        let described = &source.described_object;
        errors.extend(reference(described, &path.child("describedObject")));
        let version = described.api_version.as_deref().unwrap_or_default();
        errors.extend(version_of_group(version, true, &path.child("describedObject").child("apiVersion")));
        errors.extend(identifier(&source.metric, &path.child("metric")));
        errors.extend(target(&source.target, &at));
        if source.target.value.is_none() && source.target.average_value.is_none() {
            errors.push(Error::required(&average, "must set either a target value or averageValue"));
        }
    }
    if let (Some(source), "external") = (&spec.external, field) {
        errors.extend(identifier(&source.metric, &path.child("metric")));
        errors.extend(target(&source.target, &at));
        match (&source.target.value, &source.target.average_value) {
            (None, None) => {
                let why = "must set either a target value for metric or a per-pod target";
                errors.push(Error::required(&average, why));
            }
            (Some(_), Some(_)) => {
                let why = "may not set both a target value for metric and a per-pod target";
                errors.push(Error::forbidden(&at.child("value"), why));
            }
            _ => {}
        }
    }
    if let (Some(source), "pods") = (&spec.pods, field) {
        errors.extend(identifier(&source.metric, &path.child("metric")));
        errors.extend(target(&source.target, &at));
        if source.target.average_value.is_none() {
            errors.push(Error::required(&average, "must specify a positive target averageValue"));
        }
    }
    if let (Some(source), "resource") = (&spec.resource, field) {
        errors.extend(resource_name(&source.name, &path.child("name")));
        errors.extend(resource_target(&source.target, &at));
    }
    if let (Some(source), "containerResource") = (&spec.container_resource, field) {
        errors.extend(resource_name(&source.name, &path.child("name")));
        match source.container.as_str() {
            "" => errors.push(Error::required(&path.child("container"), "must specify a container")),
            container => errors.extend(checks::dns1123_label(container, &path.child("container"))),
        }
        errors.extend(resource_target(&source.target, &at));
    }
    errors
}

fn resource_name(name: &str, path: &Path) -> Errors {
    if name.is_empty() { vec![Error::required(path, "must specify a resource name")] } else { Vec::new() }
}

fn resource_target(metric: &MetricTarget, path: &Path) -> Errors {
    let mut errors = target(metric, path);
    match (metric.average_utilization, &metric.average_value) {
        (None, None) => errors.push(Error::required(&path.child("averageUtilization"), RAW_OR_UTILIZATION)),
        (Some(_), Some(_)) => errors.push(Error::forbidden(&path.child("averageValue"), NOT_BOTH)),
        _ => {}
    }
    errors
}

fn target(target: &MetricTarget, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let (kind, at) = (target.type_.as_str(), path.child("type"));
    if kind.is_empty() {
        errors.push(Error::required(&at, "must specify a metric target type"));
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        errors.push(Error::invalid(&at, kind, "must be either Utilization, Value, or AverageValue"));
    }
    for (field, value) in [("value", &target.value), ("averageValue", &target.average_value)] {
        if let Some(value) = value.as_ref().filter(|value| sign(value) != Some(Ordering::Greater)) {
            errors.push(Error::invalid(&path.child(field), &value.0, "must be positive"));
        }
    }
    if let Some(percent) = target.average_utilization.filter(|percent| *percent < 1) {
        errors.push(Error::invalid(&path.child("averageUtilization"), percent, "must be greater than 0"));
    }
    errors
}

fn sign(quantity: &Quantity) -> Option<Ordering> {
    quantity::amount(quantity).map(|amount| amount.cmp(&Amount::default()))
}

fn identifier(metric: &MetricIdentifier, path: &Path) -> Errors {
    let path = path.child("name");
    match metric.name.as_str() {
        "" => vec![Error::required(&path, "must specify a metric name")],
        name => checks::invalid(names::path_segment(name), &path, name),
    }
}

#[cfg(test)]
mod tests {
    use super::super::HorizontalPodAutoscalers;
    use crate::testing::{check, check_new, check_update};

    fn web(extra: &str) -> String {
        format!(
            "{{metadata: {{name: web}}, spec: {{scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: web}}, maxReplicas: 5{extra}}}}}"
        )
    }

    #[test]
    fn there_is_room_between_the_limits() {
        check(&HorizontalPodAutoscalers, &web(""), &[]);
        check(
            &HorizontalPodAutoscalers,
            &web(", minReplicas: 0").replace("maxReplicas: 5", "maxReplicas: -1"),
            &[
                "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
                "spec.maxReplicas: Invalid value: -1: must be greater than 0",
                "spec.maxReplicas: Invalid value: -1: must be greater than or equal to `minReplicas`",
            ],
        );
    }

    #[test]
    fn the_target_is_of_a_group() {
        let old = web("");
        check_new(&HorizontalPodAutoscalers, &old, &[]);
        let core = old.replace("apps/v1", "v1");
        let wrong = "spec.scaleTargetRef.apiVersion: Invalid value: \"v1\": apiVersion must specify API group";
        check_new(&HorizontalPodAutoscalers, &core, &[wrong]);
        check_new(&HorizontalPodAutoscalers, &core.replace("kind: Deployment", "kind: ReplicationController"), &[]);
        check_update(&HorizontalPodAutoscalers, &old, &core, &[wrong]);
        check_update(&HorizontalPodAutoscalers, &core, &core, &[]);
    }

    #[test]
    fn a_metric_has_the_source_that_its_type_says() {
        check(
            &HorizontalPodAutoscalers,
            &web(
                ", metrics: [{type: Pods, resource: {name: cpu, target: {type: Utilization, averageUtilization: 0}}}, {type: Odd}]",
            ),
            &[
                "spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0",
                "spec.metrics[0].pods: Required value: must populate information for the given metric source",
                "spec.metrics[1].type: Unsupported value: \"Odd\": supported values: \"ContainerResource\", \"External\", \"Object\", \"Pods\", \"Resource\"",
                "spec.metrics[1].type: Unsupported value: \"Odd\": supported values: \"ContainerResource\", \"External\", \"Object\", \"Pods\", \"Resource\"",
            ],
        );
        check(
            &HorizontalPodAutoscalers,
            &web(
                ", metrics: [{type: External, external: {metric: {name: ''}, target: {type: Value, value: '0', averageValue: '1'}}}, {type: ContainerResource, containerResource: {name: cpu, container: a, target: {type: Utilization}}}]",
            ),
            &[
                "spec.metrics[0].external.metric.name: Required value: must specify a metric name",
                "spec.metrics[0].external.target.value: Invalid value: \"0\": must be positive",
                "spec.metrics[0].external.target.value: Forbidden: may not set both a target value for metric and a per-pod target",
                "spec.metrics[1].containerResource.target.averageUtilization: Required value: must set either a target raw value or a target utilization",
            ],
        );
    }

    #[test]
    fn behavior_keeps_to_its_limits() {
        check(
            &HorizontalPodAutoscalers,
            &web(
                ", behavior: {scaleUp: {stabilizationWindowSeconds: 3601, selectPolicy: Any, tolerance: '-1', policies: [{type: Nodes, value: 0, periodSeconds: 1801}]}}",
            ),
            &[
                "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600",
                "spec.behavior.scaleUp.selectPolicy: Unsupported value: \"Any\": supported values: \"Disabled\", \"Max\", \"Min\"",
                "spec.behavior.scaleUp.policies[0].type: Unsupported value: \"Nodes\": supported values: \"Percent\", \"Pods\"",
                "spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero",
                "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800",
                "spec.behavior.scaleUp.tolerance: Invalid value: \"-1\": must be greater than or equal to 0",
            ],
        );
    }
}
