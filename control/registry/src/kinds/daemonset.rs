//! DaemonSets: a pod on every node that fits.
//!
//! Source: `pkg/apis/apps/v1/{defaults,conversion}.go`, `pkg/apis/apps/validation`, `pkg/registry/apps/daemonset`.
//! Upstream counts the templates in a field that `apps/v1` shows as an annotation; here the annotation is all there is of it.

use jiff::Timestamp;
use serde_json::Value;
use wharf_machinery::selector::{self, LabelSelector};
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::apps::v1::{
    DaemonSet, DaemonSetSpec, DaemonSetStatus, DaemonSetUpdateStrategy, RollingUpdateDaemonSet,
};
use wharf_types::k8s::apimachinery::pkg::util::intstr::IntOrString;
use wharf_types::meta::{self, ObjectMeta};

use super::workload::{self, template_cells};
use super::{created, format_labels, format_selector, name, spec_status};
use crate::checks;
use crate::podspec::{
    self,
    defaults::{self, text},
};
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct DaemonSets;

const REVISION_HISTORY: i32 = 10;
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

impl Strategy for DaemonSets {
    type Object = DaemonSet;

    fn default(&self, set: &mut DaemonSet) {
        let spec = set.spec.get_or_insert_default();
        let strategy = spec.update_strategy.get_or_insert_default();
        text(&mut strategy.type_, "RollingUpdate");
        if strategy.type_.as_deref() == Some("RollingUpdate") {
            let rolling = strategy.rolling_update.get_or_insert_default();
            rolling.max_unavailable.get_or_insert(IntOrString::Int(1));
            rolling.max_surge.get_or_insert(IntOrString::Int(0));
        }
        spec.revision_history_limit.get_or_insert(REVISION_HISTORY);
        defaults::template(&mut spec.template);
    }

    fn prepare_for_create(&self, set: &mut DaemonSet) {
        spec_status::created(set);
        let generation = template_generation(&set.metadata).max(1);
        set_template_generation(&mut set.metadata, generation);
    }

    fn prepare_for_update(&self, set: &mut DaemonSet, old: &DaemonSet) {
        spec_status::updated(set, old);
        let template = |set: &DaemonSet| set.spec.as_ref().map(|spec| spec.template.clone());
        let changed = template(set) != template(old);
        set_template_generation(&mut set.metadata, template_generation(&old.metadata) + i64::from(changed));
    }

    fn prepare_for_status_update(&self, set: &mut DaemonSet, old: &DaemonSet) {
        spec_status::status_updated(set, old);
        set_template_generation(&mut set.metadata, template_generation(&old.metadata));
    }

    fn validate(&self, set: &DaemonSet) -> Errors {
        set.spec.as_ref().map_or_else(Vec::new, |spec| validate_spec(spec, &Path::new("spec")))
    }

    fn validate_update(&self, new: &DaemonSet, old: &DaemonSet) -> Errors {
        let selector = |set: &DaemonSet| set.spec.as_ref().map(|spec| spec.selector.clone());
        checks::immutable(&selector(new), &selector(old), &Path::new("spec").child("selector"))
    }

    fn validate_status_update(&self, new: &DaemonSet, old: &DaemonSet) -> Errors {
        let empty = DaemonSetStatus::default();
        let status = new.status.as_ref().unwrap_or(&empty);
        let mut errors = validate_status(status, &Path::new("status"));
        let held = old.status.as_ref().and_then(|status| status.collision_count);
        errors.extend(workload::validate_collisions(status.collision_count, held));
        errors
    }

