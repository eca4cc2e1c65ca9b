//! CREATE: what is taken, what is refused, and in which words.

mod support;

use http::Method;
use serde_json::json;
use support::{Api, CONFIG_MAPS, PODS, config_map, pod};

#[tokio::test]
async fn a_created_object_has_what_the_server_gives_it() {
    let api = Api::with_namespace().await;
    let mut sent = config_map("a", &json!({"k": "v"}));
    sent["metadata"]["uid"] = json!("mine");
    sent["metadata"]["creationTimestamp"] = json!("1999-01-01T00:00:00Z");
    let answer = api.post(CONFIG_MAPS, &sent).await;
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.headers["cache-control"], "no-cache, private");
    assert!(answer.headers.contains_key("audit-id"));
    let made = answer.expect(201);
    assert_eq!(made["kind"], "ConfigMap");
    assert_eq!(made["metadata"]["namespace"], "default");
    assert_eq!(made["data"]["k"], "v");
    assert_eq!(made["metadata"]["uid"].as_str().map(str::len), Some(36));
    assert_ne!(made["metadata"]["creationTimestamp"], "1999-01-01T00:00:00Z");
    assert_eq!(api.get(&format!("{CONFIG_MAPS}/a")).await.expect(200), made);
}

#[tokio::test]
async fn yaml_is_read_and_written() {
    let api = Api::with_namespace().await;
    let body = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  k: v\n";
    let headers = [("content-type", "application/yaml"), ("accept", "application/yaml")];
    let answer = api.request(Method::POST, CONFIG_MAPS, &headers, body).await;
    assert_eq!(answer.code, 201);
    assert_eq!(answer.headers["content-type"], "application/yaml");
    let text = String::from_utf8(answer.bytes.to_vec()).unwrap();
    assert!(text.contains("kind: ConfigMap"), "{text}");
    api.request(Method::POST, CONFIG_MAPS, &headers, "a: [").await.refused(400, "BadRequest", "yaml parse error");
}

#[tokio::test]
async fn a_name_is_taken_once() {
    let api = Api::with_namespace().await;
    api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.expect(201);
    let again = api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await;
    let status = again.refused(409, "AlreadyExists", "configmaps \"a\" already exists");
    assert_eq!(status["details"], json!({"name": "a", "kind": "configmaps"}));
}

#[tokio::test]
async fn names_are_generated() {
    let api = Api::with_namespace().await;
    let sent = json!({"metadata": {"generateName": "job-"}});
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let made = api.post(CONFIG_MAPS, &sent).await.expect(201);
        let name = made["metadata"]["name"].as_str().unwrap().to_owned();
        assert!(name.starts_with("job-") && name.len() == 9, "{name}");
        names.insert(name);
    }
    assert_eq!(names.len(), 20);
}

#[tokio::test]
async fn what_is_no_such_object_is_refused() {
    let api = Api::with_namespace().await;
    let post = |body: serde_json::Value| {
        let api = &api;
        async move { api.post(CONFIG_MAPS, &body).await }
    };
    post(json!({})).await.refused(422, "Invalid", "metadata.name: Required value: name or generateName is required");
    post(config_map("Bad_Name", &json!({}))).await.refused(
        422,
        "Invalid",
        "a lowercase RFC 1123 subdomain must consist of",
    );
    post(json!({"metadata": {"name": "a", "namespace": "other"}})).await.refused(
        400,
        "BadRequest",
        "the namespace of the provided object does not match the namespace sent on the request",
    );
    post(json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "a"}})).await.refused(
        400,
        "BadRequest",
        "Secret in version \"v1\" cannot be handled as a ConfigMap",
    );
    post(json!({"kind": "ConfigMap", "apiVersion": "v2", "metadata": {"name": "a"}})).await.refused(
        400,
        "BadRequest",
        "the API version in the data (v2) does not match the expected API version (v1)",
    );
    post(json!({"metadata": {"name": "a", "labels": {"a": "b c"}}})).await.refused(
        422,
        "Invalid",
        "metadata.labels: Invalid value: \"b c\"",
    );
    let broken = api.request(Method::POST, CONFIG_MAPS, &[("content-type", "application/json")], "{\"a\":").await;
    broken.refused(400, "BadRequest", "the object provided is unrecognized (must be of type ConfigMap)");
    let mut versioned = config_map("a", &json!({}));
    versioned["metadata"]["resourceVersion"] = json!("5");
    assert_eq!(post(versioned).await.code, 500);
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused() {
    let api = Api::with_namespace().await;
    let big = config_map("a", &json!({"k": "x".repeat(5 << 20)}));
    api.post(CONFIG_MAPS, &big).await.refused(413, "RequestEntityTooLarge", "limit is 3145728");
}

