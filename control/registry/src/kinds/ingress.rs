//! Ingresses: which HTTP requests go to which Service.
//!
//! Source: `ValidateIngress` of `pkg/apis/networking/validation`, `pkg/registry/networking/ingress`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::Value;
use wharf_machinery::names;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::networking::v1::{
    HTTPIngressPath, Ingress, IngressBackend, IngressRule, IngressServiceBackend, IngressSpec, IngressStatus,
    IngressTLS,
};

use super::ingressclass::validate_reference;
use super::{NONE, created, name, spec_status};
use crate::checks;
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct Ingresses;

/// Where the class stood before it had a field.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const PATH_TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];
const BAD_SEQUENCES: &[&str] = &["//", "/./", "/../", "%2f", "%2F"];
const BAD_ENDS: &[&str] = &["/..", "/."];
/// How many hosts a table shows.
const SHOWN_HOSTS: usize = 3;

impl Strategy for Ingresses {
    type Object = Ingress;

    fn default(&self, ingress: &mut Ingress) {
        ingress.spec.get_or_insert_default();
        ingress.status.iter_mut().for_each(fill);
    }

    fn prepare_for_create(&self, ingress: &mut Ingress) {
        spec_status::created(ingress);
        ingress.status.iter_mut().for_each(fill);
    }

    fn prepare_for_update(&self, ingress: &mut Ingress, old: &Ingress) {
        spec_status::updated(ingress, old);
    }

    fn prepare_for_status_update(&self, ingress: &mut Ingress, old: &Ingress) {
        spec_status::status_updated(ingress, old);
    }

    fn validate(&self, ingress: &Ingress) -> Errors {
        ingress.spec.as_ref().map_or_else(Vec::new, |spec| validate_spec(spec, &Path::new("spec")))
    }

    fn validate_new(&self, ingress: &Ingress) -> Errors {
        let annotation =
            ingress.metadata.annotations.as_ref().and_then(|annotations| annotations.get(CLASS_ANNOTATION));
        let class = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_ref());
        match (annotation, class) {
            (Some(annotation), Some(class)) if annotation != class => {
                let path = Path::new("annotations").child(CLASS_ANNOTATION);
                let why = "must match `ingressClassName` when both are specified";
                vec![Error::invalid(&path, annotation, why)]
            }
            _ => Vec::new(),
        }
    }

    fn validate_status_update(&self, new: &Ingress, _old: &Ingress) -> Errors {
        let balancer = new.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let path = Path::new("status").child("loadBalancer").child("ingress");
        let mut errors = Vec::new();
        for (index, point) in balancer.iter().flat_map(|balancer| balancer.ingress.iter().flatten()).enumerate() {
            let path = path.index(index);
            if let Some(ip) = point.ip.as_deref().filter(|ip| !ip.is_empty()) {
                errors.extend(checks::ip(ip, &path.child("ip")));
            }
            if let Some(host) = point.hostname.as_deref().filter(|host| !host.is_empty()) {
                errors.extend(checks::dns1123_subdomain(host, &path.child("hostname")));
                errors.extend(not_an_ip(host, &path.child("hostname")));
            }
        }
        errors
    }

    fn warnings(&self, ingress: &Ingress, old: Option<&Ingress>) -> Vec<String> {
        let annotated =
            ingress.metadata.annotations.iter().any(|annotations| annotations.contains_key(CLASS_ANNOTATION));
        let has_class = ingress.spec.as_ref().is_some_and(|spec| spec.ingress_class_name.is_some());
        if old.is_some() || !annotated || has_class {
            return Vec::new();
        }
        vec![format!("annotation {CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' instead")]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new(
                "Class",
                "string",
                "The name of the IngressClass resource that should be used for additional configuration",
            ),
            Column::new("Hosts", "string", "Hosts that incoming requests are matched against before the ingress rule"),
            Column::new("Address", "string", "Address is a list containing ingress points for the load-balancer"),
            Column::new("Ports", "string", "Ports of TLS configurations that open"),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, ingress: &Ingress, now: Timestamp) -> Vec<Value> {
        let spec = ingress.spec.clone().unwrap_or_default();
        let ports = if spec.tls.is_some_and(|tls| !tls.is_empty()) { "80, 443" } else { "80" };
        vec![
            name(&ingress.metadata),
            spec.ingress_class_name.unwrap_or_else(|| NONE.to_owned()).into(),
            hosts(spec.rules.as_deref().unwrap_or_default()).into(),
            address(ingress).into(),
            ports.into(),
            created(&ingress.metadata, now),
        ]
    }
}

/// A struct that upstream writes even where it is empty.
fn fill(status: &mut IngressStatus) {
    status.load_balancer.get_or_insert_default();
}

