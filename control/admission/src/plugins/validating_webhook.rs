//! Asks validating webhooks: all that the write is about, at once; the first refusal counts.
//!
//! Source: `k8s.io/apiserver/pkg/admission/plugin/webhook/validating`.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;
use wharf_types::ApiError;
use wharf_types::k8s::api::admissionregistration::v1::ValidatingWebhookConfiguration;

use crate::config::Load;
use crate::subject::{Subject, View};
use crate::webhook::{self, Clients, Hook, Index, Refusal};
use crate::{Attributes, Notes, Operation, Plugin, Reader};

#[derive(Default)]
pub struct ValidatingAdmissionWebhook {
    index: Index,
    clients: Clients,
}

#[async_trait]
impl Plugin for ValidatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    fn configure(&mut self, part: Option<&serde_yaml::Value>, load: &Load<'_>) -> Result<(), String> {
        self.clients = Clients::new(webhook::credentials(part, load)?);
        Ok(())
    }

    fn handles(&self, _: Operation) -> bool {
        true
    }

    async fn validate(&self, write: &Attributes, cluster: &dyn Reader, notes: &mut Notes) -> Result<(), ApiError> {
        let hooks = self.index.hooks::<ValidatingWebhookConfiguration>(cluster);
        if hooks.is_empty() || write.configures_admission() {
            return Ok(());
        }
        let subject = Subject::default();
        let mut asked: Vec<(&Hook, Arc<View>)> = Vec::new();
        for hook in hooks.iter() {
            let view = hook.view(write, &subject, cluster).await?;
            asked.extend(view.map(|view| (hook, view)));
        }
        let answers = asked.iter().map(|(hook, view)| async move {
            let mut notes = Notes::default();
            (webhook::call(hook, &self.clients, (write, view), cluster, &mut notes).await, notes)
        });
        let answers = join_all(answers).await;
        let mut refused = None;
        for (index, ((hook, _), (verdict, said))) in asked.iter().zip(answers).enumerate() {
            notes.absorb(said);
            match verdict {
                Ok(_) => {}
                Err(Refusal::Failed(why)) if hook.ignores_failure => {
                    tracing::warn!(webhook = hook.name, why, "failed calling a webhook: it is passed over");
                    let key = format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{index}");
                    notes.audit_annotations.insert(key, hook.name.clone());
                }
                Err(refusal) => refused = refused.or(Some(refusal.into_error(hook))),
            }
        }
        refused.map_or(Ok(()), Err)
    }
}
