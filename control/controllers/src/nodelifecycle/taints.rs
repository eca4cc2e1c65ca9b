//! What follows from a node's conditions: its taints; and the conditions of a node that is silent. Pure.

use jiff::Timestamp;
use wharf_types::k8s::api::core::v1::{Node, NodeCondition, Taint};

use crate::pods;

pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// A taint without execution effect for each condition, and the state of the condition that causes it.
const CONDITION_TAINTS: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that only the node can know.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

pub fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// The conditions of a node that is silent, if they do not say so yet.
pub fn silent_conditions(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let before = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let mut after = before.clone();
    for kind in REPORTED {
        match after.iter_mut().find(|condition| condition.type_ == kind) {
            Some(condition) if condition.status == "Unknown" => {}
            Some(condition) => {
                condition.status = "Unknown".to_owned();
                condition.reason = Some("NodeStatusUnknown".to_owned());
                condition.message = Some("Kubelet stopped posting node status.".to_owned());
                condition.last_transition_time = Some(pods::time(now));
            }
            None => after.push(NodeCondition {
                type_: kind.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(pods::time(now)),
            }),
        }
    }
    (after != before).then_some(after)
}

/// What is to become of a node's pods while it is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// They go, from now on.
    Begun,
    /// They go if they do already.
    Kept,
    /// They stay after all.
    Lifted,
}

/// Whether pods that do not tolerate a silent node, or one that is not ready, have to go.
pub fn is_evicting(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let evicts = |taint: &Taint| taint.effect == "NoExecute" && [NOT_READY, UNREACHABLE].contains(&taint.key.as_str());
    taints.into_iter().flatten().any(evicts)
}

/// The taints that a node should have, if it has others.
pub fn taints(node: &Node, eviction: Eviction, now: Timestamp) -> Option<Vec<Taint>> {
    let state = |kind: &str| condition(node, kind).map(|condition| condition.status.as_str());
    let evicts = eviction == Eviction::Begun || (eviction == Eviction::Kept && is_evicting(node));
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for (kind, cause, key) in CONDITION_TAINTS {
        if state(kind) == Some(cause) {
            wanted.push((key, "NoSchedule"));
            if kind == "Ready" && evicts {
                wanted.push((key, "NoExecute"));
            }
        }
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    // A node that has not said anything yet keeps what it was made with.
    let decides = |taint: &Taint| match taint.key.as_str() {
        NOT_READY | UNREACHABLE => state("Ready").is_some(),
        UNSCHEDULABLE => taint.effect == "NoSchedule",
        key => taint.effect == "NoSchedule" && CONDITION_TAINTS.iter().any(|(_, _, other)| *other == key),
    };
    let before = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let is_wanted = |taint: &Taint| wanted.contains(&(taint.key.as_str(), taint.effect.as_str()));
    let mut after: Vec<Taint> = before.iter().filter(|taint| !decides(taint) || is_wanted(taint)).cloned().collect();
    for (key, effect) in &wanted {
        if !after.iter().any(|taint| taint.key == *key && taint.effect == *effect) {
            let time_added = Some(pods::time(now));
            after.push(Taint { key: (*key).to_owned(), effect: (*effect).to_owned(), value: None, time_added });
        }
    }
    (after != before).then_some(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::fixtures::now;
    use wharf_types::k8s::api::core::v1::{NodeSpec, NodeStatus};

    /// Conditions as `Ready=True`, taints as `key:effect`.
    fn node(conditions: &str, taints: &[(&str, &str)]) -> Node {
        let conditions = conditions.split(' ').filter_map(|text| text.split_once('=')).map(|(kind, status)| {
            NodeCondition { type_: kind.to_owned(), status: status.to_owned(), ..NodeCondition::default() }
        });
        let taints = taints.iter().map(|(key, effect)| Taint {
            key: (*key).to_owned(),
            effect: (*effect).to_owned(),
            ..Taint::default()
        });
        Node {
            spec: Some(NodeSpec { taints: Some(taints.collect()), ..NodeSpec::default() }),
            status: Some(NodeStatus { conditions: Some(conditions.collect()), ..NodeStatus::default() }),
            ..Node::default()
        }
    }

    fn check(node: &Node, expected: Option<&[(&str, &str)]>) {
        check_evicting(node, Eviction::Begun, expected);
    }

    fn check_evicting(node: &Node, eviction: Eviction, expected: Option<&[(&str, &str)]>) {
        let got = taints(node, eviction, now());
        let got: Option<Vec<_>> =
            got.as_ref().map(|taints| taints.iter().map(|taint| (taint.key.as_str(), taint.effect.as_str())).collect());
        assert_eq!(got.as_deref(), expected);
    }

    #[test]
    fn taints_follow_conditions_and_leave_others_alone() {
        check(&node("Ready=True", &[]), None);
        check(&node("Ready=True", &[(NOT_READY, "NoSchedule"), ("mine", "NoExecute")]), Some(&[("mine", "NoExecute")]));
        check(&node("Ready=False", &[]), Some(&[(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]));
        let before = [(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")];
        check(&node("Ready=Unknown", &before), Some(&[(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]));
        let pressure = "node.kubernetes.io/disk-pressure";
        check(&node("Ready=True DiskPressure=True", &[]), Some(&[(pressure, "NoSchedule")]));
    }

    #[test]
    fn pods_go_when_they_may_and_go_on_going_unless_they_may_no_more() {
        let cautious = [(NOT_READY, "NoSchedule")];
        check_evicting(&node("Ready=False", &[]), Eviction::Kept, Some(&cautious));
        let evicting = [(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")];
        let exchanged = [(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")];
        check_evicting(&node("Ready=False", &evicting), Eviction::Kept, Some(&exchanged));
        check_evicting(&node("Ready=False", &exchanged), Eviction::Lifted, Some(&cautious));
        check_evicting(&node("Ready=True", &exchanged), Eviction::Kept, Some(&[]));
    }

    #[test]
    fn a_new_node_keeps_its_taint_until_it_reports() {
        check(&node("", &[(NOT_READY, "NoSchedule")]), None);
    }

    #[test]
    fn a_cordoned_node_is_tainted_until_it_is_uncordoned() {
        let mut cordoned = node("Ready=True", &[]);
        cordoned.spec.get_or_insert_default().unschedulable = Some(true);
        check(&cordoned, Some(&[(UNSCHEDULABLE, "NoSchedule")]));
        check(&node("Ready=True", &[(UNSCHEDULABLE, "NoSchedule")]), Some(&[]));
    }

    #[test]
    fn a_silent_node_becomes_unknown_once() {
        let silent = node("Ready=True MemoryPressure=False", &[]);
        let conditions = silent_conditions(&silent, now()).expect("it has changed");
        let shown: Vec<_> =
            conditions.iter().map(|condition| (condition.type_.as_str(), condition.status.as_str())).collect();
        let kinds = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
        assert_eq!(shown, kinds.map(|kind| (kind, "Unknown")));
        assert_eq!(conditions[0].reason.as_deref(), Some("NodeStatusUnknown"));
        assert_eq!(conditions[2].reason.as_deref(), Some("NodeStatusNeverUpdated"));
        let noted = Node {
            status: Some(NodeStatus { conditions: Some(conditions), ..NodeStatus::default() }),
            ..Node::default()
        };
        assert_eq!(silent_conditions(&noted, now()), None);
    }
}
