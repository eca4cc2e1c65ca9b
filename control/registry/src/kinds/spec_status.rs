//! Kinds with a spec that is asked for and a status that is told: what each kind of write keeps.
//!
//! Source: the `PrepareForCreate` and `PrepareForUpdate` of `pkg/registry/*/*/strategy.go`, which say the same for all of these.
//! Invariants: only a write of the status changes the status, and it changes no spec; the generation counts the specs.

use wharf_types::KubeObject;
use wharf_types::k8s::api::{apps, batch, core, networking, policy};

pub trait SpecStatus: KubeObject {
    type Spec: Clone + PartialEq;
    type Status: Clone + Default;

    fn spec(&self) -> &Self::Spec;
    fn spec_mut(&mut self) -> &mut Self::Spec;
    fn status(&self) -> &Option<Self::Status>;
    fn status_mut(&mut self) -> &mut Option<Self::Status>;
}

macro_rules! spec_status {
    ($($kind:ty: $spec:ty, $status:ty;)+) => {
        $(impl SpecStatus for $kind {
            type Spec = $spec;
            type Status = $status;

            fn spec(&self) -> &$spec {
                &self.spec
            }

            fn spec_mut(&mut self) -> &mut $spec {
                &mut self.spec
            }

            fn status(&self) -> &Option<$status> {
                &self.status
            }

            fn status_mut(&mut self) -> &mut Option<$status> {
                &mut self.status
            }
        })+
    };
}

spec_status! {
    apps::v1::DaemonSet: Option<apps::v1::DaemonSetSpec>, apps::v1::DaemonSetStatus;
    apps::v1::Deployment: Option<apps::v1::DeploymentSpec>, apps::v1::DeploymentStatus;
    apps::v1::ReplicaSet: Option<apps::v1::ReplicaSetSpec>, apps::v1::ReplicaSetStatus;
    apps::v1::StatefulSet: Option<apps::v1::StatefulSetSpec>, apps::v1::StatefulSetStatus;
    batch::v1::CronJob: batch::v1::CronJobSpec, batch::v1::CronJobStatus;
    batch::v1::Job: Option<batch::v1::JobSpec>, batch::v1::JobStatus;
    core::v1::ReplicationController:
        Option<core::v1::ReplicationControllerSpec>, core::v1::ReplicationControllerStatus;
    networking::v1::Ingress: Option<networking::v1::IngressSpec>, networking::v1::IngressStatus;
    policy::v1::PodDisruptionBudget: Option<policy::v1::PodDisruptionBudgetSpec>, policy::v1::PodDisruptionBudgetStatus;
}

/// A new object has an empty status, whatever its creator says.
pub fn created<K: SpecStatus>(object: &mut K) {
    *object.status_mut() = Some(K::Status::default());
    object.metadata_mut().generation = Some(1);
}

pub fn updated<K: SpecStatus>(object: &mut K, old: &K) {
    updated_beside(object, old, false);
}

/// As [`updated`], where something beside the spec may have changed that a controller must act on.
pub fn updated_beside<K: SpecStatus>(object: &mut K, old: &K, changed: bool) {
    object.status_mut().clone_from(old.status());
    let changed = changed || object.spec() != old.spec();
    super::generation(object.metadata_mut(), old.metadata(), changed);
}

pub fn status_updated<K: SpecStatus>(object: &mut K, old: &K) {
    object.spec_mut().clone_from(old.spec());
}
