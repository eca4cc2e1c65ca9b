//! Asks mutating webhooks, one after the other: each sees what those before it have made of the object.
//!
//! A webhook that asks for it is called once more where something has changed after it. Source:
//! `k8s.io/apiserver/pkg/admission/plugin/webhook/mutating`.

use async_trait::async_trait;
use serde_json::{Value, json};
use wharf_machinery::patch;
use wharf_types::ApiError;
use wharf_types::k8s::api::admissionregistration::v1::MutatingWebhookConfiguration;

use crate::config::Load;
use crate::hooks::{self, Changer, Refusal};
use crate::reinvocation::{Reinvocation, Round};
use crate::subject::{Subject, View};
use crate::webhook::{self, Clients, Hook, Index};
use crate::{Attributes, Notes, Operation, Plugin, Reader};

#[derive(Default)]
pub struct MutatingAdmissionWebhook {
    index: Index,
    clients: Clients,
}

#[async_trait]
impl Plugin for MutatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }

    fn configure(&mut self, part: Option<&serde_yaml::Value>, load: &Load<'_>) -> Result<(), String> {
        self.clients = Clients::new(webhook::credentials(part, load)?);
        Ok(())
    }

    fn handles(&self, _: Operation) -> bool {
        true
    }

    async fn admit(&self, write: &mut Attributes, cluster: &dyn Reader, notes: &mut Notes) -> Result<(), ApiError> {
        let hooks = self.index.hooks::<MutatingWebhookConfiguration>(cluster);
        hooks::change(&self.clients, &hooks, write, cluster, notes).await
    }
}

#[async_trait]
impl Changer for Clients {
    fn round(reinvocation: &mut Reinvocation) -> &mut Round {
        &mut reinvocation.webhooks
    }

    async fn apply(
        &self,
        hook: &Hook,
        operations: Value,
        write: &mut Attributes,
        (view, subject): (&View, &Subject),
        (place, notes): (&str, &mut Notes),
    ) -> Result<bool, Refusal> {
        let Some(mut document) = view.object.clone() else {
            let why = format!(
                "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
                hook.name
            );
            return Err(Refusal::Denied(ApiError::internal(why)));
        };
        patch::json(&mut document, &operations).map_err(|error| Refusal::Denied(ApiError::internal(error)))?;
        let changed = subject.replace(write, view, document).await.map_err(Refusal::Denied)?;
        let told = json!({
            "configuration": hook.configuration, "webhook": hook.name, "patch": operations, "patchType": "JSONPatch",
        });
        notes.audit_annotations.insert(format!("patch.webhook.admission.k8s.io/{place}"), told.to_string());
        Ok(changed)
    }

    fn tell(&self, hook: &Hook, changed: bool, place: &str, notes: &mut Notes) {
        let key = format!("mutation.webhook.admission.k8s.io/{place}");
        let told = json!({"configuration": hook.configuration, "webhook": hook.name, "mutated": changed});
        notes.audit_annotations.insert(key, told.to_string());
    }
}
