//! Keeps pods with names, claims and an order for each StatefulSet.
//!
//! - [`plan`]: what one step does, purely. [`identity`]: who a pod is. [`claims`]: what it mounts, and who owns that.
//! - The templates that there have been are [`crate::history`]'s.
//!
//! Invariants: a pod is made after its claims, and only when the view has all earlier writes; the status is written after all else
//! and says which revision the pods below the partition are of. Events are in upstream's words.
//! Absent on purpose: events about finished pods, which upstream has given up, and the provisioning of claims, which is others'.
//! Source of the behaviour: `k8s.io/kubernetes/pkg/controller/statefulset`.

mod claims;
mod identity;
mod plan;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};
use wharf_client::{
    Action, Changed, Clock, Error, FENCE_LIMIT, Fences, Index, Informers, Lister, ObjectKey, Reconcile, Recorder,
    Trigger,
};
use wharf_machinery::selector::LabelSelector;
use wharf_types::k8s::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use wharf_types::k8s::api::core::v1::{PersistentVolumeClaim, Pod};

use crate::call::{self, During as _, Failed, gone_is_fine};
use crate::history::{self, Choice, History, Lineage};
use crate::{batch, owners};
use claims::Claims;
use identity::Version;
use plan::{Plan, Step, World, plan};

/// The label of revisions that holds their hash.
const HASH_LABEL: &str = "controller.kubernetes.io/hash";
/// Hashes of a template that collide one after another before a step gives up.
const COLLISION_LIMIT: i32 = 20;

/// Why a step could not be done.
#[derive(Debug, thiserror::Error)]
enum Blocked {
    #[error(transparent)]
    Call(#[from] Failed),
    #[error("pvc {0} is being deleted")]
    ClaimLeaving(String),
    #[error("every name tried for a revision of {0} is taken")]
    Collisions(String),
    #[error("revision {0} holds no template")]
    NoTemplate(String),
}

impl Blocked {
    /// What an event says.
    fn words(&self) -> String {
        match self {
            Self::Call(failed) => call::message(&failed.source),
            other => other.to_string(),
        }
    }

    fn is_namespace_terminating(&self) -> bool {
        matches!(self, Self::Call(failed) if call::is_namespace_terminating(&failed.source))
    }
}

pub struct StatefulSets {
    client: Client,
    sets: Lister<StatefulSet>,
    pods: Lister<Pod>,
    orphans: Index<Pod>,
    claims: Lister<PersistentVolumeClaim>,
    history: History,
    fences: Fences<Pod>,
    /// Own status writes: a step on an older version would lose the race.
    written: Fences<StatefulSet>,
    recorder: Recorder,
    clock: Clock,
}

/// The history of a set, and which of it counts.
struct Versions {
    current: Version,
    update: Version,
    collisions: i32,
    /// All revisions that the view has.
    revisions: Vec<Arc<ControllerRevision>>,
}

impl StatefulSets {
    pub fn new(informers: &Informers, recorder: Recorder, clock: Clock) -> Self {
        let pods = informers.of::<Pod>();
        let sets = informers.of::<StatefulSet>();
        Self {
            client: informers.client().clone(),
            written: Fences::new(sets.clone()),
            sets,
            orphans: owners::orphans(&pods),
            fences: Fences::new(pods.clone()),
            pods,
            claims: informers.of(),
            history: History::new(informers),
            recorder,
            clock,
        }
    }

    async fn claimed(&self, set: &StatefulSet, selector: &LabelSelector) -> Result<Vec<Arc<Pod>>, Failed> {
        let mut candidates = self.pods.by_owner(set.metadata.uid.as_deref().unwrap_or_default());
        candidates.extend(self.orphans.get(set.metadata.namespace.as_deref().unwrap_or_default()));
        let is_member = |pod: &Pod| identity::ordinal(set, pod).is_some();
        owners::settle(&self.client, set, owners::claim_where(&set.metadata, selector, is_member, candidates)).await
    }

