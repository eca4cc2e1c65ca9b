//! Namespaces, the garbage collector and silent nodes against the real API server.

mod support;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use support::{Cluster, NODE, create, template, wait_for};
use wharf_client::{Clock, ObjectKey};
use wharf_types::k8s::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, ServiceAccount};
use wharf_types::k8s::api::networking::v1::{IPAddress, ServiceCIDR};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_gets_what_it_needs_and_leaves_nothing_behind() {
    let cluster = Cluster::start().await;
    let namespaces = Api::<Namespace>::all(cluster.client.clone());
    create(&namespaces, json!({"metadata": {"name": "team"}})).await;
    let account = ObjectKey::new("team", "default");
    wait_for(cluster.informers.of::<ServiceAccount>(), "the default account", move |all| all.get(&account)).await;
    let bundle = ObjectKey::new("team", "kube-root-ca.crt");
    wait_for(cluster.informers.of::<ConfigMap>(), "the bundle", move |all| all.get(&bundle)).await;

    create(&Api::<Secret>::namespaced(cluster.client.clone(), "team"), json!({"metadata": {"name": "s"}})).await;
    let mut pod = template("web", "v1");
    pod["metadata"]["name"] = json!("web");
    create(&Api::<Pod>::namespaced(cluster.client.clone(), "team"), pod).await;
    namespaces.delete("team", &DeleteParams::default()).await.expect("deleted");
    let key = ObjectKey::cluster("team");
    wait_for(cluster.informers.of::<Namespace>(), "the namespace gone", move |all| {
        all.get(&key).is_none().then_some(())
    })
    .await;
    for found in [
        cluster.informers.of::<Pod>().list_in("team").len(),
        Api::<Secret>::namespaced(cluster.client.clone(), "team")
            .list(&Default::default())
            .await
            .expect("a list")
            .items
            .len(),
    ] {
        assert_eq!(found, 0);
    }
}

/// `owner` and two ConfigMaps that it owns, one of which blocks its deletion, and one that another owns too.
async fn family(cluster: &Cluster) -> Api<ConfigMap> {
    let api = cluster.api::<ConfigMap>();
    let owner = create(&api, json!({"metadata": {"name": "owner"}})).await;
    let other = create(&api, json!({"metadata": {"name": "other"}})).await;
    let reference = |of: &ConfigMap, blocks: bool| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "name": of.metadata.name, "uid": of.metadata.uid,
            "blockOwnerDeletion": blocks,
        })
    };
    let one = reference(&owner, true);
    create(&api, json!({"metadata": {"name": "child", "ownerReferences": [one]}})).await;
    let (one, two) = (reference(&owner, false), reference(&other, false));
    create(&api, json!({"metadata": {"name": "shared", "ownerReferences": [one, two]}})).await;
    api
}

async fn check_family(delete: &DeleteParams, left: &'static str) {
    let cluster = Cluster::without_node().await;
    let api = family(&cluster).await;
    cluster.wait::<ConfigMap>("the family", |maps| names(maps) == "child kube-root-ca.crt other owner shared").await;
    api.delete("owner", delete).await.expect("deleted");
    let maps = cluster.wait::<ConfigMap>("what is left", move |maps| {
        let free = |map: &Arc<ConfigMap>| {
            let owners = map.metadata.owner_references.iter().flatten();
            owners.into_iter().all(|owner| owner.name != "owner")
        };
        names(maps) == left && maps.iter().all(free)
    });
    maps.await;
}