fn hosts(rules: &[IngressRule]) -> String {
    let named = rules.iter().filter_map(|rule| rule.host.as_deref()).filter(|host| !host.is_empty());
    let shown: Vec<&str> = named.clone().take(SHOWN_HOSTS).collect();
    // Upstream counts the rules behind the last host that is shown, and those that have no host.
    let third = rules.iter().enumerate().filter(|(_, rule)| rule.host.as_deref().is_some_and(|host| !host.is_empty()));
    let more = third.map(|(index, _)| index).nth(SHOWN_HOSTS - 1).is_some_and(|index| index + 1 < rules.len());
    match shown.join(",") {
        text if text.is_empty() => "*".to_owned(),
        text if more => format!("{text} + {} more...", rules.len() - SHOWN_HOSTS),
        text => text,
    }
}

fn address(ingress: &Ingress) -> String {
    let balancer = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let points = balancer.iter().flat_map(|balancer| balancer.ingress.iter().flatten());
    let at = points.filter_map(|point| {
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        filled(&point.ip).or_else(|| filled(&point.hostname))
    });
    at.collect::<BTreeSet<String>>().into_iter().collect::<Vec<_>>().join(",")
}

fn validate_spec(spec: &IngressSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let rules = spec.rules.as_deref().unwrap_or_default();
    if rules.is_empty() && spec.default_backend.is_none() {
        errors.push(Error::invalid(path, Value::Null, "either `defaultBackend` or `rules` must be specified"));
    }
    if let Some(backend) = &spec.default_backend {
        errors.extend(validate_backend(backend, &path.child("defaultBackend")));
    }
    for (index, rule) in rules.iter().enumerate() {
        errors.extend(validate_rule(rule, &path.child("rules").index(index)));
    }
    for (index, tls) in spec.tls.iter().flatten().enumerate() {
        errors.extend(validate_tls(tls, &path.child("tls").index(index)));
    }
    if let Some(class) = &spec.ingress_class_name {
        errors.extend(checks::dns1123_subdomain(class, &path.child("ingressClassName")));
    }
    errors
}

fn validate_rule(rule: &IngressRule, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if let Some(host) = rule.host.as_deref().filter(|host| !host.is_empty()) {
        errors.extend(not_an_ip(host, &path.child("host")));
        errors.extend(validate_host(host, &path.child("host")));
    }
    if let Some(http) = &rule.http {
        let path = path.child("http").child("paths");
        if http.paths.is_empty() {
            errors.push(Error::required(&path, ""));
        }
        let paths = http.paths.iter().enumerate();
        errors.extend(paths.flat_map(|(index, item)| validate_path(item, &path.index(index))));
    }
    errors
}

fn validate_tls(tls: &IngressTLS, path: &Path) -> Errors {
    let hosts = tls.hosts.iter().flatten().enumerate();
    let mut errors: Errors =
        hosts.flat_map(|(index, host)| validate_host(host, &path.child("hosts").index(index))).collect();
    if let Some(secret) = tls.secret_name.as_deref().filter(|secret| !secret.is_empty()) {
        errors.extend(checks::dns1123_subdomain(secret, &path.child("secretName")));
    }
    errors
}

fn not_an_ip(host: &str, path: &Path) -> Option<Error> {
    let is_ip = host.parse::<IpAddr>().is_ok();
    is_ip.then(|| Error::invalid(path, host, "must be a DNS name, not an IP address"))
}

fn validate_host(host: &str, path: &Path) -> Errors {
    if host.contains('*') {
        checks::invalid(names::wildcard_dns1123_subdomain(host), path, host)
    } else {
        checks::dns1123_subdomain(host, path)
    }
}

fn validate_path(item: &HTTPIngressPath, path: &Path) -> Errors {
    let (at, text) = (path.child("path"), item.path.as_deref().unwrap_or_default());
    let mut errors = Vec::new();
    let is_absolute = text.starts_with('/');
    match item.path_type.as_str() {
        "" => return vec![Error::required(&path.child("pathType"), "pathType must be specified")],
        "Exact" | "Prefix" => {
            if !is_absolute {
                errors.push(Error::invalid(&at, text, "must be an absolute path"));
            }
            for bad in BAD_SEQUENCES.iter().filter(|bad| text.contains(**bad)) {
                errors.push(Error::invalid(&at, text, format!("must not contain '{bad}'")));
            }
            for bad in BAD_ENDS.iter().filter(|bad| text.ends_with(**bad)) {
                errors.push(Error::invalid(&at, text, format!("cannot end with '{bad}'")));
            }
        }
        "ImplementationSpecific" if text.is_empty() || is_absolute => {}
        "ImplementationSpecific" => errors.push(Error::invalid(&at, text, "must be an absolute path")),
        kind => errors.push(Error::not_supported(&path.child("pathType"), kind, PATH_TYPES)),
    }
    errors.extend(validate_backend(&item.backend, &path.child("backend")));
    errors
}

fn validate_backend(backend: &IngressBackend, path: &Path) -> Errors {
    match (&backend.resource, &backend.service) {
        (Some(_), Some(_)) => vec![Error::invalid(path, "", "cannot set both resource and service backends")],
        (Some(resource), None) => {
            let group = resource.api_group.as_deref();
            validate_reference(group, &resource.kind, &resource.name, &path.child("resource"))
        }
        (None, Some(service)) => validate_service(service, path),
        (None, None) => vec![Error::invalid(path, "", "resource or service backend is required")],
    }
}

