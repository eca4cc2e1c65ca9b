//! DELETE: at once, gracefully, with finalizers, of whole collections.

mod support;

use serde_json::{Value, json};
use support::{Api, CONFIG_MAPS, PODS, config_map, pod};

const A: &str = "/api/v1/namespaces/default/configmaps/a";

async fn with_a(finalizers: Value) -> (Api, Value) {
    let api = Api::with_namespace().await;
    let mut map = config_map("a", &json!({}));
    map["metadata"]["finalizers"] = finalizers;
    let made = api.post(CONFIG_MAPS, &map).await.expect(201);
    (api, made)
}

async fn running_pod(api: &Api, name: &str) -> String {
    api.post(PODS, &pod(name)).await.expect(201);
    let path = format!("{PODS}/{name}");
    let target = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": "n1"}});
    api.post(&format!("{path}/binding"), &target).await.expect(201);
    path
}

#[tokio::test]
async fn a_deleted_object_is_gone_and_the_reply_says_which() {
    let (api, made) = with_a(json!([])).await;
    let status = api.delete(A).await.expect(200);
    assert_eq!(status["kind"], "Status");
    assert_eq!(status["status"], "Success");
    assert_eq!(status["details"], json!({"name": "a", "kind": "configmaps", "uid": made["metadata"]["uid"]}));
    api.get(A).await.refused(404, "NotFound", "configmaps \"a\" not found");
    api.delete(A).await.refused(404, "NotFound", "configmaps \"a\" not found");
}

#[tokio::test]
async fn preconditions_must_hold() {
    let (api, made) = with_a(json!([])).await;
    let wrong = json!({"preconditions": {"uid": "x"}});
    let message = "the UID in the precondition (x) does not match the UID in record";
    api.delete_with(A, &wrong).await.refused(409, "Conflict", message);
    let stale = json!({"preconditions": {"resourceVersion": "1"}});
    let message = "the ResourceVersion in the precondition (1) does not match the ResourceVersion in record";
    api.delete_with(A, &stale).await.refused(409, "Conflict", message);
    let right = json!({
        "kind": "DeleteOptions", "apiVersion": "v1",
        "preconditions": {"uid": made["metadata"]["uid"], "resourceVersion": made["metadata"]["resourceVersion"]},
    });
    api.delete_with(A, &right).await.expect(200);
}

