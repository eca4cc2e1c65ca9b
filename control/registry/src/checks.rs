//! The small checks that validation is made of, in upstream's words.
//!
//! Source: `k8s.io/apimachinery/pkg/api/validation/generic.go` and `pkg/util/validation`.

use std::net::IpAddr;

use serde::Serialize;
use serde_json::Value;
use wharf_machinery::names;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::apimachinery::pkg::util::intstr::IntOrString;
use wharf_types::meta::Condition;

use crate::network::Block;

pub const IMMUTABLE: &str = "field is immutable";
/// Of a ConfigMap or Secret that is marked immutable.
pub const FROZEN: &str = "field is immutable when `immutable` is set";
pub const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
pub const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// A value for an error's message, where upstream prints a struct.
pub fn json<T: Serialize + ?Sized>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

pub fn immutable<T: PartialEq + Serialize + ?Sized>(new: &T, old: &T, path: &Path) -> Errors {
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

/// Zero as a count or a percentage; text that is neither counts as zero.
pub fn is_zero(value: &IntOrString) -> bool {
    match value {
        IntOrString::Int(count) => *count == 0,
        IntOrString::String(text) => percent(text).unwrap_or_else(|| text.parse().unwrap_or_default()) == 0,
    }
}

/// A percentage of which there cannot be more than all.
pub fn at_most_all(value: &IntOrString, path: &Path) -> Errors {
    match value {
        IntOrString::String(text) if percent(text).is_some_and(|percent| percent > 100) => {
            vec![Error::invalid(path, text, "must not be greater than 100%")]
        }
        _ => Vec::new(),
    }
}

const CONDITION_STATUSES: &[&str] = &["False", "True", "Unknown"];
const CONDITION_REASON_MAX: usize = 1024;
const CONDITION_MESSAGE_MAX: usize = 32 * 1024;
const CONDITION_REASON: &str = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";

/// The conditions of a status. Source: `ValidateConditions` of `apimachinery/pkg/apis/meta/v1/validation`.
pub fn conditions(conditions: &[Condition], path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (index, condition) in conditions.iter().enumerate() {
        let path = path.index(index);
        if conditions[..index].iter().any(|earlier| earlier.type_ == condition.type_) {
            errors.push(Error::duplicate(&path.child("type"), &condition.type_));
        }
        errors.extend(qualified_name(&condition.type_, &path.child("type")));
        errors.extend(one_of(&condition.status, CONDITION_STATUSES, &path.child("status")));
        if let Some(generation) = condition.observed_generation.filter(|generation| *generation < 0) {
            let why = "must be greater than or equal to zero";
            errors.push(Error::invalid(&path.child("observedGeneration"), generation, why));
        }
        let at = path.child("reason");
        match condition.reason.as_str() {
            "" => errors.push(Error::required(&at, "must be set")),
            reason if !is_condition_reason(reason) => errors.push(Error::invalid(&at, reason, CONDITION_REASON)),
            _ => {}
        }
        if condition.reason.len() > CONDITION_REASON_MAX {
            errors.push(Error::too_long(&at, CONDITION_REASON_MAX));
        }
        if condition.message.len() > CONDITION_MESSAGE_MAX {
            errors.push(Error::too_long(&path.child("message"), CONDITION_MESSAGE_MAX));
        }
    }
    errors
}

fn is_condition_reason(reason: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = reason.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().is_some_and(|last| word(*last))
        && bytes.iter().all(|byte| word(*byte) || b",:".contains(byte))
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
    if Block::parse(value).is_some() {
        Vec::new()
    } else {
        vec![Error::invalid(path, value, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")]
    }
}

/// What is wrong with an address that must be in its one canonical form (`IsValidIP`).
pub fn strict_ip(value: &str) -> Vec<String> {
    match value.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            vec!["must not be an IPv4-mapped IPv6 address".to_owned()]
        }
        Ok(address) if address.to_string() != value => vec![format!("must be in canonical form (\"{address}\")")],
        Ok(_) => Vec::new(),
        Err(_) if has_leading_zeros(value) => vec!["must not have leading 0s".to_owned()],
        Err(_) => vec![NOT_AN_IP.to_owned()],
    }
}

/// An IPv4 address but for its zeros, such as `10.01.2.3`, which some programs read as octal.
fn has_leading_zeros(value: &str) -> bool {
    let parts: Vec<&str> = value.split('.').collect();
    parts.len() == 4 && parts.iter().all(|part| part.bytes().all(|b| b.is_ascii_digit()) && part.parse::<u8>().is_ok())
}

/// As [`cidr`], in the one canonical form (`IsValidCIDR`).
pub fn strict_cidr(value: &str, path: &Path) -> Errors {
    let Some(block) = Block::parse(value) else { return cidr(value, path) };
    let first = Block { address: block.first(), ..block };
    if first.address != block.address {
        return vec![Error::invalid(path, value, "must not have bits set beyond the prefix length")];
    }
    if first.to_string() != value {
        return vec![Error::invalid(path, value, format!("must be in canonical form (\"{first}\")"))];
    }
    Vec::new()
}

/// A block that says more than it means; both readings are told (`GetWarningsForCIDR`).
pub fn cidr_warning(value: &str, path: &Path) -> Option<String> {
    let block = Block::parse(value)?;
    let (first, only) = (Block { address: block.first(), ..block }, Block { bits: block.width(), ..block });
    if first.address != block.address {
        return Some(format!(
            "{path}: CIDR value {value:?} is ambiguous in this context (should be \"{first}\" or \"{only}\"?)"
        ));
    }
    (first.to_string() != value)
        .then(|| format!("{path}: IPv6 CIDR value {value:?} should be in RFC 5952 canonical format (\"{first}\")"))
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
