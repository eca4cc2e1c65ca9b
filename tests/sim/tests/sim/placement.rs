//! Where pods go.

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use wharf_test_support::eventually;
use wharf_test_support::sim_node::Spec;

use crate::fleet::{Fleet, condition, deployment, node_of};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_replicas_spread_over_twenty_nodes() {
    let fleet = Fleet::of((1..=20).map(Spec::new).collect()).await;
    fleet.deploy(&deployment("web", 200, json!({}))).await;
    let seen = fleet.settled("web", 200).await;
    // Alike nodes get alike shares; the scheduler may be some pods behind in what it knows.
    assert_eq!(seen.on.len(), 20, "{seen:?}");
    assert!(seen.on.values().all(|count| (5..=15).contains(count)), "{seen:?}");
    fleet.scale("web", 0).await.expect("scaled");
    fleet.settled("web", 0).await;
    eventually("the nodes confirm that all are gone", || async {
        let left = fleet.pods("web").await?.len();
        if left == 0 { Ok(()) } else { Err(format!("{left} are left")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_go_where_they_may_and_where_they_ask_to() {
    let fleet = Fleet::of(vec![
        Spec::new(1),
        Spec::new(2),
        Spec::new(3).taint("dedicated"),
        Spec::new(4).label("disk", "ssd"),
        Spec::new(5).label("zone", "east"),
    ])
    .await;
    fleet.node_api().cordon("sim-2").await.expect("cordoned");
    // The scheduler hears of it while the first ones settle, which could not go there anyway.
    let east = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["east", "west"]}]},
    ]}}});
    let unselected = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [
            {"key": "disk", "operator": "DoesNotExist"}, {"key": "zone", "operator": "DoesNotExist"},
        ]},
    ]}}});
    let tolerant = json!({
        "nodeSelector": {"kubernetes.io/hostname": "sim-3"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    });
    for (name, change, nodes) in [
        ("fast", json!({"nodeSelector": {"disk": "ssd"}}), &["sim-4"][..]),
        ("eastern", json!({"affinity": east}), &["sim-5"]),
        ("plain", json!({"affinity": unselected}), &["sim-1"]),
        ("tolerant", tolerant, &["sim-3"]),
        ("any", json!({}), &["sim-1", "sim-4", "sim-5"]),
    ] {
        fleet.deploy(&deployment(name, 9, change)).await;
        let seen = fleet.settled(name, 9).await;
        assert_eq!(seen.nodes(), nodes.iter().copied().collect(), "{name}");
    }
    fleet.deploy(&deployment("nowhere", 1, json!({"nodeSelector": {"disk": "tape"}}))).await;
    waits(&fleet, "nowhere", "0/5 nodes are available: ").await;
    fleet.node_api().uncordon("sim-2").await.expect("uncordoned");
    fleet.deploy(&deployment("later", 1, json!({"nodeSelector": {"kubernetes.io/hostname": "sim-2"}}))).await;
    fleet.settled("later", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_waits_until_there_is_room() {
    let fleet = Fleet::of((1..=3).map(|number| Spec::new(number).cpu_millis(1000)).collect()).await;
    let large = |name, replicas| {
        let requests = json!({"cpu": "300m"});
        let containers = json!([{"name": "main", "image": "sim:v1", "resources": {"requests": requests}}]);
        deployment(name, replicas, json!({"containers": containers}))
    };
    fleet.deploy(&large("early", 9)).await;
    let seen = fleet.settled("early", 9).await;
    assert!(seen.on.values().all(|count| *count == 3), "{seen:?}");
    fleet.deploy(&large("late", 3)).await;
    waits(&fleet, "late", "0/3 nodes are available: 3 Insufficient cpu.").await;
    fleet.scale("early", 7).await.expect("scaled");
    eventually("two fit", || async {
        let seen = fleet.seen("late").await?;
        if seen.ready == 2 { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    fleet.scale("early", 6).await.expect("scaled");
    fleet.settled("late", 3).await;
    fleet.settled("early", 6).await;
}

/// Waits until each pod of a Deployment says why it has no node.
async fn waits(fleet: &Fleet, name: &str, why: &str) {
    eventually(&format!("{name} waits: {why}"), || async {
        let pods = fleet.pods(name).await?;
        let told = |pod: &Pod| {
            let (status, message) = condition(pod, "PodScheduled").unwrap_or_default();
            status == "False" && message.starts_with(why) && node_of(pod).is_empty()
        };
        if !pods.is_empty() && pods.iter().all(told) {
            return Ok(());
        }
        Err(format!("{:?}", pods.iter().map(|pod| condition(pod, "PodScheduled")).collect::<Vec<_>>()))
    })
    .await;
}
