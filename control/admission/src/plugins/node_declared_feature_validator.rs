//! Refuses an update of a pod that asks for a feature which its node does not declare.
//!
//! Source: `plugin/pkg/admission/nodedeclaredfeatures` and `k8s.io/component-helpers/nodedeclaredfeatures/features`; of their
//! features those that an update may ask for.

use async_trait::async_trait;
use wharf_machinery::pod_resources::is_sidecar;
use wharf_registry::Subresource;
use wharf_types::k8s::api::core::v1::{Node, Pod, PodSpec};
use wharf_types::{ApiError, Gvr};

use crate::{Attributes, Notes, Operation, Plugin, Reader};

const NODES: Gvr = super::core_v1("nodes");

/// A feature, and whether a change from one spec to another needs it. By name.
type Feature = (&'static str, fn(&PodSpec, &PodSpec) -> bool);

const FEATURES: [Feature; 2] = [
    ("InPlacePodLevelResourcesVerticalScaling", |old, new| old.resources != new.resources),
    ("InPlacePodVerticalScalingInitContainers", |old, new| {
        let mut pairs = old.init_containers.iter().flatten().zip(new.init_containers.iter().flatten());
        pairs.any(|(old, new)| !is_sidecar(old) && old.resources != new.resources)
    }),
];

pub struct NodeDeclaredFeatureValidator;

#[async_trait]
impl Plugin for NodeDeclaredFeatureValidator {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatureValidator"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    async fn validate(&self, write: &Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        if !matches!(write.subresource, None | Some(Subresource::Resize)) {
            return Ok(());
        }
        let Some((pod, name)) = super::changed_on_node(write) else { return Ok(()) };
        let needed = needed(write.old_as::<Pod>(), pod);
        if needed.is_empty() {
            return Ok(());
        }
        let held = cluster.get(&NODES, None, name);
        let Some(node) = held.as_deref().and_then(|node| node.downcast_ref::<Node>()) else {
            return Err(write.forbidden(format_args!("node {name:?} not found")));
        };
        let declared = node.status.iter().flat_map(|status| status.declared_features.iter().flatten());
        let declared: Vec<&str> = declared.map(String::as_str).collect();
        let lacking: Vec<&str> = needed.into_iter().filter(|feature| !declared.contains(feature)).collect();
        match lacking.is_empty() {
            true => Ok(()),
            false => Err(write.forbidden(format_args!(
                "pod update requires features {} which are not available on node {name:?}",
                lacking.join(", ")
            ))),
        }
    }
}

fn needed(old: Option<&Pod>, new: &Pod) -> Vec<&'static str> {
    let specs = old.and_then(|old| old.spec.as_ref()).zip(new.spec.as_ref());
    let Some((old, new)) = specs else { return Vec::new() };
    FEATURES.iter().filter(|(_, needs)| needs(old, new)).map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Cluster, json, run, write};
    use super::*;

    fn pod(generation: i64, spec: Value) -> Pod {
        let mut spec = spec;
        spec["nodeName"] = json!("n");
        spec["containers"] = json!([]);
        json(json!({"metadata": {"name": "web", "namespace": "default", "generation": generation}, "spec": spec}))
    }

    async fn check(old: Value, new: Value, declared: &[&str], expected: Result<(), &str>) {
        let node: Node = json(json!({"metadata": {"name": "n"}, "status": {"declaredFeatures": declared}}));
        let mut write = write(Operation::Update, "pods", pod(2, new)).replacing(pod(1, old));
        write.subresource = Some(Subresource::Resize);
        let verdict = run(&NodeDeclaredFeatureValidator, &mut write, &Cluster::default().with("nodes", node)).await;
        let expected = expected.map_err(|why| format!("pods \"web\" is forbidden: {why}"));
        assert_eq!(verdict.map_err(|error| error.message), expected);
    }

    #[tokio::test]
    async fn a_node_must_declare_what_a_resize_needs() {
        let whole = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let init = |cpu: &str, policy: Value| json!({"initContainers": [{"name": "i", "restartPolicy": policy, "resources": {"requests": {"cpu": cpu}}}]});
        let lacks =
            |feature: &str| format!("pod update requires features {feature} which are not available on node \"n\"");
        let (of_pod, of_init) = (FEATURES[0].0, FEATURES[1].0);
        check(whole("1"), whole("2"), &[], Err(&lacks(of_pod))).await;
        check(whole("1"), whole("2"), &[of_pod], Ok(())).await;
        check(whole("1"), whole("1"), &[], Ok(())).await;
        check(init("1", Value::Null), init("2", Value::Null), &[], Err(&lacks(of_init))).await;
        check(init("1", json!("Always")), init("2", json!("Always")), &[], Ok(())).await;
    }
}
