//! Lifecycle hooks: `exec`, `httpGet`, `sleep`. `tcpSocket` is refused, as upstream refuses it.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use wharf_cri::ContainerId;

use crate::context::Context;
use crate::names;
use crate::observed::Sandbox;
use crate::probes::{self, Target};

pub fn target<'a>(ctx: &'a Context, container: &'a Container, id: &ContainerId, sandbox: &Sandbox) -> Target<'a> {
    let pod_ip = sandbox.ips.first().or(ctx.facts.host_ips.first()).copied();
    Target { runtime: &*ctx.runtime, container: id.clone(), spec: container, pod_ip }
}

/// Runs a hook to its end; the caller bounds the time.
pub async fn run(hook: &LifecycleHandler, target: &Target<'_>) -> Result<(), String> {
    if let Some(action) = &hook.exec {
        let command = action.command.clone().unwrap_or_default();
        let result = target
            .runtime
            .exec_sync(&target.container, command.clone(), None)
            .await
            .map_err(|error| names::chain(&error))?;
        return match result.exit_code {
            0 => Ok(()),
            code => Err(format!(
                "command '{}' exited with {code}: {}",
                command.join(" "),
                String::from_utf8_lossy(&result.stderr)
            )),
        };
    }
    if let Some(action) = &hook.http_get {
        return probes::hook(action, target).await;
    }
    if let Some(action) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(action.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err("invalid handler: a hook needs exec, httpGet or sleep".to_owned())
}