#[tokio::test]
async fn other_media_types_are_refused_with_those_that_are_read() {
    let api = Api::with_namespace().await;
    let headers = [("content-type", "application/cbor")];
    let answer = api.request(Method::POST, CONFIG_MAPS, &headers, "{}").await;
    answer.refused(415, "UnsupportedMediaType", "accepted media types include: application/json, application/yaml");
}

#[tokio::test]
async fn unknown_fields_warn_are_refused_or_ignored() {
    let api = Api::with_namespace().await;
    let mut sent = pod("a");
    sent["spec"]["sped"] = json!(1);
    let strict = api.post(&format!("{PODS}?fieldValidation=Strict"), &sent).await;
    strict.refused(
        400,
        "BadRequest",
        "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"spec.sped\"",
    );
    let warned = api.post(&format!("{PODS}?fieldValidation=Warn&dryRun=All"), &sent).await;
    assert_eq!(warned.warnings(), [r#"299 - "unknown field \"spec.sped\"""#]);
    let default = api.post(&format!("{PODS}?dryRun=All"), &sent).await;
    assert_eq!(default.warnings().len(), 1);
    let ignored = api.post(&format!("{PODS}?fieldValidation=Ignore"), &sent).await;
    assert!(ignored.warnings().is_empty());
    assert!(ignored.expect(201)["spec"].get("sped").is_none());
    let unknown = api.post(&format!("{PODS}?fieldValidation=Loud"), &sent).await;
    unknown.refused(422, "Invalid", "fieldValidation: Unsupported value: \"Loud\"");
}

#[tokio::test]
async fn duplicate_fields_are_seen() {
    let api = Api::with_namespace().await;
    let body = r#"{"metadata":{"name":"a"},"data":{"k":"1"},"data":{"k":"2"}}"#;
    let headers = [("content-type", "application/json")];
    let path = format!("{CONFIG_MAPS}?fieldValidation=Strict");
    let strict = api.request(Method::POST, &path, &headers, body).await;
    strict.refused(400, "BadRequest", "duplicate field \"data\"");
    let warned = api.request(Method::POST, CONFIG_MAPS, &headers, body).await;
    assert_eq!(warned.warnings().len(), 1);
    assert_eq!(warned.expect(201)["data"]["k"], "2");
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_and_leaves_nothing() {
    let api = Api::with_namespace().await;
    let path = format!("{CONFIG_MAPS}?dryRun=All");
    let made = api.post(&path, &config_map("a", &json!({}))).await.expect(201);
    assert!(made["metadata"]["uid"].is_string());
    assert!(made["metadata"].get("resourceVersion").is_none(), "{made}");
    api.get(&format!("{CONFIG_MAPS}/a")).await.refused(404, "NotFound", "configmaps \"a\" not found");
    api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.expect(201);
    api.post(&path, &config_map("a", &json!({}))).await.refused(409, "AlreadyExists", "already exists");
    let refused = api.post(&format!("{CONFIG_MAPS}?dryRun=Some"), &config_map("b", &json!({}))).await;
    refused.refused(422, "Invalid", "dryRun: Unsupported value");
}

#[tokio::test]
async fn many_may_create_at_once_and_one_wins_a_name() {
    let api = std::sync::Arc::new(Api::with_namespace().await);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let api = api.clone();
        tasks.spawn(async move { api.post(CONFIG_MAPS, &config_map("one", &json!({}))).await.code.as_u16() });
    }
    let mut codes = tasks.join_all().await;
    codes.sort_unstable();
    assert_eq!(codes[0], 201);
    assert!(codes[1..].iter().all(|code| *code == 409), "{codes:?}");
}
