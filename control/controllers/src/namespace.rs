//! Empties namespaces that are being deleted, then lets them go.
//!
//! Pods go first, and nothing else is touched before they are gone: they may need their Secrets and volumes to stop well.
//! Invariants: a namespace is finalized only when a look at every resource found nothing in it.
//! Absent on purpose: a watch on all that remains; the next look comes with the last pod or after a pause.
//! Source of the behaviour: `k8s.io/kubernetes/pkg/controller/namespace/deletion`.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use wharf_client::{Action, Changed, Clock, Error, Informers, Lister, ObjectKey, Reconcile, Trigger};
use wharf_types::k8s::api::core::v1::{Namespace, NamespaceCondition, Pod};

use crate::call::{self, During as _, Failed, gone_is_fine};
use crate::discovery::{self, Found, Metadata};
use crate::pods;

/// The finalizer that this controller keeps. Source: `v1.FinalizerKubernetes`.
const FINALIZER: &str = "kubernetes";
/// The pause before a namespace is looked at again in which something remains.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

pub struct Namespaces {
    client: Client,
    namespaces: Lister<Namespace>,
    pods: Lister<Pod>,
    clock: Clock,
}

/// What was found and done in a namespace.
#[derive(Debug, Default)]
struct Sweep {
    /// Objects that are still there, by `resource.group`.
    remaining: BTreeMap<String, usize>,
    /// Finalizers that hold them, and how many objects each.
    finalizers: BTreeMap<String, usize>,
    discovery_error: Option<String>,
    deletion_errors: Vec<String>,
}

impl Namespaces {
    pub fn new(informers: &Informers, clock: Clock) -> Self {
        Self { client: informers.client().clone(), namespaces: informers.of(), pods: informers.of(), clock }
    }

    async fn sweep(&self, namespace: &str) -> Sweep {
        let mut sweep = Sweep::default();
        let found = match discovery::all(&self.client).await {
            Ok(found) => found,
            Err(error) => {
                sweep.discovery_error = Some(call::message(&error));
                return sweep;
            }
        };
        let deletable = |found: &&Found| found.namespaced() && found.can(&["list", "delete"]);
        let (pods, others): (Vec<&Found>, Vec<&Found>) = found
            .iter()
            .filter(deletable)
            .partition(|found| found.resource.group.is_empty() && found.resource.plural == "pods");
        for found in pods {
            self.sweep_resource(namespace, found, &mut sweep).await;
        }
        if sweep.remaining.is_empty() && sweep.deletion_errors.is_empty() {
            for found in others {
                self.sweep_resource(namespace, found, &mut sweep).await;
            }
        }
        sweep
    }

    /// Deletes all objects of a resource and notes what remains.
    async fn sweep_resource(&self, namespace: &str, found: &Found, sweep: &mut Sweep) {
        let api = Api::<Metadata>::namespaced_with(self.client.clone(), namespace, &found.resource);
        if let Err(error) = self.delete_all(&api, found).await {
            sweep.deletion_errors.push(call::message(&error.source));
        }
        let left = match api.list(&ListParams::default()).await {
            Ok(left) => left.items,
            Err(error) if call::is_not_found(&error) => return,
            Err(error) => return sweep.deletion_errors.push(call::message(&error)),
        };
        if left.is_empty() {
            return;
        }
        sweep.remaining.insert(format!("{}.{}", found.resource.plural, found.resource.group), left.len());
        for finalizer in left.iter().flat_map(|object| object.metadata.finalizers.iter().flatten()) {
            *sweep.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
    }

    async fn delete_all(&self, api: &Api<Metadata>, found: &Found) -> Result<(), Failed> {
        let params = DeleteParams::background();
        let what = "delete all";
        if found.can(&["deletecollection"]) {
            gone_is_fine(api.delete_collection(&params, &ListParams::default()).await)
                .during(what, &found.resource.plural)?;
            return Ok(());
        }
        for object in api.list(&ListParams::default()).await.during(what, &found.resource.plural)?.items {
            let name = object.metadata.name.as_deref().unwrap_or_default();
            gone_is_fine(api.delete(name, &params).await).during(what, &found.resource.plural)?;
        }
        Ok(())
    }

    async fn write_conditions(&self, namespace: &Namespace, sweep: &Sweep) -> Result<Namespace, Failed> {
        let mut wanted = namespace.clone();
        let status = wanted.status.get_or_insert_default();
        status.phase = Some("Terminating".to_owned());
        status.conditions = Some(conditions(status.conditions.take().unwrap_or_default(), sweep, self.clock.now()));
        if wanted.status == namespace.status {
            return Ok(wanted);
        }
        let name = namespace.metadata.name.as_deref().unwrap_or_default();
        let api = Api::<Namespace>::all(self.client.clone());
        api.replace_status(name, &PostParams::default(), &wanted).await.during("write the status of namespace", name)
    }

    async fn finalize(&self, mut namespace: Namespace) -> Result<(), Failed> {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        if let Some(finalizers) = namespace.spec.get_or_insert_default().finalizers.as_mut() {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        let api = Api::<Namespace>::all(self.client.clone());
        let finalized = api.replace_subresource("finalize", &name, &PostParams::default(), &namespace).await;
        gone_is_fine(finalized).during("finalize namespace", &name).map(|_| ())
    }
}

#[async_trait]
impl Reconcile for Namespaces {
    fn name(&self) -> &'static str {
        "namespace"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let namespaces = self.namespaces.clone();
        let pod_wakes = move |changed: &Changed<Pod>| {
            let key = ObjectKey::cluster(&changed.key.namespace);
            let gone = changed.new.is_none() && namespaces.get(&key).is_some_and(|namespace| is_ours(&namespace));
            gone.then_some(key).into_iter().collect()
        };
        vec![Trigger::primary(&self.namespaces), Trigger::mapped(&self.pods, pod_wakes)]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(namespace) = self.namespaces.get(key).filter(|namespace| is_ours(namespace)) else {
            return Ok(Action::done());
        };
        let sweep = self.sweep(&key.name).await;
        let written = match self.write_conditions(&namespace, &sweep).await {
            // Finalized since.
            Err(failed) if call::is_not_found(&failed.source) => return Ok(Action::done()),
            written => written?,
        };
        if !sweep.is_clean() {
            return Ok(Action::requeue_after(LOOK_AGAIN));
        }
        self.finalize(written).await?;
        Ok(Action::done())
    }
}

/// It is being deleted and still has our finalizer.
fn is_ours(namespace: &Namespace) -> bool {
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_ref());
    namespace.metadata.deletion_timestamp.is_some()
        && finalizers.is_some_and(|finalizers| finalizers.iter().any(|finalizer| finalizer == FINALIZER))
}

