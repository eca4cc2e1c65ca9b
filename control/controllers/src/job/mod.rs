//! Runs each Job's pods until enough of them succeeded, or it is clear that they will not.
//!
//! - [`plan`]: what one step does, purely. [`indexes`]: sets of completion indexes. [`policy`]: what a failed pod means.
//!
//! Every pod is counted exactly once, across crashes: a finished pod is first noted in `status.uncountedTerminatedPods`, then
//! loses its finalizer, and is added to a counter only when the view shows it without. The status is written with the
//! version it was decided on, so a stale step loses the race and runs again.
//! Source of the behaviour: `k8s.io/kubernetes/pkg/controller/job`.

mod indexes;
mod plan;
mod policy;

use std::sync::Arc;

use async_trait::async_trait;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;
use wharf_client::{
    Action, Changed, Clock, Error, FENCE_LIMIT, Fences, Index, Informers, Lister, ObjectKey, Reconcile, Recorder,
    Trigger,
};
use wharf_machinery::selector::LabelSelector;
use wharf_types::k8s::api::batch::v1::{Job, JobStatus};
use wharf_types::k8s::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

use crate::batch;
use crate::call::{self, During as _, Failed, gone_is_fine};
use crate::{owners, pods};
use indexes::INDEX;
use plan::{FAILURES, FINALIZER, Fresh, IGNORED_FAILURES, Plan, plan};

pub use plan::{COMPLETE, FAILED, end, finished_at};

const CONTROLLER: &str = "kubernetes.io/job-controller";
/// The label by which a pod names its Job.
const JOB_NAME: &str = "batch.kubernetes.io/job-name";

pub struct Jobs {
    client: Client,
    jobs: Lister<Job>,
    pods: Lister<Pod>,
    /// Pods with our finalizer, by their Job's key: also of Jobs that are gone, and those that somebody took from their Job.
    tracked: Index<Pod>,
    orphans: Index<Pod>,
    fences: Fences<Pod>,
    /// Own status writes: a step on an older version would lose the race.
    written: Fences<Job>,
    recorder: Recorder,
    clock: Clock,
}

impl Jobs {
    pub fn new(informers: &Informers, recorder: Recorder, clock: Clock) -> Self {
        let pods = informers.of::<Pod>();
        let jobs = informers.of::<Job>();
        Self {
            client: informers.client().clone(),
            written: Fences::new(jobs.clone()),
            jobs,
            tracked: pods.index(|pod| tracked_for(pod).map(|key| key.to_string()).into_iter().collect()),
            orphans: owners::orphans(&pods),
            fences: Fences::new(pods.clone()),
            pods,
            recorder,
            clock,
        }
    }

    /// The Job's pods, after orphans that match were adopted and pods that do not were let go.
    async fn claimed(&self, job: &Job) -> Result<Vec<Arc<Pod>>, Failed> {
        let Some(selector) = job.spec.as_ref().and_then(|spec| spec.selector.as_ref()) else { return Ok(Vec::new()) };
        let mut candidates = self.pods.by_owner(job.metadata.uid.as_deref().unwrap_or_default());
        candidates.extend(self.orphans.get(job.metadata.namespace.as_deref().unwrap_or_default()));
        let claims = owners::claim(&job.metadata, &LabelSelector::from_meta(selector), candidates);
        owners::settle_held(&self.client, job, claims, Some(FINALIZER)).await
    }

    async fn act(&self, key: &ObjectKey, job: &Job, plan: &Plan) -> Result<(), Failed> {
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        let (_, error) = batch::all(plan.delete.iter().cloned(), |pod| self.delete(key, job, &api, pod)).await;
        error.map_or(Ok(()), Err)?;
        let (_, error) = batch::slow_start(plan.create.len(), |at| self.create(key, job, &api, plan.create[at])).await;
        let created = error.map_or(Ok(()), Err);
        if matches!(&created, Err(failed) if call::is_namespace_terminating(&failed.source)) {
            return Ok(());
        }
        created?;
        self.write_status(key, job, &plan.status).await?;
        for note in &plan.notes {
            note.tell(&self.recorder, job);
        }
        self.release(key, &plan.release).await
    }

