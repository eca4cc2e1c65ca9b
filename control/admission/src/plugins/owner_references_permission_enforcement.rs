//! Lets only those change an object's owners who may delete it: an owner's end is the object's. Off by default.
//!
//! Source: `plugin/pkg/admission/gc`. An owner that blocks its deletion takes the right to set that owner's finalizers.

use async_trait::async_trait;
use wharf_auth::{Attributes as Asked, Decision};
use wharf_types::meta::OwnerReference;
use wharf_types::{ApiError, GroupVersion};

use crate::{Attributes, Notes, Operation, Plugin, Reader};

pub struct OwnerReferencesPermissionEnforcement;

#[async_trait]
impl Plugin for OwnerReferencesPermissionEnforcement {
    fn name(&self) -> &'static str {
        "OwnerReferencesPermissionEnforcement"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, write: &Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        // Pods that are bound, and nodes that say how theirs are doing, change no owners.
        if write.about("", "pods") && write.subresource.is_some() {
            return Ok(());
        }
        let (new, old) = (owners(write.object.as_ref()), owners(write.old.as_ref()));
        if new == old {
            return Ok(());
        }
        // A create deletes nothing of anybody's.
        if write.operation == Operation::Update
            && let Some(why) = refused(write, cluster, &deletion(write)).await
        {
            let words = "cannot set an ownerRef on a resource you can't delete";
            return Err(write.forbidden(format_args!("{words}: {why}, <nil>")));
        }
        for owner in
            new.iter().filter(|owner| blocks(owner) && !old.iter().any(|held| blocks(held) && held.uid == owner.uid))
        {
            if let Some(why) = refused(write, cluster, &finalization(write, owner)).await {
                let words = "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on";
                return Err(write.forbidden(format_args!("{words}: {why}, <nil>")));
            }
        }
        Ok(())
    }
}

fn owners(object: Option<&wharf_types::BoxObject>) -> Vec<OwnerReference> {
    object.and_then(|object| object.meta().owner_references.clone()).unwrap_or_default()
}

fn blocks(owner: &OwnerReference) -> bool {
    owner.block_owner_deletion == Some(true)
}

fn deletion(write: &Attributes) -> Asked {
    let gvr = &write.row.gvr;
    Asked {
        verb: "delete".to_owned(),
        resource_request: true,
        group: gvr.group.to_string(),
        version: gvr.version.to_string(),
        resource: gvr.resource.to_string(),
        namespace: write.namespace.clone().unwrap_or_default(),
        name: write.name.clone(),
        ..Asked::default()
    }
}

/// Owners are named by their kind; the resource is its plural, as the garbage collector reads it.
fn finalization(write: &Attributes, owner: &OwnerReference) -> Asked {
    let GroupVersion { group, version } = GroupVersion::parse(&owner.api_version);
    Asked {
        verb: "update".to_owned(),
        group: group.into_owned(),
        version: version.into_owned(),
        resource: plural(&owner.kind),
        subresource: "finalizers".to_owned(),
        name: owner.name.clone(),
        ..deletion(write)
    }
}

/// Source: `meta.UnsafeGuessKindToResource`.
fn plural(kind: &str) -> String {
    let kind = kind.to_lowercase();
    match kind.as_bytes().last() {
        _ if kind == "endpoints" => kind,
        Some(b's') => kind + "es",
        Some(b'y') => format!("{}ies", &kind[..kind.len() - 1]),
        _ => kind + "s",
    }
}

/// Why the writer may not, or none.
async fn refused(write: &Attributes, cluster: &dyn Reader, asked: &Asked) -> Option<String> {
    match cluster.authorize(&write.user, asked).await {
        Decision::Allow(_) => None,
        Decision::Deny(why) | Decision::NoOpinion(why) | Decision::Failed { why, .. } => Some(why),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Cluster, json, run, write};
    use super::*;
    use serde_json::{Value, json};
    use wharf_types::k8s::api::core::v1::ConfigMap;

    #[tokio::test]
    async fn whoever_may_not_delete_gives_no_owners() {
        let map = |owners: Value| -> ConfigMap {
            json(json!({"metadata": {"name": "m", "namespace": "default", "ownerReferences": owners}}))
        };
        let owner = |blocks: bool| json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "1", "blockOwnerDeletion": blocks}]);
        let delete = "jane delete /configmaps m";
        let finalize = "jane update apps/replicasets/finalizers r";
        for (old, new, rights, allowed) in [
            (json!([]), owner(false), &[][..], false),
            (json!([]), owner(false), &[delete][..], true),
            (json!([]), owner(true), &[delete], false),
            (json!([]), owner(true), &[delete, finalize], true),
            (owner(true), owner(true), &[], true),
        ] {
            let cluster = rights.iter().fold(Cluster::default(), |cluster, right| cluster.allowing(right));
            let mut write = write(Operation::Update, "configmaps", map(new.clone())).replacing(map(old));
            let verdict = run(&OwnerReferencesPermissionEnforcement, &mut write, &cluster).await;
            assert_eq!(verdict.is_ok(), allowed, "{new} {rights:?}");
        }
    }
}
