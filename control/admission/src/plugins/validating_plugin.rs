//! Asks admission plugins that judge objects: all that the write is about, at once; the first refusal counts.
//!
//! They run after ValidatingAdmissionPolicy and before ValidatingAdmissionWebhook, as their mutating side does.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;
use wharf_types::ApiError;

use crate::subject::{Subject, View};
use crate::wasm::{self, Hook, Host, Index, Phase, Refusal};
use crate::{Attributes, Notes, Operation, Plugin, Reader};

pub struct ValidatingAdmissionPlugin {
    index: Index,
    host: Arc<Host>,
}

impl ValidatingAdmissionPlugin {
    pub fn new(host: Arc<Host>) -> Self {
        Self { index: Index::default(), host }
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
        let hooks = self.index.hooks(cluster);
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
            let who = (*hook, Phase::Validating);
            (wasm::call(&self.host, who, (write, view), cluster, &mut notes).await, notes)
        });
        let answers = join_all(answers).await;
        let mut refused = None;
        for (index, ((hook, _), (verdict, said))) in asked.iter().zip(answers).enumerate() {
            notes.absorb(said);
            match verdict {
                Ok(_) => {}
                Err(Refusal::Failed(why)) if hook.ignores_failure => {
                    let place = format!("round_0_index_{index}");
                    wasm::pass_over(&self.host, (hook, Phase::Validating), &why, &place, notes);
                }
                Err(refusal) => refused = refused.or(Some(refusal.into_error(&hook.name))),
            }
        }
        refused.map_or(Ok(()), Err)
    }
}
