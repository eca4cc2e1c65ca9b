//! Owners that go with their pods, without them, or never for each other.

mod support;

use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use support::{Cluster, create, template};
use wharf_types::k8s::api::core::v1::{Pod, ReplicationController};

fn controller(name: &str, replicas: i32) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "template": template(name, "v1")}})
}

async fn with_pods(cluster: &Cluster, name: &str, replicas: i32) -> ReplicationController {
    let made = create(&cluster.api::<ReplicationController>(), controller(name, replicas)).await;
    let full = move |rc: &ReplicationController| rc.status.as_ref().is_some_and(|status| status.replicas == replicas);
    cluster.wait_one::<ReplicationController>(name, "its pods", full).await;
    made
}

async fn delete(cluster: &Cluster, owner: &ReplicationController, params: DeleteParams) {
    let preconditions = Preconditions { uid: owner.metadata.uid.clone(), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..params };
    let name = owner.metadata.name.clone().unwrap_or_default();
    cluster.api::<ReplicationController>().delete(&name, &params).await.expect("deleted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_stays_until_all_its_pods_are_gone_if_that_is_asked() {
    let cluster = Cluster::start().await;
    let owner = with_pods(&cluster, "web", 10).await;
    delete(&cluster, &owner, DeleteParams::foreground()).await;
    cluster.wait::<ReplicationController>("the owner gone", |left| left.is_empty()).await;
    let left = cluster.api::<Pod>().list(&Default::default()).await.expect("a list");
    assert_eq!(left.items.len(), 0, "nothing outlives it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_with_an_owner_that_stays_stay_when_the_other_waits_for_them() {
    let cluster = Cluster::start().await;
    let goes = with_pods(&cluster, "goes", 10).await;
    let stays = with_pods(&cluster, "stays", 0).await;
    let owner = json!({
        "apiVersion": "v1", "kind": "ReplicationController", "name": "stays", "uid": stays.metadata.uid,
    });
    let pods: Api<Pod> = cluster.api();
    let all = cluster.wait::<Pod>("ten pods", |pods| pods.len() == 10).await;
    for pod in &all[..5] {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let patch = Patch::Strategic(json!({"metadata": {"ownerReferences": [owner]}}));
        let patched = pods.patch(&name, &PatchParams::default(), &patch).await.expect("patched");
        assert_eq!(patched.metadata.owner_references.map_or(0, |owners| owners.len()), 2);
    }
    delete(&cluster, &goes, DeleteParams::foreground()).await;
    cluster.wait::<ReplicationController>("the owner gone", |left| left.len() == 1).await;
    let left = pods.list(&Default::default()).await.expect("a list").items;
    assert_eq!(left.len(), 5);
    for pod in left {
        assert_eq!(pod.metadata.deletion_timestamp, None);
        assert_eq!(pod.metadata.owner_references.map_or(0, |owners| owners.len()), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_own_each_other_in_a_circle_go_together() {
    let cluster = Cluster::start().await;
    let pods: Api<Pod> = cluster.api();
    let mut made = Vec::new();
    for name in ["pod1", "pod2", "pod3"] {
        let mut pod = template("circle", "v1");
        pod["metadata"]["name"] = json!(name);
        made.push(create(&pods, pod).await);
    }
    for (at, pod) in made.iter().enumerate() {
        let owner = &made[(at + 2) % 3].metadata;
        let reference = json!({"apiVersion": "v1", "kind": "Pod", "name": owner.name, "uid": owner.uid,
            "controller": true, "blockOwnerDeletion": true});
        let patch = Patch::Strategic(json!({"metadata": {"ownerReferences": [reference]}}));
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        pods.patch(name, &PatchParams::default(), &patch).await.expect("patched");
    }
    pods.delete("pod1", &DeleteParams::foreground()).await.expect("deleted");
    cluster.wait::<Pod>("no pods", |pods| pods.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_stay_when_their_owner_is_deleted_without_them() {
    let cluster = Cluster::start().await;
    let owner = with_pods(&cluster, "web", 10).await;
    delete(&cluster, &owner, DeleteParams::orphan()).await;
    cluster.wait::<ReplicationController>("the owner gone", |left| left.is_empty()).await;
    let free = |pod: &Pod| pod.metadata.owner_references.as_ref().is_none_or(|owners| owners.is_empty());
    let left = cluster.wait::<Pod>("ten orphans", move |pods| pods.iter().all(|pod| free(pod))).await;
    assert_eq!(left.len(), 10);
}
