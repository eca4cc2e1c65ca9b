//! Formats that a schema may name. Others are not looked at, as upstream does not.
//!
//! Source: `apiserver/validation/formats.go` and `kube-openapi/pkg/validation/strfmt`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::OnceLock;

use base64::Engine;
use regex::Regex;

/// True where the text is of the format, or the format is unknown. Numbers are of every format here.
pub fn is_valid(format: &str, text: &str) -> bool {
    match format.replace('-', "").as_str() {
        "bsonobjectid" => matches(0, text),
        "uri" => {
            text.split_once(':').is_some_and(|(scheme, rest)| !rest.is_empty() && matches(1, scheme))
                || text.starts_with('/')
        }
        "email" => matches(2, text),
        "hostname" => matches(3, text) && text.len() <= 255,
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => text.split_once('/').is_some_and(|(ip, length)| is_cidr(ip, length)),
        "mac" => matches(4, text),
        "uuid" => matches(5, text),
        "uuid3" => matches(6, text),
        "uuid4" => matches(7, text),
        "uuid5" => matches(8, text),
        "isbn" => isbn10(text) || isbn13(text),
        "isbn10" => isbn10(text),
        "isbn13" => isbn13(text),
        "creditcard" => matches(9, &text.replace([' ', '-'], "")),
        "ssn" => matches(10, text),
        "hexcolor" => matches(11, text),
        "rgbcolor" => matches(12, text),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok() && text.len() == 10,
        "datetime" => is_time(text),
        "duration" => is_duration(text),
        "k8sshortname" => crate::names::dns1123_label(text).is_empty(),
        "k8slongname" => crate::names::dns1123_subdomain(text).is_empty(),
        _ => true,
    }
}

/// True where [`is_valid`] looks at the text, or upstream takes any.
pub fn is_known(format: &str) -> bool {
    const KNOWN: &[&str] = &[
        "bsonobjectid",
        "uri",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "cidr",
        "mac",
        "uuid",
        "uuid3",
        "uuid4",
        "uuid5",
        "isbn",
        "isbn10",
        "isbn13",
        "creditcard",
        "ssn",
        "hexcolor",
        "rgbcolor",
        "byte",
        "password",
        "date",
        "duration",
        "datetime",
        "k8sshortname",
        "k8slongname",
    ];
    KNOWN.contains(&format.replace('-', "").as_str())
}

fn is_cidr(ip: &str, length: &str) -> bool {
    let most = match ip.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    length.parse::<u8>().is_ok_and(|length| length <= most)
}

fn is_time(text: &str) -> bool {
    text.contains(['T', 't', ' ']) && text.parse::<jiff::Timestamp>().is_ok()
}

/// Go's durations, and words as strfmt has them (`3 days`).
fn is_duration(text: &str) -> bool {
    text == "0" || matches(13, text)
}

/// In the order in which [`is_valid`] asks for them.
const PATTERNS: [&str; 14] = [
    "^[a-f0-9]{24}$",
    "^[A-Za-z][A-Za-z0-9+.-]*$",
    r"^[^@\s<>]+@[^@\s<>]+$",
    r"^([a-zA-Z0-9\p{S}\p{L}]((-?[a-zA-Z0-9\p{S}\p{L}]{0,62})?)|([a-zA-Z0-9\p{S}\p{L}](([a-zA-Z0-9-\p{S}\p{L}]{0,61}[a-zA-Z0-9\p{S}\p{L}])?)(\.)){1,}([a-zA-Z\p{L}]){2,63})$",
    "^([0-9A-Fa-f]{2}[:-]){5}([0-9A-Fa-f]{2})$|^([0-9A-Fa-f]{4}[.]){2}[0-9A-Fa-f]{4}$",
    "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$",
    "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?3[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}$",
    "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?4[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$",
    "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?5[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$",
    r"^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35\d{3})\d{11})$",
    r"^\d{3}[- ]?\d{2}[- ]?\d{4}$",
    "^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$",
    r"^rgb\(\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*\)$",
    r"^[-+]?(\s*(\d+(\.\d*)?|\.\d+)\s*(ns|us|µs|μs|ms|milli(second)?s?|micro(second)?s?|nano(second)?s?|s|sec(ond)?s?|m|min(ute)?s?|h|hrs?|hours?|d|days?|w|weeks?))+$",
];

fn matches(index: usize, text: &str) -> bool {
    static COMPILED: OnceLock<Vec<Regex>> = OnceLock::new();
    let compiled = COMPILED.get_or_init(|| {
        PATTERNS.iter().map(|pattern| Regex::new(pattern).expect("the patterns of this table are patterns")).collect()
    });
    compiled[index].is_match(text)
}

fn isbn10(text: &str) -> bool {
    let digits: Vec<char> = text.chars().filter(|letter| !matches!(letter, '-' | ' ')).collect();
    if digits.len() != 10 {
        return false;
    }
    let value = |(index, letter): (usize, &char)| match letter {
        'X' if index == 9 => Some(10),
        letter => letter.to_digit(10),
    };
    let values: Option<Vec<u32>> = digits.iter().enumerate().map(value).collect();
    values.is_some_and(|values| values.iter().zip(1..).map(|(digit, place)| digit * place).sum::<u32>() % 11 == 0)
}

fn isbn13(text: &str) -> bool {
    let digits: Option<Vec<u32>> =
        text.chars().filter(|letter| !matches!(letter, '-' | ' ')).map(|letter| letter.to_digit(10)).collect();
    let Some(digits) = digits.filter(|digits| digits.len() == 13) else { return false };
    digits.iter().enumerate().map(|(index, digit)| digit * if index % 2 == 0 { 1 } else { 3 }).sum::<u32>() % 10 == 0
}
