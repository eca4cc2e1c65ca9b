//! `binding`, `eviction`, `scale`, `log`, `status`.

mod support;

use serde_json::json;
use support::{Api, IN_DEFAULT, PODS, deployment, pod};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

#[tokio::test]
async fn a_pod_is_bound_once() {
    let api = Api::with_namespace().await;
    api.post(PODS, &pod("a")).await.expect(201);
    let path = format!("{PODS}/a/binding");
    let binding = |node: &str| json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a", "annotations": {"x": "y"}}, "target": {"kind": "Node", "name": node}});
    let status = api.post(&path, &binding("n1")).await.expect(201);
    assert_eq!(status["status"], "Success");
    let bound = api.get(&format!("{PODS}/a")).await.expect(200);
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["metadata"]["annotations"]["x"], "y");
    let conditions = bound["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|held| held["type"] == "PodScheduled" && held["status"] == "True"));
    let message = "Operation cannot be fulfilled on pods/binding \"a\": pod a is already assigned to node \"n1\"";
    api.post(&path, &binding("n2")).await.refused(409, "Conflict", message);
}

#[tokio::test]
async fn a_binding_may_name_its_pod_in_the_body() {
    let api = Api::with_namespace().await;
    api.post(PODS, &pod("a")).await.expect(201);
    let all = format!("{IN_DEFAULT}/bindings");
    let binding = |name: &str| json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": "n1"}});
    let status = api.post(&format!("{all}?dryRun=All"), &binding("a")).await.expect(201);
    assert_eq!((&status["kind"], &status["status"]), (&json!("Status"), &json!("Success")));
    assert_eq!(api.get(&format!("{PODS}/a")).await.expect(200)["spec"].get("nodeName"), None);
    api.post(&all, &binding("a")).await.expect(201);
    assert_eq!(api.get(&format!("{PODS}/a")).await.expect(200)["spec"]["nodeName"], "n1");
    api.post(&all, &binding("a")).await.refused(409, "Conflict", "pod a is already assigned to node \"n1\"");
    api.post(&all, &binding("z")).await.refused(404, "NotFound", "pods \"z\" not found");
    api.post(&all, &json!({"target": {"name": "n1"}})).await.refused(400, "BadRequest", "Name parameter required.");
    api.post(&all, &json!({"metadata": {"name": "a"}, "target": {}})).await.refused(
        422,
        "Invalid",
        "target.name: Required",
    );
    api.get(&all).await.expect(405);
}

#[tokio::test]
async fn bad_bindings_are_refused() {
    let api = Api::with_namespace().await;
    api.post(PODS, &pod("a")).await.expect(201);
    let path = format!("{PODS}/a/binding");
    let other = json!({"metadata": {"name": "b"}, "target": {"name": "n"}});
    api.post(&path, &other).await.refused(400, "BadRequest", "name in URL does not match name in Binding object");
    let nowhere = json!({"metadata": {"name": "a"}, "target": {"kind": "Node"}});
    api.post(&path, &nowhere).await.refused(422, "Invalid", "target.name: Required value");
    let minion = json!({"metadata": {"name": "a"}, "target": {"kind": "Minion", "name": "n"}});
    api.post(&path, &minion).await.refused(422, "Invalid", "target.kind: Unsupported value: \"Minion\"");
    let stranger = json!({"metadata": {"name": "a", "uid": "x"}, "target": {"name": "n"}});
    api.post(&path, &stranger).await.refused(409, "Conflict", "UID in precondition: x");
    let missing = json!({"metadata": {"name": "z"}, "target": {"name": "n"}});
    api.post(&format!("{PODS}/z/binding"), &missing).await.expect(404);
    api.post(&format!("{path}?dryRun=All"), &json!({"metadata": {"name": "a"}, "target": {"name": "n"}}))
        .await
        .expect(201);
    assert!(api.get(&format!("{PODS}/a")).await.expect(200)["spec"].get("nodeName").is_none());
}

