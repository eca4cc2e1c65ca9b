//! Where a proxied request goes: a pod's address, a ready endpoint of a service, a node.
//!
//! Source: `ResourceLocation` in `pkg/registry/core/{pod,service,node}`. Backends of services come from EndpointSlices.

use std::net::{IpAddr, Ipv4Addr};

use rand::seq::SliceRandom;
use serde::de::DeserializeOwned;
use wharf_registry::Row;
use wharf_types::ApiError;
use wharf_types::k8s::api::core::v1::{Node, Pod, Service};
use wharf_types::k8s::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::call::Call;
use crate::connect::forward::{Backend, Trust};
use crate::node;

/// Pods of a rootless node have addresses in here; any other loopback address is the host's own and is not proxied to.
const ROOTLESS_PODS: (Ipv4Addr, u32) = (Ipv4Addr::new(127, 64, 0, 0), 12);

const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// `name`, `name:port` or `scheme:name:port`.
#[derive(Debug, PartialEq, Eq)]
struct Id<'a> {
    scheme: &'a str,
    name: &'a str,
    port: &'a str,
}

impl<'a> Id<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let id = match *parts.as_slice() {
            [name] => Id { scheme: "", name, port: "" },
            [name, port] => Id { scheme: "", name, port },
            [scheme, name, port] => Id { scheme, name, port },
            _ => return None,
        };
        (!id.name.is_empty() && matches!(id.scheme, "" | "http" | "https")).then_some(id)
    }

    fn secure(&self) -> Trust {
        if self.scheme == "https" { Trust::Anyone } else { Trust::Plain }
    }
}

pub fn find(call: &Call) -> Result<Backend, ApiError> {
    let resource: &str = &call.row.gvr.resource;
    let bad = |kind: &str| ApiError::bad_request(format!("invalid {kind} request {:?}", call.name));
    match resource {
        "pods" => pod(call, Id::parse(&call.name).ok_or_else(|| bad("pod"))?),
        "services" => service(call, Id::parse(&call.name).ok_or_else(|| bad("service"))?),
        "nodes" => of_node(call, Id::parse(&call.name).ok_or_else(|| bad("node"))?),
        _ => Err(ApiError::no_such_path()),
    }
}

/// What follows `proxy`, cleaned so that nothing climbs out of it.
pub fn path(rest: &[String], trailing_slash: bool) -> String {
    let mut clean: Vec<&str> = Vec::new();
    for segment in rest.iter().flat_map(|part| part.split('/')) {
        match segment {
            "" | "." => {}
            ".." => drop(clean.pop()),
            segment => clean.push(segment),
        }
    }
    let mut path: String = clean.iter().flat_map(|segment| ["/", segment]).collect();
    // The slash after `proxy/` is where the backend's own root begins.
    if trailing_slash && !path.ends_with('/') {
        path.push('/');
    }
    path
}

fn pod(call: &Call, id: Id<'_>) -> Result<Backend, ApiError> {
    let pod: Pod = stored(call, &call.row, id.name)?;
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let declared = containers.flat_map(|container| container.ports.iter().flatten()).map(|port| port.container_port);
    let port = match id.port {
        "" => declared.map(|port| port.to_string()).next().unwrap_or_default(),
        port => port.to_owned(),
    };
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()).unwrap_or_default();
    let ip = proxyable(ip).ok_or_else(|| ApiError::bad_request("address not allowed"))?;
    Ok(Backend::new(authority(ip, &port), id.secure()).rewritten())
}

fn service(call: &Call, id: Id<'_>) -> Result<Backend, ApiError> {
    let unavailable = |name: &str| ApiError::unavailable(format!("no endpoints available for service {name:?}"));
    let mut port = id.port.to_owned();
    if let Ok(number) = id.port.parse::<i64>() {
        let service: Service = stored(call, &call.row, id.name)?;
        let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        let found = ports.into_iter().find(|port| i64::from(port.port) == number);
        let found = found.ok_or_else(|| {
            ApiError::unavailable(format!("no service port {number} found for service {:?}", id.name))
        })?;
        port = found.name.clone().unwrap_or_default();
    }
    let slices = slices(call, id.name)?;
    if slices.is_empty() {
        stored::<Service>(call, &call.row, id.name)?;
        return Err(unavailable(id.name));
    }
    let pods = row(call, "pods")?;
    let mut places: Vec<(IpAddr, i32)> = slices
        .iter()
        .flat_map(|slice| {
            let number =
                slice.ports.iter().flatten().find(|candidate| candidate.name.clone().unwrap_or_default() == port);
            let number = number.and_then(|found| found.port);
            slice.endpoints.iter().flatten().filter_map(move |endpoint| Some((endpoint, number?)))
        })
        .filter_map(|(endpoint, number)| Some((of_a_pod(call, &pods, endpoint)?, number)))
        .collect();
    places.shuffle(&mut rand::rng());
    let (ip, number) = *places.first().ok_or_else(|| unavailable(&call.name))?;
    Ok(Backend::new(authority(ip, &number.to_string()), id.secure()).rewritten())
}

