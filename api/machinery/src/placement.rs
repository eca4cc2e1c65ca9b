//! Which nodes will do for a pod by its own words: node selector, required node affinity, tolerations.
//!
//! The scheduler, the DaemonSet controller, taint eviction and the node's own admission ask the same here.
//! Source: `k8s.io/component-helpers/scheduling/corev1` and its `nodeaffinity`.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration};

/// The only field of nodes that terms select by.
pub const NAME_FIELD: &str = "metadata.name";

type Labels = BTreeMap<String, String>;

/// Whether node selector and required affinity allow the node.
pub fn selects(spec: &PodSpec, node: &str, labels: Option<&Labels>) -> bool {
    let value = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
    let selected = spec.node_selector.iter().flatten().all(|(key, wanted)| value(key) == Some(wanted));
    selected
        && required(spec)
            .is_none_or(|selector| selector.node_selector_terms.iter().any(|term| meets(term, node, labels)))
}

fn required(spec: &PodSpec) -> Option<&NodeSelector> {
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    affinity.required_during_scheduling_ignored_during_execution.as_ref()
}

/// Whether the node meets all requirements of a term; one without requirements is met by no node.
pub fn meets(term: &NodeSelectorTerm, node: &str, labels: Option<&Labels>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let value = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|requirement| holds(requirement, value(&requirement.key)))
        && fields.iter().all(|requirement| requirement.key == NAME_FIELD && holds(requirement, Some(node)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|listed| listed == value));
    let compares = |wanted: Ordering| {
        let number = value.and_then(|value| value.parse::<i64>().ok());
        let bound = values.first().and_then(|bound| bound.parse::<i64>().ok());
        number.zip(bound).is_some_and(|(number, bound)| number.cmp(&bound) == wanted)
    };
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compares(Ordering::Greater),
        "Lt" => compares(Ordering::Less),
        _ => false,
    }
}

/// The nodes that a pod names itself, where every required term does: no other can be meant.
pub fn named_nodes(spec: &PodSpec) -> Option<BTreeSet<&str>> {
    let terms = required(spec).map(|selector| &selector.node_selector_terms).filter(|terms| !terms.is_empty())?;
    let mut names = BTreeSet::new();
    for term in terms {
        names.extend(named_by(term)?);
    }
    Some(names)
}

fn named_by(term: &NodeSelectorTerm) -> Option<BTreeSet<&str>> {
    let lists = term.match_fields.iter().flatten().filter(|field| field.key == NAME_FIELD && field.operator == "In");
    let sets = lists.map(|field| field.values.iter().flatten().map(String::as_str).collect::<BTreeSet<&str>>());
    sets.reduce(|one, other| one.intersection(&other).copied().collect())
}

pub fn tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| tolerates(toleration, taint))
}

/// Source: `Toleration.ToleratesTaint`. A toleration without a key tolerates everything, if it asks that taints exist.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let set = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let fits = |text: &Option<String>, wanted: &str| !set(text) || text.as_deref() == Some(wanted);
    let value_fits = match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => {
            set(&toleration.key)
                && toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
        Some(_) => false,
    };
    fits(&toleration.effect, &taint.effect) && fits(&toleration.key, &taint.key) && value_fits
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(value: Value) -> PodSpec {
        let mut spec = json!({"containers": []});
        spec.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
        serde_json::from_value(spec).unwrap()
    }

    fn affinity(terms: Value) -> PodSpec {
        let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
        spec(json!({"affinity": {"nodeAffinity": required}}))
    }

    /// Whether node `n1`, with labels `disk=ssd` and `cores=4`, will do.
    fn check(spec: &PodSpec, expected: bool) {
        let labels = [("disk", "ssd"), ("cores", "4")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        assert_eq!(selects(spec, "n1", Some(&labels)), expected, "{spec:?}");
    }

    #[test]
    fn selector_and_one_of_the_required_terms_must_hold() {
        check(&spec(json!({})), true);
        check(&spec(json!({"nodeSelector": {"disk": "ssd"}})), true);
        check(&spec(json!({"nodeSelector": {"disk": "ssd", "gpu": "yes"}})), false);
        let term = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        check(&affinity(json!([])), false);
        check(&affinity(json!([{}])), false);
        check(&affinity(json!([term("disk", "In", &["hdd"]), term("cores", "Gt", &["3"])])), true);
        check(&affinity(json!([term("cores", "Lt", &["4"])])), false);
        check(&affinity(json!([term("gpu", "NotIn", &["yes"])])), true);
        check(&affinity(json!([term("gpu", "Exists", &[])])), false);
        check(&affinity(json!([term("gpu", "DoesNotExist", &[])])), true);
        let named = |name: &str| json!([{"matchFields": [{"key": NAME_FIELD, "operator": "In", "values": [name]}]}]);
        check(&affinity(named("n1")), true);
        check(&affinity(named("n2")), false);
    }

    #[test]
    fn a_pod_names_its_nodes_if_every_term_does() {
        let names = |terms: Value| -> Option<Vec<String>> {
            named_nodes(&affinity(terms)).map(|names| names.into_iter().map(str::to_owned).collect())
        };
        let field = |values: &[&str]| json!({"key": NAME_FIELD, "operator": "In", "values": values});
        let all = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>());
        assert_eq!(names(json!([{"matchFields": [field(&["a"])]}])), all(&["a"]));
        assert_eq!(
            names(json!([{"matchFields": [field(&["b"])]}, {"matchFields": [field(&["a"])]}])),
            all(&["a", "b"])
        );
        assert_eq!(names(json!([{"matchFields": [field(&["a", "b"]), field(&["b", "c"])]}])), all(&["b"]));
        assert_eq!(names(json!([{"matchFields": [field(&["a"])]}, {}])), None);
        assert_eq!(names(json!([])), None);
        assert_eq!(named_nodes(&spec(json!({}))), None);
    }

    #[test]
    fn tolerations_match_by_key_value_and_effect() {
        let taint = Taint {
            key: "dedicated".to_owned(),
            value: Some("db".to_owned()),
            effect: "NoSchedule".to_owned(),
            time_added: None,
        };
        let check = |toleration: Value, expected: bool| {
            let toleration: Toleration = serde_json::from_value(toleration).unwrap();
            assert_eq!(tolerates(&toleration, &taint), expected, "{toleration:?}");
        };
        check(json!({"operator": "Exists"}), true);
        check(json!({"key": "dedicated", "operator": "Exists"}), true);
        check(json!({"key": "dedicated", "value": "db"}), true);
        check(json!({"key": "dedicated", "value": "web"}), false);
        check(json!({"key": "dedicated", "value": "db", "effect": "NoExecute"}), false);
        check(json!({"key": "other", "operator": "Exists"}), false);
        check(json!({}), false);
    }
}
