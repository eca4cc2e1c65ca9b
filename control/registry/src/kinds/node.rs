//! Nodes: machines that run pods.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::{Node, NodeSpec, NodeStatus, Taint};

use super::{NONE, created, name, or_none};
use crate::checks;
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct Nodes;

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE_LABEL: &str = "kubernetes.io/role";
/// Effects of taints, in the order in which upstream lists them.
const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

impl Strategy for Nodes {
    type Object = Node;

    fn default(&self, node: &mut Node) {
        if let Some(spec) = &mut node.spec {
            same_cidrs(spec);
        }
        if let Some(status) = &mut node.status
            && status.allocatable.is_none()
        {
            status.allocatable.clone_from(&status.capacity);
        }
    }

    fn prepare_for_update(&self, node: &mut Node, old: &Node) {
        node.status.clone_from(&old.status);
    }

    fn prepare_for_status_update(&self, node: &mut Node, old: &Node) {
        node.spec.clone_from(&old.spec);
    }

    fn validate(&self, node: &Node) -> Errors {
        let Some(spec) = &node.spec else { return Vec::new() };
        let path = Path::new("spec");
        let mut errors = validate_taints(spec.taints.as_deref().unwrap_or_default(), &path.child("taints"));
        let cidrs = spec.pod_cidrs.as_deref().unwrap_or_default();
        for (index, cidr) in cidrs.iter().enumerate() {
            errors.extend(checks::cidr(cidr, &path.child("podCIDRs").index(index)));
        }
        let v6 = cidrs.iter().filter(|cidr| cidr.contains(':')).count();
        if v6 > 1 || cidrs.len() - v6 > 1 {
            let why = "may specify no more than one CIDR for each IP family";
            errors.push(Error::invalid(&path.child("podCIDRs"), checks::json(&cidrs), why));
        }
        errors
    }

    fn validate_update(&self, new: &Node, old: &Node) -> Errors {
        let empty = NodeSpec::default();
        let (new, old) = (new.spec.as_ref().unwrap_or(&empty), old.spec.as_ref().unwrap_or(&empty));
        let path = Path::new("spec");
        let mut errors = Vec::new();
        let set = |cidrs: &Option<Vec<String>>| cidrs.as_ref().is_some_and(|cidrs| !cidrs.is_empty());
        if set(&old.pod_cidrs) && old.pod_cidrs != new.pod_cidrs {
            let why = "node updates may not change podCIDR except from \"\" to valid";
            errors.push(Error::forbidden(&path.child("podCIDRs"), why));
        }
        let filled = |id: &Option<String>| id.as_ref().is_some_and(|id| !id.is_empty());
        if filled(&old.provider_id) && old.provider_id != new.provider_id {
            let why = "node updates may not change providerID except from \"\" to valid";
            errors.push(Error::forbidden(&path.child("providerID"), why));
        }
        if old.external_id.as_deref().unwrap_or_default() != new.external_id.as_deref().unwrap_or_default() {
            errors.push(Error::forbidden(&path, "node updates may only change labels, taints, or capacity"));
        }
        errors
    }

    fn fields(&self, node: &Node) -> Vec<(&'static str, String)> {
        vec![("spec.unschedulable", unschedulable(node).to_string())]
    }

    fn field_names(&self) -> &'static [&'static str] {
        &["spec.unschedulable"]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new("Status", "string", "The status of the node"),
            Column::new("Roles", "string", "The roles of the node"),
            AGE,
            Column::new("Version", "string", "Kubelet Version reported by the node."),
            Column::wide(
                "Internal-IP",
                "string",
                "List of addresses reachable to the node. Queried from cloud provider, if available.",
            ),
            Column::wide(
                "External-IP",
                "string",
                "List of addresses reachable to the node. Queried from cloud provider, if available.",
            ),
            Column::wide(
                "OS-Image",
                "string",
                "OS Image reported by the node from /etc/os-release (e.g. Debian GNU/Linux 7 (wheezy)).",
            ),
            Column::wide(
                "Kernel-Version",
                "string",
                "Kernel Version reported by the node from 'uname -r' (e.g. 3.16.0-0.bpo.4-amd64).",
            ),
            Column::wide(
                "Container-Runtime",
                "string",
                "ContainerRuntime Version reported by the node through runtime remote API (e.g. containerd://1.4.2).",
            ),
        ];
        COLUMNS
    }

    fn cells(&self, node: &Node, now: Timestamp) -> Vec<Value> {
        let empty = NodeStatus::default();
        let status = node.status.as_ref().unwrap_or(&empty);
        let info = status.node_info.clone().unwrap_or_default();
        let known = |text: String| if text.is_empty() { "<unknown>".to_owned() } else { text };
        vec![
            name(&node.metadata),
            shown_status(node, status).into(),
            roles(node).into(),
            created(&node.metadata, now),
            info.kubelet_version.into(),
            address(status, "InternalIP").into(),
            address(status, "ExternalIP").into(),
            known(info.os_image).into(),
            known(info.kernel_version).into(),
            known(info.container_runtime_version).into(),
        ]
    }
}

