//! The pod spec as a whole, and its smaller fields. Source: `ValidatePodSpec`.

use wharf_machinery::selector;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::{PodDNSConfig, PodSpec};

use super::{Owner, container, resources, scheduling, security, volume};
use crate::checks;

const RESTART_POLICIES: &[&str] = &["Always", "OnFailure", "Never"];
const DNS_POLICIES: &[&str] = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCHES_BYTES_MAX: usize = 2048;

pub fn validate(spec: &PodSpec, owner: Owner, path: &Path) -> Errors {
    let (volumes, mut errors) =
        volume::validate_all(spec.volumes.as_deref().unwrap_or_default(), owner, &path.child("volumes"));
    errors.extend(container::validate_all(spec, &volumes, path));
    errors.extend(host_ports(spec, owner, path));
    let restart = spec.restart_policy.as_deref().unwrap_or_default();
    errors.extend(checks::required_one_of(restart, RESTART_POLICIES, &path.child("restartPolicy")));
    let dns = spec.dns_policy.as_deref().unwrap_or_default();
    errors.extend(checks::required_one_of(dns, DNS_POLICIES, &path.child("dnsPolicy")));
    errors.extend(selector::validate_labels(spec.node_selector.as_ref(), &path.child("nodeSelector")));
    errors.extend(security::validate_pod(spec, path));
    errors.extend(scheduling::validate(spec, path));
    errors.extend(dns_config(spec.dns_config.as_ref(), dns, &path.child("dnsConfig")));
    errors.extend(names(spec, path));
    if let Some(overhead) = &spec.overhead {
        errors.extend(resources::validate_amounts(overhead, &path.child("overhead")));
    }
    if let Some(pod) = &spec.resources {
        errors.extend(resources::validate(pod, &path.child("resources")));
    }
    errors
}

/// A pod on its node's network has the node's ports, so a port of its own would mean nothing.
fn host_ports(spec: &PodSpec, owner: Owner, path: &Path) -> Errors {
    if spec.host_network != Some(true) {
        return Vec::new();
    }
    let mut errors = Vec::new();
    let lists =
        [("containers", &spec.containers[..]), ("initContainers", spec.init_containers.as_deref().unwrap_or_default())];
    for (list, containers) in lists {
        for (index, container) in containers.iter().enumerate() {
            for (port_index, port) in container.ports.iter().flatten().enumerate() {
                let host_port = port.host_port.unwrap_or_default();
                if (owner == Owner::Pod || host_port != 0) && host_port != port.container_port {
                    let path = path.child(list).index(index).child("ports").index(port_index).child("hostPort");
                    errors.push(Error::invalid(
                        &path,
                        host_port,
                        "must match `containerPort` when `hostNetwork` is true",
                    ));
                }
            }
        }
    }
    errors
}

fn dns_config(config: Option<&PodDNSConfig>, policy: &str, path: &Path) -> Errors {
    let Some(config) = config else {
        return match policy {
            "None" => vec![Error::required(path, "must provide `dnsConfig` when `dnsPolicy` is None")],
            _ => Vec::new(),
        };
    };
    let mut errors = Vec::new();
    let (nameservers, at) = (config.nameservers.as_deref().unwrap_or_default(), path.child("nameservers"));
    if policy == "None" && nameservers.is_empty() {
        errors.push(Error::required(&at, "must provide at least one DNS nameserver when `dnsPolicy` is None"));
    }
    if nameservers.len() > NAMESERVERS_MAX {
        let why = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        errors.push(Error::invalid(&at, checks::json(&nameservers), why));
    }
    for (index, server) in nameservers.iter().enumerate() {
        errors.extend(checks::ip(server, &at.index(index)));
    }
    let (searches, at) = (config.searches.as_deref().unwrap_or_default(), path.child("searches"));
    if searches.len() > SEARCHES_MAX {
        let why = format!("must not have more than {SEARCHES_MAX} search paths");
        errors.push(Error::invalid(&at, checks::json(&searches), why));
    }
    if searches.join(" ").len() > SEARCHES_BYTES_MAX {
        let why =
            format!("must not have more than {SEARCHES_BYTES_MAX} characters (including spaces) in the search list");
        errors.push(Error::invalid(&at, checks::json(&searches), why));
    }
    for (index, search) in searches.iter().enumerate().filter(|(_, search)| *search != ".") {
        let name = search.strip_suffix('.').unwrap_or(search);
        errors.extend(checks::dns1123_subdomain(name, &at.index(index)));
    }
    for (index, option) in config.options.iter().flatten().enumerate() {
        if option.name.as_deref().unwrap_or_default().is_empty() {
            errors.push(Error::required(&path.child("options").index(index), "must not be empty"));
        }
    }
    errors
}

