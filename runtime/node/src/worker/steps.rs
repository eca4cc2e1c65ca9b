//! Begins the steps that the plan asks for. Each is a future whose end comes back as a [`Done`].

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::api::{DeleteParams, Preconditions};
use wharf_cri::ContainerId;
use wharf_volumes::{Setup, Source};

use super::{Done, Worker};
use crate::backoff::{after, until};
use crate::context::Context;
use crate::events::Kind as EventKind;
use crate::observed::{Job, Sandbox, Volumes};
use crate::plan::Step;
use crate::probes::{self, Outcome};
use crate::start::{self, Start};
use crate::{hooks, names, sandbox_config, status_patch};

/// A container always gets this long after its pre-stop hook, as upstream's `minimumGracePeriodInSeconds`.
const MIN_STOP: Duration = Duration::from_secs(2);

impl Worker {
    pub(super) fn begin(&mut self, step: &Step, now: Timestamp) {
        let (ctx, pod) = (self.ctx.clone(), self.pod.clone());
        match step {
            Step::RunSandbox { attempt } => {
                let Some(spec) = &pod.spec else { return };
                let config = sandbox_config::sandbox_config(&ctx, &pod, spec, *attempt);
                self.seen.next_sandbox = attempt + 1;
                self.spawn(Job::Sandbox, async move {
                    let run = async {
                        let id = ctx.runtime.run_sandbox(config).await?;
                        ctx.runtime.sandbox(&id).await
                    };
                    Done::Sandbox(Box::new(run.await))
                });
            }
            Step::RemoveSandbox => {
                let Some(sandbox) = self.seen.sandbox.clone() else { return };
                self.spawn(Job::Sandbox, async move {
                    ctx.events.pod(
                        &pod,
                        None,
                        EventKind::Normal,
                        "SandboxChanged",
                        "Pod sandbox changed, it will be killed and re-created.",
                    );
                    Done::SandboxRemoved(ctx.runtime.remove_sandbox(&sandbox.id).await)
                });
            }
            Step::SetUpVolumes => {
                // A change that comes from now on makes them stale again.
                self.seen.volumes =
                    if self.seen.volumes == Volumes::Stale { Volumes::Mounted } else { Volumes::Pending };
                self.spawn(Job::Volumes, async move { Done::Volumes(set_up_volumes(&ctx, &pod).await) });
            }
            Step::Start { container, attempt } => self.begin_start(container, *attempt, now),
            Step::Stop { container, grace, restart } => self.begin_stop(container, *grace, *restart, now),
            Step::TearDown => {
                let sandbox = self.seen.sandbox.as_ref().map(|sandbox| sandbox.id.clone());
                self.spawn(Job::TearDown, async move { Done::TornDown(tear_down(&ctx, &pod, sandbox).await) });
            }
            Step::Delete => self.begin_delete(now),
        }
    }

    pub(super) fn spawn(&mut self, job: Job, work: impl Future<Output = Done> + Send + 'static) {
        self.seen.busy.insert(job);
        self.jobs.push(Box::pin(work));
    }

    pub(super) fn begin_start(&mut self, name: &str, attempt: u32, now: Timestamp) {
        let Some(container) = self.pod.spec.as_ref().and_then(|spec| names::container(spec, name)) else { return };
        let container = container.1.clone();
        let Some(sandbox) = self.seen.sandbox.clone() else { return };
        let restarts = self.ctx.timings.restarts;
        let view = self.seen.view_mut(name);
        // Trying again after an image error is not another crash.
        if let Some(ended) =
            view.latest.as_ref().filter(|attempt| attempt.exited()).and_then(|attempt| attempt.finished_at)
            && view.trouble.is_none()
        {
            view.restart_backoff = Some(restarts.next(view.restart_backoff, ended));
        }
        let mut pod = (*self.pod).clone();
        pod.status = Some(self.status(now));
        let start = Start { pod: Arc::new(pod), container, attempt, sandbox, cancel: self.starting.clone() };
        let (ctx, name) = (self.ctx.clone(), name.to_owned());
        self.spawn(
            Job::Start(name.clone()),
            async move { Done::Started(name, Box::new(start::start(&ctx, start).await)) },
        );
    }

    pub(super) fn begin_stop(&mut self, name: &str, grace: Duration, restart: bool, now: Timestamp) {
        let Some((_, container)) = self.pod.spec.as_ref().and_then(|spec| names::container(spec, name)) else { return };
        let container = container.clone();
        let sandbox = self.seen.sandbox.clone();
        let hastened = self.seen.stopping.contains_key(name);
        let ending = self.seen.ending_since.is_some();
        let view = self.seen.view_mut(name);
        let Some(id) = view.latest.as_ref().and_then(|attempt| attempt.id.clone()) else { return };
        view.restart_wanted = restart;
        let message = match (view.condemned.take(), restart) {
            (Some(why), true) => format!("Container {name} {why}, will be restarted"),
            (Some(why), false) if !ending => format!("Container {name} {why}"),
            (None, true) => format!("Container {name} definition changed, will be restarted"),
            _ => format!("Stopping container {name}"),
        };
        self.seen.stopping.insert(name.to_owned(), after(now, grace));
        let (ctx, pod, name) = (self.ctx.clone(), self.pod.clone(), name.to_owned());
        self.spawn(Job::Stop(name.clone()), async move {
            if !hastened {
                ctx.events.pod(&pod, Some(&name), EventKind::Normal, "Killing", message);
            }
            let left =
                if hastened { grace } else { pre_stop(&ctx, &pod, &container, &id, sandbox.as_ref(), grace).await };
            if let Err(error) = ctx.runtime.stop_container(&id, left).await {
                tracing::warn!(
                    error = names::chain(&error),
                    pod = names::full(&pod),
                    container = name,
                    "stop container"
                );
            }
            Done::Stopped(name)
        });
    }

