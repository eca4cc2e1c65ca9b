//! Lets a claim grow only where it is bound and its class says that volumes can.
//!
//! Source: `plugin/pkg/admission/storage/persistentvolume/resize`.

use async_trait::async_trait;
use wharf_machinery::pod_resources::read;
use wharf_machinery::quantity::Quantity;
use wharf_types::k8s::api::core::v1::PersistentVolumeClaim;
use wharf_types::k8s::api::storage::v1::StorageClass;
use wharf_types::{ApiError, Gvr};

use crate::{Attributes, Notes, Operation, Plugin, Reader};

const CLASSES: Gvr = super::gvr("storage.k8s.io", "v1", "storageclasses");
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

pub struct PersistentVolumeClaimResize;

#[async_trait]
impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    async fn validate(&self, write: &Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        if !write.is("", "persistentvolumeclaims") {
            return Ok(());
        }
        let (Some(new), Some(old)) = (write.new_as::<PersistentVolumeClaim>(), write.old_as()) else { return Ok(()) };
        if size(new) <= size(old) {
            return Ok(());
        }
        if old.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Bound") {
            return Err(write.forbidden("Only bound persistent volume claims can be expanded"));
        }
        let class =
            class(new).filter(|name| class(old) == Some(name)).and_then(|name| cluster.get(&CLASSES, None, name));
        let class = class.as_ref().and_then(|object| object.downcast_ref::<StorageClass>());
        match class.is_some_and(|class| class.allow_volume_expansion == Some(true)) {
            true => Ok(()),
            false => Err(write.forbidden(
                "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
            )),
        }
    }
}

fn size(claim: &PersistentVolumeClaim) -> Quantity {
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()).and_then(|it| it.requests.as_ref());
    read(requests).get("storage").copied().unwrap_or_default()
}

fn class(claim: &PersistentVolumeClaim) -> Option<&str> {
    let annotated = claim.metadata.annotations.as_ref().and_then(|annotations| annotations.get(CLASS_ANNOTATION));
    let named = || claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_ref());
    annotated.or_else(named).map(String::as_str).filter(|class| !class.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Classes, json, run_with, write};
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn only_bound_claims_of_an_expandable_class_grow() {
        let claim = |size: &str, class: &str, phase: &str| -> PersistentVolumeClaim {
            let spec = json!({"storageClassName": class, "resources": {"requests": {"storage": size}}});
            json(json!({"metadata": {"name": "c", "namespace": "default"}, "spec": spec, "status": {"phase": phase}}))
        };
        let class = |name: &str, grows: bool| -> StorageClass {
            json(json!({"metadata": {"name": name}, "provisioner": "p", "allowVolumeExpansion": grows}))
        };
        let cluster = Classes::of(&CLASSES, [class("grows", true), class("stays", false)]);
        for (size, class, phase, expected) in [
            ("2Gi", "grows", "Bound", Ok(())),
            ("1Gi", "stays", "Bound", Ok(())),
            ("2Gi", "grows", "Pending", Err("Only bound persistent volume claims can be expanded")),
            (
                "2Gi",
                "stays",
                "Bound",
                Err(
                    "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
                ),
            ),
        ] {
            let mut write = write(Operation::Update, "persistentvolumeclaims", claim(size, class, phase))
                .replacing(claim("1Gi", class, phase));
            let verdict = run_with(&PersistentVolumeClaimResize, &mut write, &cluster).await;
            let expected = expected.map_err(|why| format!("persistentvolumeclaims \"c\" is forbidden: {why}"));
            assert_eq!(verdict.map_err(|error| error.message), expected, "{size} {class} {phase}");
        }
    }
}
