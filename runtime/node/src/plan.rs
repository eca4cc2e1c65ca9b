//! What to do next for a pod. Pure: the same pod, observations and time give the same steps.
//!
//! Order: sandbox and volumes → init containers one after the other (sidecars stay) → containers in the order of the spec →
//! restarts. An ending pod is stopped (containers, then sidecars in reverse), torn down and, if it was deleted, deleted from
//! the API. Source of the rules: `kuberuntime_manager.computePodActions`, `pod_workers.go`, `kuberuntime_container.killContainersWithSyncResult`.
//! Absent on purpose: probes and status writes, which the worker does whatever the plan is.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::backoff::{Policy, after, until};
use crate::names::{self, Role};
use crate::observed::{Attempt, AttemptState, Job, Observed, Volumes};

/// Where a pod does not say: upstream's `DefaultTerminationGracePeriodSeconds`.
const DEFAULT_GRACE_S: i64 = 30;
/// A container gets at least this long, as upstream's `minimumGracePeriodInSeconds`, unless it was deleted by force.
const MIN_GRACE: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    RunSandbox {
        attempt: u32,
    },
    /// The sandbox died: remove it. A new one comes with the next plan.
    RemoveSandbox,
    SetUpVolumes,
    /// Pull if need be, create, start, and run the post-start hook.
    Start {
        container: String,
        attempt: u32,
    },
    Stop {
        container: String,
        grace: Duration,
        restart: bool,
    },
    /// Remove the sandbox and the volumes.
    TearDown,
    /// Delete the pod from the API, once its final status is there.
    Delete,
}

/// Why a pod's life ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Gone from the API.
    Removed,
    /// Marked for deletion.
    Deleted,
    /// Refused by the node.
    Rejected,
    /// It ran longer than `activeDeadlineSeconds`.
    DeadlineExceeded,
    /// It has run to its end, now or in an earlier life of this node.
    Finished,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// When to plan again although nothing happened.
    pub wake_at: Option<Timestamp>,
    pub ending: Option<Ending>,
}

impl Plan {
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |held| held.min(at)));
    }
}

pub fn plan(pod: &Pod, seen: &Observed, restarts: &Policy, now: Timestamp) -> Plan {
    let Some(spec) = &pod.spec else { return Plan::default() };
    let mut plan = Plan { ending: ending(pod, spec, seen, now), ..Plan::default() };
    match plan.ending.clone() {
        Some(ending) => end(&mut plan, &ending, pod, spec, seen, now),
        None => {
            if let Some(deadline) = deadline(spec, seen) {
                plan.wake(deadline);
            }
            if prepare(&mut plan, seen, now) {
                run(&mut plan, spec, seen, restarts, now);
            }
        }
    }
    plan
}

/// Whether and why the pod ends.
pub fn ending(pod: &Pod, spec: &PodSpec, seen: &Observed, now: Timestamp) -> Option<Ending> {
    if seen.removed {
        return Some(Ending::Removed);
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return Some(Ending::Deleted);
    }
    if seen.rejected.is_some() {
        return Some(Ending::Rejected);
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return Some(Ending::Finished);
    }
    if finished(spec, seen) {
        return Some(Ending::Finished);
    }
    deadline(spec, seen).is_some_and(|deadline| deadline <= now).then_some(Ending::DeadlineExceeded)
}

fn deadline(spec: &PodSpec, seen: &Observed) -> Option<Timestamp> {
    let allowed = u64::try_from(spec.active_deadline_seconds?).ok()?;
    Some(after(seen.start_time?, Duration::from_secs(allowed)))
}

/// No container will run again.
fn finished(spec: &PodSpec, seen: &Observed) -> bool {
    let over = |role: Role, container: &Container| {
        let view = seen.view(&container.name);
        let latest = view.and_then(|view| view.latest.as_ref()).filter(|attempt| attempt.exited());
        let wanted = view.is_some_and(|view| view.restart_wanted);
        latest.is_some_and(|attempt| !wanted && !restarts(spec, role, container, attempt.exit_code))
            && !seen.busy.contains(&Job::Start(container.name.clone()))
    };
    let init_failed = names::containers(spec).filter(|(role, _)| *role == Role::Init).any(|(role, container)| {
        let failed = seen
            .view(&container.name)
            .and_then(|view| view.latest.as_ref())
            .is_some_and(|attempt| attempt.exit_code != 0);
        failed && over(role, container)
    });
    init_failed || spec.containers.iter().all(|container| over(Role::Main, container)) && !spec.containers.is_empty()
}

