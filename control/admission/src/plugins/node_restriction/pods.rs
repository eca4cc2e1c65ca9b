//! What a node may do with pods: keep the status of its own, evict them, and mirror what it runs by itself.
//!
//! A mirror pod says what is there; it must not give the node a way to anything in the API that it could not read otherwise, so
//! it refers to no API object.

use wharf_machinery::pod_secrets;
use wharf_registry::Subresource;
use wharf_types::k8s::api::core::v1::Node;
use wharf_types::k8s::api::core::v1::{EnvFromSource, EnvVar, Pod, PodSpec, Volume, VolumeProjection};
use wharf_types::{ApiError, BoxObject, Gvr};

use super::super::{MIRROR_ANNOTATION, core_v1};
use super::{NODES_RESOURCE, PODS, node_name};
use crate::{Attributes, Operation, Reader};

/// As listers of pods and nodes name what they have not found.
const POD: Gvr = core_v1("pod");
const NODE: Gvr = core_v1("node");

pub fn check(node: &str, write: &Attributes, cluster: &dyn Reader) -> Result<(), ApiError> {
    let operation = write.operation.as_str();
    match (write.subresource, write.operation) {
        (None, Operation::Create) => mirror_pod(node, write, cluster),
        (None, Operation::Delete) => {
            let why = format!("node {node:?} can only delete pods with spec.nodeName set to itself");
            own(node, write.old_as::<Pod>()).map_err(|()| write.forbidden(why))
        }
        (None, _) => Err(write.forbidden(format_args!(
            "unexpected operation {operation:?}, node {node:?} can only create and delete mirror pods"
        ))),
        (Some(Subresource::Status), Operation::Update) => status(node, write).map_err(|why| write.forbidden(why)),
        (Some(Subresource::Status), _) => Err(write.forbidden(format_args!("unexpected operation {operation:?}"))),
        (Some(Subresource::Eviction), Operation::Create) => eviction(node, write, cluster),
        (Some(Subresource::Eviction), _) => Err(write.forbidden(format_args!("unexpected operation {operation}"))),
        (Some(other), _) => Err(write.forbidden(format_args!(
            "unexpected pod subresource {:?}, only 'status' and 'eviction' are allowed",
            other.name()
        ))),
    }
}

fn own(node: &str, pod: Option<&Pod>) -> Result<(), ()> {
    pod.filter(|pod| node_name(pod) == node).map(|_| ()).ok_or(())
}

