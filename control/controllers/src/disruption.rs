//! Says on a pod why it is taken away, before it is.

use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use wharf_types::k8s::api::core::v1::{Pod, PodCondition};

use crate::call::{During as _, Failed, gone_is_fine};
use crate::{owners, pods};

const DISRUPTION_TARGET: &str = "DisruptionTarget";

/// Sets condition `DisruptionTarget`, and `phase` where nobody else will say that the pod has ended.
pub async fn mark(
    client: &Client,
    pod: &Pod,
    reason: &str,
    message: &str,
    phase: Option<&str>,
    now: Timestamp,
) -> Result<(), Failed> {
    let marked = pods::condition(pod, DISRUPTION_TARGET).is_some_and(|condition| condition.status == "True");
    if marked && phase.is_none_or(|phase| phase == pods::phase(pod)) {
        return Ok(());
    }
    let mut conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    conditions.retain(|condition| condition.type_ != DISRUPTION_TARGET);
    conditions.push(PodCondition {
        type_: DISRUPTION_TARGET.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(pods::time(now)),
        ..PodCondition::default()
    });
    let mut status = json!({"conditions": conditions});
    if let Some(phase) = phase {
        status["phase"] = json!(phase);
    }
    let patch = Patch::Merge(json!({
        "metadata": {"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version},
        "status": status,
    }));
    let api = Api::<Pod>::namespaced(client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default());
    let written = api.patch_status(owners::name(pod), &PatchParams::default(), &patch).await;
    gone_is_fine(written).during("mark as disrupted pod", owners::name(pod)).map(|_| ())
}
