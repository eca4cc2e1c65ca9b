//! Holds a node to its own Node, its own Lease, and the pods bound to it.
//!
//! Source: `plugin/pkg/admission/noderestriction`. Which resources a node may touch at all is the authorizer's business; this is
//! what depends on the object. Absent until their kinds are served: rules for claims, CSI nodes, resource slices and CSRs.

mod token;

use async_trait::async_trait;
use wharf_auth::{NODE_USER_PREFIX, NODES, User};
use wharf_registry::Subresource;
use wharf_types::k8s::api::core::v1::{Node, Pod};
use wharf_types::{ApiError, Gvr};

use super::MIRROR_ANNOTATION;
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
const PODS: Gvr = Gvr {
    group: std::borrow::Cow::Borrowed(""),
    version: std::borrow::Cow::Borrowed("v1"),
    resource: std::borrow::Cow::Borrowed("pods"),
};

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
        let verdict = match (write.row.gvr.group.as_ref(), write.row.gvr.resource.as_ref()) {
            _ if node.is_empty() => Err(format!("could not determine node identity from user {:?}", write.user.name)),
            ("", "pods") => pod(node, write, cluster),
            ("", "nodes") => own_node(node, write),
            ("coordination.k8s.io", "leases") => lease(node, write),
            ("", "serviceaccounts") => return token::check(node, write, cluster).await,
            _ => Ok(()),
        };
        verdict.map_err(|why| write.forbidden(why))
    }
}

/// The node's name, if the user is one.
fn node_of(user: &User) -> Option<&str> {
    user.name.strip_prefix(NODE_USER_PREFIX).filter(|_| user.in_group(NODES))
}

fn pod(node: &str, write: &Attributes, cluster: &dyn Reader) -> Result<(), String> {
    match (write.subresource, write.operation) {
        (None, Operation::Create) => mirror_pod(node, write),
        (None, Operation::Delete) => match write.old_as::<Pod>() {
            Some(pod) if node_name(pod) == node => Ok(()),
            _ => Err(format!("node {node:?} can only delete pods with spec.nodeName set to itself")),
        },
        (Some(Subresource::Status), Operation::Update) => pod_status(node, write),
        (Some(Subresource::Eviction), Operation::Create) => {
            let found = cluster.get(&PODS, write.namespace.as_deref(), &write.name);
            match found.as_ref().and_then(|object| object.downcast_ref::<Pod>()) {
                Some(pod) if node_name(pod) == node => Ok(()),
                _ => Err(format!("node {node} can only evict pods with spec.nodeName set to itself")),
            }
        }
        (None | Some(Subresource::Status | Subresource::Eviction), operation) => {
            Err(format!("unexpected operation {:?}", shown(operation)))
        }
        (Some(other), _) => {
            Err(format!("unexpected pod subresource {:?}, only 'status' and 'eviction' are allowed", other.name()))
        }
    }
}

