//! How `kubectl get pods` shows a pod. Source: `printPod` in `pkg/printers/internalversion/printers.go`.

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::k8s::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodSpec, PodStatus};

use super::super::{created, name, or_none};
use crate::podspec::is_sidecar;
use crate::strategy::{AGE, Column, NAME, human_duration};

pub const COLUMNS: &[Column] = &[
    NAME,
    Column::new("Ready", "string", "The aggregate readiness state of this pod for accepting traffic."),
    Column::new("Status", "string", "The aggregate status of the containers in this pod."),
    Column::new(
        "Restarts",
        "string",
        "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
    ),
    AGE,
    Column::wide(
        "IP",
        "string",
        "podIP address allocated to the pod. Routable at least within the cluster. Empty if not yet allocated.",
    ),
    Column::wide(
        "Node",
        "string",
        "NodeName indicates in which node this pod is scheduled. If empty, this pod is a candidate for scheduling by the scheduler defined in schedulerName. Once this field is set, the kubelet for this node becomes responsible for the lifecycle of this pod. This field should not be used to express a desire for the pod to be scheduled on a specific node. https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#nodename",
    ),
    Column::wide(
        "Nominated Node",
        "string",
        "nominatedNodeName is set only when this pod preempts other pods on the node, but it cannot be scheduled right away as preemption victims receive their graceful termination periods. This field does not guarantee that the pod will be scheduled on this node. Scheduler may decide to place the pod elsewhere if other nodes become available sooner. Scheduler may also decide to give the resources on this node to a higher priority pod that is created after preemption. As a result, this field may be different than PodSpec.nodeName when the pod is scheduled.",
    ),
    Column::wide(
        "Readiness Gates",
        "string",
        "If specified, all readiness gates will be evaluated for pod readiness. A pod is ready when all its containers are ready AND all conditions specified in the readiness gates have status equal to \"True\" More info: https://git.k8s.io/enhancements/keps/sig-network/580-pod-readiness-gates",
    ),
];

pub fn cells(pod: &Pod, now: Timestamp) -> Vec<Value> {
    let (empty_spec, empty_status) = (PodSpec::default(), PodStatus::default());
    let spec = pod.spec.as_ref().unwrap_or(&empty_spec);
    let status = pod.status.as_ref().unwrap_or(&empty_status);
    let summary = summarize(pod, spec, status);
    let ip = status.pod_ips.as_ref().and_then(|ips| ips.first().map(|ip| ip.ip.clone()));
    vec![
        name(&pod.metadata),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        shown_restarts(&summary.restarts, now).into(),
        created(&pod.metadata, now),
        or_none(ip.unwrap_or_default()).into(),
        or_none(spec.node_name.clone().unwrap_or_default()).into(),
        or_none(status.nominated_node_name.clone().unwrap_or_default()).into(),
        readiness_gates(spec, status).into(),
    ]
}

struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: Restarts,
}

#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &ContainerStatus) {
        self.count += i64::from(container.restart_count);
        let ended = container.last_state.as_ref().and_then(|state| state.terminated.as_ref()?.finished_at.as_ref());
        self.last = self.last.max(ended.map(|time| time.0));
    }
}

fn summarize(pod: &Pod, spec: &PodSpec, status: &PodStatus) -> Summary {
    let phase = status.phase.clone().unwrap_or_default();
    let reason = status.reason.clone().filter(|reason| !reason.is_empty()).unwrap_or_else(|| phase.clone());
    let sidecars = spec.init_containers.iter().flatten().filter(|container| is_sidecar(container)).count();
    let mut summary =
        Summary { ready: 0, total: spec.containers.len() + sidecars, reason, restarts: Restarts::default() };
    let has = |kind: &str, reason: &str| {
        let held = |condition: &&wharf_types::k8s::api::core::v1::PodCondition| {
            condition.type_ == kind && condition.reason.as_deref() == Some(reason)
        };
        status.conditions.iter().flatten().find(held).is_some()
    };
    if has("PodScheduled", "SchedulingGated") {
        summary.reason = "SchedulingGated".to_owned();
    }
    let sidecar_restarts = summarize_init(&mut summary, spec, status);
    if let Some(sidecar_restarts) = sidecar_restarts {
        summary.restarts = sidecar_restarts;
        summarize_containers(&mut summary, status);
    }
    if pod.metadata.deletion_timestamp.is_some() {
        if status.reason.as_deref() == Some("NodeLost") {
            summary.reason = "Unknown".to_owned();
        } else if phase != "Succeeded" && phase != "Failed" {
            summary.reason = "Terminating".to_owned();
        }
    }
    summary
}

