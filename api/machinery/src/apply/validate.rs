//! Whether a document is of its type: what is refused before anything is merged.
//!
//! Source: structured-merge-diff's `typed/validate.go`, whose words these are.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::path::Element;
use super::schema::{ListKind, ScalarType, Shape, TypeRef};
use crate::tree::Value;

/// Most complaints that are collected.
const ERRORS_MAX: usize = 20;

/// Checks a document. `duplicates` says whether items of sets and maps may come twice.
pub fn validate(value: &Value<'_>, of: TypeRef<'_>, duplicates: bool) -> Result<(), String> {
    let mut errors = Vec::new();
    check(value, of, duplicates, "", &mut errors);
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => {
            let mut message = "errors:".to_owned();
            for error in many {
                write!(message, "\n  {error}").expect("a String takes every write");
            }
            Err(message)
        }
    }
}

/// The paths of all that a document says of lists, maps and structs which are owned as one: whoever merges it would replace them.
///
/// Source: `findAtomics` of admission's `policy/mutating/patch/smd.go`.
pub fn atomics(value: &Value<'_>, of: TypeRef<'_>) -> Vec<String> {
    fn find(value: &Value<'_>, of: TypeRef<'_>, at: &str, found: &mut Vec<String>) {
        match (value, &of.get().map, &of.get().list) {
            (Value::Map(fields), Some(map), _) => {
                if map.atomic {
                    found.push(at.to_owned());
                }
                for (name, value) in fields.iter().filter(|(name, _)| map.field(name).is_some()) {
                    if let Some(id) = map.child(name) {
                        find(value, of.to(id), &format!("{at}.{name}"), found);
                    }
                }
            }
            (Value::List(items), _, Some(list)) => {
                if list.is_atomic() {
                    found.push(at.to_owned());
                }
                for (index, item) in items.iter().enumerate() {
                    find(item, of.to(list.item), &format!("{at}[{index}]"), found);
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    find(value, of, "", &mut found);
    found
}

fn check(value: &Value<'_>, of: TypeRef<'_>, duplicates: bool, at: &str, errors: &mut Vec<String>) {
    if errors.len() >= ERRORS_MAX {
        return;
    }
    let said = |why: String| if at.is_empty() { why } else { format!("{at}: {why}") };
    match (of.get().shape_of(Some(value)), value) {
        (_, Value::Null) | (Shape::None, _) => {}
        (Shape::Scalar(kind), value) => {
            let why = match (kind, value) {
                (ScalarType::Number, Value::Number(_))
                | (ScalarType::String, Value::String(_))
                | (ScalarType::Boolean, Value::Bool(_)) => return,
                (ScalarType::Untyped, value) if value.is_scalar() => return,
                (ScalarType::Number, value) => format!("expected numeric (int or float), got {}", go_type(value)),
                (ScalarType::String, value) => {
                    format!("expected string, got &value.valueUnstructured{{Value:{}}}", go_value(value))
                }
                (ScalarType::Boolean, value) => format!("expected boolean, got &{{{}}}", go_value(value)),
                (ScalarType::Untyped, value) => format!("expected any scalar, got &{{{}}}", go_value(value)),
            };
            errors.push(said(why));
        }
        (Shape::Map(map), Value::Map(fields)) => {
            for (name, value) in fields.iter() {
                let path = format!("{at}.{name}");
                match map.child(name) {
                    Some(id) => check(value, of.to(id), duplicates, &path, errors),
                    None => {
                        errors.push(format!("{path}: field not declared in schema"));
                        return;
                    }
                }
            }
        }
        (Shape::Map(_), other) => errors.push(said(format!("expected map, got &{{{}}}", go_value(other)))),
        (Shape::List(list), Value::List(items)) => {
            let mut seen = BTreeSet::new();
            for (index, item) in items.iter().enumerate() {
                let element = if list.kind == ListKind::Atomic {
                    Element::Index(i64::try_from(index).unwrap_or(i64::MAX))
                } else {
                    match list.element(item, of) {
                        Ok(element) => element,
                        Err(why) => return errors.push(said(format!("element {index}: {why}"))),
                    }
                };
                let path = format!("{at}{element}");
                if !seen.insert(element.clone()) && !duplicates {
                    errors.push(said(format!("duplicate entries for key {element}")));
                }
                check(item, of.to(list.item), duplicates, &path, errors);
            }
        }
        (Shape::List(_), other) => errors.push(said(format!("expected list, got &{{{}}}", go_value(other)))),
    }
}

fn go_type(value: &Value<'_>) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::List(_) => "[]interface {}",
        Value::Map(_) => "map[string]interface {}",
    }
}

/// A value as Go prints it with `%v`.
pub fn go_value(value: &Value<'_>) -> String {
    let all = |items: Vec<String>| items.join(" ");
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.to_string(),
        Value::List(items) => format!("[{}]", all(items.iter().map(go_value).collect())),
        Value::Map(map) => {
            format!("map[{}]", all(map.iter().map(|(name, value)| format!("{name}:{}", go_value(value))).collect()))
        }
    }
}
