//! Asks validating webhooks: all that the write is about, at once; the first refusal counts.
//!
//! Source: `k8s.io/apiserver/pkg/admission/plugin/webhook/validating`.

use async_trait::async_trait;
use futures::future::join_all;
use wharf_types::ApiError;
use wharf_types::k8s::api::admissionregistration::v1::ValidatingWebhookConfiguration;

use crate::subject::Subject;
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

    fn handles(&self, _: Operation) -> bool {
        true
    }

    fn sees_managed_fields(&self, cluster: &dyn Reader) -> bool {
        !self.index.hooks::<ValidatingWebhookConfiguration>(cluster).is_empty()
    }

    async fn validate(&self, write: &Attributes, cluster: &dyn Reader, notes: &mut Notes) -> Result<(), ApiError> {
        let hooks = self.index.hooks::<ValidatingWebhookConfiguration>(cluster);
        if hooks.is_empty() || write.is_exempt() {
            return Ok(());
        }
        let subject = Subject::default();
        let mut asked: Vec<&Hook> = Vec::new();
        for hook in hooks.iter() {
            if hook.is_about(write, &subject, cluster)? {
                asked.push(hook);
            }
        }
        let answers = asked.iter().map(|hook| {
            let subject = &subject;
            async move {
                let mut notes = Notes::default();
                (webhook::call(hook, &self.clients, (write, subject), cluster, &mut notes).await, notes)
            }
        });
        let answers = join_all(answers).await;
        let mut refused = None;
        for (index, (hook, (verdict, said))) in asked.iter().zip(answers).enumerate() {
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
