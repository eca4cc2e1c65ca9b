//! Server-side apply and managed fields, after upstream's `test/integration/apiserver/apply`.

mod support;

use http::Method;
use serde_json::{Value, json};
use support::{Answer, Api, CONFIG_MAPS, config_map, deployment, revision};

const WEB: &str = "/apis/apps/v1/namespaces/default/deployments/web";
const A: &str = "/api/v1/namespaces/default/configmaps/a";

/// Applies a configuration; `options` are further parameters.
async fn apply(api: &Api, path: &str, manager: &str, options: &str, config: &Value) -> Answer {
    let path = format!("{path}?fieldManager={manager}{options}");
    let headers = [("content-type", "application/apply-patch+yaml")];
    api.request(Method::PATCH, &path, &headers, config.to_string()).await
}

fn web(replicas: u8) -> Value {
    let mut web = deployment("web");
    web["spec"]["replicas"] = json!(replicas);
    web
}

/// `manager operation subresource`, a word each for those who own something.
fn owners(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let word = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let shown = |entry: &Value| {
        let words = ["manager", "operation", "subresource"].map(|field| word(entry, field));
        words.join(" ").trim_end().to_owned()
    };
    entries.iter().map(shown).collect()
}

fn fields<'o>(object: &'o Value, manager: &str) -> &'o Value {
    let entries = object["metadata"]["managedFields"].as_array().expect("managed fields");
    let entry = entries.iter().find(|entry| entry["manager"] == manager);
    &entry.unwrap_or_else(|| panic!("{manager} owns nothing: {object}"))["fieldsV1"]
}

async fn api() -> Api {
    Api::with_namespace().await
}

#[tokio::test]
async fn an_apply_creates_and_then_changes_only_what_it_says() {
    let api = api().await;
    let made = apply(&api, WEB, "a", "", &web(1)).await.expect(201);
    assert_eq!(owners(&made), ["a Apply"]);
    assert_eq!(fields(&made, "a")["f:spec"]["f:replicas"], json!({}));
    assert!(fields(&made, "a")["f:spec"].get("f:progressDeadlineSeconds").is_none(), "defaults are nobody's");
    let same = apply(&api, WEB, "a", "", &web(1)).await.expect(200);
    assert_eq!(same, made, "an apply that changes nothing writes nothing");
    let scaled = apply(&api, WEB, "a", "", &web(2)).await.expect(200);
    assert_eq!(scaled["spec"]["replicas"], 2);
    assert!(revision(&scaled) > revision(&made));
}

#[tokio::test]
async fn every_write_says_who_it_was() {
    let api = api().await;
    let post = [("content-type", "application/json"), ("user-agent", "kubectl/v1.36.0 (linux/amd64)")];
    let made = api.request(Method::POST, CONFIG_MAPS, &post, config_map("a", &json!({"k": "v"})).to_string()).await;
    let made = made.expect(201);
    assert_eq!(owners(&made), ["kubectl Update"]);
    assert_eq!(fields(&made, "kubectl"), &json!({"f:data": {".": {}, "f:k": {}}}));
    let patched = api.patch(&format!("{A}?fieldManager=p"), "merge", &json!({"data": {"k": "w"}})).await.expect(200);
    assert_eq!(owners(&patched), ["kubectl Update", "p Update"]);
    assert_eq!(fields(&patched, "kubectl"), &json!({"f:data": {}}));
    assert_eq!(fields(&patched, "p"), &json!({"f:data": {"f:k": {}}}));
    let again = api.patch(&format!("{A}?fieldManager=q"), "merge", &json!({"data": {"k": "w"}})).await.expect(200);
    assert_eq!(again, patched, "who changes nothing owns nothing");
    let long = format!("{A}?fieldManager={}", "x".repeat(129));
    api.patch(&long, "merge", &json!({})).await.refused(
        422,
        "Invalid",
        "fieldManager: Too long: may not be more than 128 bytes",
    );
}

#[tokio::test]
async fn conflicts_name_manager_version_and_field() {
    let api = api().await;
    apply(&api, WEB, "a", "", &web(1)).await.expect(201);
    api.patch(&format!("{WEB}?fieldManager=scaler"), "merge", &json!({"spec": {"replicas": 5}})).await.expect(200);
    let message = r#"Apply failed with 1 conflict: conflict with "scaler" using apps/v1: .spec.replicas"#;
    let refused = apply(&api, WEB, "a", "", &web(3)).await.refused(409, "Conflict", message);
    let cause = json!({"reason": "FieldManagerConflict", "message": "conflict with \"scaler\" using apps/v1", "field": ".spec.replicas"});
    assert_eq!(refused["details"]["causes"], json!([cause]));
    let forced = apply(&api, WEB, "a", "&force=true", &web(3)).await.expect(200);
    assert_eq!(forced["spec"]["replicas"], 3);
    assert_eq!(owners(&forced), ["a Apply"]);
    let message = r#"Apply failed with 1 conflict: conflict with "a": .spec.replicas"#;
    apply(&api, WEB, "b", "", &web(4)).await.refused(409, "Conflict", message);
    let shared = apply(&api, WEB, "b", "", &web(3)).await.expect(200);
    assert_eq!(owners(&shared), ["b Apply", "a Apply"]);
}

