//! A chart's manifests, as Helm sends them: its own kinds first, then everything, then again, then away with it.

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
