//! Cluster addresses: the ranges that ServiceCIDRs open, and the IPAddresses that say who has which.
//!
//! An address is taken by creating the IPAddress of that name, which one writer can do; nothing is remembered beside them, so no two
//! servers over one store spend one twice. A range is open from when its ServiceCIDR is stored until that is being deleted, or is
//! told not to be ready. Source: `pkg/registry/core/service/ipallocator/{cidrallocator,ipallocator}.go`.
//! Absent on purpose: addresses of IPv6 ranges, as the cluster's Services have one family.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::Service as _;
use wharf_auth::{MASTERS, User};
use wharf_types::Gvr;
use wharf_types::k8s::api::networking::v1::ServiceCIDR;

use super::cidr::Cidr;
use crate::bootstrap::IDENTITY;
use crate::call::decode_stored;
use crate::server::ApiServer;

/// Who IPAddresses of Services say keeps them.
pub const MANAGER: &str = "ipallocator.k8s.io";
pub const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
pub const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
/// The condition of a ServiceCIDR that addresses may be taken from.
const READY: &str = "Ready";
const PATH: &str = "/apis/networking.k8s.io/v1/ipaddresses";
/// The first field manager of what is written here.
const AGENT: &str = "kube-apiserver";

/// Namespace and name of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub namespace: String,
    pub name: String,
}

pub fn resource(name: &'static str) -> Gvr {
    Gvr { group: "networking.k8s.io".into(), version: "v1".into(), resource: name.into() }
}

/// The ranges that addresses may be taken from now, in the order of the names of their ServiceCIDRs.
pub fn open(server: &ApiServer) -> Vec<Cidr> {
    let ranges = all::<ServiceCIDR>(server, &resource("servicecidrs"));
    ranges.iter().filter(|range| is_open(range)).flat_map(blocks).collect()
}

/// Everything that is stored of a kind.
pub fn all<K: Clone + 'static>(server: &ApiServer, gvr: &Gvr) -> Vec<K> {
    let Some(row) = server.table.find(&gvr.group, &gvr.version, &gvr.resource) else { return Vec::new() };
    let Some(collection) = server.collection(&row) else { return Vec::new() };
    let snapshot = collection.snapshot();
    let objects = snapshot.range("", None).filter_map(|entry| decode_stored(&row, entry).ok());
    objects.filter_map(|object| object.downcast_ref::<K>().cloned()).collect()
}

/// One object as it is stored.
pub fn find<K: Clone + 'static>(server: &ApiServer, gvr: &Gvr, namespace: Option<&str>, name: &str) -> Option<K> {
    let row = server.table.find(&gvr.group, &gvr.version, &gvr.resource)?;
    let entry = server.collection(&row)?.get(&row.key(namespace, name))?;
    decode_stored(&row, &entry).ok()?.downcast_ref::<K>().cloned()
}

/// The blocks of IPv4 that a range has.
pub fn blocks(range: &ServiceCIDR) -> Vec<Cidr> {
    let blocks = range.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    blocks.filter_map(|block| Cidr::block(block)).collect()
}

/// One of which nothing is told is open: whoever tells may not be there.
fn is_open(range: &ServiceCIDR) -> bool {
    let mut conditions = range.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let told = conditions.find(|condition| condition.type_ == READY);
    range.metadata.deletion_timestamp.is_none() && told.is_none_or(|condition| condition.status == "True")
}

/// True while an IPAddress of that name is stored.
pub fn is_written(server: &ApiServer, address: Ipv4Addr) -> bool {
    let gvr = resource("ipaddresses");
    let Some(row) = server.table.find(&gvr.group, &gvr.version, &gvr.resource) else { return false };
    server.collection(&row).is_some_and(|held| held.get(&row.key(None, &address.to_string())).is_some())
}

/// Takes the address for a Service; false where somebody has it.
pub async fn write(server: &Arc<ApiServer>, address: Ipv4Addr, owner: &Owner) -> Result<bool, String> {
    let body = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {"name": address.to_string(), "labels": {FAMILY: "IPv4", MANAGED_BY: MANAGER}},
        "spec": {"parentRef": {"resource": "services", "namespace": owner.namespace, "name": owner.name}},
    });
    match ask(server, Method::POST, PATH.to_owned(), body.to_string().into()).await {
        Ok(()) => Ok(true),
        Err((409, _)) => Ok(false),
        Err((_, why)) => Err(why),
    }
}

/// Gives an address back. One that stays behind is found by [`super::repair`].
pub async fn strike(server: &Arc<ApiServer>, address: Ipv4Addr) {
    match ask(server, Method::DELETE, format!("{PATH}/{address}"), Bytes::new()).await {
        Ok(()) | Err((404, _)) => {}
        Err((_, error)) => tracing::warn!(%address, error, "give back a cluster address"),
    }
}

/// A request through the whole stack, as the server itself; what is refused comes with its code.
async fn ask(server: &Arc<ApiServer>, method: Method, path: String, body: Bytes) -> Result<(), (u16, String)> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, AGENT)
        .body(Full::new(body))
        .map_err(|error| (0, error.to_string()))?;
    let answered: Result<_, Infallible> = server.service_for(User::new(IDENTITY, &[MASTERS])).call(request).await;
    let Ok(response) = answered;
    let (parts, body) = response.into_parts();
    if parts.status.is_success() {
        return Ok(());
    }
    let code = parts.status.as_u16();
    let bytes = body.collect().await.map_err(|error| (code, error.to_string()))?.to_bytes();
    let status: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    Err((code, status["message"].as_str().unwrap_or_default().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_open_until_it_goes_or_is_told_not_to_be() {
        let check = |meta: Value, conditions: Value, expected: bool| {
            let range =
                json!({"metadata": meta, "spec": {"cidrs": ["10.0.0.0/24"]}, "status": {"conditions": conditions}});
            let range: ServiceCIDR = serde_json::from_value(range).expect("a range");
            assert_eq!(is_open(&range), expected, "{range:?}");
        };
        let ready = |status: &str| json!([{"type": "Ready", "status": status, "reason": "", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        check(json!({}), json!([]), true);
        check(json!({}), ready("True"), true);
        check(json!({}), ready("False"), false);
        check(json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}), ready("True"), false);
    }

    #[test]
    fn ranges_of_another_family_are_left() {
        let range = json!({"metadata": {}, "spec": {"cidrs": ["fd00::/64", "10.0.0.0/24"]}});
        let range: ServiceCIDR = serde_json::from_value(range).expect("a range");
        assert_eq!(blocks(&range).iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/24"]);
    }
}
