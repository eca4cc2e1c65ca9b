//! Certificate requests against the real API server, and an authority that has one certificate for everybody.

mod support;

use std::sync::Arc;

use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use support::{Cluster, create, wait_for};
use wharf_client::ObjectKey;
use wharf_controllers::{Ask, Authority};
use wharf_types::k8s::ByteString;
use wharf_types::k8s::api::certificates::v1::CertificateSigningRequest;

const REQUEST: &str = include_str!("../../../api/machinery/src/csr/request.pem");
const CERTIFICATE: &str = include_str!("../../../api/machinery/src/csr/certificate.pem");

fn encoded(pem: &str) -> Value {
    serde_json::to_value(ByteString(pem.as_bytes().to_vec())).expect("JSON")
}

#[derive(Debug)]
struct OneForAll;

impl Authority for OneForAll {
    fn sign(&self, ask: &Ask<'_>) -> Result<String, String> {
        match ask.usages {
            [usage] if usage == "client auth" => Ok(CERTIFICATE.to_owned()),
            _ => Err("for clients only".to_owned()),
        }
    }
}

async fn cluster() -> (Cluster, Api<CertificateSigningRequest>) {
    let cluster = Cluster::with(|options| options.authority = Some(Arc::new(OneForAll))).await;
    let api = Api::all(cluster.client.clone());
    (cluster, api)
}

fn request(name: &str, usage: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "request": encoded(REQUEST), "signerName": "kubernetes.io/kube-apiserver-client", "usages": [usage],
        },
    })
}

/// Approves the request, as `kubectl certificate approve` does, and waits until its signer has settled it.
async fn settled(cluster: &Cluster, api: &Api<CertificateSigningRequest>, name: &str) -> Value {
    let condition = json!({"type": "Approved", "status": "True", "reason": "Test", "message": "so"});
    let patch = Patch::Merge(json!({"status": {"conditions": [condition]}}));
    api.patch_approval(name, &PatchParams::default(), &patch).await.expect("approved");
    let key = ObjectKey::cluster(name);
    let settled = wait_for(cluster.informers.of::<CertificateSigningRequest>(), "a settled request", move |all| {
        let request = all.get(&key)?;
        let status = request.status.as_ref()?;
        let failed = status.conditions.iter().flatten().any(|condition| condition.type_ == "Failed");
        (failed || status.certificate.is_some()).then(|| request.clone())
    });
    serde_json::to_value(&*settled.await).expect("JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approved_request_gets_its_certificate() {
    let (cluster, api) = cluster().await;
    let made = create(&api, request("mine", "client auth")).await;
    assert_eq!(made.spec.username.as_deref(), Some("tester"), "the server names the requester");
    let settled = settled(&cluster, &api, "mine").await;
    assert_eq!(settled["status"]["certificate"], encoded(CERTIFICATE));
    let approved = &settled["status"]["conditions"][0];
    assert!(approved["lastUpdateTime"].is_string() && approved["lastTransitionTime"].is_string(), "{approved}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_its_signer_cannot_take_fails() {
    let (cluster, api) = cluster().await;
    create(&api, request("other", "server auth")).await;
    let settled = settled(&cluster, &api, "other").await;
    let failed = &settled["status"]["conditions"][1];
    assert_eq!(failed["type"], "Failed", "{settled}");
    assert_eq!(failed["message"], "invalid usage for client certificate: server auth", "{settled}");
}