/// True if a container that ended so is to run again.
pub fn restarts(spec: &PodSpec, role: Role, container: &Container, exit_code: i32) -> bool {
    for rule in container.restart_policy_rules.iter().flatten().filter(|rule| rule.action == "Restart") {
        let Some(codes) = &rule.exit_codes else { continue };
        let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
        if (codes.operator == "In" && listed) || (codes.operator == "NotIn" && !listed) {
            return true;
        }
    }
    let policy = container.restart_policy.as_deref().unwrap_or(names::restart_policy(spec));
    match (role, policy) {
        (Role::Sidecar, _) => true,
        (_, "Never") => false,
        (Role::Init, _) | (_, "OnFailure") => exit_code != 0,
        _ => true,
    }
}

/// Sandbox and volumes. True when both stand.
fn prepare(plan: &mut Plan, seen: &Observed, now: Timestamp) -> bool {
    let sandbox_ready = match &seen.sandbox {
        _ if seen.busy.contains(&Job::Sandbox) => false,
        Some(sandbox) if sandbox.ready => true,
        Some(_) => {
            plan.steps.push(Step::RemoveSandbox);
            false
        }
        None => {
            match seen.sandbox_retry_at.filter(|at| *at > now) {
                Some(at) => plan.wake(at),
                None => plan.steps.push(Step::RunSandbox { attempt: seen.next_sandbox }),
            }
            false
        }
    };
    let volumes_ready = match &seen.volumes {
        Volumes::Mounted | Volumes::Stale => true,
        Volumes::Pending | Volumes::Failed { .. } => false,
    };
    if !seen.busy.contains(&Job::Volumes) {
        match &seen.volumes {
            Volumes::Mounted => {}
            Volumes::Failed { retry_at } if *retry_at > now => plan.wake(*retry_at),
            Volumes::Pending | Volumes::Stale | Volumes::Failed { .. } => plan.steps.push(Step::SetUpVolumes),
        }
    }
    sandbox_ready && volumes_ready
}

fn run(plan: &mut Plan, spec: &PodSpec, seen: &Observed, policy: &Policy, now: Timestamp) {
    stop_unwanted(plan, spec, seen);
    let mut start = Starter { spec, seen, policy, now, one_started: seen.is_busy(|job| matches!(job, Job::Start(_))) };
    if start_init(plan, spec, seen, &mut start) {
        for container in &spec.containers {
            start.consider(plan, Role::Main, container);
        }
    }
}

/// Kills what a probe condemned, and what runs from another image than the spec now says.
fn stop_unwanted(plan: &mut Plan, spec: &PodSpec, seen: &Observed) {
    for (_, container) in names::containers(spec) {
        let Some(view) = seen.view(&container.name).filter(|view| view.running()) else { continue };
        let outdated = view.latest.as_ref().is_some_and(|attempt| attempt.outdated(container));
        if (outdated || view.condemned.is_some()) && !seen.stopping.contains_key(&container.name) {
            let grace = probe_grace(container).unwrap_or_else(|| spec_grace(spec));
            // A new definition is started whatever the policy; a sick container only if it may restart.
            let restart = outdated || names::restart_policy(spec) != "Never";
            plan.steps.push(Step::Stop { container: container.name.clone(), grace, restart });
        }
    }
}

fn probe_grace(container: &Container) -> Option<Duration> {
    let probes = [container.liveness_probe.as_ref(), container.startup_probe.as_ref()];
    let seconds = probes.into_iter().flatten().find_map(|probe| probe.termination_grace_period_seconds)?;
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).max(MIN_GRACE))
}

fn spec_grace(spec: &PodSpec) -> Duration {
    let seconds = spec.termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE_S);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).max(MIN_GRACE)
}

