//! What the API says to input that is wrong, and that it loses nothing.

use wharf_test_support::Cluster;

/// Applies `input` and returns what kubectl says to it, which must be a refusal.
async fn refused(cluster: &Cluster, arguments: &[&str], input: &str) -> String {
    cluster.kubectl_with(arguments, input).await.failure()
}

const CREATE: &[&str] = &["create", "-f", "-"];
const CREATE_UNCHECKED: &[&str] = &["create", "--validate=false", "-f", "-"];

#[tokio::test]
async fn bad_objects_are_refused_with_their_cause() {
    let cluster = Cluster::with_images(&[]).await;
    let long = "x".repeat(64);
    let cases = [
        (CREATE, "a: b: c".to_owned(), "error"),
        (CREATE, "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [], colour: red}}".to_owned(), "unknown field \"spec.colour\""),
        (CREATE_UNCHECKED, "{apiVersion: v1, kind: Ship, metadata: {name: p}}".to_owned(), "no matches for kind \"Ship\""),
        (CREATE, "{apiVersion: v1, kind: ConfigMap, metadata: {name: Upper}}".to_owned(), "a lowercase RFC 1123 subdomain"),
        (CREATE, format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: c, labels: {{a: {long}}}}}}}"), "must be no more than 63"),
        (CREATE, "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: []}}".to_owned(), "spec.containers: Required value"),
        (CREATE_UNCHECKED, "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {replicas: three}}".to_owned(), "Deployment"),
        (
            CREATE,
            "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: i, resources: {limits: {memory: lots}}}]}}".to_owned(),
            "quantities must match the regular expression",
        ),
    ];
    for (arguments, input, expected) in cases {
        let said = refused(&cluster, arguments, &input).await;
        assert!(said.contains(expected), "{input}\nshould be refused with {expected:?}, and was with: {said}");
    }
    let left = cluster.kubectl(&["get", "pods,deployments", "-o", "name"]).await.success();
    assert_eq!(left, "");
}

#[tokio::test]
async fn unknown_fields_warn_or_refuse_as_asked() {
    let cluster = Cluster::with_images(&[]).await;
    let map = |name: &str| format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}}}, dada: {{a: b}}}}");
    let warned = cluster.kubectl_with(&["create", "--validate=warn", "-f", "-"], &map("warned")).await;
    assert!(warned.ok && warned.stderr.contains("unknown field \"dada\""), "{warned:?}");
    let ignored = cluster.kubectl_with(&["create", "--validate=ignore", "-f", "-"], &map("ignored")).await;
    assert!(ignored.ok && ignored.stderr.is_empty(), "{ignored:?}");
    let strict = refused(&cluster, &["create", "--validate=strict", "-f", "-"], &map("strict")).await;
    assert!(strict.contains("strict decoding error: unknown field \"dada\""), "{strict}");
}

#[tokio::test]
async fn a_stale_resource_version_is_a_conflict_and_loses_nothing() {
    let cluster = Cluster::with_images(&[]).await;
    cluster.kubectl(&["create", "configmap", "c", "--from-literal=a=1"]).await.success();
    let old = cluster.kubectl(&["get", "configmap", "c", "-o", "yaml"]).await.success();
    cluster.kubectl(&["patch", "configmap", "c", "-p", "{\"data\":{\"a\":\"2\"}}"]).await.success();
    let said = refused(&cluster, &["replace", "-f", "-"], &old).await;
    assert!(said.contains("the object has been modified; please apply your changes to the latest version"), "{said}");
    assert_eq!(cluster.kubectl(&["get", "configmap", "c", "-o", "jsonpath={.data.a}"]).await.success(), "2");
}

#[tokio::test]
async fn a_body_of_five_megabytes_is_too_large() {
    let cluster = Cluster::with_images(&[]).await;
    let map = format!(
        "{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"big\"}},\"data\":{{\"a\":\"{}\"}}}}",
        "x".repeat(5 << 20)
    );
    let request = kube::core::Request::new("/api/v1/namespaces/default/configmaps");
    let request = request.create(&kube::api::PostParams::default(), map.into_bytes()).expect("a request");
    let error = cluster.client.request::<serde_json::Value>(request).await.expect_err("it is refused");
    assert!(matches!(&error, kube::Error::Api(status) if status.code == 413), "{error:?}");
}

#[tokio::test]
async fn an_image_that_is_not_wasm_or_not_there_says_so() {
    let cluster = Cluster::with_images(&[]).await;
    let text = cluster.home().join("text.wasm");
    std::fs::write(&text, "this is not a Wasm module").expect("a file");
    let error =
        wharf_test_support::cluster::import(&cluster.data(), &text, "text:v1").await.expect_err("it is refused");
    assert!(format!("{error:#}").contains("not a WebAssembly binary"), "{error:#}");

    let image = format!("{}/nobody/nothing:v1", cluster.registry);
    let pod = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: missing}}, spec: {{containers: [{{name: c, image: '{image}'}}]}}}}"
    );
    cluster.kubectl_with(&["apply", "-f", "-"], &pod).await.success();
    wharf_test_support::eventually("the pull fails with its cause", || async {
        let path = "jsonpath={.status.containerStatuses[0].state.waiting}";
        let waiting = cluster.kubectl(&["get", "pod", "missing", "-o", path]).await.success();
        let known = waiting.contains("ErrImagePull") || waiting.contains("ImagePullBackOff");
        if known && waiting.contains("nobody/nothing") { Ok(()) } else { Err(waiting) }
    })
    .await;
}
