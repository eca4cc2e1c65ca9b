//! Addresses, services and names, from the host and from guests.

use wharf_test_support::{Cluster, eventually, http};

use crate::example;

/// Runs `show ARGS` in a pod to its end and returns (succeeded, log).
async fn show(cluster: &Cluster, name: &str, args: &str) -> (bool, String) {
    let pod = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{restartPolicy: Never, containers: [{{name: c, image: 'show:v1', args: {args}}}]}}}}"
    );
    cluster.kubectl_with(&["apply", "-f", "-"], &pod).await.success();
    let phase = eventually("the pod ends", || async {
        let phase = cluster.kubectl(&["get", "pod", name, "-o", "jsonpath={.status.phase}"]).await.success();
        if matches!(phase.as_str(), "Succeeded" | "Failed") { Ok(phase) } else { Err(phase) }
    })
    .await;
    (phase == "Succeeded", cluster.kubectl(&["logs", name]).await.success())
}

async fn hello() -> Cluster {
    let cluster = Cluster::with_images(&["hello-http", "show"]).await;
    cluster.kubectl(&["apply", "-f", &example("hello-http/app.yaml")]).await.success();
    cluster.kubectl(&["rollout", "status", "deploy/hello", "--timeout=60s"]).await.success();
    cluster
}

#[tokio::test]
async fn guests_resolve_services_and_reach_them_by_name() {
    let cluster = hello().await;
    let ip = cluster.kubectl(&["get", "service", "hello", "-o", "jsonpath={.spec.clusterIP}"]).await.success();
    for (pod, name) in [("short", "hello"), ("middle", "hello.default"), ("long", "hello.default.svc.cluster.local")] {
        let (ok, log) = show(&cluster, pod, &format!("[resolve, {name}]")).await;
        assert!(ok && log.trim() == ip, "{name}: {log}");
    }
    let (ok, log) = show(&cluster, "caller", "[get, 'hello:80']").await;
    assert!(ok && log.contains("Hello from hello-"), "{log}");
    let (ok, log) = show(&cluster, "lost", "[resolve, nobody.default.svc.cluster.local]").await;
    assert!(!ok, "{log}");
}

#[tokio::test]
async fn a_service_without_endpoints_refuses_and_recovers() {
    let cluster = hello().await;
    cluster.kubectl(&["scale", "deploy/hello", "--replicas=0"]).await.success();
    eventually("no endpoint is left", || async {
        let path = "jsonpath={.items[*].endpoints[*].addresses}";
        let left = cluster
            .kubectl(&["get", "endpointslices", "-l", "kubernetes.io/service-name=hello", "-o", path])
            .await
            .success();
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
    let (ok, log) = show(&cluster, "refused", "[get, 'hello:80']").await;
    assert!(!ok && log.to_lowercase().contains("refused"), "{log}");
    cluster.kubectl(&["scale", "deploy/hello", "--replicas=1"]).await.success();
    cluster.kubectl(&["rollout", "status", "deploy/hello", "--timeout=60s"]).await.success();
    let (ok, log) = show(&cluster, "answered", "[get, 'hello:80']").await;
    assert!(ok, "{log}");
}

#[tokio::test]
async fn a_pods_loopback_is_its_own() {
    let cluster = Cluster::with_images(&["counter-store", "counter-web", "show"]).await;
    cluster.kubectl(&["apply", "-f", &example("counter/pod.yaml")]).await.success();
    cluster.kubectl(&["wait", "--for=condition=ready", "pod/counter", "--timeout=60s"]).await.success();
    let (ok, log) = show(&cluster, "neighbour", "[get, '127.0.0.1:7000']").await;
    assert!(!ok && log.to_lowercase().contains("refused"), "{log}");
}

#[tokio::test]
async fn a_node_port_answers_on_the_node() {
    let cluster = hello().await;
    cluster
        .kubectl(&["expose", "deploy/hello", "--name=outside", "--type=NodePort", "--port=80", "--target-port=8080"])
        .await
        .success();
    let port =
        cluster.kubectl(&["get", "service", "outside", "-o", "jsonpath={.spec.ports[0].nodePort}"]).await.success();
    let address = format!("127.0.0.1:{port}");
    eventually("the node port answers", || async {
        match http::get(&address, "/").await {
            Ok((200, body)) if body.starts_with("Hello from") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn services_of_a_further_range_are_reached() {
    let cluster = hello().await;
    let range = "{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: more}, spec: {cidrs: [203.0.113.0/24]}}";
    cluster.kubectl_with(&["apply", "-f", "-"], range).await.success();
    cluster.kubectl(&["wait", "--for=condition=Ready", "servicecidr/more", "--timeout=60s"]).await.success();
    let service = "{apiVersion: v1, kind: Service, metadata: {name: far}, spec: {clusterIP: 203.0.113.10, selector: {app: hello}, \
                   ports: [{port: 80, targetPort: 8080}]}}";
    cluster.kubectl_with(&["apply", "-f", "-"], service).await.success();
    let held = cluster.kubectl(&["get", "ipaddresses", "203.0.113.10", "-o", "jsonpath={.spec.parentRef.name}"]).await;
    assert_eq!(held.success(), "far");
    let (ok, log) = show(&cluster, "caller", "[get, 'far:80']").await;
    assert!(ok && log.contains("Hello from hello-"), "{log}");

    // It goes when its last address has gone, and not before.
    cluster.kubectl(&["delete", "servicecidr", "more", "--wait=false"]).await.success();
    let told = "jsonpath={.status.conditions[?(@.type==\"Ready\")].reason}";
    eventually("the range is held", || async {
        let reason = cluster.kubectl(&["get", "servicecidr", "more", "-o", told]).await.success();
        if reason == "Terminating" { Ok(()) } else { Err(reason) }
    })
    .await;
    cluster.kubectl(&["delete", "service", "far"]).await.success();
    cluster.kubectl(&["wait", "--for=delete", "servicecidr/more", "--timeout=60s"]).await.success();
}
