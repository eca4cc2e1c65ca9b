//! Nodes keep pods away by taints; pods say which they tolerate.

use k8s_openapi::api::core::v1::Taint;
use wharf_machinery::placement::tolerated;

use super::normalize;
use crate::cluster::NodeInfo;
use crate::framework::{Change, Filter, Rejection, Score};
use crate::pod::PodInfo;

pub struct TaintToleration;

impl Filter for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let binding = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
        match node.taints().iter().filter(binding).find(|taint| !tolerated(taint, pod.tolerations())) {
            None => Ok(()),
            Some(_) => {
                Err(Rejection { reason: "node(s) had untolerated taint(s)".to_owned(), plugin: "TaintToleration" })
            }
        }
    }

    fn hint(&self, _pod: &PodInfo, change: &Change) -> bool {
        match change {
            Change::NodeAdded(_) => true,
            Change::NodeUpdated { old, new } => {
                old.spec.as_ref().and_then(|spec| spec.taints.as_ref())
                    != new.spec.as_ref().and_then(|spec| spec.taints.as_ref())
            }
            Change::PodGone(_) => false,
        }
    }
}

impl Score for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn weight(&self) -> i64 {
        3
    }

    /// Counts the taints that would rather not have the pod.
    fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let reluctant = node.taints().iter().filter(|taint| taint.effect == "PreferNoSchedule");
        i64::try_from(reluctant.filter(|taint| !tolerated(taint, pod.tolerations())).count()).unwrap_or(i64::MAX)
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize(scores, true);
    }
}
