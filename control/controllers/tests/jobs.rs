//! Jobs and the pods that others take from them, or give them.

mod support;

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use support::{Cluster, create, template};
use wharf_types::k8s::api::batch::v1::Job;
use wharf_types::k8s::api::core::v1::Pod;

const FINALIZER: &str = "batch.kubernetes.io/job-tracking";

fn is_owned(pod: &Pod) -> bool {
    pod.metadata.owner_references.iter().flatten().any(|owner| owner.controller == Some(true) && owner.kind == "Job")
}

fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

fn job(parallelism: i32) -> Value {
    let mut pods = template("sum", "v1");
    pods["spec"]["restartPolicy"] = json!("Never");
    json!({"metadata": {"name": "sum"}, "spec": {"completions": 4, "parallelism": parallelism, "template": pods}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_takes_an_orphan_back_and_releases_a_pod_whose_labels_change() {
    let cluster = Cluster::start().await;
    create::<Job>(&cluster.api(), job(2)).await;
    let both = cluster.wait::<Pod>("two pods", |pods| pods.len() == 2 && pods.iter().all(|pod| is_owned(pod))).await;
    let names: Vec<String> = both.iter().filter_map(|pod| pod.metadata.name.clone()).collect();

    let pods = cluster.api::<Pod>();
    let orphaned = Patch::Merge(json!({"metadata": {"ownerReferences": null, "finalizers": null}}));
    pods.patch(&names[0], &PatchParams::default(), &orphaned).await.expect("orphaned");
    cluster.wait_one::<Pod>(&names[0], "adopted", |pod| is_owned(pod) && is_tracked(pod)).await;

    let relabelled = Patch::Merge(json!({"metadata": {"labels": null}}));
    pods.patch(&names[1], &PatchParams::default(), &relabelled).await.expect("relabelled");
    cluster.wait_one::<Pod>(&names[1], "released", |pod| !is_owned(pod) && !is_tracked(pod)).await;
    cluster
        .wait::<Pod>("a replacement", |pods| pods.iter().filter(|pod| is_owned(pod)).count() == 2 && pods.len() == 3)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orphan_that_no_job_would_have_is_not_held() {
    let cluster = Cluster::start().await;
    create::<Job>(&cluster.api(), job(1)).await;
    let pod = cluster.wait::<Pod>("a pod", |pods| pods.len() == 1).await.remove(0);
    let taken = Patch::Merge(json!({"metadata": {
        "ownerReferences": null, "labels": {"batch.kubernetes.io/controller-uid": "another"}}}));
    let name = pod.metadata.name.clone().unwrap_or_default();
    cluster.api::<Pod>().patch(&name, &PatchParams::default(), &taken).await.expect("taken");
    cluster.wait_one::<Pod>(&name, "not held", |pod| !is_tracked(pod) && !is_owned(pod)).await;
}
