//! The pod's status, from what is observed. Pure.
//!
//! Source of the rules and words: `kubelet_pods.go` (`getPhase`, `convertToAPIContainerStatuses`), `status/generate.go`.
//! Invariants: a terminal phase is never left; conditions of others are kept; a condition's transition time changes with
//! its status only. Absent on purpose: writing (see [`crate::status_patch`]).

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus, VolumeMountStatus,
};

use crate::backoff::{Policy, go_duration};
use crate::names::{self, Role, time};
use crate::observed::{Attempt, Observed, View};
use crate::plan::{self, Ending};

/// What every pod's status takes from its node.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    pub host_ips: Vec<std::net::IpAddr>,
    pub restarts: Policy,
}

/// `prior` is the status that the API has.
pub fn generate(pod: &Pod, seen: &Observed, prior: &PodStatus, node: &NodeFacts, now: Timestamp) -> PodStatus {
    let Some(spec) = &pod.spec else { return prior.clone() };
    let ending = plan::ending(pod, spec, seen, now);
    let mut status = prior.clone();
    status.observed_generation = pod.metadata.generation;
    if let Some(rejection) = &seen.rejected {
        status.phase = Some("Failed".to_owned());
        status.reason = Some(rejection.reason.clone());
        status.message = Some(rejection.message.clone());
        return status;
    }
    let maker = Maker { pod, spec, seen, prior, node, now };
    let init = spec.init_containers.as_deref().unwrap_or_default();
    status.init_container_statuses =
        Some(init.iter().map(|container| maker.container(container)).collect::<Vec<_>>()).filter(|all| !all.is_empty());
    status.container_statuses = Some(spec.containers.iter().map(|container| maker.container(container)).collect());
    status.start_time = seen.start_time.map(time).or(status.start_time);
    set_phase(&mut status, spec, ending.as_ref());
    set_addresses(&mut status, spec, seen, node);
    let conditions = maker.conditions(&status);
    status.conditions = Some(conditions);
    status
}

fn set_phase(status: &mut PodStatus, spec: &PodSpec, ending: Option<&Ending>) {
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return;
    }
    if ending == Some(&Ending::DeadlineExceeded) {
        status.phase = Some("Failed".to_owned());
        status.reason = Some("DeadlineExceeded".to_owned());
        status.message = Some("Pod was active on the node longer than the specified deadline".to_owned());
        return;
    }
    status.phase = Some(phase(spec, status, ending.is_some()).to_owned());
}

/// Source: `getPhase`. `ending` is true once no container will be started again.
fn phase(spec: &PodSpec, status: &PodStatus, ending: bool) -> &'static str {
    let roles: BTreeMap<&str, Role> =
        names::containers(spec).map(|(role, container)| (container.name.as_str(), role)).collect();
    let (mut init_pending, mut init_failed) = (0, 0);
    let (mut running, mut waiting, mut stopped, mut succeeded) = (0_usize, 0_usize, 0_usize, 0_usize);
    for status in status.init_container_statuses.iter().flatten() {
        let sidecar = roles.get(status.name.as_str()) == Some(&Role::Sidecar);
        let state = status.state.clone().unwrap_or_default();
        let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        match (sidecar, state.terminated.as_ref()) {
            (true, None) if status.started == Some(true) => {}
            (true, Some(_)) => {}
            (true, None) => init_pending += 1,
            (false, Some(ended)) => init_failed += usize::from(ended.exit_code != 0),
            (false, None) if state.waiting.is_some() && last.is_some_and(|last| last.exit_code != 0) => {
                init_failed += 1
            }
            (false, None) => init_pending += 1,
        }
    }
    let mut any_started = false;
    for status in status.container_statuses.iter().flatten() {
        let state = status.state.clone().unwrap_or_default();
        let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        any_started |= state.waiting.is_none() || last.is_some();
        match (&state.running, &state.terminated) {
            (Some(_), _) => running += 1,
            (_, Some(ended)) => {
                stopped += 1;
                succeeded += usize::from(ended.exit_code == 0);
            }
            _ if last.is_some() => stopped += 1,
            _ => waiting += 1,
        }
    }
    if init_failed > 0 && names::restart_policy(spec) == "Never" {
        return "Failed";
    }
    if !any_started && (init_pending > 0 || init_failed > 0) {
        return if ending { "Failed" } else { "Pending" };
    }
    match (waiting, running, stopped) {
        (0, 0, 0) => "Pending",
        // Some never ran: a pod that ends so did not succeed.
        (1.., 0, _) if ending => "Failed",
        (1.., _, 1..) => "Running",
        (1.., ..) => "Pending",
        (0, 1.., _) => "Running",
        (0, 0, _) if ending => {
            if stopped == succeeded {
                "Succeeded"
            } else {
                "Failed"
            }
        }
        (0, 0, _) => match names::restart_policy(spec) {
            "Always" => "Running",
            _ if stopped == succeeded => "Succeeded",
            "Never" => "Failed",
            _ => "Running",
        },
    }
}

