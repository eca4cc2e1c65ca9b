//! Where a webhook is called: a URL or a Service. Source: `k8s.io/apiserver/pkg/util/webhook/validation.go`.

use wharf_machinery::names;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::admissionregistration::v1::{ServiceReference, WebhookClientConfig};

/// The port of a Service that does not say.
pub const DEFAULT_PORT: i32 = 443;
const FORM: &str = "; desired format: https://host[/path]";

pub fn default(config: &mut WebhookClientConfig) {
    if let Some(service) = &mut config.service {
        service.port.get_or_insert(DEFAULT_PORT);
    }
}

pub fn validate(config: &WebhookClientConfig, path: &Path) -> Errors {
    match (&config.url, &config.service) {
        (Some(url), None) => validate_url(url, &path.child("url")),
        (None, Some(service)) => validate_service(service, &path.child("service")),
        _ => vec![Error::required(path, "exactly one of url or service is required")],
    }
}

/// The parts of a URL that matter here. Anything that has none is all path.
struct Url<'a> {
    scheme: &'a str,
    user: Option<&'a str>,
    host: &'a str,
    query: &'a str,
    fragment: &'a str,
}

impl<'a> Url<'a> {
    fn split(text: &'a str) -> Self {
        let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let named = |scheme: &str| {
            scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        };
        let (scheme, rest) = rest.split_once(':').filter(|(scheme, _)| named(scheme)).unwrap_or(("", rest));
        let authority = rest.strip_prefix("//").unwrap_or_default();
        let authority = authority.split('/').next().unwrap_or_default();
        let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        Self { scheme, user, host, query, fragment }
    }
}

fn validate_url(text: &str, path: &Path) -> Errors {
    if text.bytes().any(|byte| byte.is_ascii_control()) {
        let why = format!("url must be a valid URL: parse {text:?}: net/url: invalid control character in URL{FORM}");
        return vec![Error::required(path, why)];
    }
    let url = Url::split(text);
    let mut errors = Vec::new();
    if url.scheme != "https" {
        errors.push(Error::invalid(path, url.scheme, format!("'https' is the only allowed URL scheme{FORM}")));
    }
    if url.host.is_empty() {
        errors.push(Error::invalid(path, url.host, format!("host must be specified{FORM}")));
    }
    if let Some(user) = url.user {
        errors.push(Error::invalid(path, user, "user information is not permitted in the URL"));
    }
    if !url.fragment.is_empty() {
        errors.push(Error::invalid(path, url.fragment, "fragments are not permitted in the URL"));
    }
    if !url.query.is_empty() {
        errors.push(Error::invalid(path, url.query, "query parameters are not permitted in the URL"));
    }
    errors
}

fn validate_service(service: &ServiceReference, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if service.name.is_empty() {
        errors.push(Error::required(&path.child("name"), "service name is required"));
    }
    if service.namespace.is_empty() {
        errors.push(Error::required(&path.child("namespace"), "service namespace is required"));
    }
    let port = service.port.unwrap_or(DEFAULT_PORT);
    if !(1..=65535).contains(&port) {
        let why = "port is not valid: must be between 1 and 65535, inclusive";
        errors.push(Error::invalid(&path.child("port"), port, why));
    }
    errors.extend(service.path.as_deref().map(|text| validate_path(text, &path.child("path"))).unwrap_or_default());
    errors
}

fn validate_path(text: &str, path: &Path) -> Errors {
    match text {
        "" | "/" => return Vec::new(),
        "//" => return vec![Error::invalid(path, text, "segment[0] may not be empty")],
        _ => {}
    }
    let mut errors = Vec::new();
    if !text.starts_with('/') {
        errors.push(Error::invalid(path, text, "must start with a '/'"));
    }
    let inner: String = text.chars().skip(1).collect();
    let inner = inner.strip_suffix('/').unwrap_or(&inner);
    for (index, step) in inner.split('/').enumerate() {
        if step.is_empty() {
            errors.push(Error::invalid(path, text, format!("segment[{index}] may not be empty")));
            continue;
        }
        let failures = names::dns1123_subdomain(step);
        errors.extend(failures.iter().map(|why| Error::invalid(path, text, format!("segment[{index}]: {why}"))));
    }
    errors
}