    pub(super) fn begin_delete(&mut self, now: Timestamp) {
        let current = self.pod.status.clone().unwrap_or_default();
        let written = status_patch::diff("", &current, &self.status(now)).is_none();
        if self.deleted || self.writing || !written {
            return;
        }
        let (ctx, pod) = (self.ctx.clone(), self.pod.clone());
        self.spawn(Job::Delete, async move {
            let _slot = ctx.api_writes.acquire().await;
            let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
            let params = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(preconditions),
                ..DeleteParams::default()
            };
            Done::Deleted(ctx.pods(&pod).delete(names::name(&pod), &params).await.map(drop))
        });
    }

    pub(super) fn begin_probes(&mut self, now: Timestamp) {
        let pod = self.pod.clone();
        let (Some(spec), Some(sandbox)) = (&pod.spec, self.seen.sandbox.clone()) else { return };
        for (_, container) in names::containers(spec) {
            let Some(view) = self.seen.containers.get_mut(&container.name) else { continue };
            if view.condemned.is_some() || self.seen.stopping.contains_key(&container.name) {
                continue;
            }
            let (Some(probes), Some(latest)) = (view.probes.as_mut(), view.latest.as_ref()) else { continue };
            let Some(id) = latest.id.clone() else { continue };
            for kind in probes.take_due(now) {
                let (ctx, container, id, sandbox) = (self.ctx.clone(), container.clone(), id.clone(), sandbox.clone());
                let attempt = latest.number;
                self.jobs.push(Box::pin(async move {
                    let target = hooks::target(&ctx, &container, &id, &sandbox);
                    let outcome = match kind.spec(&container) {
                        Some(spec) => probes::run(spec, &target).await,
                        None => Outcome::Success,
                    };
                    Done::Probed { container: container.name.clone(), attempt, kind, outcome }
                }));
            }
        }
    }
}

pub(super) fn job(step: &Step) -> Job {
    match step {
        Step::RunSandbox { .. } | Step::RemoveSandbox => Job::Sandbox,
        Step::SetUpVolumes => Job::Volumes,
        Step::Start { container, .. } => Job::Start(container.clone()),
        Step::Stop { container, .. } => Job::Stop(container.clone()),
        Step::TearDown => Job::TearDown,
        Step::Delete => Job::Delete,
    }
}

async fn set_up_volumes(ctx: &Context, pod: &Pod) -> Result<(), (String, wharf_volumes::Error)> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    for spec in volumes.into_iter().flatten() {
        let failed = |error| (spec.name.clone(), error);
        let volume =
            wharf_volumes::build(spec, names::namespace(pod), names::uid(pod), &ctx.data_dir).map_err(failed)?;
        let objects: &dyn Source = &*ctx.objects;
        let setup = Setup { pod, objects, tokens: &ctx.tokens, now: ctx.now(), allocatable: &ctx.allocatable };
        volume.set_up(setup).await.map_err(failed)?;
    }
    Ok(())
}

/// Runs the pre-stop hook within the grace period; returns what is left of it.
async fn pre_stop(
    ctx: &Context,
    pod: &Pod,
    container: &Container,
    id: &ContainerId,
    sandbox: Option<&Sandbox>,
    grace: Duration,
) -> Duration {
    let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    let (Some(hook), Some(sandbox)) = (hook, sandbox) else { return grace };
    let began = ctx.now();
    let target = hooks::target(ctx, container, id, sandbox);
    if let Ok(Err(message)) = tokio::time::timeout(grace, hooks::run(hook, &target)).await {
        ctx.events.pod(pod, Some(&container.name), EventKind::Warning, "FailedPreStopHook", "PreStopHook failed");
        tracing::debug!(pod = names::full(pod), container = container.name, message, "pre-stop hook");
    }
    grace.saturating_sub(until(ctx.now(), began)).max(MIN_STOP.min(grace))
}

async fn tear_down(ctx: &Context, pod: &Pod, sandbox: Option<wharf_cri::SandboxId>) -> Result<(), String> {
    if let Some(id) = sandbox {
        ctx.runtime.stop_sandbox(&id).await.map_err(|error| names::chain(&error))?;
        ctx.runtime.remove_sandbox(&id).await.map_err(|error| names::chain(&error))?;
    }
    let dir = ctx.pod_dir(names::uid(pod));
    let removed = tokio::task::spawn_blocking(move || match std::fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("remove {}: {error}", dir.display())),
        _ => Ok(()),
    });
    removed.await.unwrap_or_else(|error| Err(error.to_string()))
}
