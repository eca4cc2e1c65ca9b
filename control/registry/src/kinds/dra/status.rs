//! The status of a ResourceClaim: which devices it got, who may use them, and what their drivers say of them.
//!
//! Source: `validateResourceClaimStatusUpdate`, `pkg/registry/resource/resourceclaim/strategy.go`. An allocation is written once
//! and taken away whole.

use std::collections::BTreeSet;
use std::net::IpAddr;

use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::resource::v1::{
    AllocatedDeviceStatus, AllocationResult, DeviceAllocationConfiguration, DeviceRequestAllocationResult,
    NetworkDeviceData, ResourceClaim, ResourceClaimConsumerReference, ResourceClaimStatus,
};

use super::super::storageclass::validate_driver_name;
use super::claim::Requests;
use super::{CONFIG_MAX, each, each_once, validate_config, validate_pool_name, validate_raw};
use crate::checks;
use crate::podspec::scheduling;

/// Most pods that share a claim.
const CONSUMERS_MAX: usize = 256;
const RESULTS_MAX: usize = 32;
const CONDITIONS_MAX: usize = 8;
const DATA_MAX: usize = 10 * 1024;
const INTERFACE_MAX: usize = 256;
const HARDWARE_ADDRESS_MAX: usize = 128;
const IPS_MAX: usize = 16;

/// Takes away what drivers said of devices that the claim had and has no more.
pub fn drop_deallocated(status: &mut ResourceClaimStatus, held: &ResourceClaimStatus) {
    let (before, now) = (allocated(held), allocated(status));
    if let Some(devices) = &mut status.devices {
        devices.retain(|device| {
            let id = identity(device);
            now.contains(&id) || !before.contains(&id)
        });
        if devices.is_empty() {
            status.devices = None;
        }
    }
}

fn allocated(status: &ResourceClaimStatus) -> BTreeSet<String> {
    let results = status.allocation.iter().flat_map(|allocation| &allocation.devices);
    let results = results.flat_map(|devices| devices.results.iter().flatten());
    results.map(|result| device_id(&result.driver, &result.pool, &result.device, result.share_id.as_deref())).collect()
}

fn identity(device: &AllocatedDeviceStatus) -> String {
    device_id(&device.driver, &device.pool, &device.device, device.share_id.as_deref())
}

fn device_id(driver: &str, pool: &str, device: &str, share: Option<&str>) -> String {
    let whole = format!("{driver}/{pool}/{device}");
    share.map_or_else(|| whole.clone(), |share| format!("{whole}/{share}"))
}

pub fn validate_update(new: &ResourceClaim, old: &ResourceClaim, requests: &Requests<'_>, path: &Path) -> Errors {
    let empty = ResourceClaimStatus::default();
    let (status, held) = (new.status.as_ref().unwrap_or(&empty), old.status.as_ref().unwrap_or(&empty));
    let consumers = status.reserved_for.as_deref().unwrap_or_default();
    let at = path.child("reservedFor");
    let mut errors = each_once(consumers, CONSUMERS_MAX, &at, |consumer| consumer.uid.clone(), validate_consumer);
    let devices = status.devices.as_deref().unwrap_or_default();
    let allocated = allocated(status);
    errors.extend(each_once(devices, usize::MAX, &path.child("devices"), identity, |device, path| {
        validate_device(device, &allocated, path)
    }));
    if !consumers.is_empty() && status.allocation.is_none() {
        errors.push(Error::forbidden(&at, "may not be specified when `allocated` is not set"));
    } else if new.metadata.deletion_timestamp.is_some() {
        let before = held.reserved_for.as_deref().unwrap_or_default();
        if consumers.iter().any(|consumer| !before.contains(consumer)) {
            let why = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            errors.push(Error::forbidden(&at, why));
        }
    }
    let at = path.child("allocation");
    match (&status.allocation, &held.allocation) {
        (Some(new), Some(old)) => errors.extend(checks::immutable(new, old, &at)),
        (Some(new), None) => errors.extend(validate_allocation(new, requests, &at)),
        (None, _) => {}
    }
    errors
}

fn validate_consumer(consumer: &ResourceClaimConsumerReference, path: &Path) -> Errors {
    let fields = [("resource", &consumer.resource), ("name", &consumer.name), ("uid", &consumer.uid)];
    let missing = fields.into_iter().filter(|(_, value)| value.is_empty());
    missing.map(|(field, _)| Error::required(&path.child(field), "")).collect()
}

