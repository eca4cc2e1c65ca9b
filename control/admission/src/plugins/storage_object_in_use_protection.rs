//! Puts a finalizer on claims, volumes and volume attributes classes, so that they outlive whoever uses them.
//!
//! Source: `plugin/pkg/admission/storage/storageobjectinuseprotection`. The protection controllers take it away.

use async_trait::async_trait;
use wharf_types::ApiError;

use crate::{Attributes, Notes, Operation, Plugin, Reader};

/// What protects which resource.
const FINALIZERS: &[(&str, &str, &str)] = &[
    ("", "persistentvolumeclaims", "kubernetes.io/pvc-protection"),
    ("", "persistentvolumes", "kubernetes.io/pv-protection"),
    ("storage.k8s.io", "volumeattributesclasses", "kubernetes.io/vac-protection"),
];

pub struct StorageObjectInUseProtection;

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, write: &mut Attributes, _cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        let row = FINALIZERS.iter().find(|(group, resource, _)| write.is(group, resource));
        let (Some((_, _, finalizer)), Some(object)) = (row, write.object.as_mut()) else { return Ok(()) };
        let finalizers = object.meta_mut().finalizers.get_or_insert_default();
        if !finalizers.iter().any(|held| held == finalizer) {
            finalizers.push((*finalizer).to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Cluster, json, run, write};
    use super::*;
    use serde_json::json;
    use wharf_types::k8s::api::core::v1::PersistentVolumeClaim;

    #[tokio::test]
    async fn a_new_claim_is_protected_once() {
        for held in [json!([]), json!(["a.io/x"]), json!(["kubernetes.io/pvc-protection"])] {
            let claim: PersistentVolumeClaim = json(json!({"metadata": {"name": "c", "finalizers": held}}));
            let mut write = write(Operation::Create, "persistentvolumeclaims", claim);
            run(&StorageObjectInUseProtection, &mut write, &Cluster::default()).await.expect("admitted");
            let finalizers = write.object.expect("the claim").meta().finalizers.clone().unwrap_or_default();
            assert_eq!(finalizers.iter().filter(|name| *name == "kubernetes.io/pvc-protection").count(), 1, "{held}");
        }
    }
}
