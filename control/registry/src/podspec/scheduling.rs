//! Where a pod may run: affinity, tolerations, spreading, gates. Source: `validateAffinity`, `ValidateTolerations`,
//! `validateTopologySpreadConstraints`, `validateSchedulingGates`.

use std::collections::BTreeSet;

use wharf_machinery::{names, selector};
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::{
    Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, PodSpec,
    Toleration, TopologySpreadConstraint, WeightedPodAffinityTerm,
};

use crate::checks;

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const NOT_AN_OPERATOR: &str = "not a valid selector operator";

pub fn validate(spec: &PodSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if let Some(affinity) = &spec.affinity {
        errors.extend(validate_affinity(affinity, &path.child("affinity")));
    }
    for (index, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let path = path.child("readinessGates").index(index).child("conditionType");
        errors.extend(checks::qualified_name(&gate.condition_type, &path));
    }
    let mut gates = BTreeSet::new();
    for (index, gate) in spec.scheduling_gates.iter().flatten().enumerate() {
        let path = path.child("schedulingGates").index(index);
        errors.extend(checks::qualified_name(&gate.name, &path));
        if !gates.insert(&gate.name) {
            errors.push(Error::duplicate(&path, &gate.name));
        }
    }
    let constraints = spec.topology_spread_constraints.as_deref().unwrap_or_default();
    errors.extend(spread(constraints, &path.child("topologySpreadConstraints")));
    errors.extend(tolerations(spec.tolerations.as_deref().unwrap_or_default(), &path.child("tolerations")));
    errors
}

fn validate_affinity(affinity: &Affinity, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if let Some(node) = &affinity.node_affinity {
        errors.extend(node_affinity(node, &path.child("nodeAffinity")));
    }
    let near = affinity.pod_affinity.as_ref().map(|pods| {
        let (required, preferred) = (
            &pods.required_during_scheduling_ignored_during_execution,
            &pods.preferred_during_scheduling_ignored_during_execution,
        );
        ("podAffinity", required, preferred)
    });
    let far = affinity.pod_anti_affinity.as_ref().map(|pods| {
        let (required, preferred) = (
            &pods.required_during_scheduling_ignored_during_execution,
            &pods.preferred_during_scheduling_ignored_during_execution,
        );
        ("podAntiAffinity", required, preferred)
    });
    for (field, required, preferred) in [near, far].into_iter().flatten() {
        let path = path.child(field);
        for (index, term) in required.iter().flatten().enumerate() {
            errors.extend(pod_term(term, &path.child(REQUIRED).index(index)));
        }
        for (index, weighted) in preferred.iter().flatten().enumerate() {
            errors.extend(weighted_term(weighted, &path.child(PREFERRED).index(index)));
        }
    }
    errors
}

fn node_affinity(affinity: &NodeAffinity, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if let Some(required) = &affinity.required_during_scheduling_ignored_during_execution {
        errors.extend(node_selector(required, &path.child(REQUIRED)));
    }
    for (index, preferred) in affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten().enumerate()
    {
        let path = path.child(PREFERRED).index(index);
        errors.extend(weight(preferred.weight, &path.child("weight")));
        errors.extend(node_term(&preferred.preference, &path.child("preference")));
    }
    errors
}

/// Checks a choice of nodes, of a pod or of a volume.
pub fn node_selector(selector: &NodeSelector, path: &Path) -> Errors {
    let path = path.child("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        return vec![Error::required(&path, "must have at least one node selector term")];
    }
    let terms = selector.node_selector_terms.iter().enumerate();
    terms.flat_map(|(index, term)| node_term(term, &path.index(index))).collect()
}

fn node_term(term: &NodeSelectorTerm, path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (index, requirement) in term.match_expressions.iter().flatten().enumerate() {
        errors.extend(node_requirement(requirement, &path.child("matchExpressions").index(index)));
    }
    for (index, requirement) in term.match_fields.iter().flatten().enumerate() {
        errors.extend(field_requirement(requirement, &path.child("matchFields").index(index)));
    }
    errors
}

