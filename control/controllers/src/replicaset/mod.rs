//! Keeps `spec.replicas` pods alive for each ReplicaSet and each ReplicationController.
//!
//! - [`kind`]: what the two kinds have in common. [`plan`]: what one step does, purely.
//!
//! Level-triggered: reads the world each run. Invariants: creations and deletions are fenced, so no pod is counted twice before
//! the watch shows it; the status is written last. Source of the behaviour: `k8s.io/kubernetes/pkg/controller/replicaset`.

mod kind;
mod plan;

use std::sync::Arc;

use async_trait::async_trait;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};
use wharf_client::{
    Action, Clock, Error, FENCE_LIMIT, Fences, Index, Informers, Lister, ObjectKey, Reconcile, Recorder, Trigger,
};
use wharf_types::k8s::api::apps::v1::ReplicaSetStatus;
use wharf_types::k8s::api::core::v1::Pod;

use self::kind::Set;
use self::plan::{Plan, note_failure, plan};
use crate::call::{self, During as _, Failed, gone_is_fine};
use crate::{batch, owners, pods};

/// The controller of one kind of set.
pub struct Sets<K> {
    client: Client,
    sets: Lister<K>,
    pods: Lister<Pod>,
    orphans: Index<Pod>,
    fences: Fences<Pod>,
    /// Own status writes: a step on an older version would lose the race.
    written: Fences<K>,
    recorder: Recorder,
    clock: Clock,
}

impl<K: Set> Sets<K> {
    pub fn new(informers: &Informers, recorder: Recorder, clock: Clock) -> Self {
        let pods = informers.of::<Pod>();
        let sets = informers.of::<K>();
        Self {
            client: informers.client().clone(),
            written: Fences::new(sets.clone()),
            sets,
            orphans: owners::orphans(&pods),
            fences: Fences::new(pods.clone()),
            pods,
            recorder,
            clock,
        }
    }

    /// Owned pods and orphans that match, active or on their way out. Those on their way out keep the owner that they have.
    async fn claimed(&self, set: &K) -> Result<Vec<Arc<Pod>>, Failed> {
        let Some(selector) = set.selector() else { return Ok(Vec::new()) };
        let meta = set.meta();
        let mut candidates = self.pods.by_owner(meta.uid.as_deref().unwrap_or_default());
        candidates.extend(self.orphans.get(meta.namespace.as_deref().unwrap_or_default()));
        candidates.retain(|pod| !pods::is_terminal(pod));
        let (active, leaving): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|pod| pods::is_active(pod));
        let mut claimed = owners::settle(&self.client, set, owners::claim(meta, &selector, active)).await?;
        claimed.extend(owners::claim(meta, &selector, leaving).keep);
        Ok(claimed)
    }

    /// Pods of all sets that have the same controller: a Deployment's old and new ones. A set of nobody has no family, not
    /// even its own pods: nodes count for nothing then.
    fn family(&self, set: &K) -> Vec<Arc<Pod>> {
        let Some(controller) = owners::controller_of(set.meta()) else { return Vec::new() };
        let siblings = self.sets.by_owner(&controller.uid);
        let uids = siblings.iter().filter_map(|sibling| sibling.meta().uid.as_deref());
        uids.flat_map(|uid| self.pods.by_owner(uid)).collect()
    }

    async fn act(&self, key: &ObjectKey, set: &K, plan: &Plan) -> Option<kube::Error> {
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        if let Some(template) = set.template().filter(|_| plan.create > 0) {
            let pod = pods::from_template(template, set);
            let (_, error) = batch::slow_start(plan.create, |_| self.create(key, set, &api, &pod)).await;
            return error.filter(|error| !call::is_namespace_terminating(error));
        }
        batch::all(plan.delete.iter().cloned(), |pod| self.delete(key, set, &api, pod)).await.1
    }

    async fn create(&self, key: &ObjectKey, set: &K, api: &Api<Pod>, pod: &Pod) -> Result<(), kube::Error> {
        match api.create(&PostParams::default(), pod).await {
            Ok(created) => {
                self.fences.wrote(key, &created);
                self.recorder.normal(set, "SuccessfulCreate", format!("Created pod: {}", owners::name(&created)));
                Ok(())
            }
            Err(error) => {
                if !call::is_namespace_terminating(&error) {
                    self.recorder.warning(set, "FailedCreate", format!("Error creating: {}", call::message(&error)));
                }
                Err(error)
            }
        }
    }

    async fn delete(&self, key: &ObjectKey, set: &K, api: &Api<Pod>, pod: Arc<Pod>) -> Result<(), kube::Error> {
        let name = owners::name(&*pod);
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match gone_is_fine(api.delete(name, &params).await) {
            Ok(_) => {
                self.fences.deleted(key, &pod);
                self.recorder.normal(set, "SuccessfulDelete", format!("Deleted pod: {name}"));
                Ok(())
            }
            Err(error) => {
                self.recorder.warning(set, "FailedDelete", format!("Error deleting: {}", call::message(&error)));
                Err(error)
            }
        }
    }

    async fn write_status(&self, key: &ObjectKey, set: &K, status: ReplicaSetStatus) -> Result<(), Failed> {
        let updated = set.with_status(status);
        if *set == updated {
            return Ok(());
        }
        let api = Api::<K>::namespaced(self.client.clone(), &key.namespace);
        let written = api.replace_status(&key.name, &PostParams::default(), &updated).await;
        if let Some(written) = gone_is_fine(written).during("write the status of", key)? {
            self.written.wrote(key, &written);
        }
        Ok(())
    }
}

#[async_trait]
impl<K: Set> Reconcile for Sets<K> {
    fn name(&self) -> &'static str {
        K::LOOP
    }

    fn triggers(&self) -> Vec<Trigger> {
        let by_selector = self.sets.clone();
        let orphan_wakes = move |changed: &wharf_client::Changed<Pod>| match &changed.new {
            Some(pod) if owners::controller_of(&pod.metadata).is_none() => matching(&by_selector, pod),
            _ => Vec::new(),
        };
        vec![
            Trigger::primary(&self.sets),
            Trigger::owned::<Pod, K>(&self.pods),
            Trigger::mapped(&self.pods, orphan_wakes),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let current = self.written.open(key);
        let Some(set) = self.sets.get(key) else {
            self.fences.forget(key);
            self.written.forget(key);
            return Ok(Action::done());
        };
        if !current {
            return Ok(Action::requeue_after(FENCE_LIMIT));
        }
        let settled = self.fences.open(key);
        let claimed = self.claimed(&set).await?;
        let mut plan = plan(&*set, &claimed, &self.family(&set), settled, self.clock.now());
        let error = self.act(key, &set, &plan).await;
        note_failure(&mut plan, error.as_ref(), self.clock.now());
        self.write_status(key, &set, plan.status).await?;
        if let Some(error) = error {
            return Err(Failed::new("manage the pods of", key, error).into());
        }
        let fallback = if settled { Action::done() } else { Action::requeue_after(FENCE_LIMIT) };
        Ok(plan.requeue.map_or(Action::done(), Action::requeue_after).and(fallback))
    }
}

/// Sets that select this orphan.
fn matching<K: Set>(sets: &Lister<K>, pod: &Pod) -> Vec<ObjectKey> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let Some(labels) = pod.metadata.labels.as_ref().filter(|labels| !labels.is_empty()) else { return Vec::new() };
    let in_namespace = sets.list_in(namespace).into_iter();
    let selecting = in_namespace.filter(|set| set.selector().is_some_and(|selector| selector.matches(labels)));
    selecting.map(|set| ObjectKey::of(&*set)).collect()
}