/// Goes through the init containers in order. True when the main ones may run.
fn start_init(plan: &mut Plan, spec: &PodSpec, seen: &Observed, start: &mut Starter<'_>) -> bool {
    let initialized = spec.containers.iter().any(|container| seen.current(&container.name).is_some());
    for (role, container) in names::containers(spec).filter(|(role, _)| *role != Role::Main) {
        let current = seen.current(&container.name);
        let done = match role {
            Role::Init => initialized || current.is_some_and(|attempt| attempt.exited() && attempt.exit_code == 0),
            _ => current.is_some_and(Attempt::running) && seen.view(&container.name).is_some_and(|view| view.started()),
        };
        if done {
            continue;
        }
        start.consider(plan, role, container);
        // Once the pod runs, a sidecar that comes back does not hold the others up.
        if !initialized {
            return false;
        }
    }
    true
}

/// Starts containers, one at a time, as upstream does: a post-start hook holds up the containers after it.
struct Starter<'a> {
    spec: &'a PodSpec,
    seen: &'a Observed,
    policy: &'a Policy,
    now: Timestamp,
    one_started: bool,
}

impl Starter<'_> {
    fn consider(&mut self, plan: &mut Plan, role: Role, container: &Container) {
        let name = &container.name;
        let view = self.seen.view(name);
        let latest = view.and_then(|view| view.latest.as_ref());
        let current = self.seen.current(name);
        if current.is_some_and(|attempt| attempt.state == AttemptState::Running) {
            return;
        }
        // A run of an earlier sandbox counts for main containers only: init containers run again in a new one.
        let ended = if role == Role::Main { latest } else { current }.filter(|attempt| attempt.exited());
        if let Some(ended) = ended {
            let wanted = view.is_some_and(|view| view.restart_wanted);
            if !wanted && !restarts(self.spec, role, container, ended.exit_code) {
                return;
            }
        }
        if let Some(at) = wait_until(self.seen, name, self.policy, self.now) {
            plan.wake(at);
            return;
        }
        if !self.one_started {
            self.one_started = true;
            let attempt = latest.map_or(0, |attempt| attempt.number + 1);
            plan.steps.push(Step::Start { container: name.clone(), attempt });
        }
    }
}

/// Until when the container may not be tried again: trouble or crash-loop back-off.
fn wait_until(seen: &Observed, container: &str, policy: &Policy, now: Timestamp) -> Option<Timestamp> {
    let trouble = seen.view(container)?.trouble.as_ref().map(|trouble| trouble.retry_at).filter(|at| *at > now);
    trouble.into_iter().chain(crash_wait(seen, container, policy, now)).max()
}

/// Until when crash-loop back-off holds the container.
pub fn crash_wait(seen: &Observed, container: &str, policy: &Policy, now: Timestamp) -> Option<Timestamp> {
    let view = seen.view(container)?;
    let ended = view.latest.as_ref().filter(|attempt| attempt.exited())?;
    policy.waits_until(view.restart_backoff, ended.finished_at?, now)
}

fn end(plan: &mut Plan, ending: &Ending, pod: &Pod, spec: &PodSpec, seen: &Observed, now: Timestamp) {
    if !seen.torn_down {
        // A set-up of volumes under way would make again what is removed.
        if stop_all(plan, pod, spec, seen, now) && !seen.is_busy(|job| *job != Job::Delete) {
            plan.steps.push(Step::TearDown);
        }
        return;
    }
    if *ending == Ending::Deleted && !seen.busy.contains(&Job::Delete) {
        plan.steps.push(Step::Delete);
    }
}

/// Stops what runs: all but sidecars at once, then sidecars from the last to the first. True when nothing runs.
fn stop_all(plan: &mut Plan, pod: &Pod, spec: &PodSpec, seen: &Observed, now: Timestamp) -> bool {
    let grace = remaining_grace(pod, spec, seen, now);
    let running = |container: &Container| seen.view(&container.name).is_some_and(|view| view.running());
    let (sidecars, others): (Vec<_>, Vec<_>) = names::containers(spec)
        .filter(|(_, container)| running(container))
        .partition(|(role, _)| *role == Role::Sidecar);
    let next: Vec<&Container> = match others.as_slice() {
        [] => sidecars.last().map(|(_, container)| *container).into_iter().collect(),
        others => others.iter().map(|(_, container)| *container).collect(),
    };
    for container in &next {
        // A stop under way is hastened when the grace period has become shorter.
        let sooner = |killed_at: &Timestamp| after(now, grace + Duration::from_secs(1)) < *killed_at;
        if seen.stopping.get(&container.name).is_none_or(sooner) {
            plan.steps.push(Step::Stop { container: container.name.clone(), grace, restart: false });
        }
    }
    next.is_empty()
}

