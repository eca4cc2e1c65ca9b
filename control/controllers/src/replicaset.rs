//! Keeps `spec.replicas` pods alive for each ReplicaSet.
//!
//! Level-triggered: reads the world each run. Invariants: creations and deletions are fenced, so no pod is counted twice before
//! the watch shows it; the status is written last. Source of the behaviour: `k8s.io/kubernetes/pkg/controller/replicaset`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};
use wharf_client::{
    Action, Clock, Error, FENCE_LIMIT, Fences, Index, Informers, Lister, ObjectKey, Reconcile, Recorder, Trigger,
};
use wharf_machinery::selector::LabelSelector;
use wharf_types::k8s::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use wharf_types::k8s::api::core::v1::Pod;

use crate::batch;
use crate::call::{self, During as _, Failed, gone_is_fine};
use crate::owners;
use crate::pods::{self, Ranked};

/// Pods that one step creates or deletes at most. Source: `BurstReplicas`.
const BURST: usize = 500;

pub struct ReplicaSets {
    client: Client,
    replica_sets: Lister<ReplicaSet>,
    pods: Lister<Pod>,
    orphans: Index<Pod>,
    fences: Fences<Pod>,
    /// Own status writes: a step on an older version would lose the race.
    written: Fences<ReplicaSet>,
    recorder: Recorder,
    clock: Clock,
}

impl ReplicaSets {
    pub fn new(informers: &Informers, recorder: Recorder, clock: Clock) -> Self {
        let pods = informers.of::<Pod>();
        let replica_sets = informers.of::<ReplicaSet>();
        Self {
            client: informers.client().clone(),
            written: Fences::new(replica_sets.clone()),
            replica_sets,
            orphans: owners::orphans(&pods),
            fences: Fences::new(pods.clone()),
            pods,
            recorder,
            clock,
        }
    }

    /// Owned pods and orphans that match, active or on their way out.
    async fn claimed(&self, rs: &ReplicaSet) -> Result<Vec<Arc<Pod>>, Failed> {
        let Some(spec) = &rs.spec else { return Ok(Vec::new()) };
        let uid = rs.metadata.uid.as_deref().unwrap_or_default();
        let namespace = rs.metadata.namespace.as_deref().unwrap_or_default();
        let mut candidates = self.pods.by_owner(uid);
        candidates.extend(self.orphans.get(namespace));
        candidates.retain(|pod| !pods::is_terminal(pod));
        let claims = owners::claim(&rs.metadata, &LabelSelector::from_meta(&spec.selector), candidates);
        owners::settle(&self.client, rs, claims).await
    }

    /// Active pods of all ReplicaSets that have the same controller: a Deployment's old and new pods.
    fn family(&self, rs: &ReplicaSet, own: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        let Some(controller) = owners::controller_of(&rs.metadata) else { return own.to_vec() };
        let siblings = self.replica_sets.by_owner(&controller.uid);
        let uids = siblings.iter().filter_map(|sibling| sibling.metadata.uid.as_deref());
        uids.flat_map(|uid| self.pods.by_owner(uid)).collect()
    }

    async fn act(&self, key: &ObjectKey, rs: &ReplicaSet, plan: &Plan) -> Option<kube::Error> {
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        if let Some(template) = rs.spec.as_ref().and_then(|spec| spec.template.as_ref()).filter(|_| plan.create > 0) {
            let pod = pods::from_template(template, rs);
            let (_, error) = batch::slow_start(plan.create, |_| self.create(key, rs, &api, &pod)).await;
            return error.filter(|error| !call::is_namespace_terminating(error));
        }
        batch::all(plan.delete.iter().cloned(), |pod| self.delete(key, rs, &api, pod)).await.1
    }

    async fn create(&self, key: &ObjectKey, rs: &ReplicaSet, api: &Api<Pod>, pod: &Pod) -> Result<(), kube::Error> {
        match api.create(&PostParams::default(), pod).await {
            Ok(created) => {
                self.fences.wrote(key, &created);
                self.recorder.normal(rs, "SuccessfulCreate", format!("Created pod: {}", owners::name(&created)));
                Ok(())
            }
            Err(error) => {
                if !call::is_namespace_terminating(&error) {
                    self.recorder.warning(rs, "FailedCreate", format!("Error creating: {}", call::message(&error)));
                }
                Err(error)
            }
        }
    }

    async fn delete(&self, key: &ObjectKey, rs: &ReplicaSet, api: &Api<Pod>, pod: Arc<Pod>) -> Result<(), kube::Error> {
        let name = owners::name(&*pod);
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match gone_is_fine(api.delete(name, &params).await) {
            Ok(_) => {
                self.fences.deleted(key, &pod);
                self.recorder.normal(rs, "SuccessfulDelete", format!("Deleted pod: {name}"));
                Ok(())
            }
            Err(error) => {
                self.recorder.warning(rs, "FailedDelete", format!("Error deleting: {}", call::message(&error)));
                Err(error)
            }
        }
    }

