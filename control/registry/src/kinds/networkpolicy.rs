//! NetworkPolicies: whom pods may talk to.
//!
//! Source: `ValidateNetworkPolicy` of `pkg/apis/networking/validation`, `pkg/apis/networking/v1/defaults.go`.

use jiff::Timestamp;
use serde_json::Value;
use wharf_machinery::selector;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use wharf_types::k8s::apimachinery::pkg::util::intstr::IntOrString;

use super::{NONE, created, format_selector, name};
use crate::checks;
use crate::network::Block;
use crate::podspec::defaults::text;
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct NetworkPolicies;

const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];
const POLICY_TYPES: &[&str] = &["Ingress", "Egress"];

impl Strategy for NetworkPolicies {
    type Object = NetworkPolicy;

    fn default(&self, policy: &mut NetworkPolicy) {
        let spec = policy.spec.get_or_insert_default();
        spec.pod_selector.get_or_insert_default();
        let ingress = spec.ingress.iter_mut().flatten().flat_map(|rule| rule.ports.iter_mut().flatten());
        let egress = spec.egress.iter_mut().flatten().flat_map(|rule| rule.ports.iter_mut().flatten());
        for port in ingress.chain(egress) {
            text(&mut port.protocol, "TCP");
        }
        let has_egress = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
        let types = spec.policy_types.get_or_insert_default();
        if types.is_empty() {
            types.push("Ingress".to_owned());
            types.extend(has_egress.then(|| "Egress".to_owned()));
        }
    }

    fn prepare_for_create(&self, policy: &mut NetworkPolicy) {
        policy.metadata.generation = Some(1);
    }

    fn prepare_for_update(&self, policy: &mut NetworkPolicy, old: &NetworkPolicy) {
        let changed = policy.spec != old.spec;
        super::generation(&mut policy.metadata, &old.metadata, changed);
    }

    fn validate(&self, policy: &NetworkPolicy) -> Errors {
        policy.spec.as_ref().map_or_else(Vec::new, |spec| validate_spec(spec, &Path::new("spec")))
    }

    fn warnings(&self, policy: &NetworkPolicy, _old: Option<&NetworkPolicy>) -> Vec<String> {
        let mut warnings = Vec::new();
        for rule in policy.spec.iter().flat_map(|spec| rules(spec, &Path::new("spec"))) {
            for (index, peer) in rule.peers.iter().enumerate() {
                let Some(block) = &peer.ip_block else { continue };
                let path = rule.peers_path.index(index).child("ipBlock");
                warnings.extend(checks::cidr_warning(&block.cidr, &path.child("cidr")));
                let except = block.except.iter().flatten().enumerate();
                warnings
                    .extend(except.filter_map(|(index, except)| {
                        checks::cidr_warning(except, &path.child("except").index(index))
                    }));
            }
        }
        warnings
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new(
                "Pod-Selector",
                "string",
                "podSelector selects the pods to which this NetworkPolicy object applies. The array of rules is applied to any pods selected by this field. An empty selector matches all pods in the policy's namespace. Multiple network policies can select the same set of pods. In this case, the ingress rules for each are combined additively. This field is optional. If it is not specified, it defaults to an empty selector.",
            ),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, policy: &NetworkPolicy, now: Timestamp) -> Vec<Value> {
        let selector = policy.spec.as_ref().and_then(|spec| spec.pod_selector.as_ref());
        let selector = selector.map_or_else(|| NONE.to_owned(), format_selector);
        vec![name(&policy.metadata), selector.into(), created(&policy.metadata, now)]
    }
}

/// A rule of either direction.
struct Rule<'a> {
    ports: &'a [NetworkPolicyPort],
    ports_path: Path,
    peers: &'a [NetworkPolicyPeer],
    peers_path: Path,
}

