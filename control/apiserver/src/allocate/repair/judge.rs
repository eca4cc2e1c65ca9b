//! What is wrong with a Service's addresses, or with an IPAddress: pure.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{IPAddress, IPAddressSpec, ParentReference};
use wharf_types::meta::ObjectMeta;

use crate::allocate::addresses::{FAMILY, MANAGED_BY, MANAGER};
use crate::allocate::service::HEADLESS;
use crate::allocate::shape::needs_address;

/// How long an IPAddress may be there before its Service is.
const GRACE: SignedDuration = SignedDuration::from_secs(60);

/// Something is wrong: what is told of it, and what is done about it.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    pub reason: &'static str,
    pub action: &'static str,
    pub note: String,
    pub mend: Mend,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mend {
    Nothing,
    Create,
    /// Delete, and create as it should be.
    Replace,
    Delete,
}

/// The addresses that a Service has; none where it is headless or a name only.
pub fn cluster_ips(service: &Service) -> impl Iterator<Item = &str> {
    let spec = service.spec.as_ref().filter(|spec| needs_address(spec));
    let listed = spec.into_iter().flat_map(|spec| spec.cluster_ips.iter().flatten());
    listed.map(String::as_str).filter(|address| !address.is_empty() && *address != HEADLESS)
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn key(service: &Service) -> String {
    let ObjectMeta { namespace, name, .. } = &service.metadata;
    format!("{}/{}", namespace.as_deref().unwrap_or_default(), name.as_deref().unwrap_or_default())
}

/// The IPAddress that a Service's address should have.
pub fn wanted(name: &str, service: &Service) -> IPAddress {
    let family = name.parse().map_or("IPv4", family);
    let labels = [(FAMILY, family), (MANAGED_BY, MANAGER)];
    let labels = labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let parent = ParentReference {
        group: None,
        resource: "services".to_owned(),
        namespace: service.metadata.namespace.clone(),
        name: service.metadata.name.clone().unwrap_or_default(),
    };
    IPAddress {
        metadata: ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..ObjectMeta::default() },
        spec: IPAddressSpec { parent_ref: parent },
    }
}

/// Pure: what is wrong with one of a Service's addresses. `parent` is the Service that its IPAddress names.
pub fn judge_service(
    service: &Service,
    text: &str,
    covered: bool,
    held: Option<&IPAddress>,
    parent: Option<&Service>,
) -> Option<Finding> {
    let action = "ClusterIPAllocation";
    let Ok(ip) = text.parse::<IpAddr>() else {
        let note = format!("Cluster IP {text} is not a valid IP; please recreate Service");
        return Some(Finding { reason: "ClusterIPNotValid", action: "ClusterIPValidation", note, mend: Mend::Nothing });
    };
    let (family, key) = (family(ip), key(service));
    let finding = |reason, note, mend| Some(Finding { reason, action, note, mend });
    if !covered {
        let note =
            format!("Cluster IP [{family}]: {ip} is not within any configured Service CIDR; please recreate service");
        return finding("ClusterIPOutOfRange", note, Mend::Nothing);
    }
    let Some(held) = held else {
        let note = format!("Cluster IP [{family}]: {ip} is not allocated; repairing");
        return finding("ClusterIPNotAllocated", note, Mend::Create);
    };
    let wanted = wanted(text, service);
    let wrong = |mend| {
        let note = format!("the ClusterIP [{family}]: {ip} for Service {key} has a wrong reference; repairing");
        finding("ClusterIPNotAllocated", note, mend)
    };
    let refers = |address: &IPAddress| {
        let ParentReference { group, resource, namespace, name } = address.spec.parent_ref.clone();
        (group.unwrap_or_default(), resource, namespace.unwrap_or_default(), name)
    };
    if refers(held) != refers(&wanted) {
        return match parent {
            None => wrong(Mend::Replace),
            // The other one has it by right: this one is told, and nothing can be mended.
            Some(other) if cluster_ips(other).any(|other| other == text) => {
                let note =
                    format!("Cluster IP [{family}]:{ip} was assigned to multiple services; please recreate service");
                finding("ClusterIPAlreadyAllocated", note, Mend::Nothing)
            }
            Some(_) => wrong(Mend::Replace),
        };
    }
    let label = |address: &IPAddress, key: &str| address.metadata.labels.as_ref()?.get(key).cloned();
    let differs = [FAMILY, MANAGED_BY].iter().any(|key| label(held, key) != label(&wanted, key));
    differs.then(|| wrong(Mend::Replace)).flatten()
}

