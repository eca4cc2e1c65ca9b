//! How `kubectl get pods` shows a pod. Source: `printPod` in `pkg/printers/internalversion/printers.go`.
//!
//! Pods are listed by the thousand: only what the columns show is read of each, and it is read from the stored text.

mod shown;

use jiff::Timestamp;
use serde_json::Value;

use super::super::or_none;
use crate::strategy::{AGE, Column, NAME, age, human_duration};
use shown::{ContainerStatus, Metadata, Pod, Spec, Status, Terminated};

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

pub fn cells(stored: &[u8], now: Timestamp) -> serde_json::Result<Vec<Value>> {
    let Pod { metadata, spec, status } = serde_json::from_slice(stored)?;
    let (metadata, spec, status) = (metadata.unwrap_or_default(), spec.unwrap_or_default(), status.unwrap_or_default());
    let summary = summarize(&metadata, &spec, &status);
    let ip = status.pod_ips.iter().flatten().next().map(|address| address.ip.to_string());
    Ok(vec![
        metadata.name.to_string().into(),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        shown_restarts(&summary.restarts, now).into(),
        age(metadata.creation_timestamp.parse().ok(), now).into(),
        or_none(ip.unwrap_or_default()).into(),
        or_none(spec.node_name.to_string()).into(),
        or_none(status.nominated_node_name.to_string()).into(),
        readiness_gates(&spec, &status).into(),
    ])
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
    fn add(&mut self, container: &ContainerStatus<'_>) {
        self.count += container.restart_count.unwrap_or_default();
        let ended = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        self.last = self.last.max(ended.and_then(|ended| ended.finished_at.parse().ok()));
    }
}

fn summarize(metadata: &Metadata<'_>, spec: &Spec<'_>, status: &Status<'_>) -> Summary {
    let reason = if status.reason.is_empty() { &status.phase } else { &status.reason };
    let sidecars = spec.init_containers.iter().flatten().filter(|container| container.is_sidecar()).count();
    let total = spec.containers.as_ref().map_or(0, Vec::len) + sidecars;
    let mut summary = Summary { ready: 0, total, reason: reason.to_string(), restarts: Restarts::default() };
    if status.has_reason("PodScheduled", "SchedulingGated") {
        summary.reason = "SchedulingGated".to_owned();
    }
    let sidecar_restarts = summarize_init(&mut summary, spec, status);
    if let Some(sidecar_restarts) = sidecar_restarts {
        summary.restarts = sidecar_restarts;
        summarize_containers(&mut summary, status);
    }
    if !metadata.deletion_timestamp.is_empty() {
        if &*status.reason == "NodeLost" {
            summary.reason = "Unknown".to_owned();
        } else if !matches!(&*status.phase, "Succeeded" | "Failed") {
            summary.reason = "Terminating".to_owned();
        }
    }
    summary
}

/// Goes through the init containers. Returns the sidecars' restarts once the pod is initialized: from then on the
/// containers proper are what counts.
fn summarize_init(summary: &mut Summary, spec: &Spec<'_>, status: &Status<'_>) -> Option<Restarts> {
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    let mut sidecar_restarts = Restarts::default();
    let mut initializing = false;
    for (index, container) in status.init_container_statuses.iter().flatten().enumerate() {
        summary.restarts.add(container);
        let sidecar = inits.iter().any(|init| *init.name == *container.name && init.is_sidecar());
        if sidecar {
            sidecar_restarts.add(container);
        }
        summary.reason = match (container.ended(), container.waits()) {
            (Some(ended), _) if ended.exit_code.unwrap_or_default() == 0 => continue,
            _ if sidecar && container.started == Some(true) => {
                summary.ready += usize::from(container.is_ready());
                continue;
            }
            (Some(ended), _) => format!("Init:{}", shown_end(ended)),
            (None, Some(reason)) if reason != "PodInitializing" => format!("Init:{reason}"),
            _ => format!("Init:{index}/{}", inits.len()),
        };
        initializing = true;
        break;
    }
    let initialized = status.has_true("Initialized");
    (!initializing || initialized).then_some(sidecar_restarts)
}

fn summarize_containers(summary: &mut Summary, status: &Status<'_>) {
    let mut running = false;
    // Last to first, so that the first container with something to say is heard.
    for container in status.container_statuses.iter().flatten().rev() {
        summary.restarts.add(container);
        if let Some(reason) = container.waits() {
            summary.reason = reason.to_owned();
        } else if let Some(ended) = container.ended() {
            summary.reason = shown_end(ended);
        } else if container.is_ready() && container.state.as_ref().is_some_and(|state| state.running.is_some()) {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" && running {
        summary.reason = if status.has_true("Ready") { "Running".to_owned() } else { "NotReady".to_owned() };
    }
}

fn shown_end(ended: &Terminated<'_>) -> String {
    match (&*ended.reason, ended.signal.unwrap_or_default()) {
        ("", 0) => format!("ExitCode:{}", ended.exit_code.unwrap_or_default()),
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

fn readiness_gates(spec: &Spec<'_>, status: &Status<'_>) -> String {
    let gates = spec.readiness_gates.as_deref().unwrap_or_default();
    let open = gates.iter().filter(|gate| status.has_true(&gate.condition_type)).count();
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
