//! What a Service's spec must hold. Source: `ValidateService` and `ValidateServiceUpdate`.

use std::collections::BTreeSet;

use wharf_machinery::selector;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::{ServicePort, ServiceSpec};

use super::{has_health_check_port, is_headless, kind};
use crate::checks::{self, PROTOCOLS};

/// The port that load balancers of broken clouds took from the node agent.
const NODE_AGENT_PORT: i32 = 10_250;
const AFFINITY_MAX_S: i32 = 86_400;
const AFFINITIES: &[&str] = &["ClientIP", "None"];
const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const FAMILIES: &[&str] = &["IPv4", "IPv6"];
const FAMILY_POLICIES: &[&str] = &["PreferDualStack", "RequireDualStack", "SingleStack"];
const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameNode", "PreferSameZone"];
const ONLY_BALANCED: &str = "may only be used when `type` is 'LoadBalancer'";

pub fn spec(spec: &ServiceSpec) -> Errors {
    let path = Path::new("spec");
    let mut errors = by_type(spec, &path);
    errors.extend(ports(spec, &path.child("ports")));
    errors.extend(selector::validate_labels(spec.selector.as_ref(), &path.child("selector")));
    errors.extend(affinity(spec, &path));
    errors.extend(cluster_ips(spec, &path));
    for (index, ip) in spec.external_ips.iter().flatten().enumerate() {
        errors.extend(checks::endpoint_ip(ip, &path.child("externalIPs").index(index)));
    }
    errors.extend(checks::required_one_of(kind(spec), TYPES, &path.child("type")));
    errors.extend(balancer(spec, &path));
    errors.extend(traffic(spec, &path));
    errors
}

pub fn update(new: &ServiceSpec, old: &ServiceSpec) -> Errors {
    let path = Path::new("spec");
    let mut errors = fixed_cluster_ips(new, old, &path);
    if kind(old) == "LoadBalancer" && kind(new) == "LoadBalancer" && old.load_balancer_class != new.load_balancer_class
    {
        let why = "may not change once set";
        errors.push(Error::invalid(&path.child("loadBalancerClass"), checks::json(&new.load_balancer_class), why));
    }
    errors
}

/// A second address may come and go; the first stays as long as the Service has one.
fn fixed_cluster_ips(new: &ServiceSpec, old: &ServiceSpec, path: &Path) -> Errors {
    if kind(new) == "ExternalName" || kind(old) == "ExternalName" {
        return Vec::new();
    }
    let (new_ips, old_ips) =
        (new.cluster_ips.as_deref().unwrap_or_default(), old.cluster_ips.as_deref().unwrap_or_default());
    let path = path.child("clusterIPs");
    let why = "may not change once set";
    match (old_ips, new_ips) {
        ([], _) => Vec::new(),
        (_, []) => vec![Error::invalid(&path.index(0), checks::json(&new_ips), "primary clusterIP can not be unset")],
        ([first, ..], [new_first, ..]) if first != new_first => {
            vec![Error::invalid(&path.index(0), checks::json(&new_ips), why)]
        }
        ([_, second], [_, new_second]) if second != new_second => {
            vec![Error::invalid(&path.index(1), checks::json(&new_ips), why)]
        }
        _ => Vec::new(),
    }
}

