//! Deletes pods from nodes whose `NoExecute` taints they do not tolerate, or no longer.
//!
//! Source of the behaviour: `k8s.io/kubernetes/pkg/controller/tainteviction`. A taint that says when it was added counts from then;
//! others count from when they were first seen here.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client};
use parking_lot::Mutex;
use wharf_client::{Action, Changed, Clock, Error, Index, Informers, Lister, ObjectKey, Reconcile, Recorder, Trigger};
use wharf_machinery::placement::tolerates;
use wharf_types::k8s::api::core::v1::{Node, Pod, Taint, Toleration};

use crate::call::{During as _, gone_is_fine};
use crate::disruption;
use crate::nodelifecycle::pods_on;

pub struct TaintEviction {
    client: Client,
    pods: Lister<Pod>,
    pods_on: Index<Pod>,
    nodes: Lister<Node>,
    /// Since when a pod stands under taints, by the pod's key and UID.
    since: Mutex<HashMap<ObjectKey, (Option<String>, Timestamp)>>,
    recorder: Recorder,
    clock: Clock,
}

impl TaintEviction {
    pub fn new(informers: &Informers, recorder: Recorder, clock: Clock) -> Self {
        let pods = informers.of::<Pod>();
        Self {
            client: informers.client().clone(),
            pods_on: pods_on(&pods),
            pods,
            nodes: informers.of(),
            since: Mutex::default(),
            recorder,
            clock,
        }
    }

    /// The taints that act on the pod, and since when at the latest.
    fn taints(&self, key: &ObjectKey, pod: &Pod) -> (Vec<Taint>, Timestamp) {
        let now = self.clock.now();
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        let node = self.nodes.get(&ObjectKey::cluster(node));
        let taints: Vec<Taint> = node
            .as_ref()
            .and_then(|node| node.spec.as_ref()?.taints.as_ref())
            .into_iter()
            .flatten()
            .filter(|taint| taint.effect == "NoExecute")
            .cloned()
            .collect();
        let mut since = self.since.lock();
        if taints.is_empty() {
            since.remove(key);
            return (taints, now);
        }
        let entry = since.entry(key.clone()).or_insert_with(|| (pod.metadata.uid.clone(), now));
        if entry.0 != pod.metadata.uid {
            *entry = (pod.metadata.uid.clone(), now);
        }
        (taints, entry.1)
    }
}

#[async_trait]
impl Reconcile for TaintEviction {
    fn name(&self) -> &'static str {
        "taint-eviction"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let pods_on = self.pods_on.clone();
        let node_wakes = move |changed: &Changed<Node>| {
            let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
            if changed.old.as_deref().map(taints) == changed.new.as_deref().map(taints) {
                return Vec::new();
            }
            pods_on.get(&changed.key.name).iter().map(|pod| ObjectKey::of(&**pod)).collect()
        };
        let pod_wakes = |changed: &Changed<Pod>| {
            let facts = |pod: &Pod| pod.spec.as_ref().map(|spec| (spec.node_name.clone(), spec.tolerations.clone()));
            let same = changed.old.as_deref().map(facts) == changed.new.as_deref().map(facts);
            (!same).then(|| changed.key.clone()).into_iter().collect()
        };
        vec![Trigger::mapped(&self.nodes, node_wakes), Trigger::mapped(&self.pods, pod_wakes)]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(pod) = self.pods.get(key).filter(|pod| pod.metadata.deletion_timestamp.is_none()) else {
            self.since.lock().remove(key);
            return Ok(Action::done());
        };
        let (taints, since) = self.taints(key, &pod);
        let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
        let Some(due) = due(&taints, tolerations, since) else { return Ok(Action::done()) };
        let now = self.clock.now();
        if let Ok(left) = Duration::try_from(due.duration_since(now))
            && !left.is_zero()
        {
            return Ok(Action::requeue_after(left));
        }
        self.recorder.normal(&*pod, "TaintManagerEviction", format!("Marking for deletion Pod {key}"));
        let message = "Taint manager: deleting due to NoExecute taint";
        disruption::mark(&self.client, &pod, "DeletionByTaintManager", message, None, now).await?;
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        gone_is_fine(api.delete(&key.name, &params).await).during("evict pod", key)?;
        Ok(Action::done())
    }
}

/// When the pod must go; never if it tolerates all taints without limit.
fn due(taints: &[Taint], tolerations: &[Toleration], since: Timestamp) -> Option<Timestamp> {
    let of_taint = |taint: &Taint| {
        let start = taint.time_added.as_ref().map_or(since, |time| time.0);
        let mut tolerating = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).peekable();
        if tolerating.peek().is_none() {
            return Some(start);
        }
        let shortest = tolerating.filter_map(|toleration| toleration.toleration_seconds).min()?;
        Some(start + SignedDuration::from_secs(shortest.max(0)))
    };
    taints.iter().filter_map(of_taint).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodelifecycle::{NOT_READY, UNREACHABLE};
    use crate::pods::fixtures::{NOW_S, now};
    use wharf_types::meta::Time;

    fn taint(key: &str, added_ago_s: Option<i64>) -> Taint {
        Taint {
            key: key.to_owned(),
            effect: "NoExecute".to_owned(),
            value: None,
            time_added: added_ago_s.map(|ago_s| Time(Timestamp::from_second(NOW_S - ago_s).expect("in range"))),
        }
    }

    fn exists(key: &str, seconds: Option<i64>) -> Toleration {
        Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some("NoExecute".to_owned()),
            toleration_seconds: seconds,
            value: None,
        }
    }

    /// In how many seconds from now the pod must go.
    fn check(taints: &[Taint], tolerations: &[Toleration], expected: Option<i64>) {
        let due = due(taints, tolerations, now());
        assert_eq!(due.map(|due| due.as_second() - NOW_S), expected);
    }

    #[test]
    fn a_pod_stays_as_long_as_it_tolerates() {
        check(&[], &[], None);
        check(&[taint(NOT_READY, None)], &[], Some(0));
        check(&[taint(NOT_READY, Some(10))], &[exists(NOT_READY, Some(300))], Some(290));
        check(&[taint(NOT_READY, Some(10))], &[exists(NOT_READY, None)], None);
        check(&[taint(NOT_READY, None), taint(UNREACHABLE, None)], &[exists(NOT_READY, None)], Some(0));
        let both = [exists(NOT_READY, Some(300)), exists(UNREACHABLE, Some(30))];
        check(&[taint(NOT_READY, None), taint(UNREACHABLE, None)], &both, Some(30));
        check(&[taint(NOT_READY, None)], &[exists(NOT_READY, Some(-5))], Some(0));
    }

    #[test]
    fn a_toleration_of_everything_tolerates_everything() {
        let all = Toleration { operator: Some("Exists".to_owned()), ..Toleration::default() };
        check(&[taint("anything", None)], &[all], None);
        let nothing = Toleration { operator: None, ..Toleration::default() };
        check(&[taint("anything", None)], &[nothing], Some(0));
    }
}
