//! Gives a claim that names no class the cluster's default class: the newest that says it is one.
//!
//! Source: `plugin/pkg/admission/storage/storageclass/setdefault`. An empty class is a choice, and stays.

use async_trait::async_trait;
use wharf_types::k8s::api::core::v1::PersistentVolumeClaim;
use wharf_types::{ApiError, Gvr};

use super::newest_default;
use crate::{Attributes, Notes, Operation, Plugin, Reader};

const CLASSES: Gvr = super::gvr("storage.k8s.io", "v1", "storageclasses");
const IS_DEFAULT: &[&str] =
    &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
/// Where the class stood before it had a field.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

pub struct DefaultStorageClass;

#[async_trait]
impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, write: &mut Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        if !write.is("", "persistentvolumeclaims") {
            return Ok(());
        }
        let Some(claim) = write.new_as_mut::<PersistentVolumeClaim>() else { return Ok(()) };
        let annotations = claim.metadata.annotations.as_ref();
        let spec = claim.spec.get_or_insert_default();
        if spec.storage_class_name.is_some() || annotations.is_some_and(|all| all.contains_key(CLASS_ANNOTATION)) {
            return Ok(());
        }
        spec.storage_class_name = newest_default(cluster, &CLASSES, IS_DEFAULT);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Classes, json, run_with, write};
    use super::*;
    use serde_json::{Value, json};
    use wharf_types::k8s::api::storage::v1::StorageClass;

    async fn check(claim: Value, expected: Option<&str>) {
        let class = |name: &str, at: &str, is_default: &str| -> StorageClass {
            let annotations = json!({IS_DEFAULT[0]: is_default});
            json(
                json!({"metadata": {"name": name, "creationTimestamp": at, "annotations": annotations}, "provisioner": "p"}),
            )
        };
        let cluster = Classes::of(
            &CLASSES,
            [
                class("old", "2025-01-01T00:00:00Z", "true"),
                class("new", "2026-01-01T00:00:00Z", "true"),
                class("other", "2026-02-01T00:00:00Z", "false"),
            ],
        );
        let mut write = write(Operation::Create, "persistentvolumeclaims", json::<PersistentVolumeClaim>(claim));
        run_with(&DefaultStorageClass, &mut write, &cluster).await.expect("admitted");
        let spec = write.new_as::<PersistentVolumeClaim>().and_then(|claim| claim.spec.clone());
        assert_eq!(spec.and_then(|spec| spec.storage_class_name).as_deref(), expected);
    }

    #[tokio::test]
    async fn a_claim_without_a_class_gets_the_newest_default() {
        check(json!({"metadata": {"name": "c"}, "spec": {}}), Some("new")).await;
        check(json!({"metadata": {"name": "c"}, "spec": {"storageClassName": ""}}), Some("")).await;
        check(json!({"metadata": {"name": "c"}, "spec": {"storageClassName": "other"}}), Some("other")).await;
        check(json!({"metadata": {"name": "c", "annotations": {CLASS_ANNOTATION: "x"}}, "spec": {}}), None).await;
    }
}
