//! Starts one container: image → environment → mounts → create → start → post-start hook.
//!
//! Ends in a run of the container or in the reason why it waits; events are written on the way, in upstream's words.
//! Source: `kuberuntime_container.startContainer`. Absent on purpose: when to try again (the plan's).

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use tokio_util::sync::CancellationToken;
use wharf_cri::{ContainerConfig, ContainerId, ContainerStatus, Error as RuntimeError, ImageStatus};
use wharf_volumes::Source;

use crate::backoff::go_duration;
use crate::context::Context;
use crate::events::Kind;
use crate::images::{Failure, Had};
use crate::observed::{Attempt, AttemptState, Sandbox};
use crate::{container_config, hooks, names};

/// Exit code of a container that could not be started, as upstream's runtimes have it.
const START_ERROR_CODE: i32 = 128;

/// Why there is no run.
#[derive(Debug)]
pub enum Failed {
    /// The pod ends; nothing was started.
    Cancelled,
    /// The container waits for this reason. `image` chooses the back-off of pulls.
    Waits { reason: &'static str, message: String, image: bool },
}

fn waits(reason: &'static str, message: impl Into<String>) -> Failed {
    Failed::Waits { reason, message: message.into(), image: false }
}

/// What to start.
pub struct Start {
    /// With the addresses it has now in its status.
    pub pod: Arc<Pod>,
    pub container: Container,
    pub attempt: u32,
    pub sandbox: Sandbox,
    pub cancel: CancellationToken,
}

pub async fn start(ctx: &Context, start: Start) -> Result<Attempt, Failed> {
    let image = tokio::select! {
        image = ensure_image(ctx, &start) => image?,
        () = start.cancel.cancelled() => return Err(Failed::Cancelled),
    };
    let config = tokio::select! {
        config = container_config::config(ctx, &start, &image) => config,
        () = start.cancel.cancelled() => return Err(Failed::Cancelled),
    };
    let config = config.map_err(|message| {
        event(ctx, &start, Kind::Warning, "Failed", format!("Error: {message}"));
        waits("CreateContainerConfigError", message)
    })?;
    let id = create(ctx, &start, config).await?;
    event(ctx, &start, Kind::Normal, "Created", "Container created");
    if let Err(error) = ctx.runtime.start_container(&id).await {
        let message = names::chain(&error);
        event(ctx, &start, Kind::Warning, "Failed", format!("Error: {message}"));
        return Ok(stillborn(ctx, &start, id, shown_image(&image), message).await);
    }
    event(ctx, &start, Kind::Normal, "Started", "Container started");
    if let Some(hook) = start.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref()) {
        let target = hooks::target(ctx, &start.container, &id, &start.sandbox);
        let ran = tokio::select! {
            ran = hooks::run(hook, &target) => ran,
            () = start.cancel.cancelled() => Ok(()),
        };
        if let Err(message) = ran {
            event(ctx, &start, Kind::Warning, "FailedPostStartHook", "PostStartHook failed");
            tracing::debug!(
                pod = names::full(&start.pod),
                container = start.container.name,
                message,
                "post-start hook"
            );
            let _ = ctx.runtime.stop_container(&id, grace(&start.pod)).await;
        }
    }
    match ctx.runtime.container(&id).await {
        Ok(status) => Ok(Attempt::from_runtime(status, &ctx.scheme, shown_image(&image))),
        Err(error) => Err(waits("RunContainerError", names::chain(&error))),
    }
}

