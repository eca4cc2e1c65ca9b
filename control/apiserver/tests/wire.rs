//! What goes over the wire, to the byte: the order of keys, for scripts that look for text.

use http::Method;
use serde_json::json;
use support::{Api, CONFIG_MAPS, DEADLINE, IN_DEFAULT, deployment};

mod support;

/// Where each of these stands in a text, in this order.
#[track_caller]
fn in_order(text: &str, parts: &[&str]) {
    let mut from = 0;
    for part in parts {
        let found = text[from..].find(part);
        from += found.unwrap_or_else(|| panic!("{part} is not after byte {from} of {text}"));
    }
}

#[tokio::test]
async fn a_refusal_is_written_as_upstream_writes_it() {
    let api = Api::with_namespace().await;
    let refused = api.get(&format!("{CONFIG_MAPS}/none")).await;
    assert_eq!(
        String::from_utf8_lossy(&refused.bytes),
        r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"configmaps \"none\" not found","reason":"NotFound","details":{"name":"none","kind":"configmaps"},"code":404}"#
    );
}

#[tokio::test]
async fn an_error_in_a_watch_is_written_as_upstream_writes_it() {
    let api = Api::with_namespace().await;
    api.post(CONFIG_MAPS, &support::config_map("a", &json!({}))).await.expect(201);
    api.forget_history("a").await;
    let request = http::Request::get(format!("{CONFIG_MAPS}?watch=true&resourceVersion=1")).body(support::empty());
    let response = api.send(request.expect("a request")).await;
    let read = http_body_util::BodyExt::collect(response.into_body());
    let body = tokio::time::timeout(DEADLINE, read).await.expect("in time").expect("a body").to_bytes();
    let text = String::from_utf8_lossy(&body);
    in_order(
        &text,
        &["\"kind\":\"Status\",\"apiVersion\":\"v1\"", "\"status\":\"Failure\",\"message\":", "\"code\":410}"],
    );
}

#[tokio::test]
async fn a_scale_a_review_and_a_table_are_in_order() {
    let api = Api::with_namespace().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    api.post(deployments, &deployment("web")).await.expect(201);
    let scale = api.get(&format!("{deployments}/web/scale")).await;
    in_order(
        &String::from_utf8_lossy(&scale.bytes),
        &[
            "{\"kind\":\"Scale\",\"apiVersion\":\"autoscaling/v1\",\"metadata\":{\"name\":\"web\",\"namespace\":\"default\",",
            "\"spec\":{",
            "\"status\":{",
        ],
    );

    let asked =
        json!({"spec": {"user": "u", "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "n"}}});
    let review = api.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &asked).await;
    in_order(
        &String::from_utf8_lossy(&review.bytes),
        &[
            "{\"kind\":\"SubjectAccessReview\",\"apiVersion\":\"authorization.k8s.io/v1\",\"metadata\":{",
            "\"spec\":{\"resourceAttributes\":{\"namespace\":\"n\",\"verb\":\"get\",\"resource\":\"pods\"},\"user\":\"u\"}",
            "\"status\":{\"allowed\":",
        ],
    );

    let table = api.get_as(CONFIG_MAPS, "application/json;as=Table;v=v1;g=meta.k8s.io").await;
    in_order(
        &String::from_utf8_lossy(&table.bytes),
        &[
            "{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{",
            "\"columnDefinitions\":[{\"name\":\"Name\",\"type\":\"string\",\"format\":\"name\",\"description\":",
            "\"rows\":[",
        ],
    );
}

#[tokio::test]
async fn a_pretty_document_has_the_same_order_as_a_plain_one() {
    let api = Api::with_namespace().await;
    api.post(CONFIG_MAPS, &support::config_map("a", &json!({"k": "v: \"{"}))).await.expect(201);
    let path = format!("{IN_DEFAULT}/configmaps/a");
    let plain = api.get(&path).await;
    let pretty = api.request(Method::GET, &format!("{path}?pretty=true"), &[], "").await;
    let text = String::from_utf8_lossy(&pretty.bytes).into_owned();
    let ends = [("user-agent", "curl/8.0"), ("accept-encoding", "gzip")];
    for answer in [
        api.request(Method::GET, &path, &ends, "").await,
        api.request(Method::GET, &path, &[("accept", "application/json;pretty=1")], "").await,
    ] {
        assert_eq!(answer.bytes, pretty.bytes);
    }
    let plain_curl = api.request(Method::GET, &format!("{path}?pretty=false"), &ends, "").await;
    assert_eq!(plain_curl.bytes, plain.bytes, "the query has the last word");
    let refused = api.request(Method::GET, &format!("{CONFIG_MAPS}/none"), &ends, "").await;
    assert!(refused.bytes.starts_with(b"{\n  \"kind\": \"Status\",\n"), "{refused:?}", refused = refused.json);
    let listed = api.request(Method::GET, CONFIG_MAPS, &ends, "").await;
    assert!(listed.bytes.starts_with(b"{\n  \"kind\": \"ConfigMapList\",\n"));
    assert_eq!(pretty.json, plain.json);
    assert!(
        text.lines().count() > 5 && text.starts_with("{\n  \"apiVersion\": \"v1\",\n  \"kind\": \"ConfigMap\",\n"),
        "{text}"
    );
}
