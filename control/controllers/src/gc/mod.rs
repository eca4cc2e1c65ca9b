//! The garbage collector: deletes objects whose owners are gone, and does what a deletion said about dependents.
//!
//! - [`graph`]: who owns whom, kept by [`monitors`], one metadata-only watch for each resource that can be deleted.
//! - [`judge`]: what becomes of one object; pure.
//!
//! Cost is O(changes): an object is looked at when it or an owner of it changes in a way that matters, and the server is asked
//! before anything is deleted; the graph only raises suspicion.
//! Invariants: a delete names the UID it means; no step runs before every watch has listed once, so an owner is not taken for
//! absent because its kind comes later; a cluster-scoped object is never deleted for a namespaced owner.
//! Source of the behaviour: `k8s.io/kubernetes/pkg/controller/garbagecollector`.

mod graph;
mod judge;
mod monitors;

use std::sync::Arc;

use async_trait::async_trait;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::{Value, json};
use wharf_client::{Action, Error, ObjectKey, Reconcile, Trigger};
use wharf_types::meta::OwnerReference;

use crate::batch;
use crate::call::{self, During as _, Failed, gone_is_fine};
use crate::discovery::Metadata;
use graph::{Graph, Identity, Node};
use judge::{FOREGROUND, ORPHAN, Owner, Verdict, judge};
use monitors::{Monitors, Resources};

pub struct GarbageCollector {
    client: Client,
    graph: Arc<Mutex<Graph>>,
    resources: Arc<Resources>,
}

impl GarbageCollector {
    pub fn new(client: Client) -> Self {
        Self { client, graph: Arc::default(), resources: Arc::default() }
    }

    fn api(&self, identity: &Identity) -> Option<Api<Metadata>> {
        let resource = self.resources.find(&identity.api_version, &identity.kind)?;
        if resource.namespaced && identity.namespace.is_empty() {
            return None;
        }
        Some(if resource.namespaced {
            Api::namespaced_with(self.client.clone(), &identity.namespace, &resource.api)
        } else {
            Api::all_with(self.client.clone(), &resource.api)
        })
    }

    /// The object as the server has it, if it is still that one.
    async fn live(&self, identity: &Identity) -> Result<Option<Metadata>, Failed> {
        let Some(api) = self.api(identity) else { return Ok(None) };
        let live = api.get_opt(&identity.name).await.during("read", identity)?;
        Ok(live.filter(|live| live.metadata.uid.as_deref() == Some(&*identity.uid)))
    }

