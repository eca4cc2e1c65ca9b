//! StatefulSets: pods with names and volumes of their own.
//!
//! Source: `pkg/apis/apps/v1/defaults.go`, `pkg/apis/apps/validation`, `pkg/registry/apps/statefulset`.
//! The template is validated as if it had a volume for each claim template, since that is what its pods will have.

use std::borrow::Cow;
use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;
use wharf_machinery::names;
use wharf_machinery::selector::LabelSelector;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::apps::v1::{
    RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetSpec, StatefulSetStatus, StatefulSetUpdateStrategy,
};
use wharf_types::k8s::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimVolumeSource, PodTemplateSpec, Volume,
};

use super::workload::{self, template_cells};
use super::{created, name, pvc, spec_status};
use crate::checks;
use crate::podspec::defaults::{self, text};
use crate::quantity::{self, is_whole};
use crate::strategy::{AGE, Column, NAME, Scale, Strategy};

#[derive(Debug)]
pub struct StatefulSets;

const REVISION_HISTORY: i32 = 10;
const CLAIM_POLICIES: &[&str] = &["Retain", "Delete"];
const FIXED: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";

impl Strategy for StatefulSets {
    type Object = StatefulSet;

    fn default(&self, set: &mut StatefulSet) {
        let spec = set.spec.get_or_insert_default();
        text(&mut spec.pod_management_policy, "OrderedReady");
        let strategy = spec.update_strategy.get_or_insert_default();
        if strategy.type_.as_deref().unwrap_or_default().is_empty() {
            strategy.type_ = Some("RollingUpdate".to_owned());
            strategy.rolling_update.get_or_insert_default();
        }
        if strategy.type_.as_deref() == Some("RollingUpdate")
            && let Some(rolling) = &mut strategy.rolling_update
        {
            rolling.partition.get_or_insert(0);
        }
        let retention = spec.persistent_volume_claim_retention_policy.get_or_insert_default();
        text(&mut retention.when_deleted, "Retain");
        text(&mut retention.when_scaled, "Retain");
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(REVISION_HISTORY);
        for claim in spec.volume_claim_templates.iter_mut().flatten() {
            pvc::PersistentVolumeClaims.default(claim);
        }
        defaults::template(&mut spec.template);
        default_status(set);
    }

    fn prepare_for_create(&self, set: &mut StatefulSet) {
        drop_disabled(set, None);
        spec_status::created(set);
        default_status(set);
    }

    fn prepare_for_update(&self, set: &mut StatefulSet, old: &StatefulSet) {
        drop_disabled(set, Some(old));
        spec_status::updated(set, old);
    }

    fn prepare_for_status_update(&self, set: &mut StatefulSet, old: &StatefulSet) {
        spec_status::status_updated(set, old);
    }

    fn validate(&self, set: &StatefulSet) -> Errors {
        set.spec.as_ref().map_or_else(Vec::new, |spec| validate_spec(spec, &Path::new("spec")))
    }

    fn validate_new(&self, set: &StatefulSet) -> Errors {
        let Some(spec) = &set.spec else { return Vec::new() };
        let path = Path::new("spec");
        let empty = PersistentVolumeClaimSpec::default();
        let mut errors = Vec::new();
        for (index, claim) in spec.volume_claim_templates.iter().flatten().enumerate() {
            let path = path.child("volumeClaimTemplates").index(index).child("spec");
            errors.extend(pvc::validate_spec(claim.spec.as_ref().unwrap_or(&empty), &path));
        }
        if let Some(service) = spec.service_name.as_deref().filter(|service| !service.is_empty()) {
            errors.extend(checks::dns1123_label(service, &path.child("serviceName")));
        }
        errors
    }

    fn validate_update(&self, new: &StatefulSet, old: &StatefulSet) -> Errors {
        let (Some(new), Some(old)) = (&new.spec, &old.spec) else { return Vec::new() };
        let munged = StatefulSetSpec {
            replicas: old.replicas,
            ordinals: old.ordinals.clone(),
            template: old.template.clone(),
            update_strategy: old.update_strategy.clone(),
            revision_history_limit: old.revision_history_limit,
            persistent_volume_claim_retention_policy: old.persistent_volume_claim_retention_policy.clone(),
            min_ready_seconds: old.min_ready_seconds,
            ..new.clone()
        };
        if munged == *old { Vec::new() } else { vec![Error::forbidden(&Path::new("spec"), FIXED)] }
    }

    fn validate_status_update(&self, new: &StatefulSet, old: &StatefulSet) -> Errors {
        let empty = StatefulSetStatus::default();
        let status = new.status.as_ref().unwrap_or(&empty);
        let mut errors = validate_status(status, &Path::new("status"));
        let held = old.status.as_ref().and_then(|status| status.collision_count);
        errors.extend(workload::validate_collisions(status.collision_count, held));
        errors
    }

