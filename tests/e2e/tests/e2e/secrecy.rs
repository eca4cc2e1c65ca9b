//! What must never be read in the log, however much is logged.

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use wharf_test_support::{Cluster, eventually};

use crate::tokens::{ca, client};

const PASSWORD: &str = "hunter2-is-not-my-password";
/// The same in base64, as it is stored.
const ENCODED: &str = "aHVudGVyMi1pcy1ub3QtbXktcGFzc3dvcmQ";

#[tokio::test]
async fn no_secret_and_no_token_is_logged_at_any_level() {
    let cluster = Cluster::server(&["--log", "trace"]).await;
    let secrets: Api<Secret> = Api::default_namespaced(cluster.client.clone());
    let secret: Secret =
        serde_json::from_value(json!({"metadata": {"name": "s"}, "stringData": {"password": PASSWORD}})).expect("one");
    secrets.create(&PostParams::default(), &secret).await.expect("created");
    // Refused writes tell of themselves, too.
    secrets.create(&PostParams::default(), &secret).await.expect_err("it is there");
    let odd = json!({"stringData": {"password": PASSWORD}, "type": "other"});
    secrets.patch("s", &PatchParams::default(), &Patch::Merge(&odd)).await.expect_err("its type is fixed");
    let applied =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "t"}, "stringData": {"password": PASSWORD}});
    secrets.patch("t", &PatchParams::apply("me"), &Patch::Apply(&applied)).await.expect("applied");
    assert_eq!(secrets.get("t").await.expect("read").data.expect("data").len(), 1);
    secrets.delete("t", &DeleteParams::default()).await.expect("deleted");

    let accounts: Api<ServiceAccount> = Api::default_namespaced(cluster.client.clone());
    let asked = TokenRequest { spec: Some(TokenRequestSpec::default()), ..TokenRequest::default() };
    eventually("the account is there", || accounts.get("default")).await;
    let issued = accounts.create_token_request("default", &PostParams::default(), &asked).await.expect("a token");
    let token = issued.status.expect("a status").token.expect("a token");
    let bearer = client(&cluster, &token, &ca(&cluster).await).await;
    bearer.apiserver_version().await.expect("whoever has an account may ask for the version");

    let log = cluster.log();
    assert!(log.len() > 10_000, "the log says much: {} bytes", log.len());
    let signature = token.rsplit('.').next().expect("a signature");
    for secret in [PASSWORD, ENCODED, &token, signature] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} is in the log");
    }
}
