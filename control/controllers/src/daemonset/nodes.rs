//! Which nodes run a DaemonSet's pods, and how a pod says which node it is for.
//!
//! Source: `NodeShouldRunDaemonPod` and `pkg/controller/daemon/util/daemonset_util.go`.

use std::collections::BTreeMap;

use wharf_machinery::placement::{self, NAME_FIELD, tolerated};
use wharf_types::k8s::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration,
};

use crate::nodelifecycle::{NOT_READY, UNREACHABLE};

/// Taints that every pod of a DaemonSet puts up with, as key and effect.
const TOLERATED: [(&str, &str); 6] = [
    (NOT_READY, "NoExecute"),
    (UNREACHABLE, "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// And one more on the node's own network.
const TOLERATED_ON_HOST_NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// What a node means to a DaemonSet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fit {
    /// A pod is wanted there.
    pub run: bool,
    /// A pod that is there may stay.
    pub stay: bool,
}

/// What decides about nodes, taken from a template once.
pub struct Rules<'a> {
    spec: Option<&'a PodSpec>,
    tolerations: Vec<Toleration>,
}

impl<'a> Rules<'a> {
    pub fn of(spec: Option<&'a PodSpec>) -> Self {
        let tolerations = spec.map(tolerations).unwrap_or_default();
        Self { spec, tolerations }
    }

    pub fn fit(&self, node: &Node) -> Fit {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let chosen = self.spec.and_then(|spec| spec.node_name.as_deref()).filter(|chosen| !chosen.is_empty());
        let labels = node.metadata.labels.as_ref();
        let selected = self.spec.is_none_or(|spec| placement::selects(spec, name, labels));
        if chosen.is_some_and(|chosen| chosen != name) || !selected {
            return Fit::default();
        }
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        let mut untolerated = taints.iter().filter(|taint| !tolerated(taint, &self.tolerations));
        let keeps_away = |taint: &Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
        let run = !untolerated.clone().any(keeps_away);
        Fit { run, stay: run || !untolerated.any(|taint| taint.effect == "NoExecute") }
    }
}

/// Whether a change of a node can matter to any DaemonSet. A heartbeat does not.
pub fn may_matter(old: &Node, new: &Node) -> bool {
    let facts =
        |node: &'_ Node| (node.metadata.labels.clone(), node.spec.as_ref().and_then(|spec| spec.taints.clone()));
    facts(old) != facts(new)
}

/// The template's tolerations and those that every pod of a DaemonSet has. Source: `AddOrUpdateDaemonPodTolerations`.
pub fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = spec.tolerations.clone().unwrap_or_default();
    let on_host = spec.host_network.unwrap_or(false).then_some(TOLERATED_ON_HOST_NETWORK);
    for (key, effect) in TOLERATED.into_iter().chain(on_host) {
        let toleration = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        // One for a limited time becomes one for all time.
        let same = |it: &Toleration| Toleration { toleration_seconds: None, ..it.clone() } == toleration;
        match all.iter_mut().find(|it| same(it)) {
            Some(there) => *there = toleration,
            None => all.push(toleration),
        }
    }
    all
}

/// Ties a pod to a node, for the scheduler. What else is required of nodes is replaced: it was looked at here.
pub fn pin(spec: &mut PodSpec, node: &str) {
    let requirement = NodeSelectorRequirement {
        key: NAME_FIELD.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![requirement]), match_expressions: None };
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    affinity.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
}

/// The node that a pod is on, or is meant for.
pub fn target(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) {
        return Some(node);
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let named = fields.into_iter().find(|field| field.key == NAME_FIELD && field.operator == "In")?;
    match named.values.as_deref()? {
        [only] => Some(only),
        _ => None,
    }
}

