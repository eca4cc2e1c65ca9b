//! Removes what belongs to no pod, and rotates logs.
//!
//! Runs after the first list of pods, and then now and then: directories, logs and sandboxes of pods that went while the
//! node was away. Invariant: nothing is removed before the first list is in, and nothing of a pod that has a worker.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use wharf_cri::ContainerId;

use crate::context::Context;
use crate::logs::rotate;
use crate::names;
use crate::pods::Pods;

/// Until `cancel`.
pub async fn run(ctx: Arc<Context>, pods: Pods, cancel: CancellationToken) {
    let mut sweep = tokio::time::interval(ctx.timings.housekeeping);
    let mut logs = tokio::time::interval(ctx.timings.log_rotation);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    logs.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = sweep.tick() => sweep_orphans(&ctx, &pods, &cancel).await,
            _ = logs.tick() => rotate_logs(&ctx, &pods).await,
        }
    }
}

async fn sweep_orphans(ctx: &Context, pods: &Pods, cancel: &CancellationToken) {
    // Listed before the workers are: what comes up in between is not taken for an orphan.
    let sandboxes = ctx.runtime.sandboxes().await.unwrap_or_default();
    let data_dir = ctx.data_dir.clone();
    let found =
        tokio::task::spawn_blocking(move || (children(&data_dir.join("pods")), children(&data_dir.join("logs"))));
    let Ok((dirs, logs)) = found.await else { return };
    let known = pods.uids();
    // Workers that end with the node leave their pods behind: those are no orphans.
    if cancel.is_cancelled() {
        return;
    }
    for sandbox in sandboxes.iter().filter(|sandbox| !known.contains(&sandbox.config.uid)) {
        if let Err(error) = ctx.runtime.remove_sandbox(&sandbox.id).await {
            tracing::warn!(error = names::chain(&error), sandbox = %sandbox.id, "remove orphaned sandbox");
        }
    }
    let orphans =
        orphans(dirs, &known, |name| name.to_owned()).chain(orphans(logs, &known, log_dir_uid)).collect::<Vec<_>>();
    let removed = tokio::task::spawn_blocking(move || {
        for dir in orphans {
            tracing::info!(dir = %dir.display(), "remove orphaned directory");
            let _ = std::fs::remove_dir_all(dir);
        }
    });
    let _ = removed.await;
}

fn children(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn orphans<'a>(
    dirs: Vec<PathBuf>,
    known: &'a HashSet<String>,
    uid: fn(&str) -> String,
) -> impl Iterator<Item = PathBuf> + use<'a> {
    dirs.into_iter().filter(move |dir| {
        dir.file_name().and_then(|name| name.to_str()).is_some_and(|name| !known.contains(&uid(name)))
    })
}

/// `<namespace>_<name>_<uid>` → the UID. Neither names nor UIDs hold an underscore.
fn log_dir_uid(name: &str) -> String {
    name.rsplit('_').next().unwrap_or(name).to_owned()
}

async fn rotate_logs(ctx: &Context, pods: &Pods) {
    let running: Vec<(ContainerId, PathBuf)> = pods
        .snapshots()
        .iter()
        .flat_map(|snapshot| {
            let dir = ctx.log_dir(&snapshot.pod);
            let latest = snapshot
                .containers
                .iter()
                .filter_map(|(name, runs)| Some((name, runs.latest.as_ref().filter(|run| run.running)?)));
            latest
                .filter_map(|(name, run)| Some((run.id.clone()?, dir.join(name).join(format!("{}.log", run.attempt)))))
                .collect::<Vec<_>>()
        })
        .collect();
    let now = ctx.now();
    let rotated = tokio::task::spawn_blocking(move || {
        let due = running.into_iter().filter(|(_, log)| rotate::due(log));
        due.filter(|(_, log)| match rotate::rotate(log, now) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, log = %log.display(), "rotate log");
                false
            }
        })
        .collect::<Vec<_>>()
    });
    for (id, _) in rotated.await.unwrap_or_default() {
        if let Err(error) = ctx.runtime.reopen_log(&id).await {
            tracing::warn!(error = names::chain(&error), container = %id, "reopen log");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_without_a_pod_are_orphans() {
        let known = HashSet::from(["u1".to_owned()]);
        let dirs = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let left: Vec<PathBuf> = orphans(dirs(&["pods/u1", "pods/u2"]), &known, |name| name.to_owned()).collect();
        assert_eq!(left, dirs(&["pods/u2"]));
        let left: Vec<PathBuf> = orphans(dirs(&["logs/d_web-1_u1", "logs/d_web-2_u2"]), &known, log_dir_uid).collect();
        assert_eq!(left, dirs(&["logs/d_web-2_u2"]));
    }
}
