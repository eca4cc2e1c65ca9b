//! Nodes keep pods away by taints; pods say which they tolerate.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use super::normalize;
use crate::cluster::NodeInfo;
use crate::framework::{Change, Filter, Rejection, Score};
use crate::pod::PodInfo;

pub struct TaintToleration;

/// Source: `k8s.io/component-helpers/scheduling/corev1.TolerationsTolerateTaint`.
pub fn tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| tolerates(toleration, taint))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let effect_fits = set(&toleration.effect).is_none_or(|effect| effect == taint.effect);
    let key_fits = set(&toleration.key).is_none_or(|key| key == taint.key);
    let value = taint.value.as_deref().unwrap_or_default();
    let value_fits = match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => {
            set(&toleration.key).is_some() && toleration.value.as_deref().unwrap_or_default() == value
        }
        Some(_) => false,
    };
    effect_fits && key_fits && value_fits
}

impl Filter for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let binding = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
        match node.taints().iter().filter(binding).find(|taint| !tolerated(taint, pod.tolerations())) {
            None => Ok(()),
            Some(_) => {
                Err(Rejection { reason: "node(s) had untolerated taint(s)".to_owned(), plugin: "TaintToleration" })
            }
        }
    }

    fn hint(&self, _pod: &PodInfo, change: &Change) -> bool {
        match change {
            Change::NodeAdded(_) => true,
            Change::NodeUpdated { old, new } => {
                old.spec.as_ref().and_then(|spec| spec.taints.as_ref())
                    != new.spec.as_ref().and_then(|spec| spec.taints.as_ref())
            }
            Change::PodGone(_) => false,
        }
    }
}

impl Score for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn weight(&self) -> i64 {
        3
    }

    /// Counts the taints that would rather not have the pod.
    fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let reluctant = node.taints().iter().filter(|taint| taint.effect == "PreferNoSchedule");
        i64::try_from(reluctant.filter(|taint| !tolerated(taint, pod.tolerations())).count()).unwrap_or(i64::MAX)
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize(scores, true);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(toleration: serde_json::Value, expected: bool) {
        let taint = Taint {
            key: "k".to_owned(),
            value: Some("v".to_owned()),
            effect: "NoExecute".to_owned(),
            ..Taint::default()
        };
        assert_eq!(tolerated(&taint, &[serde_json::from_value(toleration.clone()).unwrap()]), expected, "{toleration}");
    }

    #[test]
    fn tolerations_match_by_key_value_and_effect() {
        check(json!({ "operator": "Exists" }), true);
        check(json!({ "key": "k", "operator": "Exists", "effect": "NoExecute" }), true);
        check(json!({ "key": "k", "value": "v" }), true);
        check(json!({ "key": "k", "value": "w" }), false);
        check(json!({ "key": "k", "operator": "Exists", "effect": "NoSchedule" }), false);
        check(json!({ "key": "other", "operator": "Exists" }), false);
    }
}