    fn warnings(&self, set: &DaemonSet, old: Option<&DaemonSet>) -> Vec<String> {
        let template = set.spec.as_ref().map(|spec| &spec.template);
        workload::template_warnings(&set.metadata, old.map(|old| &old.metadata), template)
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new(
                "Desired",
                "integer",
                "The total number of nodes that should be running the daemon pod (including nodes correctly running the daemon pod). More info: https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/",
            ),
            Column::new(
                "Current",
                "integer",
                "The number of nodes that are running at least 1 daemon pod and are supposed to run the daemon pod. More info: https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/",
            ),
            Column::new(
                "Ready",
                "integer",
                "Total number of nodes that should be running the daemon pod and have one or more of the daemon pod running with a Ready Condition by passing the readinessProbe.",
            ),
            Column::new("Up-to-date", "integer", "The total number of nodes that are running updated daemon pod"),
            Column::new(
                "Available",
                "integer",
                "The number of nodes that should be running the daemon pod and have one or more of the daemon pod running and available (ready for at least spec.minReadySeconds)",
            ),
            Column::new(
                "Node Selector",
                "string",
                "NodeSelector is a selector which must be true for the pod to fit on a node. Selector which must match a node's labels for the pod to be scheduled on that node. More info: https://kubernetes.io/docs/concepts/configuration/assign-pod-node/",
            ),
            AGE,
            Column::wide("Containers", "string", "Names of each container in the template."),
            Column::wide("Images", "string", "Images referenced by each container in the template."),
            Column::wide(
                "Selector",
                "string",
                "A label query over pods that are managed by the daemon set. Must match in order to be controlled. If empty, defaulted to labels on Pod template. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
            ),
        ];
        COLUMNS
    }

    fn cells(&self, set: &DaemonSet, now: Timestamp) -> Vec<Value> {
        let (empty_spec, empty_status) = (DaemonSetSpec::default(), DaemonSetStatus::default());
        let spec = set.spec.as_ref().unwrap_or(&empty_spec);
        let status = set.status.as_ref().unwrap_or(&empty_status);
        let [containers, images] = template_cells(&spec.template);
        let nodes = spec.template.spec.as_ref().and_then(|spec| spec.node_selector.as_ref());
        vec![
            name(&set.metadata),
            status.desired_number_scheduled.into(),
            status.current_number_scheduled.into(),
            status.number_ready.into(),
            status.updated_number_scheduled.unwrap_or_default().into(),
            status.number_available.unwrap_or_default().into(),
            format_labels(nodes).into(),
            created(&set.metadata, now),
            containers,
            images,
            format_selector(&spec.selector).into(),
        ]
    }
}

