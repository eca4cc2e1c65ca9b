//! Removes pods that nobody else will: those of nodes that are gone, those that were deleted before they had a node, and the oldest
//! finished ones when there are too many.
//!
//! Source of the behaviour: `k8s.io/kubernetes/pkg/controller/podgc`. A look takes all pods, every [`PERIOD`] and when a node goes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client};
use parking_lot::Mutex;
use wharf_client::{Action, Changed, Clock, Error, Informers, Lister, ObjectKey, Reconcile, Trigger};
use wharf_types::k8s::api::core::v1::{Node, Pod};

use crate::call::{During as _, Failed, gone_is_fine};
use crate::{batch, disruption, owners, pods};

/// Source: `gcCheckPeriod`.
const PERIOD: Duration = Duration::from_secs(20);
/// How long a node must be missing. Source: `quarantineTime`.
const QUARANTINE: SignedDuration = SignedDuration::from_secs(40);
/// Finished pods that may stay. Source: `--terminated-pod-gc-threshold`.
const TERMINATED_LIMIT: usize = 12_500;

pub struct PodGc {
    client: Client,
    pods: Lister<Pod>,
    nodes: Lister<Node>,
    /// Nodes that pods name and that are not there, and since when.
    missing: Mutex<HashMap<String, Timestamp>>,
    clock: Clock,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Terminated,
    Unscheduled,
    /// Its node is gone, which is still to be asked of the server.
    Orphaned,
}

impl PodGc {
    pub fn new(informers: &Informers, clock: Clock) -> Self {
        Self {
            client: informers.client().clone(),
            pods: informers.of(),
            nodes: informers.of(),
            missing: Mutex::default(),
            clock,
        }
    }

    async fn collect(&self, pod: &Pod, why: Why) -> Result<(), Failed> {
        let name = owners::name(pod);
        if why == Why::Orphaned {
            let node = node_of(pod).unwrap_or_default();
            let api = Api::<Node>::all(self.client.clone());
            if api.get_metadata_opt(node).await.during("read node", node)?.is_some() {
                return Ok(());
            }
            // Nobody is left who could say that the pod has ended.
            let phase = (!pods::is_terminal(pod)).then_some("Failed");
            let message = "PodGC: node no longer exists";
            disruption::mark(&self.client, pod, "DeletionByPodGC", message, phase, self.clock.now()).await?;
        }
        let api = Api::<Pod>::namespaced(self.client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default());
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        gone_is_fine(api.delete(name, &params).await).during("collect pod", name).map(|_| ())
    }
}

#[async_trait]
impl Reconcile for PodGc {
    fn name(&self) -> &'static str {
        "pod-gc"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let all = || ObjectKey::cluster("all");
        let node_wakes = move |changed: &Changed<Node>| changed.new.is_none().then(all).into_iter().collect();
        vec![
            Trigger::every(PERIOD, move || vec![all()]),
            Trigger::mapped(&self.nodes, node_wakes),
            Trigger::reads(&self.pods),
        ]
    }

    async fn reconcile(&self, _all: &ObjectKey) -> Result<Action, Error> {
        let has_node = |name: &str| self.nodes.get(&ObjectKey::cluster(name)).is_some();
        let now = self.clock.now();
        let doomed = plan(&self.pods.list(), has_node, &mut self.missing.lock(), TERMINATED_LIMIT, now);
        let (_, error) = batch::all(doomed, async |(pod, why): (Arc<Pod>, Why)| self.collect(&pod, why).await).await;
        error.map_or(Ok(Action::done()), |error| Err(error.into()))
    }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|node| !node.is_empty())
}

/// Which pods go, and why.
fn plan(
    pods: &[Arc<Pod>],
    has_node: impl Fn(&str) -> bool,
    missing: &mut HashMap<String, Timestamp>,
    terminated_limit: usize,
    now: Timestamp,
) -> Vec<(Arc<Pod>, Why)> {
    let mut doomed = Vec::new();
    let mut seen_missing = HashMap::new();
    for pod in pods {
        match node_of(pod) {
            Some(node) if !has_node(node) => {
                let since = missing.get(node).copied().unwrap_or(now);
                seen_missing.insert(node.to_owned(), since);
                if now.duration_since(since) >= QUARANTINE {
                    doomed.push((pod.clone(), Why::Orphaned));
                }
            }
            None if pod.metadata.deletion_timestamp.is_some() => doomed.push((pod.clone(), Why::Unscheduled)),
            _ => {}
        }
    }
    *missing = seen_missing;
    let mut terminated: Vec<&Arc<Pod>> =
        pods.iter().filter(|pod| pods::is_terminal(pod) && pod.metadata.deletion_timestamp.is_none()).collect();
    let surplus = terminated.len().saturating_sub(terminated_limit);
    // Evicted pods first, then the oldest.
    terminated.sort_by_key(|pod| {
        let evicted = pod.status.as_ref().and_then(|status| status.reason.as_deref()) == Some("Evicted");
        (!evicted, pod.metadata.creation_timestamp.clone(), pod.metadata.name.clone())
    });
    doomed.extend(terminated.into_iter().take(surplus).map(|pod| (pod.clone(), Why::Terminated)));
    doomed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::fixtures::{now, ready};

    fn check(pods: &[Arc<Pod>], missing_for_s: i64, terminated_limit: usize, expected: &[(&str, Why)]) {
        let since = Timestamp::from_second(now().as_second() - missing_for_s).expect("in range");
        let mut missing = [("lost".to_owned(), since)].into();
        let doomed = plan(pods, |node| node == "n1", &mut missing, terminated_limit, now());
        let got: Vec<_> = doomed.iter().map(|(pod, why)| (owners::name(&**pod), *why)).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn pods_of_a_node_that_stays_away_go() {
        let pods = [ready("a", 9).arc(), ready("b", 9).node("lost").arc(), ready("c", 9).node("just").arc()];
        check(&pods, 39, 10, &[]);
        check(&pods, 40, 10, &[("b", Why::Orphaned)]);
    }

    #[test]
    fn pods_deleted_before_they_had_a_node_go() {
        check(
            &[ready("a", 9).node("").arc(), ready("b", 9).node("").terminating().arc()],
            0,
            10,
            &[("b", Why::Unscheduled)],
        );
    }

    #[test]
    fn the_oldest_finished_pods_go_beyond_the_limit() {
        let pods = [ready("a", 9).phase("Failed").arc(), ready("b", 60).phase("Succeeded").arc(), ready("c", 90).arc()];
        check(&pods, 0, 1, &[("b", Why::Terminated)]);
        check(&pods, 0, 2, &[]);
    }
}
