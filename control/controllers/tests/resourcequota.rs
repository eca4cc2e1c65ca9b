//! What admission leaves to controllers, against the real API server: quotas that follow what is there, claims in use.

mod support;

use kube::api::DeleteParams;
use serde_json::{Value, json};
use support::{Cluster, create, template};
use wharf_types::k8s::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, ResourceQuota};

async fn wait_used(cluster: &Cluster, what: &'static str, expected: Value) {
    let used = move |quota: &ResourceQuota| {
        let used = quota.status.as_ref().and_then(|status| status.used.as_ref());
        serde_json::to_value(used).expect("json") == expected
    };
    cluster.wait_one::<ResourceQuota>("q", what, used).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_follow_what_is_there() {
    let cluster = Cluster::without_node().await;
    let (pods, maps) = (cluster.api::<Pod>(), cluster.api::<ConfigMap>());
    let mut pod = template("web", "v1");
    pod["metadata"]["name"] = json!("web");
    pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "250m"}});
    create(&pods, pod).await;
    create(&maps, json!({"metadata": {"name": "m"}})).await;
    let hard = json!({"pods": "3", "requests.cpu": "1", "count/configmaps": "9", "services": "1"});
    create(&cluster.api::<ResourceQuota>(), json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).await;
    let full = json!({"pods": "1", "requests.cpu": "250m", "count/configmaps": "2", "services": "0"});
    wait_used(&cluster, "what was there first", full).await;
    pods.delete("web", &DeleteParams::default().grace_period(0)).await.expect("deleted");
    maps.delete("m", &DeleteParams::default()).await.expect("deleted");
    let less = json!({"pods": "0", "requests.cpu": "0", "count/configmaps": "1", "services": "0"});
    wait_used(&cluster, "what is left", less).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_outlives_the_pod_that_uses_it() {
    let cluster = Cluster::without_node().await;
    let (pods, claims) = (cluster.api::<Pod>(), cluster.api::<PersistentVolumeClaim>());
    let size = json!({"requests": {"storage": "1Gi"}});
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": size});
    create(&claims, json!({"metadata": {"name": "c"}, "spec": spec})).await;
    let held = |claim: &PersistentVolumeClaim| claim.metadata.finalizers.as_ref().is_some_and(|all| !all.is_empty());
    cluster.wait_one::<PersistentVolumeClaim>("c", "a finalizer", held).await;
    let mut pod = template("web", "v1");
    pod["metadata"]["name"] = json!("web");
    pod["spec"]["nodeName"] = json!("n1");
    pod["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]);
    create(&pods, pod).await;
    claims.delete("c", &DeleteParams::default()).await.expect("marked");
    let going = |claim: &PersistentVolumeClaim| claim.metadata.deletion_timestamp.is_some();
    cluster.wait_one::<PersistentVolumeClaim>("c", "the mark", going).await;
    assert!(claims.get_opt("c").await.expect("an answer").is_some());
    pods.delete("web", &DeleteParams::default().grace_period(0)).await.expect("deleted");
    cluster.wait::<PersistentVolumeClaim>("the claim gone", |claims| claims.is_empty()).await;
}