    /// Finds the revisions that count, and makes the one of the present template if there is none: not for a set that goes, whose
    /// history goes as well.
    async fn versions(&self, set: &StatefulSet, selector: &LabelSelector) -> Result<Option<Versions>, Blocked> {
        let Some(spec) = &set.spec else { return Err(Blocked::NoTemplate(owners::name(set).to_owned())) };
        let revisions = self.history.claimed(set, selector).await?;
        let data = history::data(&spec.template);
        let Lineage { choice, .. } = history::choose(revisions.clone(), &data);
        let status = set.status.as_ref();
        let mut collisions = status.and_then(|status| status.collision_count).unwrap_or(0);
        let update = match choice {
            Choice::Keep(revision) => revision,
            _ if set.metadata.deletion_timestamp.is_some() => return Ok(None),
            Choice::Renumber(revision, number) => Arc::new(self.history.renumber(&revision, number).await?),
            Choice::Create(number) => Arc::new(self.new_revision(set, &data, number, &mut collisions).await?),
        };
        let current = status.and_then(|status| status.current_revision.as_deref());
        let current = revisions.iter().find(|revision| revision.metadata.name.as_deref() == current);
        let current = version(current.unwrap_or(&update))?;
        Ok(Some(Versions { current, update: version(&update)?, collisions, revisions }))
    }

    async fn new_revision(
        &self,
        set: &StatefulSet,
        data: &serde_json::Value,
        number: i64,
        collisions: &mut i32,
    ) -> Result<ControllerRevision, Blocked> {
        let template = set.spec.as_ref().and_then(|spec| spec.template.metadata.as_ref());
        let labels = template.and_then(|meta| meta.labels.clone()).unwrap_or_default();
        for _ in 0..COLLISION_LIMIT {
            let hash = history::hash(data, *collisions);
            let mut labels = labels.clone();
            labels.insert(HASH_LABEL.to_owned(), hash.clone());
            let revision = history::new(set, data.clone(), number, &hash, labels);
            if let Some(revision) = self.history.create(&revision).await? {
                return Ok(revision);
            }
            *collisions += 1;
        }
        Err(Blocked::Collisions(owners::name(set).to_owned()))
    }

    /// Deletes the oldest revisions that no pod is of, beyond the limit.
    async fn truncate(&self, set: &StatefulSet, versions: &Versions, pods: &[Arc<Pod>]) -> Result<(), Failed> {
        let limit = set.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
        let Ok(limit) = usize::try_from(limit) else { return Ok(()) };
        let mut live: BTreeSet<&str> = pods.iter().map(|pod| identity::revision_of(pod)).collect();
        live.extend([versions.current.name.as_str(), versions.update.name.as_str()]);
        let mut past: Vec<_> =
            versions.revisions.iter().filter(|it| !live.contains(owners::name(&***it))).cloned().collect();
        history::sort(&mut past);
        for revision in &past[..past.len().saturating_sub(limit)] {
            self.history.delete(revision).await?;
        }
        Ok(())
    }

    /// Carries the plan out; the status counts what was done of it.
    async fn act(&self, key: &ObjectKey, set: &StatefulSet, plan: &mut Plan) -> Result<(), Blocked> {
        for phase in [&plan.replicas, &plan.claims, &plan.surplus] {
            if plan.in_order {
                for step in phase {
                    self.step(key, set, step).await?;
                }
                continue;
            }
            let (_, error) = batch::slow_start(phase.len(), |at| self.step(key, set, &phase[at])).await;
            error.map_or(Ok(()), Err)?;
        }
        if let Some(pod) = &plan.outdated {
            self.delete(key, set, pod).await?;
            let current = plan.status.current_replicas.unwrap_or(0) - 1;
            // As upstream, whatever revision it was of.
            plan.status.current_replicas = Some(current.max(0)).filter(|count| *count != 0);
        }
        Ok(())
    }

    async fn step(&self, key: &ObjectKey, set: &StatefulSet, step: &Step) -> Result<(), Blocked> {
        match step {
            Step::Delete(pod) => self.delete(key, set, pod).await,
            Step::Claim { pod, claims } => self.provide(set, pod, claims).await,
            Step::Create { pod, claims } => {
                let created = self.create(key, set, pod, claims).await;
                self.tell(set, ("SuccessfulCreate", "FailedCreate"), "create", pod, &created);
                created
            }
            Step::Mend { pod, changed, claims } => {
                let mended = self.mend(key, set, pod, changed.as_deref(), claims).await;
                self.tell(set, ("SuccessfulUpdate", "FailedUpdate"), "update", pod, &mended);
                mended
            }
        }
    }