/// Pure: what is wrong with an IPAddress that is kept here. `parent` is the Service that it names.
pub fn judge_address(held: &IPAddress, parent: Option<&Service>, now: Timestamp) -> Option<Finding> {
    let labels = held.metadata.labels.as_ref();
    if labels.and_then(|labels| labels.get(MANAGED_BY)).is_none_or(|manager| manager != MANAGER) {
        return None;
    }
    let name = held.metadata.name.as_deref().unwrap_or_default();
    let ParentReference { group, resource, namespace, name: parent_name } = &held.spec.parent_ref;
    let (group, namespace) = (group.as_deref().unwrap_or_default(), namespace.as_deref().unwrap_or_default());
    let finding = |reason, note| Some(Finding { reason, action: "IPAddressAllocation", note, mend: Mend::Delete });
    if !group.is_empty() || resource != "services" {
        let note = format!(
            "IPAddress {name} appears to have been modified, not referencing a Service &ParentReference{{Group:{group},Resource:{resource},Namespace:{namespace},Name:{parent_name},}}: cleaning up"
        );
        return finding("IPAddressNotAllocated", note);
    }
    let Some(parent) = parent else {
        let age = held.metadata.creation_timestamp.as_ref().map(|made| now.duration_since(made.0));
        let note =
            format!("IPAddress: {name} for Service {namespace}/{parent_name} appears to have leaked: cleaning up");
        return age.filter(|age| *age > GRACE).and_then(|_| finding("IPAddressNotAllocated", note));
    };
    // While a Service takes an address it is not yet said there.
    let young = held.metadata.creation_timestamp.as_ref().is_some_and(|made| now.duration_since(made.0) <= GRACE);
    if cluster_ips(parent).any(|address| address == name) || young {
        return None;
    }
    let note = format!("IPAddress: {name} for Service {namespace}/{parent_name} has a wrong reference; cleaning up");
    finding("IPAddressWrongReference", note)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const IP: &str = "10.0.0.7";

    fn service(name: &str, ip: &str) -> Service {
        let meta = json!({"namespace": "ns", "name": name});
        serde_json::from_value(json!({"metadata": meta, "spec": {"clusterIP": ip, "clusterIPs": [ip]}}))
            .expect("a service")
    }

    fn address(parent: &str) -> IPAddress {
        IPAddress {
            metadata: ObjectMeta {
                creation_timestamp: Some(wharf_types::meta::Time(Timestamp::UNIX_EPOCH)),
                ..wanted(IP, &service(parent, IP)).metadata
            },
            ..wanted(IP, &service(parent, IP))
        }
    }

    fn check(
        ip: &str,
        covered: bool,
        held: Option<&IPAddress>,
        parent: Option<&Service>,
        expected: Option<(&str, Mend)>,
    ) {
        let found = judge_service(&service("web", ip), ip, covered, held, parent);
        assert_eq!(found.as_ref().map(|found| (found.reason, found.mend)), expected, "{found:?}");
    }

    #[test]
    fn a_service_has_the_addresses_that_it_says() {
        let (web, own) = (service("web", IP), address("web"));
        check(IP, true, Some(&own), Some(&web), None);
        check(IP, true, None, None, Some(("ClusterIPNotAllocated", Mend::Create)));
        check(IP, false, Some(&own), Some(&web), Some(("ClusterIPOutOfRange", Mend::Nothing)));
        check("x", false, None, None, Some(("ClusterIPNotValid", Mend::Nothing)));
        check("None", true, None, None, Some(("ClusterIPNotValid", Mend::Nothing)));
        assert_eq!(cluster_ips(&service("web", "None")).count(), 0, "which is never asked");
    }

    #[test]
    fn an_address_that_names_another_is_put_right_unless_that_one_has_it() {
        let (own, other) = (address("web"), address("other"));
        check(IP, true, Some(&other), None, Some(("ClusterIPNotAllocated", Mend::Replace)));
        let moved = service("other", "10.0.0.8");
        check(IP, true, Some(&other), Some(&moved), Some(("ClusterIPNotAllocated", Mend::Replace)));
        let twin = service("other", IP);
        check(IP, true, Some(&other), Some(&twin), Some(("ClusterIPAlreadyAllocated", Mend::Nothing)));
        let mut bare = own;
        bare.metadata.labels = None;
        check(IP, true, Some(&bare), None, Some(("ClusterIPNotAllocated", Mend::Replace)));
    }

    #[test]
    fn an_address_of_nobody_goes_after_a_while() {
        let check = |held: &IPAddress, parent: Option<&Service>, age_s: i64, expected: Option<&str>| {
            let now = Timestamp::from_second(age_s).expect("a time");
            assert_eq!(judge_address(held, parent, now).map(|found| found.reason), expected, "{held:?} {age_s}");
        };
        let own = address("web");
        check(&own, Some(&service("web", IP)), 600, None);
        check(&own, None, 60, None);
        check(&own, None, 61, Some("IPAddressNotAllocated"));
        check(&own, Some(&service("web", "10.0.0.8")), 60, None);
        check(&own, Some(&service("web", "10.0.0.8")), 61, Some("IPAddressWrongReference"));
        let mut gateway = own.clone();
        gateway.spec.parent_ref.resource = "gateways".to_owned();
        check(&gateway, None, 0, Some("IPAddressNotAllocated"));
        gateway.metadata.labels = None;
        check(&gateway, None, 600, None);
    }
}
