//! StatefulSets, DaemonSets and the ControllerRevisions that they share, against the real API server.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use support::{Cluster, create, end, template};
use wharf_types::k8s::api::apps::v1::{ControllerRevision, DaemonSet, StatefulSet};
use wharf_types::k8s::api::core::v1::{Event, Node, PersistentVolumeClaim, Pod};
use wharf_types::k8s::api::policy::v1::PodDisruptionBudget;

const REVISION: &str = "controller-revision-hash";
/// After which a test gives another cause to look.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

fn stateful_set(replicas: i32, extra: Value) -> Value {
    let mut spec = json!({
        "replicas": replicas,
        "serviceName": "db",
        "selector": {"matchLabels": {"app": "db"}},
        "template": template("db", "v1"),
    });
    spec.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
    json!({"metadata": {"name": "db"}, "spec": spec})
}

fn with_claims() -> Value {
    let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    json!([{"metadata": {"name": "data", "annotations": {"note": "kept"}}, "spec": claim}])
}

fn daemon_set(extra: Value) -> Value {
    let mut spec = json!({"selector": {"matchLabels": {"app": "agent"}}, "template": template("agent", "v1")});
    spec.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
    json!({"metadata": {"name": "agent"}, "spec": spec})
}

fn image(image: &str) -> Patch<Value> {
    Patch::Strategic(json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": image}]}}}}))
}

/// All pods are ready and of one revision, and the status says so.
fn is_settled(set: &StatefulSet, replicas: i32) -> bool {
    let status = set.status.clone().unwrap_or_default();
    let counts = [status.ready_replicas, status.updated_replicas, status.current_replicas, status.available_replicas];
    status.observed_generation == set.metadata.generation
        && status.replicas == replicas
        && counts.iter().all(|count| count.unwrap_or(0) == replicas)
        && status.current_revision == status.update_revision
}

fn is_rolled_out(set: &DaemonSet, nodes: i32) -> bool {
    let status = set.status.clone().unwrap_or_default();
    status.observed_generation == set.metadata.generation
        && [status.desired_number_scheduled, status.number_ready].iter().all(|count| *count == nodes)
        && [status.updated_number_scheduled, status.number_available].iter().all(|count| count.unwrap_or(0) == nodes)
}

fn name<K: kube::Resource>(object: &K) -> String {
    object.meta().name.clone().unwrap_or_default()
}

fn names<K: kube::Resource>(objects: &[Arc<K>]) -> Vec<String> {
    objects.iter().map(|object| name(&**object)).collect()
}

fn label<'a>(pod: &'a Pod, key: &str) -> &'a str {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map_or("", String::as_str)
}

fn image_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.containers[0].image.as_deref()).unwrap_or_default()
}

async fn say_ready(api: &Api<Pod>, name: &str, ready: bool) {
    let condition = json!({"type": "Ready", "status": if ready { "True" } else { "False" },
        "lastTransitionTime": jiff::Timestamp::now().to_string()});
    let status = Patch::Merge(json!({"status": {"phase": "Running", "conditions": [condition]}}));
    api.patch_status(name, &PatchParams::default(), &status).await.expect("pod status");
}