    async fn create(&self, key: &ObjectKey, set: &StatefulSet, pod: &Pod, claims: &Claims) -> Result<(), Blocked> {
        self.provide(set, pod, claims).await?;
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        let created = api.create(&PostParams::default(), pod).await.during("create pod", owners::name(pod))?;
        self.fences.wrote(key, &created);
        Ok(())
    }

    async fn mend(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        pod: &Pod,
        changed: Option<&Pod>,
        claims: &Claims,
    ) -> Result<(), Blocked> {
        self.provide(set, pod, claims).await?;
        let Some(changed) = changed else { return Ok(()) };
        let (api, name) = (Api::<Pod>::namespaced(self.client.clone(), &key.namespace), owners::name(pod));
        let written = api.replace(name, &PostParams::default(), changed).await.during("update pod", name)?;
        self.fences.wrote(key, &written);
        Ok(())
    }

    async fn delete(&self, key: &ObjectKey, set: &StatefulSet, pod: &Arc<Pod>) -> Result<(), Blocked> {
        let (api, name) = (Api::<Pod>::namespaced(self.client.clone(), &key.namespace), owners::name(&**pod));
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let deleted = gone_is_fine(api.delete(name, &params).await).during("delete pod", name);
        let deleted = deleted.map(|_| self.fences.deleted(key, pod)).map_err(Blocked::from);
        self.tell(set, ("SuccessfulDelete", "FailedDelete"), "delete", pod, &deleted);
        deleted
    }

    /// Makes the claims of a pod and gives them their owners.
    async fn provide(&self, set: &StatefulSet, pod: &Pod, claims: &Claims) -> Result<(), Blocked> {
        if let Some(name) = &claims.leaving {
            return Err(Blocked::ClaimLeaving(name.clone()));
        }
        for name in &claims.conflicts {
            let message = format!(
                "PersistentVolumeClaim {name} has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim"
            );
            self.recorder.warning(set, "ConflictingController", message);
        }
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let api = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), namespace);
        for claim in &claims.create {
            self.create_claim(set, pod, &api, claim).await?;
        }
        for claim in &claims.update {
            let name = owners::name(claim);
            let written = api.replace(name, &PostParams::default(), claim).await;
            gone_is_fine(written).during("update the owners of claim", name)?;
        }
        Ok(())
    }

    async fn create_claim(
        &self,
        set: &StatefulSet,
        pod: &Pod,
        api: &Api<PersistentVolumeClaim>,
        claim: &PersistentVolumeClaim,
    ) -> Result<(), Failed> {
        let (name, pod, owner) = (owners::name(claim), owners::name(pod), owners::name(set));
        match api.create(&PostParams::default(), claim).await {
            Ok(_) => {
                let message = format!("create Claim {name} Pod {pod} in StatefulSet {owner} success");
                self.recorder.normal(set, "SuccessfulCreate", message);
                Ok(())
            }
            // The view lacks it still; its owners are looked at when it has it.
            Err(error) if call::is_already_exists(&error) => Ok(()),
            Err(error) => {
                if !call::is_namespace_terminating(&error) {
                    let why = call::message(&error);
                    let message =
                        format!("create Claim {name} for Pod {pod} in StatefulSet {owner} failed error: {why}");
                    self.recorder.warning(set, "FailedCreate", message);
                }
                Err(Failed::new("create claim", name, error))
            }
        }
    }

    /// Reports what became of a pod, in upstream's words.
    fn tell(
        &self,
        set: &StatefulSet,
        (done, failed): (&'static str, &'static str),
        verb: &str,
        pod: &Pod,
        outcome: &Result<(), Blocked>,
    ) {
        let what = format!("{verb} Pod {} in StatefulSet {}", owners::name(pod), owners::name(set));
        match outcome {
            Ok(()) => self.recorder.normal(set, done, format!("{what} successful")),
            Err(blocked) if blocked.is_namespace_terminating() => {}
            Err(Blocked::Call(error)) if call::is_already_exists(&error.source) => {}
            Err(blocked) => self.recorder.warning(set, failed, format!("{what} failed error: {}", blocked.words())),
        }
    }

    async fn write_status(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        mut status: StatefulSetStatus,
    ) -> Result<(), Failed> {
        plan::complete(set, &mut status);
        if !plan::differs(set.status.as_ref(), &status) {
            return Ok(());
        }
        let api = Api::<StatefulSet>::namespaced(self.client.clone(), &key.namespace);
        let next = StatefulSet { status: Some(status), ..set.clone() };
        let written = api.replace_status(&key.name, &PostParams::default(), &next).await;
        if let Some(written) = gone_is_fine(written).during("write the status of stateful set", key)? {
            self.written.wrote(key, &written);
        }
        Ok(())
    }
}

