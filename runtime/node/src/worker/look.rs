//! Asks the runtime what became of the pod's sandbox and containers.

use wharf_cri::{ContainerId, SandboxState};

use super::Worker;
use crate::observed::{Attempt, AttemptState, View};
use crate::{last_words, names};

impl Worker {
    /// Asks the runtime about what may have changed: runs that have not ended, and the sandbox.
    pub(super) async fn refresh(&mut self) {
        if let Some(sandbox) = self.seen.sandbox.as_mut() {
            match self.ctx.runtime.sandbox(&sandbox.id).await {
                Ok(status) => {
                    sandbox.ready = status.state == SandboxState::Ready;
                    sandbox.ips = status.ips;
                }
                Err(wharf_cri::Error::NotFound(_)) => sandbox.ready = false,
                Err(error) => {
                    tracing::warn!(error = names::chain(&error), pod = names::full(&self.pod), "ask for the sandbox")
                }
            }
        }
        let open = |view: &View| {
            view.latest.as_ref().filter(|attempt| !attempt.exited()).and_then(|attempt| attempt.id.clone())
        };
        let ids: Vec<(String, ContainerId)> =
            self.seen.containers.iter().filter_map(|(name, view)| Some((name.clone(), open(view)?))).collect();
        for (name, id) in ids {
            match self.ctx.runtime.container(&id).await {
                Ok(status) => self.take_status(&name, status),
                Err(wharf_cri::Error::NotFound(_)) => self.mark_lost(&name),
                Err(error) => {
                    tracing::warn!(error = names::chain(&error), pod = names::full(&self.pod), "ask for a container")
                }
            }
        }
    }

    pub(super) fn take_status(&mut self, name: &str, status: wharf_cri::ContainerStatus) {
        let image_id =
            self.seen.view(name).and_then(|view| view.latest.as_ref()).map(|attempt| attempt.image_id.clone());
        let mut attempt = Attempt::from_runtime(status, &self.ctx.scheme, image_id.unwrap_or_default());
        if attempt.exited() {
            self.add_last_words(name, &mut attempt);
        }
        let view = self.seen.view_mut(name);
        if attempt.exited() {
            view.probes = None;
            view.condemned = None;
        }
        view.latest = Some(attempt);
    }

    pub(super) fn add_last_words(&self, name: &str, attempt: &mut Attempt) {
        let container = self.pod.spec.as_ref().and_then(|spec| names::container(spec, name));
        let Some((_, container)) = container else { return };
        let file = self.ctx.termination_file(names::uid(&self.pod), name, attempt.number);
        let log = self.ctx.log_dir(&self.pod).join(name).join(format!("{}.log", attempt.number));
        if let Some(message) = last_words::read(container, attempt.exit_code, &file, &log) {
            attempt.message = message;
        }
    }

    /// A run that the runtime has forgotten.
    pub(super) fn mark_lost(&mut self, name: &str) {
        let now = self.ctx.now();
        let view = self.seen.view_mut(name);
        (view.probes, view.condemned) = (None, None);
        if let Some(attempt) = view.latest.as_mut().filter(|attempt| !attempt.exited()) {
            attempt.state = AttemptState::Exited;
            attempt.finished_at = Some(now);
            attempt.exit_code = 137;
            attempt.reason = "ContainerStatusUnknown".to_owned();
            attempt.message = "The container could not be located when the pod was terminated".to_owned();
        }
    }
}