impl Sweep {
    fn is_clean(&self) -> bool {
        self.remaining.is_empty() && self.discovery_error.is_none() && self.deletion_errors.is_empty()
    }
}

/// The five conditions that tell why a namespace is still there, in upstream's words.
fn conditions(present: Vec<NamespaceCondition>, sweep: &Sweep, now: Timestamp) -> Vec<NamespaceCondition> {
    let failed = |message: Option<String>, reason: &'static str, fine: (&'static str, &'static str)| match message {
        Some(message) => ("True", reason, message),
        None => ("False", fine.0, fine.1.to_owned()),
    };
    let counted = |counts: &BTreeMap<String, usize>, intro: &str, words: &str| {
        let parts: Vec<String> =
            counts.iter().map(|(name, count)| format!("{name} {words} {count} resource instances")).collect();
        Some(format!("{intro}{}", parts.join(", "))).filter(|_| !counts.is_empty())
    };
    let deletion = Some(format!(
        "Failed to delete all resource types, {} remaining: {}",
        sweep.deletion_errors.len(),
        sweep.deletion_errors.join(", ")
    ))
    .filter(|_| !sweep.deletion_errors.is_empty());
    let remaining = counted(&sweep.remaining, "Some resources are remaining: ", "has");
    let finalizers = counted(&sweep.finalizers, "Some content in the namespace has finalizers remaining: ", "in");
    let wanted = [
        (
            "NamespaceDeletionDiscoveryFailure",
            failed(
                sweep.discovery_error.clone().map(|error| format!("Discovery failed for some groups: {error}")),
                "DiscoveryFailed",
                ("ResourcesDiscovered", "All resources successfully discovered"),
            ),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            failed(
                None,
                "GroupVersionParsingFailed",
                ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
            ),
        ),
        (
            "NamespaceDeletionContentFailure",
            failed(
                deletion,
                "ContentDeletionFailed",
                ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
            ),
        ),
        (
            "NamespaceContentRemaining",
            failed(remaining, "SomeResourcesRemain", ("ContentRemoved", "All content successfully removed")),
        ),
        (
            "NamespaceFinalizersRemaining",
            failed(
                finalizers,
                "SomeFinalizersRemain",
                ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
            ),
        ),
    ];
    let (_, others): (Vec<_>, Vec<_>) =
        present.iter().cloned().partition(|condition| wanted.iter().any(|(kind, _)| condition.type_ == *kind));
    let fresh = wanted.into_iter().map(|(kind, (status, reason, message))| {
        let before = present.iter().find(|condition| condition.type_ == kind && condition.status == status);
        NamespaceCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: before
                .and_then(|before| before.last_transition_time.clone())
                .or(Some(pods::time(now))),
        }
    });
    others.into_iter().chain(fresh).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::fixtures::now;

    fn check(sweep: &Sweep, clean: bool, expected: &str) {
        let conditions = conditions(Vec::new(), sweep, now());
        assert_eq!(conditions.len(), 5);
        let raised = conditions.iter().filter(|condition| condition.status == "True");
        let words: Vec<String> = raised.filter_map(|condition| condition.message.clone()).collect();
        assert_eq!((sweep.is_clean(), words.join("; ").as_str()), (clean, expected));
    }

    #[test]
    fn conditions_tell_what_remains_and_why() {
        check(&Sweep::default(), true, "");
        let sweep = Sweep {
            remaining: [("pods.".to_owned(), 2), ("jobs.batch".to_owned(), 1)].into(),
            finalizers: [("example.com/hold".to_owned(), 1)].into(),
            ..Sweep::default()
        };
        let expected = "Some resources are remaining: jobs.batch has 1 resource instances, pods. has 2 resource instances; \
                        Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances";
        check(&sweep, false, expected);
        let sweep = Sweep { deletion_errors: vec!["no".to_owned()], ..Sweep::default() };
        check(&sweep, false, "Failed to delete all resource types, 1 remaining: no");
    }

    #[test]
    fn a_condition_that_stays_keeps_its_time() {
        let first = conditions(Vec::new(), &Sweep::default(), now());
        let later = Timestamp::from_second(now().as_second() + 60).expect("in range");
        assert_eq!(conditions(first.clone(), &Sweep::default(), later), first);
    }
}