fn set_addresses(status: &mut PodStatus, spec: &PodSpec, seen: &Observed, node: &NodeFacts) {
    let host_ips: Vec<String> = node.host_ips.iter().map(ToString::to_string).collect();
    status.host_ip = host_ips.first().cloned();
    status.host_ips =
        Some(host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect::<Vec<_>>()).filter(|ips| !ips.is_empty());
    let ips: Vec<String> = match &seen.sandbox {
        Some(_) if spec.host_network == Some(true) => host_ips,
        Some(sandbox) => sandbox.ips.iter().map(ToString::to_string).collect(),
        None => Vec::new(),
    };
    // A pod that has ended keeps showing the address it had.
    if !ips.is_empty() {
        status.pod_ip = ips.first().cloned();
        status.pod_ips = Some(ips.into_iter().map(|ip| PodIP { ip }).collect());
    }
}

/// Why a container waits, if it does.
pub fn waiting(
    pod: &Pod,
    spec: &PodSpec,
    seen: &Observed,
    container: &Container,
    restarts: &Policy,
    now: Timestamp,
) -> Option<(String, String)> {
    let view = seen.view(&container.name).cloned().unwrap_or_default();
    if let Some(trouble) = &view.trouble {
        return Some((trouble.reason.to_owned(), trouble.message.clone()));
    }
    let latest = view.latest.as_ref();
    if plan::ending(pod, spec, seen, now).is_none() && plan::crash_wait(seen, &container.name, restarts, now).is_some()
    {
        let delay = view.restart_backoff.map(|backoff| go_duration(backoff.delay)).unwrap_or_default();
        let message =
            format!("back-off {delay} restarting failed container={} pod={}", container.name, names::full(pod));
        return Some(("CrashLoopBackOff".to_owned(), message));
    }
    match latest {
        Some(attempt) if attempt.running() || attempt.exited() => None,
        _ if spec.init_containers.as_ref().is_some_and(|init| !init.is_empty()) => {
            Some(("PodInitializing".to_owned(), String::new()))
        }
        _ => Some(("ContainerCreating".to_owned(), String::new())),
    }
}

struct Maker<'a> {
    pod: &'a Pod,
    spec: &'a PodSpec,
    seen: &'a Observed,
    prior: &'a PodStatus,
    node: &'a NodeFacts,
    now: Timestamp,
}

