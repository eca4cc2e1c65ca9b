//! When two values are equal, and which comes first. Numbers of different types are compared as numbers.

use std::cmp::Ordering;

use kube_cel::cel;

use super::types::ListKind;
use super::value::{Key, Value};

pub(super) fn equal<'a>(a: &Value<'a>, b: &Value<'a>) -> bool {
    if let (Some(a), Some(b)) = (number(a), number(b)) {
        return compare_numbers(a, b) == Some(Ordering::Equal);
    }
    match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::String(a), Value::String(b)) => a == b,
        (Value::Bytes(a), Value::Bytes(b)) => a == b,
        (Value::Type(a), Value::Type(b)) => a == b,
        (Value::Optional(a), Value::Optional(b)) => a == b,
        (Value::Library(a), Value::Library(b)) => a == b,
        _ => lists(a, b).or_else(|| maps(a, b)).unwrap_or(false),
    }
}

fn lists<'a>(a: &Value<'a>, b: &Value<'a>) -> Option<bool> {
    let kind = a.list_kind();
    let (a, b) = (a.elements()?, b.elements()?);
    if a.len() != b.len() {
        return Some(false);
    }
    Some(match kind {
        ListKind::Atomic => a.iter().zip(&b).all(|(a, b)| equal(a, b)),
        ListKind::Set => a.iter().all(|a| b.iter().any(|b| equal(a, b))),
        ListKind::Map(keys) => a.iter().all(|a| b.iter().find(|b| same_keys(a, b, keys)).is_some_and(|b| equal(a, b))),
    })
}

/// True where two elements of a list of type `map` are the same entry.
pub(super) fn same_keys(a: &Value<'_>, b: &Value<'_>, keys: &[String]) -> bool {
    let field = |value: &Value<'_>, name: &str| match value {
        Value::Json(serde_json::Value::Object(entries), _) => entries.get(name).cloned(),
        Value::Map(entries) => entries.get(&Key::String(name.to_owned().into())).and_then(|value| value.to_json().ok()),
        _ => None,
    };
    keys.iter().all(|key| field(a, key) == field(b, key))
}

fn maps<'a>(a: &Value<'a>, b: &Value<'a>) -> Option<bool> {
    let (a, b) = (a.entries()?, b.entries()?);
    if a.len() != b.len() {
        return Some(false);
    }
    let b: std::collections::BTreeMap<_, _> = b.into_iter().collect();
    Some(a.iter().all(|(key, value)| b.get(key).is_some_and(|other| equal(value, other))))
}

#[derive(Clone, Copy)]
enum Number {
    Whole(i128),
    Double(f64),
}

fn number(value: &Value<'_>) -> Option<Number> {
    match value {
        Value::Int(number) => Some(Number::Whole((*number).into())),
        Value::Uint(number) => Some(Number::Whole((*number).into())),
        Value::Double(number) => Some(Number::Double(*number)),
        _ => None,
    }
}

fn compare_numbers(a: Number, b: Number) -> Option<Ordering> {
    match (a, b) {
        (Number::Whole(a), Number::Whole(b)) => Some(a.cmp(&b)),
        (Number::Double(a), Number::Double(b)) => a.partial_cmp(&b),
        (Number::Whole(a), Number::Double(b)) => (a as f64).partial_cmp(&b),
        (Number::Double(a), Number::Whole(b)) => a.partial_cmp(&(b as f64)),
    }
}

/// Which of two comes first; none if they cannot be compared.
pub(super) fn compare(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    if let (Some(a), Some(b)) = (number(a), number(b)) {
        return compare_numbers(a, b);
    }
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
        (Value::Library(a @ cel::Value::Timestamp(_)), Value::Library(b @ cel::Value::Timestamp(_)))
        | (Value::Library(a @ cel::Value::Duration(_)), Value::Library(b @ cel::Value::Duration(_))) => {
            a.partial_cmp(b)
        }
        _ => None,
    }
}
