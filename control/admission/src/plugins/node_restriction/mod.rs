//! Holds a node to its own Node, its own Lease, and the pods bound to it.
//!
//! Source: `plugin/pkg/admission/noderestriction`. Which resources a node may touch at all is the authorizer's business; this is
//! what depends on the object. Absent: PodCertificateRequests, which are not served.

mod objects;
mod pods;
mod token;

use async_trait::async_trait;
use wharf_auth::{NODE_USER_PREFIX, NODES, User};
use wharf_types::k8s::api::core::v1::{Node, Pod};
use wharf_types::{ApiError, Gvr};

use super::core_v1;
use crate::{Attributes, Notes, Operation, Plugin, Reader};

const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Label namespace that is reserved for administrators.
const RESERVED: &str = "node-restriction.kubernetes.io";
/// Labels under `kubernetes.io` and `k8s.io` that a node may give itself (`kubeletapis.KubeletLabels`).
const OWN_LABELS: &[&str] = &[
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
const OWN_LABEL_NAMESPACES: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];
const PODS: Gvr = core_v1("pods");
const NODES_RESOURCE: Gvr = core_v1("nodes");

pub struct NodeRestriction;

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update | Operation::Delete)
    }

    async fn admit(&self, write: &mut Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        let Some(node) = node_of(&write.user) else { return Ok(()) };
        if node.is_empty() {
            return Err(write.forbidden(format_args!("could not determine node from user {:?}", write.user.name)));
        }
        match (write.row.gvr.group.as_ref(), write.row.gvr.resource.as_ref()) {
            ("", "pods") => pods::check(node, write, cluster),
            ("", "nodes") => own_node(node, write).map_err(|why| write.forbidden(why)),
            ("", "persistentvolumeclaims") => objects::claim(node, write),
            ("", "serviceaccounts") => token::check(node, write, cluster).await,
            ("coordination.k8s.io", "leases") => lease(node, write).map_err(|why| write.forbidden(why)),
            ("storage.k8s.io", "csinodes") => objects::csi_node(node, write),
            ("resource.k8s.io", "resourceslices") => objects::slice(node, write),
            ("certificates.k8s.io", "certificatesigningrequests") => objects::certificate_request(node, write),
            _ => Ok(()),
        }
    }
}

/// The node's name, if the user is one.
fn node_of(user: &User) -> Option<&str> {
    user.name.strip_prefix(NODE_USER_PREFIX).filter(|_| user.in_group(NODES))
}

fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

