//! One scheduling cycle: filter, score, select. Pure over the cluster's picture.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cluster::{Cluster, NodeInfo};
use crate::framework::{Framework, MAX_SCORE, Rejection};
use crate::pod::PodInfo;

/// Fewer feasible nodes than this are never called enough.
const MIN_FEASIBLE: usize = 100;
/// The least share of nodes that is looked at, in percent.
const MIN_PERCENT: usize = 5;

/// Why no node will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unschedulable {
    /// As upstream words it.
    pub message: String,
    /// Plugins that rejected a node, without repetition.
    pub rejected_by: Vec<&'static str>,
}

/// Chooses a node. `random` breaks ties; it is called with the number of nodes to choose from.
pub fn schedule(
    framework: &Framework,
    cluster: &mut Cluster,
    pod: &PodInfo,
    random: &mut dyn FnMut(usize) -> usize,
) -> Result<Arc<str>, Unschedulable> {
    if let Some(names) = pod.named_nodes() {
        return schedule_named(framework, cluster, pod, &names, random);
    }
    let total = cluster.nodes().len();
    let enough = feasible_nodes_to_find(total);
    let (mut feasible, mut rejections, mut looked_at) = (Vec::new(), Vec::new(), 0);
    for offset in 0..total {
        let Some((_, info)) = cluster.nodes().get_index((cluster.cursor + offset) % total) else { continue };
        looked_at += 1;
        if info.node.is_none() {
            continue;
        }
        match framework.filter(pod, info) {
            Ok(()) => feasible.push(info),
            Err(rejection) => rejections.push(rejection),
        }
        if feasible.len() >= enough {
            break;
        }
    }
    let chosen = choose(framework, pod, &feasible, random);
    let chosen = chosen.ok_or_else(|| unschedulable(cluster.node_count(), &rejections));
    cluster.cursor = (cluster.cursor + looked_at) % total.max(1);
    chosen
}

/// A pod that names its nodes, as a DaemonSet's does, costs a look at those alone. Source: `PreFilter` of `NodeAffinity`.
fn schedule_named(
    framework: &Framework,
    cluster: &Cluster,
    pod: &PodInfo,
    names: &BTreeSet<&str>,
    random: &mut dyn FnMut(usize) -> usize,
) -> Result<Arc<str>, Unschedulable> {
    let named = names.iter().filter_map(|name| cluster.nodes().get(*name)).filter(|info| info.node.is_some());
    let (mut feasible, mut rejections) = (Vec::new(), Vec::new());
    for info in named {
        match framework.filter(pod, info) {
            Ok(()) => feasible.push(info),
            Err(rejection) => rejections.push(rejection),
        }
    }
    choose(framework, pod, &feasible, random).ok_or_else(|| {
        let others = cluster.node_count().saturating_sub(rejections.len());
        let not_meant = || Rejection {
            reason: "node(s) didn't satisfy plugin(s) [NodeAffinity]".to_owned(),
            plugin: "NodeAffinity",
        };
        rejections.extend(std::iter::repeat_with(not_meant).take(others));
        unschedulable(cluster.node_count(), &rejections)
    })
}

fn choose(
    framework: &Framework,
    pod: &PodInfo,
    feasible: &[&NodeInfo],
    random: &mut dyn FnMut(usize) -> usize,
) -> Option<Arc<str>> {
    match feasible {
        [] => None,
        [only] => Some(only.name.clone()),
        several => Some(best(framework, pod, several, random)),
    }
}

/// Source: `numFeasibleNodesToFind`: the larger the cluster, the smaller the share that is searched.
fn feasible_nodes_to_find(total: usize) -> usize {
    if total < MIN_FEASIBLE {
        return total;
    }
    let percent = 50usize.saturating_sub(total / 125).max(MIN_PERCENT);
    (total * percent / 100).max(MIN_FEASIBLE)
}

