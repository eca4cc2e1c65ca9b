//! Lets claims go when no pod uses them any more, and volumes when no claim is bound to them.
//!
//! Source of the behaviour: `k8s.io/kubernetes/pkg/controller/volume/{pvcprotection,pvprotection}`. Admission puts the finalizers
//! on; here they are put on what lacks them and taken off what is being deleted and free. A claim is asked for at the server
//! before it goes: a pod that uses it may not have been seen yet.

use async_trait::async_trait;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use wharf_client::{Action, Changed, Error, Index, Informers, Lister, ObjectKey, Reconcile, Trigger};
use wharf_types::k8s::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use wharf_types::meta::ObjectMeta;

use crate::call::{During as _, gone_is_fine, is_conflict};

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";

pub struct ClaimProtection {
    client: Client,
    claims: Lister<PersistentVolumeClaim>,
    pods: Lister<Pod>,
    /// Pods by the `namespace/name` of the claims that they use.
    users: Index<Pod>,
}

impl ClaimProtection {
    pub fn new(informers: &Informers) -> Self {
        let pods = informers.of::<Pod>();
        let users = pods.index(|pod| {
            let namespace = pod.metadata.namespace.clone().unwrap_or_default();
            claims_of(pod).into_iter().map(|claim| format!("{namespace}/{claim}")).collect()
        });
        Self { client: informers.client().clone(), claims: informers.of(), pods, users }
    }

    async fn is_used(&self, key: &ObjectKey) -> Result<bool, Error> {
        if self.users.get(&key.to_string()).iter().any(|pod| uses(pod, &key.name)) {
            return Ok(true);
        }
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        let pods = api.list(&ListParams::default()).await.during("list the pods that may use claim", key)?;
        Ok(pods.iter().any(|pod| uses(pod, &key.name)))
    }
}

#[async_trait]
impl Reconcile for ClaimProtection {
    fn name(&self) -> &'static str {
        "pvc-protection"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let used = |changed: &Changed<Pod>| {
            let pods = [&changed.old, &changed.new].into_iter().flatten();
            let claims = pods.flat_map(|pod| claims_of(pod));
            claims.map(|claim| ObjectKey::new(&changed.key.namespace, &claim)).collect()
        };
        vec![Trigger::primary(&self.claims), Trigger::mapped(&self.pods, used)]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(claim) = self.claims.get(key) else { return Ok(Action::done()) };
        let wanted = match plan(&claim.metadata, CLAIM_FINALIZER) {
            Plan::Nothing => return Ok(Action::done()),
            Plan::Release(_) if self.is_used(key).await? => return Ok(Action::done()),
            Plan::Release(rest) | Plan::Protect(rest) => rest,
        };
        let api = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &key.namespace);
        let mut next = PersistentVolumeClaim::clone(&claim);
        next.metadata.finalizers = Some(wanted);
        match gone_is_fine(api.replace(&key.name, &PostParams::default(), &next).await) {
            Err(error) if is_conflict(&error) => Ok(Action::done()),
            result => Ok(result.during("write the finalizers of claim", key).map(|_| Action::done())?),
        }
    }
}

pub struct VolumeProtection {
    client: Client,
    volumes: Lister<PersistentVolume>,
}

impl VolumeProtection {
    pub fn new(informers: &Informers) -> Self {
        Self { client: informers.client().clone(), volumes: informers.of() }
    }
}

#[async_trait]
impl Reconcile for VolumeProtection {
    fn name(&self) -> &'static str {
        "pv-protection"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::primary(&self.volumes)]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(volume) = self.volumes.get(key) else { return Ok(Action::done()) };
        let is_bound = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        let wanted = match plan(&volume.metadata, VOLUME_FINALIZER) {
            Plan::Nothing => return Ok(Action::done()),
            Plan::Release(_) if is_bound => return Ok(Action::done()),
            Plan::Release(rest) | Plan::Protect(rest) => rest,
        };
        let api = Api::<PersistentVolume>::all(self.client.clone());
        let mut next = PersistentVolume::clone(&volume);
        next.metadata.finalizers = Some(wanted);
        match gone_is_fine(api.replace(&key.name, &PostParams::default(), &next).await) {
            Err(error) if is_conflict(&error) => Ok(Action::done()),
            result => Ok(result.during("write the finalizers of volume", key).map(|_| Action::done())?),
        }
    }
}

/// What is to be done about the finalizer, with the finalizers that come of it.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Nothing,
    Protect(Vec<String>),
    /// If nobody uses the object.
    Release(Vec<String>),
}

fn plan(meta: &ObjectMeta, finalizer: &str) -> Plan {
    let mut finalizers = meta.finalizers.clone().unwrap_or_default();
    let is_held = finalizers.iter().any(|held| held == finalizer);
    match (meta.deletion_timestamp.is_some(), is_held) {
        (true, true) => {
            finalizers.retain(|held| held != finalizer);
            Plan::Release(finalizers)
        }
        (false, false) => {
            finalizers.push(finalizer.to_owned());
            Plan::Protect(finalizers)
        }
        _ => Plan::Nothing,
    }
}

/// The claims that the pod's volumes name, and those that are made for it.
fn claims_of(pod: &Pod) -> Vec<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let claims = volumes.filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (_, Some(_)) => Some(format!("{name}-{}", volume.name)),
        _ => None,
    });
    claims.collect()
}

/// A pod without a node uses nothing yet: its node will not start it with a claim that is being deleted.
fn uses(pod: &Pod, claim: &str) -> bool {
    let has_node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|node| !node.is_empty());
    has_node && claims_of(pod).iter().any(|used| used == claim)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(meta: serde_json::Value, expected: Plan) {
        let meta: ObjectMeta = serde_json::from_value(meta).expect("metadata");
        assert_eq!(plan(&meta, "p"), expected);
    }

    #[test]
    fn the_finalizer_goes_with_the_deletion() {
        let at = "2026-01-01T00:00:00Z";
        check(json!({}), Plan::Protect(vec!["p".into()]));
        check(json!({"finalizers": ["x", "p"]}), Plan::Nothing);
        check(json!({"finalizers": ["x", "p"], "deletionTimestamp": at}), Plan::Release(vec!["x".into()]));
        check(json!({"deletionTimestamp": at}), Plan::Nothing);
    }

    #[test]
    fn pods_on_a_node_use_their_claims() {
        let pod = |node: &str| -> Pod {
            let volumes =
                json!([{"name": "a", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "b", "ephemeral": {}}]);
            let spec = json!({"containers": [], "nodeName": node, "volumes": volumes});
            serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec})).expect("a pod")
        };
        for (node, claim, expected) in [("n1", "c", true), ("n1", "web-b", true), ("n1", "d", false), ("", "c", false)]
        {
            assert_eq!(uses(&pod(node), claim), expected, "{node} {claim}");
        }
    }
}
