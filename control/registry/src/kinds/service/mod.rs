//! Services: one name and address for the pods that a selector finds.
//!
//! Source: `pkg/apis/core/v1/defaults.go`, `pkg/registry/core/service/strategy.go` and `storage/alloc.go`.
//! Absent on purpose: the allocation of cluster IPs and node ports, which needs the store and happens in `apiserver`;
//! [`Strategy::prepare_for_update`] only carries over what has been allocated before.

mod update;
mod validation;

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::Errors;
use wharf_types::k8s::api::core::v1::{
    ClientIPConfig, Service, ServicePort, ServiceSpec, ServiceStatus, SessionAffinityConfig,
};
use wharf_types::k8s::apimachinery::pkg::util::intstr::IntOrString;

use super::{NONE, created, format_labels, name, or_none};
use crate::podspec::defaults::text;
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct Services;

/// Three hours: how long a client stays with a pod under `ClientIP` affinity.
const AFFINITY_S: i32 = 10_800;

impl Strategy for Services {
    type Object = Service;

    fn default(&self, service: &mut Service) {
        let spec = service.spec.get_or_insert_default();
        text(&mut spec.session_affinity, "None");
        text(&mut spec.type_, "ClusterIP");
        default_affinity(spec);
        for port in spec.ports.iter_mut().flatten() {
            text(&mut port.protocol, "TCP");
            let unset = match &port.target_port {
                None | Some(IntOrString::Int(0)) => true,
                Some(IntOrString::String(name)) => name.is_empty(),
                Some(IntOrString::Int(_)) => false,
            };
            if unset {
                port.target_port = Some(IntOrString::Int(port.port));
            }
        }
        let kind = kind(spec).to_owned();
        if kind == "NodePort" || kind == "LoadBalancer" {
            text(&mut spec.external_traffic_policy, "Cluster");
        }
        if kind != "ExternalName" {
            spec.internal_traffic_policy.get_or_insert_with(|| "Cluster".to_owned());
        }
        if kind == "LoadBalancer" {
            spec.allocate_load_balancer_node_ports.get_or_insert(true);
            for ingress in service.status.iter_mut().flat_map(|status| &mut status.load_balancer) {
                for point in ingress.ingress.iter_mut().flatten().filter(|point| point.ip.is_some()) {
                    point.ip_mode.get_or_insert_with(|| "VIP".to_owned());
                }
            }
        }
    }

    fn prepare_for_create(&self, service: &mut Service) {
        service.status = Some(ServiceStatus { load_balancer: Some(Default::default()), conditions: None });
        update::normalize_cluster_ips(service.spec.get_or_insert_default(), None);
    }

    fn prepare_for_update(&self, service: &mut Service, old: &Service) {
        service.status.clone_from(&old.status);
        let empty = ServiceSpec::default();
        let old = old.spec.as_ref().unwrap_or(&empty);
        let spec = service.spec.get_or_insert_default();
        update::drop_type_dependent(spec, old);
        update::keep_allocated(spec, old);
        update::normalize_cluster_ips(spec, Some(old));
    }

    fn prepare_for_status_update(&self, service: &mut Service, old: &Service) {
        service.spec.clone_from(&old.spec);
    }

    fn validate(&self, service: &Service) -> Errors {
        service.spec.as_ref().map_or_else(Vec::new, validation::spec)
    }

    fn validate_update(&self, new: &Service, old: &Service) -> Errors {
        let empty = ServiceSpec::default();
        validation::update(new.spec.as_ref().unwrap_or(&empty), old.spec.as_ref().unwrap_or(&empty))
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        wharf_machinery::names::dns1035_label(name)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn fields(&self, service: &Service) -> Vec<(&'static str, String)> {
        let (ip, kind) =
            service.spec.as_ref().map_or((None, None), |spec| (spec.cluster_ip.clone(), spec.type_.clone()));
        vec![("spec.clusterIP", ip.unwrap_or_default()), ("spec.type", kind.unwrap_or_default())]
    }

    fn field_names(&self) -> &'static [&'static str] {
        &["spec.clusterIP", "spec.type"]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new(
                "Type",
                "string",
                "type determines how the Service is exposed. Defaults to ClusterIP. Valid options are ExternalName, ClusterIP, NodePort, and LoadBalancer. \"ClusterIP\" allocates a cluster-internal IP address for load-balancing to endpoints. Endpoints are determined by the selector or if that is not specified, by manual construction of an Endpoints object or EndpointSlice objects. If clusterIP is \"None\", no virtual IP is allocated and the endpoints are published as a set of endpoints rather than a virtual IP. \"NodePort\" builds on ClusterIP and allocates a port on every node which routes to the same endpoints as the clusterIP. \"LoadBalancer\" builds on NodePort and creates an external load-balancer (if supported in the current cloud) which routes to the same endpoints as the clusterIP. \"ExternalName\" aliases this service to the specified externalName. Several other fields do not apply to ExternalName services. More info: https://kubernetes.io/docs/concepts/services-networking/service/#publishing-services-service-types",
            ),
            Column::new(
                "Cluster-IP",
                "string",
                "clusterIP is the IP address of the service and is usually assigned randomly. More info: https://kubernetes.io/docs/concepts/services-networking/service/#virtual-ips-and-service-proxies",
            ),
            Column::new(
                "External-IP",
                "string",
                "externalIPs is a list of IP addresses for which nodes in the cluster will also accept traffic for this service. These IPs are not managed by Kubernetes. The user is responsible for ensuring that traffic arrives at a node with this IP.",
            ),
            Column::new(
                "Port(s)",
                "string",
                "The list of ports that are exposed by this service. More info: https://kubernetes.io/docs/concepts/services-networking/service/#virtual-ips-and-service-proxies",
            ),
            AGE,
            Column::wide(
                "Selector",
                "string",
                "Route service traffic to pods with label keys and values matching this selector. If empty or not present, the service is assumed to have an external process managing its endpoints, which Kubernetes will not modify. Only applies to types ClusterIP, NodePort, and LoadBalancer. Ignored if type is ExternalName. More info: https://kubernetes.io/docs/concepts/services-networking/service/",
            ),
        ];
        COLUMNS
    }

    fn cells(&self, service: &Service, now: Timestamp) -> Vec<Value> {
        let empty = ServiceSpec::default();
        let spec = service.spec.as_ref().unwrap_or(&empty);
        let cluster_ip = spec.cluster_ips.as_ref().and_then(|ips| ips.first().cloned());
        let ports: Vec<String> = spec.ports.iter().flatten().map(shown_port).collect();
        vec![
            name(&service.metadata),
            kind(spec).into(),
            cluster_ip.unwrap_or_else(|| NONE.to_owned()).into(),
            external_ip(service, spec).into(),
            or_none(ports.join(",")).into(),
            created(&service.metadata, now),
            format_labels(spec.selector.as_ref()).into(),
        ]
    }
}

