//! Syntax of names, labels and keys. Each check returns upstream's messages; empty means good.
//!
//! Source: `k8s.io/apimachinery/pkg/util/validation`.

/// Longest DNS label (RFC 1123), in bytes.
pub const LABEL_MAX: usize = 63;
/// Longest DNS subdomain (RFC 1123), in bytes.
pub const SUBDOMAIN_MAX: usize = 253;

const LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const WILDCARD_MESSAGE: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS1035_MESSAGE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const LABEL_VALUE_MESSAGE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const QUALIFIED_MESSAGE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

fn too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn lower_alnum(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_label(value: &str) -> bool {
    let bytes = value.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) => {
            lower_alnum(first) && lower_alnum(last) && bytes.iter().all(|&b| lower_alnum(b) || b == b'-')
        }
        _ => false,
    }
}

fn is_name_part(value: &str) -> bool {
    let bytes = value.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            first.is_ascii_alphanumeric()
                && last.is_ascii_alphanumeric()
                && bytes.iter().all(|&b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        }
        _ => false,
    }
}

fn check(value: &str, max: usize, good: bool, message: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > max {
        errors.push(too_long(max));
    }
    if !good {
        errors.push(message.to_owned());
    }
    errors
}

pub fn dns1123_label(value: &str) -> Vec<String> {
    check(value, LABEL_MAX, is_label(value), LABEL_MESSAGE)
}

pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    check(value, SUBDOMAIN_MAX, value.split('.').all(is_label), SUBDOMAIN_MESSAGE)
}

/// `*.example.com`
pub fn wildcard_dns1123_subdomain(value: &str) -> Vec<String> {
    let good = value.strip_prefix("*.").is_some_and(|rest| rest.split('.').all(is_label));
    check(value, SUBDOMAIN_MAX, good, WILDCARD_MESSAGE)
}

pub fn dns1035_label(value: &str) -> Vec<String> {
    let good = is_label(value) && value.as_bytes()[0].is_ascii_lowercase();
    check(value, LABEL_MAX, good, DNS1035_MESSAGE)
}

/// One segment of a URL's path. Source: `k8s.io/apimachinery/pkg/api/validation/path.IsValidPathSegmentName`.
pub fn path_segment(value: &str) -> Vec<String> {
    if matches!(value, "." | "..") {
        return vec![format!("may not be '{value}'")];
    }
    let banned = ["/", "%"].into_iter().filter(|part| value.contains(part));
    banned.map(|part| format!("may not contain '{part}'")).collect()
}

/// A label's value: empty or at most 63 bytes.
pub fn label_value(value: &str) -> Vec<String> {
    check(value, LABEL_MAX, value.is_empty() || is_name_part(value), LABEL_VALUE_MESSAGE)
}

/// A label's or annotation's key: an optional DNS prefix and a name of at most 63 bytes.
pub fn qualified_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let name = match value.split_once('/') {
        None => value,
        Some((_, name)) if name.contains('/') => {
            return vec![format!("a qualified name {}", qualified_rest())];
        }
        Some((prefix, name)) => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors.extend(dns1123_subdomain(prefix).into_iter().map(|message| format!("prefix part {message}")));
            }
            name
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        errors.push(format!("name part {}", too_long(LABEL_MAX)));
    }
    if !is_name_part(name) {
        errors.push(QUALIFIED_MESSAGE.to_owned());
    }
    errors
}

fn qualified_rest() -> String {
    format!(
        "{} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
        &QUALIFIED_MESSAGE["name part ".len()..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_held_to_their_syntax() {
        type Check = fn(&str) -> Vec<String>;
        let cases: [(Check, &str, bool); 12] = [
            (dns1123_label, "web-1", true),
            (dns1123_label, "Web", false),
            (dns1123_label, "", false),
            (dns1123_subdomain, "a.b-c", true),
            (dns1123_subdomain, "a..b", false),
            (dns1035_label, "1a", false),
            (dns1035_label, "a1", true),
            (label_value, "", true),
            (label_value, "a b", false),
            (qualified_name, "example.com/My_Name", true),
            (qualified_name, "a/b/c", false),
            (qualified_name, "/b", false),
        ];
        for (check, value, good) in cases {
            assert_eq!(check(value).is_empty(), good, "{value:?}");
        }
        assert_eq!(dns1123_label(&"a".repeat(64)), ["must be no more than 63 bytes"]);
    }
}