fn validate_allocation(allocation: &AllocationResult, requests: &Requests<'_>, path: &Path) -> Errors {
    let devices = allocation.devices.clone().unwrap_or_default();
    let at = path.child("devices");
    let results = devices.results.as_deref().unwrap_or_default();
    let mut errors =
        each(results, RESULTS_MAX, &at.child("results"), |result, path| validate_result(result, requests, path));
    let configs = devices.config.as_deref().unwrap_or_default();
    // Those of the class and those of the claim.
    errors.extend(each(configs, 2 * CONFIG_MAX, &at.child("config"), |config, path| {
        validate_result_config(config, requests, path)
    }));
    if let Some(selector) = &allocation.node_selector {
        errors.extend(scheduling::node_selector(selector, &path.child("nodeSelector")));
    }
    errors
}

fn validate_result(result: &DeviceRequestAllocationResult, requests: &Requests<'_>, path: &Path) -> Errors {
    let mut errors = requests.check(&result.request, &path.child("request"));
    errors.extend(validate_driver_name(&result.driver, &path.child("driver")));
    errors.extend(validate_pool_name(&result.pool, &path.child("pool")));
    errors.extend(checks::dns1123_label(&result.device, &path.child("device")));
    let (conditions, failures) = (result.binding_conditions.as_ref(), result.binding_failure_conditions.as_ref());
    errors.extend(super::device::validate_binding(conditions, failures, path));
    errors.extend(validate_share(result.share_id.as_deref(), path));
    errors
}

fn validate_share(share: Option<&str>, path: &Path) -> Errors {
    let at = path.child("shareID");
    match share {
        None => Vec::new(),
        Some(share) if uuid::Uuid::parse_str(share).is_err() => {
            vec![Error::invalid(&at, share, "error validating uid: invalid UUID format")]
        }
        Some(share) if share.len() != 36 || share != share.to_lowercase() => {
            let why = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters";
            vec![Error::invalid(&at, share, why)]
        }
        Some(_) => Vec::new(),
    }
}

fn validate_result_config(config: &DeviceAllocationConfiguration, requests: &Requests<'_>, path: &Path) -> Errors {
    let mut errors = checks::required_one_of(&config.source, &["FromClaim", "FromClass"], &path.child("source"));
    errors.extend(requests.check_all(config.requests.as_ref(), &path.child("requests")));
    errors.extend(validate_config(config.opaque.as_ref(), path));
    errors
}

fn validate_device(device: &AllocatedDeviceStatus, allocated: &BTreeSet<String>, path: &Path) -> Errors {
    let mut errors = validate_driver_name(&device.driver, &path.child("driver"));
    errors.extend(validate_pool_name(&device.pool, &path.child("pool")));
    errors.extend(checks::dns1123_label(&device.device, &path.child("device")));
    errors.extend(validate_share(device.share_id.as_deref(), path));
    let id = identity(device);
    if !allocated.contains(&id) {
        errors.push(Error::invalid(path, &id, "must be an allocated device in the claim"));
    }
    let conditions = device.conditions.as_deref().unwrap_or_default();
    if conditions.len() > CONDITIONS_MAX {
        errors.push(Error::too_many(&path.child("conditions"), conditions.len(), CONDITIONS_MAX));
    }
    errors.extend(checks::conditions(conditions, &path.child("conditions")));
    if let Some(data) = device.data.as_ref().filter(|data| !data.0.is_null()) {
        errors.extend(validate_raw(&data.0, DATA_MAX, &path.child("data")));
    }
    if let Some(network) = &device.network_data {
        errors.extend(validate_network(network, &path.child("networkData")));
    }
    errors
}

fn validate_network(network: &NetworkDeviceData, path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (value, field, max) in [
        (&network.interface_name, "interfaceName", INTERFACE_MAX),
        (&network.hardware_address, "hardwareAddress", HARDWARE_ADDRESS_MAX),
    ] {
        if value.as_ref().is_some_and(|value| value.len() > max) {
            errors.push(Error::too_long(&path.child(field), max));
        }
    }
    let ips = network.ips.as_deref().unwrap_or_default();
    errors.extend(each_once(ips, IPS_MAX, &path.child("ips"), String::clone, validate_interface_address));
    errors
}