#[tokio::test]
async fn what_is_not_applied_any_more_goes() {
    let api = api().await;
    let config = |data: Value| config_map("a", &data);
    apply(&api, A, "a", "", &config(json!({"x": "1", "y": "1"}))).await.expect(201);
    apply(&api, A, "b", "", &config(json!({"y": "1", "z": "1"}))).await.expect(200);
    let left = apply(&api, A, "a", "", &config(json!({}))).await.expect(200);
    assert_eq!(left["data"], json!({"y": "1", "z": "1"}));
    let left = apply(&api, A, "b", "", &config(json!({"z": "1"}))).await.expect(200);
    assert_eq!(left["data"], json!({"z": "1"}));
    assert_eq!(fields(&left, "a"), &json!({"f:data": {}}), "the empty map that it applied");
    assert_eq!(fields(&left, "b"), &json!({"f:data": {"f:z": {}}}));
}

#[tokio::test]
async fn bad_configurations_are_refused() {
    let api = api().await;
    let config = |edit: fn(&mut Value)| {
        let mut config = config_map("a", &json!({"k": "v"}));
        edit(&mut config);
        config
    };
    let with = async |options: &str, config: &Value| apply(&api, A, "a", options, config).await;
    let unnamed = apply(&api, A, "", "", &config(|_| ())).await;
    unnamed.refused(422, "Invalid", "fieldManager: Required value: is required for apply patch");
    with("", &config(|c| c["kind"] = json!("Secret"))).await.refused(
        400,
        "BadRequest",
        "invalid object type: /v1, Kind=Secret",
    );
    let managed = config(|c| c["metadata"]["managedFields"] = json!([]));
    with("", &managed).await.refused(400, "BadRequest", "metadata.managedFields must be nil");
    let unknown = with("&fieldValidation=Ignore", &config(|c| c["sped"] = json!(1))).await.expect(500);
    let message = "failed to create typed patch object (/a; /v1, Kind=ConfigMap): .sped: field not declared in schema";
    assert_eq!(unknown["message"], message);
    let uid = config(|c| c["metadata"]["uid"] = json!("x"));
    let message = "uid mismatch: the provided object specified uid x, and no existing object was found";
    with("", &uid).await.refused(409, "Conflict", message);
    let other = config(|c| c["metadata"]["namespace"] = json!("b"));
    with("", &other).await.refused(400, "BadRequest", "the namespace of the provided object does not match");
    with("", &config(|c| c["metadata"]["name"] = json!("b"))).await.expect(400);
    let force = api.patch(&format!("{A}?force=true"), "merge", &json!({})).await;
    force.refused(422, "Invalid", "force: Forbidden: may not be specified for non-apply patch");
    with("", &config(|_| ())).await.expect(201);
    let stale = config(|c| c["metadata"]["resourceVersion"] = json!("1"));
    with("", &stale).await.refused(409, "Conflict", "the object has been modified");
    api.request(
        Method::PATCH,
        &format!("{A}?fieldManager=a"),
        &[("content-type", "application/apply-patch+yaml")],
        "a: 1\n---\nb: 2\n",
    )
    .await
    .refused(400, "BadRequest", "error decoding YAML");
}

