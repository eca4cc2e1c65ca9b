//! What the end of each step means for what is observed.

use jiff::Timestamp;
use wharf_cri::{SandboxState, SandboxStatus};

use std::time::Duration;

use super::{Done, Worker};
use crate::backoff::after;
use crate::events::Kind as EventKind;
use crate::names;
use crate::observed::{Attempt, Job, Sandbox, Trouble, Volumes};
use crate::probes::{Kind, Outcome, Probes, Verdict};
use crate::start::Failed;

impl Worker {
    pub(super) async fn finish(&mut self, done: Done) {
        match done {
            Done::Sandbox(result) => self.sandbox_done(*result),
            Done::SandboxRemoved(result) => self.sandbox_removed(result),
            Done::Volumes(result) => self.volumes_done(result),
            Done::Started(name, result) => self.started(name, *result),
            Done::Stopped(name) => {
                self.seen.busy.remove(&Job::Stop(name.clone()));
                self.seen.stopping.remove(&name);
                self.refresh().await;
            }
            Done::TornDown(result) => self.torn_down(result),
            Done::Probed { container, attempt, kind, outcome } => self.probed(&container, attempt, kind, outcome),
            Done::Written(result) => self.written(*result),
            Done::Deleted(result) => self.deletion_done(result),
            Done::Forgotten => {}
        }
    }

    pub(super) fn sandbox_done(&mut self, result: Result<SandboxStatus, wharf_cri::Error>) {
        self.seen.busy.remove(&Job::Sandbox);
        match result {
            Ok(status) => {
                self.seen.sandbox_retry_at = None;
                let ready = status.state == SandboxState::Ready;
                self.seen.sandbox =
                    Some(Sandbox { id: status.id, attempt: status.config.attempt, ready, ips: status.ips });
            }
            Err(error) => {
                let message = format!("Failed to create pod sandbox: {}", names::chain(&error));
                self.event(None, EventKind::Warning, "FailedCreatePodSandBox", message);
                self.seen.sandbox_retry_at = Some(after(self.ctx.now(), self.ctx.timings.retry));
            }
        }
    }

    pub(super) fn sandbox_removed(&mut self, result: Result<(), wharf_cri::Error>) {
        self.seen.busy.remove(&Job::Sandbox);
        match result {
            Ok(()) => {
                self.seen.sandbox = None;
                let names: Vec<String> = self.seen.containers.keys().cloned().collect();
                names.iter().for_each(|name| self.mark_lost(name));
            }
            Err(error) => self.hold_back(Job::Sandbox, "remove sandbox", &names::chain(&error)),
        }
    }

    pub(super) fn volumes_done(&mut self, result: Result<(), (String, wharf_volumes::Error)>) {
        self.seen.busy.remove(&Job::Volumes);
        let Err((volume, error)) = result else {
            self.volume_backoff = None;
            if self.seen.volumes == Volumes::Pending {
                self.seen.volumes =
                    if std::mem::take(&mut self.volumes_changed) { Volumes::Stale } else { Volumes::Mounted };
            }
            return;
        };
        let message = format!("MountVolume.SetUp failed for volume \"{volume}\" : {}", names::chain(&error));
        self.event(None, EventKind::Warning, "FailedMount", message);
        let now = self.ctx.now();
        let backoff = self.ctx.timings.volumes.next(self.volume_backoff, now);
        self.volume_backoff = Some(backoff);
        let retry_at = after(now, backoff.delay);
        // Volumes that stood keep standing with what they had: only a first set-up holds containers up.
        match self.seen.volumes {
            Volumes::Mounted | Volumes::Stale => {
                self.seen.volumes = Volumes::Stale;
                self.hold.insert(Job::Volumes, retry_at);
            }
            _ => self.seen.volumes = Volumes::Failed { retry_at },
        }
    }

