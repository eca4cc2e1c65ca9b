//! What nodes and pods use, as `kubectl top` shows it.

use serde_json::Value;
use wharf_test_support::{Cluster, eventually};

/// A pod that computes, one that does not, and one of two containers in another namespace.
async fn pods() -> Cluster {
    let cluster = Cluster::with_images(&["spin", "show"]).await;
    let pods = "\
{apiVersion: v1, kind: Pod, metadata: {name: busy, labels: {app: busy}}, spec: {containers: [{name: c, image: 'spin:v1', resources: {limits: {cpu: 200m}}}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: idle, labels: {app: idle}}, spec: {containers: [{name: c, image: 'show:v1', args: [tick, '1']}]}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: other}}
---
{apiVersion: v1, kind: Pod, metadata: {name: pair, namespace: other}, spec: {containers: [{name: a, image: 'show:v1', args: [tick, '1']}, {name: b, image: 'show:v1', args: [tick, '1']}]}}";
    cluster.kubectl_with(&["apply", "-f", "-"], pods).await.success();
    cluster.kubectl(&["wait", "--for=condition=ready", "pod", "--all", "-A", "--timeout=60s"]).await.success();
    cluster
}

/// The lines of `kubectl top …`, in words; asked again until there are metrics.
async fn top(cluster: &Cluster, arguments: &[&str]) -> Vec<Vec<String>> {
    let arguments = [&["top"], arguments, &["--no-headers"]].concat();
    eventually("there are metrics", || async {
        let ran = cluster.kubectl(&arguments).await;
        match ran.ok && !ran.stdout.trim().is_empty() {
            true => Ok(ran.stdout.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()),
            false => Err(ran),
        }
    })
    .await
}

#[tokio::test]
async fn kubectl_tops_nodes_and_pods() {
    let cluster = pods().await;
    let nodes = top(&cluster, &["nodes"]).await;
    assert_eq!(nodes[0][0], "node-1");
    assert!(nodes[0][2].ends_with('%') && nodes[0][3].ends_with("Mi"), "{nodes:?}");

    let names = |rows: &[Vec<String>]| rows.iter().map(|row| row[0].clone()).collect::<Vec<_>>().join(" ");
    let pods = top(&cluster, &["pods", "--sort-by=cpu"]).await;
    assert_eq!(names(&pods), "busy idle");
    let millis: u64 = pods[0][1].trim_end_matches('m').parse().expect("thousandths of a core");
    assert!((50..400).contains(&millis), "a fifth of a core is what it may use: {pods:?}");
    assert_eq!(names(&top(&cluster, &["pods", "-l", "app=idle"]).await), "idle");
    assert_eq!(names(&top(&cluster, &["pod", "busy"]).await), "busy");
    let everywhere = top(&cluster, &["pods", "-A", "--sort-by=memory"]).await;
    assert!(everywhere.iter().any(|row| row[..2] == ["other", "pair"]), "{everywhere:?}");
    let containers = top(&cluster, &["pods", "-n", "other", "--containers"]).await;
    let mut containers: Vec<&String> = containers.iter().map(|row| &row[1]).collect();
    containers.sort();
    assert_eq!(containers, ["a", "b"]);
    let missing = cluster.kubectl(&["top", "pod", "nothing"]).await.failure();
    assert!(missing.contains("pods \"nothing\" not found"), "{missing}");
}

