//! Gives a pod its runtime class's overhead, node selector and tolerations, and refuses overhead that is not its class's.
//!
//! Source: `plugin/pkg/admission/runtimeclass`.

use async_trait::async_trait;
use wharf_machinery::pod_resources::read;
use wharf_types::k8s::api::core::v1::{Pod, PodSpec};
use wharf_types::k8s::api::node::v1::RuntimeClass;
use wharf_types::{ApiError, Gvr};

use crate::{Attributes, Notes, Operation, Plugin, Reader};

const CLASSES: Gvr = super::gvr("node.k8s.io", "v1", "runtimeclasses");
const DIFFERS: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

pub struct RuntimeClassPlugin;

#[async_trait]
impl Plugin for RuntimeClassPlugin {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, write: &mut Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        let Some(class) = class_of(write, cluster)? else { return Ok(()) };
        let Some(spec) = write.new_as_mut::<Pod>().and_then(|pod| pod.spec.as_mut()) else { return Ok(()) };
        let applied = set_overhead(spec, &class).and_then(|()| set_scheduling(spec, &class));
        applied.map_err(|why| write.forbidden(why))
    }

    async fn validate(&self, write: &Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        let class = class_of(write, cluster)?;
        let spec = write.new_as::<Pod>().filter(|_| write.is("", "pods")).and_then(|pod| pod.spec.as_ref());
        let held = read(spec.and_then(|spec| spec.overhead.as_ref()));
        let wanted = class.and_then(|class| class.overhead).map(|overhead| read(overhead.pod_fixed.as_ref()));
        match wanted {
            None if !held.is_empty() => {
                Err(write
                    .forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
            }
            Some(wanted) if wanted != held => Err(write.forbidden(DIFFERS)),
            _ => Ok(()),
        }
    }
}

fn class_of(write: &Attributes, cluster: &dyn Reader) -> Result<Option<RuntimeClass>, ApiError> {
    let pod = write.new_as::<Pod>().filter(|_| write.is("", "pods"));
    let Some(name) = pod.and_then(|pod| pod.spec.as_ref()?.runtime_class_name.as_deref()) else { return Ok(None) };
    let found = cluster.get(&CLASSES, None, name);
    match found.as_ref().and_then(|object| object.downcast_ref::<RuntimeClass>()) {
        Some(class) => Ok(Some(class.clone())),
        None => Err(write.forbidden(format_args!("pod rejected: RuntimeClass {name:?} not found"))),
    }
}

fn set_overhead(spec: &mut PodSpec, class: &RuntimeClass) -> Result<(), String> {
    let Some(overhead) = &class.overhead else { return Ok(()) };
    let held = spec.overhead.as_ref().filter(|held| !held.is_empty());
    if held.is_some_and(|held| read(Some(held)) != read(overhead.pod_fixed.as_ref())) {
        return Err(DIFFERS.to_owned());
    }
    spec.overhead.clone_from(&overhead.pod_fixed);
    Ok(())
}

fn set_scheduling(spec: &mut PodSpec, class: &RuntimeClass) -> Result<(), String> {
    let Some(scheduling) = &class.scheduling else { return Ok(()) };
    for (key, value) in scheduling.node_selector.iter().flatten() {
        let held = spec.node_selector.get_or_insert_default().entry(key.clone()).or_insert_with(|| value.clone());
        if held != value {
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {held}"
            ));
        }
    }
    for toleration in scheduling.tolerations.iter().flatten() {
        let held = spec.tolerations.get_or_insert_default();
        if !held.contains(toleration) {
            held.push(toleration.clone());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Classes, json, run_with, write};
    use super::*;
    use serde_json::{Value, json};

    async fn check(spec: Value, expected: Result<Value, &str>) {
        let class: RuntimeClass = json(json!({
            "metadata": {"name": "wasm"}, "handler": "wasm", "overhead": {"podFixed": {"cpu": "10m"}},
            "scheduling": {"nodeSelector": {"wasm": "yes"}, "tolerations": [{"key": "wasm", "operator": "Exists"}]},
        }));
        let pod: Pod = json(json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec}));
        let mut write = write(Operation::Create, "pods", pod);
        let verdict = run_with(&RuntimeClassPlugin, &mut write, &Classes::of(&CLASSES, [class])).await;
        let spec = serde_json::to_value(&write.new_as::<Pod>().expect("the pod").spec).expect("json");
        let shown = json!([spec["overhead"], spec["nodeSelector"], spec["tolerations"]]);
        let expected = expected.map_err(|why| format!("pods \"web\" is forbidden: {why}"));
        assert_eq!(verdict.map(|()| shown).map_err(|error| error.message), expected);
    }

    #[tokio::test]
    async fn a_pod_gets_what_its_class_says() {
        let full = json!([{"cpu": "10m"}, {"wasm": "yes"}, [{"key": "wasm", "operator": "Exists"}]]);
        check(json!({"containers": [], "runtimeClassName": "wasm"}), Ok(full)).await;
        check(
            json!({"containers": [], "runtimeClassName": "odd"}),
            Err("pod rejected: RuntimeClass \"odd\" not found"),
        )
        .await;
        check(json!({"containers": [], "runtimeClassName": "wasm", "overhead": {"cpu": "1"}}), Err(DIFFERS)).await;
        let clash = "conflict: runtimeClass.scheduling.nodeSelector[wasm] = yes; pod.spec.nodeSelector[wasm] = no";
        check(json!({"containers": [], "runtimeClassName": "wasm", "nodeSelector": {"wasm": "no"}}), Err(clash)).await;
        let bare = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
        check(json!({"containers": [], "overhead": {"cpu": "1"}}), Err(bare)).await;
    }
}