fn node_requirement(requirement: &NodeSelectorRequirement, path: &Path) -> Errors {
    let values = requirement.values.as_deref().unwrap_or_default();
    let at = path.child("values");
    let mut errors = Vec::new();
    match (requirement.operator.as_str(), values.len()) {
        ("In" | "NotIn", 0) => {
            errors.push(Error::required(&at, "must be specified when `operator` is 'In' or 'NotIn'"));
        }
        ("In" | "NotIn", _) | ("Exists" | "DoesNotExist", 0) | ("Gt" | "Lt", 1) => {}
        ("Exists" | "DoesNotExist", _) => {
            errors.push(Error::forbidden(&at, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
        }
        ("Gt" | "Lt", _) => {
            errors.push(Error::required(&at, "must be specified single value when `operator` is 'Lt' or 'Gt'"));
        }
        (other, _) => errors.push(Error::invalid(&path.child("operator"), other, NOT_AN_OPERATOR)),
    }
    errors.extend(checks::qualified_name(&requirement.key, &path.child("key")));
    for (index, value) in values.iter().enumerate() {
        errors.extend(checks::invalid(names::label_value(value), &at.index(index), value));
    }
    errors
}

fn field_requirement(requirement: &NodeSelectorRequirement, path: &Path) -> Errors {
    let values = requirement.values.as_deref().unwrap_or_default();
    let mut errors = Vec::new();
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.len() != 1 => {
            let why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.push(Error::required(&path.child("values"), why));
        }
        "In" | "NotIn" => {}
        other => errors.push(Error::invalid(&path.child("operator"), other, NOT_AN_OPERATOR)),
    }
    if requirement.key != "metadata.name" {
        errors.push(Error::invalid(&path.child("key"), &requirement.key, "not a valid field selector key"));
    } else {
        for (index, value) in values.iter().enumerate() {
            errors.extend(checks::dns1123_subdomain(value, &path.child("values").index(index)));
        }
    }
    errors
}

fn weight(weight: i32, path: &Path) -> Errors {
    if (1..=100).contains(&weight) {
        Vec::new()
    } else {
        vec![Error::invalid(path, weight, "must be in the range 1-100")]
    }
}

fn weighted_term(weighted: &WeightedPodAffinityTerm, path: &Path) -> Errors {
    let mut errors = weight(weighted.weight, &path.child("weight"));
    errors.extend(pod_term(&weighted.pod_affinity_term, &path.child("podAffinityTerm")));
    errors
}

fn pod_term(term: &PodAffinityTerm, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if let Some(labels) = &term.label_selector {
        errors.extend(selector::validate(labels, &path.child("labelSelector")));
    }
    if let Some(namespaces) = &term.namespace_selector {
        errors.extend(selector::validate(namespaces, &path.child("namespaceSelector")));
    }
    for namespace in term.namespaces.iter().flatten() {
        errors.extend(checks::dns1123_label(namespace, &path.child("namespace")));
    }
    errors.extend(label_keys(term, path));
    errors.extend(topology_key(&term.topology_key, &path.child("topologyKey")));
    errors
}

/// Keys whose values the server takes from the pod's own labels.
fn label_keys(term: &PodAffinityTerm, path: &Path) -> Errors {
    let (same, other) =
        (term.match_label_keys.as_deref().unwrap_or_default(), term.mismatch_label_keys.as_deref().unwrap_or_default());
    let mut errors = Vec::new();
    for (field, keys) in [("matchLabelKeys", same), ("mismatchLabelKeys", other)] {
        if !keys.is_empty() && term.label_selector.is_none() {
            errors.push(Error::forbidden(&path.child(field), "must not be specified when labelSelector is not set"));
        }
        for (index, key) in keys.iter().enumerate() {
            errors.extend(checks::qualified_name(key, &path.child(field).index(index)));
        }
    }
    for (index, key) in same.iter().enumerate().filter(|(_, key)| other.contains(key)) {
        let why = "exists in both matchLabelKeys and mismatchLabelKeys";
        errors.push(Error::invalid(&path.child("matchLabelKeys").index(index), key, why));
    }
    errors
}

fn topology_key(key: &str, path: &Path) -> Errors {
    if key.is_empty() { vec![Error::required(path, "can not be empty")] } else { checks::qualified_name(key, path) }
}

fn spread(constraints: &[TopologySpreadConstraint], path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (index, constraint) in constraints.iter().enumerate() {
        let path = path.index(index);
        let positive = |value: i32, field: &str| match value {
            ..=0 => vec![Error::invalid(&path.child(field), value, "must be greater than zero")],
            _ => Vec::new(),
        };
        errors.extend(positive(constraint.max_skew, "maxSkew"));
        errors.extend(topology_key(&constraint.topology_key, &path.child("topologyKey")));
        let action = constraint.when_unsatisfiable.as_str();
        errors.extend(checks::one_of(action, &["DoNotSchedule", "ScheduleAnyway"], &path.child("whenUnsatisfiable")));
        let same = |other: &&TopologySpreadConstraint| {
            other.topology_key == constraint.topology_key && other.when_unsatisfiable == constraint.when_unsatisfiable
        };
        if constraints[index + 1..].iter().find(same).is_some() {
            let pair = format!("{{{}, {action}}}", constraint.topology_key);
            errors.push(Error::duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), &pair));
        }
        if let Some(domains) = constraint.min_domains {
            errors.extend(positive(domains, "minDomains"));
            if action != "DoNotSchedule" {
                let why = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errors.push(Error::invalid(&path.child("minDomains"), domains, why));
            }
        }
        for (field, policy) in [
            ("nodeAffinityPolicy", &constraint.node_affinity_policy),
            ("nodeTaintsPolicy", &constraint.node_taints_policy),
        ] {
            if let Some(policy) = policy {
                errors.extend(checks::one_of(policy, &["Honor", "Ignore"], &path.child(field)));
            }
        }
        if let Some(labels) = &constraint.label_selector {
            errors.extend(selector::validate(labels, &path.child("labelSelector")));
        }
        for (index, key) in constraint.match_label_keys.iter().flatten().enumerate() {
            errors.extend(checks::qualified_name(key, &path.child("matchLabelKeys").index(index)));
        }
    }
    errors
}