fn grace(pod: &Pod) -> Duration {
    let seconds = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

fn event(ctx: &Context, start: &Start, kind: Kind, reason: &'static str, message: impl Into<String>) {
    ctx.events.pod(&start.pod, Some(&start.container.name), kind, reason, message);
}

async fn ensure_image(ctx: &Context, start: &Start) -> Result<ImageStatus, Failed> {
    let reference = start.container.image.as_deref().unwrap_or_default();
    let had = match ctx.puller.present(&start.container).await {
        Ok(Some(had)) => Ok(had),
        Ok(None) => pull(ctx, start, reference).await,
        Err(failure) => Err(failure),
    };
    match had {
        Ok(had) => {
            if let Had::Present(_) = &had {
                let message = format!(
                    "Container image \"{reference}\" already present on machine and can be accessed by the pod"
                );
                event(ctx, start, Kind::Normal, "Pulled", message);
            }
            Ok(had.image().clone())
        }
        Err(failure) => Err(image_failed(ctx, start, reference, failure)),
    }
}

async fn pull(ctx: &Context, start: &Start, reference: &str) -> Result<Had, Failure> {
    event(ctx, start, Kind::Normal, "Pulling", format!("Pulling image \"{reference}\""));
    let began = ctx.now();
    let had = ctx.puller.pull(reference, &pull_secrets(ctx, &start.pod).await).await?;
    let took = go_duration(crate::backoff::until(ctx.now(), began));
    let size = had.image().size_bytes;
    let message = format!(
        "Successfully pulled image \"{reference}\" in {took} ({took} including waiting). Image size: {size} bytes."
    );
    event(ctx, start, Kind::Normal, "Pulled", message);
    Ok(had)
}

/// Secrets that cannot be had are passed over: the image may be public.
async fn pull_secrets(ctx: &Context, pod: &Pod) -> Vec<Arc<Secret>> {
    let mut secrets = Vec::new();
    let named = pod.spec.as_ref().and_then(|spec| spec.image_pull_secrets.as_ref());
    for reference in named.into_iter().flatten() {
        match ctx.objects.secret(names::namespace(pod), &reference.name).await {
            Ok(Some(secret)) => secrets.push(secret),
            _ => {
                let message = format!(
                    "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                    reference.name
                );
                ctx.events.pod(pod, None, Kind::Warning, "FailedToRetrieveImagePullSecret", message);
            }
        }
    }
    secrets
}

fn image_failed(ctx: &Context, start: &Start, reference: &str, failure: Failure) -> Failed {
    let (reason, event_reason, text, message) = match failure {
        Failure::Pull(cause) => {
            let text = format!("Failed to pull image \"{reference}\": {cause}");
            ("ErrImagePull", "Failed", text, cause)
        }
        Failure::Never(text) => ("ErrImageNeverPull", "ErrImageNeverPull", text.clone(), text),
        Failure::InvalidName(text) => ("InvalidImageName", "InspectFailed", text.clone(), text),
        Failure::Inspect(text) => ("ImageInspectError", "InspectFailed", text.clone(), text),
    };
    event(ctx, start, Kind::Warning, event_reason, text);
    event(ctx, start, Kind::Warning, "Failed", format!("Error: {reason}"));
    Failed::Waits { reason, message, image: reason == "ErrImagePull" }
}

async fn create(ctx: &Context, start: &Start, config: ContainerConfig) -> Result<ContainerId, Failed> {
    let created = ctx.runtime.create_container(&start.sandbox.id, config).await;
    created.map_err(|error| {
        let message = names::chain(&error);
        event(ctx, start, Kind::Warning, "Failed", format!("Error: {message}"));
        let reason =
            if matches!(error, RuntimeError::ImageInspect(_)) { "ImageInspectError" } else { "CreateContainerError" };
        waits(reason, message)
    })
}

/// A container that did not start counts as a run that ended at once, so that back-off and restart policy hold for it.
async fn stillborn(ctx: &Context, start: &Start, id: ContainerId, image_id: String, message: String) -> Attempt {
    let now = ctx.now();
    let attempt = Attempt {
        number: start.attempt,
        shown_id: format!("{}://{id}", ctx.scheme),
        id: Some(id),
        sandbox: Some(start.sandbox.id.clone()),
        image_id,
        image: start.container.image.clone(),
        state: AttemptState::Exited,
        started_at: Some(now),
        finished_at: Some(now),
        exit_code: START_ERROR_CODE,
        reason: "StartError".to_owned(),
        message,
    };
    // The runtime may know better: it may have recorded the end itself.
    let held = match &attempt.id {
        Some(id) => ctx.runtime.container(id).await.ok(),
        None => None,
    };
    match held {
        Some(status @ ContainerStatus { state: wharf_cri::ContainerState::Exited, .. }) if status.exit_code != 0 => {
            Attempt::from_runtime(status, &ctx.scheme, attempt.image_id)
        }
        _ => attempt,
    }
}

/// As the API shows it: the digest reference if there is one.
pub fn shown_image(image: &ImageStatus) -> String {
    image.digests.first().unwrap_or(&image.id).clone()
}