#[tokio::test]
async fn an_eviction_is_a_deletion_with_grace() {
    let api = Api::with_namespace().await;
    api.post(PODS, &pod("a")).await.expect(201);
    api.post(&format!("{PODS}/a/binding"), &json!({"metadata": {"name": "a"}, "target": {"name": "n"}}))
        .await
        .expect(201);
    let path = format!("{PODS}/a/eviction");
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a"}, "deleteOptions": {"gracePeriodSeconds": 3}});
    api.post(&format!("{path}?dryRun=All"), &eviction).await.expect(201);
    assert!(api.get(&format!("{PODS}/a")).await.expect(200)["metadata"].get("deletionTimestamp").is_none());
    assert_eq!(api.post(&path, &eviction).await.expect(201)["status"], "Success");
    let marked = api.get(&format!("{PODS}/a")).await.expect(200);
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 3);
    let other = json!({"metadata": {"name": "b"}});
    api.post(&path, &other).await.refused(400, "BadRequest", "name in URL does not match name in Eviction object");
}

#[tokio::test]
async fn replicas_are_seen_and_set_through_scale() {
    let api = Api::with_namespace().await;
    let made = api.post(DEPLOYMENTS, &deployment("web")).await.expect(201);
    let path = format!("{DEPLOYMENTS}/web/scale");
    let mut scale = api.get(&path).await.expect(200);
    assert_eq!(scale["kind"], "Scale");
    assert_eq!(scale["apiVersion"], "autoscaling/v1");
    assert_eq!(scale["spec"]["replicas"], 1);
    assert_eq!(scale["status"]["selector"], "app=web");
    assert_eq!(scale["metadata"]["uid"], made["metadata"]["uid"]);
    scale["spec"]["replicas"] = json!(4);
    let set = api.put(&path, &scale).await.expect(200);
    assert_eq!(set["spec"]["replicas"], 4);
    api.put(&path, &scale).await.refused(409, "Conflict", "the object has been modified");
    let patched = api.patch(&path, "merge", &json!({"spec": {"replicas": 6}})).await.expect(200);
    assert_eq!(patched["spec"]["replicas"], 6);
    let deployment = api.get(&format!("{DEPLOYMENTS}/web")).await.expect(200);
    assert_eq!(deployment["spec"]["replicas"], 6);
    assert_eq!(deployment["metadata"]["generation"], 3);
    let negative = api.patch(&path, "merge", &json!({"spec": {"replicas": -1}})).await;
    negative.refused(422, "Invalid", "spec.replicas: Invalid value: -1: must be greater than or equal to 0");
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    assert_eq!(api.get_as(&path, table).await.expect(200)["kind"], "Scale");
}

#[tokio::test]
async fn logs_need_a_container_and_a_node() {
    let api = Api::with_namespace().await;
    let mut two = pod("a");
    two["spec"]["containers"] = json!([{"name": "x", "image": "i"}, {"name": "y", "image": "i"}]);
    api.post(PODS, &two).await.expect(201);
    let path = format!("{PODS}/a/log");
    api.get(&path).await.refused(
        400,
        "BadRequest",
        "a container name must be specified for pod a, choose one of: [x y]",
    );
    let wrong = api.get(&format!("{path}?container=z")).await;
    wrong.refused(400, "BadRequest", "container z is not valid for pod a");
    let negative = api.get(&format!("{path}?container=x&tailLines=-1")).await;
    negative.refused(422, "Invalid", "tailLines: Invalid value: -1: must be greater than or equal to 0");
    let nothing = api.get(&format!("{path}?container=x")).await;
    assert_eq!((nothing.code.as_u16(), nothing.bytes.len()), (200, 0));
    assert_eq!(nothing.headers["content-type"], "text/plain");
    api.get(&format!("{PODS}/b/log")).await.refused(404, "NotFound", "pods \"b\" not found");
    api.post(&format!("{PODS}/a/binding"), &json!({"metadata": {"name": "a"}, "target": {"name": "n"}}))
        .await
        .expect(201);
    api.get(&format!("{path}?container=x")).await.refused(404, "NotFound", "nodes \"n\" not found");
}

