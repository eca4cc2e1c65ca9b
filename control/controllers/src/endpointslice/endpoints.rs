//! The endpoints of a Service: its pods' addresses and conditions, grouped by the ports at which they serve.

use std::net::Ipv4Addr;
use std::sync::Arc;

use wharf_types::k8s::api::core::v1::{Container, Node, ObjectReference, Pod, Service, ServicePort};
use wharf_types::k8s::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
use wharf_types::k8s::apimachinery::pkg::util::intstr::IntOrString;

use crate::pods;

const ZONE: &str = "topology.kubernetes.io/zone";

/// Endpoints that share their ports: a named target port may stand for different numbers in different pods.
#[derive(Debug, PartialEq)]
pub struct Group {
    pub ports: Vec<EndpointPort>,
    pub endpoints: Vec<Endpoint>,
}

/// `node` looks up the node of a pod. A pod whose node is unknown is left out, as upstream does, unless addresses are published
/// whatever happens.
pub fn groups(service: &Service, pods: &[Arc<Pod>], node: impl Fn(&str) -> Option<Arc<Node>>) -> Vec<Group> {
    let publish_all = service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false);
    let mut groups: Vec<Group> = Vec::new();
    for pod in pods.iter().filter(|pod| !pods::is_terminal(pod)) {
        let Some(address) = address(pod) else { continue };
        let node_name = super::node_of(pod);
        let node = node_name.and_then(&node);
        if node_name.is_some() && node.is_none() && !publish_all {
            continue;
        }
        let endpoint = endpoint(service, pod, address, node.as_deref().and_then(zone), publish_all);
        let ports = ports(service, pod);
        match groups.iter_mut().find(|group| group.ports == ports) {
            Some(group) => group.endpoints.push(endpoint),
            None => groups.push(Group { ports, endpoints: vec![endpoint] }),
        }
    }
    groups
}

pub fn zone(node: &Node) -> Option<String> {
    node.metadata.labels.as_ref()?.get(ZONE).cloned()
}

fn address(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = status.pod_ips.iter().flatten().map(|ip| &ip.ip).chain(&status.pod_ip);
    all.into_iter().find(|ip| ip.parse::<Ipv4Addr>().is_ok()).cloned()
}

fn endpoint(service: &Service, pod: &Pod, address: String, zone: Option<String>, publish_all: bool) -> Endpoint {
    let serving = pods::is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(publish_all || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(service, pod),
        node_name: super::node_of(pod).map(str::to_owned),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        zone,
        ..Endpoint::default()
    }
}

/// A pod has a name under its Service when it says so itself.
fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let under = spec.subdomain.as_ref() == service.metadata.name.as_ref();
    spec.hostname.clone().filter(|hostname| under && !hostname.is_empty())
}

/// Ports of the Service that this pod has.
fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref()).into_iter().flatten();
    let found = ports.filter_map(|port| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(target(pod, port)?),
            protocol: Some(protocol(port.protocol.as_deref()).to_owned()),
            app_protocol: port.app_protocol.clone(),
        })
    });
    found.collect()
}

fn protocol(protocol: Option<&str>) -> &str {
    protocol.filter(|protocol| !protocol.is_empty()).unwrap_or("TCP")
}

/// Source: `podutil.FindPort`.
fn target(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match port.target_port.as_ref() {
        None | Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(sidecar);
    let declared = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let mut matching = declared.filter(|declared| {
        declared.name.as_ref() == Some(name)
            && protocol(declared.protocol.as_deref()) == protocol(port.protocol.as_deref())
    });
    matching.next().map(|declared| declared.container_port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::fixtures::{PodBuilder, ready};
    use wharf_types::k8s::api::core::v1::{ContainerPort, ServiceSpec};

    fn service(target_port: IntOrString, publish_all: bool) -> Service {
        let port = ServicePort { port: 80, target_port: Some(target_port), ..ServicePort::default() };
        let spec = ServiceSpec {
            ports: Some(vec![port]),
            publish_not_ready_addresses: Some(publish_all),
            ..ServiceSpec::default()
        };
        Service { spec: Some(spec), ..Service::default() }
    }

    fn at(mut pod: PodBuilder, ip: &str, http_port: i32) -> Arc<Pod> {
        pod.0.status.get_or_insert_default().pod_ip = Some(ip.to_owned()).filter(|ip| !ip.is_empty());
        let port =
            ContainerPort { name: Some("http".to_owned()), container_port: http_port, ..ContainerPort::default() };
        pod.0.spec.get_or_insert_default().containers =
            vec![Container { ports: Some(vec![port]), ..Container::default() }];
        pod.arc()
    }

    fn check(service: &Service, pods: &[Arc<Pod>], expected: &str) {
        let node = |name: &str| (name == "n1").then(|| Arc::new(Node::default()));
        let mut words = Vec::new();
        for group in groups(service, pods, node) {
            let ports: Vec<String> =
                group.ports.iter().filter_map(|port| port.port).map(|port| port.to_string()).collect();
            for endpoint in group.endpoints {
                let conditions = endpoint.conditions.unwrap_or_default();
                let flag = |set: Option<bool>, letter: &'static str| if set == Some(true) { letter } else { "" };
                let flags =
                    [flag(conditions.ready, "R"), flag(conditions.serving, "S"), flag(conditions.terminating, "T")];
                words.push(format!("{}:{}={}", endpoint.addresses[0], ports.join(","), flags.concat()));
            }
        }
        assert_eq!(words.join(" "), expected);
    }

    #[test]
    fn conditions_tell_ready_serving_and_terminating_apart() {
        let pods = [
            at(ready("a", 9), "10.0.0.1", 8080),
            at(ready("b", 9).unready(), "10.0.0.2", 8080),
            at(ready("c", 9).terminating(), "10.0.0.3", 8080),
            at(ready("d", 9).phase("Succeeded"), "10.0.0.4", 8080),
            at(ready("e", 9), "", 8080),
            at(ready("f", 9).node("unknown"), "10.0.0.6", 8080),
        ];
        let expected = "10.0.0.1:8080=RS 10.0.0.2:8080= 10.0.0.3:8080=ST";
        check(&service(IntOrString::Int(8080), false), &pods, expected);
        let expected = "10.0.0.1:8080=RS 10.0.0.2:8080=R 10.0.0.3:8080=RST 10.0.0.6:8080=RS";
        check(&service(IntOrString::Int(8080), true), &pods, expected);
    }

    #[test]
    fn a_named_port_is_looked_up_in_each_pod() {
        let pods = [at(ready("a", 9), "10.0.0.1", 8080), at(ready("b", 9), "10.0.0.2", 9090)];
        check(&service(IntOrString::String("http".to_owned()), false), &pods, "10.0.0.1:8080=RS 10.0.0.2:9090=RS");
        check(&service(IntOrString::String("none".to_owned()), false), &pods, "10.0.0.1:=RS 10.0.0.2:=RS");
        check(&service(IntOrString::Int(0), false), &pods, "10.0.0.1:80=RS 10.0.0.2:80=RS");
    }
}