    /// The pods' names come of it, and they are hostnames.
    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_label(name)
    }

    fn warnings(&self, set: &StatefulSet, old: Option<&StatefulSet>) -> Vec<String> {
        let (meta, old) = (&set.metadata, old.map(|old| &old.metadata));
        let Some(spec) = set.spec.as_ref().filter(|_| !workload::is_unchanged(meta, old)) else { return Vec::new() };
        let mut warnings = workload::template_warnings(meta, old, Some(&spec.template));
        for (index, claim) in spec.volume_claim_templates.iter().flatten().enumerate() {
            let amounts = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
            if let Some(size) = amounts.and_then(|amounts| amounts.get("storage"))
                && quantity::amount(size).is_some_and(|size| !is_whole(size))
            {
                warnings.push(format!(
                    "spec.volumeClaimTemplates[{index}].Spec.resources.requests[storage]: fractional byte value {:?} is invalid, must be an integer",
                    size.0
                ));
            }
        }
        if spec.revision_history_limit.is_some_and(|limit| limit < 0) {
            warnings.push("spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended".to_owned());
        }
        warnings
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new("Ready", "string", "Number of the pod with ready state"),
            AGE,
            Column::wide("Containers", "string", "Names of each container in the template."),
            Column::wide("Images", "string", "Images referenced by each container in the template."),
        ];
        COLUMNS
    }

    fn cells(&self, set: &StatefulSet, now: Timestamp) -> Vec<Value> {
        let empty = StatefulSetSpec::default();
        let spec = set.spec.as_ref().unwrap_or(&empty);
        let ready = set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or_default();
        let [containers, images] = template_cells(&spec.template);
        vec![
            name(&set.metadata),
            format!("{ready}/{}", spec.replicas.unwrap_or_default()).into(),
            created(&set.metadata, now),
            containers,
            images,
        ]
    }

    fn scale(&self, set: &StatefulSet) -> Option<Scale> {
        let spec = set.spec.as_ref()?;
        Some(Scale {
            spec_replicas: spec.replicas.unwrap_or_default(),
            status_replicas: set.status.as_ref().map_or(0, |status| status.replicas),
            selector: LabelSelector::from_meta(&spec.selector).to_string(),
        })
    }

    fn set_scale(&self, set: &mut StatefulSet, replicas: i32) {
        set.spec.get_or_insert_default().replicas = Some(replicas);
    }
}

/// A count that upstream writes even where it is zero.
fn default_status(set: &mut StatefulSet) {
    if let Some(status) = &mut set.status {
        status.available_replicas.get_or_insert(0);
    }
}

/// Takes away `maxUnavailable`, whose gate `MaxUnavailableStatefulSet` is off in v1.36, unless it is there already.
fn drop_disabled(set: &mut StatefulSet, old: Option<&StatefulSet>) {
    let held = old.and_then(|old| old.spec.as_ref()?.update_strategy.as_ref()?.rolling_update.as_ref());
    if held.is_some_and(|held| held.max_unavailable.is_some()) {
        return;
    }
    let strategy = set.spec.as_mut().and_then(|spec| spec.update_strategy.as_mut());
    if let Some(rolling) = strategy.and_then(|strategy| strategy.rolling_update.as_mut()) {
        rolling.max_unavailable = None;
    }
}

fn validate_spec(spec: &StatefulSetSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let management = spec.pod_management_policy.as_deref().unwrap_or_default();
    if !matches!(management, "OrderedReady" | "Parallel") {
        let why = "must be 'OrderedReady' or 'Parallel'";
        errors.push(Error::invalid(&path.child("podManagementPolicy"), management, why));
    }
    let empty = StatefulSetUpdateStrategy::default();
    let strategy = spec.update_strategy.as_ref().unwrap_or(&empty);
    errors.extend(validate_strategy(strategy, &path.child("updateStrategy")));
    if let Some(retention) = &spec.persistent_volume_claim_retention_policy {
        let path = path.child("persistentVolumeClaimRetentionPolicy");
        for (field, policy) in [("whenDeleted", &retention.when_deleted), ("whenScaled", &retention.when_scaled)] {
            errors.extend(checks::one_of(policy.as_deref().unwrap_or_default(), CLAIM_POLICIES, &path.child(field)));
        }
    }
    errors.extend(checks::non_negative(spec.replicas.unwrap_or_default(), &path.child("replicas")));
    errors.extend(checks::non_negative(spec.min_ready_seconds.unwrap_or_default(), &path.child("minReadySeconds")));
    let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or_default();
    errors.extend(checks::non_negative(start, &path.child("ordinals").child("start")));
    errors.extend(workload::validate_selector(&spec.selector, "statefulset", &path.child("selector")));
    let template = with_claims(&spec.template, spec.volume_claim_templates.as_deref().unwrap_or_default());
    let (template, selector) = (Some(&*template), &spec.selector);
    errors.extend(workload::validate_template(template, selector, "StatefulSet", &path.child("template")));
    errors
}

