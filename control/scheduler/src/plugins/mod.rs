//! The default scheduler's plugins, one file each, in upstream's order.

mod balanced_allocation;
mod bind;
mod fit;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_unschedulable;
mod scheduling_gates;
mod taint_toleration;

pub use bind::ApiBind;

use crate::framework::{Bind, Framework};

/// Adding a plugin is one file and one line here.
pub fn default(bind: Box<dyn Bind>) -> Framework {
    Framework {
        pre_enqueue: vec![Box::new(scheduling_gates::SchedulingGates)],
        filters: vec![
            Box::new(node_unschedulable::NodeUnschedulable),
            Box::new(node_name::NodeName),
            Box::new(taint_toleration::TaintToleration),
            Box::new(node_affinity::NodeAffinity),
            Box::new(node_ports::NodePorts),
            Box::new(fit::Fit),
        ],
        scores: vec![
            Box::new(taint_toleration::TaintToleration),
            Box::new(node_affinity::NodeAffinity),
            Box::new(fit::Fit),
            Box::new(balanced_allocation::BalancedAllocation),
        ],
        reserves: Vec::new(),
        permits: Vec::new(),
        pre_binds: Vec::new(),
        bind,
        post_binds: Vec::new(),
    }
}

/// Brings counts between 0 and the maximum; `reverse` where less is better.
/// Source: `helper.DefaultNormalizeScore`.
fn normalize(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or_default();
    for score in scores {
        *score = match max {
            0 if reverse => crate::framework::MAX_SCORE,
            0 => 0,
            max if reverse => crate::framework::MAX_SCORE - *score * crate::framework::MAX_SCORE / max,
            max => *score * crate::framework::MAX_SCORE / max,
        };
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use async_trait::async_trait;
    use serde_json::json;

    use super::*;
    use crate::cluster::tests::{node, pod_with};
    use crate::cluster::{Cluster, NodeInfo};
    use crate::framework::BindError;
    use crate::pod::PodInfo;

    struct NoBind;

    #[async_trait]
    impl Bind for NoBind {
        async fn bind(&self, _: &PodInfo, _: &str) -> Result<(), BindError> {
            Ok(())
        }
    }

    pub fn framework() -> Framework {
        default(Box::new(NoBind))
    }

    fn with_node(value: serde_json::Value, test: impl FnOnce(&NodeInfo)) {
        let mut cluster = Cluster::default();
        let mut object = serde_json::to_value(&*node("n", "4")).unwrap();
        json_patch::merge(&mut object, &value);
        cluster.set_node("n", std::sync::Arc::new(serde_json::from_value(object).unwrap()));
        test(&cluster.nodes()["n"]);
    }

    /// What the filters say of a pod with `spec` on a node patched with `node`.
    fn check(spec: serde_json::Value, node: serde_json::Value, expected: &str) {
        with_node(node, |info| {
            let got = framework().filter(&pod_with("p", spec.clone()), info);
            assert_eq!(got.map_or_else(|rejection| rejection.reason, |()| "fits".to_owned()), expected, "{spec}");
        });
    }

    #[test]
    fn filters_word_their_reasons_as_upstream() {
        let empty = json!({ "containers": [] });
        check(empty.clone(), json!({}), "fits");
        check(empty.clone(), json!({ "spec": { "unschedulable": true } }), "node(s) were unschedulable");
        let taint = json!({ "spec": { "taints": [{ "key": "k", "value": "v", "effect": "NoSchedule" }] } });
        check(empty, taint.clone(), "node(s) had untolerated taint(s)");
        check(json!({ "containers": [], "tolerations": [{ "key": "k", "operator": "Exists" }] }), taint, "fits");
        check(
            json!({ "containers": [], "nodeName": "" , "nodeSelector": { "a": "b" } }),
            json!({}),
            "node(s) didn't match Pod's node affinity/selector",
        );
        check(
            json!({ "containers": [], "nodeSelector": { "a": "b" } }),
            json!({ "metadata": { "labels": { "a": "b" } } }),
            "fits",
        );
    }

    #[test]
    fn required_affinity_is_an_or_of_terms() {
        let affinity = |terms: serde_json::Value| json!({ "containers": [], "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": terms } } } });
        let node = json!({ "metadata": { "labels": { "zone": "z1", "cores": "8" } } });
        let term = |key: &str, operator: &str, values: serde_json::Value| json!({ "matchExpressions": [{ "key": key, "operator": operator, "values": values }] });
        check(
            affinity(json!([term("zone", "In", json!(["z2"])), term("cores", "Gt", json!(["4"]))])),
            node.clone(),
            "fits",
        );
        check(
            affinity(json!([term("zone", "NotIn", json!(["z1"]))])),
            node.clone(),
            "node(s) didn't match Pod's node affinity/selector",
        );
        let field = json!([{ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["n"] }] }]);
        check(affinity(field), node, "fits");
        check(affinity(json!([{}])), json!({}), "node(s) didn't match Pod's node affinity/selector");
    }

    #[test]
    fn counts_are_brought_between_nought_and_a_hundred() {
        let mut scores = [0, 5, 10];
        normalize(&mut scores, true);
        assert_eq!(scores, [100, 50, 0]);
        let mut none = [0, 0];
        normalize(&mut none, true);
        assert_eq!(none, [100, 100]);
    }
}
