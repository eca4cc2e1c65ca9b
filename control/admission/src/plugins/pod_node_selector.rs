//! Adds to each pod the node selector that its namespace's annotation names. Off by default.
//!
//! Source: `plugin/pkg/admission/podnodeselector`. Absent: the configuration file with a default and lists of what is allowed.

use std::collections::BTreeMap;

use async_trait::async_trait;
use wharf_types::k8s::api::core::v1::Pod;
use wharf_types::{ApiError, Gvr};

use crate::{Attributes, Notes, Operation, Plugin, Reader};

const NAMESPACES: Gvr = super::core_v1("namespaces");
const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/node-selector";

pub struct PodNodeSelector;

#[async_trait]
impl Plugin for PodNodeSelector {
    fn name(&self) -> &'static str {
        "PodNodeSelector"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, write: &mut Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        if !write.is("", "pods") {
            return Ok(());
        }
        let wanted = selector(write, cluster)?;
        if conflicts(write, &wanted) {
            return Err(write.forbidden("pod node label selector conflicts with its namespace node label selector"));
        }
        if let Some(spec) = write.new_as_mut::<Pod>().and_then(|pod| pod.spec.as_mut()).filter(|_| !wanted.is_empty()) {
            spec.node_selector.get_or_insert_default().extend(wanted);
        }
        Ok(())
    }

    async fn validate(&self, write: &Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        if write.is("", "pods") && conflicts(write, &selector(write, cluster)?) {
            return Err(write.forbidden("pod node label selector conflicts with its namespace node label selector"));
        }
        Ok(())
    }
}

fn conflicts(write: &Attributes, wanted: &BTreeMap<String, String>) -> bool {
    let spec = write.new_as::<Pod>().and_then(|pod| pod.spec.as_ref());
    let held = spec.and_then(|spec| spec.node_selector.as_ref());
    held.is_some_and(|held| wanted.iter().any(|(key, value)| held.get(key).is_some_and(|held| held != value)))
}

/// `a=b, c=d` of the namespace's annotation.
fn selector(write: &Attributes, cluster: &dyn Reader) -> Result<BTreeMap<String, String>, ApiError> {
    let name = write.namespace.as_deref().unwrap_or_default();
    let Some(namespace) = cluster.get(&NAMESPACES, None, name) else {
        return Err(ApiError::not_found(&NAMESPACES, name));
    };
    let text = namespace.meta().annotations.as_ref().and_then(|all| all.get(ANNOTATION)).cloned().unwrap_or_default();
    let mut selector = BTreeMap::new();
    for term in text.split(',').map(str::trim).filter(|term| !term.is_empty()) {
        let Some((key, value)) = term.split_once('=').filter(|(_, value)| !value.contains('=')) else {
            return Err(ApiError::internal(format_args!("invalid selector: [{term}]")));
        };
        selector.insert(key.trim().to_owned(), value.trim().to_owned());
    }
    Ok(selector)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Cluster, json, run, write};
    use super::*;
    use serde_json::{Value, json};
    use wharf_types::k8s::api::core::v1::Namespace;

    #[tokio::test]
    async fn pods_stay_where_their_namespace_wants_them() {
        let annotated: Namespace =
            json(json!({"metadata": {"name": "default", "annotations": {ANNOTATION: "env=prod, disk=ssd"}}}));
        let cluster = Cluster::default().with("namespaces", annotated);
        let check = async |held: Value, expected: Result<Value, &str>| {
            let pod: Pod = json(
                json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"containers": [], "nodeSelector": held}}),
            );
            let mut write = write(Operation::Create, "pods", pod);
            let verdict = run(&PodNodeSelector, &mut write, &cluster).await;
            let spec = write.new_as::<Pod>().and_then(|pod| pod.spec.clone()).expect("spec");
            let got = verdict.map(|()| json!(spec.node_selector)).map_err(|error| error.message);
            assert_eq!(got, expected.map_err(|why| format!("pods \"web\" is forbidden: {why}")));
        };
        check(json!({"zone": "a"}), Ok(json!({"env": "prod", "disk": "ssd", "zone": "a"}))).await;
        check(json!({"env": "test"}), Err("pod node label selector conflicts with its namespace node label selector"))
            .await;
    }
}
