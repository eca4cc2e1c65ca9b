//! ConfigMaps: settings as text or bytes under keys.

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::ConfigMap;

use super::{created, name};
use crate::checks::{self, FROZEN};
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct ConfigMaps;

/// The most bytes that all values of a ConfigMap or Secret may have together.
pub const DATA_MAX: usize = 1024 * 1024;

impl Strategy for ConfigMaps {
    type Object = ConfigMap;

    fn validate(&self, map: &ConfigMap) -> Errors {
        let mut errors = Vec::new();
        let mut bytes = 0;
        for (key, value) in map.data.iter().flatten() {
            let path = Path::new("data").key(key);
            errors.extend(checks::config_key(key, &path));
            if map.binary_data.as_ref().is_some_and(|binary| binary.contains_key(key)) {
                errors.push(Error::invalid(&path, key, "duplicate of key present in binaryData"));
            }
            bytes += value.len();
        }
        for (key, value) in map.binary_data.iter().flatten() {
            errors.extend(checks::config_key(key, &Path::new("binaryData").key(key)));
            bytes += value.0.len();
        }
        if bytes > DATA_MAX {
            // Upstream names no field here, and prints that as `[]`.
            errors.push(Error::too_long(&Path::root().key(""), DATA_MAX));
        }
        errors
    }

    fn validate_update(&self, new: &ConfigMap, old: &ConfigMap) -> Errors {
        if old.immutable != Some(true) {
            return Vec::new();
        }
        let mut errors = Vec::new();
        if new.immutable != Some(true) {
            errors.push(Error::forbidden(&Path::new("immutable"), FROZEN));
        }
        if new.data.clone().unwrap_or_default() != old.data.clone().unwrap_or_default() {
            errors.push(Error::forbidden(&Path::new("data"), FROZEN));
        }
        if new.binary_data.clone().unwrap_or_default() != old.binary_data.clone().unwrap_or_default() {
            errors.push(Error::forbidden(&Path::new("binaryData"), FROZEN));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new(
                "Data",
                "string",
                "Data contains the configuration data. Each key must consist of alphanumeric characters, '-', '_' or '.'. Values with non-UTF-8 byte sequences must use the BinaryData field. The keys stored in Data must not overlap with the keys in the BinaryData field, this is enforced during validation process.",
            ),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, map: &ConfigMap, now: Timestamp) -> Vec<Value> {
        let keys =
            map.data.as_ref().map_or(0, |data| data.len()) + map.binary_data.as_ref().map_or(0, |data| data.len());
        vec![name(&map.metadata), keys.into(), created(&map.metadata, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, check_starts, check_update};

    #[test]
    fn keys_are_file_names() {
        check(&ConfigMaps, "{data: {a.b_C-1: x}, binaryData: {c: eA==}}", &[]);
        check_starts(
            &ConfigMaps,
            "{data: {a b: x}}",
            &["data[a b]: Invalid value: \"a b\": a valid config key must consist of"],
        );
        check(&ConfigMaps, "{data: {..: x}}", &["data[..]: Invalid value: \"..\": must not be '..'"]);
        check(
            &ConfigMaps,
            "{data: {a: x}, binaryData: {a: eA==}}",
            &["data[a]: Invalid value: \"a\": duplicate of key present in binaryData"],
        );
    }

    #[test]
    fn a_mebibyte_is_the_limit() {
        check(&ConfigMaps, &format!("{{data: {{a: {}}}}}", "x".repeat(DATA_MAX)), &[]);
        check(
            &ConfigMaps,
            &format!("{{data: {{a: {}}}}}", "x".repeat(DATA_MAX + 1)),
            &["[]: Too long: may not be more than 1048576 bytes"],
        );
    }

    #[test]
    fn an_immutable_map_stays() {
        check_update(&ConfigMaps, "{immutable: true, data: {a: x}}", "{immutable: true, data: {a: x}}", &[]);
        check_update(
            &ConfigMaps,
            "{immutable: true, data: {a: x}}",
            "{data: {a: y}}",
            &[
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set",
            ],
        );
    }

    #[test]
    fn keys_of_both_maps_are_counted() {
        check_cells(&ConfigMaps, "{metadata: {name: a}, data: {a: x}, binaryData: {b: eA==}}", "a | 2 | <unknown>");
    }
}
