//! A Deployment's status and conditions, in the words that `kubectl rollout status` reads.
//!
//! Source: `progress.go` and `sync.go` (`calculateStatus`).

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use wharf_types::k8s::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};

use super::rollout::Rollout;
use crate::{owners, pods};

const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";

const NEW_SET: &str = "NewReplicaSetCreated";
const FOUND_SET: &str = "FoundNewReplicaSet";
const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const SET_UPDATED: &str = "ReplicaSetUpdated";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";
const RESUMED: &str = "DeploymentResumed";
pub const CREATE_ERROR: &str = "ReplicaSetCreateError";

/// How long a rollout may stand still; none where that is not limited.
fn deadline(deployment: &Deployment) -> Option<SignedDuration> {
    let seconds = deployment.spec.as_ref().and_then(|spec| spec.progress_deadline_seconds);
    seconds.filter(|seconds| *seconds != i32::MAX).map(|seconds| SignedDuration::from_secs(seconds.into()))
}

fn condition<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

fn reason<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a str> {
    condition(status, kind)?.reason.as_deref()
}

fn new_condition(kind: &str, state: &str, reason: &str, message: String, now: Timestamp) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.to_owned(),
        status: state.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(pods::time(now)),
        last_transition_time: Some(pods::time(now)),
    }
}

fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != kind);
    }
    status.conditions.take_if(|conditions| conditions.is_empty());
}

/// Leaves a condition alone that has this state and reason already. Source: `SetDeploymentCondition`.
fn set(status: &mut DeploymentStatus, mut fresh: DeploymentCondition) {
    if let Some(present) = condition(status, &fresh.type_) {
        if present.status == fresh.status && present.reason == fresh.reason {
            return;
        }
        if present.status == fresh.status {
            fresh.last_transition_time = present.last_transition_time.clone();
        }
    }
    remove(status, &fresh.type_);
    status.conditions.get_or_insert_default().push(fresh);
}

/// A rollout that is paused does not run out of time; one that is resumed starts to count again.
pub fn note_pause(deployment: &Deployment, status: &mut DeploymentStatus, now: Timestamp) {
    if deadline(deployment).is_none() || reason(status, PROGRESSING) == Some(TIMED_OUT) {
        return;
    }
    let paused = deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false);
    let noted = reason(status, PROGRESSING) == Some(PAUSED);
    if paused && !noted {
        set(status, new_condition(PROGRESSING, "Unknown", PAUSED, "Deployment is paused".to_owned(), now));
    } else if !paused && noted {
        set(status, new_condition(PROGRESSING, "Unknown", RESUMED, "Deployment is resumed".to_owned(), now));
    }
}

/// Notes which ReplicaSet has the present template.
pub fn note_new_set(rollout: &Rollout<'_>, status: &mut DeploymentStatus, now: Timestamp) {
    let Some(new) = rollout.new.map(|at| &rollout.sets[at]) else { return };
    if deadline(rollout.deployment).is_none() {
        return;
    }
    let name = owners::name(&new.rs);
    if new.fresh {
        set(status, new_condition(PROGRESSING, "True", NEW_SET, format!("Created new replica set {name:?}"), now));
    } else if condition(status, PROGRESSING).is_none() {
        set(status, new_condition(PROGRESSING, "True", FOUND_SET, format!("Found new replica set {name:?}"), now));
    }
}

pub fn create_failed(deployment: &Deployment, message: String, now: Timestamp) -> DeploymentStatus {
    let mut status = deployment.status.clone().unwrap_or_default();
    if deadline(deployment).is_some() {
        set(&mut status, new_condition(PROGRESSING, "False", CREATE_ERROR, message, now));
    }
    status
}

/// Counters and availability; other conditions are those of `base`.
pub fn counted(rollout: &Rollout<'_>, base: &DeploymentStatus, now: Timestamp) -> DeploymentStatus {
    let of = |rs: &ReplicaSet, count: fn(&wharf_types::k8s::api::apps::v1::ReplicaSetStatus) -> Option<i32>| {
        rs.status.as_ref().and_then(count).unwrap_or(0)
    };
    let sum = |count| rollout.sets.iter().map(|set| of(&set.rs, count)).sum::<i32>();
    let total = sum(|status| Some(status.replicas));
    let available = sum(|status| status.available_replicas);
    let updated = rollout.new.map_or(0, |at| of(&rollout.sets[at].rs, |status| Some(status.replicas)));
    // Upstream's counters are `omitempty`: a zero is not there.
    let some = |count: i32| Some(count).filter(|count| *count != 0);
    let mut status = DeploymentStatus {
        observed_generation: rollout.deployment.metadata.generation,
        replicas: some(total),
        updated_replicas: some(updated),
        ready_replicas: some(sum(|status| status.ready_replicas)),
        available_replicas: some(available),
        unavailable_replicas: some((total - available).max(0)),
        terminating_replicas: Some(sum(|status| status.terminating_replicas)),
        collision_count: base.collision_count,
        conditions: base.conditions.clone(),
    };
    let fresh = if available >= rollout.desired - rollout.max_unavailable {
        let message = "Deployment has minimum availability.".to_owned();
        new_condition(AVAILABLE, "True", "MinimumReplicasAvailable", message, now)
    } else {
        let message = "Deployment does not have minimum availability.".to_owned();
        new_condition(AVAILABLE, "False", "MinimumReplicasUnavailable", message, now)
    };
    set(&mut status, fresh);
    status
}

