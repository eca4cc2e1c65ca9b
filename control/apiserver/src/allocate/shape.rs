//! What a Service's type makes of it: which addresses and ports it needs, and what an update carries over or sheds.
//!
//! Source: `NormalizeClusterIPs`, `patchAllocatedValues` and `dropTypeDependentFields` of `pkg/registry/core/service`.

use std::collections::BTreeSet;

use wharf_types::k8s::api::core::v1::ServiceSpec;

pub(super) fn kind(spec: &ServiceSpec) -> &str {
    spec.type_.as_deref().unwrap_or("ClusterIP")
}

pub(super) fn needs_address(spec: &ServiceSpec) -> bool {
    matches!(kind(spec), "ClusterIP" | "NodePort" | "LoadBalancer")
}

pub(super) fn may_have_ports(spec: &ServiceSpec) -> bool {
    matches!(kind(spec), "NodePort" | "LoadBalancer")
}

/// True when ports that the user left out are chosen.
pub(super) fn allocates_ports(spec: &ServiceSpec) -> bool {
    kind(spec) == "NodePort" || kind(spec) == "LoadBalancer" && spec.allocate_load_balancer_node_ports != Some(false)
}

pub(super) fn needs_health_port(spec: &ServiceSpec) -> bool {
    kind(spec) == "LoadBalancer" && spec.external_traffic_policy.as_deref() == Some("Local")
}

/// Node ports of a Service, that of its health check among them.
pub(super) fn node_ports(spec: &ServiceSpec) -> impl Iterator<Item = i32> {
    let ports = spec.ports.iter().flatten().filter_map(|port| port.node_port);
    ports.chain(spec.health_check_node_port).filter(|port| *port != 0)
}

/// Makes `clusterIP` and `clusterIPs` agree, carries over what an update left out, and drops what its type has no use for.
/// Source: `NormalizeClusterIPs`, `patchAllocatedValues`, `dropTypeDependentFields`.
pub(super) fn normalize(spec: &mut ServiceSpec, old: Option<&ServiceSpec>) {
    let set = |address: &Option<String>| address.as_ref().is_some_and(|address| !address.is_empty());
    let none = |addresses: &Option<Vec<String>>| addresses.as_ref().is_none_or(Vec::is_empty);
    match old {
        None if set(&spec.cluster_ip) && none(&spec.cluster_ips) => {
            spec.cluster_ips = spec.cluster_ip.clone().map(|ip| vec![ip])
        }
        None => {}
        Some(old) => {
            if needs_address(old) && needs_address(spec) && !set(&spec.cluster_ip) && none(&spec.cluster_ips) {
                spec.cluster_ip = old.cluster_ip.clone();
                spec.cluster_ips = old.cluster_ips.clone();
            }
            // A client that knows only one of the two fields means both.
            let unchanged = spec.cluster_ips == old.cluster_ips;
            if spec.cluster_ip != old.cluster_ip && (unchanged || none(&spec.cluster_ips)) {
                spec.cluster_ips = spec.cluster_ip.clone().filter(|ip| !ip.is_empty()).map(|ip| vec![ip]);
            } else if none(&spec.cluster_ips) && set(&spec.cluster_ip) {
                spec.cluster_ips = old.cluster_ips.clone();
            }
            carry_ports(spec, old);
            drop_stale(spec, old);
        }
    }
}

/// Ports keep their node port by name, unless another port of the Service has claimed it.
fn carry_ports(spec: &mut ServiceSpec, old: &ServiceSpec) {
    if !(may_have_ports(old) && may_have_ports(spec)) {
        return;
    }
    let mut used: BTreeSet<i32> = node_ports(spec).collect();
    for port in spec.ports.iter_mut().flatten().filter(|port| port.node_port.is_none_or(|port| port == 0)) {
        let before = old.ports.iter().flatten().find(|before| before.name == port.name);
        if let Some(before) =
            before.and_then(|before| before.node_port).filter(|before| *before != 0 && used.insert(*before))
        {
            port.node_port = Some(before);
        }
    }
    if needs_health_port(old) && needs_health_port(spec) && spec.health_check_node_port.is_none_or(|port| port == 0) {
        spec.health_check_node_port = old.health_check_node_port;
    }
}

/// A change of type sheds what the old type had and the user did not touch.
fn drop_stale(spec: &mut ServiceSpec, old: &ServiceSpec) {
    if needs_address(old) && !needs_address(spec) && spec.cluster_ips == old.cluster_ips {
        spec.cluster_ip = None;
        spec.cluster_ips = None;
    }
    if may_have_ports(old) && !may_have_ports(spec) {
        let before: BTreeSet<i32> = node_ports(old).collect();
        for port in spec.ports.iter_mut().flatten() {
            port.node_port = port.node_port.filter(|port| !before.contains(port));
        }
    }
    if needs_health_port(old) && !needs_health_port(spec) && spec.health_check_node_port == old.health_check_node_port {
        spec.health_check_node_port = None;
    }
}
