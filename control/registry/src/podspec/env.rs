//! Environment variables, and the references that they, and downward files, take their values from.
//!
//! Source: `ValidateEnv`, `ValidateEnvFrom`, `validateObjectFieldSelector`, `validateContainerResourceFieldSelector`.

use wharf_machinery::names;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::{
    EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector, ResourceFieldSelector,
};

use super::volume::relative_path;
use crate::checks;
use crate::quantity;

/// Fields of a pod that a variable may show.
pub const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields of a pod that a file may show.
pub const FILE_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// Fields that are known at all; others cannot even be converted.
const KNOWN_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.host",
    "status.hostIP",
    "status.hostIPs",
    "status.phase",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const RESOURCE_PREFIXES: &[&str] = &["limits.hugepages-", "requests.hugepages-"];
const SEVERAL: &str = "may not have more than one field specified at a time";

pub fn validate(vars: &[EnvVar], path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (index, var) in vars.iter().enumerate() {
        let path = path.index(index);
        match var.name.as_str() {
            "" => errors.push(Error::required(&path.child("name"), "")),
            name => errors.extend(variable_name(name, &path.child("name"))),
        }
        if let Some(source) = &var.value_from {
            let has_value = var.value.as_ref().is_some_and(|value| !value.is_empty());
            errors.extend(validate_source(source, has_value, &path.child("valueFrom")));
        }
    }
    errors
}

pub fn validate_from(sources: &[EnvFromSource], path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        let at = path.index(index);
        if let Some(prefix) = source.prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
            errors.extend(variable_name(prefix, &at.child("prefix")));
        }
        let config_map = source.config_map_ref.as_ref().map(|reference| ("configMapRef", &reference.name));
        let secret = source.secret_ref.as_ref().map(|reference| ("secretRef", &reference.name));
        for (field, name) in [config_map, secret].into_iter().flatten() {
            errors.extend(object_name(name, &at.child(field).child("name")));
        }
        match (config_map.is_some(), secret.is_some()) {
            (false, false) => {
                errors.push(Error::invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"))
            }
            (true, true) => errors.push(Error::invalid(path, "", SEVERAL)),
            _ => {}
        }
    }
    errors
}

fn variable_name(name: &str, path: &Path) -> Errors {
    if name.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'=') {
        return Vec::new();
    }
    let why = "a valid environment variable name must consist only of printable ASCII characters other than '='";
    vec![Error::invalid(path, name, why)]
}

fn object_name(name: &str, path: &Path) -> Errors {
    if name.is_empty() { vec![Error::required(path, "")] } else { checks::dns1123_subdomain(name, path) }
}

fn validate_source(source: &EnvVarSource, has_value: bool, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let mut count = 0;
    if let Some(field) = &source.field_ref {
        count += 1;
        errors.extend(validate_field(field, ENV_FIELDS, &path.child("fieldRef")));
    }
    if let Some(resource) = &source.resource_field_ref {
        count += 1;
        errors.extend(validate_resource(resource, false, &path.child("resourceFieldRef")));
    }
    let config_map = source.config_map_key_ref.as_ref().map(|key| ("configMapKeyRef", &key.name, &key.key));
    let secret = source.secret_key_ref.as_ref().map(|key| ("secretKeyRef", &key.name, &key.key));
    for (field, name, key) in [config_map, secret].into_iter().flatten() {
        count += 1;
        let path = path.child(field);
        errors.extend(object_name(name, &path.child("name")));
        match key.as_str() {
            "" => errors.push(Error::required(&path.child("key"), "")),
            key => errors.extend(checks::config_key(key, &path.child("key"))),
        }
    }
    if let Some(file) = &source.file_key_ref {
        count += 1;
        let path = path.child("fileKeyRef");
        for (field, value) in [("key", &file.key), ("volumeName", &file.volume_name), ("path", &file.path)] {
            if value.is_empty() {
                errors.push(Error::required(&path.child(field), ""));
            }
        }
        errors.extend(relative_path(&file.path, &path.child("path")));
    }
    match count {
        0 => errors.push(Error::invalid(
            path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        )),
        _ if has_value => errors.push(Error::invalid(path, "", "may not be specified when `value` is not empty")),
        1 => {}
        _ => errors.push(Error::invalid(path, "", SEVERAL)),
    }
    errors
}

