//! A pod's resolver settings, from its policy. Pure. Source: `k8s.io/kubernetes/pkg/kubelet/network/dns`.

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use wharf_cri::DnsConfig;

use crate::names;

/// As upstream's `MaxDNSSearchPaths` and `MaxDNSNameservers`.
const MAX_SEARCHES: usize = 32;
const MAX_SERVERS: usize = 3;

/// `host` is what the node itself uses.
pub fn config(pod: &Pod, spec: &PodSpec, servers: &[String], domain: &str, host: &DnsConfig) -> DnsConfig {
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let host_network = spec.host_network == Some(true);
    let cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !host_network,
        _ => false,
    } && !servers.is_empty();
    let mut config = if policy == "None" {
        DnsConfig::default()
    } else if cluster {
        let namespace = names::namespace(pod);
        let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
        searches.extend(host.searches.iter().cloned());
        DnsConfig { servers: servers.to_vec(), searches, options: vec!["ndots:5".to_owned()] }
    } else {
        host.clone()
    };
    if let Some(own) = &spec.dns_config {
        config.servers.extend(own.nameservers.iter().flatten().cloned());
        config.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            config.options.retain(|held| held.split(':').next() != Some(name));
            config.options.push(option.value.as_ref().map_or_else(|| name.clone(), |value| format!("{name}:{value}")));
        }
    }
    dedup(&mut config.servers, MAX_SERVERS);
    dedup(&mut config.searches, MAX_SEARCHES);
    config
}

fn dedup(list: &mut Vec<String>, limit: usize) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|entry| seen.insert(entry.clone()));
    list.truncate(limit);
}

/// Reads a `resolv.conf`.
pub fn parse_resolv_conf(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            Some("search") => config.searches = words.filter(|word| *word != ".").map(str::to_owned).collect(),
            Some("options") => config.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(spec: Value, expected: &str) {
        let mut all = json!({"containers": []});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d"}, "spec": all})).unwrap();
        let host = parse_resolv_conf("# x\nnameserver 9.9.9.9\nsearch corp.example\noptions ndots:1\n");
        let config = config(&pod, pod.spec.as_ref().unwrap(), &["10.96.0.10".to_owned()], "cluster.local", &host);
        let shown =
            format!("{} | {} | {}", config.servers.join(" "), config.searches.join(" "), config.options.join(" "));
        assert_eq!(shown, expected);
    }

    #[test]
    fn policies_choose_servers_and_searches() {
        let cluster = "10.96.0.10 | d.svc.cluster.local svc.cluster.local cluster.local corp.example | ndots:5";
        check(json!({}), cluster);
        check(json!({"hostNetwork": true}), "9.9.9.9 | corp.example | ndots:1");
        check(json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}), cluster);
        check(json!({"dnsPolicy": "Default"}), "9.9.9.9 | corp.example | ndots:1");
        let own = json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["x"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}});
        check(own, "1.1.1.1 | x | ndots:2 edns0");
    }
}
