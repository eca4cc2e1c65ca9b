//! Names of services and pods, as the Kubernetes DNS specification (1.1.0) gives them.
//!
//! [`Names::answer`] is pure over the service table; both the DNS server and guests' lookups use it. Absent on purpose: a
//! cache (the table is in memory already).

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::services::{Endpoint, Services};
use crate::{Error, Transport};

/// A name with fewer dots than this is tried with the search domains first (`ndots` of a pod's resolv.conf).
const NDOTS: usize = 5;
/// The version of the specification that is served at `dns-version.<zone>`.
pub const SCHEMA_VERSION: &str = "1.1.0";

#[derive(Clone)]
pub struct Names {
    services: Arc<Services>,
    /// Lower case, without a dot at either end: `cluster.local`.
    zone: String,
}

/// What a name of the cluster's zone stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Addresses(Vec<IpAddr>),
    /// (target, address, port)
    Ports(Vec<(String, IpAddr, u16)>),
    /// An ExternalName service.
    Alias(String),
    Text(String),
    /// The name exists and has no records of this kind.
    NoData,
    NoSuchName,
    /// The name is not in the cluster's zone.
    NotOurs,
}

impl Names {
    pub fn new(services: Arc<Services>, zone: &str) -> Self {
        Self { services, zone: zone.trim_matches('.').to_ascii_lowercase() }
    }

    pub fn zone(&self) -> &str {
        &self.zone
    }

    /// What `name` stands for. A final dot is ignored.
    pub fn answer(&self, name: &str) -> Answer {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let Some(inner) = name.strip_suffix(&self.zone) else { return Answer::NotOurs };
        let labels: Vec<&str> = match inner.strip_suffix('.') {
            None if inner.is_empty() => return Answer::NoData,
            None => return Answer::NotOurs,
            Some(inner) => inner.split('.').collect(),
        };
        match labels.as_slice() {
            ["dns-version"] => Answer::Text(SCHEMA_VERSION.to_owned()),
            ["svc" | "pod"] => Answer::NoData,
            [service, namespace, "svc"] => self.service(namespace, service),
            [host, service, namespace, "svc"] => self.host(namespace, service, host),
            [port, protocol, service, namespace, "svc"] => self.ports(namespace, service, port, protocol),
            [dashed, _, "pod"] => dashed_address(dashed).map_or(Answer::NoSuchName, |ip| Answer::Addresses(vec![ip])),
            _ => Answer::NoSuchName,
        }
    }

    fn service(&self, namespace: &str, service: &str) -> Answer {
        let Some(record) = self.services.record(namespace, service) else { return Answer::NoSuchName };
        match (record.external_name, record.cluster_ips) {
            (Some(alias), _) => Answer::Alias(alias),
            (None, ips) if !ips.is_empty() => Answer::Addresses(ips),
            (None, _) => Answer::Addresses(
                self.published(namespace, service, record.publish_not_ready).map(|endpoint| endpoint.ip).collect(),
            ),
        }
    }

    /// Endpoints that a headless service shows.
    fn published(&self, namespace: &str, service: &str, not_ready_too: bool) -> impl Iterator<Item = Endpoint> + use<> {
        self.services.endpoints(namespace, service).into_iter().filter(move |endpoint| endpoint.ready || not_ready_too)
    }

    fn host(&self, namespace: &str, service: &str, host: &str) -> Answer {
        let Some(record) = self.services.record(namespace, service).filter(|record| record.cluster_ips.is_empty())
        else {
            return Answer::NoSuchName;
        };
        let endpoints = self.published(namespace, service, record.publish_not_ready);
        let ips: Vec<IpAddr> =
            endpoints.filter(|endpoint| host_label(endpoint) == host).map(|endpoint| endpoint.ip).collect();
        if ips.is_empty() { Answer::NoSuchName } else { Answer::Addresses(ips) }
    }

    fn ports(&self, namespace: &str, service: &str, port: &str, protocol: &str) -> Answer {
        let transport = match protocol {
            "_tcp" => Transport::Tcp,
            "_udp" => Transport::Udp,
            _ => return Answer::NoSuchName,
        };
        let (Some(record), Some(port)) = (self.services.record(namespace, service), port.strip_prefix('_')) else {
            return Answer::NoSuchName;
        };
        let Some(&(_, _, number)) = record.ports.iter().find(|(name, over, _)| name == port && *over == transport)
        else {
            return Answer::NoSuchName;
        };
        let base = format!("{service}.{namespace}.svc.{}", self.zone);
        let targets = match record.cluster_ips.first() {
            Some(ip) => vec![(base, *ip, number)],
            None => {
                let endpoints = self.published(namespace, service, record.publish_not_ready);
                endpoints.map(|endpoint| (format!("{}.{base}", host_label(&endpoint)), endpoint.ip, number)).collect()
            }
        };
        Answer::Ports(targets)
    }

