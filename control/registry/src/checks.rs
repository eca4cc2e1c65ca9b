//! The small checks that validation is made of, in upstream's words.
//!
//! Source: `k8s.io/apimachinery/pkg/api/validation/generic.go` and `pkg/util/validation`.

use std::net::IpAddr;

use serde::Serialize;
use serde_json::Value;
use wharf_machinery::names;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::apimachinery::pkg::util::intstr::IntOrString;

pub const IMMUTABLE: &str = "field is immutable";
/// Of a ConfigMap or Secret that is marked immutable.
pub const FROZEN: &str = "field is immutable when `immutable` is set";
pub const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
pub const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// A value for an error's message, where upstream prints a struct.
pub fn json<T: Serialize + ?Sized>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

pub fn immutable<T: PartialEq + Serialize>(new: &T, old: &T, path: &Path) -> Errors {
    if new == old { Vec::new() } else { vec![Error::invalid(path, json(new), IMMUTABLE)] }
}

pub fn non_negative(value: impl Into<i64>, path: &Path) -> Errors {
    let value = value.into();
    if value < 0 { vec![Error::invalid(path, value, NOT_NEGATIVE)] } else { Vec::new() }
}

/// Each message of a syntax check as an error about `value`.
pub fn invalid(messages: Vec<String>, path: &Path, value: &str) -> Errors {
    messages.into_iter().map(|message| Error::invalid(path, value, message)).collect()
}

pub fn dns1123_label(value: &str, path: &Path) -> Errors {
    invalid(names::dns1123_label(value), path, value)
}

pub fn dns1123_subdomain(value: &str, path: &Path) -> Errors {
    invalid(names::dns1123_subdomain(value), path, value)
}

pub fn qualified_name(value: &str, path: &Path) -> Errors {
    invalid(names::qualified_name(value), path, value)
}

/// Refuses a value that is not one of `supported`, which is listed in the message in its order.
pub fn one_of(value: &str, supported: &[&str], path: &Path) -> Errors {
    if supported.contains(&value) { Vec::new() } else { vec![Error::not_supported(path, value, supported)] }
}

/// As [`one_of`], and an empty value is reported as missing.
pub fn required_one_of(value: &str, supported: &[&str], path: &Path) -> Errors {
    if value.is_empty() { vec![Error::required(path, "")] } else { one_of(value, supported, path) }
}

/// A key in a ConfigMap or Secret, which may become a file's name.
pub fn config_key(key: &str, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if key.len() > names::SUBDOMAIN_MAX {
        errors.push(Error::invalid(path, key, format!("must be no more than {} bytes", names::SUBDOMAIN_MAX)));
    }
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if key.is_empty() || !key.bytes().all(good) {
        errors.push(Error::invalid(path, key, "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"));
    }
    match key {
        "." => errors.push(Error::invalid(path, key, "must not be '.'")),
        ".." => errors.push(Error::invalid(path, key, "must not be '..'")),
        _ if key.starts_with("..") => errors.push(Error::invalid(path, key, "must not start with '..'")),
        _ => {}
    }
    errors
}

pub fn port_number(port: i32, path: &Path) -> Errors {
    if (1..=65535).contains(&port) {
        Vec::new()
    } else {
        vec![Error::invalid(path, port, "must be between 1 and 65535, inclusive")]
    }
}

/// Longest name of a port, in bytes.
const PORT_NAME_MAX: usize = 15;

/// The name of a container's port (an IANA service name).
pub fn port_name(name: &str, path: &Path) -> Errors {
    let mut messages = Vec::new();
    if name.len() > PORT_NAME_MAX {
        messages.push(format!("must be no more than {PORT_NAME_MAX} bytes"));
    }
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        messages.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        messages.push("must contain at least one letter (a-z)".to_owned());
    }
    if name.contains("--") {
        messages.push("must not contain consecutive hyphens".to_owned());
    }
    if name.starts_with('-') || name.ends_with('-') {
        messages.push("must not begin or end with a hyphen".to_owned());
    }
    invalid(messages, path, name)
}

pub fn port_number_or_name(port: &IntOrString, path: &Path) -> Errors {
    match port {
        IntOrString::Int(number) => port_number(*number, path),
        IntOrString::String(name) => port_name(name, path),
    }
}

const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";

/// A count or a percentage, as in a rolling update; neither may be negative.
pub fn count_or_percent(value: &IntOrString, path: &Path) -> Errors {
    match value {
        IntOrString::Int(count) => non_negative(*count, path),
        IntOrString::String(text) if percent(text).is_some() => Vec::new(),
        IntOrString::String(text) => vec![Error::invalid(path, text, PERCENT)],
    }
}

/// `25%` is 25.
pub fn percent(text: &str) -> Option<u64> {
    let digits = text.strip_suffix('%')?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        None
    } else {
        Some(digits.parse().unwrap_or(u64::MAX))
    }
}

pub const NOT_AN_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

pub fn ip(value: &str, path: &Path) -> Errors {
    if value.parse::<IpAddr>().is_ok() { Vec::new() } else { vec![Error::invalid(path, value, NOT_AN_IP)] }
}

/// An address that a Service may send traffic to. Unlike upstream, loopback addresses are allowed: a rootless cluster
/// lives in 127.0.0.0/8.
pub fn endpoint_ip(value: &str, path: &Path) -> Errors {
    let Ok(address) = value.parse::<IpAddr>() else { return vec![Error::invalid(path, value, NOT_AN_IP)] };
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let link_local_multicast = match address {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] == 0xff02,
    };
    let mut errors = Vec::new();
    if address.is_unspecified() {
        errors.push(Error::invalid(path, value, format!("may not be unspecified ({value})")));
    }
    if link_local {
        errors.push(Error::invalid(path, value, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"));
    }
    if link_local_multicast {
        errors.push(Error::invalid(
            path,
            value,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        ));
    }
    errors
}

/// An address block such as `10.0.0.0/8`.
pub fn cidr(value: &str, path: &Path) -> Errors {
    let good =
        value.split_once('/').is_some_and(|(address, bits)| match (address.parse::<IpAddr>(), bits.parse::<u8>()) {
            (Ok(IpAddr::V4(_)), Ok(bits)) => bits <= 32,
            (Ok(IpAddr::V6(_)), Ok(bits)) => bits <= 128,
            _ => false,
        });
    if good {
        Vec::new()
    } else {
        vec![Error::invalid(path, value, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")]
    }
}

/// `example.com/path`, as managers and signers are named.
pub fn domain_prefixed_path(value: &str, path: &Path) -> Errors {
    let Some((domain, rest)) = value.split_once('/') else {
        return if value.is_empty() {
            vec![Error::required(path, "")]
        } else {
            vec![Error::invalid(path, value, "must be a domain-prefixed path (such as \"acme.io/foo\")")]
        };
    };
    let mut errors = dns1123_subdomain(domain, path);
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"/%:@!$&'()*+,;=._~-".contains(&byte);
    if rest.is_empty() || !rest.bytes().all(legal) {
        errors.push(Error::invalid(path, value, "must be a domain-prefixed path (such as \"acme.io/foo\")"));
    }
    errors
}
