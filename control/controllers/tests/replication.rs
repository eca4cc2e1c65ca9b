//! ReplicationControllers against the real API server.

mod support;

use kube::api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use support::{Cluster, create, template};
use wharf_types::k8s::api::autoscaling::v2::HorizontalPodAutoscaler;
use wharf_types::k8s::api::core::v1::{Pod, ReplicationController};
use wharf_types::k8s::api::policy::v1::PodDisruptionBudget;

fn controller(name: &str, replicas: i32) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"made": "here"}},
        "spec": {"replicas": replicas, "selector": {"app": name}, "template": template(name, "v1")},
    })
}

/// How many pods the status tells of, and how many are ready.
fn counts(controller: &ReplicationController) -> (i32, i32) {
    let status = controller.status.clone().unwrap_or_default();
    (status.replicas, status.ready_replicas.unwrap_or(0))
}

fn is_owned(pod: &Pod) -> bool {
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    owners.iter().any(|owner| {
        owner.controller == Some(true) && owner.kind == "ReplicationController" && owner.api_version == "v1"
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replication_controller_keeps_its_pods_and_its_status() {
    let cluster = Cluster::start().await;
    let api = cluster.api::<ReplicationController>();
    create(&api, controller("web", 1)).await;
    let settled = cluster.wait_one::<ReplicationController>("web", "one ready", |rc| counts(rc) == (1, 1)).await;
    let status = settled.status.clone().unwrap_or_default();
    assert_eq!((status.available_replicas, status.fully_labeled_replicas), (Some(1), Some(1)));
    assert_eq!(status.observed_generation, settled.metadata.generation);

    let patch = Patch::Strategic(json!({"status": {"readyReplicas": 0, "availableReplicas": 0}}));
    let patched = api.patch_status("web", &PatchParams::default(), &patch).await.expect("status");
    assert_eq!(counts(&patched).1, 0);
    cluster.wait_one::<ReplicationController>("web", "put right", |rc| counts(rc) == (1, 1)).await;

    let scale = Patch::Strategic(json!({"spec": {"replicas": 3}}));
    let scaled = api.patch_scale("web", &PatchParams::default(), &scale).await.expect("scaled");
    assert_eq!(scaled.spec.and_then(|spec| spec.replicas), Some(3));
    cluster.wait_one::<ReplicationController>("web", "three ready", |rc| counts(rc) == (3, 3)).await;
    let shown = api.get_scale("web").await.expect("a scale").status.unwrap_or_default();
    assert_eq!((shown.replicas, shown.selector.as_deref()), (3, Some("app=web")));

    let fewer = Patch::Merge(json!({"spec": {"replicas": 1}}));
    api.patch("web", &PatchParams::default(), &fewer).await.expect("scaled");
    cluster.wait_one::<ReplicationController>("web", "one left", |rc| counts(rc) == (1, 1)).await;
    cluster.wait::<Pod>("one pod", |pods| pods.len() == 1).await;

    let made_here = ListParams::default().labels("made=here");
    api.delete_collection(&DeleteParams::background(), &made_here).await.expect("deleted");
    cluster.wait::<Pod>("no pods", |pods| pods.is_empty()).await;

    let accounts: Vec<String> = cluster
        .written()
        .into_iter()
        .filter(|(_, _, resource)| resource == "replicationcontrollers/status")
        .map(|(user, verb, _)| format!("{user} {verb}"))
        .collect();
    assert_eq!(accounts, ["system:serviceaccount:kube-system:replication-controller update"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replication_controller_adopts_orphans_releases_strangers_and_leaves_its_pods_behind() {
    let cluster = Cluster::start().await;
    let pods = cluster.api::<Pod>();
    let mut orphan = template("web", "v1");
    orphan["metadata"]["name"] = json!("orphan");
    create(&pods, orphan).await;
    let api = cluster.api::<ReplicationController>();
    create(&api, controller("web", 1)).await;
    cluster.wait_one::<Pod>("orphan", "adopted", is_owned).await;
    cluster.wait_one::<ReplicationController>("web", "one ready", |rc| counts(rc) == (1, 1)).await;
    assert_eq!(cluster.wait::<Pod>("the pod", |_| true).await.len(), 1, "nothing is made beside what was adopted");

    let relabel = Patch::Merge(json!({"metadata": {"labels": {"app": "other"}}}));
    pods.patch("orphan", &PatchParams::default(), &relabel).await.expect("relabelled");
    cluster.wait_one::<Pod>("orphan", "released", |pod| !is_owned(pod)).await;
    cluster.wait::<Pod>("a replacement", |pods| pods.len() == 2 && pods.iter().any(|pod| is_owned(pod))).await;

    // Without a wish, this kind's pods stay.
    api.delete("web", &DeleteParams::default()).await.expect("deleted");
    cluster.wait::<ReplicationController>("no controller", |left| left.is_empty()).await;
    let left = cluster.wait::<Pod>("orphans", |pods| pods.iter().all(|pod| !is_owned(pod))).await;
    assert_eq!(left.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_counts_what_a_replication_controller_wants() {
    let cluster = Cluster::start().await;
    let api = cluster.api::<ReplicationController>();
    create(&api, controller("web", 3)).await;
    let spec = json!({"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}});
    create(&cluster.api::<PodDisruptionBudget>(), json!({"metadata": {"name": "web"}, "spec": spec})).await;
    let allows_one = |budget: &PodDisruptionBudget| {
        let status = budget.status.clone().unwrap_or_default();
        (status.expected_pods, status.desired_healthy, status.disruptions_allowed) == (Some(3), Some(2), Some(1))
    };
    cluster.wait_one::<PodDisruptionBudget>("web", "one may go", allows_one).await;
    let victim = cluster.wait::<Pod>("three pods", |pods| pods.len() == 3).await.remove(0);
    let name = victim.metadata.name.clone().unwrap_or_default();
    cluster.api::<Pod>().evict(&name, &EvictParams::default()).await.expect("evicted");
    cluster
        .wait::<Pod>("the pod replaced", move |pods| {
            pods.len() == 3 && pods.iter().all(|pod| pod.metadata.uid != victim.metadata.uid)
        })
        .await;
    cluster.wait_one::<PodDisruptionBudget>("web", "one may go again", allows_one).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_autoscaler_reads_and_writes_the_scale_of_a_replication_controller() {
    let cluster = Cluster::start().await;
    let api = cluster.api::<ReplicationController>();
    create(&api, controller("web", 1)).await;
    cluster.wait_one::<ReplicationController>("web", "one ready", |rc| counts(rc) == (1, 1)).await;
    let spec = json!({
        "scaleTargetRef": {"apiVersion": "v1", "kind": "ReplicationController", "name": "web"},
        "minReplicas": 2, "maxReplicas": 4,
    });
    create(&cluster.api::<HorizontalPodAutoscaler>(), json!({"metadata": {"name": "web"}, "spec": spec})).await;
    cluster.wait_one::<ReplicationController>("web", "the fewest allowed", |rc| counts(rc) == (2, 2)).await;
}
