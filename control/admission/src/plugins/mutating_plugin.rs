//! Asks admission plugins that change objects, by name: each sees what those before it have made of the object.
//!
//! They run after MutatingAdmissionPolicy and before MutatingAdmissionWebhook: what is decided in this process is done when
//! somebody outside is asked, and webhooks such as injectors of sidecars keep the last word that they have upstream. One that
//! asks for it is called once more where something has changed after it.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;
use wharf_types::ApiError;

use crate::hooks::{self, Changer, Refusal};
use crate::reinvocation::{Reinvocation, Round};
use crate::subject::{Subject, View};
use crate::wasm::{Caller, Change, Hook, Host, Index, Phase};
use crate::{Attributes, Notes, Operation, Plugin, Reader};

pub struct MutatingAdmissionPlugin {
    index: Index,
    caller: Caller,
}

impl MutatingAdmissionPlugin {
    pub fn new(host: Arc<Host>) -> Self {
        Self { index: Index::default(), caller: Caller::new(host, Phase::Mutating) }
    }
}

#[async_trait]
impl Plugin for MutatingAdmissionPlugin {
    fn name(&self) -> &'static str {
        "MutatingAdmissionPlugin"
    }

    fn handles(&self, _: Operation) -> bool {
        true
    }

    async fn admit(&self, write: &mut Attributes, cluster: &dyn Reader, notes: &mut Notes) -> Result<(), ApiError> {
        hooks::change(&self.caller, &self.index.hooks(cluster), write, cluster, notes).await
    }
}

#[async_trait]
impl Changer for Caller {
    fn round(reinvocation: &mut Reinvocation) -> &mut Round {
        &mut reinvocation.plugins
    }

    async fn apply(
        &self,
        hook: &Hook,
        change: Change,
        write: &mut Attributes,
        (view, subject): (&View, &Subject),
        (place, notes): (&str, &mut Notes),
    ) -> Result<bool, Refusal> {
        let Some(object) = &view.object else {
            let why = "it attempted to modify the object, which is not supported for this operation";
            return Err(Refusal::Failed(why.to_owned()));
        };
        let (document, operations) = change.apply(object).map_err(Refusal::Failed)?;
        let replaced = subject.replace(write, view, document).await;
        let changed = replaced.map_err(|error| Refusal::Failed(format!("what it made cannot be read: {error}")))?;
        if let Some(operations) = operations {
            let told = json!({"plugin": hook.name, "patch": operations, "patchType": "JSONPatch"}).to_string();
            notes.audit_annotations.insert(format!("patch.plugin.admission.wharf.dev/{place}"), told);
        }
        Ok(changed)
    }

    fn tell(&self, hook: &Hook, changed: bool, place: &str, notes: &mut Notes) {
        if changed {
            let told = json!({"plugin": hook.name, "mutated": true}).to_string();
            notes.audit_annotations.insert(format!("mutation.plugin.admission.wharf.dev/{place}"), told);
        }
    }
}