fn names(maps: &[Arc<ConfigMap>]) -> String {
    maps.iter().filter_map(|map| map.metadata.name.clone()).collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dependents_go_with_their_last_owner() {
    check_family(&DeleteParams::background(), "kube-root-ca.crt other shared").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreground_deletion_waits_for_dependents() {
    check_family(&DeleteParams::foreground(), "kube-root-ca.crt other shared").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_stay() {
    check_family(&DeleteParams::orphan(), "child kube-root-ca.crt other shared").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_never_was_is_no_owner() {
    let cluster = Cluster::without_node().await;
    let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "nobody", "uid": "11111111-1111-1111-1111-111111111111"});
    let unknown = json!({"apiVersion": "example.com/v1", "kind": "Unknown", "name": "x", "uid": "22222222-2222-2222-2222-222222222222"});
    let api = cluster.api::<ConfigMap>();
    create(&api, json!({"metadata": {"name": "stays", "ownerReferences": [unknown]}})).await;
    create(&api, json!({"metadata": {"name": "stray", "ownerReferences": [owner]}})).await;
    cluster.wait::<ConfigMap>("the stray gone", |maps| names(maps) == "kube-root-ca.crt stays").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_leave_a_node_that_is_not_ready_while_another_is() {
    let cluster = Cluster::start().await;
    let nodes = Api::<Node>::all(cluster.client.clone());
    // Nothing is ever bound to it.
    create::<Node>(&nodes, json!({"metadata": {"name": "other"}, "spec": {"unschedulable": true}})).await;
    report_ready(&nodes, "other", "True").await;
    let mut pod = template("web", "v1");
    pod["metadata"]["name"] = json!("web");
    pod["spec"]["tolerations"] = json!([
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0},
    ]);
    create(&cluster.api::<Pod>(), pod.clone()).await;
    pod["metadata"]["name"] = json!("patient");
    pod["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    create(&cluster.api::<Pod>(), pod).await;
    let runs = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
    cluster.wait_one::<Pod>("web", "running", runs).await;
    cluster.wait_one::<Pod>("patient", "running", runs).await;

    report_ready(&nodes, NODE, "False").await;
    cluster.wait::<Pod>("the pod evicted", |pods| pods.len() == 1).await;
    let unready = |pod: &Pod| {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "False")
    };
    cluster.wait_one::<Pod>("patient", "marked as not ready", unready).await;
    let key = ObjectKey::cluster(NODE);
    let node = cluster.informers.of::<Node>().get(&key);
    let node = match node {
        Some(node) => node,
        None => wait_for(cluster.informers.of::<Node>(), "the node", move |all| all.get(&key)).await,
    };
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    assert!(taints.iter().any(|taint| taint.key == "node.kubernetes.io/not-ready" && taint.effect == "NoExecute"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_pod_leaves_while_no_node_is_ready() {
    let cluster = Cluster::start().await;
    let nodes = Api::<Node>::all(cluster.client.clone());
    create::<Node>(&nodes, json!({"metadata": {"name": "other"}, "spec": {"unschedulable": true}})).await;
    report_ready(&nodes, "other", "True").await;
    let evicting = |node: &Node| {
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
        taints.into_iter().flatten().filter(|taint| taint.effect == "NoExecute").count()
    };
    let wait = |what: &'static str, name: &'static str, count: usize| {
        let key = ObjectKey::cluster(name);
        wait_for(cluster.informers.of::<Node>(), what, move |all| {
            all.get(&key)
                .filter(|node| evicting(node) == count && node.spec.as_ref().is_some_and(|spec| spec.taints.is_some()))
        })
    };
    report_ready(&nodes, NODE, "False").await;
    wait("one node evicts", NODE, 1).await;
    report_ready(&nodes, "other", "False").await;
    // It keeps the taint that keeps new pods away.
    wait("nobody evicts any more", NODE, 0).await;
    wait("the other is tainted, and keeps its pods", "other", 0).await;
    report_ready(&nodes, "other", "True").await;
    wait("the first evicts again, after its pause", NODE, 1).await;
}

async fn report_ready(nodes: &Api<Node>, name: &str, status: &str) {
    let status = json!({"status": {"conditions": [{"type": "Ready", "status": status, "reason": "Said"}]}});
    nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.expect("node status");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_gets_addresses_and_is_noticed_when_it_falls_silent() {
    let cluster = Cluster::with(|options| {
        options.node_grace = jiff::SignedDuration::from_millis(300);
        options.pod_range =
            Some(wharf_controllers::PodRange { base: [127, 64, 0, 0].into(), prefix: 12, node_prefix: 20 });
    })
    .await;
    cluster.run_node(true);
    let lost = |node: &Node| {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
        let ready = conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready");
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
        let tainted = taints.into_iter().flatten().any(|taint| taint.key == "node.kubernetes.io/unreachable");
        tainted && ready.is_some_and(|ready| ready.reason.as_deref() == Some("NodeStatusUnknown"))
    };
    let key = ObjectKey::cluster(NODE);
    let node =
        wait_for(cluster.informers.of::<Node>(), "the node lost", move |all| all.get(&key).filter(|node| lost(node)));
    let node = node.await;
    assert_eq!(node.spec.as_ref().and_then(|spec| spec.pod_cidr.as_deref()), Some("127.64.0.0/20"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_of_services_stays_while_an_address_needs_it() {
    // Ahead by more than a deletion waits.
    let ahead = || Timestamp::now() + SignedDuration::from_secs(20);
    let cluster = Cluster::with(|told| told.clock = Clock::new(ahead)).await;
    let ranges = Api::<ServiceCIDR>::all(cluster.client.clone());
    let addresses = Api::<IPAddress>::all(cluster.client.clone());
    let range = |name: &str, block: &str| json!({"metadata": {"name": name}, "spec": {"cidrs": [block]}});
    let ready = |status: &'static str| {
        move |all: &wharf_client::Lister<ServiceCIDR>| {
            let range = all.get(&ObjectKey::cluster("small"))?;
            let told = range.status.as_ref()?.conditions.as_ref()?.first()?.status == status;
            (told && range.metadata.finalizers.is_some()).then_some(())
        }
    };
    create(&ranges, range("small", "203.0.113.0/28")).await;
    wait_for(cluster.informers.of::<ServiceCIDR>(), "the range ready", ready("True")).await;

    let labels = json!({"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"});
    let spec = json!({"parentRef": {"resource": "services", "namespace": "default", "name": "web"}});
    create(&addresses, json!({"metadata": {"name": "203.0.113.7", "labels": labels}, "spec": spec})).await;
    wait_for(cluster.informers.of::<IPAddress>(), "the address", |all| (all.len() == 1).then_some(())).await;
    ranges.delete("small", &DeleteParams::default()).await.expect("deleted");
    wait_for(cluster.informers.of::<ServiceCIDR>(), "the range held", ready("False")).await;

    // One that has the address too sets it free.
    create(&ranges, range("large", "203.0.113.0/24")).await;
    wait_for(cluster.informers.of::<ServiceCIDR>(), "the range gone", |all| {
        all.get(&ObjectKey::cluster("small")).is_none().then_some(())
    })
    .await;
}
