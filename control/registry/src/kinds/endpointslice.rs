//! EndpointSlices: the addresses behind a Service, a hundred at a time.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

use super::endpoints::first_few;
use super::{created, name};
use crate::checks::{self, PROTOCOLS};
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct EndpointSlices;

const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const ZONE_HINTS_MAX: usize = 8;
const ADDRESS_TYPES: &[&str] = &["FQDN", "IPv4", "IPv6"];

impl Strategy for EndpointSlices {
    type Object = EndpointSlice;

    fn default(&self, slice: &mut EndpointSlice) {
        for port in slice.ports.iter_mut().flatten() {
            port.name.get_or_insert_default();
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
        }
    }

    fn prepare_for_create(&self, slice: &mut EndpointSlice) {
        slice.metadata.generation = Some(1);
    }

    fn prepare_for_update(&self, slice: &mut EndpointSlice, old: &EndpointSlice) {
        // Labels count: they say which Service a slice belongs to.
        let changed = slice.endpoints != old.endpoints
            || slice.ports != old.ports
            || slice.address_type != old.address_type
            || slice.metadata.labels != old.metadata.labels;
        super::generation(&mut slice.metadata, &old.metadata, changed);
    }

    fn validate(&self, slice: &EndpointSlice) -> Errors {
        let mut errors = checks::required_one_of(&slice.address_type, ADDRESS_TYPES, &Path::new("addressType"));
        let endpoints = slice.endpoints.as_deref().unwrap_or_default();
        if endpoints.len() > ENDPOINTS_MAX {
            errors.push(Error::too_many(&Path::new("endpoints"), endpoints.len(), ENDPOINTS_MAX));
        } else {
            for (index, endpoint) in endpoints.iter().enumerate() {
                errors.extend(validate_endpoint(endpoint, &slice.address_type, &Path::new("endpoints").index(index)));
            }
        }
        errors.extend(validate_ports(slice.ports.as_deref().unwrap_or_default(), &Path::new("ports")));
        errors
    }

    fn validate_update(&self, new: &EndpointSlice, old: &EndpointSlice) -> Errors {
        checks::immutable(&new.address_type, &old.address_type, &Path::new("addressType"))
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new(
                "AddressType",
                "string",
                "addressType specifies the type of address carried by this EndpointSlice. All addresses in this slice must be the same type. This field is immutable after creation. The following address types are currently supported: * IPv4: Represents an IPv4 Address. * IPv6: Represents an IPv6 Address. * FQDN: Represents a Fully Qualified Domain Name.",
            ),
            Column::new(
                "Ports",
                "string",
                "ports specifies the list of network ports exposed by each endpoint in this slice. Each port must have a unique name. When ports is empty, it indicates that there are no defined ports. When a port is defined with a nil port value, it indicates \"all ports\". Each slice may include a maximum of 100 ports.",
            ),
            Column::new(
                "Endpoints",
                "string",
                "endpoints is a list of unique endpoints in this slice. Each slice may include a maximum of 1000 endpoints.",
            ),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, slice: &EndpointSlice, now: Timestamp) -> Vec<Value> {
        let ports: Vec<String> = slice.ports.iter().flatten().map(shown_port).collect();
        let addresses: Vec<String> =
            slice.endpoints.iter().flatten().flat_map(|endpoint| endpoint.addresses.iter().cloned()).collect();
        let unset_or = |all: &[String]| if all.is_empty() { "<unset>".to_owned() } else { first_few(all) };
        vec![
            name(&slice.metadata),
            slice.address_type.clone().into(),
            unset_or(&ports).into(),
            unset_or(&addresses).into(),
            created(&slice.metadata, now),
        ]
    }
}

fn shown_port(port: &EndpointPort) -> String {
    port.port.map_or_else(|| "*".to_owned(), |port| port.to_string())
}

