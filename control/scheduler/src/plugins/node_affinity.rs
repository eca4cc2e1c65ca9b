//! `spec.nodeSelector` and node affinity: required terms filter, preferred ones score.

use wharf_machinery::placement;

use super::normalize;
use crate::cluster::NodeInfo;
use crate::framework::{Change, Filter, Rejection, Score};
use crate::pod::PodInfo;

pub struct NodeAffinity;

impl Filter for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        if pod.pod.spec.as_ref().is_none_or(|spec| placement::selects(spec, &node.name, node.labels())) {
            return Ok(());
        }
        Err(Rejection {
            reason: "node(s) didn't match Pod's node affinity/selector".to_owned(),
            plugin: "NodeAffinity",
        })
    }

    fn hint(&self, _pod: &PodInfo, change: &Change) -> bool {
        match change {
            Change::NodeAdded(_) => true,
            Change::NodeUpdated { old, new } => old.metadata.labels != new.metadata.labels,
            Change::PodGone(_) => false,
        }
    }
}

impl Score for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    /// Sums the weights of the preferred terms that the node meets.
    fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let affinity = pod
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.affinity.as_ref())
            .and_then(|affinity| affinity.node_affinity.as_ref());
        let preferred =
            affinity.and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref());
        preferred
            .into_iter()
            .flatten()
            .filter(|term| placement::meets(&term.preference, &node.name, node.labels()))
            .map(|term| i64::from(term.weight))
            .sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize(scores, false);
    }
}