/// Goes through the init containers. Returns the sidecars' restarts once the pod is initialized: from then on the
/// containers proper are what counts.
fn summarize_init(summary: &mut Summary, spec: &PodSpec, status: &PodStatus) -> Option<Restarts> {
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    let mut sidecar_restarts = Restarts::default();
    let mut initializing = false;
    for (index, container) in status.init_container_statuses.iter().flatten().enumerate() {
        summary.restarts.add(container);
        let sidecar = inits.iter().any(|init| init.name == container.name && is_sidecar(init));
        if sidecar {
            sidecar_restarts.add(container);
        }
        let ended = container.state.as_ref().and_then(|state| state.terminated.as_ref());
        let waiting = waiting_reason(container);
        summary.reason = match (ended, waiting) {
            (Some(ended), _) if ended.exit_code == 0 => continue,
            _ if sidecar && container.started == Some(true) => {
                summary.ready += usize::from(container.ready);
                continue;
            }
            (Some(ended), _) => format!("Init:{}", shown_end(ended)),
            (None, Some(reason)) if reason != "PodInitializing" => format!("Init:{reason}"),
            _ => format!("Init:{index}/{}", inits.len()),
        };
        initializing = true;
        break;
    }
    let initialized = has_true(status, "Initialized");
    (!initializing || initialized).then_some(sidecar_restarts)
}

