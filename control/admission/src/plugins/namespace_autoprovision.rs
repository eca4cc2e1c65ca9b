//! Makes the namespace in which something is created, where it is not there. Off by default.
//!
//! Source: `plugin/pkg/admission/namespace/autoprovision`. The namespace is made as the server itself: who may create in it has
//! been asked already. A dry run makes none, so what is tried out is refused later as being nowhere.

use async_trait::async_trait;
use wharf_types::{ApiError, Gvr};

use crate::{Attributes, Notes, Operation, Plugin, Reader};

const NAMESPACES: Gvr = super::core_v1("namespaces");

pub struct NamespaceAutoProvision;

#[async_trait]
impl Plugin for NamespaceAutoProvision {
    fn name(&self) -> &'static str {
        "NamespaceAutoProvision"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, write: &mut Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        let Some(namespace) = write.namespace.as_deref().filter(|_| !write.is_namespace() && !write.dry_run) else {
            return Ok(());
        };
        if cluster.get(&NAMESPACES, None, namespace).is_some() {
            return Ok(());
        }
        cluster.create_namespace(namespace).await.map_err(|error| write.forbidden(error))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use wharf_types::k8s::api::core::v1::ConfigMap;

    use super::super::testing::{Cluster, json, run, write};
    use super::*;

    #[tokio::test]
    async fn a_namespace_is_made_for_what_is_created_in_it_and_not_for_a_dry_run() {
        for (operation, dry_run, made) in
            [(Operation::Create, false, true), (Operation::Create, true, false), (Operation::Update, false, false)]
        {
            let cluster = Cluster::default();
            let map: ConfigMap = json(json!({"metadata": {"name": "m", "namespace": "new"}}));
            let mut write = write(operation, "configmaps", map);
            write.dry_run = dry_run;
            for _ in 0..2 {
                run(&NamespaceAutoProvision, &mut write, &cluster).await.expect("admitted");
            }
            assert_eq!(cluster.list(&NAMESPACES, None).len(), usize::from(made), "{operation:?} {dry_run}");
        }
    }
}