/// All replicas are of the present template and available, and the present spec was seen.
pub fn is_complete(rollout: &Rollout<'_>, status: &DeploymentStatus) -> bool {
    let desired = Some(rollout.desired);
    let counters = [status.updated_replicas, status.replicas, status.available_replicas];
    counters.iter().all(|count| count.or(Some(0)) == desired)
        && status.observed_generation >= rollout.deployment.metadata.generation
}

fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let count = |count: Option<i32>| count.unwrap_or(0);
    let outdated = |status: &DeploymentStatus| count(status.replicas) - count(status.updated_replicas);
    count(new.updated_replicas) > count(old.updated_replicas)
        || outdated(new) < outdated(old)
        || count(new.ready_replicas) > count(old.ready_replicas)
        || count(new.available_replicas) > count(old.available_replicas)
}

fn has_timed_out(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> bool {
    let (Some(deadline), Some(progressing)) = (deadline(deployment), condition(status, PROGRESSING)) else {
        return false;
    };
    match progressing.reason.as_deref() {
        Some(NEW_SET_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => progressing.last_update_time.as_ref().is_some_and(|since| since.0 + deadline < now),
    }
}

/// Judges how the rollout goes, from `base` (the status so far) to `status`. Source: `syncRolloutStatus`.
pub fn judge(rollout: &Rollout<'_>, base: &DeploymentStatus, status: &mut DeploymentStatus, now: Timestamp) {
    let deployment = rollout.deployment;
    if deadline(deployment).is_none() {
        remove(status, PROGRESSING);
    }
    let was_complete =
        status.replicas == status.updated_replicas && reason(base, PROGRESSING) == Some(NEW_SET_AVAILABLE);
    if deadline(deployment).is_some() && !was_complete {
        let subject = match rollout.new.map(|at| &rollout.sets[at].rs) {
            Some(rs) => format!("ReplicaSet {:?}", owners::name(rs)),
            None => format!("Deployment {:?}", owners::name(deployment)),
        };
        if is_complete(rollout, status) {
            let message = format!("{subject} has successfully progressed.");
            set(status, new_condition(PROGRESSING, "True", NEW_SET_AVAILABLE, message, now));
        } else if has_progressed(base, status) {
            let mut fresh = new_condition(PROGRESSING, "True", SET_UPDATED, format!("{subject} is progressing."), now);
            if let Some(present) = condition(status, PROGRESSING).filter(|present| present.status == "True") {
                fresh.last_transition_time = present.last_transition_time.clone();
            }
            // Removed first, so that the time of the last progress is noted though state and reason are the same.
            remove(status, PROGRESSING);
            set(status, fresh);
        } else if has_timed_out(deployment, status, now) {
            let message = format!("{subject} has timed out progressing.");
            set(status, new_condition(PROGRESSING, "False", TIMED_OUT, message, now));
        }
    }
    match replica_failure(rollout) {
        Some(failure) => set(status, failure),
        None => remove(status, REPLICA_FAILURE),
    }
}

/// The first failure of a ReplicaSet, the new one's before others'.
fn replica_failure(rollout: &Rollout<'_>) -> Option<DeploymentCondition> {
    let ordered = rollout.new.into_iter().chain(rollout.old());
    let conditions = ordered.filter_map(|at| rollout.sets[at].rs.status.as_ref()?.conditions.as_ref());
    let failure = conditions.flatten().find(|condition| condition.type_ == REPLICA_FAILURE)?;
    Some(DeploymentCondition {
        type_: REPLICA_FAILURE.to_owned(),
        status: failure.status.clone(),
        reason: failure.reason.clone(),
        message: failure.message.clone(),
        last_transition_time: failure.last_transition_time.clone(),
        last_update_time: failure.last_transition_time.clone(),
    })
}

/// When to look whether the rollout is out of time. Source: `requeueStuckDeployment`.
pub fn check_again(rollout: &Rollout<'_>, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let deadline = deadline(rollout.deployment)?;
    let progressing = condition(status, PROGRESSING)?;
    let settled = [TIMED_OUT, NEW_SET_AVAILABLE, PAUSED].contains(&progressing.reason.as_deref().unwrap_or_default());
    if is_complete(rollout, status) || settled {
        return None;
    }
    let left = progressing.last_update_time.as_ref()?.0 + deadline;
    Some(Duration::try_from(left.duration_since(now)).unwrap_or_default() + Duration::from_secs(1))
}
