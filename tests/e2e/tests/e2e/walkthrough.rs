//! What the README shows, line by line.

use std::collections::BTreeSet;

use wharf_test_support::{Cluster, eventually, http};

use crate::example;

async fn hello() -> Cluster {
    let cluster = Cluster::with_images(&["hello-http"]).await;
    cluster.kubectl(&["apply", "-f", &example("hello-http/app.yaml")]).await.success();
    cluster.kubectl(&["rollout", "status", "deploy/hello", "--timeout=60s"]).await.success();
    cluster
}

async fn cluster_ip(cluster: &Cluster, service: &str) -> String {
    cluster.kubectl(&["get", "service", service, "-o", "jsonpath={.spec.clusterIP}"]).await.success()
}

async fn pod_names(cluster: &Cluster, selector: &str) -> BTreeSet<String> {
    let names = cluster.kubectl(&["get", "pods", "-l", selector, "-o", "name"]).await.success();
    names.lines().map(str::to_owned).collect()
}

/// Asks the service until this many pods have answered.
async fn answers_from(cluster: &Cluster, pods: usize) {
    let address = format!("{}:80", cluster_ip(cluster, "hello").await);
    let seen = parking_lot::Mutex::new(BTreeSet::new());
    eventually("every pod answers", || async {
        let (status, body) = http::get(&address, "/").await.map_err(|error| format!("{error:#}"))?;
        let mut seen = seen.lock();
        if status == 200 && body.starts_with("Hello from hello-") {
            seen.insert(body);
        }
        if seen.len() >= pods { Ok(()) } else { Err(format!("{status}, {seen:?}")) }
    })
    .await;
}

#[tokio::test]
async fn nodes_are_ready() {
    let cluster = Cluster::with_images(&[]).await;
    let nodes = cluster.kubectl(&["get", "nodes"]).await.success();
    let node = nodes.lines().nth(1).expect("a node is listed");
    assert!(node.starts_with("node-1 ") && node.contains(" Ready "), "{nodes}");
    assert!(node.contains("v1.36."), "{nodes}");
}

#[tokio::test]
async fn a_deployment_rolls_out_and_answers_through_its_service_from_every_pod() {
    let cluster = hello().await;
    answers_from(&cluster, 3).await;
    let ready = cluster.kubectl(&["get", "deploy", "hello", "--no-headers"]).await.success();
    assert!(ready.contains("3/3"), "{ready}");
}

#[tokio::test]
async fn logs_can_be_read_from_all_pods_with_their_names_in_front() {
    let cluster = hello().await;
    answers_from(&cluster, 3).await;
    let logs = cluster.kubectl(&["logs", "-l", "app=hello", "--prefix"]).await.success();
    let pods: BTreeSet<&str> = logs.lines().filter_map(|line| line.split(']').next()).collect();
    assert_eq!(pods.len(), 3, "{logs}");
    assert!(logs.contains("INFO GET /"), "{logs}");
}

#[tokio::test]
async fn a_deployment_scales_up_and_down() {
    let cluster = hello().await;
    cluster.kubectl(&["scale", "deploy/hello", "--replicas=10"]).await.success();
    cluster.kubectl(&["rollout", "status", "deploy/hello", "--timeout=60s"]).await.success();
    assert_eq!(pod_names(&cluster, "app=hello").await.len(), 10);
    cluster.kubectl(&["scale", "deploy/hello", "--replicas=1"]).await.success();
    eventually("one pod is left", || async {
        let pods = pod_names(&cluster, "app=hello").await;
        if pods.len() == 1 { Ok(()) } else { Err(pods) }
    })
    .await;
}

#[tokio::test]
async fn a_deleted_pod_is_replaced() {
    let cluster = hello().await;
    let before = pod_names(&cluster, "app=hello").await;
    let victim = before.first().expect("a pod").clone();
    cluster.kubectl(&["delete", &victim]).await.success();
    eventually("three pods run again", || async {
        let now = pod_names(&cluster, "app=hello").await;
        if now.len() == 3 && !now.contains(&victim) { Ok(()) } else { Err(now) }
    })
    .await;
    cluster.kubectl(&["rollout", "status", "deploy/hello", "--timeout=60s"]).await.success();
}

#[tokio::test]
async fn a_new_template_rolls_out_and_can_be_undone() {
    let cluster = hello().await;
    let address = format!("{}:80", cluster_ip(&cluster, "hello").await);
    let says = async |greeting: &str| {
        eventually("the pods greet", || async {
            let (_, body) = http::get(&address, "/").await.map_err(|error| format!("{error:#}"))?;
            if body.starts_with(greeting) { Ok(()) } else { Err(body) }
        })
        .await;
    };
    cluster.kubectl(&["set", "env", "deploy/hello", "GREETING=Servus"]).await.success();
    cluster.kubectl(&["rollout", "status", "deploy/hello", "--timeout=60s"]).await.success();
    says("Servus from hello-").await;
    cluster.kubectl(&["rollout", "undo", "deploy/hello"]).await.success();
    cluster.kubectl(&["rollout", "status", "deploy/hello", "--timeout=60s"]).await.success();
    says("Hello from hello-").await;
    let history = cluster.kubectl(&["rollout", "history", "deploy/hello"]).await.success();
    assert!(history.contains('3') && !history.contains("\n1 "), "{history}");
}

#[tokio::test]
async fn a_job_runs_to_completion_and_its_logs_can_be_read() {
    let cluster = Cluster::with_images(&["job-primes"]).await;
    cluster.kubectl(&["apply", "-f", &example("job/job.yaml")]).await.success();
    cluster.kubectl(&["wait", "--for=condition=complete", "job/primes", "--timeout=60s"]).await.success();
    let logs = cluster.kubectl(&["logs", "job/primes"]).await.success();
    assert_eq!(logs, "counting primes below 20000\nfound 2262\n");
    let pods = cluster.kubectl(&["get", "pods", "-l", "job-name=primes", "--no-headers"]).await.success();
    assert!(pods.contains("Completed"), "{pods}");
}

#[tokio::test]
async fn deleting_what_was_applied_leaves_nothing_behind() {
    let cluster = Cluster::with_images(&["hello-http", "job-primes"]).await;
    for file in ["hello-http/app.yaml", "job/job.yaml"] {
        cluster.kubectl(&["apply", "-f", &example(file)]).await.success();
    }
    cluster.kubectl(&["rollout", "status", "deploy/hello", "--timeout=60s"]).await.success();
    cluster.kubectl(&["wait", "--for=condition=complete", "job/primes", "--timeout=60s"]).await.success();
    for file in ["hello-http/app.yaml", "job/job.yaml"] {
        cluster.kubectl(&["delete", "-f", &example(file)]).await.success();
    }
    eventually("nothing is left", || async {
        let kinds = "pods,replicasets,deployments,jobs,endpointslices,services";
        let left = cluster.kubectl(&["get", kinds, "-o", "name"]).await.success();
        let left: Vec<&str> = left.lines().filter(|name| !name.ends_with("/kubernetes")).collect();
        if left.is_empty() { Ok(()) } else { Err(left.join(" ")) }
    })
    .await;
    eventually("the node has cleaned up", || async {
        let pods = std::fs::read_dir(cluster.data().join("node/pods")).map(Iterator::count).unwrap_or(0);
        if pods == 0 { Ok(()) } else { Err(pods) }
    })
    .await;
}
