//! Moves each Deployment's pods from one template to the next, through ReplicaSets.
//!
//! - [`plan`]: what one step does, purely: the order of upstream's `syncDeployment`.
//! - [`rollout`]: how many replicas each ReplicaSet gets. [`revision`]: hashes, revisions, annotations.
//!   [`progress`]: status and conditions, in the words that `kubectl rollout status` reads.
//!
//! Invariants: ReplicaSets are created before others are scaled, the status is written last, and a step waits until the view shows
//! what the step before wrote. `kubectl rollout undo` patches the template, so there is no rollback here; the old annotation
//! `deprecated.deployment.rollback.to` is absent on purpose.
//! Source of the behaviour: `k8s.io/kubernetes/pkg/controller/deployment`.

mod plan;
mod progress;
mod revision;
mod rollout;

use std::sync::Arc;

use async_trait::async_trait;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};
use wharf_client::{
    Action, Changed, Clock, Error, FENCE_LIMIT, Fences, Index, Informers, Lister, ObjectKey, Reconcile, Recorder,
    Trigger,
};
use wharf_machinery::selector::LabelSelector;
use wharf_types::k8s::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use wharf_types::k8s::api::core::v1::Pod;

use crate::call::{self, During as _, Failed, gone_is_fine};
use crate::{owners, pods};
use plan::{Plan, Step, plan};

pub struct Deployments {
    client: Client,
    deployments: Lister<Deployment>,
    replica_sets: Lister<ReplicaSet>,
    orphans: Index<ReplicaSet>,
    pods: Lister<Pod>,
    fences: Fences<ReplicaSet>,
    /// Own writes of the Deployment itself.
    written: Fences<Deployment>,
    recorder: Recorder,
    clock: Clock,
}

impl Deployments {
    pub fn new(informers: &Informers, recorder: Recorder, clock: Clock) -> Self {
        let replica_sets = informers.of::<ReplicaSet>();
        let deployments = informers.of::<Deployment>();
        Self {
            client: informers.client().clone(),
            written: Fences::new(deployments.clone()),
            deployments,
            orphans: owners::orphans(&replica_sets),
            fences: Fences::new(replica_sets.clone()),
            replica_sets,
            pods: informers.of(),
            recorder,
            clock,
        }
    }

    async fn owned(&self, deployment: &Deployment, selector: &LabelSelector) -> Result<Vec<Arc<ReplicaSet>>, Failed> {
        let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
        let mut candidates = self.replica_sets.by_owner(uid);
        candidates.extend(self.orphans.get(deployment.metadata.namespace.as_deref().unwrap_or_default()));
        owners::settle(&self.client, deployment, owners::claim(&deployment.metadata, selector, candidates)).await
    }

    /// Whether pods of this ReplicaSet still run or may still run.
    fn has_live_pods(&self, rs: &ReplicaSet) -> bool {
        let pods = self.pods.by_owner(rs.metadata.uid.as_deref().unwrap_or_default());
        pods.iter().any(|pod| !pods::is_terminal(pod))
    }

    async fn act(&self, key: &ObjectKey, deployment: &Deployment, plan: Plan) -> Result<(), Failed> {
        let api = Api::<ReplicaSet>::namespaced(self.client.clone(), &key.namespace);
        for step in plan.steps {
            match step {
                Step::Create(rs) => self.create(key, deployment, &api, *rs).await?,
                Step::Update { rs, scaled } => self.update(key, deployment, &api, *rs, scaled).await?,
                Step::Delete(rs) => {
                    let preconditions = Preconditions {
                        uid: rs.metadata.uid.clone(),
                        resource_version: rs.metadata.resource_version.clone(),
                    };
                    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
                    gone_is_fine(api.delete(owners::name(&*rs), &params).await)
                        .during("delete replica set", owners::name(&*rs))?;
                    self.fences.deleted(key, &rs);
                }
            }
        }
        let Some(revision) = plan.revision else { return self.write_status(key, deployment, plan.status).await };
        let mut next = deployment.clone();
        next.metadata.annotations.get_or_insert_default().insert(revision::REVISION.to_owned(), revision);
        let api = Api::<Deployment>::namespaced(self.client.clone(), &key.namespace);
        // By way of the status, as upstream: an annotation that is written otherwise makes a new generation.
        let written = gone_is_fine(api.replace_status(&key.name, &PostParams::default(), &next).await);
        let Some(written) = written.during("note the revision of deployment", key)? else { return Ok(()) };
        self.written.wrote(key, &written);
        self.write_status(key, &written, plan.status).await
    }