/// Fields that name something, and the two that bound the pod's life.
fn names(spec: &PodSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let filled = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
    for (field, value) in [
        ("serviceAccountName", filled(&spec.service_account_name)),
        ("nodeName", filled(&spec.node_name)),
        ("priorityClassName", filled(&spec.priority_class_name)),
        ("runtimeClassName", spec.runtime_class_name.clone()),
        ("hostnameOverride", filled(&spec.hostname_override)),
    ] {
        if let Some(value) = value {
            errors.extend(checks::dns1123_subdomain(&value, &path.child(field)));
        }
    }
    for (field, value) in [("hostname", filled(&spec.hostname)), ("subdomain", filled(&spec.subdomain))] {
        if let Some(value) = value {
            errors.extend(checks::dns1123_label(&value, &path.child(field)));
        }
    }
    if let Some(seconds) = spec.active_deadline_seconds.filter(|seconds| !(1..=i64::from(i32::MAX)).contains(seconds)) {
        let why = format!("must be between 1 and {}, inclusive", i32::MAX);
        errors.push(Error::invalid(&path.child("activeDeadlineSeconds"), seconds, why));
    }
    for (index, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let path = path.child("hostAliases").index(index);
        errors.extend(checks::ip(&alias.ip, &path.child("ip")));
        for hostname in alias.hostnames.iter().flatten() {
            errors.extend(checks::dns1123_subdomain(hostname, &path.child("hostnames")));
        }
    }
    if let Some(policy) = &spec.preemption_policy {
        let policies = &["Never", "PreemptLowerPriority"];
        errors.extend(checks::required_one_of(policy, policies, &path.child("preemptionPolicy")));
    }
    if let Some(os) = &spec.os {
        errors.extend(checks::required_one_of(&os.name, &["linux", "windows"], &path.child("os").child("name")));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::podspec::defaults;

    #[track_caller]
    fn check(fields: &str, expected: &[&str]) {
        let mut spec: PodSpec =
            serde_yaml::from_str(&format!("{{containers: [{{name: a, image: i}}], {fields}}}")).unwrap();
        defaults::pod(&mut spec);
        let errors: Vec<String> =
            validate(&spec, Owner::Pod, &Path::new("spec")).iter().map(ToString::to_string).collect();
        assert_eq!(errors, expected);
    }

    #[test]
    fn policies_are_known() {
        check("", &[]);
        check(
            "restartPolicy: Maybe, dnsPolicy: Own",
            &[
                "spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"OnFailure\", \"Never\"",
                "spec.dnsPolicy: Unsupported value: \"Own\": supported values: \"ClusterFirstWithHostNet\", \"ClusterFirst\", \"Default\", \"None\"",
            ],
        );
    }

    #[test]
    fn deadlines_and_names() {
        check(
            "activeDeadlineSeconds: 0",
            &["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"],
        );
        check(
            "hostAliases: [{ip: x, hostnames: [a.b]}]",
            &[
                "spec.hostAliases[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ],
        );
    }

    #[test]
    fn dns_of_ones_own_needs_servers() {
        check(
            "dnsPolicy: None",
            &["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
        );
        check("dnsPolicy: None, dnsConfig: {nameservers: [127.0.0.1], searches: [a.b.]}", &[]);
        check(
            "dnsConfig: {nameservers: [1.1.1.1, 2.2.2.2, 3.3.3.3, 4.4.4.4]}",
            &[
                "spec.dnsConfig.nameservers: Invalid value: [\"1.1.1.1\",\"2.2.2.2\",\"3.3.3.3\",\"4.4.4.4\"]: must not have more than 3 nameservers",
            ],
        );
    }
}
