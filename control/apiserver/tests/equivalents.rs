//! Webhooks and policies about one version of a resource, asked about writes of another (`matchPolicy: Equivalent`).

mod support;

use serde_json::{Value, json};
use support::Api;
use support::webhook::{Webhook, allow, configuration, deny, patch};
use tokio_util::sync::{CancellationToken, DropGuard};
use wharf_apiserver::definitions;

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const V1: &str = "/apis/example.com/v1/namespaces/default/things";
const V2: &str = "/apis/example.com/v2/namespaces/default/things";

/// A server with things in two versions, of which `v1` is stored.
async fn with_things() -> (Api, DropGuard) {
    let (api, cancel) = (Api::admitting().await, CancellationToken::new());
    tokio::spawn(definitions::run(api.server.clone(), cancel.clone()));
    let version = |name: &str, storage: bool| {
        let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        json!({"name": name, "served": true, "storage": storage, "subresources": {"status": {}}, "schema": {"openAPIV3Schema": open}})
    };
    let crd = json!({
        "metadata": {"name": "things.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
            "versions": [version("v1", true), version("v2", false)],
        },
    });
    let mut watch = api.watch(&format!("{CRDS}?watch=true")).await;
    api.post(CRDS, &crd).await.expect(201);
    loop {
        let event = watch.next().await.expect("the watch goes on");
        let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if conditions.iter().any(|held| held["type"] == "Established" && held["status"] == "True") {
            return (api, cancel.drop_guard());
        }
    }
}

fn thing(version: &str, name: &str) -> Value {
    json!({"apiVersion": format!("example.com/{version}"), "kind": "Thing", "metadata": {"name": name}, "data": {"k": "v"}})
}

fn rules(versions: &[&str], resource: &str) -> Value {
    json!([{"apiGroups": ["example.com"], "apiVersions": versions, "operations": ["*"], "resources": [resource]}])
}

#[tokio::test]
async fn a_webhook_sees_every_version_as_the_one_that_it_knows() {
    let (api, _guard) = with_things().await;
    let hook = Webhook::new(|_| allow()).await;
    let entry = hook.entry(json!({"rules": rules(&["v1"], "things")}));
    api.post(&format!("{GROUP}/validatingwebhookconfigurations"), &configuration("c", &[entry])).await.expect(201);
    api.post(V2, &thing("v2", "a")).await.expect(201);
    api.patch(&format!("{V2}/a"), "merge", &json!({"data": {"k": "w"}})).await.expect(200);
    api.delete(&format!("{V2}/a")).await.expect(200);
    let seen = hook.seen.lock().clone();
    assert_eq!(seen.len(), 3);
    let created = &seen[0]["request"];
    let gvk = |version: &str| json!({"group": "example.com", "version": version, "kind": "Thing"});
    let gvr = |version: &str| json!({"group": "example.com", "version": version, "resource": "things"});
    assert_eq!((&created["kind"], &created["resource"]), (&gvk("v1"), &gvr("v1")));
    assert_eq!((&created["requestKind"], &created["requestResource"]), (&gvk("v2"), &gvr("v2")));
    assert_eq!(created["object"]["apiVersion"], "example.com/v1");
    assert!(created["object"]["metadata"]["managedFields"].is_array());
    let updated = &seen[1]["request"];
    assert_eq!((&updated["object"]["data"]["k"], &updated["oldObject"]["data"]["k"]), (&json!("w"), &json!("v")));
    assert_eq!(updated["oldObject"]["apiVersion"], "example.com/v1");
    assert_eq!(seen[2]["request"]["oldObject"]["apiVersion"], "example.com/v1");
}

#[tokio::test]
async fn only_the_exact_version_counts_where_that_is_asked_for() {
    let (api, _guard) = with_things().await;
    let hook = Webhook::new(|_| deny("seen")).await;
    let entry = hook.entry(json!({"rules": rules(&["v1"], "things"), "matchPolicy": "Exact"}));
    api.post(&format!("{GROUP}/validatingwebhookconfigurations"), &configuration("c", &[entry])).await.expect(201);
    api.post(V2, &thing("v2", "a")).await.expect(201);
    api.post(V1, &thing("v1", "b")).await.refused(403, "Forbidden", "denied the request: seen");
}