pub fn tolerations(tolerations: &[Toleration], path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (index, toleration) in tolerations.iter().enumerate() {
        errors.extend(validate_toleration(toleration, &path.index(index)));
    }
    errors
}

fn validate_toleration(toleration: &Toleration, path: &Path) -> Errors {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (key, operator, value, effect) =
        (text(&toleration.key), text(&toleration.operator), text(&toleration.value), text(&toleration.effect));
    let mut errors = Vec::new();
    if !key.is_empty() {
        errors.extend(checks::qualified_name(&key, &path.child("key")));
    } else if operator != "Exists" {
        let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.push(Error::invalid(&path.child("operator"), &operator, why));
    }
    if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
        let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.push(Error::invalid(&path.child("effect"), &effect, why));
    }
    match operator.as_str() {
        // None at all means Equal.
        "Equal" | "" => {
            let messages = names::label_value(&value);
            if !messages.is_empty() {
                errors.push(Error::invalid(&path.child("operator"), &value, messages.join(";")));
            }
        }
        "Exists" if value.is_empty() => {}
        "Exists" => {
            let why = "value must be empty when `operator` is 'Exists'";
            errors.push(Error::invalid(&path.child("operator"), checks::json(toleration), why));
        }
        other => errors.push(Error::not_supported(&path.child("operator"), other, &["Equal", "Exists"])),
    }
    if !effect.is_empty() {
        errors.extend(checks::one_of(&effect, EFFECTS, &path.child("effect")));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(fields: &str, expected: &[&str]) {
        let spec: PodSpec = serde_yaml::from_str(&format!("{{containers: [], {fields}}}")).unwrap();
        let errors: Vec<String> = validate(&spec, &Path::new("s")).iter().map(ToString::to_string).collect();
        assert_eq!(errors, expected);
    }

    #[test]
    fn tolerations_make_sense() {
        check("tolerations: [{operator: Exists}, {key: a, value: b, effect: NoExecute, tolerationSeconds: 5}]", &[]);
        check(
            "tolerations: [{value: a}, {key: a, operator: Exists, value: b}, {key: a, operator: Like, effect: Never}]",
            &[
                "s.tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
                "s.tolerations[1].operator: Invalid value: {\"key\":\"a\",\"operator\":\"Exists\",\"value\":\"b\"}: value must be empty when `operator` is 'Exists'",
                "s.tolerations[2].operator: Unsupported value: \"Like\": supported values: \"Equal\", \"Exists\"",
                "s.tolerations[2].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
            ],
        );
    }

    #[test]
    fn affinity_terms_are_whole() {
        check(
            "affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: []}}}",
            &[
                "s.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term",
            ],
        );
        check(
            "affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 0, preference: {matchExpressions: [{key: a, operator: In}]}}]}}",
            &[
                "s.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: must be in the range 1-100",
                "s.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            ],
        );
        check(
            "affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: ''}]}}",
            &[
                "s.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required value: can not be empty",
            ],
        );
    }

    #[test]
    fn spreading_is_bounded() {
        check(
            "topologySpreadConstraints: [{maxSkew: 0, topologyKey: '', whenUnsatisfiable: Cry}]",
            &[
                "s.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
                "s.topologySpreadConstraints[0].topologyKey: Required value: can not be empty",
                "s.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: \"Cry\": supported values: \"DoNotSchedule\", \"ScheduleAnyway\"",
            ],
        );
        let twice = "{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}";
        check(
            &format!("topologySpreadConstraints: [{twice}, {twice}]"),
            &[
                "s.topologySpreadConstraints[0].{topologyKey, whenUnsatisfiable}: Duplicate value: \"{zone, DoNotSchedule}\"",
            ],
        );
    }

    #[test]
    fn gates_are_named_once() {
        check("schedulingGates: [{name: a.b/c}, {name: a.b/c}]", &["s.schedulingGates[1]: Duplicate value: \"a.b/c\""]);
    }
}