impl Maker<'_> {
    fn container(&self, container: &Container) -> ContainerStatus {
        let view = self.seen.view(&container.name).cloned().unwrap_or_default();
        let waiting = waiting(self.pod, self.spec, self.seen, container, &self.node.restarts, self.now);
        let (state, last) = states(&view, waiting);
        let role = names::container(self.spec, &container.name).map_or(Role::Main, |(role, _)| role);
        let ended_well = state.terminated.as_ref().is_some_and(|ended| ended.exit_code == 0);
        let shown = view.latest.as_ref().or(view.previous.as_ref());
        ContainerStatus {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            image_id: shown.map(|attempt| attempt.image_id.clone()).unwrap_or_default(),
            container_id: shown.map(|attempt| attempt.shown_id.clone()).filter(|id| !id.is_empty()),
            ready: if role == Role::Init { ended_well } else { view.ready() },
            started: Some(view.started()),
            restart_count: i32::try_from(view.restart_count()).unwrap_or(i32::MAX),
            allocated_resources: container.resources.as_ref().and_then(|resources| resources.requests.clone()),
            resources: container.resources.clone().filter(|_| view.running()),
            volume_mounts: mounts(container),
            last_state: Some(last.unwrap_or_default()),
            state: Some(state),
            ..ContainerStatus::default()
        }
    }

    fn conditions(&self, status: &PodStatus) -> Vec<PodCondition> {
        let phase = status.phase.as_deref().unwrap_or_default();
        let init = status.init_container_statuses.as_deref().unwrap_or_default();
        let main = status.container_statuses.as_deref().unwrap_or_default();
        let sandbox_ready = self.seen.sandbox.as_ref().is_some_and(|sandbox| sandbox.ready);
        let containers_ready = self.containers_ready(init, main, phase);
        let ready = match &containers_ready {
            Fact::True => self.gates(),
            other => other.clone(),
        };
        let facts = [
            ("PodReadyToStartContainers", if sandbox_ready { Fact::True } else { Fact::False(None) }),
            ("Initialized", self.initialized(init, main, phase)),
            ("Ready", ready),
            ("ContainersReady", containers_ready),
            ("PodScheduled", Fact::True),
        ];
        let held = self.prior.conditions.as_deref().unwrap_or_default();
        let mut conditions: Vec<PodCondition> =
            facts.iter().map(|(kind, fact)| self.condition(kind, fact, held)).collect();
        let ours = |kind: &str| facts.iter().any(|(own, _)| *own == kind);
        conditions.extend(held.iter().filter(|condition| !ours(&condition.type_)).cloned());
        conditions
    }

    fn condition(&self, kind: &str, fact: &Fact, held: &[PodCondition]) -> PodCondition {
        let held = held.iter().find(|condition| condition.type_ == kind);
        let (status, why) = match fact {
            Fact::True => ("True", None),
            Fact::TrueBecause(reason) => ("True", Some((reason.to_owned(), None))),
            Fact::False(None) => ("False", None),
            Fact::False(Some((reason, message))) => {
                ("False", Some((*reason, Some(message.clone()).filter(|text| !text.is_empty()))))
            }
        };
        let since = held.filter(|held| held.status == status).and_then(|held| held.last_transition_time.clone());
        PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: why.as_ref().map(|(reason, _)| (*reason).to_owned()),
            message: why.and_then(|(_, message)| message),
            observed_generation: self.pod.metadata.generation,
            last_transition_time: since.or_else(|| Some(time(self.now))),
            last_probe_time: None,
        }
    }

    /// Source: `GeneratePodInitializedCondition`.
    fn initialized(&self, init: &[ContainerStatus], main: &[ContainerStatus], phase: &str) -> Fact {
        if phase == "Succeeded" {
            return Fact::TrueBecause("PodCompleted");
        }
        let main_ran = main.iter().any(|status| {
            let state = status.state.clone().unwrap_or_default();
            state.running.is_some()
                || state.terminated.is_some()
                || status.last_state.as_ref().is_some_and(|last| last.terminated.is_some())
        });
        let incomplete: Vec<&str> = init
            .iter()
            .filter(|status| match names::container(self.spec, &status.name) {
                Some((Role::Sidecar, _)) => status.started != Some(true),
                _ => !status.ready,
            })
            .map(|status| status.name.as_str())
            .collect();
        if main_ran || incomplete.is_empty() {
            return Fact::True;
        }
        Fact::False(Some((
            "ContainersNotInitialized",
            format!("containers with incomplete status: [{}]", incomplete.join(" ")),
        )))
    }

    /// Source: `GenerateContainersReadyCondition`.
    fn containers_ready(&self, init: &[ContainerStatus], main: &[ContainerStatus], phase: &str) -> Fact {
        match phase {
            "Succeeded" => return Fact::False(Some(("PodCompleted", String::new()))),
            "Failed" => return Fact::False(Some(("PodFailed", String::new()))),
            _ => {}
        }
        let sidecar =
            |status: &&ContainerStatus| matches!(names::container(self.spec, &status.name), Some((Role::Sidecar, _)));
        let unready: Vec<&str> = init
            .iter()
            .filter(sidecar)
            .chain(main)
            .filter(|status| !status.ready)
            .map(|status| status.name.as_str())
            .collect();
        if unready.is_empty() {
            return Fact::True;
        }
        Fact::False(Some(("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" ")))))
    }

    /// Source: `GeneratePodReadyCondition`; asked when all containers are ready.
    fn gates(&self) -> Fact {
        let held = self.pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let unmet: Vec<String> = self
            .spec
            .readiness_gates
            .iter()
            .flatten()
            .filter_map(|gate| match held.iter().find(|condition| condition.type_ == gate.condition_type) {
                None => Some(format!(
                    "corresponding condition of pod readiness gate \"{}\" does not exist.",
                    gate.condition_type
                )),
                Some(condition) if condition.status != "True" => Some(format!(
                    "the status of pod readiness gate \"{}\" is not \"True\", but {}",
                    gate.condition_type, condition.status
                )),
                Some(_) => None,
            })
            .collect();
        if unmet.is_empty() { Fact::True } else { Fact::False(Some(("ReadinessGatesNotReady", unmet.join(", ")))) }
    }
}

#[derive(Clone, Debug)]
enum Fact {
    True,
    TrueBecause(&'static str),
    False(Option<(&'static str, String)>),
}

/// `state` and `lastState`.
fn states(view: &View, waiting: Option<(String, String)>) -> (ContainerState, Option<ContainerState>) {
    let previous = view.previous.as_ref().map(terminated);
    let Some((reason, message)) = waiting else {
        let state = match &view.latest {
            Some(attempt) if attempt.running() => {
                let running = ContainerStateRunning { started_at: attempt.started_at.map(time) };
                ContainerState { running: Some(running), ..ContainerState::default() }
            }
            Some(attempt) => terminated(attempt),
            None => ContainerState::default(),
        };
        return (state, previous);
    };
    let message = Some(message).filter(|message| !message.is_empty());
    let state = ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason), message }),
        ..ContainerState::default()
    };
    let last = view.latest.as_ref().filter(|attempt| attempt.exited()).map(terminated);
    (state, last.or(previous))
}

fn terminated(attempt: &Attempt) -> ContainerState {
    let nonempty = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let ended = ContainerStateTerminated {
        container_id: nonempty(&attempt.shown_id),
        exit_code: attempt.exit_code,
        started_at: attempt.started_at.map(time),
        finished_at: attempt.finished_at.map(time),
        reason: nonempty(&attempt.reason)
            .or_else(|| Some(if attempt.exit_code == 0 { "Completed" } else { "Error" }.to_owned())),
        message: nonempty(&attempt.message),
        signal: None,
    };
    ContainerState { terminated: Some(ended), ..ContainerState::default() }
}

fn mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_ref().filter(|mounts| !mounts.is_empty())?;
    let status = |mount: &k8s_openapi::api::core::v1::VolumeMount| VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: mount.read_only.filter(|read_only| *read_only),
        recursive_read_only: mount.read_only.filter(|read_only| *read_only).map(|_| "Disabled".to_owned()),
        ..VolumeMountStatus::default()
    };
    Some(mounts.iter().map(status).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backoff::{Backoff, KUBELET};
    use crate::observed::{AttemptState, Rejection, Sandbox, Trouble};
    use crate::probes::Probes;
    use serde_json::{Value, json};
    use std::time::Duration;
    use wharf_cri::{ContainerId, SandboxId};

    const NOW: i64 = 1000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": spec})).unwrap()
    }

    /// `a+` ready, `a~` runs but is not ready, `a0` … ended so, `a!` in trouble, `a^1` in a crash loop after code 1.
    fn seen(pod: &Pod, states: &str) -> Observed {
        let sandbox =
            Sandbox { id: SandboxId("s".into()), attempt: 0, ready: true, ips: vec!["10.0.0.9".parse().unwrap()] };
        let mut seen = Observed { sandbox: Some(sandbox), start_time: Some(at(900)), ..Observed::default() };
        for word in states.split_whitespace() {
            let at_name = word.find(|c: char| !c.is_ascii_lowercase()).unwrap();
            let (name, state) = word.split_at(at_name);
            let container = names::container(pod.spec.as_ref().unwrap(), name).unwrap().1;
            let view = seen.view_mut(name);
            let code = state.trim_start_matches('^').parse::<i32>();
            let latest = Attempt {
                number: 0,
                id: Some(ContainerId("c".into())),
                sandbox: Some(SandboxId("s".into())),
                shown_id: "wharf://c".into(),
                image_id: "sha256:1".into(),
                image: None,
                state: if code.is_ok() { AttemptState::Exited } else { AttemptState::Running },
                started_at: Some(at(950)),
                finished_at: code.is_ok().then(|| at(NOW)),
                exit_code: code.clone().unwrap_or(0),
                reason: String::new(),
                message: String::new(),
            };
            match state {
                "!" => {
                    view.trouble =
                        Some(Trouble { reason: "ErrImagePull", message: "no such image".into(), retry_at: at(NOW) })
                }
                "~" => view.latest = Some(latest),
                "+" => {
                    view.latest = Some(latest);
                    view.probes = Some(Probes::new(&Container { readiness_probe: None, ..container.clone() }, at(950)));
                }
                _ => {
                    view.latest = Some(latest);
                    view.restart_backoff =
                        state.starts_with('^').then(|| Backoff { delay: Duration::from_secs(10), since: at(NOW) });
                }
            }
        }
        seen
    }

    fn facts() -> NodeFacts {
        NodeFacts { host_ips: vec!["192.168.0.1".parse().unwrap()], restarts: KUBELET }
    }

    fn make(pod: &Pod, states: &str) -> PodStatus {
        let prior = pod.status.clone().unwrap_or_default();
        generate(pod, &seen(pod, states), &prior, &facts(), at(NOW))
    }

    /// Phase, then what each container shows.
    fn show(status: &PodStatus) -> String {
        let containers =
            status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
        let shown = containers.map(|status| {
            let state = status.state.clone().unwrap();
            let ready = if status.ready { "ready" } else { "unready" };
            let what = match (state.waiting, state.running, state.terminated) {
                (Some(waiting), ..) => waiting.reason.unwrap(),
                (_, Some(_), _) => "running".to_owned(),
                (_, _, Some(ended)) => ended.reason.unwrap(),
                _ => "nothing".to_owned(),
            };
            format!("{} {what} {ready}", status.name)
        });
        std::iter::once(status.phase.clone().unwrap()).chain(shown).collect::<Vec<_>>().join(", ")
    }

    fn check(spec: Value, states: &str, expected: &str) {
        assert_eq!(show(&make(&pod(spec), states)), expected, "{states}");
    }

    #[test]
    fn phases_of_a_long_running_pod() {
        let spec = || json!({"containers": [{"name": "a"}, {"name": "b"}]});
        check(spec(), "", "Pending, a ContainerCreating unready, b ContainerCreating unready");
        check(spec(), "a+", "Pending, a running ready, b ContainerCreating unready");
        check(spec(), "a+ b~", "Running, a running ready, b running unready");
        check(spec(), "a+ b!", "Pending, a running ready, b ErrImagePull unready");
        check(spec(), "a+ b1", "Running, a running ready, b Error unready");
        check(spec(), "a^1 b^0", "Running, a CrashLoopBackOff unready, b CrashLoopBackOff unready");
    }

    #[test]
    fn phases_of_a_job_pod() {
        let spec = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]});
        check(spec("Never"), "a0 b0", "Succeeded, a Completed unready, b Completed unready");
        check(spec("Never"), "a0 b3", "Failed, a Completed unready, b Error unready");
        check(spec("Never"), "a0 b+", "Running, a Completed unready, b running ready");
        check(spec("OnFailure"), "a0 b3", "Running, a Completed unready, b Error unready");
        check(spec("OnFailure"), "a0 b0", "Succeeded, a Completed unready, b Completed unready");
    }

    #[test]
    fn phases_with_init_containers() {
        let spec = |policy: &str| {
            json!({"restartPolicy": policy, "containers": [{"name": "m"}],
            "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]})
        };
        check(
            spec("Always"),
            "",
            "Pending, i PodInitializing unready, s PodInitializing unready, m PodInitializing unready",
        );
        check(spec("Always"), "i0 s+", "Pending, i Completed ready, s running ready, m PodInitializing unready");
        check(spec("Always"), "i0 s+ m+", "Running, i Completed ready, s running ready, m running ready");
        check(
            spec("Always"),
            "i^1",
            "Pending, i CrashLoopBackOff unready, s PodInitializing unready, m PodInitializing unready",
        );
        check(spec("Never"), "i1", "Failed, i Error unready, s PodInitializing unready, m PodInitializing unready");
    }

    #[test]
    fn conditions_say_what_is_missing() {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}], "readinessGates": [{"conditionType": "x/y"}]});
        let condition = |states: &str, kind: &str| {
            let status = make(&pod(spec.clone()), states);
            let found = status.conditions.unwrap().into_iter().find(|condition| condition.type_ == kind).unwrap();
            format!("{} {} {}", found.status, found.reason.unwrap_or_default(), found.message.unwrap_or_default())
        };
        assert_eq!(
            condition("", "Initialized"),
            "False ContainersNotInitialized containers with incomplete status: [i]"
        );
        assert_eq!(condition("i0", "Initialized").trim(), "True");
        assert_eq!(
            condition("i0 a+", "ContainersReady"),
            "False ContainersNotReady containers with unready status: [b]"
        );
        assert_eq!(condition("i0 a+ b+", "ContainersReady").trim(), "True");
        let gate = "False ReadinessGatesNotReady corresponding condition of pod readiness gate \"x/y\" does not exist.";
        assert_eq!(condition("i0 a+ b+", "Ready"), gate);
        assert_eq!(condition("i0", "PodReadyToStartContainers").trim(), "True");
    }

    #[test]
    fn conditions_of_others_and_transition_times_are_kept() {
        let mut pod = pod(json!({"containers": [{"name": "a"}]}));
        let held = json!({"conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"},
            {"type": "x/y", "status": "False", "lastTransitionTime": "2020-01-01T00:00:00Z"}]});
        pod.status = Some(serde_json::from_value(held).unwrap());
        let conditions = make(&pod, "a+").conditions.unwrap();
        let since = |kind: &str| {
            let found = conditions.iter().find(|condition| condition.type_ == kind).unwrap();
            found.last_transition_time.as_ref().unwrap().0.to_string()
        };
        assert_eq!(since("Ready"), "2020-01-01T00:00:00Z");
        assert_eq!(since("x/y"), "2020-01-01T00:00:00Z");
        assert_eq!(since("ContainersReady"), at(NOW).to_string());
    }

    #[test]
    fn messages_and_addresses_read_as_upstream_has_them() {
        let status = make(&pod(json!({"containers": [{"name": "a"}]})), "a^1");
        let state = status.container_statuses.as_ref().unwrap()[0].state.clone().unwrap().waiting.unwrap();
        assert_eq!(state.message.unwrap(), "back-off 10s restarting failed container=a pod=p_d(u)");
        let last = status.container_statuses.as_ref().unwrap()[0].last_state.clone().unwrap().terminated.unwrap();
        assert_eq!((last.exit_code, last.container_id.as_deref()), (1, Some("wharf://c")));
        assert_eq!((status.pod_ip.as_deref(), status.host_ip.as_deref()), (Some("10.0.0.9"), Some("192.168.0.1")));
    }

    #[test]
    fn deadlines_rejections_and_terminal_phases_stay() {
        let deadline = pod(json!({"activeDeadlineSeconds": 50, "containers": [{"name": "a"}]}));
        let status = make(&deadline, "a+");
        assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("DeadlineExceeded")));
        let mut over = pod(json!({"containers": [{"name": "a"}]}));
        over.status = Some(serde_json::from_value(json!({"phase": "Failed", "reason": "Evicted"})).unwrap());
        let status = make(&over, "a0");
        assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("Evicted")));
        let refused = Observed {
            rejected: Some(Rejection { reason: "OutOfcpu".into(), message: "m".into() }),
            ..Observed::default()
        };
        let status = generate(&over, &refused, &PodStatus::default(), &facts(), at(NOW));
        assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("OutOfcpu")));
    }

    #[test]
    fn a_deleted_pod_ends_by_its_exit_codes() {
        let mut pod = pod(json!({"containers": [{"name": "a"}]}));
        pod.metadata.deletion_timestamp = Some(time(at(NOW)));
        assert_eq!(show(&make(&pod, "a0")), "Succeeded, a Completed unready");
        assert_eq!(show(&make(&pod, "a143")), "Failed, a Error unready");
        assert_eq!(show(&make(&pod, "a+")), "Running, a running ready");
    }
}
