//! Which IP families a Service has, on a cluster that has IPv4 only.
//!
//! Source: `pkg/registry/core/service/storage/alloc.go` (`initIPFamilyFields`).

use serde_json::json;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::ServiceSpec;

const IPV4: &str = "IPv4";
const IPV6: &str = "IPv6";
const SINGLE: &str = "SingleStack";
const REQUIRE_DUAL: &str = "RequireDualStack";

/// Fills in policy and families; an update that leaves them out keeps the old ones.
pub fn fill(spec: &mut ServiceSpec, old: Option<&ServiceSpec>) -> Errors {
    if spec.type_.as_deref() == Some("ExternalName") {
        let stale = |new: bool, held: bool| new && held;
        let was = old.is_some_and(|old| old.type_.as_deref() != Some("ExternalName"));
        if stale(was, old.is_some_and(|old| old.ip_families == spec.ip_families)) {
            spec.ip_families = None;
        }
        if stale(was, old.is_some_and(|old| old.ip_family_policy == spec.ip_family_policy)) {
            spec.ip_family_policy = None;
        }
        return Vec::new();
    }
    let unset = |families: &Option<Vec<String>>| families.as_ref().is_none_or(Vec::is_empty);
    if let Some(old) = old.filter(|old| old.type_.as_deref() != Some("ExternalName")) {
        if spec.ip_family_policy.is_none() {
            spec.ip_family_policy = old.ip_family_policy.clone();
        }
        if unset(&spec.ip_families) {
            spec.ip_families = old.ip_families.clone();
        }
    }
    // Nothing is allocated for a headless service without a selector, so it may name families that the cluster does not have.
    let headless = spec.cluster_ip.as_deref() == Some(super::service::HEADLESS);
    if headless && spec.selector.as_ref().is_none_or(|selector| selector.is_empty()) {
        let policy = spec.ip_family_policy.get_or_insert_with(|| REQUIRE_DUAL.to_owned());
        if unset(&spec.ip_families) {
            let families = if policy == SINGLE { vec![IPV4] } else { vec![IPV4, IPV6] };
            spec.ip_families = Some(families.into_iter().map(str::to_owned).collect());
        }
        return Vec::new();
    }
    let two = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| list.len() > 1);
    let dual = two(&spec.ip_families) || two(&spec.cluster_ips);
    let policy = spec.ip_family_policy.get_or_insert_with(|| if dual { REQUIRE_DUAL } else { SINGLE }.to_owned());
    let path = Path::new("spec");
    let mut errors = Errors::new();
    if policy == REQUIRE_DUAL {
        let detail = "this cluster is not configured for dual-stack services";
        errors.push(Error::invalid(&path.child("ipFamilyPolicy"), json!(policy), detail));
    }
    if unset(&spec.ip_families) {
        spec.ip_families = Some(vec![IPV4.to_owned()]);
    }
    for (index, family) in spec.ip_families.iter().flatten().enumerate().filter(|(_, family)| *family != IPV4) {
        let path = path.child("ipFamilies").index(index);
        errors.push(Error::invalid(&path, family, "not configured on this cluster"));
    }
    errors
}
