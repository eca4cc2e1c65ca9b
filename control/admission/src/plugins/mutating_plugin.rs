//! Asks admission plugins that change objects, by name: each sees what those before it have made of the object.
//!
//! They run after MutatingAdmissionPolicy and before MutatingAdmissionWebhook: what is decided in this process is done when
//! somebody outside is asked, and webhooks such as injectors of sidecars keep the last word that they have upstream. One that
//! asks for it is called once more where something has changed after it.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;
use wharf_types::ApiError;

use crate::subject::{Subject, View};
use crate::wasm::{self, Change, Hook, Host, Index, Phase, Refusal};
use crate::{Attributes, Notes, Operation, Plugin, Reader};

pub struct MutatingAdmissionPlugin {
    index: Index,
    host: Arc<Host>,
}

impl MutatingAdmissionPlugin {
    pub fn new(host: Arc<Host>) -> Self {
        Self { index: Index::default(), host }
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
        let hooks = self.index.hooks(cluster);
        if hooks.is_empty() || write.configures_admission() {
            return Ok(());
        }
        if write.reinvocation.again && write.reinvocation.plugins.changed_since(write.object.as_deref()) {
            write.reinvocation.plugins.require();
        }
        let result = self.walk(&hooks, write, cluster, notes).await;
        write.reinvocation.plugins.last_output = write.object.as_ref().map(|object| object.clone_box());
        result
    }
}

impl MutatingAdmissionPlugin {
    async fn walk(
        &self,
        hooks: &[Hook],
        write: &mut Attributes,
        cluster: &dyn Reader,
        notes: &mut Notes,
    ) -> Result<(), ApiError> {
        let subject = Subject::default();
        for (index, hook) in hooks.iter().enumerate() {
            let left_out = write.reinvocation.again && !write.reinvocation.plugins.wanted(&hook.name);
            if left_out {
                continue;
            }
            let Some(view) = hook.view(write, &subject, cluster).await? else { continue };
            let place = format!("round_{}_index_{index}", u8::from(write.reinvocation.again));
            let who = (hook, Phase::Mutating);
            let answer = match wasm::call(&self.host, who, (write, &view), cluster, notes).await {
                Ok(Some(change)) => apply(hook, &change, write, (&view, &subject), (&place, notes)).await,
                Ok(None) => Ok(false),
                Err(refusal) => Err(refusal),
            };
            if matches!(answer, Ok(true)) {
                let told = json!({"plugin": hook.name, "mutated": true}).to_string();
                notes.audit_annotations.insert(format!("mutation.plugin.admission.wharf.dev/{place}"), told);
                write.reinvocation.plugins.require();
                write.reinvocation.wanted = true;
            }
            if hook.reinvoked {
                write.reinvocation.plugins.add(&hook.name);
            }
            match answer {
                Ok(_) => {}
                Err(Refusal::Failed(why)) if hook.ignores_failure => {
                    wasm::pass_over(&self.host, who, &why, &place, notes);
                }
                Err(refusal) => return Err(refusal.into_error(&hook.name)),
            }
        }
        Ok(())
    }
}

/// Puts the changed object in place; true if it differs.
async fn apply(
    hook: &Hook,
    change: &Change,
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
