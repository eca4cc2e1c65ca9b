//! The controller of a pod, and how many pods it wants.
//!
//! A pod of nobody counts for nothing; one whose controller cannot be asked spoils the count.
//! Absent on purpose: the `scale` subresource of custom resources.

use wharf_client::{Informers, Lister, ObjectKey, Trigger};
use wharf_types::k8s::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use wharf_types::k8s::api::core::v1::{Pod, ReplicationController};
use wharf_types::meta::OwnerReference;

use crate::owners;

/// What says how many pods a controller wants.
pub(super) struct Scales {
    deployments: Lister<Deployment>,
    replica_sets: Lister<ReplicaSet>,
    stateful_sets: Lister<StatefulSet>,
    controllers: Lister<ReplicationController>,
}

/// The controller of a pod, and how many pods it wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scale {
    pub uid: String,
    pub replicas: i32,
}

/// What is known of a pod's controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owned {
    By(Scale),
    /// It has none, and counts for nothing.
    ByNobody,
    /// By something whose wish is not known.
    ByUnknown(String),
}

impl Scales {
    pub(super) fn new(informers: &Informers) -> Self {
        Self {
            deployments: informers.of(),
            replica_sets: informers.of(),
            stateful_sets: informers.of(),
            controllers: informers.of(),
        }
    }

    pub(super) fn triggers(&self) -> [Trigger; 4] {
        [
            Trigger::reads(&self.deployments),
            Trigger::reads(&self.replica_sets),
            Trigger::reads(&self.stateful_sets),
            Trigger::reads(&self.controllers),
        ]
    }

    pub(super) fn of(&self, pod: &Pod) -> Owned {
        let Some(owner) = owners::controller_of(&pod.metadata) else { return Owned::ByNobody };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let key = ObjectKey::new(namespace, &owner.name);
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let replicas = match (group, owner.kind.as_str()) {
            ("apps", "ReplicaSet") => return self.of_replica_set(&key, owner),
            ("apps", "StatefulSet") => {
                let set = self.stateful_sets.get(&key).filter(|set| set.metadata.uid.as_ref() == Some(&owner.uid));
                set.map(|set| set.spec.as_ref().and_then(|spec| spec.replicas))
            }
            ("", "ReplicationController") => {
                let set = self.controllers.get(&key).filter(|set| set.metadata.uid.as_ref() == Some(&owner.uid));
                set.map(|set| set.spec.as_ref().and_then(|spec| spec.replicas))
            }
            (group, kind) => {
                let kind =
                    if group.is_empty() { kind.to_lowercase() } else { format!("{}s.{group}", kind.to_lowercase()) };
                return Owned::ByUnknown(format!("{kind} does not implement the scale subresource"));
            }
        };
        owned(owner, replicas, pod)
    }

    /// A ReplicaSet's pods are those of its Deployment, if it has one.
    fn of_replica_set(&self, key: &ObjectKey, owner: &OwnerReference) -> Owned {
        let missing = || Owned::ByUnknown(format!("found no controllers for replica set {:?}", &*key.name));
        let set = self.replica_sets.get(key).filter(|set| set.metadata.uid.as_ref() == Some(&owner.uid));
        let Some(set) = set else { return missing() };
        let Some(parent) = owners::controller_of(&set.metadata).filter(|parent| parent.kind == "Deployment") else {
            let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            return Owned::By(Scale { uid: owner.uid.clone(), replicas });
        };
        let deployment = self.deployments.get(&ObjectKey::new(&key.namespace, &parent.name));
        match deployment.filter(|deployment| deployment.metadata.uid.as_ref() == Some(&parent.uid)) {
            Some(deployment) => {
                let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
                Owned::By(Scale { uid: parent.uid.clone(), replicas })
            }
            None => missing(),
        }
    }
}

fn owned(owner: &OwnerReference, replicas: Option<Option<i32>>, pod: &Pod) -> Owned {
    match replicas {
        Some(replicas) => Owned::By(Scale { uid: owner.uid.clone(), replicas: replicas.unwrap_or(1) }),
        None => Owned::ByUnknown(format!("found no controllers for pod {:?}", owners::name(pod))),
    }
}