/// What is left of the grace period, which began when the end was first seen.
fn remaining_grace(pod: &Pod, spec: &PodSpec, seen: &Observed, now: Timestamp) -> Duration {
    let asked =
        pod.metadata.deletion_grace_period_seconds.or(spec.termination_grace_period_seconds).unwrap_or(DEFAULT_GRACE_S);
    let asked = Duration::from_secs(u64::try_from(asked).unwrap_or(0));
    let deadline = after(seen.ending_since.unwrap_or(now), asked);
    until(deadline, now).max(MIN_GRACE.min(asked.max(Duration::from_secs(1))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backoff::{Backoff, KUBELET};
    use crate::observed::{Rejection, Sandbox, Trouble, View};
    use serde_json::{Value, json};
    use wharf_cri::{ContainerId, SandboxId};

    const NOW: i64 = 1000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": spec})).unwrap()
    }

    fn web() -> Pod {
        pod(json!({"containers": [{"name": "a"}, {"name": "b"}]}))
    }

    /// A pod whose sandbox and volumes stand.
    fn standing() -> Observed {
        let sandbox = Sandbox { id: SandboxId("s".into()), attempt: 0, ready: true, ips: Vec::new() };
        Observed { start_time: Some(at(900)), sandbox: Some(sandbox), volumes: Volumes::Mounted, ..Observed::default() }
    }

    fn attempt(number: u32, state: AttemptState, exit_code: i32) -> Attempt {
        Attempt {
            number,
            id: Some(ContainerId(format!("c{number}"))),
            sandbox: Some(SandboxId("s".into())),
            shown_id: String::new(),
            image_id: String::new(),
            image: None,
            state,
            started_at: Some(at(950)),
            finished_at: (state == AttemptState::Exited).then(|| at(NOW - 5)),
            exit_code,
            reason: String::new(),
            message: String::new(),
        }
    }

    /// `a+` runs and has started, `a~` runs but has not, `a0`, `a1` … ended with that code.
    fn with(mut seen: Observed, states: &str) -> Observed {
        for word in states.split_whitespace() {
            let (name, state) = word.split_at(word.len() - 1);
            let latest = match state {
                "+" | "~" => attempt(0, AttemptState::Running, 0),
                code => attempt(0, AttemptState::Exited, code.parse().unwrap()),
            };
            let probes = (state == "+").then(|| crate::probes::Probes::new(&Container::default(), at(950)));
            *seen.view_mut(name) = View { latest: Some(latest), probes, ..View::default() };
        }
        seen
    }

    fn show(plan: &Plan) -> String {
        let steps = plan.steps.iter().map(|step| match step {
            Step::RunSandbox { attempt } => format!("sandbox#{attempt}"),
            Step::RemoveSandbox => "remove-sandbox".to_owned(),
            Step::SetUpVolumes => "volumes".to_owned(),
            Step::Start { container, attempt } => format!("start {container}#{attempt}"),
            Step::Stop { container, grace, restart } => {
                format!("{} {container} {}s", if *restart { "restart" } else { "stop" }, grace.as_secs())
            }
            Step::TearDown => "tear-down".to_owned(),
            Step::Delete => "delete".to_owned(),
        });
        let wake = plan.wake_at.map(|at| format!("wake {:+}", at.as_second() - NOW));
        steps.chain(wake).collect::<Vec<_>>().join(", ")
    }

    fn check(pod: &Pod, seen: &Observed, expected: &str) {
        assert_eq!(show(&plan(pod, seen, &KUBELET, at(NOW))), expected);
    }

    #[test]
    fn sandbox_and_volumes_come_first() {
        check(&web(), &Observed::default(), "sandbox#0, volumes");
        let busy = Observed { busy: [Job::Sandbox, Job::Volumes].into(), ..Observed::default() };
        check(&web(), &busy, "");
        let mut failed = standing();
        failed.volumes = Volumes::Failed { retry_at: at(NOW + 3) };
        check(&web(), &failed, "wake +3");
        let mut stale = with(standing(), "a+ b+");
        stale.volumes = Volumes::Stale;
        check(&web(), &stale, "volumes");
        let mut dead = with(standing(), "a+ b+");
        dead.sandbox.as_mut().unwrap().ready = false;
        check(&web(), &dead, "remove-sandbox");
    }

    #[test]
    fn containers_start_one_at_a_time_in_order() {
        check(&web(), &standing(), "start a#0");
        check(&web(), &with(standing(), "a+"), "start b#0");
        check(&web(), &with(standing(), "a+ b+"), "");
        let mut starting = standing();
        starting.busy.insert(Job::Start("a".into()));
        check(&web(), &starting, "");
        let mut stuck = standing();
        stuck.view_mut("a").trouble =
            Some(Trouble { reason: "ErrImagePull", message: String::new(), retry_at: at(NOW + 10) });
        check(&web(), &stuck, "start b#0, wake +10");
    }

    #[test]
    fn init_containers_run_in_order_and_sidecars_stay() {
        let pod = pod(json!({"containers": [{"name": "m"}], "initContainers": [
            {"name": "i"}, {"name": "s", "restartPolicy": "Always"}, {"name": "j"}]}));
        check(&pod, &standing(), "start i#0");
        check(&pod, &with(standing(), "i+"), "");
        check(&pod, &with(standing(), "i1"), "start i#1");
        check(&pod, &with(standing(), "i0"), "start s#0");
        check(&pod, &with(standing(), "i0 s~"), "");
        check(&pod, &with(standing(), "i0 s+"), "start j#0");
        check(&pod, &with(standing(), "i0 s+ j0"), "start m#0");
        check(&pod, &with(standing(), "i0 s+ j0 m+"), "");
        check(&pod, &with(standing(), "i0 s0 j0 m+"), "start s#1");
        check(&pod, &with(standing(), "i0 s0 j0"), "start s#1");
    }

    #[test]
    fn restart_policy_decides_who_runs_again() {
        for (policy, states, expected) in [
            ("Always", "a0 b+", "start a#1"),
            ("Always", "a1 b+", "start a#1"),
            ("OnFailure", "a0 b+", ""),
            ("OnFailure", "a1 b+", "start a#1"),
            ("Never", "a1 b+", ""),
            ("Never", "a1 b0", "tear-down"),
            ("OnFailure", "a0 b0", "tear-down"),
            ("OnFailure", "a0 b1", "start b#1"),
        ] {
            let pod = pod(json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]}));
            check(&pod, &with(standing(), states), expected);
        }
    }

    #[test]
    fn a_failed_init_container_ends_a_pod_that_never_restarts() {
        let pod =
            pod(json!({"restartPolicy": "Never", "containers": [{"name": "m"}], "initContainers": [{"name": "i"}]}));
        check(&pod, &with(standing(), "i1"), "tear-down");
    }

    #[test]
    fn container_rules_override_the_policy() {
        let pod = pod(json!({"restartPolicy": "Never", "containers": [{"name": "a", "restartPolicy": "Never",
            "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [3]}}]}]}));
        check(&pod, &with(standing(), "a3"), "start a#1");
        check(&pod, &with(standing(), "a4"), "tear-down");
    }

    #[test]
    fn a_crash_loop_waits() {
        let mut seen = with(standing(), "a1 b+");
        seen.view_mut("a").restart_backoff = Some(Backoff { delay: Duration::from_secs(20), since: at(NOW - 30) });
        check(&web(), &seen, "wake +15");
    }

    #[test]
    fn what_a_probe_condemned_is_stopped_once_and_restarted() {
        let mut seen = with(standing(), "a+ b+");
        seen.view_mut("a").condemned = Some("failed liveness probe".into());
        check(&web(), &seen, "restart a 30s");
        seen.stopping.insert("a".into(), at(NOW + 30));
        check(&web(), &seen, "");
        let on_failure = pod(json!({"restartPolicy": "OnFailure", "containers": [{"name": "a"}, {"name": "b"}]}));
        let mut ended = with(standing(), "a0 b+");
        ended.view_mut("a").restart_wanted = true;
        check(&on_failure, &ended, "start a#1");
        let never = pod(json!({"restartPolicy": "Never", "containers": [{"name": "a"}, {"name": "b"}]}));
        seen.stopping.clear();
        check(&never, &seen, "stop a 30s");
    }

    #[test]
    fn a_container_whose_image_changed_is_restarted() {
        let with_image = |image: &str| pod(json!({"containers": [{"name": "a", "image": image}]}));
        let mut seen = with(standing(), "a+");
        seen.view_mut("a").latest.as_mut().unwrap().image = Some("v1".into());
        check(&with_image("v1"), &seen, "");
        check(&with_image("v2"), &seen, "restart a 30s");
    }

    #[test]
    fn deletion_stops_then_tears_down_then_deletes() {
        let mut pod = web();
        pod.metadata.deletion_timestamp = Some(names::time(at(NOW)));
        pod.metadata.deletion_grace_period_seconds = Some(10);
        let mut seen = with(standing(), "a+ b+");
        seen.ending_since = Some(at(NOW - 3));
        check(&pod, &seen, "stop a 7s, stop b 7s");
        seen.busy = [Job::Stop("a".into()), Job::Stop("b".into())].into();
        seen.stopping = [("a".into(), at(NOW + 7)), ("b".into(), at(NOW + 7))].into();
        check(&pod, &seen, "");
        pod.metadata.deletion_grace_period_seconds = Some(0);
        check(&pod, &seen, "stop a 1s, stop b 1s");
        let mut seen = with(seen, "a0 b0");
        seen.busy.clear();
        check(&pod, &seen, "tear-down");
        seen.torn_down = true;
        check(&pod, &seen, "delete");
        seen.busy.insert(Job::Delete);
        check(&pod, &seen, "");
    }

    #[test]
    fn sidecars_stop_last_in_reverse() {
        let mut pod =
            pod(json!({"containers": [{"name": "m"}], "terminationGracePeriodSeconds": 5, "initContainers": [
            {"name": "s", "restartPolicy": "Always"}, {"name": "t", "restartPolicy": "Always"}]}));
        pod.metadata.deletion_timestamp = Some(names::time(at(NOW)));
        check(&pod, &with(standing(), "s+ t+ m+"), "stop m 5s");
        check(&pod, &with(standing(), "s+ t+ m0"), "stop t 5s");
        check(&pod, &with(standing(), "s+ t0 m0"), "stop s 5s");
        check(&pod, &with(standing(), "s0 t0 m0"), "tear-down");
    }

    #[test]
    fn deadlines_and_rejections_end_a_pod() {
        let mut pod = pod(json!({"containers": [{"name": "a"}], "activeDeadlineSeconds": 150}));
        check(&pod, &with(standing(), "a+"), "wake +50");
        pod.spec.as_mut().unwrap().active_deadline_seconds = Some(100);
        check(&pod, &with(standing(), "a+"), "stop a 30s");
        let rejected = Observed {
            rejected: Some(Rejection { reason: "OutOfcpu".into(), message: String::new() }),
            ..Observed::default()
        };
        check(&web(), &rejected, "tear-down");
    }

    #[test]
    fn after_a_restart_of_the_node_only_unfinished_work_runs_again() {
        let status = json!({"phase": "Running", "containerStatuses": [
            {"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 2, "state": {"running": {}}},
            {"name": "b", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 0}}}]});
        for (policy, expected) in [("Always", "start a#3"), ("OnFailure", "start a#3"), ("Never", "tear-down")] {
            let mut pod = pod(json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]}));
            pod.status = Some(serde_json::from_value(status.clone()).unwrap());
            let mut seen = Observed::recover(&pod, at(NOW));
            (seen.sandbox, seen.volumes) = (standing().sandbox, Volumes::Mounted);
            check(&pod, &seen, expected);
        }
    }

    #[test]
    fn a_finished_pod_never_runs_again() {
        let mut pod = web();
        pod.status = Some(serde_json::from_value(json!({"phase": "Failed"})).unwrap());
        check(&pod, &Observed::recover(&pod, at(NOW)), "tear-down");
    }
}
