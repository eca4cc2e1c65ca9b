//! What a claim for devices asks of its namespace and of its writer, beside the rules that its strategy knows.
//!
//! Administrative access to devices is for namespaces that are labelled for it. A claim's status is written by several parties,
//! each with a part of its own: who allocates needs the right to `resourceclaims/binding`, a driver that to `resourceclaims/driver`
//! under its name, for its own node or for any.
//! Source: `pkg/registry/resource/utils.go`; the feature gates `DRAAdminAccess` and `DRAResourceClaimGranularStatusAuthorization`.

use std::collections::{BTreeMap, BTreeSet};

use wharf_admission::Reader;
use wharf_auth::{Attributes, Decision, User};
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::resource::v1::{
    AllocatedDeviceStatus, AllocationResult, ResourceClaim, ResourceClaimSpec, ResourceClaimStatus,
    ResourceClaimTemplate,
};
use wharf_types::{AnyObject, Gvr};

use crate::call::{Call, Cluster};

/// The label of namespaces whose claims may have administrative access to devices.
const ADMIN_ACCESS: &str = "resource.kubernetes.io/admin-access";
const BINDING: &str = "binding";
const DRIVER: &str = "driver";
const ASSOCIATED_NODE: &str = "associated-node:";
const ARBITRARY_NODE: &str = "arbitrary-node:";
/// The node of a service account's token.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// Refuses a new claim or template that asks for administrative access where that is not to be had.
pub fn check_new(call: &Call, object: &dyn AnyObject) -> Errors {
    let spec = match (object.downcast_ref::<ResourceClaim>(), object.downcast_ref::<ResourceClaimTemplate>()) {
        (Some(claim), _) => &claim.spec,
        (_, Some(template)) => &template.spec.spec,
        _ => return Vec::new(),
    };
    admin_request(spec).map_or_else(Vec::new, |path| check_namespace(call, &path))
}

/// Refuses what the writer of a claim's status has no right to. `verb` is that of the request.
pub async fn check_status(call: &Call, verb: &str, new: &dyn AnyObject, old: &dyn AnyObject) -> Errors {
    let (Some(new), Some(old)) = (new.downcast_ref::<ResourceClaim>(), old.downcast_ref::<ResourceClaim>()) else {
        return Vec::new();
    };
    let (new, old) = (new.status.clone().unwrap_or_default(), old.status.clone().unwrap_or_default());
    // An allocation stays what it is, so what was granted once is granted.
    let asked = if admin_result(&old).is_some() { None } else { admin_result(&new) };
    let mut errors = asked.map_or_else(Vec::new, |path| check_namespace(call, &path));
    let path = Path::new("status");
    if new.allocation != old.allocation || reserved(&new) != reserved(&old) {
        let asked = synthetic(call, verb, BINDING, "", "");
        if let Err(why) = authorize(call, &asked).await {
            let why = format!(
                "changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", verb=\"{verb}\" permission: {why}"
            );
            errors.push(Error::forbidden(&path, why));
        }
    }
    let verbs = driver_verbs(&call.user, verb, new.allocation.as_ref());
    for driver in changed_drivers(&new, &old) {
        if let Err(why) = authorize_driver(call, &verbs, &driver).await {
            let why = format!(
                "changing status.devices requires resource=\"resourceclaims/driver\", verb=\"[{}]\" permission: {why}",
                verbs.join(" ")
            );
            errors.push(Error::forbidden(&path.child("devices"), why));
        }
    }
    errors
}

/// The first request for administrative access. Upstream's path leaves out `exactly`.
fn admin_request(spec: &ResourceClaimSpec) -> Option<Path> {
    let mut requests = spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten());
    let index =
        requests.position(|request| request.exactly.as_ref().is_some_and(|exact| exact.admin_access == Some(true)))?;
    Some(Path::new("spec").child("devices").child("requests").index(index).child("adminAccess"))
}

/// The first allocated device with administrative access.
fn admin_result(status: &ResourceClaimStatus) -> Option<Path> {
    let results = status.allocation.as_ref()?.devices.as_ref()?.results.as_deref().unwrap_or_default();
    let index = results.iter().position(|result| result.admin_access == Some(true))?;
    Some(Path::new("status").child("allocation").child("devices").child("results").index(index).child("adminAccess"))
}

fn check_namespace(call: &Call, path: &Path) -> Errors {
    let namespaces = Gvr { group: "".into(), version: "v1".into(), resource: "namespaces".into() };
    let name = call.namespace.as_deref().unwrap_or_default();
    let namespace = Cluster(&call.server).get(&namespaces, None, name);
    let labels = namespace.as_ref().and_then(|namespace| namespace.meta().labels.as_ref());
    if labels.and_then(|labels| labels.get(ADMIN_ACCESS)).is_some_and(|value| value == "true") {
        return Vec::new();
    }
    let why = format!("admin access to devices requires the `{ADMIN_ACCESS}: true` label on the containing namespace");
    vec![Error::forbidden(path, why)]
}

fn reserved(status: &ResourceClaimStatus) -> &[wharf_types::k8s::api::resource::v1::ResourceClaimConsumerReference] {
    status.reserved_for.as_deref().unwrap_or_default()
}