fn validate_strategy(strategy: &StatefulSetUpdateStrategy, path: &Path) -> Errors {
    match (strategy.type_.as_deref().unwrap_or_default(), &strategy.rolling_update) {
        ("OnDelete", None) | ("RollingUpdate", None) => Vec::new(),
        ("OnDelete", Some(rolling)) => {
            let why = "only allowed for updateStrategy 'RollingUpdate'";
            vec![Error::invalid(&path.child("rollingUpdate"), checks::json(rolling), why)]
        }
        ("RollingUpdate", Some(rolling)) => validate_rolling(rolling, &path.child("rollingUpdate")),
        _ => vec![Error::invalid(path, checks::json(strategy), "must be 'RollingUpdate' or 'OnDelete'")],
    }
}

fn validate_rolling(rolling: &RollingUpdateStatefulSetStrategy, path: &Path) -> Errors {
    let mut errors = checks::non_negative(rolling.partition.unwrap_or_default(), &path.child("partition"));
    if let Some(unavailable) = &rolling.max_unavailable {
        let path = path.child("maxUnavailable");
        errors.extend(checks::count_or_percent(unavailable, &path));
        if checks::is_zero(unavailable) {
            errors.push(Error::invalid(&path, checks::json(unavailable), "cannot be 0"));
        }
        errors.extend(checks::at_most_all(unavailable, &path));
    }
    errors
}

/// The template with the volumes that each pod gets: a claim stands in for a volume of its name.
fn with_claims<'a>(template: &'a PodTemplateSpec, claims: &[PersistentVolumeClaim]) -> Cow<'a, PodTemplateSpec> {
    let names = claims.iter().filter_map(|claim| claim.metadata.name.clone());
    let names: BTreeSet<String> = names.filter(|name| names::dns1123_label(name).is_empty()).collect();
    if names.is_empty() {
        return Cow::Borrowed(template);
    }
    let mut template = template.clone();
    let volumes = template.spec.get_or_insert_default().volumes.get_or_insert_default();
    volumes.retain(|volume| !names.contains(&volume.name));
    volumes.extend(names.into_iter().map(|name| Volume {
        name: name.clone(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource { claim_name: name, ..Default::default() }),
        ..Volume::default()
    }));
    Cow::Owned(template)
}

