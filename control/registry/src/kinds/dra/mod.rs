//! Devices: what a claim for them, their class and a driver's list of them say in the same way.
//!
//! Source: `pkg/apis/resource/{v1,validation}`. The order of checks is upstream's: what is too long is not looked into.

pub mod claim;
pub mod class;
pub mod device;
pub mod slice;
pub mod status;
pub mod template;

use std::collections::BTreeSet;

use serde_json::Value;
use wharf_machinery::cel::{Program, Type};
use wharf_machinery::names;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::resource::v1::{DeviceSelector, DeviceToleration, OpaqueDeviceConfiguration};

use super::storageclass::validate_driver_name;
use crate::checks;

/// Most selectors, and configurations, of a class or a request.
const SELECTORS_MAX: usize = 32;
const CONFIG_MAX: usize = 32;
/// Longest expression of a selector, in bytes.
const EXPRESSION_MAX: usize = 10 * 1024;
/// Most bytes of a driver's own parameters.
const PARAMETERS_MAX: usize = 10 * 1024;
/// Longest name of a pool, in bytes.
const POOL_NAME_MAX: usize = 253;
/// Longest name of an attribute, without its domain.
const IDENTIFIER_MAX: usize = 32;
const NOT_AN_IDENTIFIER: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";

/// Checks each item of a list that is not too long.
fn each<T>(items: &[T], max: usize, path: &Path, check: impl Fn(&T, &Path) -> Errors) -> Errors {
    if items.len() > max {
        return vec![Error::too_many(path, items.len(), max)];
    }
    items.iter().enumerate().flat_map(|(index, item)| check(item, &path.index(index))).collect()
}

/// As [`each`], and no two items have one key.
fn each_once<T>(
    items: &[T],
    max: usize,
    path: &Path,
    key: impl Fn(&T) -> String,
    check: impl Fn(&T, &Path) -> Errors,
) -> Errors {
    let mut errors = each(items, max, path, check);
    if items.len() <= max {
        let mut seen = BTreeSet::new();
        for (index, item) in items.iter().enumerate() {
            let key = key(item);
            if !seen.insert(key.clone()) {
                errors.push(Error::duplicate(&path.index(index), &key));
            }
        }
    }
    errors
}

fn validate_selectors(selectors: &[DeviceSelector], path: &Path) -> Errors {
    each(selectors, SELECTORS_MAX, path, |selector, path| {
        let path = path.child("cel");
        let Some(cel) = &selector.cel else { return vec![Error::required(&path, "")] };
        let at = path.child("expression");
        if cel.expression.len() > EXPRESSION_MAX {
            return vec![Error::too_long(&at, EXPRESSION_MAX)];
        }
        match Program::compile(&cel.expression) {
            Err(why) => vec![Error::invalid(&at, &cel.expression, format!("compilation failed: {why}"))],
            Ok(program) if !matches!(program.output(), Type::Bool | Type::Dyn) => {
                let why = format!("must evaluate to bool or the unknown type, not {}", program.output());
                vec![Error::invalid(&at, &cel.expression, why)]
            }
            Ok(_) => Vec::new(),
        }
    })
}

fn validate_config(opaque: Option<&OpaqueDeviceConfiguration>, path: &Path) -> Errors {
    let path = path.child("opaque");
    let Some(opaque) = opaque else { return vec![Error::required(&path, "")] };
    let mut errors = validate_driver_name(&opaque.driver, &path.child("driver"));
    errors.extend(validate_raw(&opaque.parameters.0, PARAMETERS_MAX, &path.child("parameters")));
    errors
}

/// Something that only a driver understands: an object, and not too big.
fn validate_raw(value: &Value, max: usize, path: &Path) -> Errors {
    match value {
        Value::Null => vec![Error::required(path, "")],
        value if value.to_string().len() > max => vec![Error::too_long(path, max)],
        Value::Object(_) => Vec::new(),
        _ => vec![Error::invalid(path, "<value omitted>", "must be a valid JSON object")],
    }
}

fn validate_pool_name(name: &str, path: &Path) -> Errors {
    if name.is_empty() {
        return vec![Error::required(path, "")];
    }
    let mut errors = Vec::new();
    if name.len() > POOL_NAME_MAX {
        errors.push(Error::too_long(path, POOL_NAME_MAX));
    }
    errors.extend(name.split('/').flat_map(|part| checks::dns1123_subdomain(part, path)));
    errors
}

/// `name` or `example.com/name`
fn validate_qualified(name: &str, path: &Path) -> Errors {
    match name.split('/').collect::<Vec<_>>()[..] {
        [id] => validate_identifier(id, path),
        [domain, id] => {
            let mut errors = match domain {
                "" => vec![Error::invalid(path, "", "the domain must not be empty")],
                domain => validate_driver_name(domain, path),
            };
            errors.extend(match id {
                "" => vec![Error::invalid(path, "", "the name must not be empty")],
                id => validate_identifier(id, path),
            });
            errors
        }
        // As upstream, which lets these through.
        _ => Vec::new(),
    }
}

fn validate_fully_qualified(name: &str, path: &Path) -> Errors {
    let mut errors = validate_qualified(name, path);
    if !name.contains('/') {
        let why = "a fully qualified name must be a domain and a name separated by a slash";
        errors.push(Error::invalid(path, name, why));
    }
    errors
}

fn validate_identifier(id: &str, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if id.len() > IDENTIFIER_MAX {
        errors.push(Error::too_long(path, IDENTIFIER_MAX));
    }
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if id.starts_with(|first: char| first.is_ascii_digit()) || id.is_empty() || !id.bytes().all(word) {
        errors.push(Error::invalid(path, id, NOT_AN_IDENTIFIER));
    }
    errors
}

fn default_tolerations(tolerations: Option<&mut Vec<DeviceToleration>>) {
    for toleration in tolerations.into_iter().flatten() {
        let operator = toleration.operator.get_or_insert_default();
        if operator.is_empty() {
            *operator = "Equal".to_owned();
        }
    }
}

fn validate_toleration(toleration: &DeviceToleration, path: &Path) -> Errors {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (key, operator, value, effect) =
        (text(&toleration.key), text(&toleration.operator), text(&toleration.value), text(&toleration.effect));
    let mut errors = Vec::new();
    if !key.is_empty() {
        errors.extend(checks::qualified_name(&key, &path.child("key")));
    }
    match operator.as_str() {
        "Exists" if !value.is_empty() => {
            let why = "must be empty for operator `Exists`";
            errors.push(Error::invalid(&path.child("value"), &value, why));
        }
        "Exists" => {}
        "Equal" => errors.extend(checks::invalid(names::label_value(&value), &path.child("value"), &value)),
        "" => errors.push(Error::required(&path.child("operator"), "")),
        other => errors.push(Error::not_supported(&path.child("operator"), other, &["Equal", "Exists"])),
    }
    if !effect.is_empty() {
        errors.extend(checks::one_of(&effect, device::TAINT_EFFECTS, &path.child("effect")));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_have_a_name_and_perhaps_a_domain() {
        let check = |name: &str, expected: &[&str]| {
            let errors: Vec<String> =
                validate_qualified(name, &Path::new("n")).iter().map(|error| error.detail.clone()).collect();
            assert_eq!(errors, expected, "{name}");
        };
        check("model", &[]);
        check("gpu.example.com/model", &[]);
        check("/model", &["the domain must not be empty"]);
        check("gpu.example.com/", &["the name must not be empty"]);
        check("7th", &[NOT_AN_IDENTIFIER]);
    }
}
