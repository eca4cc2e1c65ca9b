//! Images, environment, volumes, probes and gates: what a pod needs before it is ready.

mod common;

use common::{Bench, condition, container, images};
use serde_json::json;
use std::path::PathBuf;
use wharf_cri::fake::Behaviour;

#[tokio::test]
async fn an_image_that_cannot_be_pulled_backs_off() {
    let missing = Behaviour { pull_error: Some("no such image".into()), ..Behaviour::default() };
    let bench = Bench::new(images().image("reg/no", missing)).await;
    bench.pod("web", json!({"containers": [{"name": "c", "image": "reg/no"}]}));
    let waits = |pod: &serde_json::Value, reason: &str| container(pod)["state"]["waiting"]["reason"] == reason;
    let pod = bench.wait("web", "ImagePullBackOff", |pod| waits(pod, "ImagePullBackOff")).await;
    assert!(bench.api.ever("pods", "web", |pod| waits(pod, "ErrImagePull")), "the error is shown before the back-off");
    let message = container(&pod)["state"]["waiting"]["message"].as_str().unwrap().to_owned();
    assert!(
        message.starts_with("Back-off pulling image \"reg/no\": ErrImagePull: ") && message.contains("no such image"),
        "{message}"
    );
    assert_eq!(pod["status"]["phase"], "Pending");
    assert!(bench.event("web", "Failed").await.starts_with("Failed to pull image \"reg/no\": "));
    assert_eq!(bench.event("web", "BackOff").await, "Back-off pulling image \"reg/no\"");
    bench.delete("web").await;
    bench.gone("web").await;
}

#[tokio::test]
async fn pull_policies_are_kept() {
    let bench = Bench::new(images()).await;
    bench.pod("never", json!({"containers": [{"name": "c", "image": "reg/x:v1", "imagePullPolicy": "Never"}]}));
    let pod =
        bench.wait("never", "waiting", |pod| container(pod)["state"]["waiting"]["reason"] == "ErrImageNeverPull").await;
    let message = "Container image \"reg/x:v1\" is not present with pull policy of Never";
    assert_eq!(container(&pod)["state"]["waiting"]["message"], message);
    bench.pod("first", json!({"containers": [{"name": "c", "image": "reg/x:v1", "imagePullPolicy": "IfNotPresent"}]}));
    bench.ready("first").await;
    // It is there now, so the pod that may not pull goes on.
    bench.ready("never").await;
    assert!(bench.event("never", "Pulled").await.contains("already present on machine"));
}

#[tokio::test]
async fn create_and_start_errors_are_shown() {
    let create = Behaviour { create_error: Some("bad import".into()), ..Behaviour::default() };
    let start = Behaviour { start_error: Some("port 80 is taken".into()), ..Behaviour::default() };
    let bench = Bench::new(images().image("create", create).image("start", start)).await;
    bench.pod("a", json!({"containers": [{"name": "c", "image": "create"}]}));
    let pod =
        bench.wait("a", "waiting", |pod| container(pod)["state"]["waiting"]["reason"] == "CreateContainerError").await;
    assert_eq!(container(&pod)["state"]["waiting"]["message"], "bad import");
    bench.pod("b", json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "start"}]}));
    let pod = bench.phase("b", "Failed").await;
    let ended = &container(&pod)["state"]["terminated"];
    assert_eq!(
        (&ended["exitCode"], &ended["reason"], &ended["message"]),
        (&json!(128), &json!("StartError"), &json!("port 80 is taken"))
    );
}

#[tokio::test]
async fn a_missing_config_map_holds_the_container_until_it_comes() {
    let bench = Bench::new(images()).await;
    let env = json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "k"}}}]);
    bench.pod("web", json!({"containers": [{"name": "c", "image": "run", "env": env}]}));
    let pod = bench
        .wait("web", "waiting", |pod| container(pod)["state"]["waiting"]["reason"] == "CreateContainerConfigError")
        .await;
    assert_eq!(container(&pod)["state"]["waiting"]["message"], "configmap \"conf\" not found");
    assert_eq!(bench.event("web", "Failed").await, "Error: configmap \"conf\" not found");
    bench.api.create("configmaps", json!({"metadata": {"name": "conf", "namespace": "d"}, "data": {"k": "v"}}));
    bench.ready("web").await;
}

