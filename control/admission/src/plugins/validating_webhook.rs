//! Asks validating webhooks: all that the write is about, at once; the first refusal counts.
//!
//! Source: `k8s.io/apiserver/pkg/admission/plugin/webhook/validating`.

use async_trait::async_trait;
use wharf_types::ApiError;
use wharf_types::k8s::api::admissionregistration::v1::ValidatingWebhookConfiguration;

use crate::config::Load;
use crate::hooks;
use crate::webhook::{self, Clients, Index};
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
        hooks::validate(&self.clients, &hooks, write, cluster, notes).await
    }
}
