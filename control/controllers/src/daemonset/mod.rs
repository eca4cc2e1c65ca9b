//! Runs a pod on each node that a DaemonSet is meant for.
//!
//! - [`plan`]: what one step does, purely. [`nodes`]: which nodes those are. [`backoff`]: patience with pods that fail.
//! - The templates that there have been are [`crate::history`]'s. The scheduler binds the pods, which name their node.
//!
//! Invariants: creations and deletions are fenced; of all revisions of the present template one stays; the status is written last.
//! A node wakes only those sets to which its change matters, and the creation of a revision wakes none, as upstream.
//! Source of the behaviour: `k8s.io/kubernetes/pkg/controller/daemon`.

mod backoff;
mod nodes;
mod plan;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;
use wharf_client::{
    Action, Changed, Clock, Error, FENCE_LIMIT, Fences, Index, Informers, Lister, ObjectKey, Reconcile, Recorder,
    Trigger,
};
use wharf_machinery::selector::LabelSelector;
use wharf_types::k8s::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use wharf_types::k8s::api::core::v1::{Node, Pod, PodTemplateSpec};
use wharf_types::meta::ObjectMeta;

use crate::call::{self, During as _, Failed, gone_is_fine};
use crate::history::{self, Choice, History, Lineage, REVISION_LABEL};
use crate::podcontrol::PodControl;
use crate::{batch, owners, pods, template};
use backoff::{Backoff, Era};
use nodes::Rules;
use plan::{GENERATION_LABEL, Note, Plan, World, plan};

/// Why a step could not be done.
#[derive(Debug, thiserror::Error)]
enum Blocked {
    #[error(transparent)]
    Call(#[from] Failed),
    #[error("the name of revision {0} is taken by another template; trying another name")]
    Collision(String),
    #[error("daemon set {0} has no spec")]
    NoSpec(String),
}

impl Blocked {
    fn is_namespace_terminating(&self) -> bool {
        matches!(self, Self::Call(failed) if call::is_namespace_terminating(&failed.source))
    }
}

pub struct DaemonSets {
    client: Client,
    sets: Lister<DaemonSet>,
    pods: Lister<Pod>,
    orphans: Index<Pod>,
    nodes: Lister<Node>,
    history: History,
    fences: Fences<Pod>,
    /// Own status writes: a step on an older version would lose the race.
    written: Fences<DaemonSet>,
    backoff: Mutex<Backoff>,
    recorder: Recorder,
    clock: Clock,
}

/// The revision of the present template, beside those of former ones.
struct Revisions {
    hash: String,
    old: Vec<Arc<ControllerRevision>>,
}

impl DaemonSets {
    pub fn new(informers: &Informers, recorder: Recorder, clock: Clock) -> Self {
        let pods = informers.of::<Pod>();
        let sets = informers.of::<DaemonSet>();
        Self {
            client: informers.client().clone(),
            written: Fences::new(sets.clone()),
            sets,
            orphans: owners::orphans(&pods),
            fences: Fences::new(pods.clone()),
            pods,
            nodes: informers.of(),
            history: History::new(informers),
            backoff: Mutex::default(),
            recorder,
            clock,
        }
    }

    async fn claimed(&self, set: &DaemonSet, selector: &LabelSelector) -> Result<Vec<Arc<Pod>>, Failed> {
        let mut candidates = self.pods.by_owner(set.metadata.uid.as_deref().unwrap_or_default());
        candidates.extend(self.orphans.get(set.metadata.namespace.as_deref().unwrap_or_default()));
        owners::settle(&self.client, set, owners::claim(&set.metadata, selector, candidates)).await
    }

    /// Finds the revision of the present template, and makes it if there is none. Of several one stays, and takes the pods
    /// of the others over. Source: `constructHistory`.
    async fn revisions(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        selector: &LabelSelector,
        pods: &mut [Arc<Pod>],
    ) -> Result<Revisions, Blocked> {
        let Some(spec) = &set.spec else { return Err(Blocked::NoSpec(key.to_string())) };
        let mut revisions = self.history.claimed(set, selector).await?;
        for revision in revisions.iter_mut().filter(|revision| hash_of(&revision.metadata).is_none()) {
            let mut labelled = ControllerRevision::clone(revision);
            let name = owners::name(&**revision).to_owned();
            labelled.metadata.labels.get_or_insert_default().insert(REVISION_LABEL.to_owned(), name);
            *revision = Arc::new(self.history.replace(&labelled).await?);
        }
        let Lineage { choice, old, duplicates } = history::choose(revisions, &history::data(&spec.template));
        let (present, number) = match choice {
            Choice::Create(number) => (Arc::new(self.snapshot(key, set, &spec.template, number).await?), None),
            Choice::Keep(revision) => (revision, None),
            Choice::Renumber(revision, number) => (revision, Some(number)),
        };
        let hash = hash_of(&present.metadata).unwrap_or_default().to_owned();
        if !duplicates.is_empty() {
            self.relabel(key, pods, &hash).await?;
        }
        for revision in &duplicates {
            self.history.delete(revision).await?;
        }
        if let Some(number) = number {
            self.history.renumber(&present, number).await?;
        }
        Ok(Revisions { hash, old })
    }

