//! Tells others: the status in the API, and events of containers that wait.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Patch, PatchParams};

use super::{Done, Worker};
use crate::backoff::after;
use crate::events::Kind as EventKind;
use crate::{names, status, status_patch};

impl Worker {
    pub(super) fn status(&self, now: Timestamp) -> PodStatus {
        let prior = self.pod.status.clone().unwrap_or_default();
        status::generate(&self.pod, &self.seen, &prior, &self.ctx.facts, now)
    }

    /// Begins a write if the status is not what the API has. Returns when to look again.
    pub(super) fn write_status(&mut self, now: Timestamp) -> Option<Timestamp> {
        if self.writing || self.seen.removed {
            return None;
        }
        let status = self.status(now);
        let prior = self.pod.status.clone().unwrap_or_default();
        let patch = status_patch::diff(names::uid(&self.pod), &prior, &status)?;
        if let Some(at) = self.write_at.filter(|at| *at > now) {
            return Some(at);
        }
        let settled_at = after(self.since, self.ctx.timings.settle);
        let on_its_way = !self.seen.busy.is_empty() && self.seen.containers.values().all(|view| view.trouble.is_none());
        if status.phase.as_deref() == Some("Pending") && on_its_way && now < settled_at {
            return Some(settled_at);
        }
        self.writing = true;
        let (ctx, pod) = (self.ctx.clone(), self.pod.clone());
        self.jobs.push(Box::pin(async move {
            let _slot = ctx.api_writes.acquire().await;
            let result =
                ctx.pods(&pod).patch_status(names::name(&pod), &PatchParams::default(), &Patch::Strategic(patch)).await;
            Done::Written(Box::new(result))
        }));
        None
    }

    pub(super) fn written(&mut self, result: Result<Pod, kube::Error>) {
        self.writing = false;
        match result {
            Ok(mut pod) => {
                wharf_types::lean(&mut pod, |pod| &mut pod.metadata);
                (self.write_failures, self.write_at) = (0, None);
                self.take_pod(Arc::new(pod));
            }
            // The watch will say what became of it.
            Err(kube::Error::Api(status)) if status.code == 404 => self.seen.removed = true,
            Err(error) => {
                self.write_failures = self.write_failures.saturating_add(1);
                let delay = Duration::from_millis(100 << self.write_failures.min(7)).min(self.ctx.timings.retry);
                self.write_at = Some(after(self.ctx.now(), delay));
                tracing::warn!(%error, pod = names::full(&self.pod), "write pod status");
            }
        }
    }

    /// Events for containers that went into back-off since the last look; turns a failed pull into its back-off.
    pub(super) fn report_waiting(&mut self, now: Timestamp) {
        let pod = self.pod.clone();
        let Some(spec) = &pod.spec else { return };
        for (_, container) in names::containers(spec) {
            if let Some(trouble) = self.seen.containers.get_mut(&container.name).and_then(|view| view.trouble.as_mut())
                && trouble.reason == "ErrImagePull"
                && self.reported.get(&container.name).is_some_and(|reason| reason == "ErrImagePull")
                && !self.writing
            {
                trouble.reason = "ImagePullBackOff";
                trouble.message = format!(
                    "Back-off pulling image \"{}\": ErrImagePull: {}",
                    container.image.as_deref().unwrap_or_default(),
                    trouble.message
                );
            }
            let waiting = status::waiting(&pod, spec, &self.seen, container, &self.ctx.timings.restarts, now);
            let reason = waiting.map(|(reason, _)| reason).unwrap_or_default();
            let held = self.reported.insert(container.name.clone(), reason.clone()).unwrap_or_default();
            if held == reason {
                continue;
            }
            let name = Some(container.name.as_str());
            match reason.as_str() {
                "CrashLoopBackOff" => {
                    let message =
                        format!("Back-off restarting failed container {} in pod {}", container.name, names::full(&pod));
                    self.event(name, EventKind::Warning, "BackOff", message);
                }
                "ImagePullBackOff" => {
                    let image = container.image.as_deref().unwrap_or_default();
                    self.event(name, EventKind::Normal, "BackOff", format!("Back-off pulling image \"{image}\""));
                    self.event(name, EventKind::Warning, "Failed", "Error: ImagePullBackOff".to_owned());
                }
                _ => {}
            }
        }
    }

    pub(super) fn event(&self, container: Option<&str>, kind: EventKind, reason: &'static str, message: String) {
        self.ctx.events.pod(&self.pod, container, kind, reason, message);
    }
}