/// A budget whose controller has counted.
async fn budget(api: &Api, name: &str, allowed: i32) {
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let object =
        json!({"metadata": {"name": name}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    api.post(budgets, &object).await.expect(201);
    let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": allowed, "desiredHealthy": 1, "currentHealthy": 1, "expectedPods": 2}});
    api.patch(&format!("{budgets}/{name}/status"), "merge", &status).await.expect(200);
}

async fn running(api: &Api, name: &str) {
    let mut object = pod(name);
    object["metadata"]["labels"] = json!({"app": "web"});
    api.post(PODS, &object).await.expect(201);
    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    api.patch(&format!("{PODS}/{name}/status"), "merge", &status).await.expect(200);
}

#[tokio::test]
async fn an_eviction_spends_the_budget() {
    let api = Api::with_namespace().await;
    for name in ["a", "b"] {
        running(&api, name).await;
    }
    budget(&api, "web", 1).await;
    let evict = async |name: &str| {
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
        api.post(&format!("{PODS}/{name}/eviction"), &eviction).await
    };
    let dry = json!({"metadata": {"name": "a"}});
    api.post(&format!("{PODS}/a/eviction?dryRun=All"), &dry).await.expect(201);
    assert_eq!(evict("a").await.expect(201)["code"], 201);
    let spent = api.get("/apis/policy/v1/namespaces/default/poddisruptionbudgets/web").await.expect(200);
    assert_eq!(spent["status"]["disruptionsAllowed"], 0);
    assert!(spent["status"]["disruptedPods"]["a"].is_string(), "{spent}");
    let refusal = evict("b").await.refused(
        429,
        "TooManyRequests",
        "Cannot evict pod as it would violate the pod's disruption budget.",
    );
    let cause = &refusal["details"]["causes"][0];
    assert_eq!(cause["reason"], "DisruptionBudget");
    assert_eq!(cause["message"], "The disruption budget web needs 1 healthy pods and has 1 currently");
    let kept = api.get(&format!("{PODS}/b")).await.expect(200);
    assert!(kept["metadata"].get("deletionTimestamp").is_none(), "{kept}");

    // Not ready, it is none of those that the budget counts.
    let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    api.patch(&format!("{PODS}/b/status"), "merge", &unready).await.expect(200);
    evict("b").await.expect(201);
}

#[tokio::test]
async fn a_pod_under_two_budgets_is_not_evicted() {
    let api = Api::with_namespace().await;
    running(&api, "a").await;
    budget(&api, "one", 1).await;
    budget(&api, "two", 1).await;
    let eviction = json!({"metadata": {"name": "a"}});
    let status = api.post(&format!("{PODS}/a/eviction"), &eviction).await.expect(201);
    assert_eq!((&status["status"], &status["code"]), (&json!("Failure"), &json!(500)));
    api.get(&format!("{PODS}/a")).await.expect(200);
}

#[tokio::test]
async fn an_evicted_pod_says_so() {
    let api = Api::with_namespace().await;
    running(&api, "a").await;
    api.post(&format!("{PODS}/a/binding"), &json!({"metadata": {"name": "a"}, "target": {"name": "n"}}))
        .await
        .expect(201);
    api.post(&format!("{PODS}/a/eviction"), &json!({"metadata": {"name": "a"}})).await.expect(201);
    let going = api.get(&format!("{PODS}/a")).await.expect(200);
    assert!(going["metadata"]["deletionTimestamp"].is_string(), "{going}");
    let conditions = going["status"]["conditions"].as_array().expect("conditions");
    let target = conditions.iter().find(|held| held["type"] == "DisruptionTarget").expect("the condition");
    assert_eq!(target["reason"], "EvictionByEvictionAPI");
}

#[tokio::test]
async fn system_priority_classes_cannot_be_deleted() {
    let api = Api::with_namespace().await;
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let object = json!({"metadata": {"name": "system-node-critical"}, "value": 2_000_001_000});
    api.post(classes, &object).await.expect(201);
    api.delete(&format!("{classes}/system-node-critical")).await.refused(
        403,
        "Forbidden",
        "priorityclasses.scheduling.k8s.io \"system-node-critical\" is forbidden: this is a system priority class and cannot be deleted",
    );
}