fn kind(spec: &ServiceSpec) -> &str {
    spec.type_.as_deref().unwrap_or_default()
}

fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ips.as_ref().and_then(|ips| ips.first()).is_some_and(|ip| ip == "None")
        || spec.cluster_ip.as_deref() == Some("None")
}

fn has_cluster_ip(spec: &ServiceSpec) -> bool {
    matches!(kind(spec), "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn has_node_ports(spec: &ServiceSpec) -> bool {
    match kind(spec) {
        "NodePort" => true,
        "LoadBalancer" => spec.allocate_load_balancer_node_ports != Some(false),
        _ => false,
    }
}

fn has_health_check_port(spec: &ServiceSpec) -> bool {
    kind(spec) == "LoadBalancer" && spec.external_traffic_policy.as_deref() == Some("Local")
}

fn default_affinity(spec: &mut ServiceSpec) {
    match spec.session_affinity.as_deref() {
        Some("None") => spec.session_affinity_config = None,
        Some("ClientIP") => {
            let config: &mut SessionAffinityConfig = spec.session_affinity_config.get_or_insert_default();
            let client: &mut ClientIPConfig = config.client_ip.get_or_insert_default();
            client.timeout_seconds.get_or_insert(AFFINITY_S);
        }
        _ => {}
    }
}

/// `80:30080/TCP`
fn shown_port(port: &ServicePort) -> String {
    let protocol = port.protocol.as_deref().unwrap_or_default();
    match port.node_port.unwrap_or_default() {
        0 => format!("{}/{protocol}", port.port),
        node_port => format!("{}:{node_port}/{protocol}", port.port),
    }
}

fn external_ip(service: &Service, spec: &ServiceSpec) -> String {
    let external = spec.external_ips.clone().unwrap_or_default();
    match kind(spec) {
        "ClusterIP" | "NodePort" => or_none(external.join(",")),
        "LoadBalancer" => {
            let points = service
                .status
                .iter()
                .flat_map(|status| &status.load_balancer)
                .flat_map(|lb| lb.ingress.iter().flatten());
            let balanced: BTreeSet<String> = points
                .filter_map(|point| point.ip.clone().or_else(|| point.hostname.clone()))
                .filter(|at| !at.is_empty())
                .collect();
            let all: Vec<String> = balanced.into_iter().chain(external).collect();
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ExternalName" => spec.external_name.clone().unwrap_or_default(),
        _ => "<unknown>".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_cells, created, object};

    #[test]
    fn ports_and_policies_get_defaults() {
        created(
            &Services,
            "{metadata: {name: web}, spec: {ports: [{port: 80}], clusterIP: 127.96.0.5}}",
            r#"{"metadata":{"name":"web"},"spec":{"clusterIP":"127.96.0.5","clusterIPs":["127.96.0.5"],"internalTrafficPolicy":"Cluster",
                "ports":[{"port":80,"protocol":"TCP","targetPort":80}],"sessionAffinity":"None","type":"ClusterIP"},"status":{"loadBalancer":{}}}"#,
        );
        let spec = object(&Services, "{spec: {type: LoadBalancer, sessionAffinity: ClientIP}}").spec.unwrap();
        assert_eq!(spec.external_traffic_policy.as_deref(), Some("Cluster"));
        assert_eq!(spec.allocate_load_balancer_node_ports, Some(true));
        assert_eq!(spec.session_affinity_config.unwrap().client_ip.unwrap().timeout_seconds, Some(AFFINITY_S));
    }

    #[test]
    fn services_show_addresses_and_ports() {
        check_cells(
            &Services,
            "{metadata: {name: web}, spec: {type: NodePort, clusterIPs: [127.96.0.5], selector: {app: web}, ports: [{port: 80, nodePort: 30001}, {port: 53, protocol: UDP}]}}",
            "web | NodePort | 127.96.0.5 | <none> | 80:30001/TCP,53/UDP | <unknown> | app=web",
        );
        check_cells(
            &Services,
            "{metadata: {name: a}, spec: {type: LoadBalancer}}",
            "a | LoadBalancer | <none> | <pending> | <none> | <unknown> | <none>",
        );
        check_cells(
            &Services,
            "{metadata: {name: a}, spec: {type: ExternalName, externalName: b.c}}",
            "a | ExternalName | <none> | b.c | <none> | <unknown> | <none>",
        );
    }
}
