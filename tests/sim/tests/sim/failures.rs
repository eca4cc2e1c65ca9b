//! What happens when a machine is lost.

use serde_json::json;
use wharf_test_support::eventually;
use wharf_test_support::sim_node::Spec;

use crate::fleet::{Fleet, deployment, node_of};

/// The keys of a node's taints.
async fn taints(fleet: &Fleet, name: &str) -> Result<Vec<String>, String> {
    let node = fleet.node_api().get(name).await.map_err(|error| error.to_string())?;
    let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    Ok(taints.into_iter().map(|taint| format!("{}:{}", taint.key, taint.effect)).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_nodes_pods_are_replaced_and_it_may_come_back() {
    let mut fleet = Fleet::of((1..=4).map(Spec::new).collect()).await;
    fleet.deploy(&deployment("web", 12, json!({}))).await;
    let before = fleet.settled("web", 12).await;
    let lost = before.on["sim-1"];
    fleet.nodes[0].stop().await;

    let after = fleet.settled("web", 12).await;
    // What `settled` saw may still have been the old state: the replacements are seen by where they are.
    let elsewhere = eventually("the pods are elsewhere", || async {
        let seen = fleet.seen("web").await?;
        if seen.ready == 12 && !seen.on.contains_key("sim-1") { Ok(seen) } else { Err(format!("{after:?} {seen:?}")) }
    })
    .await;
    assert_eq!(elsewhere.going, lost, "nobody has confirmed the end of the lost ones: {elsewhere:?}");
    let unreachable = "node.kubernetes.io/unreachable";
    let mut tainted = taints(&fleet, "sim-1").await.expect("the node is there");
    tainted.sort();
    assert_eq!(tainted, [format!("{unreachable}:NoExecute"), format!("{unreachable}:NoSchedule")]);

    fleet.nodes[0].start().await.expect("it comes back");
    eventually("it ends what was evicted and is Ready again", || async {
        let (seen, taints) = (fleet.seen("web").await?, taints(&fleet, "sim-1").await?);
        let ready = fleet.ready_nodes().await?.len();
        if seen.going == 0 && taints.is_empty() && ready == 4 {
            return Ok(());
        }
        Err(format!("{seen:?} {taints:?} {ready} ready"))
    })
    .await;
    fleet.scale("web", 40).await.expect("scaled");
    let seen = fleet.settled("web", 40).await;
    assert!(seen.on.contains_key("sim-1"), "it takes pods again: {seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_absence_moves_nothing() {
    let mut fleet = Fleet::of((1..=2).map(Spec::new).collect()).await;
    fleet.deploy(&deployment("web", 6, json!({}))).await;
    fleet.settled("web", 6).await;
    let places = async |fleet: &Fleet| {
        let pods = fleet.pods("web").await.expect("pods are listed");
        let restarts = |pod: &k8s_openapi::api::core::v1::Pod| {
            let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
            statuses.and_then(|statuses| statuses.first()).map(|status| status.restart_count)
        };
        let mut places: Vec<_> =
            pods.iter().map(|pod| (pod.metadata.uid.clone(), node_of(pod).to_owned(), restarts(pod))).collect();
        places.sort();
        places
    };
    let before = places(&fleet).await;
    // The agent alone starts again: what ran goes on.
    fleet.nodes[0].stop().await;
    fleet.nodes[0].start().await.expect("it comes back");
    fleet.deploy(&deployment("proof", 1, json!({"nodeSelector": {"kubernetes.io/hostname": "sim-1"}}))).await;
    fleet.settled("proof", 1).await;
    assert_eq!(places(&fleet).await, before);
    // The machine starts again: the same pods run, once more.
    fleet.nodes[0].reboot().await.expect("it comes back");
    eventually("the pods of the rebooted machine count a restart, and the others none", || async {
        let now = places(&fleet).await;
        let counted = now.iter().zip(&before).all(|(now, before)| {
            let restarts = i32::from(before.1 == "sim-1");
            now.0 == before.0 && now.1 == before.1 && now.2 == before.2.map(|count| count + restarts)
        });
        if counted && now.len() == before.len() { Ok(()) } else { Err(now) }
    })
    .await;
    fleet.settled("web", 6).await;
}
