//! Admission plugins that are WebAssembly components: who is asked, in what, and what an answer comes to.
//!
//! ```text
//! AdmissionPlugins ──(only when one changes)──► Index ──► Matcher ──► call in a fresh instance ──► Answer
//!                  └──(keeper in `apiserver`)──► Host: image ──► compiled Code
//! ```
//!
//! A component exports `mutation`, `validation` or both of `guest-sdk/wit/admission.wit`; what it exports decides which hook it is.
//! Invariants: a call has an instance, a memory and a deadline of its own and leaves nothing behind; a guest reaches nothing but
//! the request: WASI is linked for what languages' runtimes import, over an empty context; a guest that computes yields its
//! thread every few milliseconds; compilation happens on blocking threads. What cannot be asked counts as the failure policy
//! says. Absent on purpose: fuel, pools of used instances.

mod bindings;
mod code;
mod engine;
mod guest;
mod host;
mod index;
mod metrics;
mod request;
#[cfg(test)]
mod tests;

pub use host::{Component, Components, Host, LoadError, Loaded, Pull, Stage};
pub use index::{GVR, Hook, Index};
pub use metrics::Metrics;
pub use request::{Answer, Change};

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;
use wharf_types::ApiError;

use crate::hooks::{Asker, Refusal};
use crate::subject::View;
use crate::{Attributes, Notes, Reader};

/// Which of a component's functions is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Mutating,
    Validating,
}

impl Phase {
    /// As metrics spell it.
    fn label(self) -> &'static str {
        match self {
            Phase::Mutating => "admit",
            Phase::Validating => "validating",
        }
    }

    /// As a plugin's status tells it.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Mutating => "Mutating",
            Phase::Validating => "Validating",
        }
    }
}

/// Calls one function of components.
pub struct Caller {
    host: Arc<Host>,
    phase: Phase,
}

impl Caller {
    pub fn new(host: Arc<Host>, phase: Phase) -> Self {
        Self { host, phase }
    }
}

#[async_trait]
impl Asker for Caller {
    type Hook = Hook;
    type Change = Change;

    /// None also where the component has no such function.
    async fn ask(
        &self,
        hook: &Hook,
        (write, view): (&Attributes, &View),
        cluster: &dyn Reader,
        notes: &mut Notes,
    ) -> Result<Option<Change>, Refusal> {
        let began = Instant::now();
        let code = match self.host.code(&hook.name, &hook.image) {
            Ok(code) if !code.has(self.phase) => return Ok(None),
            code => code,
        };
        let result = match code {
            Ok(code) => {
                let request = request::make(hook, write, view, cluster);
                match self.host.ask((&code, self.phase), hook, request, began).await {
                    Ok(answer) => judge(hook, answer, notes),
                    Err(why) => Err(Refusal::Failed(why)),
                }
            }
            Err(why) => Err(Refusal::Failed(why)),
        };
        let labels = (hook.name.as_str(), self.phase.label(), write.operation.as_str());
        self.host.metrics.called(labels, began.elapsed(), &result);
        result
    }

    fn failed(&self, hook: &Hook, why: &str) -> ApiError {
        ApiError::internal(format!("failed calling admission plugin {:?}: {why}", hook.name))
    }

    fn passed_over(&self, hook: &Hook, why: &str, place: &str, notes: &mut Notes) {
        tracing::warn!(plugin = hook.name, why, "failed calling an admission plugin: it is passed over");
        self.host.metrics.failed_open(&hook.name, self.phase.label());
        let kind = if self.phase == Phase::Mutating { "mutation" } else { "validating" };
        let key = format!("failed-open.{kind}.plugin.admission.wharf.dev/{place}");
        notes.audit_annotations.insert(key, hook.name.clone());
    }
}

fn judge(hook: &Hook, answer: Answer, notes: &mut Notes) -> Result<Option<Change>, Refusal> {
    answer.check().map_err(Refusal::Failed)?;
    for (key, value) in answer.audit_annotations {
        notes.audit_annotations.insert(format!("{}/{key}", hook.name), value);
    }
    notes.warnings.extend(answer.warnings);
    match answer.denial {
        Some(denial) => Err(Refusal::Denied(denied(&hook.name, denial))),
        None => Ok(answer.change),
    }
}

/// A no that does not say more.
const DENIED: (u16, &str) = (403, "Forbidden");

/// The plugin's own words, behind some that name it.
fn denied(plugin: &str, denial: bindings::Denial) -> ApiError {
    let by = format!("admission plugin {plugin:?} denied the request");
    let message = match denial.message.trim() {
        "" => format!("{by} without explanation"),
        why => format!("{by}: {why}"),
    };
    let code = denial.code.filter(|code| (400..600).contains(code));
    match (code, denial.reason) {
        (None, None) => ApiError::new(DENIED.0, DENIED.1, message),
        (code, reason) => ApiError::new(code.unwrap_or(DENIED.0), reason.unwrap_or_default(), message),
    }
}

#[cfg(test)]
mod denials {
    use super::*;

    #[track_caller]
    fn check(message: &str, code: Option<u16>, reason: Option<&str>, expected: (u16, &str, &str)) {
        let denial = bindings::Denial { message: message.to_owned(), code, reason: reason.map(str::to_owned) };
        let error = denied("a", denial);
        assert_eq!((error.code, &*error.reason, error.message.as_str()), expected);
    }

    #[test]
    fn a_denial_names_the_plugin_and_keeps_its_words() {
        let by = "admission plugin \"a\" denied the request";
        check("no", None, None, (403, "Forbidden", &format!("{by}: no")));
        check("no", Some(422), Some("Invalid"), (422, "Invalid", &format!("{by}: no")));
        check(" ", Some(200), Some("Odd"), (403, "Odd", &format!("{by} without explanation")));
    }
}
