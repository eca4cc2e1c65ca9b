//! UPDATE and PATCH: who wins, what is kept, what is refused.

mod support;

use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};
use support::{Api, CONFIG_MAPS, config_map, revision};

const A: &str = "/api/v1/namespaces/default/configmaps/a";

async fn with_a() -> (Api, Value) {
    let api = Api::with_namespace().await;
    let made = api.post(CONFIG_MAPS, &config_map("a", &json!({"k": "v"}))).await.expect(201);
    (api, made)
}

#[tokio::test]
async fn an_update_with_a_stale_version_is_a_conflict() {
    let (api, mut made) = with_a().await;
    made["data"]["k"] = json!("w");
    let updated = api.put(A, &made).await.expect(200);
    assert!(revision(&updated) > revision(&made));
    assert_eq!(updated["data"]["k"], "w");
    api.put(A, &made).await.refused(
        409,
        "Conflict",
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again",
    );
}

#[tokio::test]
async fn an_update_without_a_version_wins() {
    let (api, made) = with_a().await;
    let updated = api.put(A, &config_map("a", &json!({"k": "w"}))).await.expect(200);
    assert_eq!(updated["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(updated["metadata"]["creationTimestamp"], made["metadata"]["creationTimestamp"]);
}

#[tokio::test]
async fn an_update_that_changes_nothing_writes_nothing() {
    let (api, made) = with_a().await;
    assert_eq!(api.put(A, &made).await.expect(200), made);
    assert_eq!(api.put(A, &config_map("a", &json!({"k": "v"}))).await.expect(200), made);
    assert_eq!(api.patch(A, "merge", &json!({"data": {"k": "v"}})).await.expect(200), made);
}

#[tokio::test]
async fn an_update_names_what_its_path_names() {
    let (api, made) = with_a().await;
    let with = |edit: fn(&mut Value)| {
        let mut object = made.clone();
        edit(&mut object);
        object
    };
    let other = with(|object| object["metadata"]["name"] = json!("b"));
    api.put(A, &other).await.refused(
        400,
        "BadRequest",
        "the name of the object (b) does not match the name on the URL (a)",
    );
    let elsewhere = with(|object| object["metadata"]["namespace"] = json!("b"));
    let message = "the namespace of the object (b) does not match the namespace on the request (default)";
    api.put(A, &elsewhere).await.refused(400, "BadRequest", message);
    let nameless = with(|object| object["metadata"]["name"] = json!(""));
    api.put(A, &nameless).await.refused(400, "BadRequest", "was undeterminable: name must be provided");
    let stranger = with(|object| object["metadata"]["uid"] = json!("11111111-1111-1111-1111-111111111111"));
    let message =
        "Precondition failed: UID in precondition: 11111111-1111-1111-1111-111111111111, UID in object meta: ";
    api.put(A, &stranger).await.refused(409, "Conflict", message);
    let strange = with(|object| object["metadata"]["resourceVersion"] = json!("x"));
    api.put(A, &strange).await.refused(400, "BadRequest", "metadata.resourceVersion: Invalid value: \"x\"");
}

#[tokio::test]
async fn what_is_not_there_is_not_updated() {
    let (api, _) = with_a().await;
    let b = format!("{CONFIG_MAPS}/b");
    api.put(&b, &config_map("b", &json!({}))).await.refused(404, "NotFound", "configmaps \"b\" not found");
    api.patch(&b, "merge", &json!({})).await.refused(404, "NotFound", "configmaps \"b\" not found");
}

#[tokio::test]
async fn a_dry_update_leaves_no_trace() {
    let (api, made) = with_a().await;
    let dry = api.put(&format!("{A}?dryRun=All"), &config_map("a", &json!({"k": "w"}))).await.expect(200);
    assert_eq!(dry["data"]["k"], "w");
    assert_eq!(dry["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let dry = api.patch(&format!("{A}?dryRun=All"), "merge", &json!({"data": {"k": "x"}})).await.expect(200);
    assert_eq!(dry["data"]["k"], "x");
    assert_eq!(api.get(A).await.expect(200), made);
}

#[tokio::test]
async fn each_kind_of_patch_is_applied() {
    let (api, _) = with_a().await;
    let json = json!([{"op": "add", "path": "/data/j", "value": "1"}, {"op": "remove", "path": "/data/k"}]);
    assert_eq!(api.patch(A, "json", &json).await.expect(200)["data"], json!({"j": "1"}));
    let merged = api.patch(A, "merge", &json!({"data": {"m": "2", "j": null}})).await.expect(200);
    assert_eq!(merged["data"], json!({"m": "2"}));
    let strategic = api.patch(A, "strategic-merge", &json!({"data": {"s": "3"}})).await.expect(200);
    assert_eq!(strategic["data"], json!({"m": "2", "s": "3"}));
}

#[tokio::test]
async fn a_strategic_patch_merges_lists_by_key() {
    let (api, _) = with_a().await;
    let mut pod = support::pod("p");
    pod["metadata"]["finalizers"] = json!(["x.io/a"]);
    api.post(support::PODS, &pod).await.expect(201);
    let path = format!("{}/p", support::PODS);
    let patch = json!({"metadata": {"finalizers": ["x.io/b"]}, "spec": {"containers": [{"name": "main", "image": "hello:v2"}]}});
    let patched = api.patch(&path, "strategic-merge", &patch).await.expect(200);
    assert_eq!(patched["spec"]["containers"].as_array().unwrap().len(), 1);
    assert_eq!(patched["spec"]["containers"][0]["image"], "hello:v2");
    assert_eq!(patched["metadata"]["finalizers"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn bad_patches_are_refused() {
    let (api, _) = with_a().await;
    let send = |kind: &'static str, body: &'static str| {
        let api = &api;
        async move { api.request(Method::PATCH, A, &[("content-type", kind)], body).await }
    };
    let (merge, json) = ("application/merge-patch+json", "application/json-patch+json");
    let message = "accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";
    send("application/json", "{}").await.refused(415, "UnsupportedMediaType", message);
    let message = "fieldManager: Required value: is required for apply patch";
    send("application/apply-patch+yaml", "{}").await.refused(422, "Invalid", message);
    send(merge, "{").await.refused(400, "BadRequest", "error decoding patch");
    send(json, "{}").await.expect(400);
    send(json, r#"[{"op":"test","path":"/data/k","value":"other"}]"#).await.expect(422);
    send(merge, r#"{"metadata":{"name":"b"}}"#).await.refused(
        400,
        "BadRequest",
        "the name of the object (b) does not match the name on the URL (a)",
    );
    send(merge, r#"{"data":{"k":1}}"#).await.refused(422, "Invalid", "patch: Invalid value: ");
    send(merge, r#"{"metadata":{"uid":"x"}}"#).await.refused(
        422,
        "Invalid",
        "metadata.uid: Invalid value: \"x\": field is immutable",
    );
    send(merge, r#"{"metadata":{"resourceVersion":"1"}}"#).await.refused(
        409,
        "Conflict",
        "the object has been modified",
    );
    send(merge, r#"{"kind":"Secret"}"#).await.expect(400);
}

#[tokio::test]
async fn unknown_fields_in_a_patch_warn_or_are_refused() {
    let (api, _) = with_a().await;
    let patch = json!({"sped": 1, "data": {"k": "w"}});
    let strict = api.patch(&format!("{A}?fieldValidation=Strict"), "merge", &patch).await;
    strict.refused(422, "Invalid", "strict decoding error: unknown field \"sped\"");
    let warned = api.patch(A, "merge", &patch).await;
    assert_eq!(warned.warnings(), [r#"299 - "unknown field \"sped\"""#]);
    assert_eq!(warned.expect(200)["data"]["k"], "w");
}

#[tokio::test]
async fn patches_by_many_are_all_applied() {
    let (api, _) = with_a().await;
    let api = Arc::new(api);
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..32 {
        let api = api.clone();
        tasks.spawn(async move {
            api.patch(A, "merge", &json!({"data": {format!("k{index}"): "v"}})).await.expect(200);
        });
    }
    tasks.join_all().await;
    assert_eq!(api.get(A).await.expect(200)["data"].as_object().unwrap().len(), 33);
}

#[tokio::test]
async fn an_updater_that_loses_is_told_so() {
    let (api, made) = with_a().await;
    let api = Arc::new(api);
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..16 {
        let (api, mut object) = (api.clone(), made.clone());
        object["data"]["k"] = json!(index.to_string());
        tasks.spawn(async move { api.put(A, &object).await.code.as_u16() });
    }
    let mut codes = tasks.join_all().await;
    codes.sort_unstable();
    assert_eq!(codes[0], 200);
    assert!(codes[1..].iter().all(|code| *code == 409), "{codes:?}");
}

#[tokio::test]
async fn a_spec_change_is_a_new_generation_and_a_status_change_is_none() {
    let (api, _) = with_a().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let made = api.post(deployments, &support::deployment("web")).await.expect(201);
    assert_eq!(made["metadata"]["generation"], 1);
    let path = format!("{deployments}/web");
    let scaled =
        api.patch(&path, "merge", &json!({"spec": {"replicas": 3}, "status": {"replicas": 9}})).await.expect(200);
    assert_eq!(scaled["metadata"]["generation"], 2);
    assert!(scaled["status"].get("replicas").is_none(), "{}", scaled["status"]);
    let status = json!({"spec": {"replicas": 7}, "status": {"replicas": 3, "observedGeneration": 2}});
    let reported = api.patch(&format!("{path}/status"), "merge", &status).await.expect(200);
    assert_eq!(reported["status"]["replicas"], 3);
    assert_eq!(reported["spec"]["replicas"], 3);
    assert_eq!(reported["metadata"]["generation"], 2);
    assert_eq!(api.get(&format!("{path}/status")).await.expect(200), reported);
    let labelled = json!({"metadata": {"labels": {"a": "b"}, "generation": 99}});
    assert_eq!(api.patch(&path, "merge", &labelled).await.expect(200)["metadata"]["generation"], 2);
}