    pub(super) fn started(&mut self, name: String, result: Result<Attempt, Failed>) {
        self.seen.busy.remove(&Job::Start(name.clone()));
        let now = self.ctx.now();
        let container = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| names::container(spec, &name))
            .map(|(_, container)| container.clone());
        match result {
            Ok(mut attempt) => {
                if attempt.exited() && attempt.message.is_empty() {
                    self.add_last_words(&name, &mut attempt);
                }
                let view = self.seen.view_mut(&name);
                (view.trouble, view.image_backoff, view.condemned, view.restart_wanted) = (None, None, None, false);
                view.probes = container
                    .filter(|_| attempt.running())
                    .map(|spec| Probes::new(&spec, attempt.started_at.unwrap_or(now)));
                let latest = view.latest.replace(attempt);
                let oldest = std::mem::replace(&mut view.previous, latest);
                self.forget(&name, oldest);
                // Something may have happened between the last answer of the runtime and now.
                self.mailbox.runtime_changed();
            }
            Err(Failed::Cancelled) => {}
            Err(Failed::Waits { reason, message, image }) => self.wait(&name, reason, message, image, now),
        }
    }

    pub(super) fn wait(&mut self, name: &str, reason: &'static str, message: String, image: bool, now: Timestamp) {
        let (pulls, retry) = (self.ctx.timings.pulls, self.ctx.timings.retry);
        let view = self.seen.view_mut(name);
        let retry_at = if image {
            let backoff = pulls.next(view.image_backoff, now);
            view.image_backoff = Some(backoff);
            after(now, backoff.delay)
        } else {
            after(now, retry)
        };
        view.trouble = Some(Trouble { reason, message, retry_at });
    }

    /// One dead run is kept for `logs --previous`; an older one goes, with its logs.
    pub(super) fn forget(&mut self, name: &str, attempt: Option<Attempt>) {
        let Some(attempt) = attempt else { return };
        let (ctx, name, dir) = (self.ctx.clone(), name.to_owned(), self.ctx.log_dir(&self.pod).join(name));
        let words = ctx.termination_file(names::uid(&self.pod), &name, attempt.number);
        self.jobs.push(Box::pin(async move {
            if let Some(id) = &attempt.id
                && let Err(error) = ctx.runtime.remove_container(id).await
            {
                tracing::debug!(error = names::chain(&error), container = name, "remove dead container");
            }
            let removed = tokio::task::spawn_blocking(move || {
                let _ = std::fs::remove_file(words);
                crate::logs::remove_run(&dir, attempt.number);
            });
            let _ = removed.await;
            Done::Forgotten
        }));
    }

    pub(super) fn torn_down(&mut self, result: Result<(), String>) {
        self.seen.busy.remove(&Job::TearDown);
        match result {
            Ok(()) => {
                self.seen.torn_down = true;
                if let Some(call) = self.on_end.take() {
                    call();
                }
                if let Some(sandbox) = self.seen.sandbox.as_mut() {
                    sandbox.ready = false;
                }
                let names: Vec<String> = self.seen.containers.keys().cloned().collect();
                names.iter().for_each(|name| self.mark_lost(name));
            }
            Err(error) => self.hold_back(Job::TearDown, "tear down pod", &error),
        }
    }

    pub(super) fn probed(&mut self, name: &str, attempt: u32, kind: Kind, outcome: Outcome) {
        let now = self.ctx.now();
        let Some(view) = self.seen.containers.get_mut(name) else { return };
        if view.restart_count() != attempt || !view.running() {
            return;
        }
        let Some(probes) = view.probes.as_mut() else { return };
        let verdict = probes.record(kind, outcome == Outcome::Success, now);
        if verdict == Verdict::Kill {
            view.condemned = Some(format!("failed {} probe", kind.word()));
        }
        if let Outcome::Failure(output) = outcome {
            let message = format!("{} probe failed: {output}", kind.title());
            self.event(Some(name), EventKind::Warning, "Unhealthy", message);
        }
    }

    pub(super) fn deletion_done(&mut self, result: Result<(), kube::Error>) {
        self.seen.busy.remove(&Job::Delete);
        match result {
            Ok(()) => self.deleted = true,
            // Gone, or another pod of the same name.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => self.seen.removed = true,
            Err(error) => self.hold_back(Job::Delete, "delete pod", &error.to_string()),
        }
    }

    pub(super) fn hold_back(&mut self, job: Job, operation: &str, error: &str) {
        tracing::warn!(error, pod = names::full(&self.pod), "{operation}");
        let delay = self.ctx.timings.retry.min(Duration::from_secs(1));
        self.hold.insert(job, after(self.ctx.now(), delay));
    }
}
