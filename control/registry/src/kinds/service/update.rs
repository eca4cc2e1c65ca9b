//! What an update carries over from the Service that was: addresses and ports that the server has allocated, unless a
//! change of type takes them away. Source: `pkg/registry/core/service/storage/alloc.go` and `strategy.go`.

use std::collections::{BTreeMap, BTreeSet};

use wharf_types::k8s::api::core::v1::{ServicePort, ServiceSpec};

use super::{has_cluster_ip, has_health_check_port, has_node_ports, kind};

/// Keeps `clusterIP` and `clusterIPs[0]` the same, whichever of them the client wrote.
pub fn normalize_cluster_ips(spec: &mut ServiceSpec, old: Option<&ServiceSpec>) {
    let single = spec.cluster_ip.clone().filter(|ip| !ip.is_empty());
    let Some(old) = old else {
        if single.is_some() && spec.cluster_ips.as_ref().is_none_or(Vec::is_empty) {
            spec.cluster_ips = single.map(|ip| vec![ip]);
        }
        return;
    };
    let old_single = old.cluster_ip.clone().filter(|ip| !ip.is_empty());
    if single == old_single {
        return;
    }
    let list_unchanged = spec.cluster_ips == old.cluster_ips;
    match single {
        // Cleared by a client that knows `clusterIP` only.
        None if list_unchanged => spec.cluster_ips = None,
        Some(ip) if list_unchanged || spec.cluster_ips.as_ref().is_none_or(Vec::is_empty) => {
            spec.cluster_ips = Some(vec![ip])
        }
        _ => {}
    }
}

/// A change of type takes off what the old type had and the new one may not have, unless the client set it anew.
pub fn drop_type_dependent(spec: &mut ServiceSpec, old: &ServiceSpec) {
    if has_cluster_ip(old) && !has_cluster_ip(spec) {
        if spec.cluster_ip == old.cluster_ip && spec.cluster_ips == old.cluster_ips {
            (spec.cluster_ip, spec.cluster_ips) = (None, None);
        }
        if spec.ip_families == old.ip_families {
            spec.ip_families = None;
        }
        if spec.ip_family_policy == old.ip_family_policy {
            spec.ip_family_policy = None;
        }
    }
    if has_node_ports(old) && !has_node_ports(spec) {
        let before: BTreeMap<_, _> =
            old.ports.iter().flatten().map(|port| (port.name.clone(), port.node_port)).collect();
        for port in spec.ports.iter_mut().flatten() {
            if before.get(&port.name) == Some(&port.node_port) {
                port.node_port = None;
            }
        }
    }
    if has_health_check_port(old)
        && !has_health_check_port(spec)
        && spec.health_check_node_port == old.health_check_node_port
    {
        spec.health_check_node_port = None;
    }
    let balanced = |spec: &ServiceSpec| kind(spec) == "LoadBalancer";
    if balanced(old) && !balanced(spec) {
        if spec.allocate_load_balancer_node_ports == old.allocate_load_balancer_node_ports {
            spec.allocate_load_balancer_node_ports = None;
        }
        if spec.load_balancer_class == old.load_balancer_class {
            spec.load_balancer_class = None;
        }
    }
    let external = |spec: &ServiceSpec| matches!(kind(spec), "NodePort" | "LoadBalancer");
    let reachable =
        |spec: &ServiceSpec| external(spec) || spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
    if reachable(old) && !reachable(spec) && spec.external_traffic_policy == old.external_traffic_policy {
        spec.external_traffic_policy = None;
    }
    if kind(old) == "ExternalName" && kind(spec) != "ExternalName" && spec.external_name == old.external_name {
        spec.external_name = None;
    }
}

/// An update that leaves out what the server has allocated keeps it.
pub fn keep_allocated(spec: &mut ServiceSpec, old: &ServiceSpec) {
    let empty = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
    if has_cluster_ip(old) && has_cluster_ip(spec) {
        if empty(&spec.cluster_ip) {
            spec.cluster_ip.clone_from(&old.cluster_ip);
        }
        if spec.cluster_ips.as_ref().is_none_or(Vec::is_empty) && spec.cluster_ip == old.cluster_ip {
            spec.cluster_ips.clone_from(&old.cluster_ips);
        }
        if spec.ip_family_policy.is_none() {
            spec.ip_family_policy.clone_from(&old.ip_family_policy);
        }
        if spec.ip_families.as_ref().is_none_or(Vec::is_empty) {
            spec.ip_families.clone_from(&old.ip_families);
        }
    }
    if has_node_ports(old) && has_node_ports(spec) {
        keep_node_ports(spec, old);
    }
    if has_health_check_port(old) && has_health_check_port(spec) && spec.health_check_node_port.unwrap_or_default() == 0
    {
        spec.health_check_node_port = old.health_check_node_port;
    }
}

/// By the port's name, where no other port has taken the number.
fn keep_node_ports(spec: &mut ServiceSpec, old: &ServiceSpec) {
    let number = |port: &ServicePort| port.node_port.unwrap_or_default();
    let in_use: BTreeSet<i32> = spec.ports.iter().flatten().map(number).collect();
    let mut taken: BTreeSet<i32> =
        old.ports.iter().flatten().map(number).filter(|port| in_use.contains(port)).collect();
    let by_name: BTreeMap<_, _> = old.ports.iter().flatten().map(|port| (port.name.clone(), number(port))).collect();
    for port in spec.ports.iter_mut().flatten().filter(|port| number(port) == 0) {
        let before = by_name.get(&port.name).copied().unwrap_or_default();
        if before != 0 && taken.insert(before) {
            port.node_port = Some(before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Services, shown_port};
    use crate::Strategy;
    use crate::testing::object;

    #[track_caller]
    fn check_prepared(old: &str, new: &str, expected: &str) {
        let (old, mut new) = (object(&Services, old), object(&Services, new));
        Services.prepare_for_update(&mut new, &old);
        let spec = new.spec.unwrap();
        let ports: Vec<String> = spec.ports.iter().flatten().map(shown_port).collect();
        assert_eq!(format!("{:?} {}", spec.cluster_ips.unwrap_or_default(), ports.join(",")), expected);
    }

    #[test]
    fn updates_keep_what_was_allocated() {
        let old = "{spec: {type: NodePort, clusterIP: 127.96.0.5, clusterIPs: [127.96.0.5], ports: [{port: 80, nodePort: 30001}]}}";
        check_prepared(old, "{spec: {type: NodePort, ports: [{port: 81}]}}", "[\"127.96.0.5\"] 81:30001/TCP");
        check_prepared(
            old,
            "{spec: {type: ClusterIP, ports: [{port: 80, nodePort: 30001}]}}",
            "[\"127.96.0.5\"] 80/TCP",
        );
        check_prepared(
            old,
            "{spec: {type: ExternalName, externalName: a.b, clusterIP: 127.96.0.5, clusterIPs: [127.96.0.5]}}",
            "[] ",
        );
    }
}