/// A reference to a field of the pod; `allowed` are those that the place can show.
pub fn validate_field(field: &ObjectFieldSelector, allowed: &[&str], path: &Path) -> Errors {
    if field.api_version.as_deref().unwrap_or_default().is_empty() {
        return vec![Error::required(&path.child("apiVersion"), "")];
    }
    let whole = field.field_path.as_str();
    let at = path.child("fieldPath");
    if whole.is_empty() {
        return vec![Error::required(&at, "")];
    }
    let (name, subscript) = split_subscript(whole);
    if !KNOWN_FIELDS.contains(&name) {
        let why = format!("error converting fieldPath: field label not supported: {whole}");
        return vec![Error::invalid(&at, whole, why)];
    }
    match subscript {
        Some(key) if name == "metadata.annotations" => {
            checks::invalid(names::qualified_name(&key.to_lowercase()), path, key)
        }
        Some(key) if name == "metadata.labels" => checks::invalid(names::qualified_name(key), path, key),
        Some(_) => vec![Error::invalid(path, name, "does not support subscript")],
        None => checks::one_of(name, allowed, &at),
    }
}

/// `metadata.labels['app']` is `metadata.labels` and `app`.
fn split_subscript(path: &str) -> (&str, Option<&str>) {
    match path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        Some((name, key)) if !name.is_empty() => (name, Some(key)),
        _ => (path, None),
    }
}

/// A reference to what a container asks for. A file must say of which container.
pub fn validate_resource(resource: &ResourceFieldSelector, in_volume: bool, path: &Path) -> Errors {
    if in_volume && resource.container_name.as_deref().unwrap_or_default().is_empty() {
        return vec![Error::required(&path.child("containerName"), "")];
    }
    let name = resource.resource.as_str();
    if name.is_empty() {
        return vec![Error::required(&path.child("resource"), "")];
    }
    let mut errors = Vec::new();
    if !RESOURCE_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        errors.extend(checks::one_of(name, RESOURCES, &path.child("resource")));
    }
    let divisor = resource.divisor.as_ref();
    let amount = divisor.and_then(quantity::amount).unwrap_or_default();
    let allowed: &[&str] = if name.ends_with("cpu") {
        &["1m", "1"]
    } else {
        &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"]
    };
    if !amount.is_zero() && !allowed.iter().any(|unit| unit.parse() == Ok(amount)) {
        let (value, kind) =
            (divisor.map_or("", |divisor| divisor.0.as_str()), if name.ends_with("cpu") { "cpu" } else { "memory" });
        let units = if kind == "cpu" { "1m and 1" } else { "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei" };
        let why = format!("only divisor's values {units} are supported with the {kind} resource");
        errors.push(Error::invalid(&path.child("divisor"), value, why));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(vars: &str, expected: &[&str]) {
        let vars: Vec<EnvVar> = serde_yaml::from_str(vars).unwrap();
        let errors: Vec<String> = validate(&vars, &Path::new("env")).iter().map(ToString::to_string).collect();
        assert_eq!(errors, expected);
    }

    #[test]
    fn a_variable_has_a_name_and_one_source() {
        check("[{name: A.b-1, value: x}]", &[]);
        check(
            "[{name: ''}, {name: 'a=b'}]",
            &[
                "env[0].name: Required value",
                "env[1].name: Invalid value: \"a=b\": a valid environment variable name must consist only of printable ASCII characters other than '='",
            ],
        );
        check(
            "[{name: a, value: x, valueFrom: {configMapKeyRef: {name: c, key: k}}}]",
            &["env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty"],
        );
        check(
            "[{name: a, valueFrom: {}}]",
            &[
                "env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            ],
        );
        check(
            "[{name: a, valueFrom: {secretKeyRef: {name: s, key: ''}}}]",
            &["env[0].valueFrom.secretKeyRef.key: Required value"],
        );
    }

    #[test]
    fn fields_that_a_variable_can_show() {
        let of =
            |path: &str| format!("[{{name: a, valueFrom: {{fieldRef: {{apiVersion: v1, fieldPath: \"{path}\"}}}}}}]");
        for good in ["metadata.name", "status.podIP", "metadata.labels['app']"] {
            check(&of(good), &[]);
        }
        check(
            &of("metadata.labels"),
            &[
                "env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"metadata.labels\": supported values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
            ],
        );
        check(
            &of("spec.color"),
            &[
                "env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.color\": error converting fieldPath: field label not supported: spec.color",
            ],
        );
    }

    #[test]
    fn sources_are_one_of_two() {
        let errors = |yaml: &str| -> Vec<String> {
            let sources: Vec<EnvFromSource> = serde_yaml::from_str(yaml).unwrap();
            validate_from(&sources, &Path::new("envFrom")).iter().map(ToString::to_string).collect()
        };
        assert!(errors("[{configMapRef: {name: a}}, {secretRef: {name: b}, prefix: X_}]").is_empty());
        assert_eq!(
            errors("[{}]"),
            ["envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`"]
        );
        assert_eq!(errors("[{secretRef: {name: ''}}]"), ["envFrom[0].secretRef.name: Required value"]);
    }
}
