//! Endpoints: the addresses behind a Service, as clients older than EndpointSlice read them.

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints};

use super::{NONE, created, name};
use crate::checks::{self, PROTOCOLS};
use crate::podspec::defaults::text;
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct AllEndpoints;

/// How many addresses a cell shows.
pub const SHOWN_MAX: usize = 3;

impl Strategy for AllEndpoints {
    type Object = Endpoints;

    fn default(&self, endpoints: &mut Endpoints) {
        for port in endpoints.subsets.iter_mut().flatten().flat_map(|subset| subset.ports.iter_mut().flatten()) {
            text(&mut port.protocol, "TCP");
        }
    }

    fn validate(&self, endpoints: &Endpoints) -> Errors {
        let path = Path::new("subsets");
        let subsets = endpoints.subsets.iter().flatten().enumerate();
        subsets.flat_map(|(index, subset)| validate_subset(subset, &path.index(index))).collect()
    }

    fn deprecation(&self) -> Option<&'static str> {
        Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new(
                "Endpoints",
                "string",
                "The set of all endpoints is the union of all subsets. Addresses are placed into subsets according to the IPs they share. A single address with multiple ports, some of which are ready and some of which are not (because they come from different containers) will result in the address being displayed in different subsets for the different ports. No address will appear in both Addresses and NotReadyAddresses in the same subset. Sets of addresses and ports that comprise a service.",
            ),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, endpoints: &Endpoints, now: Timestamp) -> Vec<Value> {
        vec![name(&endpoints.metadata), shown(endpoints).into(), created(&endpoints.metadata, now)]
    }
}

fn validate_subset(subset: &EndpointSubset, path: &Path) -> Errors {
    let addresses = subset.addresses.as_deref().unwrap_or_default();
    let not_ready = subset.not_ready_addresses.as_deref().unwrap_or_default();
    let mut errors = Vec::new();
    if addresses.is_empty() && not_ready.is_empty() {
        errors.push(Error::required(path, "must specify `addresses` or `notReadyAddresses`"));
    }
    for (field, list) in [("addresses", addresses), ("notReadyAddresses", not_ready)] {
        for (index, address) in list.iter().enumerate() {
            errors.extend(validate_address(address, &path.child(field).index(index)));
        }
    }
    let ports = subset.ports.as_deref().unwrap_or_default();
    for (index, port) in ports.iter().enumerate() {
        errors.extend(validate_port(port, ports.len() > 1, &path.child("ports").index(index)));
    }
    errors
}

fn validate_address(address: &EndpointAddress, path: &Path) -> Errors {
    let mut errors = checks::endpoint_ip(&address.ip, &path.child("ip"));
    if let Some(hostname) = address.hostname.as_deref().filter(|hostname| !hostname.is_empty()) {
        errors.extend(checks::dns1123_label(hostname, &path.child("hostname")));
    }
    if let Some(node) = &address.node_name {
        errors.extend(checks::dns1123_subdomain(node, &path.child("nodeName")));
    }
    errors
}

fn validate_port(port: &EndpointPort, needs_name: bool, path: &Path) -> Errors {
    let mut errors = Vec::new();
    match port.name.as_deref().unwrap_or_default() {
        "" if needs_name => errors.push(Error::required(&path.child("name"), "")),
        "" => {}
        name => errors.extend(checks::dns1123_label(name, &path.child("name"))),
    }
    errors.extend(checks::port_number(port.port, &path.child("port")));
    let protocol = port.protocol.as_deref().unwrap_or_default();
    errors.extend(checks::required_one_of(protocol, PROTOCOLS, &path.child("protocol")));
    if let Some(protocol) = &port.app_protocol {
        errors.extend(checks::qualified_name(protocol, &path.child("appProtocol")));
    }
    errors
}

fn shown(endpoints: &Endpoints) -> String {
    let mut all: Vec<String> = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        let addresses = subset.addresses.as_deref().unwrap_or_default();
        match subset.ports.as_deref().unwrap_or_default() {
            [] => all.extend(addresses.iter().map(|address| address.ip.clone())),
            ports => {
                for port in ports {
                    all.extend(addresses.iter().map(|address| host_port(&address.ip, port.port)));
                }
            }
        }
    }
    if endpoints.subsets.as_ref().is_none_or(Vec::is_empty) { NONE.to_owned() } else { first_few(&all) }
}

fn host_port(ip: &str, port: i32) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

/// `a,b,c + 2 more...`
pub fn first_few(all: &[String]) -> String {
    let shown = all[..all.len().min(SHOWN_MAX)].join(",");
    if all.len() > SHOWN_MAX { format!("{shown} + {} more...", all.len() - SHOWN_MAX) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells};

    #[test]
    fn subsets_need_addresses() {
        check(&AllEndpoints, "{subsets: [{addresses: [{ip: 127.64.0.1}], ports: [{port: 80}]}]}", &[]);
        check(
            &AllEndpoints,
            "{subsets: [{ports: [{port: 0}]}]}",
            &[
                "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`",
                "subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ],
        );
        check(
            &AllEndpoints,
            "{subsets: [{addresses: [{ip: 0.0.0.0}, {ip: x}]}]}",
            &[
                "subsets[0].addresses[0].ip: Invalid value: \"0.0.0.0\": may not be unspecified (0.0.0.0)",
                "subsets[0].addresses[1].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ],
        );
    }

    #[test]
    fn three_addresses_are_shown() {
        check_cells(&AllEndpoints, "{metadata: {name: a}}", "a | <none> | <unknown>");
        check_cells(
            &AllEndpoints,
            "{metadata: {name: a}, subsets: [{addresses: [{ip: 10.0.0.1}, {ip: 10.0.0.2}], ports: [{name: a, port: 1}, {name: b, port: 2}]}]}",
            "a | 10.0.0.1:1,10.0.0.2:1,10.0.0.1:2 + 1 more... | <unknown>",
        );
    }
}
