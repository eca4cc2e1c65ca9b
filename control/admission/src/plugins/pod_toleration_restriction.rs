//! Adds the tolerations that a pod's namespace gives by default, and holds its pods to those that it allows. Off by default.
//!
//! Source: `plugin/pkg/admission/podtolerationrestriction`. Absent: the configuration file with lists for the whole cluster.

use async_trait::async_trait;
use wharf_machinery::pod_resources::is_best_effort;
use wharf_types::k8s::api::core::v1::{Pod, Toleration};
use wharf_types::{ApiError, Gvr};

use crate::{Attributes, Notes, Operation, Plugin, Reader};

const NAMESPACES: Gvr = super::core_v1("namespaces");
const DEFAULTS: &str = "scheduler.alpha.kubernetes.io/defaultTolerations";
const ALLOWED: &str = "scheduler.alpha.kubernetes.io/tolerationsWhitelist";
const MEMORY_PRESSURE: &str = "node.kubernetes.io/memory-pressure";

pub struct PodTolerationRestriction;

#[async_trait]
impl Plugin for PodTolerationRestriction {
    fn name(&self) -> &'static str {
        "PodTolerationRestriction"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, write: &mut Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        if !write.is("", "pods") {
            return Ok(());
        }
        let given = match write.operation {
            Operation::Create => annotated(write, cluster, DEFAULTS)?.unwrap_or_default(),
            _ => Vec::new(),
        };
        let Some(pod) = write.new_as_mut::<Pod>() else { return Ok(()) };
        let lasting = !is_best_effort(pod);
        let Some(spec) = &mut pod.spec else { return Ok(()) };
        let mut more = given;
        more.extend(lasting.then(|| Toleration {
            key: Some(MEMORY_PRESSURE.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some("NoSchedule".to_owned()),
            ..Toleration::default()
        }));
        for toleration in more {
            let held = spec.tolerations.get_or_insert_default();
            if !held.iter().any(|held| covers(held, &toleration)) {
                held.push(toleration);
            }
        }
        Ok(())
    }

    async fn validate(&self, write: &Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        let Some(pod) = write.new_as::<Pod>().filter(|_| write.is("", "pods")) else { return Ok(()) };
        let held = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
        if held.is_empty() {
            return Ok(());
        }
        let Some(allowed) = annotated(write, cluster, ALLOWED)?.filter(|allowed| !allowed.is_empty()) else {
            return Ok(());
        };
        // What this plugin itself gives needs no leave.
        let own = |toleration: &Toleration| {
            toleration.key.as_deref() == Some(MEMORY_PRESSURE) && toleration.operator.as_deref() == Some("Exists")
        };
        match held.iter().all(|it| own(it) || allowed.iter().any(|allowed| covers(allowed, it))) {
            true => Ok(()),
            false => Err(write.forbidden(
                "pod tolerations (possibly merged with namespace default tolerations) conflict with its namespace whitelist",
            )),
        }
    }
}

/// True where whatever `narrow` tolerates `wide` tolerates too. Source: `pkg/util/tolerations` (`isSuperset`).
fn covers(wide: &Toleration, narrow: &Toleration) -> bool {
    fn text(field: &Option<String>) -> &str {
        field.as_deref().unwrap_or_default()
    }
    if wide == narrow {
        return true;
    }
    let any_key = text(&wide.key).is_empty() && text(&wide.operator) == "Exists";
    let same = |a: &Option<String>, b: &Option<String>| text(a).is_empty() || text(a) == text(b);
    if !any_key && text(&wide.key) != text(&narrow.key) || !same(&wide.effect, &narrow.effect) {
        return false;
    }
    if text(&wide.effect) == "NoExecute"
        && wide.toleration_seconds.is_some_and(|wide| narrow.toleration_seconds.is_none_or(|narrow| wide < narrow))
    {
        return false;
    }
    match text(&wide.operator) {
        "Exists" => true,
        _ => !any_key && text(&narrow.operator) != "Exists" && text(&wide.value) == text(&narrow.value),
    }
}

/// The tolerations in an annotation of the namespace.
fn annotated(write: &Attributes, cluster: &dyn Reader, key: &str) -> Result<Option<Vec<Toleration>>, ApiError> {
    let name = write.namespace.as_deref().unwrap_or_default();
    let Some(namespace) = cluster.get(&NAMESPACES, None, name) else {
        return Err(ApiError::not_found(&NAMESPACES, name));
    };
    let text = namespace.meta().annotations.as_ref().and_then(|all| all.get(key)).filter(|text| !text.is_empty());
    text.map(|text| serde_json::from_str(text).map_err(ApiError::internal)).transpose()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Cluster, json, run, write};
    use super::*;
    use serde_json::{Value, json};
    use wharf_types::k8s::api::core::v1::Namespace;

    async fn check(tolerations: Value, expected: Result<usize, ()>) {
        let annotations = json!({
            DEFAULTS: r#"[{"key": "team", "operator": "Equal", "value": "a", "effect": "NoSchedule"}]"#,
            ALLOWED: r#"[{"key": "team", "operator": "Exists"}]"#,
        });
        let namespace: Namespace = json(json!({"metadata": {"name": "default", "annotations": annotations}}));
        let cluster = Cluster::default().with("namespaces", namespace);
        let pod: Pod = json(
            json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"containers": [], "tolerations": tolerations}}),
        );
        let mut write = write(Operation::Create, "pods", pod);
        let verdict = run(&PodTolerationRestriction, &mut write, &cluster).await;
        let spec = write.new_as::<Pod>().and_then(|pod| pod.spec.clone()).expect("spec");
        let count = spec.tolerations.unwrap_or_default().len();
        assert_eq!(verdict.map(|()| count).map_err(drop), expected);
    }

    #[tokio::test]
    async fn pods_tolerate_what_their_namespace_gives_and_allows() {
        check(json!([]), Ok(1)).await;
        check(json!([{"key": "team", "operator": "Exists"}]), Ok(1)).await;
        check(json!([{"key": "gpu", "operator": "Exists"}]), Err(())).await;
    }
}