fn by_type(spec: &ServiceSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let kind = kind(spec);
    let no_ports = spec.ports.as_ref().is_none_or(Vec::is_empty);
    if no_ports && !is_headless(spec) && kind != "ExternalName" {
        errors.push(Error::required(&path.child("ports"), ""));
    }
    if kind == "LoadBalancer" {
        for (index, port) in spec.ports.iter().flatten().enumerate().filter(|(_, port)| port.port == NODE_AGENT_PORT) {
            let why = format!("may not expose port {NODE_AGENT_PORT} externally since it is used by kubelet");
            errors.push(Error::invalid(&path.child("ports").index(index), port.port, why));
        }
    }
    if matches!(kind, "LoadBalancer" | "NodePort") && is_headless(spec) {
        let why = format!("may not be set to 'None' for {kind} services");
        errors.push(Error::invalid(&path.child("clusterIPs").index(0), "None", why));
    }
    if kind == "ExternalName" {
        let set = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
        let why = "may not be set for ExternalName services";
        if set(&spec.cluster_ips) {
            errors.push(Error::forbidden(&path.child("clusterIPs"), why));
        }
        if set(&spec.ip_families) {
            errors.push(Error::forbidden(&path.child("ipFamilies"), why));
        }
        if spec.ip_family_policy.is_some() {
            errors.push(Error::forbidden(&path.child("ipFamilyPolicy"), why));
        }
        let target = spec.external_name.as_deref().unwrap_or_default();
        match target.strip_suffix('.').unwrap_or(target) {
            "" => errors.push(Error::required(&path.child("externalName"), "")),
            name => errors.extend(checks::dns1123_subdomain(name, &path.child("externalName"))),
        }
    }
    errors
}

fn ports(spec: &ServiceSpec, path: &Path) -> Errors {
    let ports = spec.ports.as_deref().unwrap_or_default();
    let mut errors = Vec::new();
    let mut names = BTreeSet::new();
    for (index, item) in ports.iter().enumerate() {
        errors.extend(port(item, ports.len() > 1, &mut names, &path.index(index)));
    }
    if kind(spec) == "ClusterIP" {
        for (index, _) in ports.iter().enumerate().filter(|(_, port)| port.node_port.unwrap_or_default() != 0) {
            let why = "may not be used when `type` is 'ClusterIP'";
            errors.push(Error::forbidden(&path.index(index).child("nodePort"), why));
        }
    }
    let (mut node_ports, mut pairs) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let node_port = port.node_port.unwrap_or_default();
        if node_port != 0 && !node_ports.insert((&port.protocol, node_port)) {
            errors.push(Error::duplicate(&path.index(index).child("nodePort"), node_port));
        }
    }
    for (index, port) in ports.iter().enumerate() {
        if !pairs.insert((&port.protocol, port.port)) {
            let key = serde_json::json!({"port": port.port, "protocol": port.protocol});
            errors.push(Error::duplicate(&path.index(index), key));
        }
    }
    errors
}

fn port<'a>(port: &'a ServicePort, needs_name: bool, names: &mut BTreeSet<&'a str>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    match port.name.as_deref().unwrap_or_default() {
        "" if needs_name => errors.push(Error::required(&path.child("name"), "")),
        "" => {}
        name => {
            errors.extend(checks::dns1123_label(name, &path.child("name")));
            if !names.insert(name) {
                errors.push(Error::duplicate(&path.child("name"), name));
            }
        }
    }
    errors.extend(checks::port_number(port.port, &path.child("port")));
    let protocol = port.protocol.as_deref().unwrap_or_default();
    errors.extend(checks::required_one_of(protocol, PROTOCOLS, &path.child("protocol")));
    if let Some(target) = &port.target_port {
        errors.extend(checks::port_number_or_name(target, &path.child("targetPort")));
    }
    if let Some(protocol) = &port.app_protocol {
        errors.extend(checks::qualified_name(protocol, &path.child("appProtocol")));
    }
    errors
}

fn affinity(spec: &ServiceSpec, path: &Path) -> Errors {
    let affinity = spec.session_affinity.as_deref().unwrap_or_default();
    let mut errors = checks::required_one_of(affinity, AFFINITIES, &path.child("sessionAffinity"));
    let path = path.child("sessionAffinityConfig");
    match (affinity, &spec.session_affinity_config) {
        ("None", Some(_)) => errors.push(Error::forbidden(&path, "must not be set when session affinity is None")),
        ("ClientIP", config) => {
            let client = config.as_ref().and_then(|config| config.client_ip.as_ref());
            match client.and_then(|client| client.timeout_seconds) {
                None => errors.push(Error::required(&path, "when session affinity type is ClientIP")),
                Some(seconds) if seconds <= 0 || seconds > AFFINITY_MAX_S => {
                    let why = format!("must be greater than 0 and less than {AFFINITY_MAX_S}");
                    errors.push(Error::invalid(&path.child("clientIP").child("timeoutSeconds"), seconds, why));
                }
                Some(_) => {}
            }
        }
        _ => {}
    }
    errors
}