#[tokio::test]
async fn duplicate_fields_of_a_configuration_warn_or_are_refused() {
    let api = api().await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: v, k: w}\n";
    let send = async |options: &str| {
        let path = format!("{A}?fieldManager=a{options}");
        api.request(Method::PATCH, &path, &[("content-type", "application/apply-patch+yaml")], yaml).await
    };
    let strict = send("&fieldValidation=Strict").await;
    strict.refused(
        400,
        "BadRequest",
        "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  line ",
    );
    let warned = send("").await;
    assert!(warned.warnings()[0].contains(r#": key \"k\" already set in map"#), "{:?}", warned.warnings());
    assert_eq!(warned.expect(201)["data"]["k"], "w");
    assert!(send("&fieldValidation=Ignore").await.warnings().is_empty());
}

#[tokio::test]
async fn a_dry_apply_leaves_no_trace() {
    let api = api().await;
    let dry = apply(&api, WEB, "a", "&dryRun=All", &web(1)).await.expect(201);
    assert_eq!(owners(&dry), ["a Apply"]);
    api.get(WEB).await.expect(404);
    let made = apply(&api, WEB, "a", "", &web(1)).await.expect(201);
    assert_eq!(apply(&api, WEB, "a", "&dryRun=All", &web(2)).await.expect(200)["spec"]["replicas"], 2);
    assert_eq!(api.get(WEB).await.expect(200), made);
}

#[tokio::test]
async fn status_and_spec_have_owners_of_their_own() {
    let api = api().await;
    let mut config = web(1);
    config["status"] = json!({"replicas": 7});
    let made = apply(&api, WEB, "a", "", &config).await.expect(201);
    assert!(made["status"].get("replicas").is_none());
    assert!(fields(&made, "a").get("f:status").is_none(), "a status is not for the resource to own");
    let status = apply(&api, &format!("{WEB}/status"), "s", "", &config).await.expect(200);
    assert_eq!(status["status"]["replicas"], 7);
    assert_eq!(owners(&status), ["a Apply", "s Apply status"]);
    assert_eq!(fields(&status, "s"), &json!({"f:status": {"f:replicas": {}}}));
    apply(&api, "/apis/apps/v1/namespaces/default/deployments/none/status", "s", "", &config).await.expect(404);
}

#[tokio::test]
async fn a_scale_hands_the_replicas_over() {
    let api = api().await;
    apply(&api, WEB, "a", "", &web(1)).await.expect(201);
    let scale = format!("{WEB}/scale");
    api.patch(&format!("{scale}?fieldManager=hpa"), "merge", &json!({"spec": {"replicas": 4}})).await.expect(200);
    let scaled = api.get(WEB).await.expect(200);
    assert_eq!(owners(&scaled), ["a Apply", "hpa Update scale"]);
    assert_eq!(fields(&scaled, "hpa"), &json!({"f:spec": {"f:replicas": {}}}));
    assert!(fields(&scaled, "a")["f:spec"].get("f:replicas").is_none());
    let message = r#"conflict with "hpa" with subresource "scale" using apps/v1: .spec.replicas"#;
    apply(&api, WEB, "a", "", &web(1)).await.refused(409, "Conflict", message);
    let config =
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}, "spec": {"replicas": 6}});
    apply(&api, &scale, "b", "", &config).await.refused(409, "Conflict", "conflict with \"hpa\"");
    let scaled = apply(&api, &scale, "b", "&force=true", &config).await.expect(200);
    assert_eq!(scaled["spec"]["replicas"], 6);
    assert_eq!(owners(&api.get(WEB).await.expect(200)), ["b Apply scale", "a Apply"]);
}

#[tokio::test]
async fn managed_fields_can_be_reset_but_not_broken() {
    let api = api().await;
    let made = apply(&api, A, "a", "", &config_map("a", &json!({"k": "v"}))).await.expect(201);
    // A client that knows nothing of them, or breaks them, loses nothing.
    for managed in [Value::Null, json!([{"manager": "x", "operation": "Nonsense"}])] {
        let mut object = made.clone();
        object["metadata"]["managedFields"] = managed;
        assert_eq!(api.put(A, &object).await.expect(200), made);
    }
    for reset in [json!([]), json!([{}])] {
        let mut object = api.get(A).await.expect(200);
        object["metadata"]["managedFields"] = reset;
        assert_eq!(owners(&api.put(A, &object).await.expect(200)), [""; 0]);
        let tracked = apply(&api, A, "a", "", &config_map("a", &json!({"k": "v", "l": "v"}))).await.expect(200);
        assert_eq!(owners(&tracked), ["a Apply", "before-first-apply Update"]);
    }
    api.patch(A, "merge", &json!({"metadata": {"managedFields": [{}]}})).await.expect(200);
    let updated = api.patch(A, "merge", &json!({"data": {"m": "v"}})).await.expect(200);
    assert_eq!(owners(&updated), [""; 0], "an update does not begin the tracking");
}

#[tokio::test]
async fn client_side_apply_gives_way_to_kubectl() {
    let api = api().await;
    let config = config_map("a", &json!({"k": "v"}));
    let mut object = config.clone();
    let annotation = "kubectl.kubernetes.io/last-applied-configuration";
    object["metadata"]["annotations"] = json!({annotation: config.to_string()});
    api.post(&format!("{CONFIG_MAPS}?fieldManager=kubectl-client-side-apply"), &object).await.expect(201);
    let changed = config_map("a", &json!({"k": "w"}));
    apply(&api, A, "other", "", &changed).await.refused(409, "Conflict", "kubectl-client-side-apply");
    let applied = apply(&api, A, "kubectl", "", &changed).await.expect(200);
    assert_eq!(applied["data"]["k"], "w");
    let last: Value = serde_json::from_str(applied["metadata"]["annotations"][annotation].as_str().unwrap()).unwrap();
    assert_eq!(last["data"]["k"], "w", "one can go back to client-side apply");
}