fn best(framework: &Framework, pod: &PodInfo, nodes: &[&NodeInfo], random: &mut dyn FnMut(usize) -> usize) -> Arc<str> {
    let mut totals = vec![0i64; nodes.len()];
    for plugin in &framework.scores {
        let mut scores: Vec<i64> = nodes.iter().map(|node| plugin.score(pod, node)).collect();
        plugin.normalize(&mut scores);
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += score.clamp(0, MAX_SCORE) * plugin.weight();
        }
    }
    let top = totals.iter().copied().max().unwrap_or_default();
    let ties: Vec<usize> = (0..nodes.len()).filter(|index| totals[*index] == top).collect();
    nodes[ties[random(ties.len()) % ties.len()]].name.clone()
}

/// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
fn unschedulable(nodes: usize, rejections: &[Rejection]) -> Unschedulable {
    if nodes == 0 {
        return Unschedulable { message: "no nodes available to schedule pods".to_owned(), rejected_by: Vec::new() };
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut rejected_by: Vec<&'static str> = Vec::new();
    for rejection in rejections {
        *counts.entry(&rejection.reason).or_default() += 1;
        if !rejected_by.contains(&rejection.plugin) {
            rejected_by.push(rejection.plugin);
        }
    }
    let mut reasons: Vec<String> = counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    reasons.sort();
    Unschedulable { message: format!("0/{nodes} nodes are available: {}.", reasons.join(", ")), rejected_by }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::tests::{node, pod, pod_with};

    /// Where the pod goes, or why it does not.
    fn check(cluster: &mut Cluster, pod: &PodInfo, expected: &str) {
        let framework = crate::plugins::tests::framework();
        let got = schedule(&framework, cluster, pod, &mut |_| 0);
        assert_eq!(got.map_or_else(|error| error.message, |node| node.to_string()), expected);
    }

    fn cluster() -> Cluster {
        let mut cluster = Cluster::default();
        cluster.set_node("a", node("a", "1"));
        cluster.set_node("b", node("b", "2"));
        cluster
    }

    #[test]
    fn the_emptier_node_wins() {
        let mut cluster = cluster();
        cluster.place(Arc::new(pod("x", "800m")), "b");
        cluster.place(Arc::new(pod("y", "800m")), "a");
        check(&mut cluster, &pod("new", "100m"), "b");
    }

    #[test]
    fn reasons_are_counted_as_upstream_counts_them() {
        check(&mut Cluster::default(), &pod("new", "1"), "no nodes available to schedule pods");
        check(&mut cluster(), &pod("new", "3"), "0/2 nodes are available: 2 Insufficient cpu.");
        let spec = json!({ "nodeSelector": { "disk": "ssd" }, "containers": [] });
        check(
            &mut cluster(),
            &pod_with("new", spec),
            "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.",
        );
    }

    #[test]
    fn a_pod_that_names_its_node_goes_there_or_nowhere() {
        let named = |name: &str| {
            let field = json!({"key": "metadata.name", "operator": "In", "values": [name]});
            let required = json!({"nodeSelectorTerms": [{"matchFields": [field]}]});
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}},
                "containers": [{"name": "c", "resources": {"requests": {"cpu": "1500m"}}}]})
        };
        check(&mut cluster(), &pod_with("new", named("b")), "b");
        check(
            &mut cluster(),
            &pod_with("new", named("a")),
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't satisfy plugin(s) [NodeAffinity].",
        );
        check(
            &mut cluster(),
            &pod_with("new", named("gone")),
            "0/2 nodes are available: 2 node(s) didn't satisfy plugin(s) [NodeAffinity].",
        );
    }

    #[test]
    fn large_clusters_are_searched_in_part() {
        assert_eq!(feasible_nodes_to_find(50), 50);
        assert_eq!(feasible_nodes_to_find(1_000), 420);
        assert_eq!(feasible_nodes_to_find(5_000), 500);
        assert_eq!(feasible_nodes_to_find(10_000), 500);
    }
}