    async fn create(
        &self,
        key: &ObjectKey,
        deployment: &Deployment,
        api: &Api<ReplicaSet>,
        rs: ReplicaSet,
    ) -> Result<(), Failed> {
        let name = owners::name(&rs).to_owned();
        match api.create(&PostParams::default(), &rs).await {
            Ok(created) => {
                self.fences.wrote(key, &created);
                let replicas = rs.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
                if replicas > 0 {
                    self.note_scaled(deployment, &name, (0, replicas));
                }
                Ok(())
            }
            Err(error) if call::is_already_exists(&error) => {
                self.resolve_collision(key, deployment, api, &name, error).await
            }
            Err(error) if call::is_namespace_terminating(&error) => {
                Err(Failed::new("create replica set", &name, error))
            }
            Err(error) => {
                let message = format!("Failed to create new replica set {name:?}: {}", call::message(&error));
                self.recorder.warning(deployment, progress::CREATE_ERROR, message.clone());
                let status = progress::create_failed(deployment, message, self.clock.now());
                self.write_status(key, deployment, status).await?;
                Err(Failed::new("create replica set", &name, error))
            }
        }
    }

    /// The name is taken: by our own set that the view lacks, or by another whose hash is the same.
    async fn resolve_collision(
        &self,
        key: &ObjectKey,
        deployment: &Deployment,
        api: &Api<ReplicaSet>,
        name: &str,
        error: kube::Error,
    ) -> Result<(), Failed> {
        let Some(there) = api.get_opt(name).await.during("read replica set", name)? else {
            return Err(Failed::new("create replica set", name, error));
        };
        let ours = owners::is_controlled_by(&there.metadata, deployment.metadata.uid.as_deref().unwrap_or_default());
        let template = deployment.spec.as_ref().map(|spec| &spec.template);
        let same = there.spec.as_ref().and_then(|spec| spec.template.as_ref()).zip(template);
        if ours && same.is_some_and(|(one, other)| revision::same_template(one, other)) {
            self.fences.wrote(key, &there);
            return Ok(());
        }
        let mut status = deployment.status.clone().unwrap_or_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        self.write_status(key, deployment, status).await?;
        Err(Failed::new("create replica set", name, error))
    }

    async fn update(
        &self,
        key: &ObjectKey,
        deployment: &Deployment,
        api: &Api<ReplicaSet>,
        rs: ReplicaSet,
        scaled: Option<(i32, i32)>,
    ) -> Result<(), Failed> {
        let name = owners::name(&rs);
        let written = api.replace(name, &PostParams::default(), &rs).await.during("update replica set", name)?;
        self.fences.wrote(key, &written);
        if let Some(scaled) = scaled {
            self.note_scaled(deployment, name, scaled);
        }
        Ok(())
    }