/// The drivers whose devices' statuses came, changed or went.
fn changed_drivers(new: &ResourceClaimStatus, old: &ResourceClaimStatus) -> BTreeSet<String> {
    type Key<'a> = (&'a str, &'a str, &'a str, Option<&'a str>);
    fn by_device(status: &ResourceClaimStatus) -> BTreeMap<Key<'_>, &AllocatedDeviceStatus> {
        status.devices.iter().flatten().map(|device| (key(device), device)).collect()
    }
    fn key(device: &AllocatedDeviceStatus) -> Key<'_> {
        let AllocatedDeviceStatus { driver, pool, device, share_id, .. } = device;
        (driver, pool, device, share_id.as_deref())
    }
    let (new, old) = (by_device(new), by_device(old));
    let changed = new.iter().filter(|(key, device)| old.get(*key) != Some(*device));
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    changed.map(|(key, _)| key).chain(gone).map(|(driver, ..)| (*driver).to_owned()).collect()
}

/// The verbs of which a driver needs one: a service account on the claim's node may have the right for that node alone.
fn driver_verbs(user: &User, verb: &str, allocation: Option<&AllocationResult>) -> Vec<String> {
    let here = user.extra.get(NODE_NAME).filter(|nodes| nodes.len() == 1 && user.name.starts_with(SERVICE_ACCOUNT));
    let is_near = here.zip(allocation.and_then(node_of)).is_some_and(|(nodes, node)| nodes[0] == node);
    let prefixes = if is_near { &[ASSOCIATED_NODE, ARBITRARY_NODE][..] } else { &[ARBITRARY_NODE] };
    prefixes.iter().map(|prefix| format!("{prefix}{verb}")).collect()
}

/// The one node whose name an allocation asks for, and for nothing else.
fn node_of(allocation: &AllocationResult) -> Option<&str> {
    let [term] = allocation.node_selector.as_ref()?.node_selector_terms.as_slice() else { return None };
    let [field] = term.match_fields.as_deref()? else { return None };
    let [node] = field.values.as_deref()? else { return None };
    let is_alone = term.match_expressions.as_ref().is_none_or(Vec::is_empty);
    (is_alone && field.key == "metadata.name" && field.operator == "In" && !node.is_empty()).then_some(node)
}

fn synthetic(call: &Call, verb: &str, subresource: &str, namespace: &str, name: &str) -> Attributes {
    let gvr = call.gvr();
    Attributes {
        verb: verb.to_owned(),
        resource_request: true,
        group: gvr.group.to_string(),
        version: gvr.version.to_string(),
        resource: gvr.resource.to_string(),
        subresource: subresource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..Attributes::default()
    }
}

/// Any of the verbs will do; the first refusal is told.
async fn authorize_driver(call: &Call, verbs: &[String], driver: &str) -> Result<(), String> {
    let namespace = call.namespace.as_deref().unwrap_or_default();
    let mut first = None;
    for verb in verbs {
        match authorize(call, &synthetic(call, verb, DRIVER, namespace, driver)).await {
            Ok(()) => return Ok(()),
            Err(why) => {
                first.get_or_insert(why);
            }
        }
    }
    Err(first.unwrap_or_default())
}

async fn authorize(call: &Call, asked: &Attributes) -> Result<(), String> {
    let reason = match call.server.authorizer.authorize(&call.user, asked).await {
        Decision::Allow(_) => return Ok(()),
        Decision::Deny(why) | Decision::NoOpinion(why) | Decision::Failed { why, .. } => why,
    };
    let refusal = wharf_types::ApiError::forbidden(call.gvr(), &asked.name, asked.refusal(&call.user)).message;
    Err(if reason.is_empty() { refusal } else { format!("{refusal}: {reason}") })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(value: serde_json::Value) -> ResourceClaimStatus {
        serde_json::from_value(value).expect("a status")
    }

    #[test]
    fn drivers_are_named_by_what_changed() {
        let device = |driver: &str, name: &str, data: i32| json!({"driver": driver, "pool": "p", "device": name, "data": {"x": data}});
        let check = |old: serde_json::Value, new: serde_json::Value, expected: &[&str]| {
            let changed = changed_drivers(&status(json!({"devices": new})), &status(json!({"devices": old})));
            assert_eq!(changed.iter().map(String::as_str).collect::<Vec<_>>(), expected);
        };
        check(json!([device("a", "0", 1)]), json!([device("a", "0", 1)]), &[]);
        check(json!([device("a", "0", 1)]), json!([device("a", "0", 2)]), &["a"]);
        check(json!([device("a", "0", 1)]), json!([device("b", "0", 1)]), &["a", "b"]);
    }

    #[test]
    fn a_driver_beside_the_devices_needs_less() {
        let on = |node: &str| User {
            extra: BTreeMap::from([(NODE_NAME.to_owned(), vec![node.to_owned()])]),
            ..User::new("system:serviceaccount:drivers:gpu", &[])
        };
        let allocation: AllocationResult = serde_json::from_value(json!({"nodeSelector": {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]},
        ]}}))
        .expect("an allocation");
        let near = ["associated-node:patch", "arbitrary-node:patch"];
        assert_eq!(driver_verbs(&on("n1"), "patch", Some(&allocation)), near);
        assert_eq!(driver_verbs(&on("n2"), "patch", Some(&allocation)), near[1..]);
        assert_eq!(driver_verbs(&on("n1"), "patch", None), near[1..]);
        assert_eq!(driver_verbs(&User::new("admin", &[]), "patch", Some(&allocation)), near[1..]);
    }
}