fn cluster_ips(spec: &ServiceSpec, path: &Path) -> Errors {
    // Reported by type already.
    if kind(spec) == "ExternalName" {
        return Vec::new();
    }
    let ips = spec.cluster_ips.as_deref().unwrap_or_default();
    let list = path.child("clusterIPs");
    let mut errors = Vec::new();
    let single = spec.cluster_ip.as_deref().unwrap_or_default();
    match ips.first() {
        None if !single.is_empty() => errors.push(Error::required(&list, "")),
        Some(_) if single.is_empty() => {
            errors.push(Error::invalid(&path.child("clusterIP"), single, "must be set when `clusterIPs` is specified"));
        }
        Some(first) if first != single => {
            errors.push(Error::invalid(&list, checks::json(&ips), "first value must match `clusterIP`"));
        }
        _ => {}
    }
    if ips.len() > 2 {
        errors.push(Error::too_many(&list, ips.len(), 2));
    }
    for (index, ip) in ips.iter().enumerate() {
        match ip.as_str() {
            "None" if ips.len() == 1 => {}
            "None" => errors.push(Error::invalid(&list.index(index), ip, "\"None\" must be the first and only value")),
            ip => errors.extend(checks::ip(ip, &list.index(index))),
        }
    }
    let families = spec.ip_families.as_deref().unwrap_or_default();
    for (index, family) in families.iter().enumerate() {
        errors.extend(checks::one_of(family, FAMILIES, &path.child("ipFamilies").index(index)));
        if families[..index].contains(family) {
            errors.push(Error::duplicate(&path.child("ipFamilies").index(index), family));
        }
    }
    if let Some(policy) = &spec.ip_family_policy {
        errors.extend(checks::one_of(policy, FAMILY_POLICIES, &path.child("ipFamilyPolicy")));
    }
    for (index, (ip, family)) in ips.iter().zip(families).enumerate().filter(|(_, (ip, _))| *ip != "None") {
        let expected = if ip.contains(':') { "IPv6" } else { "IPv4" };
        if family != expected {
            let why = format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
            errors.push(Error::invalid(&list.index(index), ip, why));
        }
    }
    errors
}

fn balancer(spec: &ServiceSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let balanced = kind(spec) == "LoadBalancer";
    let ranges = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    let at = path.child("loadBalancerSourceRanges");
    if !ranges.is_empty() && !balanced {
        errors.push(Error::forbidden(&at, ONLY_BALANCED));
    }
    for (index, range) in ranges.iter().enumerate() {
        errors.extend(checks::cidr(range.trim(), &at.index(index)));
    }
    match (balanced, spec.allocate_load_balancer_node_ports) {
        (true, None) => errors.push(Error::required(&path.child("allocateLoadBalancerNodePorts"), "")),
        (false, Some(_)) => errors.push(Error::forbidden(&path.child("allocateLoadBalancerNodePorts"), ONLY_BALANCED)),
        _ => {}
    }
    match &spec.load_balancer_class {
        Some(class) if balanced => errors.extend(checks::qualified_name(class, &path.child("loadBalancerClass"))),
        Some(_) => errors.push(Error::forbidden(&path.child("loadBalancerClass"), ONLY_BALANCED)),
        None => {}
    }
    errors
}

