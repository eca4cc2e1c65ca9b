//! Lets pods that ask for an extended resource tolerate the taint of the same name. Off by default.
//!
//! Source: `plugin/pkg/admission/extendedresourcetoleration`.

use std::collections::BTreeSet;

use async_trait::async_trait;
use wharf_types::ApiError;
use wharf_types::k8s::api::core::v1::{Pod, Toleration};

use crate::{Attributes, Notes, Operation, Plugin, Reader};

pub struct ExtendedResourceToleration;

#[async_trait]
impl Plugin for ExtendedResourceToleration {
    fn name(&self) -> &'static str {
        "ExtendedResourceToleration"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, write: &mut Attributes, _cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        if !write.is("", "pods") {
            return Ok(());
        }
        let Some(spec) = write.new_as_mut::<Pod>().and_then(|pod| pod.spec.as_mut()) else { return Ok(()) };
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let requests = containers.filter_map(|container| container.resources.as_ref()?.requests.as_ref());
        let asked: BTreeSet<String> =
            requests.flat_map(|it| it.keys()).filter(|name| is_extended(name)).cloned().collect();
        for name in asked {
            let toleration = Toleration {
                key: Some(name),
                operator: Some("Exists".to_owned()),
                effect: Some("NoSchedule".to_owned()),
                ..Toleration::default()
            };
            let held = spec.tolerations.get_or_insert_default();
            if !held.contains(&toleration) {
                held.push(toleration);
            }
        }
        Ok(())
    }
}

/// A name with a domain of its own.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Cluster, json, run, write};
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn whoever_asks_for_a_device_tolerates_its_taint() {
        let requests = json!({"cpu": "1", "example.com/gpu": "1"});
        let pod: Pod = json(
            json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "a", "resources": {"requests": requests}}]}}),
        );
        let mut write = write(Operation::Create, "pods", pod);
        run(&ExtendedResourceToleration, &mut write, &Cluster::default()).await.expect("admitted");
        let spec = write.new_as::<Pod>().and_then(|pod| pod.spec.clone()).expect("spec");
        let expected = json!([{"key": "example.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]);
        assert_eq!(serde_json::to_value(spec.tolerations).expect("json"), expected);
    }
}
