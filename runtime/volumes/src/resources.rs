//! `resourceFieldRef`: what a container may use, as a number of the divisor.
//!
//! Source: `k8s.io/kubernetes/pkg/api/v1/resource.ExtractContainerResourceValue`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use wharf_machinery::quantity::Quantity as Exact;

/// The value of `limits.cpu`, `requests.memory` …, rounded up. A limit that is not set falls back to `allocatable`.
pub fn field(
    container: &Container,
    selector: &ResourceFieldSelector,
    allocatable: &BTreeMap<String, Quantity>,
) -> Result<String, String> {
    let unsupported = || format!("unsupported container resource : {}", selector.resource);
    let (list, name) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let resources = container.resources.as_ref();
    let known = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    let held = match list {
        _ if !known => return Err(unsupported()),
        "limits" => {
            let limit = resources.and_then(|resources| resources.limits.as_ref()).and_then(|limits| limits.get(name));
            limit.or_else(|| allocatable.get(name))
        }
        "requests" => {
            resources.and_then(|resources| resources.requests.as_ref()).and_then(|requests| requests.get(name))
        }
        _ => return Err(unsupported()),
    };
    // CPU is counted in thousandths, everything else in units, on both sides of the division.
    let amount = if name == "cpu" { milli_value } else { value };
    let divisor = selector.divisor.as_ref().and_then(amount).filter(|divisor| *divisor > 0);
    let divisor = divisor.unwrap_or(if name == "cpu" { 1000 } else { 1 });
    let held = held.and_then(amount).unwrap_or(0);
    Ok((held / divisor + i64::from(held % divisor != 0)).to_string())
}

/// The quantity rounded up to whole units; none if it is not a quantity.
pub fn value(quantity: &Quantity) -> Option<i64> {
    Exact::try_from(quantity).ok().map(|exact| exact.value())
}

/// The quantity rounded up to thousandths; none if it is not a quantity.
pub fn milli_value(quantity: &Quantity) -> Option<i64> {
    Exact::try_from(quantity).ok().map(|exact| exact.milli_value())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(resource: &str, divisor: &str, expected: Result<&str, &str>) {
        let container: Container = serde_json::from_value(json!({
            "name": "c", "resources": {"limits": {"cpu": "1500m"}, "requests": {"cpu": "250m", "memory": "64Mi"}}
        }))
        .unwrap();
        let selector = ResourceFieldSelector {
            resource: resource.to_owned(),
            divisor: (!divisor.is_empty()).then(|| Quantity(divisor.to_owned())),
            container_name: None,
        };
        let allocatable = [("memory".to_owned(), Quantity("1Gi".to_owned()))].into();
        assert_eq!(field(&container, &selector, &allocatable), expected.map(str::to_owned).map_err(str::to_owned));
    }

    #[test]
    fn values_are_rounded_up_by_the_divisor() {
        check("limits.cpu", "", Ok("2"));
        check("limits.cpu", "1m", Ok("1500"));
        check("requests.cpu", "0", Ok("1"));
        check("requests.memory", "1Mi", Ok("64"));
        check("requests.memory", "", Ok("67108864"));
        check("limits.memory", "1Mi", Ok("1024"));
        check("requests.ephemeral-storage", "", Ok("0"));
        check("limits.gpu", "", Err("unsupported container resource : limits.gpu"));
        check("nonsense", "", Err("unsupported container resource : nonsense"));
    }
}