    /// What the server says about an owner that an object names.
    async fn owner(&self, dependent: &Identity, reference: &OwnerReference) -> Result<Owner, Failed> {
        let Some(resource) = self.resources.find(&reference.api_version, &reference.kind) else {
            // A kind that is not served now, perhaps not yet: never a reason to delete.
            return Ok(Owner::Solid);
        };
        if resource.namespaced && dependent.namespace.is_empty() {
            tracing::warn!(%dependent, owner = reference.name, "a cluster-scoped object names a namespaced owner");
            return Ok(Owner::Solid);
        }
        let namespace = if resource.namespaced { &*dependent.namespace } else { "" };
        let identity = Identity {
            uid: reference.uid.as_str().into(),
            api_version: reference.api_version.as_str().into(),
            kind: reference.kind.as_str().into(),
            namespace: namespace.into(),
            name: reference.name.as_str().into(),
        };
        let Some(live) = self.live(&identity).await? else { return Ok(Owner::Absent) };
        let foreground = live.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FOREGROUND);
        let waiting = live.metadata.deletion_timestamp.is_some() && foreground;
        Ok(if waiting { Owner::WaitingForDependents } else { Owner::Solid })
    }

    /// Looks at one object and does what is to be done. True when that is all for now.
    async fn process(&self, node: &Node) -> Result<bool, Failed> {
        if node.is_deleted && !node.orphans_dependents && !node.deletes_dependents {
            return Ok(true);
        }
        let Some(live) = self.live(&node.identity).await? else {
            // It is gone, or it never was: whoever names it as owner must be looked at.
            self.graph.lock().remove(&node.identity.uid);
            return Ok(true);
        };
        if node.is_virtual {
            // It is there; its watch will tell soon.
            return Ok(!self.graph.lock().is_virtual(&node.identity.uid));
        }
        if node.orphans_dependents {
            return self.orphan(node, &live).await.map(|()| true);
        }
        if node.deletes_dependents {
            return self.finish_foreground(node, &live).await.map(|()| true);
        }
        let mut owners = Vec::new();
        for reference in live.metadata.owner_references.iter().flatten() {
            owners.push((reference.clone(), self.owner(&node.identity, reference).await?));
        }
        let has_dependents = self.graph.lock().has_dependents(&node.identity.uid);
        match judge(&live.metadata, &owners, has_dependents) {
            Verdict::Keep => {}
            Verdict::DropOwners(keep) => self.set_owners(&node.identity, &live, keep).await?,
            Verdict::Delete(policy) => {
                if policy == PropagationPolicy::Foreground {
                    self.break_circle(node).await?;
                }
                self.delete(&node.identity, &live, policy).await?;
            }
        }
        Ok(true)
    }

    async fn delete(&self, identity: &Identity, live: &Metadata, policy: PropagationPolicy) -> Result<(), Failed> {
        let Some(api) = self.api(identity) else { return Ok(()) };
        let preconditions =
            Preconditions { uid: live.metadata.uid.clone(), resource_version: live.metadata.resource_version.clone() };
        let params = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        gone_is_fine(api.delete(&identity.name, &params).await).during("delete", identity).map(|_| ())
    }

    /// Takes the owner off all dependents, then lets it go.
    async fn orphan(&self, node: &Node, live: &Metadata) -> Result<(), Failed> {
        let dependents = self.graph.lock().dependents(&node.identity.uid);
        let (_, error) = batch::all(dependents, async |dependent: Node| {
            let Some(live) = self.live(&dependent.identity).await? else { return Ok(()) };
            let others =
                live.metadata.owner_references.iter().flatten().filter(|owner| owner.uid != *node.identity.uid);
            let others = others.cloned().collect();
            self.set_owners(&dependent.identity, &live, others).await
        })
        .await;
        error.map_or(Ok(()), Err)?;
        self.remove_finalizer(&node.identity, live, ORPHAN).await
    }

    /// An object that waits for its dependents goes when none is left that blocks it.
    async fn finish_foreground(&self, node: &Node, live: &Metadata) -> Result<(), Failed> {
        let graph = &self.graph;
        if graph.lock().wake_blocking_dependents(&node.identity.uid) > 0 {
            return Ok(());
        }
        self.remove_finalizer(&node.identity, live, FOREGROUND).await
    }

    /// Dependents that wait for their own dependents might wait for this object: they stop blocking it.
    async fn break_circle(&self, node: &Node) -> Result<(), Failed> {
        let dependents = self.graph.lock().dependents(&node.identity.uid);
        if !dependents.iter().any(|dependent| dependent.deletes_dependents) {
            return Ok(());
        }
        let Some(live) = self.live(&node.identity).await? else { return Ok(()) };
        let mut owners: Vec<OwnerReference> = live.metadata.owner_references.clone().unwrap_or_default();
        owners.iter_mut().for_each(|owner| owner.block_owner_deletion = Some(false));
        self.set_owners(&node.identity, &live, owners).await
    }

    async fn set_owners(
        &self,
        identity: &Identity,
        live: &Metadata,
        owners: Vec<OwnerReference>,
    ) -> Result<(), Failed> {
        self.patch(identity, live, json!({"ownerReferences": owners}), "set the owners of").await
    }

    async fn remove_finalizer(&self, identity: &Identity, live: &Metadata, finalizer: &str) -> Result<(), Failed> {
        let all = live.metadata.finalizers.iter().flatten();
        let others: Vec<&String> = all.clone().filter(|other| *other != finalizer).collect();
        if others.len() == all.count() {
            return Ok(());
        }
        self.patch(identity, live, json!({"finalizers": others}), "remove a finalizer of").await
    }

    /// Changes the metadata of this very version of the object.
    async fn patch(
        &self,
        identity: &Identity,
        live: &Metadata,
        mut fields: Value,
        what: &'static str,
    ) -> Result<(), Failed> {
        let Some(api) = self.api(identity) else { return Ok(()) };
        fields["resourceVersion"] = json!(live.metadata.resource_version);
        fields["uid"] = json!(live.metadata.uid);
        let patch = Patch::Merge(json!({"metadata": fields}));
        gone_is_fine(api.patch(&identity.name, &PatchParams::default(), &patch).await)
            .during(what, identity)
            .map(|_| ())
    }
}

/// Keys are UIDs: owner references mean UIDs, whatever has the name now.
#[async_trait]
impl Reconcile for GarbageCollector {
    fn name(&self) -> &'static str {
        "garbage-collector"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let monitors = Monitors::new(self.client.clone(), self.graph.clone(), self.resources.clone());
        let synced = monitors.synced();
        vec![Trigger::custom(synced, move |queue| monitors.run(queue))]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(node) = self.graph.lock().get(&key.name) else { return Ok(Action::done()) };
        match self.process(&node).await {
            Ok(true) => Ok(Action::done()),
            Ok(false) => Ok(Action::requeue_after(monitors::UNSEEN_PAUSE)),
            Err(failed) if call::is_not_found(&failed.source) => Ok(Action::requeue_after(monitors::UNSEEN_PAUSE)),
            Err(failed) => Err(failed.into()),
        }
    }
}