fn status(node: &str, write: &Attributes) -> Result<(), String> {
    let (Some(old), Some(new)) = (write.old_as::<Pod>(), write.new_as::<Pod>()) else { return Ok(()) };
    if node_name(old) != node {
        return Err(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"));
    }
    if old.metadata.labels.clone().unwrap_or_default() != new.metadata.labels.clone().unwrap_or_default() {
        return Err(format!("node {node:?} cannot update labels through pod status"));
    }
    let claims = |pod: &Pod| pod.status.as_ref().and_then(|it| it.resource_claim_statuses.clone()).unwrap_or_default();
    if claims(old) != claims(new) {
        return Err(format!("node {node:?} cannot update resource claim statues"));
    }
    let extended = |pod: &Pod| pod.status.as_ref().and_then(|it| it.extended_resource_claim_status.clone());
    if extended(old) != extended(new) {
        return Err(format!("node {node:?} cannot update extended resource claim status"));
    }
    Ok(())
}

fn eviction(node: &str, write: &Attributes, cluster: &dyn Reader) -> Result<(), ApiError> {
    let name = match write.name.as_str() {
        "" => write.object.as_deref().map_or("", |object| object.name()),
        name => name,
    };
    if name.is_empty() {
        return Err(write.forbidden("could not determine pod from request data"));
    }
    let found: Option<BoxObject> = cluster.get(&PODS, write.namespace.as_deref(), name);
    let pod = found.as_ref().and_then(|object| object.downcast_ref::<Pod>());
    let pod = pod.ok_or_else(|| ApiError::not_found(&POD, name))?;
    let why = format!("node {node} can only evict pods with spec.nodeName set to itself");
    own(node, Some(pod)).map_err(|()| write.forbidden(why))
}

fn mirror_pod(node: &str, write: &Attributes, cluster: &dyn Reader) -> Result<(), ApiError> {
    let Some(pod) = write.new_as::<Pod>() else { return Ok(()) };
    let refuse = |why: String| Err(write.forbidden(why));
    let annotations = pod.metadata.annotations.as_ref();
    if !annotations.is_some_and(|annotations| annotations.contains_key(MIRROR_ANNOTATION)) {
        return refuse(format!(
            "pod does not have {MIRROR_ANNOTATION:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    if node_name(pod) != node {
        return refuse(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owner = match pod.metadata.owner_references.as_deref().unwrap_or_default() {
        [owner] => owner,
        [] => return refuse(format!("node {node:?} can only create pods with an owner reference set to itself")),
        _ => return refuse(format!("node {node:?} can only create pods with a single owner reference set to itself")),
    };
    if (owner.api_version.as_str(), owner.kind.as_str(), owner.name.as_str()) != ("v1", "Node", node) {
        return refuse(format!("node {node:?} can only create pods with an owner reference set to itself"));
    }
    if owner.controller != Some(true) {
        return refuse(format!("node {node:?} can only create pods with a controller owner reference set to itself"));
    }
    if owner.block_owner_deletion == Some(true) {
        return refuse(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    let found = cluster.get(&NODES_RESOURCE, None, node);
    let held = found.as_ref().and_then(|object| object.downcast_ref::<Node>());
    let held = held.ok_or_else(|| ApiError::not_found(&NODE, node))?;
    let uid = held.metadata.uid.as_deref().unwrap_or_default();
    if owner.uid != uid {
        return refuse(format!("node {node} UID mismatch: expected {} got {uid}", owner.uid));
    }
    match referred(pod) {
        None => Ok(()),
        Some(what) => refuse(format!("node {node:?} can not create pods that reference {what}")),
    }
}

/// The first API object that a pod refers to, as upstream's `HasAPIObjectReference` names it.
fn referred(pod: &Pod) -> Option<&'static str> {
    let spec = pod.spec.as_ref()?;
    if spec.service_account_name.as_deref().is_some_and(|name| !name.is_empty()) {
        return Some("serviceaccounts");
    }
    if !pod_secrets::names(pod).is_empty() {
        return Some("secrets");
    }
    if names_config_map(spec) {
        return Some("configmaps");
    }
    if spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        return Some("resourceclaims");
    }
    spec.volumes.iter().flatten().find_map(of_volume)
}

fn names_config_map(spec: &PodSpec) -> bool {
    let in_env = |env: &Option<Vec<EnvVar>>, from: &Option<Vec<EnvFromSource>>| {
        let keys = env.iter().flatten().filter_map(|var| var.value_from.as_ref());
        keys.into_iter().any(|source| source.config_map_key_ref.is_some())
            || from.iter().flatten().any(|source| source.config_map_ref.is_some())
    };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    containers.into_iter().any(|container| in_env(&container.env, &container.env_from))
        || spec.ephemeral_containers.iter().flatten().any(|container| in_env(&container.env, &container.env_from))
        || spec.volumes.iter().flatten().any(|volume| {
            let mut projections = volume.projected.iter().flat_map(|source| source.sources.iter().flatten());
            volume.config_map.is_some() || projections.any(|projection| projection.config_map.is_some())
        })
}

fn of_volume(volume: &Volume) -> Option<&'static str> {
    let kinds = [
        (volume.secret.is_some(), "secrets (via secret volumes)"),
        (volume.csi.is_some(), "csidrivers (via CSI volumes)"),
        (volume.glusterfs.is_some(), "endpoints (via glusterFS volumes)"),
        (volume.persistent_volume_claim.is_some(), "persistentvolumeclaims"),
        (volume.ephemeral.is_some(), "persistentvolumeclaims (via ephemeral volumes)"),
        (volume.azure_file.is_some(), "secrets (via azureFile volumes)"),
    ];
    let direct = kinds.into_iter().find(|(is_it, _)| *is_it).map(|(_, what)| what);
    direct.or_else(|| volume.projected.as_ref()?.sources.iter().flatten().find_map(of_projection))
}

fn of_projection(source: &VolumeProjection) -> Option<&'static str> {
    let kinds = [
        (source.secret.is_some(), "secrets (via projected volumes)"),
        (source.service_account_token.is_some(), "serviceaccounts (via projected volumes)"),
        (source.cluster_trust_bundle.is_some(), "clustertrustbundles"),
        (source.pod_certificate.is_some(), "podcertificates"),
    ];
    kinds.into_iter().find(|(is_it, _)| *is_it).map(|(_, what)| what)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use wharf_auth::{NODES, User};
    use wharf_types::k8s::api::policy::v1::Eviction;

    use super::super::super::testing::{Cluster, json, run, write};
    use super::super::NodeRestriction;
    use super::*;

    fn pod(name: &str, node: &str, metadata: Value, spec: Value) -> Pod {
        let mut pod = json!({"metadata": {"name": name, "namespace": "default", "uid": name}, "spec": {"nodeName": node, "containers": []}});
        for (part, more) in [("metadata", metadata), ("spec", spec)] {
            pod[part].as_object_mut().expect("a part").extend(more.as_object().cloned().unwrap_or_default());
        }
        json(pod)
    }

    fn web(node: &str) -> Pod {
        pod("web", node, json!({}), json!({}))
    }

    /// `expected` is the refusal without what all of them begin with.
    async fn check(write: Attributes, expected: Result<(), &str>) {
        let node: Node = json(json!({"metadata": {"name": "n1", "uid": "u1"}}));
        let mut cluster = Cluster::default().with("nodes", node);
        for (name, node) in [("web", "n1"), ("other", "n2"), ("unbound", "")] {
            cluster = cluster.with("pods", pod(name, node, json!({}), json!({})));
        }
        let mut write = write.by(User::new("system:node:n1", &[NODES]));
        let verdict = run(&NodeRestriction, &mut write, &cluster).await.map_err(|error| error.message);
        let verdict = verdict.map_err(|message| match message.split_once(" is forbidden: ") {
            Some((_, why)) => why.to_owned(),
            None => message,
        });
        assert_eq!(verdict.as_ref().map_err(String::as_str), expected.as_ref().map_err(|why| *why));
    }

    #[tokio::test]
    async fn a_node_keeps_the_status_of_its_own_pods() {
        let update =
            |old: Pod, new: Pod| write(Operation::Update, "pods", new).through(Subresource::Status).replacing(old);
        check(update(web("n1"), web("n1")), Ok(())).await;
        let others = "node \"n1\" can only update pod status for pods with spec.nodeName set to itself";
        check(update(web("n2"), web("n1")), Err(others)).await;
        check(update(web(""), web("n1")), Err(others)).await;
        let labelled = pod("web", "n1", json!({"labels": {"a": "b"}}), json!({}));
        check(update(web("n1"), labelled), Err("node \"n1\" cannot update labels through pod status")).await;
        let mut claimed = web("n1");
        let status = json!({"resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": "mine"}]});
        claimed.status = serde_json::from_value(status).ok();
        check(update(web("n1"), claimed), Err("node \"n1\" cannot update resource claim statues")).await;
        let mut extended = web("n1");
        let status = json!({"extendedResourceClaimStatus": {"resourceClaimName": "mine", "requestMappings": []}});
        extended.status = serde_json::from_value(status).ok();
        check(update(web("n1"), extended), Err("node \"n1\" cannot update extended resource claim status")).await;
        let create = write(Operation::Create, "pods", web("n1")).through(Subresource::Status);
        check(create, Err("unexpected operation \"CREATE\"")).await;
    }

    #[tokio::test]
    async fn a_node_ends_its_own_pods_and_changes_none() {
        check(write(Operation::Create, "pods", web("n1")).deleting(), Ok(())).await;
        for node in ["n2", ""] {
            let why = "node \"n1\" can only delete pods with spec.nodeName set to itself";
            check(write(Operation::Create, "pods", web(node)).deleting(), Err(why)).await;
        }
        let why = "unexpected operation \"UPDATE\", node \"n1\" can only create and delete mirror pods";
        check(write(Operation::Update, "pods", web("n1")).replacing(web("n1")), Err(why)).await;
        for part in [Subresource::Binding, Subresource::EphemeralContainers, Subresource::Resize] {
            let why = format!("unexpected pod subresource {:?}, only 'status' and 'eviction' are allowed", part.name());
            check(write(Operation::Create, "pods", web("n1")).through(part), Err(&why)).await;
        }
    }

    #[tokio::test]
    async fn a_node_evicts_its_own_pods() {
        let evict = |path: &str, name: &str| {
            let eviction: Eviction = json(json!({"metadata": {"name": name, "namespace": "default"}}));
            let mut write = write(Operation::Create, "pods", eviction).through(Subresource::Eviction);
            path.clone_into(&mut write.name);
            write
        };
        let others = "node n1 can only evict pods with spec.nodeName set to itself";
        for (path, name, expected) in [
            ("web", "web", Ok(())),
            ("web", "", Ok(())),
            ("", "web", Ok(())),
            ("other", "web", Err(others)),
            ("unbound", "", Err(others)),
            ("gone", "", Err("pod \"gone\" not found")),
            ("", "", Err("could not determine pod from request data")),
        ] {
            check(evict(path, name), expected).await;
        }
        let mut update = evict("web", "web");
        update.operation = Operation::Update;
        check(update, Err("unexpected operation UPDATE")).await;
    }

    fn owner(more: Value) -> Value {
        let mut owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u1", "controller": true});
        owner.as_object_mut().expect("fields").extend(more.as_object().cloned().unwrap_or_default());
        owner
    }

    fn mirror(owners: Value, spec: Value) -> Attributes {
        let metadata = json!({"annotations": {MIRROR_ANNOTATION: "x"}, "ownerReferences": owners});
        write(Operation::Create, "pods", pod("mirror", "n1", metadata, spec))
    }

    #[tokio::test]
    async fn a_mirror_pod_is_its_nodes() {
        check(mirror(json!([owner(json!({}))]), json!({})), Ok(())).await;
        let why =
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"n1\" can only create mirror pods";
        check(write(Operation::Create, "pods", web("n1")), Err(why)).await;
        for node in ["n2", ""] {
            let why = "node \"n1\" can only create pods with spec.nodeName set to itself";
            check(mirror(json!([owner(json!({}))]), json!({"nodeName": node})), Err(why)).await;
        }
        let single = "node \"n1\" can only create pods with an owner reference set to itself";
        for (owners, why) in [
            (json!([]), single),
            (json!([owner(json!({"apiVersion": "v2"}))]), single),
            (json!([owner(json!({"kind": "Pod"}))]), single),
            (json!([owner(json!({"name": "n2"}))]), single),
            (
                json!([owner(json!({})), owner(json!({}))]),
                "node \"n1\" can only create pods with a single owner reference set to itself",
            ),
            (
                json!([owner(json!({"controller": false}))]),
                "node \"n1\" can only create pods with a controller owner reference set to itself",
            ),
            (
                json!([owner(json!({"blockOwnerDeletion": true}))]),
                "node \"n1\" must not set blockOwnerDeletion on an owner reference",
            ),
            (json!([owner(json!({"uid": "old"}))]), "node n1 UID mismatch: expected old got u1"),
        ] {
            check(mirror(owners, json!({})), Err(why)).await;
        }
    }

    #[tokio::test]
    async fn a_mirror_pod_refers_to_nothing_in_the_api() {
        let volume = |source: Value| {
            let mut volume = json!({"name": "v"});
            volume.as_object_mut().expect("fields").extend(source.as_object().cloned().unwrap_or_default());
            json!({"volumes": [volume]})
        };
        let projected = |source: Value| volume(json!({"projected": {"sources": [source]}}));
        let env = |env: Value| json!({"containers": [{"name": "a", "env": [{"name": "E", "valueFrom": env}]}]});
        for (spec, what) in [
            (json!({"serviceAccountName": "default"}), "serviceaccounts"),
            (json!({"imagePullSecrets": [{"name": "s"}]}), "secrets"),
            (env(json!({"secretKeyRef": {"name": "s", "key": "k"}})), "secrets"),
            (env(json!({"configMapKeyRef": {"name": "s", "key": "k"}})), "configmaps"),
            (json!({"initContainers": [{"name": "a", "envFrom": [{"configMapRef": {"name": "c"}}]}]}), "configmaps"),
            (json!({"resourceClaims": [{"name": "gpu", "resourceClaimName": "c"}]}), "resourceclaims"),
            (volume(json!({"secret": {"secretName": "s"}})), "secrets"),
            (volume(json!({"configMap": {"name": "c"}})), "configmaps"),
            (volume(json!({"persistentVolumeClaim": {"claimName": "c"}})), "persistentvolumeclaims"),
            (volume(json!({"ephemeral": {}})), "persistentvolumeclaims (via ephemeral volumes)"),
            (volume(json!({"csi": {"driver": "d"}})), "csidrivers (via CSI volumes)"),
            (projected(json!({"secret": {"name": "s"}})), "secrets"),
            (projected(json!({"serviceAccountToken": {"path": "t"}})), "serviceaccounts (via projected volumes)"),
            (projected(json!({"clusterTrustBundle": {"path": "t"}})), "clustertrustbundles"),
        ] {
            let why = format!("node \"n1\" can not create pods that reference {what}");
            check(mirror(json!([owner(json!({}))]), spec), Err(&why)).await;
        }
        let harmless = json!({"volumes": [
            {"name": "a", "emptyDir": {}}, {"name": "b", "hostPath": {"path": "/"}},
            {"name": "c", "projected": {"sources": [{"downwardAPI": {}}]}},
        ]});
        check(mirror(json!([owner(json!({}))]), harmless), Ok(())).await;
    }
}
