//! Making and deleting pods for an owner: fenced, reported in upstream's words.
//!
//! Source: `RealPodControl` in `pkg/controller/controller_utils.go`.

use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client, Resource};
use wharf_client::{Fences, ObjectKey, Recorder};
use wharf_types::k8s::api::core::v1::Pod;

use crate::call::{self, gone_is_fine};
use crate::owners;

/// What it takes to write pods of one owner.
pub struct PodControl<'a, O> {
    pub client: &'a Client,
    pub recorder: &'a Recorder,
    pub fences: &'a Fences<Pod>,
    pub key: &'a ObjectKey,
    pub owner: &'a O,
}

impl<O: Resource<DynamicType = ()>> PodControl<'_, O> {
    fn api(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.key.namespace)
    }

    pub async fn create(&self, pod: &Pod) -> Result<(), kube::Error> {
        match self.api().create(&PostParams::default(), pod).await {
            Ok(created) => {
                self.fences.wrote(self.key, &created);
                let message = format!("Created pod: {}", owners::name(&created));
                self.recorder.normal(self.owner, "SuccessfulCreate", message);
                Ok(())
            }
            Err(error) => {
                if !call::is_namespace_terminating(&error) {
                    let message = format!("Error creating: {}", call::message(&error));
                    self.recorder.warning(self.owner, "FailedCreate", message);
                }
                Err(error)
            }
        }
    }

    pub async fn delete(&self, pod: &Pod) -> Result<(), kube::Error> {
        let name = owners::name(pod);
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match gone_is_fine(self.api().delete(name, &params).await) {
            Ok(_) => {
                self.fences.deleted(self.key, pod);
                self.recorder.normal(self.owner, "SuccessfulDelete", format!("Deleted pod: {name}"));
                Ok(())
            }
            Err(error) => {
                let message = format!("Error deleting: {}", call::message(&error));
                self.recorder.warning(self.owner, "FailedDelete", message);
                Err(error)
            }
        }
    }
}