    async fn create(&self, key: &ObjectKey, job: &Job, api: &Api<Pod>, fresh: Fresh) -> Result<(), Failed> {
        match api.create(&PostParams::default(), &new_pod(job, fresh)).await {
            Ok(created) => {
                self.fences.wrote(key, &created);
                self.recorder.normal(job, "SuccessfulCreate", format!("Created pod: {}", owners::name(&created)));
                Ok(())
            }
            Err(error) => {
                if !call::is_namespace_terminating(&error) {
                    self.recorder.warning(job, "FailedCreate", format!("Error creating: {}", call::message(&error)));
                }
                Err(Failed::new("create a pod of job", key, error))
            }
        }
    }

    async fn delete(&self, key: &ObjectKey, job: &Job, api: &Api<Pod>, pod: Arc<Pod>) -> Result<(), Failed> {
        let name = owners::name(&*pod);
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        gone_is_fine(api.delete(name, &params).await).during("delete pod", name)?;
        self.fences.deleted(key, &pod);
        self.recorder.normal(job, "SuccessfulDelete", format!("Deleted pod: {name}"));
        Ok(())
    }

    /// Lets go of pods that are noted, or that nobody counts.
    async fn release(&self, key: &ObjectKey, released: &[Arc<Pod>]) -> Result<(), Failed> {
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        let (_, error) = batch::all(released.iter().cloned(), async |pod: Arc<Pod>| {
            let others: Vec<&String> =
                pod.metadata.finalizers.iter().flatten().filter(|finalizer| *finalizer != FINALIZER).collect();
            let patch = Patch::Merge(json!({"metadata": {
                "uid": pod.metadata.uid,
                "resourceVersion": pod.metadata.resource_version,
                "finalizers": others,
            }}));
            let name = owners::name(&*pod);
            let patched = gone_is_fine(api.patch(name, &PatchParams::default(), &patch).await);
            match patched {
                // The pod has changed; its event wakes this Job again.
                Err(error) if call::is_conflict(&error) => Ok(()),
                patched => patched.during("release pod", name).map(|_| ()),
            }
        })
        .await;
        error.map_or(Ok(()), Err)
    }

    async fn write_status(&self, key: &ObjectKey, job: &Job, status: &JobStatus) -> Result<(), Failed> {
        if job.status.as_ref() == Some(status) {
            return Ok(());
        }
        let api = Api::<Job>::namespaced(self.client.clone(), &key.namespace);
        let updated = Job { status: Some(status.clone()), ..job.clone() };
        let written = api.replace_status(&key.name, &PostParams::default(), &updated).await;
        if let Some(written) = gone_is_fine(written).during("write the status of job", key)? {
            self.written.wrote(key, &written);
        }
        Ok(())
    }
}

#[async_trait]
impl Reconcile for Jobs {
    fn name(&self) -> &'static str {
        "job"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let by_selector = self.jobs.clone();
        let orphan_wakes = move |changed: &Changed<Pod>| match &changed.new {
            Some(pod) if owners::controller_of(&pod.metadata).is_none() => concerned(&by_selector, pod),
            _ => Vec::new(),
        };
        vec![
            Trigger::primary(&self.jobs),
            Trigger::owned::<Pod, Job>(&self.pods),
            Trigger::mapped(&self.pods, orphan_wakes),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let current = self.written.open(key);
        let job = self.jobs.get(key);
        let mut left_over = self.tracked.get(&key.to_string());
        left_over.retain(|pod| !job.as_ref().is_some_and(|job| counts(job, pod)));
        self.release(key, &left_over).await?;
        let Some(job) = job else {
            self.fences.forget(key);
            self.written.forget(key);
            return Ok(Action::done());
        };
        if !current {
            return Ok(Action::requeue_after(FENCE_LIMIT));
        }
        let manager = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
        if manager.is_some_and(|manager| manager != CONTROLLER) {
            return Ok(Action::done());
        }
        let settled = self.fences.open(key);
        let owned = self.claimed(&job).await?;
        let plan = plan(&job, &owned, settled, self.clock.now());
        self.act(key, &job, &plan).await?;
        let fallback = if settled { Action::done() } else { Action::requeue_after(FENCE_LIMIT) };
        Ok(plan.requeue.map_or(Action::done(), Action::requeue_after).and(fallback))
    }
}