fn shown(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

fn mirror_pod(node: &str, write: &Attributes) -> Result<(), String> {
    let Some(pod) = write.new_as::<Pod>() else { return Ok(()) };
    let annotations = pod.metadata.annotations.as_ref();
    if !annotations.is_some_and(|annotations| annotations.contains_key(MIRROR_ANNOTATION)) {
        return Err(format!(
            "pod does not have {MIRROR_ANNOTATION:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    if node_name(pod) != node {
        return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    if !owners.iter().all(|owner| owner.api_version == "v1" && owner.kind == "Node" && owner.name == node)
        || owners.len() > 1
    {
        return Err(format!("node {node:?} can only create pods with an owner reference set to itself"));
    }
    let spec = pod.spec.as_ref();
    let account = spec.and_then(|spec| spec.service_account_name.as_deref()).unwrap_or_default();
    if !account.is_empty() {
        return Err(format!("node {node:?} can not create pods that reference a service account"));
    }
    for volume in spec.and_then(|spec| spec.volumes.as_deref()).unwrap_or_default() {
        let refers = [
            (volume.secret.is_some(), "secrets"),
            (volume.config_map.is_some(), "configmaps"),
            (volume.persistent_volume_claim.is_some(), "persistentvolumeclaims"),
            (volume.projected.is_some(), "projected volumes"),
        ];
        if let Some((_, what)) = refers.into_iter().find(|(does, _)| *does) {
            return Err(format!("node {node:?} can not create pods that reference {what}"));
        }
    }
    Ok(())
}

fn pod_status(node: &str, write: &Attributes) -> Result<(), String> {
    let (Some(old), Some(new)) = (write.old_as::<Pod>(), write.new_as::<Pod>()) else { return Ok(()) };
    if node_name(old) != node {
        return Err(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"));
    }
    if old.metadata.labels.clone().unwrap_or_default() != new.metadata.labels.clone().unwrap_or_default() {
        return Err(format!("node {node:?} cannot update labels through pod status"));
    }
    Ok(())
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
    let Some(old) = write.old_as::<Node>() else {
        let set = forbidden_labels(new, None);
        return match set.is_empty() {
            true => Ok(()),
            false => Err(format!("node {node:?} is not allowed to set the following labels: {}", set.join(", "))),
        };
    };
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

fn lease(node: &str, write: &Attributes) -> Result<(), String> {
    if write.namespace.as_deref() != Some(LEASE_NAMESPACE) {
        return Err(format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace"));
    }
    let name = match (write.operation, write.object.as_ref()) {
        (Operation::Create, Some(object)) => object.name(),
        _ => write.name.as_str(),
    };
    match name == node {
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
    use wharf_types::k8s::api::policy::v1::Eviction;

    async fn check(write: Attributes, expected: Result<(), &str>) {
        let cluster = Cluster::default().with("pods", web("n1", json!({}))).with("pods", {
            let mut other = web("n2", json!({}));
            other.metadata.name = Some("other".to_owned());
            other
        });
        let mut write = write.by(User::new("system:node:n1", &[NODES]));
        let verdict = run(&NodeRestriction, &mut write, &cluster).await;
        assert_eq!(verdict.as_ref().map_err(|error| error.message.as_str()), expected.as_ref().map_err(|text| *text));
    }

    fn web(node: &str, metadata: Value) -> Pod {
        let mut meta = json!({"name": "web", "namespace": "default", "uid": "u1"});
        meta.as_object_mut().expect("object").extend(metadata.as_object().expect("object").clone());
        json(json!({"metadata": meta, "spec": {"nodeName": node, "containers": []}}))
    }

    fn node(name: &str, labels: Value, taints: Value) -> Node {
        json(json!({"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}}))
    }

    #[tokio::test]
    async fn a_node_touches_the_pods_bound_to_it() {
        let status = |node: &str| {
            write(Operation::Update, "pods", web(node, json!({})))
                .through(Subresource::Status)
                .replacing(web(node, json!({})))
        };
        check(status("n1"), Ok(())).await;
        check(status("n2"), Err(r#"pods "web" is forbidden: node "n1" can only update pod status for pods with spec.nodeName set to itself"#)).await;
        let labelled = write(Operation::Update, "pods", web("n1", json!({"labels": {"a": "b"}})));
        let labelled = labelled.through(Subresource::Status).replacing(web("n1", json!({})));
        check(labelled, Err(r#"pods "web" is forbidden: node "n1" cannot update labels through pod status"#)).await;
        check(write(Operation::Create, "pods", web("n1", json!({}))).deleting(), Ok(())).await;
        check(
            write(Operation::Create, "pods", web("n2", json!({}))).deleting(),
            Err(r#"pods "web" is forbidden: node "n1" can only delete pods with spec.nodeName set to itself"#),
        )
        .await;
        let eviction = |name: &str| {
            let eviction: Eviction = json(json!({"metadata": {"name": name, "namespace": "default"}}));
            write(Operation::Create, "pods", eviction).through(Subresource::Eviction)
        };
        check(eviction("web"), Ok(())).await;
        check(
            eviction("other"),
            Err(r#"pods "other" is forbidden: node n1 can only evict pods with spec.nodeName set to itself"#),
        )
        .await;
        check(
            write(Operation::Create, "pods", web("n1", json!({}))).through(Subresource::Binding),
            Err(r#"pods "web" is forbidden: unexpected pod subresource "binding", only 'status' and 'eviction' are allowed"#),
        )
        .await;
    }

    #[tokio::test]
    async fn a_node_creates_mirror_pods_of_its_own_only() {
        let mirror = json!({"annotations": {MIRROR_ANNOTATION: "x"}});
        check(write(Operation::Create, "pods", web("n1", mirror.clone())), Ok(())).await;
        check(
            write(Operation::Create, "pods", web("n2", mirror)),
            Err(r#"pods "web" is forbidden: node "n1" can only create pods with spec.nodeName set to itself"#),
        )
        .await;
        check(
            write(Operation::Create, "pods", web("n1", json!({}))),
            Err(r#"pods "web" is forbidden: pod does not have "kubernetes.io/config.mirror" annotation, node "n1" can only create mirror pods"#),
        )
        .await;
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
        let mut write = write(Operation::Create, "nodes", node("n2", json!({}), json!([])));
        run(&NodeRestriction, &mut write, &Cluster::default()).await.expect("an ordinary user is left alone");
    }
}