#[tokio::test]
async fn what_a_webhook_changes_comes_back_in_the_version_of_the_request() {
    let (api, _guard) = with_things().await;
    let hook = Webhook::new(|_| patch(&json!([{"op": "add", "path": "/data/hook", "value": "was here"}]))).await;
    let entry = hook.entry(json!({"rules": rules(&["v1"], "things"), "reinvocationPolicy": "IfNeeded"}));
    api.post(&format!("{GROUP}/mutatingwebhookconfigurations"), &configuration("c", &[entry])).await.expect(201);
    let made = api.post(V2, &thing("v2", "a")).await.expect(201);
    assert_eq!((&made["apiVersion"], &made["data"]["hook"]), (&json!("example.com/v2"), &json!("was here")));
    assert_eq!(api.get(&format!("{V1}/a")).await.expect(200)["data"]["hook"], "was here");
}

#[tokio::test]
async fn a_subresource_has_versions_too_and_the_requests_own_goes_first() {
    let (api, _guard) = with_things().await;
    let hook = Webhook::new(|_| allow()).await;
    let entry = hook.entry(json!({"rules": rules(&["v1"], "things/status")}));
    let both = hook.entry(json!({"name": "both.example.com", "rules": rules(&["v1", "v2"], "things")}));
    api.post(&format!("{GROUP}/validatingwebhookconfigurations"), &configuration("c", &[entry, both]))
        .await
        .expect(201);
    api.post(V2, &thing("v2", "a")).await.expect(201);
    assert_eq!(hook.seen.lock()[0]["request"]["kind"]["version"], "v2");
    api.patch(&format!("{V2}/a/status"), "merge", &json!({"status": {"ok": true}})).await.expect(200);
    let last = hook.seen.lock().last().cloned().expect("a review");
    assert_eq!(last["request"]["subResource"], "status");
    assert_eq!(last["request"]["object"]["apiVersion"], "example.com/v1");
}

#[tokio::test]
async fn policies_judge_and_change_the_version_that_they_name() {
    let (api, _guard) = with_things().await;
    let bound = async |kind: &str, name: &str, spec: Value, binding: Value| {
        let policy = json!({"metadata": {"name": name}, "spec": spec});
        api.post(&format!("{GROUP}/{kind}"), &policy).await.expect(201);
        let collection = kind.replace("policies", "policybindings");
        api.post(&format!("{GROUP}/{collection}"), &json!({"metadata": {"name": name}, "spec": binding}))
            .await
            .expect(201);
    };
    let matched = json!({"resourceRules": rules(&["v1"], "things")});
    bound(
        "mutatingadmissionpolicies",
        "change",
        json!({
            "matchConstraints": matched, "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {
                "expression": "[JSONPatch{op: 'add', path: '/data/saw', value: object.apiVersion}]",
            }}],
        }),
        json!({"policyName": "change"}),
    )
    .await;
    bound(
        "validatingadmissionpolicies",
        "judge",
        json!({
            "matchConstraints": matched,
            "validations": [{
                "expression": "object.data.k != 'bad'",
                "messageExpression": "object.apiVersion + ' of ' + request.requestKind.version",
            }],
        }),
        json!({"policyName": "judge", "validationActions": ["Deny"], "matchResources": matched}),
    )
    .await;
    let made = api.post(V2, &thing("v2", "a")).await.expect(201);
    assert_eq!((&made["apiVersion"], &made["data"]["saw"]), (&json!("example.com/v2"), &json!("example.com/v1")));
    let mut bad = thing("v2", "b");
    bad["data"]["k"] = json!("bad");
    api.post(V2, &bad).await.refused(422, "Invalid", "denied request: example.com/v1 of v2");
}
