//! What one step does for a set of pods. Pure: same inputs, same plan.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use wharf_machinery::selector::LabelSelector;
use wharf_types::k8s::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use wharf_types::k8s::api::core::v1::Pod;

use super::kind::Set;
use crate::call;
use crate::pods::{self, Ranked};

/// Pods that one step creates or deletes at most. Source: `BurstReplicas`.
const BURST: usize = 500;

/// What one step does. At most one of `create` and `delete` is not empty.
#[derive(Debug)]
pub struct Plan {
    pub create: usize,
    pub delete: Vec<Arc<Pod>>,
    pub status: ReplicaSetStatus,
    pub requeue: Option<Duration>,
}

/// Pure: same inputs, same plan. `settled` means that the view has all earlier writes.
pub fn plan(set: &impl Set, claimed: &[Arc<Pod>], family: &[Arc<Pod>], settled: bool, now: Timestamp) -> Plan {
    let active: Vec<&Arc<Pod>> = claimed.iter().filter(|pod| pods::is_active(pod)).collect();
    let wanted = set.replicas().max(0) as usize;
    let manage = settled && set.meta().deletion_timestamp.is_none();
    let (mut create, mut delete) = (0, Vec::new());
    if manage && active.len() < wanted {
        create = (wanted - active.len()).min(BURST);
    } else if manage && active.len() > wanted {
        delete = surplus(&active, family, (active.len() - wanted).min(BURST), now);
    }
    let ready_for = |pod: &&Arc<Pod>| pods::available_in(pod, set.min_ready_s(), now);
    let requeue = active.iter().filter_map(ready_for).filter(|wait| !wait.is_zero()).min();
    Plan { create, delete, status: status(set, claimed, &active, now), requeue }
}

fn surplus(active: &[&Arc<Pod>], family: &[Arc<Pod>], count: usize, now: Timestamp) -> Vec<Arc<Pod>> {
    let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    let mut on_node: HashMap<String, usize> = HashMap::new();
    for pod in family.iter().filter(|pod| pods::is_active(pod)) {
        *on_node.entry(node(pod)).or_default() += 1;
    }
    let rank =
        |pod: &&Arc<Pod>| Ranked { pod: Arc::clone(pod), on_node: on_node.get(&node(pod)).copied().unwrap_or(0) };
    let mut ranked: Vec<Ranked> = active.iter().map(rank).collect();
    if count < ranked.len() {
        ranked.sort_by(|one, two| pods::deletion_order(one, two, now));
        ranked.truncate(count);
    }
    ranked.into_iter().map(|ranked| ranked.pod).collect()
}

fn status(set: &impl Set, claimed: &[Arc<Pod>], active: &[&Arc<Pod>], now: Timestamp) -> ReplicaSetStatus {
    let template = set.template().and_then(|template| template.metadata.as_ref());
    let template_labels = template.and_then(|meta| meta.labels.clone()).unwrap_or_default();
    let labelled = LabelSelector::from_map(&template_labels);
    let count = |matches: &dyn Fn(&Pod) -> bool| active.iter().filter(|pod| matches(pod)).count() as i32;
    // Upstream's counters are `omitempty`: a zero is not there.
    let some = |count: i32| Some(count).filter(|count| *count != 0);
    let terminating = claimed.iter().filter(|pod| pods::is_terminating(pod)).count() as i32;
    ReplicaSetStatus {
        replicas: active.len() as i32,
        fully_labeled_replicas: some(count(&|pod| {
            labelled.matches(pod.metadata.labels.as_ref().unwrap_or(&Default::default()))
        })),
        ready_replicas: some(count(&pods::is_ready)),
        available_replicas: some(count(&|pod| pods::is_available(pod, set.min_ready_s(), now))),
        terminating_replicas: Some(terminating),
        observed_generation: set.meta().generation,
        conditions: Some(set.conditions()).filter(|conditions| !conditions.is_empty()),
    }
}

const REPLICA_FAILURE: &str = "ReplicaFailure";