/// `podCIDR` is the first of `podCIDRs`; where they disagree the older field wins.
fn same_cidrs(spec: &mut NodeSpec) {
    let cidr = spec.pod_cidr.take().filter(|cidr| !cidr.is_empty());
    let first = spec.pod_cidrs.as_ref().and_then(|cidrs| cidrs.first().cloned());
    if cidr.is_some() && cidr != first {
        spec.pod_cidrs = cidr.clone().map(|cidr| vec![cidr]);
    }
    spec.pod_cidr = cidr.or(first);
}

fn unschedulable(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default()
}

fn validate_taints(taints: &[Taint], path: &Path) -> Errors {
    let (mut errors, mut seen) = (Vec::new(), BTreeSet::new());
    for (index, taint) in taints.iter().enumerate() {
        let path = path.index(index);
        errors.extend(checks::qualified_name(&taint.key, &path.child("key")));
        let value = taint.value.as_deref().unwrap_or_default();
        let messages = wharf_machinery::names::label_value(value);
        if !messages.is_empty() {
            errors.push(Error::invalid(&path.child("value"), value, messages.join(";")));
        }
        errors.extend(checks::required_one_of(&taint.effect, EFFECTS, &path.child("effect")));
        if !seen.insert((&taint.effect, &taint.key)) {
            let mut error = Error::duplicate(&path, checks::json(taint));
            error.detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(error);
        }
    }
    errors
}

fn shown_status(node: &Node, status: &NodeStatus) -> String {
    let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
    let mut words = match ready {
        Some(condition) if condition.status == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if unschedulable(node) {
        words.push_str(",SchedulingDisabled");
    }
    words
}

fn roles(node: &Node) -> String {
    let labels = node.metadata.labels.iter().flatten();
    let roles: BTreeSet<&str> = labels
        .filter_map(|(key, value)| match key.strip_prefix(ROLE_PREFIX) {
            Some(role) => Some(role).filter(|role| !role.is_empty()),
            None => Some(value.as_str()).filter(|role| key == ROLE_LABEL && !role.is_empty()),
        })
        .collect();
    or_none(roles.into_iter().collect::<Vec<_>>().join(","))
}

fn address(status: &NodeStatus, kind: &str) -> String {
    let found = status.addresses.iter().flatten().find(|address| address.type_ == kind);
    found.map_or_else(|| NONE.to_owned(), |address| address.address.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, check_update};

    #[test]
    fn taints_have_a_key_and_a_known_effect() {
        check(&Nodes, "{spec: {taints: [{key: a, effect: NoSchedule}, {key: a, effect: NoExecute}]}}", &[]);
        check(
            &Nodes,
            "{spec: {taints: [{key: a, effect: Never}, {key: b, effect: ''}]}}",
            &[
                "spec.taints[0].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
                "spec.taints[1].effect: Required value",
            ],
        );
        check(
            &Nodes,
            "{spec: {taints: [{key: a, effect: NoSchedule}, {key: a, effect: NoSchedule}]}}",
            &[
                "spec.taints[1]: Duplicate value: {\"effect\":\"NoSchedule\",\"key\":\"a\"}: taints must be unique by key and effect pair",
            ],
        );
    }

    #[test]
    fn a_range_is_given_once() {
        check_update(&Nodes, "{}", "{spec: {podCIDR: 10.0.0.0/24}}", &[]);
        check_update(
            &Nodes,
            "{spec: {podCIDR: 10.0.0.0/24}}",
            "{spec: {podCIDR: 10.0.1.0/24}}",
            &["spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"],
        );
    }

    #[test]
    fn nodes_show_readiness_and_roles() {
        check_cells(
            &Nodes,
            "{metadata: {name: n, labels: {node-role.kubernetes.io/worker: '', kubernetes.io/role: edge}},
              spec: {unschedulable: true},
              status: {conditions: [{type: Ready, status: 'True'}], addresses: [{type: InternalIP, address: 10.0.0.1}],
                nodeInfo: {architecture: a, bootID: b, containerRuntimeVersion: 'wharf://1', kernelVersion: '6', kubeProxyVersion: '', kubeletVersion: v1.36.0, machineID: '', operatingSystem: linux, osImage: '', systemUUID: ''}}}",
            "n | Ready,SchedulingDisabled | edge,worker | <unknown> | v1.36.0 | 10.0.0.1 | <none> | <unknown> | 6 | wharf://1",
        );
    }
}