    async fn relabel(&self, key: &ObjectKey, pods: &mut [Arc<Pod>], hash: &str) -> Result<(), Failed> {
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        for pod in pods.iter_mut().filter(|pod| hash_of(&pod.metadata) != Some(hash)) {
            let patch = Patch::Merge(json!({"metadata": {"labels": {REVISION_LABEL: hash}}}));
            let name = owners::name(&**pod);
            let patched =
                gone_is_fine(api.patch(name, &PatchParams::default(), &patch).await).during("label pod", name)?;
            if let Some(patched) = patched {
                self.fences.wrote(key, &patched);
                *pod = Arc::new(patched);
            }
        }
        Ok(())
    }

    async fn snapshot(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        template: &PodTemplateSpec,
        number: i64,
    ) -> Result<ControllerRevision, Blocked> {
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        let hash = template::hash(template, collisions);
        let mut labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
        labels.insert(REVISION_LABEL.to_owned(), hash.clone());
        let revision = history::new(set, history::data(template), number, &hash, labels);
        match self.history.create(&revision).await? {
            Some(revision) => Ok(revision),
            None => {
                let mut status = set.status.clone().unwrap_or_default();
                status.collision_count = Some(collisions.unwrap_or(0) + 1);
                self.write_status(key, set, status).await?;
                Err(Blocked::Collision(owners::name(&revision).to_owned()))
            }
        }
    }

    /// Deletes the oldest revisions that no pod is of, beyond the limit.
    async fn truncate(
        &self,
        set: &DaemonSet,
        old: &[Arc<ControllerRevision>],
        pods: &[Arc<Pod>],
    ) -> Result<(), Failed> {
        let limit = set.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        let live: BTreeSet<&str> = pods.iter().filter_map(|pod| hash_of(&pod.metadata)).collect();
        let past = old.iter().filter(|revision| hash_of(&revision.metadata).is_none_or(|hash| !live.contains(hash)));
        for revision in past.take(surplus) {
            self.history.delete(revision).await?;
        }
        Ok(())
    }

    async fn act(&self, key: &ObjectKey, set: &DaemonSet, hash: &str, plan: &Plan) -> Result<(), Failed> {
        let (client, recorder) = (&self.client, &self.recorder);
        let control = PodControl { client, recorder, fences: &self.fences, key, owner: set };
        for note in &plan.notes {
            match note {
                Note::Failed(words) => recorder.warning(set, "FailedDaemonPod", words.clone()),
                Note::Succeeded(words) => recorder.normal(set, "SucceededDaemonPod", words.clone()),
            }
        }
        let (era, now) = (era(set), self.clock.now());
        plan.failed_on.iter().for_each(|node| self.backoff.lock().failed(key, &era, node, now));
        let (_, not_created) = batch::slow_start(plan.create.len(), async |at: usize| {
            control.create(&new_pod(set, hash, &plan.create[at])).await
        })
        .await;
        let not_created = not_created.filter(|error| !call::is_namespace_terminating(error));
        let (_, not_deleted) =
            batch::all(plan.delete.iter().cloned(), async |pod: Arc<Pod>| control.delete(&pod).await).await;
        let error = not_created.or(not_deleted);
        error.map_or(Ok(()), |error| Err(Failed::new("manage the pods of daemon set", key, error)))
    }

    async fn write_status(&self, key: &ObjectKey, set: &DaemonSet, status: DaemonSetStatus) -> Result<(), Failed> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let api = Api::<DaemonSet>::namespaced(self.client.clone(), &key.namespace);
        let next = DaemonSet { status: Some(status), ..set.clone() };
        let written = api.replace_status(&key.name, &PostParams::default(), &next).await;
        if let Some(written) = gone_is_fine(written).during("write the status of daemon set", key)? {
            self.written.wrote(key, &written);
        }
        Ok(())
    }