fn validate_status(status: &StatefulSetStatus, path: &Path) -> Errors {
    let value = |field: Option<i32>| field.unwrap_or_default();
    let (replicas, ready, available) =
        (status.replicas, value(status.ready_replicas), value(status.available_replicas));
    let counts = [
        ("readyReplicas", ready),
        ("currentReplicas", value(status.current_replicas)),
        ("updatedReplicas", value(status.updated_replicas)),
        ("availableReplicas", available),
    ];
    let mut errors = checks::non_negative(replicas, &path.child("replicas"));
    errors.extend(counts.iter().flat_map(|(field, count)| checks::non_negative(*count, &path.child(field))));
    let generation = status.observed_generation.unwrap_or_default();
    errors.extend(checks::non_negative(generation, &path.child("observedGeneration")));
    errors.extend(checks::non_negative(value(status.collision_count), &path.child("collisionCount")));
    for (field, count) in counts.into_iter().filter(|(_, count)| *count > replicas) {
        errors.push(Error::invalid(&path.child(field), count, "cannot be greater than status.replicas"));
    }
    if available > ready {
        let why = "cannot be greater than status.readyReplicas";
        errors.push(Error::invalid(&path.child("availableReplicas"), available, why));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, check_new, check_update, object};

    fn db(extra: &str) -> String {
        format!(
            "{{metadata: {{name: db, generation: 1}}, spec: {{serviceName: db, selector: {{matchLabels: {{app: db}}}}, template: {{metadata: {{labels: {{app: db}}}}, spec: {{containers: [{{name: a, image: i, volumeMounts: [{{name: data, mountPath: /d}}]}}]}}}}, volumeClaimTemplates: [{{metadata: {{name: data}}, spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}}}]{extra}}}}}"
        )
    }

    #[test]
    fn pods_come_one_by_one_and_claims_stay() {
        let set = object(&StatefulSets, &db(""));
        let spec = set.spec.unwrap();
        assert_eq!((spec.replicas, spec.revision_history_limit), (Some(1), Some(10)));
        assert_eq!(spec.pod_management_policy.as_deref(), Some("OrderedReady"));
        let shown = (checks::json(&spec.update_strategy), checks::json(&spec.persistent_volume_claim_retention_policy));
        assert_eq!(shown.0.to_string(), r#"{"rollingUpdate":{"partition":0},"type":"RollingUpdate"}"#);
        assert_eq!(shown.1.to_string(), r#"{"whenDeleted":"Retain","whenScaled":"Retain"}"#);
        let claim = &spec.volume_claim_templates.unwrap()[0];
        assert_eq!(claim.status.as_ref().unwrap().phase.as_deref(), Some("Pending"));
        let given = object(&StatefulSets, &db(", updateStrategy: {type: RollingUpdate}"));
        assert_eq!(given.spec.unwrap().update_strategy.unwrap().rolling_update, None, "what is said is not filled in");
    }

    #[test]
    fn a_mount_may_be_of_a_claim() {
        check(&StatefulSets, &db(""), &[]);
        check(
            &StatefulSets,
            &db("").replace("{name: data, mountPath", "{name: other, mountPath"),
            &["spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"other\""],
        );
    }

    #[test]
    fn rules_of_the_spec() {
        check(
            &StatefulSets,
            &db(", podManagementPolicy: Any, updateStrategy: {type: OnDelete, rollingUpdate: {partition: 1}}"),
            &[
                "spec.podManagementPolicy: Invalid value: \"Any\": must be 'OrderedReady' or 'Parallel'",
                "spec.updateStrategy.rollingUpdate: Invalid value: {\"partition\":1}: only allowed for updateStrategy 'RollingUpdate'",
            ],
        );
        check(
            &StatefulSets,
            &db(", updateStrategy: {rollingUpdate: {partition: -1, maxUnavailable: 0}}, ordinals: {start: -1}"),
            &[
                "spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater than or equal to 0",
                "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0",
                "spec.ordinals.start: Invalid value: -1: must be greater than or equal to 0",
            ],
        );
        check(
            &StatefulSets,
            &db(", persistentVolumeClaimRetentionPolicy: {whenScaled: Keep}"),
            &[
                "spec.persistentVolumeClaimRetentionPolicy.whenScaled: Unsupported value: \"Keep\": supported values: \"Retain\", \"Delete\"",
            ],
        );
        check_new(
            &StatefulSets,
            &db("").replace("serviceName: db", "serviceName: d_b").replace("ReadWriteOnce", "Own"),
            &[
                "spec.volumeClaimTemplates[0].spec.accessModes: Unsupported value: \"Own\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
                "spec.serviceName: Invalid value: \"d_b\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            ],
        );
    }

    #[test]
    fn a_field_of_a_gate_that_is_off_is_dropped_unless_it_is_there() {
        let fast = db(", updateStrategy: {rollingUpdate: {maxUnavailable: 2}}");
        let shown = |set: &StatefulSet| {
            let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
            checks::json(&strategy.and_then(|strategy| strategy.rolling_update.as_ref())).to_string()
        };
        let mut created = object(&StatefulSets, &fast);
        StatefulSets.prepare_for_create(&mut created);
        assert_eq!(shown(&created), r#"{"partition":0}"#);
        let mut updated = object(&StatefulSets, &fast);
        StatefulSets.prepare_for_update(&mut updated, &created);
        assert_eq!(shown(&updated), r#"{"partition":0}"#);
        let mut kept = object(&StatefulSets, &fast);
        StatefulSets.prepare_for_update(&mut kept, &object(&StatefulSets, &fast));
        assert_eq!(shown(&kept), r#"{"maxUnavailable":2,"partition":0}"#);
    }

    #[test]
    fn few_fields_may_change() {
        check_update(&StatefulSets, &db(""), &db(", replicas: 3, minReadySeconds: 5, revisionHistoryLimit: 2"), &[]);
        check_update(
            &StatefulSets,
            &db(""),
            &db("").replace("serviceName: db", "serviceName: other"),
            &[&format!("spec: Forbidden: {FIXED}")],
        );
    }

    #[test]
    fn a_status_counts_within_its_replicas() {
        let with = |status: &str| {
            object(&StatefulSets, &db("").replace("spec: {service", &format!("status: {status}, spec: {{service")))
        };
        let errors = StatefulSets.validate_status_update(
            &with("{replicas: 1, readyReplicas: 2, availableReplicas: 3}"),
            &with("{replicas: 1, collisionCount: 1}"),
        );
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
                "status.availableReplicas: Invalid value: 3: cannot be greater than status.replicas",
                "status.availableReplicas: Invalid value: 3: cannot be greater than status.readyReplicas",
                "status.collisionCount: Invalid value: 0: cannot be decremented",
            ]
        );
    }

    #[test]
    fn cells_show_readiness() {
        let yaml =
            db(", replicas: 3").replace("spec: {service", "status: {replicas: 3, readyReplicas: 2}, spec: {service");
        check_cells(&StatefulSets, &yaml, "db | 2/3 | <unknown> | a | i");
    }
}
