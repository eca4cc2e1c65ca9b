//! Taints each new node as not ready, so that nothing is scheduled onto it before its first status.
//!
//! Source: `plugin/pkg/admission/nodetaint`. The node lifecycle controller takes the taint away.

use async_trait::async_trait;
use wharf_types::ApiError;
use wharf_types::k8s::api::core::v1::{Node, Taint};

use crate::{Attributes, Notes, Operation, Plugin, Reader};

pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
const EFFECT: &str = "NoSchedule";

pub struct TaintNodesByCondition;

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, write: &mut Attributes, _cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        if !write.is("", "nodes") {
            return Ok(());
        }
        if let Some(node) = write.new_as_mut::<Node>() {
            let taints = node.spec.get_or_insert_default().taints.get_or_insert_default();
            if !taints.iter().any(|taint| taint.key == NOT_READY && taint.effect == EFFECT) {
                taints.push(Taint { key: NOT_READY.to_owned(), effect: EFFECT.to_owned(), ..Taint::default() });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Cluster, json, run, write};
    use super::*;
    use serde_json::{Value, json};

    async fn check(spec: Value, expected: Value) {
        let node: Node = json(json!({"metadata": {"name": "n1"}, "spec": spec}));
        let mut write = write(Operation::Create, "nodes", node);
        run(&TaintNodesByCondition, &mut write, &Cluster::default()).await.expect("admitted");
        let node = write.new_as::<Node>().expect("node");
        assert_eq!(serde_json::to_value(&node.spec).expect("json")["taints"], expected);
    }

    #[tokio::test]
    async fn a_new_node_is_tainted_once() {
        let taint = json!({"key": NOT_READY, "effect": "NoSchedule"});
        let other = json!({"key": "gpu", "effect": "NoExecute"});
        check(json!({}), json!([taint])).await;
        check(json!({"taints": [other]}), json!([other, taint])).await;
        check(json!({"taints": [taint]}), json!([taint])).await;
    }
}