    /// Everything that is done for a set that stays.
    async fn step(&self, key: &ObjectKey, set: &DaemonSet, selector: &LabelSelector) -> Result<Action, Blocked> {
        let settled = self.fences.open(key);
        let mut pods = self.claimed(set, selector).await?;
        let revisions = self.revisions(key, set, selector, &mut pods).await?;
        let (era, now, nodes) = (era(set), self.clock.now(), self.nodes.list());
        let plan = plan(&World {
            set,
            nodes: &nodes,
            pods: &pods,
            hash: &revisions.hash,
            backoff: &|node| self.backoff.lock().left(key, &era, node, now),
            settled,
            now,
        });
        let acted = self.act(key, set, &revisions.hash, &plan).await;
        let tidied = if settled && acted.is_ok() { self.truncate(set, &revisions.old, &pods).await } else { Ok(()) };
        self.write_status(key, set, plan.status).await?;
        acted?;
        tidied?;
        let fallback = if settled { Action::done() } else { Action::requeue_after(FENCE_LIMIT) };
        Ok(plan.requeue.map_or(Action::done(), Action::requeue_after).and(fallback))
    }
}

#[async_trait]
impl Reconcile for DaemonSets {
    fn name(&self) -> &'static str {
        "daemonset"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let sets = self.sets.clone();
        let orphan_wakes = move |changed: &Changed<Pod>| match &changed.new {
            Some(pod) if owners::controller_of(&pod.metadata).is_none() => matching(&sets, &pod.metadata),
            _ => Vec::new(),
        };
        let sets = self.sets.clone();
        let revision_wakes = move |changed: &Changed<ControllerRevision>| concerned(&sets, changed);
        let sets = self.sets.clone();
        let node_wakes = move |changed: &Changed<Node>| affected(&sets, changed);
        vec![
            Trigger::primary(&self.sets),
            Trigger::owned::<Pod, DaemonSet>(&self.pods),
            Trigger::mapped(&self.pods, orphan_wakes),
            Trigger::mapped(self.history.lister(), revision_wakes),
            Trigger::mapped(&self.nodes, node_wakes),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let current = self.written.open(key);
        let Some(set) = self.sets.get(key) else {
            self.fences.forget(key);
            self.written.forget(key);
            self.backoff.lock().forget(key);
            return Ok(Action::done());
        };
        if !current {
            return Ok(Action::requeue_after(FENCE_LIMIT));
        }
        // Its history goes as well, so nothing could be told of it.
        let Some(spec) = set.spec.as_ref().filter(|_| set.metadata.deletion_timestamp.is_none()) else {
            return Ok(Action::done());
        };
        let selector = LabelSelector::from_meta(&spec.selector);
        if selector.is_everything() {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.recorder.warning(&*set, "SelectingAll", message);
            return Ok(Action::done());
        }
        match self.step(key, &set, &selector).await {
            Err(blocked) if blocked.is_namespace_terminating() => Ok(Action::done()),
            done => Ok(done?),
        }
    }
}

fn era(set: &DaemonSet) -> Era {
    let generation = set.status.as_ref().and_then(|status| status.observed_generation);
    Era { uid: set.metadata.uid.clone(), generation }
}

/// The hash that pods and revisions carry.
fn hash_of(meta: &ObjectMeta) -> Option<&str> {
    meta.labels.as_ref()?.get(REVISION_LABEL).map(String::as_str)
}

/// The pod for a node. Source: `CreatePodTemplate` and `ReplaceDaemonSetPodNodeNameNodeAffinity`.
fn new_pod(set: &DaemonSet, hash: &str, node: &str) -> Pod {
    let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let mut pod = pods::from_template(&template, set);
    let labels = pod.metadata.labels.get_or_insert_default();
    if let Some(generation) = plan::template_generation(set) {
        labels.insert(GENERATION_LABEL.to_owned(), generation.to_string());
    }
    labels.insert(REVISION_LABEL.to_owned(), hash.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.tolerations = Some(nodes::tolerations(spec));
    nodes::pin(spec, node);
    pod
}

/// DaemonSets that select this orphan.
fn matching(sets: &Lister<DaemonSet>, orphan: &ObjectMeta) -> Vec<ObjectKey> {
    let Some(labels) = orphan.labels.as_ref().filter(|labels| !labels.is_empty()) else { return Vec::new() };
    let in_namespace = sets.list_in(orphan.namespace.as_deref().unwrap_or_default()).into_iter();
    let selecting = in_namespace.filter(|set| {
        let selector = set.spec.as_ref().map(|spec| LabelSelector::from_meta(&spec.selector));
        selector.is_some_and(|selector| !selector.is_everything() && selector.matches(labels))
    });
    selecting.map(|set| ObjectKey::of(&*set)).collect()
}

/// DaemonSets that must look at their history again. One that is new and owned is no reason: whoever made it, knows.
fn concerned(sets: &Lister<DaemonSet>, changed: &Changed<ControllerRevision>) -> Vec<ObjectKey> {
    let owner = |revision: &ControllerRevision| {
        let owner = owners::controller_of(&revision.metadata).filter(|owner| owner.kind == "DaemonSet")?;
        Some(ObjectKey::new(&changed.key.namespace, &owner.name))
    };
    match (&changed.old, &changed.new) {
        (None, Some(new)) if owners::controller_of(&new.metadata).is_some() => Vec::new(),
        (_, Some(new)) if owners::controller_of(&new.metadata).is_none() => {
            let former = changed.old.as_deref().and_then(owner);
            former.into_iter().chain(matching(sets, &new.metadata)).collect()
        }
        (old, new) => [old, new].into_iter().flatten().filter_map(|revision| owner(revision)).collect(),
    }
}

/// DaemonSets for which the node has become something else.
fn affected(sets: &Lister<DaemonSet>, changed: &Changed<Node>) -> Vec<ObjectKey> {
    if let (Some(old), Some(new)) = (&changed.old, &changed.new)
        && !nodes::may_matter(old, new)
    {
        return Vec::new();
    }
    let matters = |set: &Arc<DaemonSet>| {
        let rules = Rules::of(set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()));
        let fit = |node: &Option<Arc<Node>>| node.as_ref().map(|node| rules.fit(node)).unwrap_or_default();
        fit(&changed.old) != fit(&changed.new)
    };
    sets.list().iter().filter(|set| matters(set)).map(|set| ObjectKey::of(&**set)).collect()
}