    async fn write_status(&self, key: &ObjectKey, rs: &ReplicaSet, status: ReplicaSetStatus) -> Result<(), Failed> {
        if rs.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let api = Api::<ReplicaSet>::namespaced(self.client.clone(), &key.namespace);
        let updated = ReplicaSet { status: Some(status), ..rs.clone() };
        let written = api.replace_status(&key.name, &PostParams::default(), &updated).await;
        if let Some(written) = gone_is_fine(written).during("write the status of replica set", key)? {
            self.written.wrote(key, &written);
        }
        Ok(())
    }
}

#[async_trait]
impl Reconcile for ReplicaSets {
    fn name(&self) -> &'static str {
        "replicaset"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let by_selector = self.replica_sets.clone();
        let orphan_wakes = move |changed: &wharf_client::Changed<Pod>| match &changed.new {
            Some(pod) if owners::controller_of(&pod.metadata).is_none() => matching(&by_selector, pod),
            _ => Vec::new(),
        };
        vec![
            Trigger::primary(&self.replica_sets),
            Trigger::owned::<Pod, ReplicaSet>(&self.pods),
            Trigger::mapped(&self.pods, orphan_wakes),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let current = self.written.open(key);
        let Some(rs) = self.replica_sets.get(key) else {
            self.fences.forget(key);
            self.written.forget(key);
            return Ok(Action::done());
        };
        if !current {
            return Ok(Action::requeue_after(FENCE_LIMIT));
        }
        let settled = self.fences.open(key);
        let claimed = self.claimed(&rs).await?;
        let family = self.family(&rs, &claimed);
        let mut plan = plan(&rs, &claimed, &family, settled, self.clock.now());
        let error = self.act(key, &rs, &plan).await;
        note_failure(&mut plan, error.as_ref(), self.clock.now());
        self.write_status(key, &rs, plan.status).await?;
        if let Some(error) = error {
            return Err(Failed::new("manage the pods of replica set", key, error).into());
        }
        let fallback = if settled { Action::done() } else { Action::requeue_after(FENCE_LIMIT) };
        Ok(plan.requeue.map_or(Action::done(), Action::requeue_after).and(fallback))
    }
}

/// ReplicaSets that select this orphan.
fn matching(replica_sets: &Lister<ReplicaSet>, pod: &Pod) -> Vec<ObjectKey> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let Some(labels) = pod.metadata.labels.as_ref().filter(|labels| !labels.is_empty()) else { return Vec::new() };
    let in_namespace = replica_sets.list_in(namespace).into_iter();
    let selecting = in_namespace
        .filter(|rs| rs.spec.as_ref().is_some_and(|spec| LabelSelector::from_meta(&spec.selector).matches(labels)));
    selecting.map(|rs| ObjectKey::of(&*rs)).collect()
}

/// What one step does. At most one of `create` and `delete` is not empty.
#[derive(Debug)]
struct Plan {
    create: usize,
    delete: Vec<Arc<Pod>>,
    status: ReplicaSetStatus,
    requeue: Option<Duration>,
}

/// Pure: same inputs, same plan. `settled` means that the view has all earlier writes.
fn plan(rs: &ReplicaSet, claimed: &[Arc<Pod>], family: &[Arc<Pod>], settled: bool, now: Timestamp) -> Plan {
    let active: Vec<&Arc<Pod>> = claimed.iter().filter(|pod| pods::is_active(pod)).collect();
    let wanted = rs.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1).max(0) as usize;
    let manage = settled && rs.metadata.deletion_timestamp.is_none();
    let (mut create, mut delete) = (0, Vec::new());
    if manage && active.len() < wanted {
        create = (wanted - active.len()).min(BURST);
    } else if manage && active.len() > wanted {
        delete = surplus(&active, family, (active.len() - wanted).min(BURST), now);
    }
    let min_ready_s = rs.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let requeue =
        active.iter().filter_map(|pod| pods::available_in(pod, min_ready_s, now)).filter(|wait| !wait.is_zero()).min();
    Plan { create, delete, status: status(rs, claimed, &active, min_ready_s, now), requeue }
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

fn status(
    rs: &ReplicaSet,
    claimed: &[Arc<Pod>],
    active: &[&Arc<Pod>],
    min_ready_s: i32,
    now: Timestamp,
) -> ReplicaSetStatus {
    let template =
        rs.spec.as_ref().and_then(|spec| spec.template.as_ref()).and_then(|template| template.metadata.as_ref());
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
        available_replicas: some(count(&|pod| pods::is_available(pod, min_ready_s, now))),
        terminating_replicas: Some(terminating),
        observed_generation: rs.metadata.generation,
        conditions: rs.status.as_ref().and_then(|status| status.conditions.clone()),
    }
}

const REPLICA_FAILURE: &str = "ReplicaFailure";

/// Sets or lifts the condition that tells why pods could not be managed.
fn note_failure(plan: &mut Plan, error: Option<&kube::Error>, now: Timestamp) {
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
    use crate::pods::fixtures::{PodBuilder, now, ready};
    use wharf_types::k8s::api::apps::v1::ReplicaSetSpec;
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