#[async_trait]
impl Reconcile for StatefulSets {
    fn name(&self) -> &'static str {
        "statefulset"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let by_selector = self.sets.clone();
        let orphan_wakes = move |changed: &Changed<Pod>| match &changed.new {
            Some(pod) if owners::controller_of(&pod.metadata).is_none() => matching(&by_selector, pod),
            _ => Vec::new(),
        };
        vec![
            Trigger::primary(&self.sets),
            Trigger::owned::<Pod, StatefulSet>(&self.pods),
            Trigger::mapped(&self.pods, orphan_wakes),
            Trigger::mapped(&self.claims, waiting_for),
            Trigger::reads(self.history.lister()),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let current = self.fences.open(key) & self.written.open(key);
        let Some(set) = self.sets.get(key) else {
            self.fences.forget(key);
            self.written.forget(key);
            return Ok(Action::done());
        };
        if !current {
            return Ok(Action::requeue_after(FENCE_LIMIT));
        }
        let Some(spec) = &set.spec else { return Ok(Action::done()) };
        let selector = LabelSelector::from_meta(&spec.selector);
        let versions = match self.versions(&set, &selector).await {
            Err(blocked) if blocked.is_namespace_terminating() => return Ok(Action::done()),
            versions => versions?,
        };
        let Some(versions) = versions else { return Ok(Action::done()) };
        let pods = self.claimed(&set, &selector).await?;
        let namespace = key.namespace.clone();
        let mut plan = plan(&World {
            set: &set,
            current: &versions.current,
            update: &versions.update,
            collisions: versions.collisions,
            pods: &pods,
            claim: &|name| self.claims.get(&ObjectKey::new(&namespace, name)),
            now: self.clock.now(),
        });
        let acted = self.act(key, &set, &mut plan).await;
        self.write_status(key, &set, plan.status).await?;
        self.truncate(&set, &versions, &pods).await?;
        match acted {
            Err(blocked) if !blocked.is_namespace_terminating() => Err(blocked.into()),
            _ => Ok(plan.requeue.map_or(Action::done(), Action::requeue_after)),
        }
    }
}

fn version(revision: &ControllerRevision) -> Result<Version, Blocked> {
    let name = owners::name(revision).to_owned();
    match history::template_of(revision) {
        Some(template) => Ok(Version { name, template }),
        None => Err(Blocked::NoTemplate(name)),
    }
}

/// StatefulSets that would adopt this orphan.
fn matching(sets: &Lister<StatefulSet>, pod: &Pod) -> Vec<ObjectKey> {
    let Some(labels) = pod.metadata.labels.as_ref().filter(|labels| !labels.is_empty()) else { return Vec::new() };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    // A pod can only be of the set that its name tells.
    let Some((parent, _)) = owners::name(pod).rsplit_once('-') else { return Vec::new() };
    let key = ObjectKey::new(namespace, parent);
    let set = sets.get(&key).filter(|set| {
        let selector = set.spec.as_ref().map(|spec| LabelSelector::from_meta(&spec.selector));
        selector.is_some_and(|selector| selector.matches(labels))
    });
    set.map(|_| key).into_iter().collect()
}

/// A claim that is gone may be what the pod of its set waits for.
fn waiting_for(changed: &Changed<PersistentVolumeClaim>) -> Vec<ObjectKey> {
    let is_gone = match (&changed.old, &changed.new) {
        (Some(old), Some(new)) => old.metadata.uid != new.metadata.uid,
        (_, new) => new.is_none(),
    };
    let references = changed.old.iter().flat_map(|claim| claim.metadata.owner_references.iter().flatten());
    let of_reference = |kind: &str, name: &str| match kind {
        "StatefulSet" => Some(name.to_owned()),
        "Pod" => name.rsplit_once('-').map(|(parent, _)| parent.to_owned()),
        _ => None,
    };
    let names = references.filter(|_| is_gone).filter_map(|it| of_reference(&it.kind, &it.name));
    let names: BTreeSet<String> = names.collect();
    names.iter().map(|name| ObjectKey::new(&changed.key.namespace, name)).collect()
}