/// Pods by the node they are on, or are meant for.
pub fn by_node<P: std::ops::Deref<Target = Pod>>(pods: impl IntoIterator<Item = P>) -> BTreeMap<String, Vec<P>> {
    let mut all: BTreeMap<String, Vec<P>> = BTreeMap::new();
    for pod in pods {
        if let Some(node) = target(&pod).map(str::to_owned) {
            all.entry(node).or_default().push(pod);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(value: &Value) -> PodSpec {
        let mut spec = json!({"containers": []});
        spec.as_object_mut().expect("an object").extend(value.as_object().expect("an object").clone());
        serde_json::from_value(spec).expect("a spec")
    }

    /// What node `n1`, with label `disk=ssd` and these taints, means to a template.
    fn check(template: Value, taints: &[(&str, &str)], expected: (bool, bool)) {
        let taints: Vec<Value> = taints.iter().map(|(key, effect)| json!({"key": key, "effect": effect})).collect();
        let node = json!({"metadata": {"name": "n1", "labels": {"disk": "ssd"}}, "spec": {"taints": taints}});
        let node: Node = serde_json::from_value(node).expect("a node");
        let spec = spec(&template);
        let fit = Rules::of(Some(&spec)).fit(&node);
        assert_eq!((fit.run, fit.stay), expected, "{template} {taints:?}");
    }

    #[test]
    fn a_node_must_be_selected() {
        check(json!({}), &[], (true, true));
        check(json!({"nodeSelector": {"disk": "ssd"}}), &[], (true, true));
        check(json!({"nodeSelector": {"disk": "hdd"}}), &[], (false, false));
        check(json!({"nodeName": "n1"}), &[], (true, true));
        check(json!({"nodeName": "n2"}), &[], (false, false));
        let only = |name: &str| {
            let field = json!({"key": "metadata.name", "operator": "In", "values": [name]});
            let required = json!({"nodeSelectorTerms": [{"matchFields": [field]}]});
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}})
        };
        check(only("n1"), &[], (true, true));
        check(only("n2"), &[], (false, false));
    }

    #[test]
    fn taints_keep_new_pods_away_and_some_drive_out_old_ones() {
        check(json!({}), &[("k", "NoSchedule")], (false, true));
        check(json!({}), &[("k", "NoExecute")], (false, false));
        check(json!({}), &[("k", "PreferNoSchedule")], (true, true));
        check(json!({"tolerations": [{"key": "k", "operator": "Exists"}]}), &[("k", "NoExecute")], (true, true));
    }

    #[test]
    fn daemons_put_up_with_what_happens_to_nodes() {
        check(json!({}), &TOLERATED, (true, true));
        check(json!({}), &[TOLERATED_ON_HOST_NETWORK], (false, true));
        check(json!({"hostNetwork": true}), &[TOLERATED_ON_HOST_NETWORK], (true, true));
    }

    #[test]
    fn a_toleration_for_a_time_becomes_one_for_all_time() {
        let limited = json!({"key": NOT_READY, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
        let all = tolerations(&spec(&json!({"tolerations": [limited]})));
        assert_eq!(all.len(), TOLERATED.len());
        assert!(all.iter().all(|it| it.toleration_seconds.is_none()), "{all:?}");
    }

    #[test]
    fn a_pod_is_pinned_to_a_node_whatever_else_was_required() {
        let mut pinned = spec(&json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]}}}}));
        pin(&mut pinned, "n7");
        let pod = Pod { spec: Some(pinned), ..Pod::default() };
        assert_eq!(target(&pod), Some("n7"));
        let bound = Pod { spec: Some(spec(&json!({"nodeName": "n1"}))), ..Pod::default() };
        assert_eq!(target(&bound), Some("n1"));
        assert_eq!(target(&Pod { spec: Some(spec(&json!({}))), ..Pod::default() }), None);
    }

    #[test]
    fn a_heartbeat_does_not_matter() {
        let node = |value: Value| serde_json::from_value::<Node>(value).expect("a node");
        let before = node(json!({"metadata": {"name": "n1", "labels": {"a": "b"}, "resourceVersion": "1"}}));
        let beat = node(json!({"metadata": {"name": "n1", "labels": {"a": "b"}, "resourceVersion": "2"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}}));
        assert!(!may_matter(&before, &beat));
        let tainted = node(json!({"metadata": {"name": "n1", "labels": {"a": "b"}},
            "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}));
        assert!(may_matter(&before, &tainted));
    }
}