#[tokio::test]
async fn options_are_checked() {
    let (api, _) = with_a(json!([])).await;
    let both = json!({"orphanDependents": true, "propagationPolicy": "Orphan"});
    api.delete_with(A, &both).await.refused(
        422,
        "Invalid",
        "orphanDependents and deletionPropagation cannot be both set",
    );
    let odd = api.delete(&format!("{A}?propagationPolicy=Later")).await;
    odd.refused(422, "Invalid", "propagationPolicy: Unsupported value: \"Later\"");
    api.delete_with(A, &json!({"kind": "Pod", "apiVersion": "v1"})).await.expect(400);
    let dry = api.delete(&format!("{A}?dryRun=All")).await.expect(200);
    assert_eq!(dry["kind"], "ConfigMap");
    api.get(A).await.expect(200);
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_gone() {
    let (api, _) = with_a(json!(["x.io/one", "x.io/two"])).await;
    let mut watch = api.watch(&format!("{CONFIG_MAPS}?watch=1")).await;
    assert_eq!(watch.event().await, "ADDED a");
    let marked = api.delete(A).await.expect(200);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(watch.event().await, "MODIFIED a");
    assert_eq!(api.delete(A).await.expect(200)["metadata"], marked["metadata"], "a second DELETE changes nothing");
    let more = json!({"metadata": {"finalizers": ["x.io/one", "x.io/two", "x.io/three"]}});
    api.patch(A, "merge", &more).await.refused(
        422,
        "Invalid",
        "no new finalizers can be added if the object is being deleted",
    );
    let undo = json!({"metadata": {"deletionTimestamp": null}});
    let kept = api.patch(A, "merge", &undo).await.expect(200);
    assert_eq!(kept["metadata"]["deletionTimestamp"], marked["metadata"]["deletionTimestamp"]);
    api.patch(A, "merge", &json!({"metadata": {"finalizers": ["x.io/two"]}})).await.expect(200);
    assert_eq!(watch.event().await, "MODIFIED a");
    let last = api.patch(A, "merge", &json!({"metadata": {"finalizers": null}})).await.expect(200);
    assert_eq!(last["kind"], "ConfigMap");
    assert_eq!(watch.event().await, "DELETED a");
    api.get(A).await.expect(404);
}

#[tokio::test]
async fn policies_leave_orders_for_the_garbage_collector() {
    for (query, finalizer) in [
        ("propagationPolicy=Orphan", "orphan"),
        ("propagationPolicy=Foreground", "foregroundDeletion"),
        ("orphanDependents=true", "orphan"),
    ] {
        let (api, _) = with_a(json!([])).await;
        let marked = api.delete(&format!("{A}?{query}")).await.expect(200);
        assert_eq!(marked["metadata"]["finalizers"], json!([finalizer]), "{query}");
        api.patch(A, "merge", &json!({"metadata": {"finalizers": []}})).await.expect(200);
        api.get(A).await.expect(404);
    }
}

#[tokio::test]
async fn a_running_pod_is_given_its_time() {
    let api = Api::with_namespace().await;
    let path = running_pod(&api, "a").await;
    let marked = api.delete(&path).await.expect(200);
    assert_eq!(marked["kind"], "Pod");
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let longer = api.delete_with(&path, &json!({"gracePeriodSeconds": 60})).await.expect(200);
    assert_eq!(longer["metadata"]["resourceVersion"], marked["metadata"]["resourceVersion"]);
    let shorter = api.delete_with(&path, &json!({"gracePeriodSeconds": 5})).await.expect(200);
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    assert!(shorter["metadata"]["deletionTimestamp"].as_str() < marked["metadata"]["deletionTimestamp"].as_str());
    let gone = api.delete_with(&path, &json!({"gracePeriodSeconds": 0})).await.expect(200);
    assert_eq!(gone["kind"], "Pod");
    api.get(&path).await.expect(404);
}

#[tokio::test]
async fn a_pod_that_runs_nowhere_goes_at_once() {
    let api = Api::with_namespace().await;
    api.post(PODS, &pod("a")).await.expect(201);
    assert_eq!(api.delete(&format!("{PODS}/a")).await.expect(200)["kind"], "Pod");
    api.get(&format!("{PODS}/a")).await.expect(404);
}

#[tokio::test]
async fn a_finalizer_holds_a_pod_beyond_its_time() {
    let api = Api::with_namespace().await;
    let path = running_pod(&api, "a").await;
    api.patch(&path, "merge", &json!({"metadata": {"finalizers": ["x.io/f"]}})).await.expect(200);
    api.delete_with(&path, &json!({"gracePeriodSeconds": 0})).await.expect(200);
    api.get(&path).await.expect(200);
    api.patch(&path, "merge", &json!({"metadata": {"finalizers": null}})).await.expect(200);
    api.get(&path).await.expect(404);
}

#[tokio::test]
async fn a_namespace_ends_when_it_is_finalized() {
    let api = Api::with_namespace().await;
    let path = "/api/v1/namespaces/default";
    let made = api.get(path).await.expect(200);
    assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
    let marked = api.delete(path).await.expect(200);
    assert_eq!(marked["status"]["phase"], "Terminating");
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    api.delete(path).await.expect(200);
    api.get(path).await.expect(200);
    let mut finalized = marked.clone();
    finalized["spec"]["finalizers"] = json!([]);
    let ordinary = api.put(path, &finalized).await.expect(200);
    assert_eq!(ordinary["spec"]["finalizers"], json!(["kubernetes"]), "only the subresource takes a finalizer away");
    finalized["metadata"]["resourceVersion"] = ordinary["metadata"]["resourceVersion"].clone();
    api.put(&format!("{path}/finalize"), &finalized).await.expect(200);
    api.get(path).await.expect(404);
}

#[tokio::test]
async fn a_collection_is_deleted_as_selected() {
    let api = Api::with_namespace().await;
    for index in 0..50 {
        let mut map = config_map(&format!("m{index:02}"), &json!({}));
        map["metadata"]["labels"] = json!({"keep": (index % 5 == 0).to_string()});
        api.post(CONFIG_MAPS, &map).await.expect(201);
    }
    let listed = api.delete(&format!("{CONFIG_MAPS}?labelSelector=keep%3Dfalse")).await.expect(200);
    assert_eq!(listed["kind"], "ConfigMapList");
    assert_eq!(listed["items"].as_array().unwrap().len(), 40);
    assert_eq!(api.get(CONFIG_MAPS).await.expect(200)["items"].as_array().unwrap().len(), 10);
    api.delete(CONFIG_MAPS).await.expect(200);
    assert!(api.get(CONFIG_MAPS).await.expect(200)["items"].as_array().unwrap().is_empty());
    api.delete("/api/v1/configmaps").await.expect(405);
    api.delete("/api/v1/namespaces").await.expect(405);
}