#[cfg(test)]
mod fixtures {
    //! DaemonSets and nodes for tests, described briefly.

    use super::*;
    use wharf_types::k8s::api::apps::v1::{DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet};
    use wharf_types::k8s::apimachinery::pkg::util::intstr::IntOrString;
    use wharf_types::meta::LabelSelector as Selector;

    pub struct DaemonBuilder(pub DaemonSet);

    /// A set `agent` that is updated one node after another.
    pub fn daemon() -> DaemonBuilder {
        let template = history::fixtures::template("v1");
        let match_labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone());
        let spec = DaemonSetSpec {
            selector: Selector { match_labels, match_expressions: None },
            template,
            ..DaemonSetSpec::default()
        };
        let metadata = ObjectMeta {
            name: Some("agent".to_owned()),
            namespace: Some("default".to_owned()),
            uid: Some("uid-agent".to_owned()),
            generation: Some(3),
            ..ObjectMeta::default()
        };
        DaemonBuilder(DaemonSet { metadata, spec: Some(spec), status: None }).unavailable("1")
    }

    fn count(text: &str) -> Option<IntOrString> {
        Some(text.parse().map_or_else(|_| IntOrString::String(text.to_owned()), IntOrString::Int))
    }

    impl DaemonBuilder {
        fn strategy(mut self, kind: &str, rolling_update: Option<RollingUpdateDaemonSet>) -> Self {
            let strategy = DaemonSetUpdateStrategy { type_: Some(kind.to_owned()), rolling_update };
            self.0.spec.get_or_insert_default().update_strategy = Some(strategy);
            self
        }

        pub fn unavailable(self, value: &str) -> Self {
            let rolling = RollingUpdateDaemonSet { max_unavailable: count(value), max_surge: count("0") };
            self.strategy("RollingUpdate", Some(rolling))
        }

        pub fn surge(self, value: &str) -> Self {
            let rolling = RollingUpdateDaemonSet { max_unavailable: count("0"), max_surge: count(value) };
            self.strategy("RollingUpdate", Some(rolling))
        }

        pub fn on_delete(self) -> Self {
            self.strategy("OnDelete", None)
        }

        pub fn min_ready(mut self, seconds: i32) -> Self {
            self.0.spec.get_or_insert_default().min_ready_seconds = Some(seconds);
            self
        }

        pub fn template_generation(mut self, number: i64) -> Self {
            let annotation = ("deprecated.daemonset.template.generation".to_owned(), number.to_string());
            self.0.metadata.annotations = Some([annotation].into());
            self
        }
    }

    pub fn node(name: &str) -> Arc<Node> {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        Arc::new(Node { metadata, ..Node::default() })
    }

    pub fn tainted(name: &str, effect: &str) -> Arc<Node> {
        let taint = json!({"metadata": {"name": name}, "spec": {"taints": [{"key": "k", "effect": effect}]}});
        Arc::new(serde_json::from_value(taint).expect("a node"))
    }
}

#[cfg(test)]
mod tests {
    use super::fixtures::daemon;
    use super::*;

    #[test]
    fn a_new_pod_names_its_node_and_its_revision() {
        let pod = new_pod(&daemon().template_generation(2).0, "abc", "n7");
        assert_eq!(pod.metadata.generate_name.as_deref(), Some("agent-"));
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(labels.join(" "), "app=web controller-revision-hash=abc pod-template-generation=2");
        assert_eq!(nodes::target(&pod), Some("n7"));
        let tolerated = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_ref()).map(Vec::len);
        assert_eq!(tolerated, Some(6));
        assert!(owners::is_controlled_by(&pod.metadata, "uid-agent"));
    }
}