/// The address of a ready endpoint that is really a pod's: an endpoint written by hand leads nowhere.
fn of_a_pod(call: &Call, pods: &Row, endpoint: &Endpoint) -> Option<IpAddr> {
    if endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(false) {
        return None;
    }
    let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"))?;
    if target.namespace.as_deref() != call.namespace.as_deref() {
        return None;
    }
    let address = endpoint.addresses.first()?;
    let pod: Pod = stored(call, pods, target.name.as_deref()?).ok()?;
    let status = pod.status.as_ref()?;
    let mut own = status.pod_ips.iter().flatten().map(|ip| &ip.ip).chain(&status.pod_ip);
    own.any(|ip| ip == address).then(|| proxyable(address)).flatten()
}

fn slices(call: &Call, service: &str) -> Result<Vec<EndpointSlice>, ApiError> {
    let table = &call.server.table;
    let row = table.find("discovery.k8s.io", "v1", "endpointslices");
    let collection = row.as_ref().and_then(|row| call.server.collection(row));
    let (Some(row), Some(collection)) = (row, collection) else {
        return Err(ApiError::internal("endpoint slices are not served"));
    };
    let labels = wharf_machinery::selector::LabelSelector::parse(&format!("{SERVICE_LABEL}={service}"))
        .map_err(|error| ApiError::bad_request(error.0))?;
    let key_prefix = format!("{}{}/", row.prefix(), call.namespace.as_deref().unwrap_or_default());
    let filter = wharf_cache::Filter { key_prefix, labels, ..wharf_cache::Filter::default() };
    let snapshot = collection.snapshot();
    snapshot
        .select(&filter, None)
        .map(|entry| serde_json::from_slice(&entry.bytes).map_err(ApiError::internal))
        .collect()
}

fn of_node(call: &Call, id: Id<'_>) -> Result<Backend, ApiError> {
    let found: Node = stored(call, &call.row, id.name)?;
    let (host, kubelet) = node::endpoint(&found)?;
    if id.port.is_empty() || id.port == kubelet.to_string() {
        return Ok(Backend::new(node::authority(&host, kubelet), Trust::Node).rewritten());
    }
    // Another port of the node: never one of this very host's.
    let ip: IpAddr = host.parse().map_err(|_| ApiError::bad_request("address not allowed"))?;
    let ip = proxyable(&ip.to_string()).ok_or_else(|| ApiError::bad_request("address not allowed"))?;
    Ok(Backend::new(authority(ip, id.port), id.secure()).rewritten())
}

fn row(call: &Call, resource: &str) -> Result<std::sync::Arc<Row>, ApiError> {
    let found = call.server.table.find("", "v1", resource);
    found.ok_or_else(|| ApiError::internal(format!("{resource} are not served")))
}

/// An object of the call's namespace, as it is now.
pub fn stored<T: DeserializeOwned>(call: &Call, row: &Row, name: &str) -> Result<T, ApiError> {
    let entry = call.server.collection(row).and_then(|held| held.get(&row.key(call.namespace.as_deref(), name)));
    let entry = entry.ok_or_else(|| ApiError::not_found(&row.gvr, name))?;
    serde_json::from_slice(&entry.bytes).map_err(ApiError::internal)
}

/// The address, if it can be a pod's: global unicast, or a rootless pod's.
fn proxyable(text: &str) -> Option<IpAddr> {
    // An IPv4 address in IPv6's clothes is that address.
    let ip = text.parse::<IpAddr>().ok()?.to_canonical();
    let allowed = match ip {
        IpAddr::V4(v4) => {
            let (net, bits) = ROOTLESS_PODS;
            let rootless = u32::from(v4) >> (32 - bits) == u32::from(net) >> (32 - bits);
            let never =
                v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast() || v4.is_unspecified();
            rootless || !never
        }
        IpAddr::V6(v6) => !(v6.is_loopback() || v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified()),
    };
    allowed.then_some(ip)
}

fn authority(ip: IpAddr, port: &str) -> String {
    let host = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
    if port.is_empty() { host } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_carry_a_scheme_and_a_port() {
        let id = |scheme, name, port| Some(Id { scheme, name, port });
        for (text, expected) in [
            ("web", id("", "web", "")),
            ("web:80", id("", "web", "80")),
            ("https:web:", id("https", "web", "")),
            ("http:web:8080", id("http", "web", "8080")),
            ("ftp:web:21", None),
            (":80", None),
            ("a:b:c:d", None),
        ] {
            assert_eq!(Id::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn nothing_climbs_out_of_the_proxied_path() {
        for (rest, slash, expected) in [
            (&[][..], false, ""),
            (&[], true, "/"),
            (&["a", "b"], false, "/a/b"),
            (&["a", "b"], true, "/a/b/"),
            (&["..", "..", "x"], false, "/x"),
            (&["a", ".", "", "..", "b/../../c"], false, "/c"),
        ] {
            let rest: Vec<String> = rest.iter().map(|part| (*part).to_owned()).collect();
            assert_eq!(path(&rest, slash), expected, "{rest:?}");
        }
    }

    #[test]
    fn only_addresses_that_can_be_pods_are_proxied_to() {
        for ip in ["10.0.0.1", "127.64.0.5", "127.79.255.254", "fd00::1"] {
            assert!(proxyable(ip).is_some(), "{ip}");
        }
        for ip in ["127.0.0.1", "127.96.0.1", "::1", "169.254.169.254", "224.0.0.1", "0.0.0.0", "fe80::1", "", "host"] {
            assert!(proxyable(ip).is_none(), "{ip}");
        }
        for ip in ["::ffff:127.0.0.1", "::ffff:169.254.169.254"] {
            assert!(proxyable(ip).is_none(), "{ip}");
        }
    }
}