/// Sets or lifts the condition that tells why pods could not be managed.
pub fn note_failure(plan: &mut Plan, error: Option<&kube::Error>, now: Timestamp) {
    let conditions = plan.status.conditions.take().unwrap_or_default();
    let noted = conditions.iter().any(|condition| condition.type_ == REPLICA_FAILURE);
    let kept = conditions.into_iter().filter(|condition| error.is_some() || condition.type_ != REPLICA_FAILURE);
    let fresh = error.filter(|_| !noted).map(|error| ReplicaSetCondition {
        type_: REPLICA_FAILURE.to_owned(),
        status: "True".to_owned(),
        reason: Some(if plan.create > 0 { "FailedCreate" } else { "FailedDelete" }.to_owned()),
        message: Some(call::message(error)),
        last_transition_time: Some(pods::time(now)),
    });
    plan.status.conditions = Some(kept.chain(fresh).collect()).filter(|conditions: &Vec<_>| !conditions.is_empty());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owners;
    use crate::pods::fixtures::{PodBuilder, now, ready};
    use wharf_types::k8s::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
    use wharf_types::k8s::api::core::v1::PodTemplateSpec;
    use wharf_types::meta::{LabelSelector as Selector, ObjectMeta};

    fn replica_set(replicas: i32, min_ready_s: i32) -> ReplicaSet {
        let labels = Some([("app".to_owned(), "web".to_owned())].into());
        let template = PodTemplateSpec {
            metadata: Some(ObjectMeta { labels: labels.clone(), ..ObjectMeta::default() }),
            ..PodTemplateSpec::default()
        };
        ReplicaSet {
            metadata: ObjectMeta { name: Some("web".to_owned()), generation: Some(3), ..ObjectMeta::default() },
            spec: Some(ReplicaSetSpec {
                replicas: Some(replicas),
                min_ready_seconds: Some(min_ready_s),
                selector: Selector { match_labels: labels, match_expressions: None },
                template: Some(template),
            }),
            status: None,
        }
    }

    fn check(rs: &ReplicaSet, pods: impl IntoIterator<Item = PodBuilder>, expected: &str) {
        check_settled(true, rs, pods, expected);
    }

    fn check_settled(settled: bool, rs: &ReplicaSet, pods: impl IntoIterator<Item = PodBuilder>, expected: &str) {
        let pods: Vec<Arc<Pod>> = pods.into_iter().map(|pod| pod.label("app", "web").arc()).collect();
        let plan = plan(rs, &pods, &pods, settled, now());
        let deleted: Vec<&str> = plan.delete.iter().map(|pod| owners::name(&**pod)).collect();
        let status = &plan.status;
        let shown = format!(
            "create {} delete [{}] replicas={} ready={} available={} terminating={} requeue={:?}",
            plan.create,
            deleted.join(" "),
            status.replicas,
            status.ready_replicas.unwrap_or(0),
            status.available_replicas.unwrap_or(0),
            status.terminating_replicas.unwrap_or(0),
            plan.requeue.map(|wait| wait.as_secs()),
        );
        assert_eq!(shown, expected);
        assert_eq!(status.observed_generation, Some(3));
    }

    #[test]
    fn missing_pods_are_created_in_bursts() {
        check(
            &replica_set(3, 0),
            [ready("a", 9)],
            "create 2 delete [] replicas=1 ready=1 available=1 terminating=0 requeue=None",
        );
        check(
            &replica_set(1000, 0),
            [],
            "create 500 delete [] replicas=0 ready=0 available=0 terminating=0 requeue=None",
        );
    }

    #[test]
    fn surplus_pods_go_least_useful_first() {
        let pods = [ready("a", 600), ready("b", 5), ready("c", 60).unready()];
        check(
            &replica_set(1, 0),
            pods,
            "create 0 delete [c b] replicas=3 ready=2 available=2 terminating=0 requeue=None",
        );
    }

    #[test]
    fn pods_that_are_leaving_are_replaced_and_counted_apart() {
        let pods = [ready("a", 60), ready("b", 60).terminating()];
        check(&replica_set(2, 0), pods, "create 1 delete [] replicas=1 ready=1 available=1 terminating=1 requeue=None");
    }

    #[test]
    fn nothing_is_managed_while_own_writes_are_unseen_or_the_owner_goes() {
        check_settled(
            false,
            &replica_set(2, 0),
            [],
            "create 0 delete [] replicas=0 ready=0 available=0 terminating=0 requeue=None",
        );
        let mut leaving = replica_set(2, 0);
        leaving.metadata.deletion_timestamp = Some(pods::time(now()));
        check(&leaving, [], "create 0 delete [] replicas=0 ready=0 available=0 terminating=0 requeue=None");
    }

    #[test]
    fn availability_is_looked_at_again_when_it_is_due() {
        let pods = [ready("a", 4), ready("b", 7), ready("c", 30)];
        check(
            &replica_set(3, 10),
            pods,
            "create 0 delete [] replicas=3 ready=3 available=1 terminating=0 requeue=Some(3)",
        );
    }

    #[test]
    fn a_failure_is_noted_once_and_lifted_after_a_success() {
        let mut plan = plan(&replica_set(1, 0), &[], &[], true, now());
        let error = kube::Error::LinesCodecMaxLineLengthExceeded;
        note_failure(&mut plan, Some(&error), now());
        note_failure(&mut plan, Some(&error), now());
        let conditions = plan.status.conditions.clone().unwrap_or_default();
        assert_eq!((conditions.len(), conditions[0].reason.as_deref()), (1, Some("FailedCreate")));
        note_failure(&mut plan, None, now());
        assert_eq!(plan.status.conditions, None);
    }
}