fn validate_endpoint(endpoint: &Endpoint, address_type: &str, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let addresses = path.child("addresses");
    if endpoint.addresses.is_empty() {
        errors.push(Error::required(&addresses, "must contain at least 1 address"));
    } else if endpoint.addresses.len() > ADDRESSES_MAX {
        errors.push(Error::too_many(&addresses, endpoint.addresses.len(), ADDRESSES_MAX));
    }
    for (index, address) in endpoint.addresses.iter().enumerate() {
        errors.extend(validate_address(address, address_type, &addresses.index(index)));
    }
    if let Some(node) = &endpoint.node_name {
        errors.extend(checks::dns1123_subdomain(node, &path.child("nodeName")));
    }
    if let Some(hostname) = &endpoint.hostname {
        errors.extend(checks::dns1123_label(hostname, &path.child("hostname")));
    }
    let zones = endpoint.hints.iter().flat_map(|hints| hints.for_zones.iter()).next().map_or(&[][..], Vec::as_slice);
    let hints = path.child("hints").child("forZones");
    if zones.len() > ZONE_HINTS_MAX {
        errors.push(Error::too_many(&hints, zones.len(), ZONE_HINTS_MAX));
    }
    let mut seen = BTreeSet::new();
    for (index, zone) in zones.iter().enumerate() {
        if !seen.insert(&zone.name) {
            errors.push(Error::duplicate(&hints.index(index).child("name"), &zone.name));
        }
    }
    errors
}

fn validate_address(address: &str, address_type: &str, path: &Path) -> Errors {
    match address_type {
        "IPv4" if address.parse::<Ipv4Addr>().is_err() => {
            vec![Error::invalid(path, address, "must be a valid IPv4 address")]
        }
        "IPv6" if address.parse::<Ipv6Addr>().is_err() => {
            vec![Error::invalid(path, address, "must be a valid IPv6 address")]
        }
        "IPv4" | "IPv6" => checks::endpoint_ip(address, path),
        "FQDN" => {
            let mut errors = checks::dns1123_subdomain(address.strip_suffix('.').unwrap_or(address), path);
            if errors.is_empty() && !address.contains('.') {
                errors.push(Error::invalid(
                    path,
                    address,
                    "should be a domain with at least two segments separated by dots",
                ));
            }
            errors
        }
        _ => Vec::new(),
    }
}

fn validate_ports(ports: &[EndpointPort], path: &Path) -> Errors {
    if ports.len() > PORTS_MAX {
        return vec![Error::too_many(path, ports.len(), PORTS_MAX)];
    }
    let (mut errors, mut seen) = (Vec::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() {
            errors.extend(checks::dns1123_label(name, &path.child("name")));
        }
        if !seen.insert(name) {
            errors.push(Error::duplicate(&path.child("name"), name));
        }
        let protocol = port.protocol.as_deref().unwrap_or_default();
        errors.extend(checks::required_one_of(protocol, PROTOCOLS, &path.child("protocol")));
        if let Some(protocol) = &port.app_protocol {
            errors.extend(checks::qualified_name(protocol, &path.child("appProtocol")));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, check_update, created};

    #[test]
    fn ports_have_a_name_and_a_protocol() {
        created(
            &EndpointSlices,
            "{metadata: {name: a}, addressType: IPv4, ports: [{port: 80}]}",
            r#"{"metadata":{"name":"a","generation":1},"addressType":"IPv4","ports":[{"name":"","port":80,"protocol":"TCP"}]}"#,
        );
    }

    #[test]
    fn addresses_are_of_their_type() {
        check(&EndpointSlices, "{addressType: IPv4, endpoints: [{addresses: [127.64.0.2]}]}", &[]);
        check(
            &EndpointSlices,
            "{addressType: IPv4, endpoints: [{addresses: ['::1']}, {addresses: []}], ports: [{}, {}]}",
            &[
                "endpoints[0].addresses[0]: Invalid value: \"::1\": must be a valid IPv4 address",
                "endpoints[1].addresses: Required value: must contain at least 1 address",
                "ports[1].name: Duplicate value: \"\"",
            ],
        );
        check(
            &EndpointSlices,
            "{addressType: X}",
            &["addressType: Unsupported value: \"X\": supported values: \"FQDN\", \"IPv4\", \"IPv6\""],
        );
        check_update(
            &EndpointSlices,
            "{addressType: IPv4}",
            "{addressType: IPv6}",
            &["addressType: Invalid value: \"IPv6\": field is immutable"],
        );
    }

    #[test]
    fn slices_show_ports_and_addresses() {
        check_cells(
            &EndpointSlices,
            "{metadata: {name: a}, addressType: IPv4}",
            "a | IPv4 | <unset> | <unset> | <unknown>",
        );
        check_cells(
            &EndpointSlices,
            "{metadata: {name: a}, addressType: IPv4, ports: [{port: 80}], endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2]}]}",
            "a | IPv4 | 80 | 10.0.0.1,10.0.0.2 | <unknown>",
        );
    }
}