fn traffic(spec: &ServiceSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let external = matches!(kind(spec), "NodePort" | "LoadBalancer")
        || kind(spec) == "ClusterIP" && spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
    let policy = spec.external_traffic_policy.as_deref().unwrap_or_default();
    let at = path.child("externalTrafficPolicy");
    match (external, policy) {
        (false, "") => {}
        (false, policy) => {
            errors.push(Error::invalid(&at, policy, "may only be set for externally-accessible services"))
        }
        (true, "") if kind(spec) == "ClusterIP" => {}
        (true, policy) => errors.extend(checks::required_one_of(policy, &["Cluster", "Local"], &at)),
    }
    let health = spec.health_check_node_port.unwrap_or_default();
    if health != 0 && !has_health_check_port(spec) {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(Error::invalid(&path.child("healthCheckNodePort"), health, why));
    }
    match spec.internal_traffic_policy.as_deref() {
        None if kind(spec) != "ExternalName" => errors.push(Error::required(&path.child("internalTrafficPolicy"), "")),
        Some(policy) => {
            errors.extend(checks::one_of(policy, &["Cluster", "Local"], &path.child("internalTrafficPolicy")))
        }
        None => {}
    }
    if let Some(distribution) = &spec.traffic_distribution {
        errors.extend(checks::one_of(distribution, DISTRIBUTIONS, &path.child("trafficDistribution")));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::super::Services;
    use crate::testing::{check, check_starts, check_update};

    #[test]
    fn a_service_needs_ports_unless_it_has_no_address() {
        check(&Services, "{spec: {ports: [{port: 80}]}}", &[]);
        check(&Services, "{}", &["spec.ports: Required value"]);
        check(&Services, "{spec: {clusterIP: None, clusterIPs: [None]}}", &[]);
        check(&Services, "{spec: {type: ExternalName}}", &["spec.externalName: Required value"]);
        check(&Services, "{spec: {type: ExternalName, externalName: a.b.}}", &[]);
    }

    #[test]
    fn ports_have_names_numbers_and_protocols() {
        check(
            &Services,
            "{spec: {ports: [{port: 80}, {port: 80, name: a}]}}",
            &[
                "spec.ports[0].name: Required value",
                "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}",
            ],
        );
        check(
            &Services,
            "{spec: {ports: [{port: 70000, targetPort: 1, protocol: tcp}]}}",
            &[
                "spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
                "spec.ports[0].protocol: Unsupported value: \"tcp\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ],
        );
        check(
            &Services,
            "{spec: {ports: [{port: 80, targetPort: '8080'}]}}",
            &["spec.ports[0].targetPort: Invalid value: \"8080\": must contain at least one letter (a-z)"],
        );
        check(
            &Services,
            "{spec: {ports: [{port: 80, nodePort: 30000}]}}",
            &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
        );
        check(
            &Services,
            "{spec: {type: NodePort, ports: [{name: a, port: 80, nodePort: 30000}, {name: b, port: 81, nodePort: 30000}]}}",
            &["spec.ports[1].nodePort: Duplicate value: 30000"],
        );
    }

    #[test]
    fn types_and_addresses_are_known() {
        check_starts(
            &Services,
            "{spec: {type: Magic, ports: [{port: 80}]}}",
            &[
                "spec.type: Unsupported value: \"Magic\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ],
        );
        check(
            &Services,
            "{spec: {clusterIP: x, clusterIPs: [x], ports: [{port: 80}]}}",
            &[
                "spec.clusterIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ],
        );
        check(
            &Services,
            "{spec: {sessionAffinity: Sticky, ports: [{port: 80}]}}",
            &["spec.sessionAffinity: Unsupported value: \"Sticky\": supported values: \"ClientIP\", \"None\""],
        );
    }

    #[test]
    fn the_cluster_ip_stays() {
        let old = "{spec: {clusterIP: 127.96.0.5, clusterIPs: [127.96.0.5], ports: [{port: 80}]}}";
        check_update(&Services, old, old, &[]);
        check_update(&Services, old, "{spec: {ports: [{port: 80}]}}", &[]);
        check_update(
            &Services,
            old,
            "{spec: {clusterIP: 127.96.0.6, ports: [{port: 80}]}}",
            &["spec.clusterIPs[0]: Invalid value: [\"127.96.0.6\"]: may not change once set"],
        );
    }
}
