//! Secrets: bytes under keys, with a type that says which keys there must be.

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::ByteString;
use wharf_types::k8s::api::core::v1::Secret;

use super::configmap::DATA_MAX;
use super::{created, name};
use crate::checks::{self, FROZEN};
use crate::podspec::defaults::text;
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct Secrets;

const SERVICE_ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
/// Shown in place of what a secret holds.
const REDACTED: &str = "<secret contents redacted>";

impl Strategy for Secrets {
    type Object = Secret;

    fn default(&self, secret: &mut Secret) {
        text(&mut secret.type_, "Opaque");
        // `stringData` is a way to write, never to read.
        if let Some(strings) = secret.string_data.take().filter(|strings| !strings.is_empty()) {
            let data = secret.data.get_or_insert_default();
            data.extend(strings.into_iter().map(|(key, value)| (key, ByteString(value.into_bytes()))));
        }
    }

    fn validate(&self, secret: &Secret) -> Errors {
        let mut errors = Vec::new();
        let mut bytes = 0;
        for (key, value) in secret.data.iter().flatten() {
            errors.extend(checks::config_key(key, &Path::new("data").key(key)));
            bytes += value.0.len();
        }
        if bytes > DATA_MAX {
            errors.push(Error::too_long(&Path::new("data"), DATA_MAX));
        }
        errors.extend(validate_type(secret));
        errors
    }

    fn validate_update(&self, new: &Secret, old: &Secret) -> Errors {
        let mut errors = checks::immutable(&new.type_, &old.type_, &Path::new("type"));
        if old.immutable == Some(true) {
            if new.immutable != Some(true) {
                errors.push(Error::forbidden(&Path::new("immutable"), FROZEN));
            }
            if new.data.clone().unwrap_or_default() != old.data.clone().unwrap_or_default() {
                errors.push(Error::forbidden(&Path::new("data"), FROZEN));
            }
        }
        errors
    }

    fn fields(&self, secret: &Secret) -> Vec<(&'static str, String)> {
        vec![("type", secret.type_.clone().unwrap_or_default())]
    }

    fn field_names(&self) -> &'static [&'static str] {
        &["type"]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new(
                "Type",
                "string",
                "Used to facilitate programmatic handling of secret data. More info: https://kubernetes.io/docs/concepts/configuration/secret/#secret-types",
            ),
            Column::new(
                "Data",
                "string",
                "Data contains the secret data. Each key must consist of alphanumeric characters, '-', '_' or '.'. The serialized form of the secret data is a base64 encoded string, representing the arbitrary (possibly non-string) data value here. Described in https://tools.ietf.org/html/rfc4648#section-4",
            ),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, secret: &Secret, now: Timestamp) -> Vec<Value> {
        let keys = secret.data.as_ref().map_or(0, |data| data.len());
        vec![
            name(&secret.metadata),
            secret.type_.clone().unwrap_or_default().into(),
            keys.into(),
            created(&secret.metadata, now),
        ]
    }
}

/// The keys that a secret of its type must have.
fn validate_type(secret: &Secret) -> Errors {
    let held = |key: &str| secret.data.as_ref().and_then(|data| data.get(key));
    let required = |path: Path| Error::required(&path, "");
    let data = Path::new("data");
    // Upstream's path, oddity included.
    let odd = Path::new("data[%s]");
    match secret.type_.as_deref().unwrap_or_default() {
        "kubernetes.io/service-account-token" => {
            let account = secret.metadata.annotations.as_ref().and_then(|all| all.get(SERVICE_ACCOUNT_NAME));
            match account.map(String::as_str).unwrap_or_default() {
                "" => vec![required(Path::new("metadata").child("annotations").key(SERVICE_ACCOUNT_NAME))],
                _ => Vec::new(),
            }
        }
        "kubernetes.io/dockercfg" => validate_json(held(".dockercfg"), &data.key(".dockercfg")),
        "kubernetes.io/dockerconfigjson" => validate_json(held(".dockerconfigjson"), &data.key(".dockerconfigjson")),
        "kubernetes.io/basic-auth" if held("username").is_none() && held("password").is_none() => {
            vec![required(odd.key("username")), required(odd.key("password"))]
        }
        "kubernetes.io/ssh-auth" if held("ssh-privatekey").is_none_or(|key| key.0.is_empty()) => {
            vec![required(odd.key("ssh-privatekey"))]
        }
        "kubernetes.io/tls" => ["tls.crt", "tls.key"]
            .into_iter()
            .filter(|key| held(key).is_none())
            .map(|key| required(data.key(key)))
            .collect(),
        _ => Vec::new(),
    }
}

fn validate_json(value: Option<&ByteString>, path: &Path) -> Errors {
    let Some(value) = value else { return vec![Error::required(path, "")] };
    match serde_json::from_slice::<serde_json::Map<String, Value>>(&value.0) {
        Ok(_) => Vec::new(),
        Err(error) => vec![Error::invalid(path, REDACTED, error.to_string())],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, check_starts, check_update, created};

    #[test]
    fn string_data_becomes_data() {
        created(
            &Secrets,
            "{metadata: {name: a}, stringData: {a: x}, data: {a: eQ==, b: eg==}}",
            r#"{"metadata":{"name":"a"},"type":"Opaque","data":{"a":"eA==","b":"eg=="}}"#,
        );
    }

    #[test]
    fn each_type_has_its_keys() {
        check(&Secrets, "{type: mine/own}", &[]);
        check(&Secrets, "{type: kubernetes.io/tls, stringData: {tls.crt: x}}", &["data[tls.key]: Required value"]);
        check(
            &Secrets,
            "{type: kubernetes.io/basic-auth}",
            &["data[%s][username]: Required value", "data[%s][password]: Required value"],
        );
        check(&Secrets, "{type: kubernetes.io/ssh-auth}", &["data[%s][ssh-privatekey]: Required value"]);
        check(&Secrets, "{type: kubernetes.io/dockerconfigjson}", &["data[.dockerconfigjson]: Required value"]);
        check_starts(
            &Secrets,
            "{type: kubernetes.io/dockercfg, stringData: {.dockercfg: x}}",
            &["data[.dockercfg]: Invalid value: \"<secret contents redacted>\": "],
        );
        check(
            &Secrets,
            "{type: kubernetes.io/service-account-token}",
            &["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
        );
    }

    #[test]
    fn the_type_never_changes() {
        check_update(&Secrets, "{}", "{type: a/b}", &["type: Invalid value: \"a/b\": field is immutable"]);
        check_update(
            &Secrets,
            "{immutable: true}",
            "{immutable: true, stringData: {a: b}}",
            &["data: Forbidden: field is immutable when `immutable` is set"],
        );
    }

    #[test]
    fn values_are_not_shown() {
        check_cells(
            &Secrets,
            "{metadata: {name: a, creationTimestamp: '2024-05-01T11:59:00Z'}, stringData: {a: x}}",
            "a | Opaque | 1 | 60s",
        );
    }
}
