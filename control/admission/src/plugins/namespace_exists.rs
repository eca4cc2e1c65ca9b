//! Keeps objects inside namespaces that are there. Off by default: `NamespaceLifecycle` does this and more.
//!
//! Source: `plugin/pkg/admission/namespace/exists`.

use async_trait::async_trait;
use wharf_types::{ApiError, Gvr};

use crate::{Attributes, Notes, Operation, Plugin, Reader};

const NAMESPACES: Gvr = super::core_v1("namespaces");

pub struct NamespaceExists;

#[async_trait]
impl Plugin for NamespaceExists {
    fn name(&self) -> &'static str {
        "NamespaceExists"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update | Operation::Delete)
    }

    async fn validate(&self, write: &Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        match write.namespace.as_deref().filter(|_| !write.is_namespace()) {
            Some(name) if cluster.get(&NAMESPACES, None, name).is_none() => Err(ApiError::not_found(&NAMESPACES, name)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use wharf_types::k8s::api::core::v1::{ConfigMap, Namespace};

    use super::super::testing::{Cluster, json, run, write};
    use super::*;

    #[tokio::test]
    async fn nothing_is_written_or_deleted_in_a_namespace_that_is_not_there() {
        let here: Namespace = json(json!({"metadata": {"name": "here"}}));
        let cluster = Cluster::default().with("namespaces", here.clone());
        for (namespace, expected) in [("here", Ok(())), ("gone", Err("namespaces \"gone\" not found".to_owned()))] {
            let map = || -> ConfigMap { json(json!({"metadata": {"name": "m", "namespace": namespace}})) };
            for mut write in [
                write(Operation::Create, "configmaps", map()),
                write(Operation::Update, "configmaps", map()).replacing(map()),
                write(Operation::Create, "configmaps", map()).deleting(),
            ] {
                let verdict = run(&NamespaceExists, &mut write, &cluster).await;
                assert_eq!(verdict.map_err(|error| error.message), expected, "{:?}", write.operation);
            }
        }
        let mut create = write(Operation::Create, "namespaces", here);
        run(&NamespaceExists, &mut create, &Cluster::default()).await.expect("a namespace is in none");
    }
}