/// An interface's address with its network's prefix. Source: `IsValidInterfaceAddress` of `apimachinery/pkg/util/validation`.
fn validate_interface_address(address: &String, path: &Path) -> Errors {
    let parts =
        address.split_once('/').and_then(|(ip, bits)| Some((ip.parse::<IpAddr>().ok()?, bits.parse::<u8>().ok()?)));
    let Some((ip, bits)) = parts.filter(|(ip, bits)| *bits <= if ip.is_ipv4() { 32 } else { 128 }) else {
        let why = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
        return vec![Error::invalid(path, address, why)];
    };
    let canonical = match ip.to_canonical() {
        mapped if mapped.is_ipv4() && ip.is_ipv6() && bits > 32 => format!("{mapped}/{}", bits.saturating_sub(96)),
        ip => format!("{ip}/{bits}"),
    };
    if *address == canonical {
        return Vec::new();
    }
    vec![Error::invalid(path, address, format!("must be in canonical form ({canonical:?})"))]
}

#[cfg(test)]
mod tests {
    use super::super::claim::ResourceClaims;
    use super::*;
    use crate::Strategy;
    use crate::testing::object;

    fn claim(status: &str) -> ResourceClaim {
        let yaml = format!(
            "{{metadata: {{name: c}}, spec: {{devices: {{requests: [{{name: gpu, exactly: {{deviceClassName: g}}}}]}}}}, status: {status}}}"
        );
        object(&ResourceClaims, &yaml)
    }

    #[track_caller]
    fn check(old: &str, new: &str, expected: &[&str]) {
        let errors = ResourceClaims.validate_status_update(&claim(new), &claim(old));
        assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
    }

    const RESULT: &str = "{request: gpu, driver: g.example.com, pool: n1, device: d0}";

    fn allocation(result: &str) -> String {
        format!("{{allocation: {{devices: {{results: [{result}]}}}}}}")
    }

    #[test]
    fn what_is_allocated_was_asked_for() {
        check("{}", &allocation(RESULT), &[]);
        check(
            "{}",
            &allocation(&RESULT.replace("request: gpu", "request: nic")),
            &[
                "status.allocation.devices.results[0].request: Invalid value: \"nic\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
            ],
        );
    }

    #[test]
    fn an_allocation_is_taken_away_whole() {
        check(&allocation(RESULT), "{}", &[]);
        let other = allocation(&RESULT.replace("d0", "d1"));
        let why = "status.allocation: Invalid value: {\"devices\":{\"results\":[{\"device\":\"d1\",\"driver\":\"g.example.com\",\"pool\":\"n1\",\"request\":\"gpu\"}]}}: field is immutable";
        check(&allocation(RESULT), &other, &[why]);
    }

    #[test]
    fn nobody_uses_what_is_not_allocated() {
        check(
            "{}",
            "{reservedFor: [{resource: pods, name: p, uid: u}, {resource: pods, name: '', uid: u}]}",
            &[
                "status.reservedFor[1].name: Required value",
                "status.reservedFor[1]: Duplicate value: \"u\"",
                "status.reservedFor: Forbidden: may not be specified when `allocated` is not set",
            ],
        );
    }

    #[test]
    fn drivers_speak_of_allocated_devices_only() {
        let held = claim(&allocation(RESULT)).status.expect("a status");
        let mut status = held.clone();
        let device = |name: &str| AllocatedDeviceStatus {
            driver: "g.example.com".to_owned(),
            pool: "n1".to_owned(),
            device: name.to_owned(),
            ..AllocatedDeviceStatus::default()
        };
        status.devices = Some(vec![device("d0"), device("d1")]);
        drop_deallocated(&mut status, &held);
        assert_eq!(
            status.devices.as_ref().map(Vec::len),
            Some(2),
            "what was never allocated is for validation to refuse"
        );
        let claim = |status: &ResourceClaimStatus| ResourceClaim { status: Some(status.clone()), ..claim("{}") };
        let errors = ResourceClaims.validate_status_update(&claim(&status), &claim(&held));
        assert_eq!(
            errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["status.devices[1]: Invalid value: \"g.example.com/n1/d1\": must be an allocated device in the claim"]
        );
        status.devices = Some(vec![device("d0")]);
        status.allocation = None;
        drop_deallocated(&mut status, &held);
        assert_eq!(status.devices, None, "what was said goes with the allocation");
    }

    #[test]
    fn addresses_of_devices_are_canonical() {
        let check = |address: &str, expected: &str| {
            let errors = validate_interface_address(&address.to_owned(), &Path::new("ip"));
            assert_eq!(errors.first().map_or("", |error| &error.detail), expected, "{address}");
        };
        check("10.9.8.7/24", "");
        check("2001:db8::1/64", "");
        check("10.9.8.7", "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)");
        check("10.9.8.7/33", "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)");
        check("2001:DB8::1/64", "must be in canonical form (\"2001:db8::1/64\")");
        check("::ffff:192.168.0.1/120", "must be in canonical form (\"192.168.0.1/24\")");
    }
}