#[tokio::test]
async fn metrics_are_an_api_like_others() {
    let cluster = pods().await;
    const PODS: &str = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods";
    let service = cluster.kubectl(&["get", "apiservice", "v1beta1.metrics.k8s.io"]).await.success();
    assert!(service.contains("Local") && service.contains("True"), "{service}");
    top(&cluster, &["pods"]).await;
    let list = cluster.kubectl(&["get", "--raw", PODS]).await.success();
    let list: Value = serde_json::from_str(&list).expect("JSON");
    assert_eq!(list["kind"], "PodMetricsList");
    assert_eq!(list["items"][0]["metadata"]["labels"]["app"], "busy");
    assert!(list["items"][0]["window"].as_str().is_some_and(|window| window.ends_with('s')), "{list}");
    let table = cluster.kubectl(&["get", "pods.metrics.k8s.io"]).await.success();
    assert!(table.starts_with("NAME") && table.contains("WINDOW") && table.contains("busy"), "{table}");
    let explained = cluster.kubectl(&["explain", "nodes", "--api-version=metrics.k8s.io/v1beta1"]).await.success();
    assert!(explained.contains("KIND:       NodeMetrics") && explained.contains("usage"), "{explained}");
    let watched = cluster.kubectl(&["get", "--raw", &format!("{PODS}?watch=true")]).await.failure();
    assert!(
        watched.contains("the server does not allow this method") || watched.contains("not supported"),
        "{watched}"
    );
    // Whoever may view a namespace may see what its pods use, and no more.
    cluster.kubectl(&["create", "serviceaccount", "viewer"]).await.success();
    cluster
        .kubectl(&["create", "rolebinding", "v", "--clusterrole=view", "--serviceaccount=default:viewer"])
        .await
        .success();
    let may = async |words: &[&str]| {
        let who = ["--as=system:serviceaccount:default:viewer"];
        let arguments = [&["auth", "can-i"], words, &who].concat();
        cluster.kubectl(&arguments).await.stdout.trim() == "yes"
    };
    eventually("the roles are summed", || async {
        if may(&["list", "pods.metrics.k8s.io"]).await { Ok(()) } else { Err("not yet") }
    })
    .await;
    assert!(!may(&["delete", "pods.metrics.k8s.io"]).await);
    assert!(!may(&["list", "nodes.metrics.k8s.io", "--all-namespaces"]).await);
    let kubelet = cluster.kubectl(&["get", "--raw", "/api/v1/nodes/node-1/proxy/metrics/resource"]).await.success();
    for line in [
        "container_cpu_usage_seconds_total{container=\"c\",namespace=\"default\",pod=\"busy\"}",
        "node_memory_working_set_bytes ",
    ] {
        assert!(kubelet.contains(line), "{line} is missing in {kubelet}");
    }
}

#[tokio::test]
async fn an_autoscaled_deployment_grows_with_its_load() {
    let cluster = Cluster::with_images(&["spin"]).await;
    let deployment = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {selector: {matchLabels: {app: web}}, template: \
                      {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: 'spin:v1', resources: {requests: {cpu: 50m}, \
                      limits: {cpu: 200m}}}]}}}}";
    cluster.kubectl_with(&["apply", "-f", "-"], deployment).await.success();
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]).await.success();
    top(&cluster, &["pods", "-l", "app=web"]).await;
    cluster.kubectl(&["autoscale", "deployment", "web", "--cpu-percent=50", "--min=1", "--max=3"]).await.success();
    let show = async |path: &str, of: &str| {
        cluster.kubectl(&["get", of, "web", "-o", &format!("jsonpath={{{path}}}")]).await.success()
    };
    eventually("the deployment has grown", || async {
        match show(".spec.replicas", "deployment").await.as_str() {
            "3" => Ok(()),
            _ => Err(show(".status", "hpa").await),
        }
    })
    .await;
    let conditions = show(".status.conditions[*].type", "hpa").await;
    assert_eq!(conditions, "AbleToScale ScalingActive ScalingLimited");
    let used: u32 =
        show(".status.currentMetrics[0].resource.current.averageUtilization", "hpa").await.parse().expect("percent");
    assert!(used > 100, "it uses more than it asks for: {used}");
    let described = cluster.kubectl(&["describe", "hpa", "web"]).await.success();
    assert!(described.contains("SuccessfulRescale") && described.contains("New size: 3"), "{described}");
}
