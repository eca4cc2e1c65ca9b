//! The ServiceCIDR of the range the server was started with.
//!
//! Source: `pkg/controlplane/controller/defaultservicecidr`. One that differs is somebody's own: it is left, and not called ready.
//! Absent on purpose: events about one that differs.

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{ServiceCIDR, ServiceCIDRSpec};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use wharf_types::meta::ObjectMeta;

use super::{Error, SERVICE, settle};
use crate::allocate::service::Cidr;
use crate::verbs::write::whole_seconds;

/// Upstream's name for who writes the status.
const MANAGER: &str = "kubernetes-service-cidr-controller";
const READY: &str = "Ready";

/// Makes it, and says that it is ready.
pub(super) async fn ensure(client: &Client, range: Cidr, now: Timestamp) -> Result<(), Error> {
    let ranges: Api<ServiceCIDR> = Api::all(client.clone());
    settle(&ranges, wanted(range), |_, _| true).await?;
    let held = ranges.get_opt(SERVICE).await.map_err(Error::of::<ServiceCIDR>("get", SERVICE))?;
    let Some(told) = held.and_then(|held| ready(&held, range, now)) else { return Ok(()) };
    let apply = PatchParams::apply(MANAGER).force();
    match ranges.patch_status(SERVICE, &apply, &Patch::Apply(&told)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        result => result.map(drop).map_err(Error::of::<ServiceCIDR>("tell of", SERVICE)),
    }
}

fn wanted(range: Cidr) -> ServiceCIDR {
    ServiceCIDR {
        metadata: ObjectMeta { name: Some(SERVICE.to_owned()), ..ObjectMeta::default() },
        spec: Some(ServiceCIDRSpec { cidrs: Some(vec![range.to_string()]) }),
        status: None,
    }
}

/// What is to be applied to the status, if it says nothing yet of the range.
fn ready(held: &ServiceCIDR, range: Cidr, now: Timestamp) -> Option<Value> {
    let mut conditions = held.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let is_told = conditions.any(|condition| condition.type_ == READY);
    let is_ours = held.spec == wanted(range).spec && held.metadata.deletion_timestamp.is_none();
    (is_ours && !is_told).then(|| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": SERVICE},
            "status": {"conditions": [{"type": READY, "status": "True", "reason": "",
                "message": "Kubernetes default Service CIDR is ready", "lastTransitionTime": whole_seconds(now)}]}})
    })
}