fn summarize_containers(summary: &mut Summary, status: &PodStatus) {
    let mut running = false;
    // Last to first, so that the first container with something to say is heard.
    for container in status.container_statuses.iter().flatten().rev() {
        summary.restarts.add(container);
        let ended = container.state.as_ref().and_then(|state| state.terminated.as_ref());
        let waiting = waiting_reason(container);
        if let Some(reason) = waiting {
            summary.reason = reason.to_owned();
        } else if let Some(ended) = ended {
            summary.reason = shown_end(ended);
        } else if container.ready && container.state.as_ref().is_some_and(|state| state.running.is_some()) {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" && running {
        summary.reason = if has_true(status, "Ready") { "Running".to_owned() } else { "NotReady".to_owned() };
    }
}

fn waiting_reason(container: &ContainerStatus) -> Option<&str> {
    let reason = container.state.as_ref()?.waiting.as_ref()?.reason.as_deref()?;
    Some(reason).filter(|reason| !reason.is_empty())
}

fn has_true(status: &PodStatus, kind: &str) -> bool {
    status.conditions.iter().flatten().any(|condition| condition.type_ == kind && condition.status == "True")
}

fn shown_end(ended: &ContainerStateTerminated) -> String {
    match (ended.reason.as_deref().unwrap_or_default(), ended.signal.unwrap_or_default()) {
        ("", 0) => format!("ExitCode:{}", ended.exit_code),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

/// `3 (5m ago)`
fn shown_restarts(restarts: &Restarts, now: Timestamp) -> String {
    match restarts.last {
        Some(last) if restarts.count != 0 => {
            format!("{} ({} ago)", restarts.count, human_duration(now.as_second() - last.as_second()))
        }
        _ => restarts.count.to_string(),
    }
}

fn readiness_gates(spec: &PodSpec, status: &PodStatus) -> String {
    let gates = spec.readiness_gates.as_deref().unwrap_or_default();
    let open = gates.iter().filter(|gate| has_true(status, &gate.condition_type)).count();
    if gates.is_empty() { super::super::NONE.to_owned() } else { format!("{open}/{}", gates.len()) }
}

#[cfg(test)]
mod tests {
    use super::super::Pods;
    use crate::testing::check_cells;

    /// Name, readiness, status, restarts: the rest is the same in all but one case.
    #[track_caller]
    fn check(spec: &str, status: &str, expected: &str) {
        let yaml = format!("{{metadata: {{name: p}}, spec: {spec}, status: {status}}}");
        check_cells(&Pods, &yaml, &format!("p | {expected} | <unknown> | <none> | <none> | <none> | <none>"));
    }

    const ONE: &str = "{containers: [{name: a}]}";
    const TWO: &str = "{containers: [{name: a}, {name: b}]}";
    const INIT: &str = "{initContainers: [{name: i}, {name: j}], containers: [{name: a}]}";

    fn container(name: &str, ready: bool, restarts: u32, state: &str) -> String {
        format!("{{name: {name}, ready: {ready}, restartCount: {restarts}, image: i, imageID: '', state: {state}}}")
    }

    #[test]
    fn containers_decide_the_status() {
        check(ONE, "{phase: Pending}", "0/1 | Pending | 0");
        let running = container("a", true, 0, "{running: {}}");
        check(ONE, &format!("{{phase: Running, containerStatuses: [{running}]}}"), "1/1 | Running | 0");
        let crashing = container(
            "a",
            false,
            3,
            "{waiting: {reason: CrashLoopBackOff}}, lastState: {terminated: {exitCode: 1, finishedAt: '2024-05-01T11:55:00Z'}}",
        );
        check(
            ONE,
            &format!("{{phase: Running, containerStatuses: [{crashing}]}}"),
            "0/1 | CrashLoopBackOff | 3 (5m ago)",
        );
        let failed = container("a", false, 0, "{terminated: {exitCode: 7}}");
        check(ONE, &format!("{{phase: Failed, containerStatuses: [{failed}]}}"), "0/1 | ExitCode:7 | 0");
        let killed = container("a", false, 0, "{terminated: {exitCode: 0, signal: 9}}");
        check(ONE, &format!("{{phase: Failed, containerStatuses: [{killed}]}}"), "0/1 | Signal:9 | 0");
    }

    #[test]
    fn one_container_done_and_one_running_is_running() {
        let done = container("a", false, 0, "{terminated: {exitCode: 0, reason: Completed}}");
        let running = container("b", true, 0, "{running: {}}");
        let both = format!("containerStatuses: [{done}, {running}]");
        check(
            TWO,
            &format!("{{phase: Running, {both}, conditions: [{{type: Ready, status: 'True'}}]}}"),
            "1/2 | Running | 0",
        );
        check(TWO, &format!("{{phase: Running, {both}}}"), "1/2 | NotReady | 0");
    }

    #[test]
    fn init_containers_come_first() {
        let (done, running) =
            (container("i", false, 0, "{terminated: {exitCode: 0}}"), container("j", false, 0, "{running: {}}"));
        check(INIT, &format!("{{phase: Pending, initContainerStatuses: [{done}, {running}]}}"), "0/1 | Init:1/2 | 0");
        let failed = container("i", false, 1, "{terminated: {exitCode: 2, reason: Error}}");
        check(INIT, &format!("{{phase: Pending, initContainerStatuses: [{failed}]}}"), "0/1 | Init:Error | 1");
        let waiting = container("i", false, 0, "{waiting: {reason: ErrImagePull}}");
        check(INIT, &format!("{{phase: Pending, initContainerStatuses: [{waiting}]}}"), "0/1 | Init:ErrImagePull | 0");
    }

    #[test]
    fn sidecars_count_as_containers() {
        let spec = "{initContainers: [{name: i, restartPolicy: Always}], containers: [{name: a}]}";
        let sidecar = container("i", true, 2, "{running: {}}, started: true");
        let main = container("a", true, 1, "{running: {}}");
        check(
            spec,
            &format!("{{phase: Running, initContainerStatuses: [{sidecar}], containerStatuses: [{main}]}}"),
            "2/2 | Running | 3",
        );
    }

    #[test]
    fn deletion_and_gates_show() {
        check_cells(
            &Pods,
            "{metadata: {name: p, deletionTimestamp: '2024-05-01T12:00:00Z', creationTimestamp: '2024-05-01T11:58:00Z'},
              spec: {nodeName: n, containers: [{name: a}], readinessGates: [{conditionType: x}]}, status: {phase: Running, podIP: 127.64.0.2}}",
            "p | 0/1 | Terminating | 0 | 2m | 127.64.0.2 | n | <none> | 0/1",
        );
        check(
            ONE,
            "{phase: Pending, conditions: [{type: PodScheduled, status: 'False', reason: SchedulingGated}]}",
            "0/1 | SchedulingGated | 0",
        );
    }
}
