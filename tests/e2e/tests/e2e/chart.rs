//! A chart: its manifests as Helm sends them, and Helm itself, which `cargo xtask test` installs.

use std::process::Stdio;

use tokio::process::Command;
use wharf_test_support::Cluster;

fn file(name: &str) -> String {
    format!("{}/clients/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[tokio::test]
async fn a_chart_is_installed_upgraded_and_uninstalled() {
    let cluster = Cluster::with_images(&["hello-http", "job-primes"]).await;
    let (definitions, chart) = (file("chart-crds.yaml"), file("chart.yaml"));
    cluster.kubectl(&["apply", "-f", &definitions]).await.success();
    cluster.kubectl(&["wait", "--for=condition=established", "--timeout=60s", "-f", &definitions]).await.success();
    cluster.kubectl(&["apply", "-f", &chart]).await.success();
    cluster.kubectl(&["rollout", "status", "deploy/release-shop", "--timeout=90s"]).await.success();
    // kubectl says "configured" of objects whose lists have defaults; what counts is that nothing changes.
    let path = "jsonpath={range .items[*]}{.kind} {.metadata.generation}{\"\\n\"}{end}";
    let generations = async || cluster.kubectl(&["get", "-f", &chart, "-o", path]).await.success();
    let before = generations().await;
    cluster.kubectl(&["apply", "-f", &chart]).await.success();
    assert_eq!(generations().await, before);

    let orders = cluster.kubectl(&["get", "ord"]).await.success();
    assert!(orders.contains("ITEM") && orders.contains("kettle"), "{orders}");
    let bomb = "{apiVersion: shop.example.com/v1, kind: Order, metadata: {name: b}, spec: {item: bomb}}";
    let refused = cluster.kubectl_with(&["apply", "-f", "-"], bomb).await.failure();
    assert!(refused.contains("that is not sold here"), "{refused}");
    let upgrade = r#"{"spec":{"template":{"metadata":{"annotations":{"checksum/config":"other"}}}}}"#;
    cluster.kubectl(&["patch", "deploy", "release-shop", "-p", upgrade]).await.success();
    cluster.kubectl(&["rollout", "status", "deploy/release-shop", "--timeout=90s"]).await.success();

    cluster.kubectl(&["delete", "-f", &chart, "--timeout=90s"]).await.success();
    cluster.kubectl(&["delete", "-f", &definitions, "--timeout=90s"]).await.success();
    let left =
        cluster.kubectl(&["get", "all,cm,secret,ing,pdb,netpol,role", "-l", "helm.sh/chart", "-o", "name"]).await;
    assert_eq!(left.stdout, "");
    cluster.kubectl(&["get", "ord"]).await.failure();
}

/// Runs Helm, which must succeed and say these words.
async fn helm(cluster: &Cluster, arguments: &str, expected: &str) {
    let helm = std::env::var_os("WHARF_HELM").expect("WHARF_HELM names Helm's program");
    let mut command = Command::new(helm);
    command.args(arguments.split_whitespace()).env("KUBECONFIG", cluster.kubeconfig()).env("HOME", cluster.home());
    let ran = command.stdin(Stdio::null()).kill_on_drop(true).output().await.expect("Helm starts");
    let (said, complained) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success() && said.contains(expected), "helm {arguments}: {}\n{said}{complained}", ran.status);
}

#[tokio::test]
async fn helm_installs_upgrades_rolls_back_and_uninstalls() {
    let cluster = Cluster::with_images(&["hello-http", "show"]).await;
    let chart = file("shop");
    let read = async |path: &str| cluster.kubectl(&["get", "deploy,cm,orders", "-o", path]).await.success();
    let replicas = "jsonpath={.items[?(@.kind==\"Deployment\")].status.availableReplicas}";
    let greeting = "jsonpath={.items[*].data.greeting}";
    helm(&cluster, &format!("install web {chart} --wait --timeout 90s"), "STATUS: deployed").await;
    assert_eq!((read(replicas).await, read(greeting).await), ("1".to_owned(), "hello".to_owned()));
    let upgrade = format!("upgrade web {chart} --set replicas=2,greeting=again --wait --timeout 90s");
    helm(&cluster, &upgrade, "has been upgraded").await;
    assert_eq!((read(replicas).await, read(greeting).await), ("2".to_owned(), "again".to_owned()));
    helm(&cluster, "test web --timeout 90s", "Succeeded").await;
    helm(&cluster, "rollback web 1 --wait --timeout 90s", "Rollback was a success").await;
    assert_eq!(read(greeting).await, "hello");
    helm(&cluster, "history web", "Rollback to 1").await;
    helm(&cluster, "uninstall web --timeout 90s", "release \"web\" uninstalled").await;
    let left = cluster.kubectl(&["get", "deploy,svc,orders,secrets", "-o", "name"]).await.success();
    assert_eq!(left, "service/kubernetes\n");
}