fn rules<'a>(spec: &'a NetworkPolicySpec, path: &Path) -> Vec<Rule<'a>> {
    let rule = |ports: &'a Option<Vec<_>>, peers: &'a Option<Vec<_>>, path: Path, peers_field: &str| Rule {
        ports: ports.as_deref().unwrap_or_default(),
        ports_path: path.child("ports"),
        peers: peers.as_deref().unwrap_or_default(),
        peers_path: path.child(peers_field),
    };
    let ingress = spec.ingress.iter().flatten().enumerate();
    let ingress = ingress.map(|(at, item)| rule(&item.ports, &item.from, path.child("ingress").index(at), "from"));
    let egress = spec.egress.iter().flatten().enumerate();
    let egress = egress.map(|(at, item)| rule(&item.ports, &item.to, path.child("egress").index(at), "to"));
    ingress.chain(egress).collect()
}

fn validate_spec(spec: &NetworkPolicySpec, path: &Path) -> Errors {
    let selector = spec.pod_selector.iter();
    let mut errors: Errors = selector.flat_map(|pods| selector::validate(pods, &path.child("podSelector"))).collect();
    for rule in rules(spec, path) {
        let ports = rule.ports.iter().enumerate();
        errors.extend(ports.flat_map(|(index, port)| validate_port(port, &rule.ports_path.index(index))));
        let peers = rule.peers.iter().enumerate();
        errors.extend(peers.flat_map(|(index, peer)| validate_peer(peer, &rule.peers_path.index(index))));
    }
    let (types, path) = (spec.policy_types.as_deref().unwrap_or_default(), path.child("policyTypes"));
    if types.len() > POLICY_TYPES.len() {
        errors.push(Error::invalid(&path, checks::json(types), "may not specify more than two policyTypes"));
        return errors;
    }
    errors.extend(types.iter().enumerate().flat_map(|(at, kind)| checks::one_of(kind, POLICY_TYPES, &path.index(at))));
    errors
}

fn validate_port(port: &NetworkPolicyPort, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if let Some(protocol) = &port.protocol {
        errors.extend(checks::one_of(protocol, PROTOCOLS, &path.child("protocol")));
    }
    let at = path.child("endPort");
    match (&port.port, port.end_port) {
        (Some(IntOrString::Int(number)), end) => {
            errors.extend(checks::port_number(*number, &path.child("port")));
            if let Some(end) = end {
                if end < *number {
                    // The value that upstream shows is that of the port.
                    errors.push(Error::invalid(&at, *number, "must be greater than or equal to `port`"));
                }
                errors.extend(checks::port_number(end, &at));
            }
        }
        (Some(IntOrString::String(name)), end) => {
            let why = "may not be specified when `port` is non-numeric";
            errors.extend(end.map(|end| Error::invalid(&at, end, why)));
            errors.extend(checks::port_name(name, &path.child("port")));
        }
        (None, Some(end)) => {
            errors.push(Error::invalid(&at, end, "may not be specified when `port` is not specified"));
        }
        (None, None) => {}
    }
    errors
}

fn validate_peer(peer: &NetworkPolicyPeer, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let selectors = [("podSelector", &peer.pod_selector), ("namespaceSelector", &peer.namespace_selector)];
    for (field, selector) in selectors {
        errors.extend(selector.iter().flat_map(|selector| selector::validate(selector, &path.child(field))));
    }
    let selects = selectors.iter().any(|(_, selector)| selector.is_some());
    match &peer.ip_block {
        Some(block) => {
            errors.extend(validate_block(block, &path.child("ipBlock")));
            if selects {
                errors.push(Error::forbidden(path, "may not specify both ipBlock and another peer"));
            }
        }
        None if !selects => errors.push(Error::required(path, "must specify a peer")),
        None => {}
    }
    errors
}

