//! Commands that people use, and that anonymous strangers get nowhere.

use wharf_test_support::{Cluster, http as plain_http};

#[tokio::test]
async fn kubectl_explains_lists_and_describes() {
    let cluster = Cluster::with_images(&["hello-http"]).await;
    let explained = cluster.kubectl(&["explain", "pods.spec.containers.image"]).await.success();
    assert!(explained.contains("FIELD: image <string>"), "{explained}");
    let kinds = cluster.kubectl(&["api-resources", "--no-headers"]).await.success();
    for row in ["pods", "deployments", "jobs", "endpointslices", "leases"] {
        assert!(kinds.lines().any(|line| line.starts_with(row)), "{row} is missing in {kinds}");
    }
    cluster.kubectl(&["create", "deployment", "web", "--image=hello-http:v1"]).await.success();
    cluster.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]).await.success();
    let described = cluster.kubectl(&["describe", "pod", "-l", "app=web"]).await.success();
    for event in ["Scheduled", "Pulled", "Created", "Started"] {
        assert!(described.contains(event), "{event} is missing in {described}");
    }
    let wide = cluster.kubectl(&["get", "pods", "-o", "wide"]).await.success();
    assert!(wide.contains("NOMINATED NODE") && wide.contains("node-1"), "{wide}");
    let version = cluster.kubectl(&["version"]).await.success();
    assert!(version.contains("Server Version: v1.36."), "{version}");
}

#[tokio::test]
async fn kubectl_explains_every_kind() {
    use futures::{StreamExt, stream};
    let cluster = Cluster::server(&[]).await;
    let listed = cluster.kubectl(&["api-resources", "--no-headers"]).await.success();
    // Name, short names if any, version, whether it is namespaced, kind.
    let kinds: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(kinds.len() > 60, "{kinds:?}");
    let explained = stream::iter(kinds).map(async |words| {
        let [name, .., version, _, kind] = words[..] else { panic!("{words:?}") };
        let version = format!("--api-version={version}");
        let text = cluster.kubectl(&["explain", name, &version, "--recursive"]).await.success();
        assert!(text.contains(&format!("KIND:       {kind}\n")) && text.contains("FIELDS:"), "{name}: {text}");
    });
    explained.buffer_unordered(4).collect::<Vec<()>>().await;
    let choices = cluster.kubectl(&["explain", "pod.spec.restartPolicy"]).await.success();
    assert!(choices.contains("Possible enum values:") && choices.contains("`\"OnFailure\"`"), "{choices}");
    let grouped = cluster.kubectl(&["explain", "services.spec.type", "--output=plaintext-openapiv2"]).await.success();
    assert!(grouped.contains("Possible enum values:"), "{grouped}");
}

#[tokio::test]
async fn kubectl_edits_with_every_kind_of_patch() {
    let cluster = Cluster::with_images(&[]).await;
    cluster.kubectl(&["create", "configmap", "c", "--from-literal=a=1"]).await.success();
    let patches = [
        ("strategic", r#"{"data":{"b":"2"}}"#),
        ("merge", r#"{"data":{"a":null}}"#),
        ("json", r#"[{"op":"add","path":"/data/c","value":"3"}]"#),
    ];
    for (kind, patch) in patches {
        cluster.kubectl(&["patch", "configmap", "c", "--type", kind, "-p", patch]).await.success();
    }
    let data = cluster.kubectl(&["get", "configmap", "c", "-o", "jsonpath={.data}"]).await.success();
    assert_eq!(data, r#"{"b":"2","c":"3"}"#);
    cluster.kubectl(&["label", "configmap", "c", "tier=gold"]).await.success();
    cluster.kubectl(&["annotate", "configmap", "c", "note=kept"]).await.success();
    let found = cluster.kubectl(&["get", "configmaps", "-l", "tier=gold", "-o", "name"]).await.success();
    assert_eq!(found, "configmap/c\n");
    let dry = cluster.kubectl(&["delete", "configmap", "c", "--dry-run=server"]).await.success();
    assert!(dry.contains("server dry run"), "{dry}");
    cluster.kubectl(&["delete", "configmap", "c"]).await.success();
}

#[tokio::test]
async fn a_namespace_takes_all_that_is_in_it() {
    let cluster = Cluster::with_images(&["hello-http"]).await;
    cluster.kubectl(&["create", "namespace", "team"]).await.success();
    cluster
        .kubectl(&["-n", "team", "create", "deployment", "web", "--image=hello-http:v1", "--replicas=2"])
        .await
        .success();
    cluster.kubectl(&["-n", "team", "rollout", "status", "deploy/web", "--timeout=60s"]).await.success();
    cluster.kubectl(&["delete", "namespace", "team", "--timeout=60s"]).await.success();
    let left = cluster.kubectl(&["get", "pods,deployments,replicasets", "-n", "team", "-o", "name"]).await;
    assert_eq!(left.stdout, "");
    let late = cluster.kubectl(&["-n", "team", "create", "configmap", "late"]).await.failure();
    assert!(late.contains("namespaces \"team\" not found"), "{late}");
}

#[tokio::test]
async fn strangers_are_refused() {
    let cluster = Cluster::with_images(&[]).await;
    let mut config = kube::Config::new(cluster.url.parse().expect("a URL"));
    config.accept_invalid_certs = true;
    let stranger = kube::Client::try_from(config).expect("a client");
    for path in ["/api/v1/namespaces/default/pods", "/apis/apps/v1/deployments", "/metrics", "/openapi/v2", "/api"] {
        let request = http::Request::get(path).body(Vec::new()).expect("a request");
        let error = stranger.request_text(request).await.expect_err(path);
        assert!(matches!(&error, kube::Error::Api(status) if status.code == 403), "{path}: {error:?}");
    }
    let (status, said) =
        plain_http::get(cluster.url.trim_start_matches("https://"), "/api/v1/pods").await.expect("an answer");
    assert_eq!((status, said.trim()), (400, "Client sent an HTTP request to an HTTPS server."));
}
