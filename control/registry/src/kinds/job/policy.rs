//! When a Job has failed, and when it has succeeded, by rules of its own.

use std::collections::BTreeSet;

use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::batch::v1::{JobSpec, PodFailurePolicy, PodFailurePolicyRule, SuccessPolicy};

use super::validation::is_indexed;
use crate::checks;
use crate::podspec;

const FAILURE_RULES_MAX: usize = 20;
const SUCCESS_RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const CONDITIONS_MAX: usize = 20;
const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];

pub fn failure(policy: &PodFailurePolicy, spec: &JobSpec, path: &Path) -> Errors {
    let path = path.child("rules");
    if policy.rules.len() > FAILURE_RULES_MAX {
        return vec![Error::too_many(&path, policy.rules.len(), FAILURE_RULES_MAX)];
    }
    let containers: BTreeSet<&str> =
        spec.template.spec.iter().flat_map(podspec::containers).map(|container| container.name.as_str()).collect();
    let rules = policy.rules.iter().enumerate();
    rules.flat_map(|(index, rule)| failure_rule(rule, spec, &containers, &path.index(index))).collect()
}

fn failure_rule(rule: &PodFailurePolicyRule, spec: &JobSpec, containers: &BTreeSet<&str>, path: &Path) -> Errors {
    let mut errors = checks::required_one_of(&rule.action, ACTIONS, &path.child("action"));
    if rule.action == "FailIndex" && spec.backoff_limit_per_index.is_none() {
        let why = "requires the backoffLimitPerIndex to be set";
        errors.push(Error::invalid(&path.child("action"), &rule.action, why));
    }
    if let Some(codes) = &rule.on_exit_codes {
        let path = path.child("onExitCodes");
        errors.extend(checks::required_one_of(&codes.operator, &["In", "NotIn"], &path.child("operator")));
        if let Some(name) = codes.container_name.as_deref().filter(|name| !containers.contains(name)) {
            errors.push(Error::invalid(
                &path.child("containerName"),
                name,
                "must be one of the container or initContainer names in the pod template",
            ));
        }
        let values = path.child("values");
        if codes.values.is_empty() {
            errors.push(Error::invalid(&values, checks::json(&codes.values), "at least one value is required"));
        } else if codes.values.len() > EXIT_CODES_MAX {
            errors.push(Error::too_many(&values, codes.values.len(), EXIT_CODES_MAX));
        }
        let ordered = codes.values.is_sorted();
        for (index, code) in codes.values.iter().enumerate() {
            if codes.operator == "In" && *code == 0 {
                errors.push(Error::invalid(&values.index(index), *code, "must not be 0 for the In operator"));
            }
            if codes.values[..index].contains(code) {
                errors.push(Error::duplicate(&values.index(index), *code));
            }
        }
        if !ordered {
            errors.push(Error::invalid(&values, checks::json(&codes.values), "must be ordered"));
        }
    }
    let conditions = rule.on_pod_conditions.as_deref().unwrap_or_default();
    if conditions.len() > CONDITIONS_MAX {
        errors.push(Error::too_many(&path.child("onPodConditions"), conditions.len(), CONDITIONS_MAX));
    }
    for (index, pattern) in conditions.iter().enumerate() {
        let path = path.child("onPodConditions").index(index);
        errors.extend(checks::qualified_name(&pattern.type_, &path.child("type")));
        let status = pattern.status.as_deref().unwrap_or_default();
        errors.extend(checks::required_one_of(status, &["False", "True", "Unknown"], &path.child("status")));
    }
    match (rule.on_exit_codes.is_some(), !conditions.is_empty()) {
        (true, true) => {
            let why = "specifying both OnExitCodes and OnPodConditions is not supported";
            errors.push(Error::invalid(path, checks::json(rule), why));
        }
        (false, false) => {
            let why = "specifying one of OnExitCodes and OnPodConditions is required";
            errors.push(Error::invalid(path, checks::json(rule), why));
        }
        _ => {}
    }
    errors
}

pub fn success(policy: &SuccessPolicy, spec: &JobSpec, path: &Path) -> Errors {
    if !is_indexed(spec) {
        return vec![Error::invalid(path, checks::json(policy), "requires indexed completion mode")];
    }
    let path = path.child("rules");
    let mut errors = Vec::new();
    if policy.rules.is_empty() {
        errors.push(Error::required(&path, "at least one rules must be specified when the successPolicy is specified"));
    } else if policy.rules.len() > SUCCESS_RULES_MAX {
        errors.push(Error::too_many(&path, policy.rules.len(), SUCCESS_RULES_MAX));
    }
    for (index, rule) in policy.rules.iter().enumerate() {
        let path = path.index(index);
        if rule.succeeded_count.is_none() && rule.succeeded_indexes.is_none() {
            errors.push(Error::required(&path, "at least one of succeededCount or succeededIndexes must be specified"));
        }
        let count = rule.succeeded_count.unwrap_or_default();
        errors.extend(checks::non_negative(count, &path.child("succeededCount")));
        if let Some(completions) = spec.completions.filter(|completions| count > *completions) {
            let why = format!("must be less than or equal to {completions} (the number of specified completions)");
            errors.push(Error::invalid(&path.child("succeededCount"), count, why));
        }
    }
    errors
}
