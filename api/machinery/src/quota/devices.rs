//! What a ResourceClaim costs, by the classes of the devices that it may be given.
//!
//! Source: `evaluator/core/resource_claims.go`. Absent: what a class's extended resource name would add, for which the classes must
//! be known.

use k8s_openapi::api::resource::v1::{DeviceRequest, ResourceClaim};

use super::Amounts;
use crate::quantity::{Format, Quantity};

const OF_CLASS: &str = ".deviceclass.resource.k8s.io/devices";
/// Devices of a class under the name by which a pod may ask for them, as a quota's entry has it.
pub const IMPLICIT: &str = "requests.deviceclass.resource.kubernetes.io/";
/// Most devices that one request is given: what `All` is taken for. Source: `AllocationResultsMaxSize`.
const DEVICES_MAX: i64 = 32;

pub fn answers_for(name: &str) -> bool {
    name.ends_with(OF_CLASS) || name.starts_with(IMPLICIT)
}

pub fn usage(claim: &ResourceClaim) -> Amounts {
    let mut classes = Amounts::new();
    for request in claim.spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten()) {
        super::add(&mut classes, &of_request(request));
    }
    let named = |(class, amount): (&String, &Quantity)| {
        [(format!("{class}{OF_CLASS}"), *amount), (format!("{IMPLICIT}{class}"), *amount)]
    };
    let mut used: Amounts = classes.iter().flat_map(named).collect();
    used.retain(|name, amount| !name.starts_with(IMPLICIT) || !amount.is_zero());
    used
}

/// Of alternatives the most that any would take of each class.
fn of_request(request: &DeviceRequest) -> Amounts {
    let mut most = Amounts::new();
    let alternatives = request.first_available.as_deref().unwrap_or_default();
    for alternative in alternatives {
        let count = devices(alternative.allocation_mode.as_deref(), alternative.count);
        let held = most.entry(alternative.device_class_name.clone()).or_insert(count);
        *held = (*held).max(count);
    }
    if let Some(exactly) = request.exactly.as_ref().filter(|_| alternatives.is_empty()) {
        let count = devices(exactly.allocation_mode.as_deref(), exactly.count);
        most.insert(exactly.device_class_name.clone(), count);
    }
    most
}

/// A mode that nobody knows counts nothing.
fn devices(mode: Option<&str>, count: Option<i64>) -> Quantity {
    let count = match mode {
        Some("ExactCount") => count.unwrap_or_default(),
        Some("All") => DEVICES_MAX,
        _ => 0,
    };
    Quantity::new(count, Format::DecimalSi)
}
