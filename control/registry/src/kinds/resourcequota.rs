//! ResourceQuotas: how much a namespace may hold.
//!
//! The admission plugin `ResourceQuota` charges them, and a controller counts. Source: `ValidateResourceQuota`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::{ResourceQuota, ResourceQuotaSpec, ResourceQuotaStatus};
use wharf_types::k8s::apimachinery::pkg::api::resource::Quantity;

use super::{created, name};
use crate::checks;
use crate::quantity::{self, SYNTAX, is_whole};
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct ResourceQuotas;

const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];
/// Scopes of which a quota may have one only.
const OPPOSITES: &[(&str, &str)] = &[("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")];
/// Names that count things, and so are whole numbers.
const COUNTED: &[&str] = &[
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];

impl Strategy for ResourceQuotas {
    type Object = ResourceQuota;

    fn prepare_for_create(&self, quota: &mut ResourceQuota) {
        quota.status = Some(ResourceQuotaStatus::default());
    }

    fn prepare_for_update(&self, quota: &mut ResourceQuota, old: &ResourceQuota) {
        quota.status.clone_from(&old.status);
    }

    fn prepare_for_status_update(&self, quota: &mut ResourceQuota, old: &ResourceQuota) {
        quota.spec.clone_from(&old.spec);
    }

    fn validate(&self, quota: &ResourceQuota) -> Errors {
        let empty = ResourceQuotaSpec::default();
        let spec = quota.spec.as_ref().unwrap_or(&empty);
        let path = Path::new("spec");
        let mut errors = validate_amounts(spec.hard.as_ref(), &path.child("hard"));
        errors.extend(validate_scopes(spec, &path));
        errors
    }

    fn validate_update(&self, new: &ResourceQuota, old: &ResourceQuota) -> Errors {
        let scopes = |quota: &ResourceQuota| {
            let mut scopes = quota.spec.as_ref().and_then(|spec| spec.scopes.clone()).unwrap_or_default();
            scopes.sort();
            scopes
        };
        checks::immutable(&scopes(new), &scopes(old), &Path::new("spec").child("scopes"))
    }

    fn validate_status_update(&self, new: &ResourceQuota, _old: &ResourceQuota) -> Errors {
        let empty = ResourceQuotaStatus::default();
        let status = new.status.as_ref().unwrap_or(&empty);
        let mut errors = validate_amounts(status.hard.as_ref(), &Path::new("status").child("hard"));
        errors.extend(validate_amounts(status.used.as_ref(), &Path::new("status").child("used")));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new(
                "Request",
                "string",
                "Request represents a minimum amount of cpu/memory that a container may consume.",
            ),
            Column::new(
                "Limit",
                "string",
                "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.",
            ),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, quota: &ResourceQuota, now: Timestamp) -> Vec<Value> {
        let status = quota.status.clone().unwrap_or_default();
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (resource, hard) in status.hard.iter().flatten() {
            let used = status.used.as_ref().and_then(|used| used.get(resource)).map_or("0", |used| used.0.as_str());
            let text = format!("{resource}: {used}/{}", hard.0);
            if resource.starts_with("limits") { limits.push(text) } else { requests.push(text) }
        }
        let at = created(&quota.metadata, now);
        vec![name(&quota.metadata), requests.join(", ").into(), limits.join(", ").into(), at]
    }
}

fn validate_amounts(amounts: Option<&BTreeMap<String, Quantity>>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (resource, amount) in amounts.into_iter().flatten() {
        let path = path.key(resource);
        errors.extend(checks::qualified_name(resource, &path));
        let is_count = COUNTED.contains(&resource.as_str()) || resource.starts_with("count/");
        if !resource.contains('/') && !is_count && !STANDARD.contains(&resource.as_str()) {
            errors.push(Error::invalid(&path, resource, "must be a standard resource for quota"));
        }
        match quantity::amount(amount) {
            None => errors.push(Error::invalid(&path, &amount.0, SYNTAX)),
            Some(value) if value.is_negative() => errors.push(Error::invalid(&path, &amount.0, checks::NOT_NEGATIVE)),
            Some(value) if is_count && !is_whole(value) => {
                errors.push(Error::invalid(&path, &amount.0, "must be an integer"));
            }
            Some(_) => {}
        }
    }
    errors
}

fn validate_scopes(spec: &ResourceQuotaSpec, path: &Path) -> Errors {
    let scopes = spec.scopes.as_deref().unwrap_or_default();
    let path = path.child("scopes");
    let mut errors: Errors = Vec::new();
    for scope in scopes.iter().filter(|scope| !SCOPES.contains(&scope.as_str())) {
        errors.push(Error::invalid(&path, checks::json(&scopes), format!("unsupported scope {scope:?}")));
    }
    let has = |name: &str| scopes.iter().any(|scope| scope == name);
    for _ in OPPOSITES.iter().filter(|(one, other)| has(one) && has(other)) {
        errors.push(Error::invalid(&path, checks::json(&scopes), "conflicting scopes"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, check_update};

    #[test]
    fn amounts_are_known_and_not_negative() {
        check(
            &ResourceQuotas,
            "{spec: {hard: {pods: '10', requests.cpu: 500m, count/jobs.batch: '3', example.com/gpu: '1'}}}",
            &[],
        );
        check(
            &ResourceQuotas,
            "{spec: {hard: {apples: '1', cpu: '-1', pods: 500m}}}",
            &[
                "spec.hard[apples]: Invalid value: \"apples\": must be a standard resource for quota",
                "spec.hard[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
                "spec.hard[pods]: Invalid value: \"500m\": must be an integer",
            ],
        );
    }

    #[test]
    fn scopes_agree_and_stay() {
        check(
            &ResourceQuotas,
            "{spec: {scopes: [BestEffort, NotBestEffort]}}",
            &["spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes"],
        );
        check_update(
            &ResourceQuotas,
            "{}",
            "{spec: {scopes: [BestEffort]}}",
            &["spec.scopes: Invalid value: [\"BestEffort\"]: field is immutable"],
        );
    }

    #[test]
    fn use_is_shown_beside_the_limit() {
        check_cells(
            &ResourceQuotas,
            "{metadata: {name: q}, status: {hard: {pods: '10', limits.cpu: '2'}, used: {pods: '3'}}}",
            "q | pods: 3/10 | limits.cpu: 0/2 | <unknown>",
        );
    }
}
