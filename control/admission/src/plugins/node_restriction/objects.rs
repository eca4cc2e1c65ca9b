//! What a node may do with its other objects: the status of claims, its CSINode, its ResourceSlices, requests for certificates.

use wharf_machinery::csr;
use wharf_registry::Subresource;
use wharf_types::ApiError;
use wharf_types::k8s::api::certificates::v1::CertificateSigningRequest;
use wharf_types::k8s::api::core::v1::PersistentVolumeClaim;
use wharf_types::k8s::api::resource::v1::ResourceSlice;

use super::named;
use crate::{Attributes, Operation};

/// Signers whose certificates speak for a node.
const NODE_SIGNERS: &[&str] = &["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];

/// A node tells how a volume has grown, and nothing else of its claim.
pub fn claim(node: &str, write: &Attributes) -> Result<(), ApiError> {
    if write.subresource != Some(Subresource::Status) {
        return Err(write.forbidden("may only update PVC status"));
    }
    if write.operation != Operation::Update {
        return Err(write.forbidden(format_args!("unexpected operation {:?}", write.operation.as_str())));
    }
    let (Some(old), Some(new)) = (write.old_as::<PersistentVolumeClaim>(), write.new_as::<PersistentVolumeClaim>())
    else {
        return Ok(());
    };
    match but_for_size(old) == but_for_size(new) {
        true => Ok(()),
        false => Err(write.forbidden(format_args!(
            "node {node:?} is not allowed to update fields other than status.quantity and status.conditions"
        ))),
    }
}

/// The claim without what a node tells of it; what is absent and what is empty are the same.
fn but_for_size(claim: &PersistentVolumeClaim) -> PersistentVolumeClaim {
    let mut claim = claim.clone();
    claim.metadata.resource_version = None;
    claim.metadata.managed_fields = None;
    let status = claim.status.get_or_insert_default();
    status.capacity = None;
    status.conditions = None;
    status.allocated_resource_statuses = None;
    status.allocated_resources = None;
    claim
}

pub fn csi_node(node: &str, write: &Attributes) -> Result<(), ApiError> {
    match named(write) == node {
        true => Ok(()),
        false => Err(write.forbidden("can only access CSINode with the same name as the requesting node")),
    }
}

/// What is changed or read is the authorizer's business, which cannot see what is made, nor each of what is deleted.
pub fn slice(node: &str, write: &Attributes) -> Result<(), ApiError> {
    let (slice, verb) = match write.operation {
        Operation::Create => (write.new_as::<ResourceSlice>(), "create"),
        Operation::Delete => (write.old_as::<ResourceSlice>(), "delete"),
        _ => return Ok(()),
    };
    match slice.and_then(|slice| slice.spec.node_name.as_deref()).unwrap_or_default() == node {
        true => Ok(()),
        false => Err(write
            .forbidden(format_args!("can only {verb} ResourceSlice with the same NodeName as the requesting node"))),
    }
}

/// A certificate of a node is asked for by that node.
pub fn certificate_request(node: &str, write: &Attributes) -> Result<(), ApiError> {
    let request = write.new_as::<CertificateSigningRequest>().filter(|_| write.operation == Operation::Create);
    let Some(request) = request.filter(|it| NODE_SIGNERS.contains(&it.spec.signer_name.as_str())) else {
        return Ok(());
    };
    let parsed = csr::parse(&request.spec.request.0)
        .map_err(|why| write.forbidden(format_args!("unable to parse csr: {why}")))?;
    match parsed.common_name.strip_prefix("system:node:") == Some(node) {
        true => Ok(()),
        false => Err(write.forbidden(format_args!("can only create a node CSR with CN=system:node:{node}"))),
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::{Value, json};
    use wharf_auth::{NODES, User};
    use wharf_types::k8s::api::storage::v1::CSINode;

    use super::super::super::testing::{Cluster, json, run, write};
    use super::super::NodeRestriction;
    use super::*;

    /// Of `system:node:n1`.
    const REQUEST: &str = include_str!("../../../../../api/machinery/src/csr/request.pem");

    async fn check(write: Attributes, expected: Result<(), &str>) {
        check_as("n1", write, expected).await;
    }

    /// `expected` is the refusal without what all of them begin with.
    async fn check_as(node: &str, write: Attributes, expected: Result<(), &str>) {
        let mut write = write.by(User::new(&format!("system:node:{node}"), &[NODES]));
        let verdict = run(&NodeRestriction, &mut write, &Cluster::default()).await.map_err(|error| error.message);
        let verdict = verdict.map_err(|text| text.split_once(" is forbidden: ").expect("a refusal").1.to_owned());
        assert_eq!(verdict.as_ref().map_err(String::as_str), expected.as_ref().map_err(|why| *why));
    }

    fn claim(metadata: Value, spec: Value, status: Value) -> PersistentVolumeClaim {
        let mut meta = json!({"name": "data", "namespace": "default"});
        meta.as_object_mut().expect("fields").extend(metadata.as_object().cloned().unwrap_or_default());
        json(json!({"metadata": meta, "spec": spec, "status": status}))
    }

    #[tokio::test]
    async fn a_node_tells_how_a_claim_has_grown_and_nothing_else() {
        let plain = || claim(json!({}), json!({}), json!({"phase": "Bound"}));
        let status = |new: PersistentVolumeClaim| {
            write(Operation::Update, "persistentvolumeclaims", new).through(Subresource::Status).replacing(plain())
        };
        let grown = json!({
            "phase": "Bound", "capacity": {"storage": "2Gi"}, "conditions": [{"type": "Resizing", "status": "True"}],
            "allocatedResources": {"storage": "2Gi"}, "allocatedResourceStatuses": {"storage": "NodeResizeInProgress"},
        });
        check(status(claim(json!({"resourceVersion": "7"}), json!({}), grown)), Ok(())).await;
        let more = "node \"n1\" is not allowed to update fields other than status.quantity and status.conditions";
        for other in [
            claim(json!({"labels": {"a": "b"}}), json!({}), json!({"phase": "Bound"})),
            claim(json!({}), json!({"volumeName": "other"}), json!({"phase": "Bound"})),
            claim(json!({}), json!({}), json!({"phase": "Lost"})),
        ] {
            check(status(other), Err(more)).await;
        }
        let whole = write(Operation::Update, "persistentvolumeclaims", plain()).replacing(plain());
        check(whole, Err("may only update PVC status")).await;
        let create = write(Operation::Create, "persistentvolumeclaims", plain());
        check(create, Err("may only update PVC status")).await;
        let create = write(Operation::Create, "persistentvolumeclaims", plain()).through(Subresource::Status);
        check(create, Err("unexpected operation \"CREATE\"")).await;
    }

    #[tokio::test]
    async fn a_node_has_one_csi_node_and_its_own_slices() {
        let csi = |name: &str| -> CSINode { json(json!({"metadata": {"name": name}, "spec": {"drivers": []}})) };
        check(write(Operation::Create, "csinodes", csi("n1")), Ok(())).await;
        let why = "can only access CSINode with the same name as the requesting node";
        check(write(Operation::Create, "csinodes", csi("n2")), Err(why)).await;
        check(write(Operation::Update, "csinodes", csi("n2")).replacing(csi("n2")), Err(why)).await;
        let slice = |node: Value| -> ResourceSlice {
            let pool = json!({"name": "p", "generation": 1, "resourceSliceCount": 1});
            json(json!({"metadata": {"name": "s"}, "spec": {"driver": "d", "pool": pool, "nodeName": node}}))
        };
        check(write(Operation::Create, "resourceslices", slice(json!("n1"))), Ok(())).await;
        check(write(Operation::Create, "resourceslices", slice(json!("n1"))).deleting(), Ok(())).await;
        for other in [json!("n2"), json!(null)] {
            let why =
                |verb: &str| format!("can only {verb} ResourceSlice with the same NodeName as the requesting node");
            check(write(Operation::Create, "resourceslices", slice(other.clone())), Err(&why("create"))).await;
            check(write(Operation::Create, "resourceslices", slice(other)).deleting(), Err(&why("delete"))).await;
        }
    }

    #[tokio::test]
    async fn a_node_asks_for_its_own_certificate() {
        let request = |signer: &str, pem: &str| {
            let request: CertificateSigningRequest = json(json!({
                "metadata": {"name": "r"}, "spec": {"request": STANDARD.encode(pem), "signerName": signer},
            }));
            write(Operation::Create, "certificatesigningrequests", request)
        };
        for signer in NODE_SIGNERS {
            check(request(signer, REQUEST), Ok(())).await;
            let why = "can only create a node CSR with CN=system:node:n2";
            check_as("n2", request(signer, REQUEST), Err(why)).await;
            let why = "unable to parse csr: PEM block type must be CERTIFICATE REQUEST";
            check(request(signer, "hello"), Err(why)).await;
        }
        check_as("n2", request("example.com/own", REQUEST), Ok(())).await;
    }
}