/// The Job that tracks this pod; of one that nobody controls, the Job that made it.
fn tracked_for(pod: &Pod) -> Option<ObjectKey> {
    pod.metadata.finalizers.iter().flatten().find(|finalizer| *finalizer == FINALIZER)?;
    let name = match owners::controller_of(&pod.metadata) {
        Some(owner) => Some(&owner.name).filter(|_| owner.kind == "Job"),
        None => pod.metadata.labels.as_ref().and_then(|labels| labels.get(JOB_NAME)),
    };
    Some(ObjectKey::new(pod.metadata.namespace.as_deref().unwrap_or_default(), name?))
}

/// Jobs to which this orphan matters: those that select it, and the one that tracked it.
fn concerned(jobs: &Lister<Job>, pod: &Pod) -> Vec<ObjectKey> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let selecting = jobs.list_in(namespace).into_iter().filter(|job| may_adopt(job, pod));
    selecting.map(|job| ObjectKey::of(&*job)).chain(tracked_for(pod)).collect()
}

fn selects(job: &Job, pod: &Pod) -> bool {
    let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let labels = pod.metadata.labels.as_ref();
    labels.zip(selector).is_some_and(|(labels, selector)| LabelSelector::from_meta(selector).matches(labels))
}

/// The pod belongs to nobody, and the Job would have it.
fn may_adopt(job: &Job, pod: &Pod) -> bool {
    let stays = job.metadata.deletion_timestamp.is_none() && pod.metadata.deletion_timestamp.is_none();
    stays && owners::controller_of(&pod.metadata).is_none() && selects(job, pod)
}

/// The Job will count the pod, or let go of it with its ownership.
fn counts(job: &Job, pod: &Pod) -> bool {
    let is_mine = owners::is_controlled_by(&pod.metadata, job.metadata.uid.as_deref().unwrap_or_default());
    if is_mine { job.metadata.deletion_timestamp.is_none() || selects(job, pod) } else { may_adopt(job, pod) }
}

/// A pod of the Job; with an index, the one that works on that index and is told so.
fn new_pod(job: &Job, fresh: Fresh) -> Pod {
    let template = job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let mut pod = pods::from_template(&template, job);
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
    if let Some(failures) = fresh.failures {
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(FAILURES.to_owned(), failures.counted.to_string());
        if failures.ignored > 0 {
            annotations.insert(IGNORED_FAILURES.to_owned(), failures.ignored.to_string());
        }
    }
    let Some(index) = fresh.index else { return pod };
    let name = owners::name(job);
    pod.metadata.generate_name = Some(pods::name_prefix(&format!("{name}-{index}")));
    pod.metadata.annotations.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    if let Some(spec) = &mut pod.spec {
        spec.hostname.get_or_insert_with(|| format!("{name}-{index}"));
        let containers = spec.init_containers.iter_mut().flatten().chain(&mut spec.containers);
        containers.for_each(|container| tell_index(container.env.get_or_insert_default()));
    }
    pod
}

const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

fn tell_index(env: &mut Vec<EnvVar>) {
    if env.iter().any(|variable| variable.name == INDEX_VARIABLE) {
        return;
    }
    let field = ObjectFieldSelector { api_version: None, field_path: format!("metadata.labels['{INDEX}']") };
    let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    env.push(EnvVar { name: INDEX_VARIABLE.to_owned(), value: None, value_from: Some(source) });
}
