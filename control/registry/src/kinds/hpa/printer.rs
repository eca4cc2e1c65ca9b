//! What is measured and what is wished for, in a cell. Source: `formatHPAMetrics` of `pkg/printers/internalversion`.

use wharf_types::k8s::api::autoscaling::v2::{MetricSpec, MetricStatus, MetricTarget, MetricValueStatus};
use wharf_types::k8s::apimachinery::pkg::api::resource::Quantity;

use super::super::NONE;

/// How many metrics a table shows.
const SHOWN: usize = 2;
const UNKNOWN: &str = "<unknown>";

pub fn metrics(specs: &[MetricSpec], statuses: &[MetricStatus]) -> String {
    if specs.is_empty() {
        return NONE.to_owned();
    }
    let shown = specs.iter().enumerate().take(SHOWN).map(|(index, spec)| metric(spec, statuses.get(index)));
    let shown = shown.collect::<Vec<_>>().join(", ");
    match specs.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} + {more} more..."),
    }
}

fn metric(spec: &MetricSpec, status: Option<&MetricStatus>) -> String {
    // What is measured now, of a status of the same type.
    let current = |of: fn(&MetricStatus) -> Option<&MetricValueStatus>| status.and_then(of);
    match spec.type_.as_str() {
        "External" => {
            let now = current(|status| status.external.as_ref().map(|source| &source.current));
            value_or_average(spec.external.as_ref().map(|source| &source.target), now)
        }
        "Object" => {
            let now = current(|status| status.object.as_ref().map(|source| &source.current));
            value_or_average(spec.object.as_ref().map(|source| &source.target), now)
        }
        "Pods" => {
            let now = current(|status| status.pods.as_ref().map(|source| &source.current));
            let target = spec.pods.as_ref().and_then(|source| source.target.average_value.as_ref());
            format!("{}/{}", amount(now.and_then(|now| now.average_value.as_ref())), amount(target))
        }
        "Resource" => {
            let now = current(|status| status.resource.as_ref().map(|source| &source.current));
            let source = spec.resource.as_ref().map(|source| (source.name.as_str(), &source.target));
            resource(source, now)
        }
        "ContainerResource" => {
            let now = current(|status| status.container_resource.as_ref().map(|source| &source.current));
            let source = spec.container_resource.as_ref().map(|source| (source.name.as_str(), &source.target));
            resource(source, now)
        }
        _ => "<unknown type>".to_owned(),
    }
}

fn value_or_average(target: Option<&MetricTarget>, now: Option<&MetricValueStatus>) -> String {
    match target.and_then(|target| target.average_value.as_ref()) {
        Some(average) => format!("{}/{} (avg)", amount(now.and_then(|now| now.average_value.as_ref())), average.0),
        None => {
            let wished = target.and_then(|target| target.value.as_ref());
            format!("{}/{}", amount(now.and_then(|now| now.value.as_ref())), amount(wished))
        }
    }
}

fn resource(source: Option<(&str, &MetricTarget)>, now: Option<&MetricValueStatus>) -> String {
    let Some((name, target)) = source else { return UNKNOWN.to_owned() };
    if let Some(average) = &target.average_value {
        return format!("{name}: {}/{}", amount(now.and_then(|now| now.average_value.as_ref())), average.0);
    }
    let percent = |value: Option<i32>, none: &str| value.map_or_else(|| none.to_owned(), |value| format!("{value}%"));
    let now = percent(now.and_then(|now| now.average_utilization), UNKNOWN);
    format!("{name}: {now}/{}", percent(target.average_utilization, "<auto>"))
}

fn amount(quantity: Option<&Quantity>) -> &str {
    quantity.map_or(UNKNOWN, |quantity| quantity.0.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(specs: &str, statuses: &str, expected: &str) {
        let specs: Vec<MetricSpec> = serde_yaml::from_str(specs).unwrap();
        let statuses: Vec<MetricStatus> = serde_yaml::from_str(statuses).unwrap();
        assert_eq!(metrics(&specs, &statuses), expected);
    }

    #[test]
    fn each_metric_shows_what_is_and_what_is_wished_for() {
        check("[]", "[]", "<none>");
        check(
            "[{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}, {type: Resource, resource: {name: memory, target: {type: AverageValue, averageValue: 1Gi}}}]",
            "[{type: Resource, resource: {name: cpu, current: {averageUtilization: 40}}}]",
            "cpu: 40%/80%, memory: <unknown>/1Gi",
        );
        check(
            "[{type: External, external: {metric: {name: q}, target: {type: Value, value: '5'}}}, {type: Object, object: {describedObject: {kind: K, name: n}, metric: {name: q}, target: {type: AverageValue, averageValue: '7'}}}, {type: Pods, pods: {metric: {name: q}, target: {type: AverageValue, averageValue: '7'}}}]",
            "[{type: External, external: {metric: {name: q}, current: {value: '3'}}}]",
            "3/5, <unknown>/7 (avg) + 1 more...",
        );
    }
}