#[tokio::test]
async fn volumes_wait_for_their_objects_and_follow_them() {
    let bench = Bench::new(images()).await;
    let volumes = json!([{"name": "v", "projected": {"sources": [
        {"configMap": {"name": "conf"}}, {"secret": {"name": "hush"}},
        {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}}]);
    bench.pod("web", json!({"volumes": volumes, "containers": [{"name": "c", "image": "run"}]}));
    assert_eq!(
        bench.event("web", "FailedMount").await,
        "MountVolume.SetUp failed for volume \"v\" : configmap \"conf\" not found"
    );
    bench.api.create("configmaps", json!({"metadata": {"name": "conf", "namespace": "d"}, "data": {"k": "one"}}));
    bench.api.create("secrets", json!({"metadata": {"name": "hush", "namespace": "d"}, "data": {"s": "aHVzaA=="}}));
    let pod = bench.ready("web").await;
    let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
    let dir: PathBuf = bench.dir.path().join("pods").join(uid).join("volumes/kubernetes.io~projected/v");
    let holds = async |file: &str, text: &str| {
        let path = dir.join(file);
        common::until(&format!("{file} holds {text}"), async || {
            std::fs::read_to_string(&path).ok().filter(|held| held == text)
        })
        .await
    };
    holds("k", "one").await;
    holds("s", "hush").await;
    holds("labels", "").await;
    bench.api.change("configmaps", "d", "conf", |map| map["data"]["k"] = json!("two"));
    holds("k", "two").await;
    bench.api.change("pods", "d", "web", |pod| pod["metadata"]["labels"] = json!({"app": "web"}));
    holds("labels", "app=\"web\"").await;
}

#[tokio::test]
async fn a_token_is_projected_and_exchanged_before_it_ends() {
    let mut bench = Bench::new(images()).await;
    bench.stop().await;
    let clock = bench.api.clock();
    bench.start(|options| options.clock = std::sync::Arc::new(clock)).await;
    let volumes = json!([{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}]}}]);
    let spec = json!({"serviceAccountName": "bot", "volumes": volumes, "containers": [{"name": "c", "image": "run"}]});
    bench.pod("web", spec);
    let pod = bench.ready("web").await;
    let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
    let file = bench.dir.path().join("pods").join(uid).join("volumes/kubernetes.io~projected/v/token");
    let read = || std::fs::read_to_string(&file).unwrap();
    assert_eq!(read(), "bot-1");
    // Nothing changes with the pod as long as the token is good.
    let label =
        |value: &str| bench.api.change("pods", "d", "web", |pod| pod["metadata"]["labels"] = json!({"a": value}));
    bench.api.advance(2000);
    label("one");
    bench.api.advance(1000);
    label("two");
    common::until("the token is exchanged", async || (read() == "bot-2").then_some(())).await;
}

#[tokio::test]
async fn an_unsupported_volume_is_named() {
    let bench = Bench::new(images()).await;
    let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "x"}}]);
    bench.pod("web", json!({"volumes": volumes, "containers": [{"name": "c", "image": "run"}]}));
    let message =
        "MountVolume.SetUp failed for volume \"v\" : persistentVolumeClaim volumes are not supported by this node";
    assert_eq!(bench.event("web", "FailedMount").await, message);
}

#[tokio::test]
async fn readiness_gates_hold_readiness_back() {
    let bench = Bench::new(images()).await;
    bench.pod(
        "web",
        json!({"readinessGates": [{"conditionType": "x/y"}], "containers": [{"name": "c", "image": "run"}]}),
    );
    let pod = bench.wait("web", "containers ready", |pod| condition(pod, "ContainersReady") == "True").await;
    assert_eq!(condition(&pod, "Ready"), "False");
    bench.api.change("pods", "d", "web", |pod| {
        let conditions = pod["status"]["conditions"].as_array_mut().unwrap();
        conditions.push(json!({"type": "x/y", "status": "True"}));
    });
    let pod = bench.ready("web").await;
    assert_eq!(condition(&pod, "x/y"), "True", "the gate's condition is left alone");
}

#[tokio::test]
async fn readiness_follows_the_probe() {
    let bench = Bench::new(images()).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let probe = json!({"tcpSocket": {"host": "127.0.0.1", "port": port}, "periodSeconds": 1, "failureThreshold": 1});
    bench.pod("web", json!({"containers": [{"name": "c", "image": "run", "readinessProbe": probe}]}));
    bench.ready("web").await;
    drop(listener);
    let pod = bench.wait("web", "unready", |pod| condition(pod, "Ready") == "False").await;
    assert_eq!(pod["status"]["phase"], "Running");
    assert!(bench.event("web", "Unhealthy").await.starts_with("Readiness probe failed: dial tcp 127.0.0.1:"));
}

#[tokio::test]
async fn a_failing_liveness_probe_restarts_the_container() {
    let bench = Bench::new(images()).await;
    // Nothing listens on a port that was just given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let probe = json!({"tcpSocket": {"host": "127.0.0.1", "port": port}, "periodSeconds": 1, "failureThreshold": 1});
    bench.pod("web", json!({"containers": [{"name": "c", "image": "run", "livenessProbe": probe}]}));
    bench.wait("web", "restarted", |pod| container(pod)["restartCount"].as_u64() >= Some(1)).await;
    assert_eq!(bench.event("web", "Killing").await, "Container c failed liveness probe, will be restarted");
}