    fn note_scaled(&self, deployment: &Deployment, name: &str, (from, to): (i32, i32)) {
        let direction = if to > from { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {name} from {from} to {to}");
        self.recorder.normal(deployment, "ScalingReplicaSet", message);
    }

    async fn write_status(
        &self,
        key: &ObjectKey,
        deployment: &Deployment,
        status: DeploymentStatus,
    ) -> Result<(), Failed> {
        if deployment.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let api = Api::<Deployment>::namespaced(self.client.clone(), &key.namespace);
        let next = Deployment { status: Some(status), ..deployment.clone() };
        let written = api.replace_status(&key.name, &PostParams::default(), &next).await;
        if let Some(written) = gone_is_fine(written).during("write the status of deployment", key)? {
            self.written.wrote(key, &written);
        }
        Ok(())
    }
}

#[async_trait]
impl Reconcile for Deployments {
    fn name(&self) -> &'static str {
        "deployment"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let deployments = self.deployments.clone();
        let orphan_wakes = move |changed: &Changed<ReplicaSet>| match &changed.new {
            Some(rs) if owners::controller_of(&rs.metadata).is_none() => matching(&deployments, rs),
            _ => Vec::new(),
        };
        let (deployments, replica_sets) = (self.deployments.clone(), self.replica_sets.clone());
        let pod_wakes =
            move |changed: &Changed<Pod>| recreated(&deployments, &replica_sets, changed).into_iter().collect();
        vec![
            Trigger::primary(&self.deployments),
            Trigger::owned::<ReplicaSet, Deployment>(&self.replica_sets),
            Trigger::mapped(&self.replica_sets, orphan_wakes),
            Trigger::mapped(&self.pods, pod_wakes),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let current = self.fences.open(key) & self.written.open(key);
        let Some(deployment) = self.deployments.get(key) else {
            self.fences.forget(key);
            self.written.forget(key);
            return Ok(Action::done());
        };
        if !current {
            return Ok(Action::requeue_after(FENCE_LIMIT));
        }
        let Some(spec) = &deployment.spec else { return Ok(Action::done()) };
        let selector = LabelSelector::from_meta(&spec.selector);
        if selector.is_everything() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.recorder.warning(&*deployment, "SelectingAll", message);
            let mut status = deployment.status.clone().unwrap_or_default();
            status.observed_generation = deployment.metadata.generation;
            self.write_status(key, &deployment, status).await?;
            return Ok(Action::done());
        }
        let sets = self.owned(&deployment, &selector).await?;
        let plan = plan(&deployment, &sets, |rs| self.has_live_pods(rs), self.clock.now());
        let requeue = plan.requeue;
        self.act(key, &deployment, plan).await?;
        Ok(requeue.map_or(Action::done(), Action::requeue_after))
    }
}

/// Deployments that select this orphan.
fn matching(deployments: &Lister<Deployment>, rs: &ReplicaSet) -> Vec<ObjectKey> {
    let Some(labels) = rs.metadata.labels.as_ref().filter(|labels| !labels.is_empty()) else { return Vec::new() };
    let in_namespace = deployments.list_in(rs.metadata.namespace.as_deref().unwrap_or_default()).into_iter();
    let selecting = in_namespace.filter(|deployment| {
        let selector = deployment.spec.as_ref().map(|spec| LabelSelector::from_meta(&spec.selector));
        selector.is_some_and(|selector| !selector.is_everything() && selector.matches(labels))
    });
    selecting.map(|deployment| ObjectKey::of(&*deployment)).collect()
}

/// A `Recreate` rollout waits for the end of old pods, so those wake it.
fn recreated(
    deployments: &Lister<Deployment>,
    replica_sets: &Lister<ReplicaSet>,
    changed: &Changed<Pod>,
) -> Option<ObjectKey> {
    if changed.new.as_ref().is_some_and(|pod| !pods::is_terminal(pod)) {
        return None;
    }
    let namespace = &changed.key.namespace;
    let set = owners::controller_of(&changed.latest().metadata).filter(|owner| owner.kind == "ReplicaSet")?;
    let set = replica_sets.get(&ObjectKey::new(namespace, &set.name))?;
    let owner = owners::controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment")?;
    let deployment = deployments.get(&ObjectKey::new(namespace, &owner.name))?;
    rollout::is_recreate(&deployment).then(|| ObjectKey::of(&*deployment))
}
