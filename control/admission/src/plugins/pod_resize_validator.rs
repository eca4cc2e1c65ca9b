//! Refuses a resize that the pod's node has no room for, or cannot do.
//!
//! Source: `plugin/pkg/admission/podresize`. What other pods hold is not looked at: the node defers a resize that has to wait.

use async_trait::async_trait;
use wharf_machinery::pod_resources::{self, Options, Side, read};
use wharf_registry::Subresource;
use wharf_types::k8s::api::core::v1::{Node, Pod};
use wharf_types::meta::StatusCause;
use wharf_types::{ApiError, Gvr};

use crate::{Attributes, Notes, Operation, Plugin, Reader};

const NODES: Gvr = super::core_v1("nodes");
const OS: &str = "kubernetes.io/os";

pub struct PodResizeValidator;

#[async_trait]
impl Plugin for PodResizeValidator {
    fn name(&self) -> &'static str {
        "PodResizeValidator"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    async fn validate(&self, write: &Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        if write.subresource != Some(Subresource::Resize) {
            return Ok(());
        }
        let Some((pod, node)) = super::changed_on_node(write) else { return Ok(()) };
        let held = cluster.get(&NODES, None, node);
        let Some(node) = held.as_deref().and_then(|node| node.downcast_ref::<Node>()) else {
            return Err(write.forbidden(format_args!("node {node:?} not found")));
        };
        refusal(pod, node).map_or(Ok(()), |(cause, why)| {
            let mut error = write.forbidden(why);
            let cause = StatusCause { reason: Some(cause.to_owned()), ..StatusCause::default() };
            error.details.get_or_insert_default().causes.get_or_insert_default().push(cause);
            Err(error)
        })
    }
}

/// Why the node cannot do it, if so, and the word that clients know that by.
fn refusal(pod: &Pod, node: &Node) -> Option<(&'static str, String)> {
    let options = Options { with_overhead: true, ..Options::default() };
    let asked = pod_resources::of_pod(pod, Side::Requests, options);
    let room = read(node.status.as_ref().and_then(|status| status.allocatable.as_ref()));
    let amount = |amounts: &pod_resources::Amounts, name: &str| {
        let held = amounts.get(name).copied().unwrap_or_default();
        if name == "cpu" { held.milli_value() } else { held.value() }
    };
    let lacking = ["cpu", "memory"].into_iter().filter_map(|name| {
        let (asked, room) = (amount(&asked, name), amount(&room, name));
        (asked > room).then(|| format!("{name}, requested: {asked}, allocatable: {room}"))
    });
    let lacking: Vec<String> = lacking.collect();
    if !lacking.is_empty() {
        let why = format!("Node didn't have enough allocatable resources: {}", lacking.join("; "));
        return Some(("NodeCapacity", why));
    }
    let os = node.metadata.labels.as_ref().and_then(|labels| labels.get(OS)).map_or("", String::as_str);
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let why = || format!("pod resize is only supported on linux nodes, node {name:?} is {os:?}");
    (os != "linux").then(|| ("UnsupportedPlatform", why()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Cluster, json, run, write};
    use super::*;

    fn pod(generation: i64, requests: Value) -> Pod {
        json(json!({
            "metadata": {"name": "web", "namespace": "default", "generation": generation},
            "spec": {"nodeName": "n", "containers": [{"name": "a", "resources": {"requests": requests}}]},
        }))
    }

    async fn check(os: &str, generation: i64, requests: Value, expected: Result<(), (&str, &str)>) {
        let node: Node = json(json!({
            "metadata": {"name": "n", "labels": {OS: os}}, "status": {"allocatable": {"cpu": "2", "memory": "1Gi"}},
        }));
        let cluster = if os.is_empty() { Cluster::default() } else { Cluster::default().with("nodes", node) };
        let old = pod(1, json!({"cpu": "1"}));
        let mut write = write(Operation::Update, "pods", pod(generation, requests)).replacing(old);
        write.subresource = Some(Subresource::Resize);
        let verdict = run(&PodResizeValidator, &mut write, &cluster).await.map_err(|error| {
            let causes = error.details.and_then(|details| details.causes).unwrap_or_default();
            (causes.into_iter().find_map(|cause| cause.reason).unwrap_or_default(), error.message)
        });
        let expected = expected.map_err(|(cause, why)| (cause.to_owned(), format!("pods \"web\" is forbidden: {why}")));
        assert_eq!(verdict, expected, "{os}");
    }

    #[tokio::test]
    async fn a_resize_stays_within_its_node() {
        check("linux", 2, json!({"cpu": "2", "memory": "1Gi"}), Ok(())).await;
        let both = "Node didn't have enough allocatable resources: cpu, requested: 2001, allocatable: 2000; memory, requested: 2147483648, allocatable: 1073741824";
        check("linux", 2, json!({"cpu": "2001m", "memory": "2Gi"}), Err(("NodeCapacity", both))).await;
        check("linux", 1, json!({"cpu": "3"}), Ok(())).await;
    }

    #[tokio::test]
    async fn a_node_must_be_there_and_run_linux() {
        let why = "pod resize is only supported on linux nodes, node \"n\" is \"windows\"";
        check("windows", 2, json!({"cpu": "2"}), Err(("UnsupportedPlatform", why))).await;
        check("", 2, json!({"cpu": "2"}), Err(("", "node \"n\" not found"))).await;
    }
}