fn validate_service(service: &IngressServiceBackend, path: &Path) -> Errors {
    let at = path.child("service");
    let mut errors = match service.name.as_str() {
        "" => vec![Error::required(&at.child("name"), "")],
        name => checks::invalid(names::dns1035_label(name), &at.child("name"), name),
    };
    let port = service.port.clone().unwrap_or_default();
    let at = at.child("port");
    match (port.name.unwrap_or_default().as_str(), port.number.unwrap_or_default()) {
        ("", 0) => errors.push(Error::required(path, "port name or number is required")),
        ("", number) => errors.extend(checks::port_number(number, &at.child("number"))),
        (name, 0) => errors.extend(checks::port_name(name, &at.child("name"))),
        _ => errors.push(Error::invalid(path, "", "cannot set both port name & port number")),
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, check_new, object};

    fn with(path: &str) -> String {
        format!("{{metadata: {{name: web}}, spec: {{rules: [{{host: a.example, http: {{paths: [{path}]}}}}]}}}}")
    }

    const GOOD: &str = "{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}";

    #[test]
    fn an_ingress_leads_somewhere() {
        check(&Ingresses, &with(GOOD), &[]);
        check(
            &Ingresses,
            "{spec: {}}",
            &["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"],
        );
        check(
            &Ingresses,
            "{spec: {defaultBackend: {}}}",
            &["spec.defaultBackend: Invalid value: \"\": resource or service backend is required"],
        );
        check(
            &Ingresses,
            "{spec: {defaultBackend: {service: {name: 1a, port: {name: x, number: 1}}}}}",
            &[
                "spec.defaultBackend.service.name: Invalid value: \"1a\": a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
                "spec.defaultBackend: Invalid value: \"\": cannot set both port name & port number",
            ],
        );
        check(
            &Ingresses,
            "{spec: {defaultBackend: {resource: {apiGroup: a.b, kind: '', name: a/b}}}}",
            &[
                "spec.defaultBackend.resource.kind: Required value: kind is required",
                "spec.defaultBackend.resource.name: Invalid value: \"a/b\": may not contain '/'",
            ],
        );
    }

    #[test]
    fn paths_are_clean() {
        let at = "spec.rules[0].http.paths[0]";
        let wrong = |why: &str| format!("{at}.{why}");
        check(
            &Ingresses,
            &with(&GOOD.replace("path: /,", "path: a//b/..,")),
            &[
                &wrong("path: Invalid value: \"a//b/..\": must be an absolute path"),
                &wrong("path: Invalid value: \"a//b/..\": must not contain '//'"),
                &wrong("path: Invalid value: \"a//b/..\": cannot end with '/..'"),
            ],
        );
        check(
            &Ingresses,
            &with(&GOOD.replace("pathType: Prefix, ", "pathType: '', ")),
            &[&wrong("pathType: Required value: pathType must be specified")],
        );
        check(
            &Ingresses,
            &with(&GOOD.replace("Prefix", "Regex")),
            &[&wrong(
                "pathType: Unsupported value: \"Regex\": supported values: \"Exact\", \"ImplementationSpecific\", \"Prefix\"",
            )],
        );
    }

    #[test]
    fn hosts_are_names_that_may_begin_with_a_star() {
        check(&Ingresses, &with(GOOD).replace("a.example", "'*.example'"), &[]);
        check(
            &Ingresses,
            &with(GOOD).replace("a.example", "10.1.2.3"),
            &["spec.rules[0].host: Invalid value: \"10.1.2.3\": must be a DNS name, not an IP address"],
        );
        check(
            &Ingresses,
            &with(GOOD).replace("a.example", "'a.*.example'"),
            &[
                "spec.rules[0].host: Invalid value: \"a.*.example\": a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            ],
        );
    }

    #[test]
    fn the_old_annotation_is_warned_of_and_must_agree() {
        let old = with(GOOD).replace("{name: web}", "{name: web, annotations: {kubernetes.io/ingress.class: a}}");
        assert_eq!(
            Ingresses.warnings(&object(&Ingresses, &old), None),
            ["annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead"]
        );
        check_new(
            &Ingresses,
            &old.replace("spec: {", "spec: {ingressClassName: b, "),
            &[
                "annotations.kubernetes.io/ingress.class: Invalid value: \"a\": must match `ingressClassName` when both are specified",
            ],
        );
    }

    #[test]
    fn cells_show_where_it_is() {
        check_cells(&Ingresses, &with(GOOD), "web | <none> | a.example |  | 80 | <unknown>");
        check_cells(
            &Ingresses,
            "{metadata: {name: web}, spec: {ingressClassName: c, tls: [{}], rules: [{host: a}, {host: b}, {}, {host: c}, {host: d}]}, status: {loadBalancer: {ingress: [{hostname: h}, {ip: 10.1.2.3}]}}}",
            "web | c | a,b,c + 2 more... | 10.1.2.3,h | 80, 443 | <unknown>",
        );
    }
}