#[cfg(test)]
mod fixtures {
    //! StatefulSets for tests, described briefly.

    use super::*;
    use crate::history::fixtures::template;
    use crate::pods::{self, fixtures::now};
    use wharf_types::k8s::api::apps::v1::{
        RollingUpdateStatefulSetStrategy, StatefulSetOrdinals, StatefulSetPersistentVolumeClaimRetentionPolicy,
        StatefulSetSpec, StatefulSetUpdateStrategy,
    };
    use wharf_types::meta::{LabelSelector as Selector, ObjectMeta};

    pub struct SetBuilder(pub StatefulSet);

    /// A set `web` that updates by rolling, from its first pod on.
    pub fn set(replicas: i32) -> SetBuilder {
        let match_labels = template("v1").metadata.and_then(|meta| meta.labels);
        let spec = StatefulSetSpec {
            replicas: Some(replicas),
            service_name: Some("svc".to_owned()),
            selector: Selector { match_labels, match_expressions: None },
            template: template("v1"),
            ..StatefulSetSpec::default()
        };
        let metadata = ObjectMeta {
            name: Some("web".to_owned()),
            namespace: Some("default".to_owned()),
            uid: Some("uid-web".to_owned()),
            generation: Some(3),
            ..ObjectMeta::default()
        };
        SetBuilder(StatefulSet { metadata, spec: Some(spec), status: None }).partition(0)
    }

    impl SetBuilder {
        fn spec(&mut self) -> &mut StatefulSetSpec {
            self.0.spec.as_mut().expect("has one")
        }

        fn strategy(mut self, kind: &str, partition: Option<i32>) -> Self {
            let rolling_update = partition.map(|partition| RollingUpdateStatefulSetStrategy {
                partition: Some(partition),
                max_unavailable: None,
            });
            self.spec().update_strategy =
                Some(StatefulSetUpdateStrategy { type_: Some(kind.to_owned()), rolling_update });
            self
        }

        pub fn partition(self, partition: i32) -> Self {
            self.strategy("RollingUpdate", Some(partition))
        }

        /// Rolls without saying how.
        pub fn bare(self) -> Self {
            self.strategy("RollingUpdate", None)
        }

        pub fn on_delete(self) -> Self {
            self.strategy("OnDelete", None)
        }

        pub fn parallel(mut self) -> Self {
            self.spec().pod_management_policy = Some("Parallel".to_owned());
            self
        }

        pub fn min_ready(mut self, seconds: i32) -> Self {
            self.spec().min_ready_seconds = Some(seconds);
            self
        }

        pub fn start(mut self, ordinal: i32) -> Self {
            self.spec().ordinals = Some(StatefulSetOrdinals { start: Some(ordinal) });
            self
        }

        pub fn claim(mut self, name: &str) -> Self {
            let metadata = ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some([("tier".to_owned(), "store".to_owned())].into()),
                annotations: Some([("note".to_owned(), "kept".to_owned())].into()),
                ..ObjectMeta::default()
            };
            let claim = PersistentVolumeClaim { metadata, ..PersistentVolumeClaim::default() };
            self.spec().volume_claim_templates.get_or_insert_default().push(claim);
            self
        }

        pub fn retention(mut self, deleted: &str, scaled: &str) -> Self {
            self.spec().persistent_volume_claim_retention_policy =
                Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                    when_deleted: Some(deleted.to_owned()),
                    when_scaled: Some(scaled.to_owned()),
                });
            self
        }

        pub fn current_replicas(mut self, count: i32) -> Self {
            self.0.status = Some(StatefulSetStatus { current_replicas: Some(count), ..StatefulSetStatus::default() });
            self
        }

        pub fn going(mut self) -> Self {
            self.0.metadata.deletion_timestamp = Some(pods::time(now()));
            self
        }
    }
}
