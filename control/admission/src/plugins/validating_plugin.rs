//! Asks admission plugins that judge objects: all that the write is about, at once; the first refusal counts.
//!
//! They run after ValidatingAdmissionPolicy and before ValidatingAdmissionWebhook, as their mutating side does.

use std::sync::Arc;

use async_trait::async_trait;
use wharf_types::ApiError;

use crate::hooks;
use crate::wasm::{Caller, Host, Index, Phase};
use crate::{Attributes, Notes, Operation, Plugin, Reader};

pub struct ValidatingAdmissionPlugin {
    index: Index,
    caller: Caller,
}

impl ValidatingAdmissionPlugin {
    pub fn new(host: Arc<Host>) -> Self {
        Self { index: Index::default(), caller: Caller::new(host, Phase::Validating) }
    }
}

#[async_trait]
impl Plugin for ValidatingAdmissionPlugin {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPlugin"
    }

    fn handles(&self, _: Operation) -> bool {
        true
    }

    async fn validate(&self, write: &Attributes, cluster: &dyn Reader, notes: &mut Notes) -> Result<(), ApiError> {
        hooks::validate(&self.caller, &self.index.hooks(cluster), write, cluster, notes).await
    }
}
