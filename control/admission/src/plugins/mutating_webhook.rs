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
use crate::subject::{Subject, View};
use crate::webhook::{self, Clients, Hook, Index, Refusal};
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
        if hooks.is_empty() || write.configures_admission() {
            return Ok(());
        }
        if write.reinvocation.again && write.reinvocation.webhooks.changed_since(write.object.as_deref()) {
            write.reinvocation.webhooks.require();
        }
        let result = self.walk(&hooks, write, cluster, notes).await;
        write.reinvocation.webhooks.last_output = write.object.as_ref().map(|object| object.clone_box());
        result
    }
}

impl MutatingAdmissionWebhook {
    async fn walk(
        &self,
        hooks: &[Hook],
        write: &mut Attributes,
        cluster: &dyn Reader,
        notes: &mut Notes,
    ) -> Result<(), ApiError> {
        let subject = Subject::default();
        for (index, hook) in hooks.iter().enumerate() {
            let left_out = write.reinvocation.again && !write.reinvocation.webhooks.wanted(&hook.uid);
            if left_out {
                continue;
            }
            let Some(view) = hook.view(write, &subject, cluster).await? else { continue };
            let place = format!("round_{}_index_{index}", u8::from(write.reinvocation.again));
            let answer = webhook::call(hook, &self.clients, (write, &view), cluster, notes).await;
            let answer = match answer {
                Ok(Some(patch)) => apply(hook, &patch, write, (&view, &subject), (&place, notes)).await,
                Ok(None) => Ok(false),
                Err(refusal) => Err(refusal),
            };
            let changed = matches!(answer, Ok(true));
            let key = format!("mutation.webhook.admission.k8s.io/{place}");
            let told = json!({"configuration": hook.configuration, "webhook": hook.name, "mutated": changed});
            notes.audit_annotations.insert(key, told.to_string());
            if changed {
                write.reinvocation.webhooks.require();
                write.reinvocation.wanted = true;
            }
            if hook.reinvoked {
                write.reinvocation.webhooks.add(&hook.uid);
            }
            match answer {
                Ok(_) => {}
                Err(Refusal::Failed(why)) if hook.ignores_failure => {
                    tracing::warn!(webhook = hook.name, why, "failed calling a webhook: it is passed over");
                    let key = format!("failed-open.mutation.webhook.admission.k8s.io/{place}");
                    notes.audit_annotations.insert(key, hook.name.clone());
                }
                Err(refusal) => return Err(refusal.into_error(hook)),
            }
        }
        Ok(())
    }
}

/// Applies a patch to the object; true if that changed it.
async fn apply(
    hook: &Hook,
    operations: &Value,
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
    patch::json(&mut document, operations).map_err(|error| Refusal::Denied(ApiError::internal(error)))?;
    let changed = subject.replace(write, view, document).await.map_err(Refusal::Denied)?;
    let told = json!({
        "configuration": hook.configuration, "webhook": hook.name, "patch": operations, "patchType": "JSONPatch",
    });
    notes.audit_annotations.insert(format!("patch.webhook.admission.k8s.io/{place}"), told.to_string());
    Ok(changed)
}