async fn revisions(cluster: &Cluster) -> Vec<ControllerRevision> {
    let listed = cluster.api::<ControllerRevision>().list(&ListParams::default()).await.expect("listed");
    let mut items = listed.items;
    items.sort_by_key(|revision| revision.revision);
    items
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_stateful_set_come_in_order_with_claims_and_names() {
    let cluster = Cluster::without_node().await;
    cluster.run_node(false);
    let (sets, pods) = (cluster.api::<StatefulSet>(), cluster.api::<Pod>());
    create(&sets, stateful_set(3, json!({"volumeClaimTemplates": with_claims()}))).await;
    for ordinal in 0..3 {
        let there = cluster.wait::<Pod>("the next pod", move |pods| pods.len() == ordinal + 1).await;
        assert_eq!(names(&there).last(), Some(&format!("db-{ordinal}")));
        let claims = cluster.api::<PersistentVolumeClaim>().list(&ListParams::default()).await.expect("listed").items;
        assert_eq!(claims.len(), ordinal + 1, "a claim comes before its pod, and none before its turn");
        say_ready(&pods, &format!("db-{ordinal}"), true).await;
    }
    cluster.wait_one::<StatefulSet>("db", "three ready", |set| is_settled(set, 3)).await;

    let pod = pods.get("db-1").await.expect("there");
    let spec = pod.spec.as_ref().expect("has one");
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("db-1"), Some("db")));
    assert_eq!(label(&pod, "statefulset.kubernetes.io/pod-name"), "db-1");
    assert_eq!(label(&pod, "apps.kubernetes.io/pod-index"), "1");
    assert!(label(&pod, REVISION).starts_with("db-"));
    let claim = cluster.api::<PersistentVolumeClaim>().get("data-db-1").await.expect("there");
    assert_eq!(claim.metadata.labels.map(|labels| labels["app"].clone()).as_deref(), Some("db"));
    assert_eq!(claim.metadata.annotations.map(|all| all["note"].clone()).as_deref(), Some("kept"));
    assert_eq!(claim.metadata.owner_references, None);

    // A pod that is not ready holds up what comes after it.
    say_ready(&pods, "db-1", false).await;
    let two_ready = |set: &StatefulSet| set.status.as_ref().and_then(|status| status.ready_replicas) == Some(2);
    cluster.wait_one::<StatefulSet>("db", "two ready", two_ready).await;
    let scale = Patch::Merge(json!({"spec": {"replicas": 4}}));
    sets.patch("db", &PatchParams::default(), &scale).await.expect("scaled");
    cluster
        .wait_one::<StatefulSet>("db", "scaled and halted", |set| {
            let status = set.status.clone().unwrap_or_default();
            status.observed_generation == set.metadata.generation && status.ready_replicas == Some(2)
        })
        .await;
    assert!(pods.get_opt("db-3").await.expect("an answer").is_none());
    say_ready(&pods, "db-1", true).await;
    cluster.wait::<Pod>("the fourth pod", |pods| pods.len() == 4).await;

    cluster
        .wait::<Event>("events in upstream's words", |events| {
            let said = |words: &str| events.iter().any(|event| event.message.as_deref() == Some(words));
            said("create Pod db-0 in StatefulSet db successful")
                && said("create Claim data-db-0 Pod db-0 in StatefulSet db success")
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_go_with_scale_and_set_if_the_policy_says_so() {
    let cluster = Cluster::start().await;
    let sets = cluster.api::<StatefulSet>();
    let policy = json!({"whenScaled": "Delete", "whenDeleted": "Retain"});
    let extra = json!({
        "volumeClaimTemplates": with_claims(),
        "podManagementPolicy": "Parallel",
        "persistentVolumeClaimRetentionPolicy": policy,
    });
    create(&sets, stateful_set(3, extra)).await;
    cluster.wait_one::<StatefulSet>("db", "three ready", |set| is_settled(set, 3)).await;
    let scale = |replicas: i32| Patch::Merge(json!({"spec": {"replicas": replicas}}));
    sets.patch("db", &PatchParams::default(), &scale(1)).await.expect("scaled");
    let left = cluster.wait::<PersistentVolumeClaim>("one claim", |claims| claims.len() == 1).await;
    assert_eq!(names(&left), ["data-db-0"]);
    sets.patch("db", &PatchParams::default(), &scale(2)).await.expect("scaled");
    cluster.wait_one::<StatefulSet>("db", "two ready", |set| is_settled(set, 2)).await;

    let policy =
        json!({"spec": {"persistentVolumeClaimRetentionPolicy": {"whenScaled": "Retain", "whenDeleted": "Delete"}}});
    sets.patch("db", &PatchParams::default(), &Patch::Merge(policy)).await.expect("patched");
    cluster
        .wait::<PersistentVolumeClaim>("claims that the set owns", |claims| {
            let owned = |claim: &PersistentVolumeClaim| {
                claim.metadata.owner_references.iter().flatten().any(|owner| owner.kind == "StatefulSet")
            };
            claims.len() == 2 && claims.iter().all(|claim| owned(claim))
        })
        .await;
    sets.delete("db", &DeleteParams::background()).await.expect("deleted");
    cluster.wait::<Pod>("no pods", <[_]>::is_empty).await;
    cluster.wait::<PersistentVolumeClaim>("no claims", <[_]>::is_empty).await;
    cluster.wait::<ControllerRevision>("no revisions", <[_]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stateful_set_updates_in_parts_and_rolls_back() {
    let cluster = Cluster::start().await;
    let (sets, pods) = (cluster.api::<StatefulSet>(), cluster.api::<Pod>());
    create(&sets, stateful_set(3, json!({}))).await;
    let first = cluster.wait_one::<StatefulSet>("db", "three ready", |set| is_settled(set, 3)).await;
    let first = first.status.as_ref().and_then(|status| status.current_revision.clone()).unwrap_or_default();

    let partition = |at: i32| Patch::Merge(json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": at}}}}));
    sets.patch("db", &PatchParams::default(), &partition(2)).await.expect("partitioned");
    sets.patch("db", &PatchParams::default(), &image("v2")).await.expect("changed");
    let partial = cluster
        .wait_one::<StatefulSet>("db", "one updated", |set| {
            let status = set.status.clone().unwrap_or_default();
            status.observed_generation == set.metadata.generation
                && (status.updated_replicas, status.current_replicas, status.ready_replicas)
                    == (Some(1), Some(2), Some(3))
        })
        .await;
    let status = partial.status.clone().unwrap_or_default();
    assert_eq!(status.current_revision.as_ref(), Some(&first));
    assert_ne!(status.update_revision.as_ref(), Some(&first));

    // Pods below the partition come back as they were.
    let before = pods.get("db-0").await.expect("there");
    pods.delete("db-0", &DeleteParams::default()).await.expect("deleted");
    let again = cluster.wait_one::<Pod>("db-0", "made again", move |pod| pod.metadata.uid != before.metadata.uid).await;
    assert_eq!((image_of(&again), label(&again, REVISION)), ("v1", first.as_str()));

    sets.patch("db", &PatchParams::default(), &partition(0)).await.expect("released");
    cluster.wait_one::<StatefulSet>("db", "all updated", |set| is_settled(set, 3)).await;
    let all = cluster.wait::<Pod>("three pods", |pods| pods.len() == 3).await;
    assert!(all.iter().all(|pod| image_of(pod) == "v2"));

    // What `kubectl rollout undo` sends is what the revision holds.
    let held = revisions(&cluster).await;
    assert_eq!(held.iter().map(|revision| revision.revision).collect::<Vec<_>>(), [1, 2]);
    let undo = held[0].data.clone().expect("has some").0;
    sets.patch("db", &PatchParams::default(), &Patch::Strategic(undo)).await.expect("rolled back");
    let name = first.clone();
    let back = cluster
        .wait_one::<StatefulSet>("db", "rolled back", move |set| {
            let status = set.status.as_ref();
            is_settled(set, 3) && status.and_then(|status| status.current_revision.as_ref()) == Some(&name)
        })
        .await;
    assert_eq!(back.status.as_ref().and_then(|status| status.collision_count), Some(0));
    let held = revisions(&cluster).await;
    assert_eq!(held.iter().map(|revision| revision.revision).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(name_of_last(&held), first);
}

fn name_of_last(revisions: &[ControllerRevision]) -> String {
    revisions.last().map(name).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stateful_set_keeps_as_much_history_as_it_is_told_to() {
    let cluster = Cluster::start().await;
    let sets = cluster.api::<StatefulSet>();
    create(&sets, stateful_set(1, json!({"revisionHistoryLimit": 1}))).await;
    cluster.wait_one::<StatefulSet>("db", "ready", |set| is_settled(set, 1)).await;
    for version in ["v2", "v3", "v4"] {
        sets.patch("db", &PatchParams::default(), &image(version)).await.expect("changed");
        cluster.wait::<Pod>("the pod updated", move |pods| pods.iter().any(|pod| image_of(pod) == version)).await;
        cluster.wait_one::<StatefulSet>("db", "settled", |set| is_settled(set, 1)).await;
    }
    let held = cluster.wait::<ControllerRevision>("one former revision", |held| held.len() == 2).await;
    let numbers: BTreeSet<i64> = held.iter().map(|revision| revision.revision).collect();
    assert_eq!(numbers, [3, 4].into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_stateful_set_are_replaced_adopted_and_released() {
    let cluster = Cluster::start().await;
    let (sets, pods) = (cluster.api::<StatefulSet>(), cluster.api::<Pod>());
    let mut orphan = template("db", "v1");
    orphan["metadata"]["name"] = json!("db-0");
    create(&pods, orphan).await;
    let mut stranger = template("db", "v1");
    stranger["metadata"]["name"] = json!("other");
    create(&pods, stranger).await;
    create(&sets, stateful_set(2, json!({"updateStrategy": {"type": "OnDelete"}}))).await;
    let owned = |pod: &Pod| pod.metadata.owner_references.iter().flatten().any(|owner| owner.kind == "StatefulSet");
    let adopted = cluster
        .wait_one::<Pod>("db-0", "adopted and named", move |pod| {
            owned(pod) && label(pod, "statefulset.kubernetes.io/pod-name") == "db-0"
        })
        .await;
    cluster.wait::<Pod>("db-1 too", |pods| pods.len() == 3).await;
    assert!(!owned(&pods.get("other").await.expect("there")), "it is selected, but has no ordinal");

    end(&cluster.client, &adopted, "Failed").await;
    let uid = adopted.metadata.uid.clone();
    cluster.wait_one::<Pod>("db-0", "replaced", move |pod| pod.metadata.uid != uid).await;
    let one = cluster.wait_one::<Pod>("db-1", "owned", owned).await;

    let relabel = Patch::Merge(json!({"metadata": {"labels": {"app": "else"}}}));
    pods.patch("db-1", &PatchParams::default(), &relabel).await.expect("relabelled");
    cluster.wait_one::<Pod>("db-1", "released", move |pod| !owned(pod)).await;
    pods.delete("db-1", &DeleteParams::default()).await.expect("deleted");
    cluster
        .wait_one::<Pod>("db-1", "the set's own", move |pod| pod.metadata.uid != one.metadata.uid && owned(pod))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parallel_set_starts_anywhere_and_has_a_budget() {
    let cluster = Cluster::start().await;
    let sets = cluster.api::<StatefulSet>();
    let budget = json!({
        "metadata": {"name": "db"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "db"}}},
    });
    create(&cluster.api::<PodDisruptionBudget>(), budget).await;
    create(&sets, stateful_set(4, json!({"podManagementPolicy": "Parallel", "ordinals": {"start": 7}}))).await;
    cluster.wait_one::<StatefulSet>("db", "four ready", |set| is_settled(set, 4)).await;
    let pods = cluster.wait::<Pod>("four pods", |pods| pods.len() == 4).await;
    assert_eq!(names(&pods), ["db-10", "db-7", "db-8", "db-9"]);
    cluster
        .wait_one::<PodDisruptionBudget>("db", "one may go", |budget| {
            let status = budget.status.clone().unwrap_or_default();
            status.expected_pods == Some(4) && status.disruptions_allowed == Some(1)
        })
        .await;
    let scale = sets.get_scale("db").await.expect("a scale");
    assert_eq!(scale.status.as_ref().map(|status| status.replicas), Some(4));
    let scale = Patch::Merge(json!({"spec": {"replicas": 2}}));
    sets.patch_scale("db", &PatchParams::default(), &scale).await.expect("scaled");
    cluster.wait_one::<StatefulSet>("db", "two ready", |set| is_settled(set, 2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_set_follows_nodes_as_they_come_change_and_go() {
    let cluster = Cluster::start().await;
    let (sets, nodes) = (cluster.api::<DaemonSet>(), Api::<Node>::all(cluster.client.clone()));
    cluster.add_node("n2", json!({"disk": "ssd"})).await;
    create(&sets, daemon_set(json!({}))).await;
    cluster.wait_one::<DaemonSet>("agent", "on two nodes", |set| is_rolled_out(set, 2)).await;
    cluster.add_node("n3", json!({"disk": "ssd"})).await;
    cluster.wait_one::<DaemonSet>("agent", "on three nodes", |set| is_rolled_out(set, 3)).await;
    let pods = cluster.wait::<Pod>("three pods", |pods| pods.len() == 3).await;
    let on: BTreeSet<String> = pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect();
    assert_eq!(on, ["n1", "n2", "n3"].map(str::to_owned).into());

    // A taint that nobody tolerates drives its pod out; a node that is selected no more loses it.
    let taint = json!({"spec": {"taints": [{"key": "repair", "effect": "NoExecute"}]}});
    nodes.patch("n3", &PatchParams::default(), &Patch::Merge(taint)).await.expect("tainted");
    cluster.wait_one::<DaemonSet>("agent", "on two nodes", |set| is_rolled_out(set, 2)).await;
    let select = json!({"spec": {"template": {"spec": {"nodeSelector": {"disk": "ssd"}}}}});
    sets.patch("agent", &PatchParams::default(), &Patch::Merge(select)).await.expect("selected");
    cluster.wait_one::<DaemonSet>("agent", "on one node", |set| is_rolled_out(set, 1)).await;
    let left = cluster.wait::<Pod>("one pod", |pods| pods.len() == 1).await;
    assert_eq!(left[0].spec.as_ref().and_then(|spec| spec.node_name.as_deref()), Some("n2"));
    let relabel = Patch::Merge(json!({"metadata": {"labels": {"disk": "ssd"}}}));
    nodes.patch("n1", &PatchParams::default(), &relabel).await.expect("labelled");
    cluster.wait_one::<DaemonSet>("agent", "on two nodes", |set| is_rolled_out(set, 2)).await;
    nodes.delete("n2", &DeleteParams::default()).await.expect("deleted");
    cluster.wait_one::<DaemonSet>("agent", "on one node", |set| is_rolled_out(set, 1)).await;

    sets.delete("agent", &DeleteParams::background()).await.expect("deleted");
    cluster.wait::<Pod>("no pods", <[_]>::is_empty).await;
    cluster.wait::<ControllerRevision>("no revisions", <[_]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_set_updates_heals_and_rolls_back() {
    let cluster = Cluster::start().await;
    let sets = cluster.api::<DaemonSet>();
    cluster.add_node("n2", json!({})).await;
    create(&sets, daemon_set(json!({}))).await;
    cluster.wait_one::<DaemonSet>("agent", "on two nodes", |set| is_rolled_out(set, 2)).await;
    let pods = cluster.wait::<Pod>("two pods", |pods| pods.len() == 2).await;
    assert_eq!(label(&pods[0], "pod-template-generation"), "1");
    let first = label(&pods[0], REVISION).to_owned();

    end(&cluster.client, &pods[0], "Failed").await;
    let uid = pods[0].metadata.uid.clone();
    cluster
        .wait::<Pod>("the failed pod replaced", move |pods| {
            pods.len() == 2 && pods.iter().all(|pod| pod.metadata.uid != uid)
        })
        .await;

    sets.patch("agent", &PatchParams::default(), &image("v2")).await.expect("changed");
    let all_of = |version: &'static str| {
        move |pods: &[Arc<Pod>]| pods.len() == 2 && pods.iter().all(|pod| image_of(pod) == version)
    };
    cluster.wait::<Pod>("both updated", all_of("v2")).await;
    cluster.wait_one::<DaemonSet>("agent", "rolled out", |set| is_rolled_out(set, 2)).await;
    let held = revisions(&cluster).await;
    assert_eq!(held.iter().map(|revision| revision.revision).collect::<Vec<_>>(), [1, 2]);

    let undo = held[0].data.clone().expect("has some").0;
    sets.patch("agent", &PatchParams::default(), &Patch::Strategic(undo)).await.expect("rolled back");
    let back = cluster.wait::<Pod>("both rolled back", all_of("v1")).await;
    assert!(back.iter().all(|pod| label(pod, REVISION) == first && label(pod, "pod-template-generation") == "3"));
    cluster.wait_one::<DaemonSet>("agent", "rolled back", |set| is_rolled_out(set, 2)).await;
    let held = revisions(&cluster).await;
    assert_eq!(held.iter().map(|revision| revision.revision).collect::<Vec<_>>(), [2, 3]);

    // With surge, a node has the new pod before it loses the old one; with OnDelete nothing moves by itself.
    let surge = json!({"spec": {"updateStrategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}});
    sets.patch("agent", &PatchParams::default(), &Patch::Merge(surge)).await.expect("changed");
    sets.patch("agent", &PatchParams::default(), &image("v3")).await.expect("changed");
    cluster.wait::<Pod>("both updated by surge", all_of("v3")).await;
    let on_delete = json!({"spec": {"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}});
    sets.patch("agent", &PatchParams::default(), &Patch::Merge(on_delete)).await.expect("changed");
    let changed = sets.patch("agent", &PatchParams::default(), &image("v4")).await.expect("changed");
    let generation = changed.metadata.generation;
    cluster
        .wait_one::<DaemonSet>("agent", "none is up to date", move |set| {
            let status = set.status.clone().unwrap_or_default();
            status.observed_generation == generation
                && (status.number_ready, status.updated_number_scheduled) == (2, None)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_equal_revisions_of_a_daemon_set_one_stays_and_no_pod_restarts() {
    let cluster = Cluster::start().await;
    let (sets, history) = (cluster.api::<DaemonSet>(), cluster.api::<ControllerRevision>());
    create(&sets, daemon_set(json!({}))).await;
    cluster.wait_one::<DaemonSet>("agent", "rolled out", |set| is_rolled_out(set, 1)).await;
    let before = cluster.wait::<Pod>("a pod", |pods| pods.len() == 1).await.remove(0);
    let mut copy = revisions(&cluster).await.remove(0);
    copy.metadata.name = Some("agent-copy".to_owned());
    copy.metadata.managed_fields = None;
    copy.metadata.resource_version = None;
    copy.metadata.uid = None;
    copy.metadata.labels.get_or_insert_default().insert(REVISION.to_owned(), "copy".to_owned());
    copy.revision = 2;
    history.create(&PostParams::default(), &copy).await.expect("created");
    // Nobody minds a revision that is new; a change of the set makes it look, once the controller's view has the copy.
    for look in 0.. {
        let touch = Patch::Merge(json!({"metadata": {"annotations": {"look": look.to_string()}}}));
        sets.patch("agent", &PatchParams::default(), &touch).await.expect("touched");
        let relabelled = cluster.wait_one::<Pod>(&name(&*before), "relabelled", |pod| label(pod, REVISION) == "copy");
        if tokio::time::timeout(LOOK_AGAIN, relabelled).await.is_ok() {
            break;
        }
    }
    let left = cluster.wait::<ControllerRevision>("one revision", |held| held.len() == 1).await;
    assert_eq!(names(&left), ["agent-copy"]);
    let after = cluster.wait::<Pod>("a pod", |pods| pods.len() == 1).await;
    assert_eq!(after[0].metadata.uid, before.metadata.uid);

    // An orphan that is selected is adopted again.
    let orphan = json!({"metadata": {"ownerReferences": null}});
    history.patch("agent-copy", &PatchParams::default(), &Patch::Merge(orphan)).await.expect("orphaned");
    cluster
        .wait_one::<ControllerRevision>("agent-copy", "adopted", |revision| {
            revision.metadata.owner_references.iter().flatten().any(|owner| owner.name == "agent")
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_controllers_write_as_themselves() {
    let cluster = Cluster::start().await;
    create(&cluster.api::<StatefulSet>(), stateful_set(1, json!({"volumeClaimTemplates": with_claims()}))).await;
    create(&cluster.api::<DaemonSet>(), daemon_set(json!({}))).await;
    cluster.wait_one::<StatefulSet>("db", "ready", |set| is_settled(set, 1)).await;
    cluster.wait_one::<DaemonSet>("agent", "rolled out", |set| is_rolled_out(set, 1)).await;
    let written: BTreeSet<String> = cluster
        .written()
        .into_iter()
        .map(|(user, verb, resource)| {
            format!("{} {verb} {resource}", user.trim_start_matches("system:serviceaccount:kube-system:"))
        })
        .collect();
    for expected in [
        "statefulset-controller create controllerrevisions",
        "statefulset-controller create persistentvolumeclaims",
        "statefulset-controller create pods",
        "statefulset-controller update statefulsets/status",
        "daemon-set-controller create controllerrevisions",
        "daemon-set-controller create pods",
        "daemon-set-controller update daemonsets/status",
    ] {
        assert!(written.contains(expected), "{expected:?} is not in {written:#?}");
    }
}
