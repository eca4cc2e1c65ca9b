//! Whether another server can be reached, by what the cluster says of its service. Pure.
//!
//! Source: `k8s.io/kube-aggregator/pkg/controllers/status/remote/remote_available_controller.go`.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIServiceSpec;

use super::DEFAULT_PORT;

const UNANSWERED: &str = "FailedDiscoveryCheck";

/// The condition `Available`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub available: bool,
    pub reason: &'static str,
    pub message: String,
}

impl Verdict {
    pub fn local() -> Self {
        Self { available: true, reason: "Local", message: "Local APIServices are always available".to_owned() }
    }

    pub fn passed() -> Self {
        Self { available: true, reason: "Passed", message: "all checks passed".to_owned() }
    }

    pub fn failed(message: String) -> Self {
        Self { available: false, reason: UNANSWERED, message }
    }

    /// True where the server should be there, and says nothing.
    pub fn is_unanswered(&self) -> bool {
        self.reason == UNANSWERED
    }
}

/// Where the server can be reached, or why it cannot.
pub fn endpoints(
    spec: &APIServiceSpec,
    service: Option<&Service>,
    slices: &[EndpointSlice],
) -> Result<Vec<SocketAddr>, Verdict> {
    let reference = spec.service.clone().unwrap_or_default();
    let (name, namespace) = (reference.name.unwrap_or_default(), reference.namespace.unwrap_or_default());
    let wanted = reference.port.unwrap_or(DEFAULT_PORT);
    let not = |reason, message| Err(Verdict { available: false, reason, message });
    let Some(service) = service else {
        return not("ServiceNotFound", format!("service/{name} in {namespace:?} is not present"));
    };
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let Some(port) = ports.iter().find(|port| port.port == wanted) else {
        return not("ServicePortError", format!("service/{name} in {namespace:?} is not listening on port {wanted}"));
    };
    if slices.is_empty() {
        return not("EndpointsNotFound", format!("cannot find endpointslices for service/{name} in {namespace:?}"));
    }
    let port_name = port.name.clone().unwrap_or_default();
    let found: Vec<SocketAddr> = slices.iter().flat_map(|slice| ready(slice, &port_name)).collect();
    if found.is_empty() {
        let why =
            format!("endpoints for service/{name} in {namespace:?} have no addresses with port name {port_name:?}");
        return not("MissingEndpoints", why);
    }
    Ok(found)
}

fn ready(slice: &EndpointSlice, port_name: &str) -> Vec<SocketAddr> {
    let ports = slice.ports.iter().flatten().filter(|port| port.name.as_deref().unwrap_or_default() == port_name);
    let ports: Vec<u16> = ports.filter_map(|port| u16::try_from(port.port?).ok()).collect();
    let endpoints = slice.endpoints.iter().flatten();
    let up = endpoints.filter(|it| it.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false));
    let addresses = up.filter_map(|it| it.addresses.first()?.parse::<IpAddr>().ok());
    addresses.flat_map(|ip| ports.iter().map(move |port| SocketAddr::new(ip, *port)).collect::<Vec<_>>()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(service: Value, slices: Value, expected: Result<&[&str], &str>) {
        let spec = json!({"groupPriorityMinimum": 1, "versionPriority": 1, "service": {"name": "s", "namespace": "n"}});
        let spec: APIServiceSpec = serde_json::from_value(spec).unwrap();
        let service: Option<Service> = serde_json::from_value(service).unwrap();
        let slices: Vec<EndpointSlice> = serde_json::from_value(slices).unwrap();
        let got = endpoints(&spec, service.as_ref(), &slices);
        let got = got.map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>());
        let got = got.map_err(|verdict| format!("{}: {}", verdict.reason, verdict.message));
        let expected = expected.map(|all| all.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>());
        assert_eq!(got, expected.map_err(str::to_owned));
    }

    #[test]
    fn a_server_needs_a_service_a_port_and_an_endpoint() {
        let service = json!({"spec": {"ports": [{"name": "https", "port": 443}]}});
        let slice = |ready: bool| {
            json!([{"addressType": "IPv4", "ports": [{"name": "https", "port": 8443}],
                "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}]}])
        };
        check(Value::Null, json!([]), Err("ServiceNotFound: service/s in \"n\" is not present"));
        let other = json!({"spec": {"ports": [{"port": 80}]}});
        check(other, json!([]), Err("ServicePortError: service/s in \"n\" is not listening on port 443"));
        check(service.clone(), json!([]), Err("EndpointsNotFound: cannot find endpointslices for service/s in \"n\""));
        let missing = "MissingEndpoints: endpoints for service/s in \"n\" have no addresses with port name \"https\"";
        check(service.clone(), slice(false), Err(missing));
        check(service, slice(true), Ok(&["10.0.0.1:8443"]));
    }
}
