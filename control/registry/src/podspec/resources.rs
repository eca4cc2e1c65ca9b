//! What a container asks for and is held to. Source: `ValidateContainerResourceRequirements`.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use wharf_machinery::names;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::ResourceRequirements;
use wharf_types::k8s::apimachinery::pkg::api::resource::Quantity;

use crate::checks;
use crate::quantity::{self, SYNTAX, is_whole};

const CONTAINER_RESOURCES: &[&str] = &["cpu", "memory", "ephemeral-storage"];
/// Names that stand without a domain, for whatever kind of object.
const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
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
const HUGE_PAGES: &str = "hugepages-";

pub fn validate(resources: &ResourceRequirements, path: &Path) -> Errors {
    let empty = BTreeMap::new();
    let limits = resources.limits.as_ref().unwrap_or(&empty);
    let (limits_path, requests_path) = (path.child("limits"), path.child("requests"));
    let mut errors = validate_amounts(limits, &limits_path);
    for (name, request) in resources.requests.iter().flatten() {
        errors.extend(validate_amount(name, request, &requests_path.key(name)));
        let Some(limit) = limits.get(name) else {
            if !is_overcommitted(name) {
                errors.push(Error::required(&limits_path, "Limit must be set for non overcommitable resources"));
            }
            continue;
        };
        let (shown, of) = (request.0.as_str(), format!("{name} limit of {}", limit.0));
        match quantity::compare(request, limit) {
            Some(Ordering::Equal) | None => {}
            Some(_) if !is_overcommitted(name) => {
                errors.push(Error::invalid(&requests_path, shown, format!("must be equal to {of}")));
            }
            Some(Ordering::Greater) => {
                errors.push(Error::invalid(&requests_path, shown, format!("must be less than or equal to {of}")));
            }
            Some(Ordering::Less) => {}
        }
    }
    errors
}

/// Checks names and amounts of a list of resources.
pub fn validate_amounts(amounts: &BTreeMap<String, Quantity>, path: &Path) -> Errors {
    amounts.iter().flat_map(|(name, amount)| validate_amount(name, amount, &path.key(name))).collect()
}

fn validate_amount(name: &str, amount: &Quantity, path: &Path) -> Errors {
    let mut errors = validate_name(name, path);
    match quantity::amount(amount) {
        None => errors.push(Error::invalid(path, &amount.0, SYNTAX)),
        Some(value) if value.is_negative() => errors.push(Error::invalid(path, &amount.0, checks::NOT_NEGATIVE)),
        Some(value) if is_extended(name) && !is_whole(value) => {
            errors.push(Error::invalid(path, &amount.0, "must be an integer"));
        }
        Some(_) => {}
    }
    errors
}

fn validate_name(name: &str, path: &Path) -> Errors {
    let mut errors = checks::qualified_name(name, path);
    if !errors.is_empty() {
        return errors;
    }
    let huge = name.starts_with(HUGE_PAGES);
    if !name.contains('/') {
        if !STANDARD.contains(&name) && !huge {
            errors.push(Error::invalid(path, name, "must be a standard resource type or fully qualified"));
        }
        if !CONTAINER_RESOURCES.contains(&name) && !huge {
            errors.push(Error::invalid(path, name, "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.push(Error::invalid(path, name, "doesn't follow extended resource name standard"));
    }
    errors
}

/// Kubernetes' own resources: those without a domain, and those of `kubernetes.io`.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Resources that a node or a driver adds, which are counted in whole units.
fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

fn is_overcommitted(name: &str) -> bool {
    is_native(name) && !name.starts_with(HUGE_PAGES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(resources: &str, expected: &[&str]) {
        let resources: ResourceRequirements = serde_yaml::from_str(resources).unwrap();
        let errors: Vec<String> = validate(&resources, &Path::new("r")).iter().map(ToString::to_string).collect();
        assert_eq!(errors, expected);
    }

    #[test]
    fn requests_stay_within_limits() {
        check("{requests: {cpu: 100m}, limits: {cpu: '1'}}", &[]);
        check(
            "{requests: {cpu: '2'}, limits: {cpu: 1000m}}",
            &["r.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1000m"],
        );
        check(
            "{requests: {example.com/gpu: 1}, limits: {example.com/gpu: 2}}",
            &["r.requests: Invalid value: \"1\": must be equal to example.com/gpu limit of 2"],
        );
        check(
            "{requests: {example.com/gpu: 1}}",
            &["r.limits: Required value: Limit must be set for non overcommitable resources"],
        );
    }

    #[test]
    fn names_and_amounts_are_good() {
        check("{limits: {cpu: '-1'}}", &["r.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0"]);
        check(
            "{limits: {memory: lots}}",
            &[
                "r.limits[memory]: Invalid value: \"lots\": quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            ],
        );
        check(
            "{limits: {apples: 1}}",
            &[
                "r.limits[apples]: Invalid value: \"apples\": must be a standard resource type or fully qualified",
                "r.limits[apples]: Invalid value: \"apples\": must be a standard resource for containers",
            ],
        );
        check(
            "{limits: {example.com/gpu: 500m}}",
            &["r.limits[example.com/gpu]: Invalid value: \"500m\": must be an integer"],
        );
    }
}
