//! Lets pods stay five minutes on a node that is not ready or unreachable, unless they say otherwise.
//!
//! Source: `plugin/pkg/admission/defaulttolerationseconds`.

use async_trait::async_trait;
use wharf_types::ApiError;
use wharf_types::k8s::api::core::v1::{Pod, Toleration};

use crate::{Attributes, Notes, Operation, Plugin, Reader};

/// Upstream's `--default-not-ready-toleration-seconds` and `--default-unreachable-toleration-seconds`.
pub const DEFAULT_SECONDS: i64 = 300;
const TAINTS: &[&str] = &["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
const EFFECT: &str = "NoExecute";

pub struct DefaultTolerationSeconds;

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, write: &mut Attributes, _cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        if !write.is("", "pods") {
            return Ok(());
        }
        let Some(spec) = write.new_as_mut::<Pod>().and_then(|pod| pod.spec.as_mut()) else { return Ok(()) };
        let held = spec.tolerations.as_deref().unwrap_or_default();
        let missing: Vec<&str> =
            TAINTS.iter().copied().filter(|taint| !held.iter().any(|held| covers(held, taint))).collect();
        if !missing.is_empty() {
            spec.tolerations.get_or_insert_default().extend(missing.into_iter().map(toleration));
        }
        Ok(())
    }
}

/// True when the toleration says something of this taint, whatever its seconds.
fn covers(toleration: &Toleration, taint: &str) -> bool {
    let or_any = |field: &Option<String>, wanted: &str| match field.as_deref() {
        None | Some("") => true,
        Some(value) => value == wanted,
    };
    or_any(&toleration.key, taint) && or_any(&toleration.effect, EFFECT)
}

fn toleration(taint: &str) -> Toleration {
    Toleration {
        key: Some(taint.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some(EFFECT.to_owned()),
        toleration_seconds: Some(DEFAULT_SECONDS),
        ..Toleration::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Cluster, json, run, write};
    use super::*;
    use serde_json::{Value, json};

    async fn check(tolerations: Value, added: &[&str]) {
        let before = tolerations.as_array().map_or(0, Vec::len);
        let pod: Pod =
            json(json!({"metadata": {"name": "web"}, "spec": {"containers": [], "tolerations": tolerations}}));
        let mut write = write(Operation::Create, "pods", pod);
        run(&DefaultTolerationSeconds, &mut write, &Cluster::default()).await.expect("admitted");
        let spec = write.new_as::<Pod>().and_then(|pod| pod.spec.clone()).expect("spec");
        let keys: Vec<String> = spec
            .tolerations
            .unwrap_or_default()
            .into_iter()
            .skip(before)
            .filter_map(|toleration| toleration.key)
            .collect();
        assert_eq!(keys, added, "{tolerations}");
    }

    #[tokio::test]
    async fn what_a_pod_says_itself_stands() {
        check(json!([]), TAINTS).await;
        check(
            json!([{"key": TAINTS[0], "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]),
            &TAINTS[1..],
        )
        .await;
        check(json!([{"key": TAINTS[0], "operator": "Exists", "effect": "NoSchedule"}]), TAINTS).await;
        check(json!([{"key": TAINTS[1], "operator": "Exists"}]), &TAINTS[..1]).await;
        check(json!([{"operator": "Exists"}]), &[]).await;
    }
}