fn validate_block(block: &IPBlock, path: &Path) -> Errors {
    let at = path.child("cidr");
    if block.cidr.is_empty() {
        return vec![Error::required(&at, "")];
    }
    let mut errors = checks::cidr(&block.cidr, &at);
    let Some(whole) = Block::parse(&block.cidr) else { return errors };
    for (index, except) in block.except.iter().flatten().enumerate() {
        let path = path.child("except").index(index);
        errors.extend(checks::cidr(except, &path));
        if Block::parse(except).is_some_and(|except| !whole.contains(except.first()) || whole.bits >= except.bits) {
            errors.push(Error::invalid(&path, except, "must be a strict subset of `cidr`"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, object};

    fn from(rule: &str) -> String {
        format!("{{metadata: {{name: p}}, spec: {{podSelector: {{}}, ingress: [{rule}]}}}}")
    }

    #[test]
    fn the_types_follow_the_rules() {
        let types = |yaml: &str| object(&NetworkPolicies, yaml).spec.unwrap().policy_types.unwrap();
        assert_eq!(types("{spec: {podSelector: {}}}"), ["Ingress"]);
        assert_eq!(types("{spec: {podSelector: {}, egress: [{}]}}"), ["Ingress", "Egress"]);
        assert_eq!(types("{spec: {podSelector: {}, policyTypes: [Egress]}}"), ["Egress"]);
        let ports = object(&NetworkPolicies, &from("{ports: [{port: 80}]}")).spec.unwrap().ingress.unwrap();
        assert_eq!(ports[0].ports.as_ref().unwrap()[0].protocol.as_deref(), Some("TCP"));
    }

    #[test]
    fn ports_are_ranges_of_numbers_or_names() {
        check(&NetworkPolicies, &from("{ports: [{port: 80, endPort: 90}, {port: http}, {}]}"), &[]);
        check(
            &NetworkPolicies,
            &from("{ports: [{port: 80, endPort: 70}, {port: http, endPort: 5}, {endPort: 5}, {protocol: ICMP}]}"),
            &[
                "spec.ingress[0].ports[0].endPort: Invalid value: 80: must be greater than or equal to `port`",
                "spec.ingress[0].ports[1].endPort: Invalid value: 5: may not be specified when `port` is non-numeric",
                "spec.ingress[0].ports[2].endPort: Invalid value: 5: may not be specified when `port` is not specified",
                "spec.ingress[0].ports[3].protocol: Unsupported value: \"ICMP\": supported values: \"TCP\", \"UDP\", \"SCTP\"",
            ],
        );
    }

    #[test]
    fn peers_are_pods_or_addresses() {
        check(&NetworkPolicies, &from("{from: [{podSelector: {}, namespaceSelector: {}}]}"), &[]);
        check(&NetworkPolicies, &from("{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}"), &[]);
        check(
            &NetworkPolicies,
            &from(
                "{from: [{}, {podSelector: {}, ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8, 11.0.0.0/16]}}, {ipBlock: {cidr: x}}]}",
            ),
            &[
                "spec.ingress[0].from[0]: Required value: must specify a peer",
                "spec.ingress[0].from[1].ipBlock.except[0]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`",
                "spec.ingress[0].from[1].ipBlock.except[1]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
                "spec.ingress[0].from[1]: Forbidden: may not specify both ipBlock and another peer",
                "spec.ingress[0].from[2].ipBlock.cidr: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ],
        );
        let odd = object(&NetworkPolicies, &from("{from: [{ipBlock: {cidr: 10.1.2.3/8}}]}"));
        assert_eq!(
            NetworkPolicies.warnings(&odd, None),
            [
                "spec.ingress[0].from[0].ipBlock.cidr: CIDR value \"10.1.2.3/8\" is ambiguous in this context (should be \"10.0.0.0/8\" or \"10.1.2.3/32\"?)"
            ]
        );
    }

    #[test]
    fn types_are_known() {
        check(
            &NetworkPolicies,
            "{spec: {podSelector: {}, policyTypes: [Both]}}",
            &["spec.policyTypes[0]: Unsupported value: \"Both\": supported values: \"Ingress\", \"Egress\""],
        );
    }

    #[test]
    fn cells_show_the_pods() {
        check_cells(
            &NetworkPolicies,
            "{metadata: {name: p}, spec: {podSelector: {matchLabels: {a: b}}}}",
            "p | a=b | <unknown>",
        );
        check_cells(&NetworkPolicies, "{metadata: {name: p}}", "p | <none> | <unknown>");
    }
}