    /// Resolves as a pod's resolv.conf would: search domains first for names with few dots, then the name as it stands;
    /// names outside the zone go to the host's resolver.
    pub async fn lookup(&self, name: &str, searches: &[String]) -> Result<Vec<IpAddr>, Error> {
        if let Ok(ip) = name.parse() {
            return Ok(vec![ip]);
        }
        if name.eq_ignore_ascii_case("localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into()]);
        }
        for candidate in candidates(name, searches) {
            match self.answer(&candidate) {
                Answer::Addresses(ips) if !ips.is_empty() => return Ok(ips),
                Answer::Alias(target) => return host_lookup(&target).await,
                Answer::NotOurs if candidate.trim_end_matches('.') == name.trim_end_matches('.') => {
                    return host_lookup(name).await;
                }
                _ => {}
            }
        }
        Err(Error::NoSuchName(name.to_owned()))
    }
}

/// The names to try, in order. Search domains outside the cluster's zone are the host resolver's own business.
fn candidates(name: &str, searches: &[String]) -> Vec<String> {
    if name.ends_with('.') {
        return vec![name.to_owned()];
    }
    let searched = searches.iter().map(|domain| format!("{name}.{}", domain.trim_end_matches('.')));
    if name.matches('.').count() >= NDOTS {
        std::iter::once(name.to_owned()).chain(searched).collect()
    } else {
        searched.chain(std::iter::once(name.to_owned())).collect()
    }
}

async fn host_lookup(name: &str) -> Result<Vec<IpAddr>, Error> {
    let found = tokio::net::lookup_host((name.trim_end_matches('.'), 0)).await.map_err(|error| {
        tracing::debug!(name, %error, "host lookup failed");
        Error::NoSuchName(name.to_owned())
    })?;
    Ok(found.map(|address| address.ip()).collect())
}

/// An endpoint's own label: its hostname, or its address with dashes.
fn host_label(endpoint: &Endpoint) -> String {
    endpoint.hostname.clone().unwrap_or_else(|| endpoint.ip.to_string().replace(['.', ':'], "-"))
}

fn dashed_address(label: &str) -> Option<IpAddr> {
    label.replace('-', ".").parse::<Ipv4Addr>().ok().map(IpAddr::V4)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::services::tests::{service, slice};

    fn names() -> Names {
        let services = Arc::new(Services::default());
        let ports = json!([{ "name": "http", "port": 80 }]);
        services.apply_service(service("web", json!({ "clusterIP": "127.96.0.7", "ports": ports })));
        services.apply_service(service("db", json!({ "clusterIP": "None", "ports": ports })));
        services.apply_service(service("far", json!({ "type": "ExternalName", "externalName": "example.com" })));
        services.apply_slice(slice("db", 5432, json!([{ "addresses": ["127.64.0.9"], "hostname": "db-0" }, { "addresses": ["127.64.0.8"], "conditions": { "ready": false } }])));
        Names::new(services, "cluster.local.")
    }

    fn check(name: &str, expected: Answer) {
        assert_eq!(names().answer(name), expected, "{name}");
    }

    fn addresses(text: &str) -> Answer {
        Answer::Addresses(vec![text.parse().unwrap()])
    }

    #[test]
    fn names_follow_the_specification() {
        check("web.default.svc.cluster.local.", addresses("127.96.0.7"));
        check("WEB.default.svc.cluster.local", addresses("127.96.0.7"));
        check("db.default.svc.cluster.local", addresses("127.64.0.9"));
        check("db-0.db.default.svc.cluster.local", addresses("127.64.0.9"));
        check("far.default.svc.cluster.local", Answer::Alias("example.com".to_owned()));
        check("1-2-3-4.default.pod.cluster.local", addresses("1.2.3.4"));
        check("dns-version.cluster.local", Answer::Text("1.1.0".to_owned()));
        check("no.default.svc.cluster.local", Answer::NoSuchName);
        check("example.com", Answer::NotOurs);
        check("notcluster.local", Answer::NotOurs);
    }

    #[test]
    fn ports_have_service_records() {
        let web = ("web.default.svc.cluster.local".to_owned(), "127.96.0.7".parse().unwrap(), 80);
        check("_http._tcp.web.default.svc.cluster.local", Answer::Ports(vec![web]));
        let db = ("db-0.db.default.svc.cluster.local".to_owned(), "127.64.0.9".parse().unwrap(), 80);
        check("_http._tcp.db.default.svc.cluster.local", Answer::Ports(vec![db]));
        check("_http._udp.web.default.svc.cluster.local", Answer::NoSuchName);
    }

    #[tokio::test]
    async fn short_names_resolve_through_the_search_domains() {
        let searches = ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"].map(str::to_owned);
        let expected: Vec<IpAddr> = vec!["127.96.0.7".parse().unwrap()];
        for name in
            ["web", "web.default", "web.default.svc", "web.default.svc.cluster.local", "web.default.svc.cluster.local."]
        {
            assert_eq!(names().lookup(name, &searches).await.unwrap(), expected, "{name}");
        }
        assert!(names().lookup("nobody.default.svc.cluster.local", &searches).await.is_err());
    }
}
