//! Keeps objects inside namespaces that exist and are not on their way out, and the namespaces that a cluster needs alive.
//!
//! Source: `k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle`. No waiting for a namespace that was just made, as
//! upstream must: the reader is as fresh as the last acknowledged write.

use async_trait::async_trait;
use wharf_types::meta::StatusCause;
use wharf_types::{ApiError, Gvr};

use crate::{Attributes, Notes, Operation, Plugin, Reader};

/// Namespaces that cannot be deleted.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];
const NAMESPACES: Gvr = Gvr {
    group: std::borrow::Cow::Borrowed(""),
    version: std::borrow::Cow::Borrowed("v1"),
    resource: std::borrow::Cow::Borrowed("namespaces"),
};

pub struct NamespaceLifecycle;

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update | Operation::Delete)
    }

    async fn admit(&self, write: &mut Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        if write.about("", "namespaces") {
            return match write.operation == Operation::Delete && IMMORTAL.contains(&write.name.as_str()) {
                true => Err(write.forbidden("this namespace may not be deleted")),
                false => Ok(()),
            };
        }
        let Some(namespace) = write.namespace.as_deref() else { return Ok(()) };
        if write.operation == Operation::Delete {
            return Ok(());
        }
        let Some(phase) = cluster.field(&NAMESPACES, None, namespace, "status.phase") else {
            return Err(ApiError::not_found(&NAMESPACES, namespace));
        };
        let ending = write.operation == Operation::Create && phase == "Terminating";
        if ending { Err(refusal(write, namespace)) } else { Ok(()) }
    }
}

fn refusal(write: &Attributes, namespace: &str) -> ApiError {
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut error = write.forbidden(why);
    let cause = StatusCause {
        field: Some("metadata.namespace".to_owned()),
        message: Some(format!("namespace {namespace} is being terminated")),
        reason: Some("NamespaceTerminating".to_owned()),
    };
    error.details.get_or_insert_default().causes.get_or_insert_default().push(cause);
    error
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Cluster, json, run, write};
    use super::*;
    use serde_json::json;
    use wharf_types::k8s::api::core::v1::{ConfigMap, Namespace};

    fn cluster() -> Cluster {
        let namespace = |name: &str, phase: &str| -> Namespace {
            json(json!({"metadata": {"name": name}, "status": {"phase": phase}}))
        };
        Cluster::default()
            .with("namespaces", namespace("default", "Active"))
            .with("namespaces", namespace("doomed", "Terminating"))
    }

    async fn check(mut write: Attributes, expected: Result<(), &str>) {
        let verdict = run(&NamespaceLifecycle, &mut write, &cluster()).await;
        assert_eq!(verdict.as_ref().map_err(|error| error.message.as_str()), expected.as_ref().map_err(|text| *text));
    }

    fn settings(namespace: &str) -> ConfigMap {
        json(json!({"metadata": {"name": "settings", "namespace": namespace}}))
    }

    #[tokio::test]
    async fn objects_live_in_namespaces_that_are_there_to_stay() {
        check(write(Operation::Create, "configmaps", settings("default")), Ok(())).await;
        let missing = r#"namespaces "nowhere" not found"#;
        check(write(Operation::Create, "configmaps", settings("nowhere")), Err(missing)).await;
        check(write(Operation::Update, "configmaps", settings("nowhere")), Err(missing)).await;
        let ending = r#"configmaps "settings" is forbidden: unable to create new content in namespace doomed because it is being terminated"#;
        check(write(Operation::Create, "configmaps", settings("doomed")), Err(ending)).await;
        check(write(Operation::Update, "configmaps", settings("doomed")), Ok(())).await;
        check(write(Operation::Create, "configmaps", settings("doomed")).deleting(), Ok(())).await;
    }

    #[tokio::test]
    async fn the_cause_names_the_ending_namespace() {
        let mut write = write(Operation::Create, "configmaps", settings("doomed"));
        let error = run(&NamespaceLifecycle, &mut write, &cluster()).await.expect_err("refused");
        let cause =
            error.details.and_then(|details| details.causes).and_then(|mut causes| causes.pop()).expect("cause");
        assert_eq!(cause.reason.as_deref(), Some("NamespaceTerminating"));
        assert_eq!(cause.message.as_deref(), Some("namespace doomed is being terminated"));
    }

    #[tokio::test]
    async fn the_namespaces_a_cluster_needs_cannot_be_deleted() {
        let namespace = |name: &str| -> Namespace { json(json!({"metadata": {"name": name}})) };
        for name in IMMORTAL {
            let message = format!("namespaces {name:?} is forbidden: this namespace may not be deleted");
            check(write(Operation::Create, "namespaces", namespace(name)).deleting(), Err(&message)).await;
        }
        check(write(Operation::Create, "namespaces", namespace("kube-node-lease")).deleting(), Ok(())).await;
        check(write(Operation::Create, "namespaces", namespace("new")), Ok(())).await;
    }
}