/// How many templates there have been; text that is no number counts as none.
fn template_generation(meta: &ObjectMeta) -> i64 {
    let annotation = meta.annotations.as_ref().and_then(|annotations| annotations.get(TEMPLATE_GENERATION));
    annotation.and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn set_template_generation(meta: &mut ObjectMeta, generation: i64) {
    meta.annotations.get_or_insert_default().insert(TEMPLATE_GENERATION.to_owned(), generation.to_string());
}

fn validate_spec(spec: &DaemonSetSpec, path: &Path) -> Errors {
    let at = path.child("selector");
    let mut errors = selector::validate(&spec.selector, &at);
    let given = spec.selector != meta::LabelSelector::default();
    let matcher = if given { LabelSelector::from_meta(&spec.selector) } else { LabelSelector::nothing() };
    let template = path.child("template");
    errors.extend(workload::validate_match(&spec.template, &matcher, &template));
    if given && workload::is_empty(&spec.selector) {
        errors.push(Error::invalid(&at, checks::json(&spec.selector), "empty selector is invalid for daemonset"));
    }
    errors.extend(podspec::validate_template(&spec.template, &template));
    errors.extend(workload::validate_long_running(&spec.template, "DaemonSet", &template));
    errors.extend(checks::non_negative(spec.min_ready_seconds.unwrap_or_default(), &path.child("minReadySeconds")));
    let empty = DaemonSetUpdateStrategy::default();
    let strategy = spec.update_strategy.as_ref().unwrap_or(&empty);
    errors.extend(validate_strategy(strategy, &path.child("updateStrategy")));
    let history = spec.revision_history_limit.unwrap_or_default();
    errors.extend(checks::non_negative(history, &path.child("revisionHistoryLimit")));
    errors
}

fn validate_strategy(strategy: &DaemonSetUpdateStrategy, path: &Path) -> Errors {
    match (strategy.type_.as_deref().unwrap_or_default(), &strategy.rolling_update) {
        ("OnDelete", _) => Vec::new(),
        ("RollingUpdate", None) => vec![Error::required(&path.child("rollingUpdate"), "")],
        ("RollingUpdate", Some(rolling)) => validate_rolling(rolling, &path.child("rollingUpdate")),
        _ => vec![Error::not_supported(path, checks::json(strategy), &["RollingUpdate", "OnDelete"])],
    }
}

/// Either old pods go before new ones come, or new ones come first.
fn validate_rolling(rolling: &RollingUpdateDaemonSet, path: &Path) -> Errors {
    let zero = IntOrString::Int(0);
    let unavailable = (rolling.max_unavailable.as_ref().unwrap_or(&zero), path.child("maxUnavailable"));
    let surge = (rolling.max_surge.as_ref().unwrap_or(&zero), path.child("maxSurge"));
    let both = [&unavailable, &surge];
    let mut errors: Errors = both.iter().flat_map(|(value, path)| checks::count_or_percent(value, path)).collect();
    errors.extend(both.iter().flat_map(|(value, path)| checks::at_most_all(value, path)));
    match (checks::is_zero(unavailable.0), checks::is_zero(surge.0)) {
        (false, false) => {
            let why = "may not be set when maxUnavailable is non-zero";
            errors.push(Error::invalid(&surge.1, checks::json(surge.0), why));
        }
        (true, true) => errors.push(Error::required(&unavailable.1, "cannot be 0 when maxSurge is 0")),
        _ => {}
    }
    errors
}

fn validate_status(status: &DaemonSetStatus, path: &Path) -> Errors {
    let value = |field: Option<i32>| i64::from(field.unwrap_or_default());
    let counts = [
        ("currentNumberScheduled", status.current_number_scheduled.into()),
        ("numberMisscheduled", status.number_misscheduled.into()),
        ("desiredNumberScheduled", status.desired_number_scheduled.into()),
        ("numberReady", status.number_ready.into()),
        ("observedGeneration", status.observed_generation.unwrap_or_default()),
        ("updatedNumberScheduled", value(status.updated_number_scheduled)),
        ("numberAvailable", value(status.number_available)),
        ("numberUnavailable", value(status.number_unavailable)),
        ("collisionCount", value(status.collision_count)),
    ];
    counts.into_iter().flat_map(|(field, count): (_, i64)| checks::non_negative(count, &path.child(field))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, check_update, object};

    fn agent(extra: &str) -> String {
        format!(
            "{{metadata: {{name: agent, generation: 1}}, spec: {{selector: {{matchLabels: {{app: agent}}}}, template: {{metadata: {{labels: {{app: agent}}}}, spec: {{containers: [{{name: a, image: i}}]}}}}{extra}}}}}"
        )
    }

    #[test]
    fn one_pod_at_a_time_is_replaced() {
        let spec = object(&DaemonSets, &agent("")).spec.unwrap();
        assert_eq!(
            checks::json(&spec.update_strategy).to_string(),
            r#"{"rollingUpdate":{"maxSurge":0,"maxUnavailable":1},"type":"RollingUpdate"}"#
        );
        assert_eq!(spec.revision_history_limit, Some(10));
    }

    #[test]
    fn templates_are_counted_in_an_annotation() {
        let mut set = object(&DaemonSets, &agent(""));
        DaemonSets.prepare_for_create(&mut set);
        assert_eq!(template_generation(&set.metadata), 1);
        let mut slower = set.clone();
        slower.metadata.annotations = None;
        slower.spec.as_mut().unwrap().min_ready_seconds = Some(5);
        DaemonSets.prepare_for_update(&mut slower, &set);
        assert_eq!((template_generation(&slower.metadata), slower.metadata.generation), (1, Some(2)));
        let mut other = object(&DaemonSets, &agent("").replace("image: i", "image: j"));
        DaemonSets.prepare_for_update(&mut other, &set);
        assert_eq!((template_generation(&other.metadata), other.metadata.generation), (2, Some(2)));
    }

    #[test]
    fn rules_of_the_spec() {
        check(&DaemonSets, &agent(""), &[]);
        check(
            &DaemonSets,
            &agent("").replace("selector: {matchLabels: {app: agent}}, ", ""),
            &[
                "spec.template.metadata.labels: Invalid value: {\"app\":\"agent\"}: `selector` does not match template `labels`",
            ],
        );
        check(
            &DaemonSets,
            &agent("")
                .replace("spec: {containers", "spec: {restartPolicy: Never, activeDeadlineSeconds: 5, containers"),
            &[
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
                "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in DaemonSet is not Supported",
            ],
        );
        check(
            &DaemonSets,
            &agent(", updateStrategy: {rollingUpdate: {maxSurge: 10%}}"),
            &[
                "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: \"10%\": may not be set when maxUnavailable is non-zero",
            ],
        );
        check(
            &DaemonSets,
            &agent(", updateStrategy: {rollingUpdate: {maxUnavailable: 0}}"),
            &["spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0"],
        );
        check(
            &DaemonSets,
            &agent(", updateStrategy: {type: Fast}"),
            &[
                "spec.updateStrategy: Unsupported value: {\"type\":\"Fast\"}: supported values: \"RollingUpdate\", \"OnDelete\"",
            ],
        );
    }

    #[test]
    fn the_selector_is_fixed() {
        check_update(
            &DaemonSets,
            &agent(""),
            &agent("").replace("matchLabels: {app: agent}", "matchLabels: {app: agent, b: c}"),
            &["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"agent\",\"b\":\"c\"}}: field is immutable"],
        );
    }

    #[test]
    fn cells_show_nodes() {
        let yaml = agent("").replace(
            "spec: {selector",
            "status: {desiredNumberScheduled: 3, currentNumberScheduled: 2, numberReady: 1, updatedNumberScheduled: 2, numberAvailable: 1}, spec: {selector",
        );
        check_cells(&DaemonSets, &yaml, "agent | 3 | 2 | 1 | 2 | 1 | <none> | <unknown> | a | i | app=agent");
    }
}