fn own_node(node: &str, write: &Attributes) -> Result<(), String> {
    let name = match write.name.as_str() {
        "" => write.object.as_ref().map_or("", |object| object.name()),
        name => name,
    };
    if name != node {
        return Err(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    let Some(new) = write.new_as::<Node>() else { return Ok(()) };
    let source = |node: &Node| node.spec.as_ref().and_then(|spec| spec.config_source.clone());
    let Some(old) = write.old_as::<Node>() else {
        if source(new).is_some() {
            return Err(format!("node {node:?} is not allowed to create pods with a non-nil configSource"));
        }
        let set = forbidden_labels(new, None);
        return match set.is_empty() {
            true => Ok(()),
            false => Err(format!("node {node:?} is not allowed to set the following labels: {}", set.join(", "))),
        };
    };
    if source(new).is_some() && source(new) != source(old) {
        return Err(format!("node {node:?} is not allowed to update configSource to a new non-nil configSource"));
    }
    let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    if taints(new) != taints(old) {
        return Err(format!("node {node:?} is not allowed to modify taints"));
    }
    let owners = |node: &Node| node.metadata.owner_references.clone().unwrap_or_default();
    if owners(new) != owners(old) {
        return Err(format!("node {node:?} is not allowed to modify ownerReferences"));
    }
    let changed = forbidden_labels(new, Some(old));
    match changed.is_empty() {
        true => Ok(()),
        false => Err(format!("is not allowed to modify labels: {}", changed.join(", "))),
    }
}

/// Labels whose value differs and that are not the node's to set; sorted.
fn forbidden_labels(new: &Node, old: Option<&Node>) -> Vec<String> {
    let new = new.metadata.labels.clone().unwrap_or_default();
    let old = old.and_then(|old| old.metadata.labels.clone()).unwrap_or_default();
    let keys: std::collections::BTreeSet<&String> = new.keys().chain(old.keys()).collect();
    let changed = keys.into_iter().filter(|key| new.get(*key) != old.get(*key));
    changed.filter(|key| !own_label(key)).cloned().collect()
}

fn own_label(key: &str) -> bool {
    let Some((namespace, _)) = key.split_once('/') else { return true };
    let under =
        |domain: &str| namespace == domain || namespace.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    if under(RESERVED) {
        return false;
    }
    let kubernetes = under("kubernetes.io") || under("k8s.io");
    !kubernetes || OWN_LABELS.contains(&key) || OWN_LABEL_NAMESPACES.iter().any(|domain| under(domain))
}

/// The name of what is written; a path does not have it yet when it is made.
fn named(write: &Attributes) -> &str {
    match (write.operation, write.object.as_ref()) {
        (Operation::Create, Some(object)) => object.name(),
        _ => write.name.as_str(),
    }
}

fn lease(node: &str, write: &Attributes) -> Result<(), String> {
    if write.namespace.as_deref() != Some(LEASE_NAMESPACE) {
        return Err(format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace"));
    }
    match named(write) == node {
        true => Ok(()),
        false => Err("can only access node lease with the same name as the requesting node".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Cluster, json, run, write};
    use super::*;
    use serde_json::{Value, json};
    use wharf_types::k8s::api::coordination::v1::Lease;

    async fn check(write: Attributes, expected: Result<(), &str>) {
        let mut write = write.by(User::new("system:node:n1", &[NODES]));
        let verdict = run(&NodeRestriction, &mut write, &Cluster::default()).await;
        assert_eq!(verdict.as_ref().map_err(|error| error.message.as_str()), expected.as_ref().map_err(|text| *text));
    }

    fn node(name: &str, labels: Value, taints: Value) -> Node {
        json(json!({"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}}))
    }

    #[tokio::test]
    async fn a_node_registers_and_keeps_itself_only() {
        let none = || json!({});
        let taint = json!([{"key": "gpu", "effect": "NoSchedule"}]);
        check(
            write(
                Operation::Create,
                "nodes",
                node("n1", json!({"kubernetes.io/os": "linux", "team": "a"}), taint.clone()),
            ),
            Ok(()),
        )
        .await;
        check(
            write(Operation::Create, "nodes", node("n2", none(), json!([]))),
            Err(r#"nodes "n2" is forbidden: node "n1" is not allowed to modify node "n2""#),
        )
        .await;
        let labels = json!({"node-restriction.kubernetes.io/a": "b", "node-role.kubernetes.io/control-plane": ""});
        check(
            write(Operation::Create, "nodes", node("n1", labels, json!([]))),
            Err(r#"nodes "n1" is forbidden: node "n1" is not allowed to set the following labels: node-restriction.kubernetes.io/a, node-role.kubernetes.io/control-plane"#),
        )
        .await;
        let update = |new: Node| write(Operation::Update, "nodes", new).replacing(node("n1", none(), json!([])));
        check(update(node("n1", json!({"topology.kubernetes.io/zone": "z"}), json!([]))), Ok(())).await;
        check(
            update(node("n1", none(), taint)),
            Err(r#"nodes "n1" is forbidden: node "n1" is not allowed to modify taints"#),
        )
        .await;
        let mut owned = node("n1", none(), json!([]));
        owned.metadata.owner_references =
            Some(vec![json!({"apiVersion": "v1", "kind": "Node", "name": "n2", "uid": "u"})]).map(|owners| {
                owners.into_iter().map(|owner| serde_json::from_value(owner).expect("an owner")).collect()
            });
        check(update(owned), Err(r#"nodes "n1" is forbidden: node "n1" is not allowed to modify ownerReferences"#))
            .await;
        let mut configured = node("n1", none(), json!([]));
        let source = json!({"configMap": {"name": "a", "namespace": "b", "kubeletConfigKey": "c"}});
        configured.spec.get_or_insert_default().config_source = serde_json::from_value(source).ok();
        check(
            write(Operation::Create, "nodes", configured.clone()),
            Err(r#"nodes "n1" is forbidden: node "n1" is not allowed to create pods with a non-nil configSource"#),
        )
        .await;
        check(
            update(configured),
            Err(r#"nodes "n1" is forbidden: node "n1" is not allowed to update configSource to a new non-nil configSource"#),
        )
        .await;
        check(
            update(node("n1", json!({"foo.k8s.io/x": "y"}), json!([]))),
            Err(r#"nodes "n1" is forbidden: is not allowed to modify labels: foo.k8s.io/x"#),
        )
        .await;
    }

    #[tokio::test]
    async fn a_node_renews_its_own_lease_only() {
        let lease = |namespace: &str, name: &str| -> Lease {
            json(json!({"metadata": {"name": name, "namespace": namespace}}))
        };
        check(write(Operation::Create, "leases", lease("kube-node-lease", "n1")), Ok(())).await;
        check(
            write(Operation::Create, "leases", lease("kube-node-lease", "n2")),
            Err(r#"leases.coordination.k8s.io "n2" is forbidden: can only access node lease with the same name as the requesting node"#),
        )
        .await;
        check(
            write(Operation::Update, "leases", lease("default", "n1")),
            Err(r#"leases.coordination.k8s.io "n1" is forbidden: can only access leases in the "kube-node-lease" system namespace"#),
        )
        .await;
    }

    #[tokio::test]
    async fn others_are_none_of_its_business() {
        let mut nobody =
            write(Operation::Create, "nodes", node("n2", json!({}), json!([]))).by(User::new("system:node:", &[NODES]));
        let refused = run(&NodeRestriction, &mut nobody, &Cluster::default()).await.expect_err("a refusal");
        assert_eq!(refused.message, r#"nodes "n2" is forbidden: could not determine node from user "system:node:""#);
        let mut write = write(Operation::Create, "nodes", node("n2", json!({}), json!([])));
        run(&NodeRestriction, &mut write, &Cluster::default()).await.expect("an ordinary user is left alone");
    }
}
