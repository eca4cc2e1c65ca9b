//! Certificate requests through the API as upstream's conformance walks them (`test/e2e/auth/certificates.go`).

mod support;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};
use support::Api;
use wharf_auth::Pki;

const ALL: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const REQUEST: &str = include_str!("../../../api/machinery/src/csr/request.pem");
const OF_SIGNER: &str = "fieldSelector=spec.signerName%3Dexample.com%2Fe2e";

fn request() -> Value {
    json!({"metadata": {"generateName": "e2e-example-csr-"}, "spec": {
        "request": STANDARD.encode(REQUEST), "signerName": "example.com/e2e", "expirationSeconds": 3600,
        "usages": ["digital signature", "key encipherment", "server auth"]}})
}

fn certificate() -> String {
    let directory = tempfile::tempdir().expect("temporary directory");
    STANDARD.encode(Pki::open(directory.path(), Timestamp::now()).expect("PKI").ca_pem())
}

async fn listed(api: &Api) -> usize {
    let list = api.get(&format!("{ALL}?{OF_SIGNER}")).await.expect(200);
    list["items"].as_array().expect("items").len()
}

#[tokio::test]
async fn a_request_lives_its_life() {
    let api = Api::admitting().await;
    for _ in 0..2 {
        api.post(ALL, &request()).await.expect(201);
    }
    let made = api.post(ALL, &request()).await.expect(201);
    let one = format!("{ALL}/{}", made["metadata"]["name"].as_str().expect("a name"));
    assert_eq!((listed(&api).await, &made["spec"]["expirationSeconds"]), (3, &json!(3600)));
    let patch = json!({"metadata": {"annotations": {"patched": "true"}}});
    let mut held = api.patch(&one, "merge", &patch).await.expect(200);
    held["metadata"]["annotations"]["updated"] = json!("true");
    api.put(&one, &held).await.expect(200);

    let approval = format!("{one}/approval");
    let held = api.get(&approval).await.expect(200);
    assert_eq!(
        (&held["kind"], &held["metadata"]["uid"]),
        (&json!("CertificateSigningRequest"), &made["metadata"]["uid"])
    );
    let patch = json!({"metadata": {"annotations": {"patchedapproval": "true"}},
        "status": {"conditions": [{"type": "ApprovalPatch", "status": "True", "reason": "e2e"}]}});
    let mut held = api.patch(&approval, "merge", &patch).await.expect(200);
    assert_eq!(held["status"]["conditions"].as_array().map(Vec::len), Some(1));
    assert_eq!(held["status"]["conditions"][0]["type"], "ApprovalPatch");
    assert_eq!(held["metadata"]["annotations"]["patchedapproval"], "true");
    let approved = json!({"type": "Approved", "status": "True", "reason": "E2E", "message": "Set from a test"});
    held["status"]["conditions"].as_array_mut().expect("conditions").push(approved);
    let held = api.put(&approval, &held).await.expect(200);
    assert_eq!(held["status"]["conditions"][1]["type"], "Approved");

    let status = format!("{one}/status");
    assert_eq!(api.get(&status).await.expect(200)["metadata"]["uid"], made["metadata"]["uid"]);
    let certificate = certificate();
    let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}}, "status": {"certificate": certificate}});
    let mut held = api.patch(&status, "merge", &patch).await.expect(200);
    assert_eq!(held["status"]["certificate"], json!(certificate));
    assert_eq!(held["metadata"]["annotations"]["patchedstatus"], "true");
    let updated = json!({"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Set from a test"});
    held["status"]["conditions"].as_array_mut().expect("conditions").push(updated);
    let held = api.put(&status, &held).await.expect(200);
    assert_eq!(held["status"]["conditions"][2]["type"], "StatusUpdate");

    api.delete(&one).await.expect(200);
    api.get(&one).await.expect(404);
    assert_eq!(listed(&api).await, 2);
    api.delete(&format!("{ALL}?{OF_SIGNER}")).await.expect(200);
    assert_eq!(listed(&api).await, 0);
}
