//! Encryption at rest as an `EncryptionConfiguration` file asks for it: which resources, and by which providers.
//!
//! Source: `k8s.io/apiserver/pkg/server/options/encryptionconfig` and `pkg/apis/apiserver/validation`. A resource is covered by the
//! first entry that names it; `*.group` and `*.*` cover custom resources that do not exist yet, too.
//! Absent on purpose: KMS v1, which upstream has turned off.

pub mod kms;
pub mod metrics;
mod running;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use wharf_auth::duration;
use wharf_registry::Table;
use wharf_store::sealed::{AesCbc, AesGcm, Identity, Provider, Random, Rule, SecretBox};

pub use self::kms::Kms;
pub use self::metrics::ReloadMetrics;
pub use self::running::Encrypted;
use crate::server::Clock;

const API_VERSIONS: [&str; 2] = ["apiserver.config.k8s.io/v1", "v1"];
const KIND: &str = "EncryptionConfiguration";

/// How long a call to a KMS plugin may take, unless the file says.
const KMS_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a file is refused, with the path of what is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

fn refuse<T>(path: impl std::fmt::Display, why: impl std::fmt::Display) -> Result<T, Error> {
    Err(Error(format!("{path}: {why}")))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Configuration {
    api_version: String,
    kind: String,
    resources: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    resources: Vec<String>,
    providers: Vec<Choice>,
}

/// Exactly one of these.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Choice {
    aesgcm: Option<Keys>,
    aescbc: Option<Keys>,
    secretbox: Option<Keys>,
    identity: Option<Nothing>,
    kms: Option<Plugin>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Plugin {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    endpoint: String,
    timeout: Option<String>,
    cachesize: Option<i32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    keys: Vec<NamedKey>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedKey {
    name: String,
    /// Base64.
    secret: String,
}

/// What a file asks for.
pub struct Encryption {
    pub rules: Vec<Rule>,
    /// The plugins, which want to be asked before anything is read, and while the server runs.
    pub plugins: Vec<Arc<Kms>>,
}

/// What providers are made with.
pub struct Surroundings {
    pub random: Random,
    pub clock: Clock,
}

/// Reads a file's text and says what it means for the resources of the table.
pub fn read(yaml: &str, table: &Table, around: &Surroundings) -> Result<Encryption, Error> {
    let configuration: Configuration = serde_yaml::from_str(yaml).map_err(|error| Error(error.to_string()))?;
    if !API_VERSIONS.contains(&configuration.api_version.as_str()) || configuration.kind != KIND {
        return refuse(
            "kind",
            format!("{}/{} is no {}/{KIND}", configuration.api_version, configuration.kind, API_VERSIONS[0]),
        );
    }
    if configuration.resources.is_empty() {
        return refuse("resources", "at least one entry is required");
    }
    let (mut rules, mut plugins): (Vec<Rule>, Vec<Arc<Kms>>) = Default::default();
    for (place, entry) in configuration.resources.iter().enumerate() {
        let path = format!("resources[{place}]");
        let providers = Arc::new(providers(&entry.providers, &path, around, &mut plugins)?);
        if entry.resources.is_empty() {
            return refuse(format!("{path}.resources"), "at least one resource is required");
        }
        for (place, name) in entry.resources.iter().enumerate() {
            let path = format!("{path}.resources[{place}]");
            for prefix in prefixes(name, table, &path)? {
                if rules.iter().any(|rule| rule.prefix == prefix && !name.contains('*')) {
                    return refuse(&path, format!("{name:?} is covered by an earlier entry"));
                }
                rules.push(Rule { prefix, providers: providers.clone() });
            }
        }
    }
    Ok(Encryption { rules, plugins })
}

/// The keys of a resource, which is named `secrets`, `widgets.example.com`, `*.apps`, `*.` or `*.*`.
fn prefixes(name: &str, table: &Table, path: &str) -> Result<Vec<String>, Error> {
    let (resource, group) = name.split_once('.').unwrap_or((name, ""));
    if name != name.to_lowercase() || resource.is_empty() || resource.contains('/') || name == "*" {
        return refuse(path, format!("{name:?} names no resource: write <resource>.<group>, *.<group> or *.*"));
    }
    if (resource, group) == ("*", "*") {
        return Ok(vec![wharf_cache::ROOT.to_owned()]);
    }
    if group == "*" {
        return refuse(path, format!("{name:?}: only * may stand for all groups' resources, as *.*"));
    }
    let named = |row: &wharf_registry::Row| resource == "*" || row.gvr.resource == resource;
    let fits = |row: &wharf_registry::Row| !row.is_virtual() && row.gvr.group == group && named(row);
    let mut found: Vec<String> = table.all().iter().filter(|row| fits(row)).map(|row| row.prefix()).collect();
    // Custom resources are kept below their group.
    match (found.is_empty(), group.is_empty(), resource) {
        (_, false, "*") => found.push(format!("{}{group}/", wharf_cache::ROOT)),
        (true, false, resource) => found.push(format!("{}{group}/{resource}/", wharf_cache::ROOT)),
        (true, true, _) => return refuse(path, format!("there is no resource {name:?}")),
        _ => {}
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn providers(
    choices: &[Choice],
    path: &str,
    around: &Surroundings,
    plugins: &mut Vec<Arc<Kms>>,
) -> Result<Vec<Box<dyn Provider>>, Error> {
    let mut providers: Vec<Box<dyn Provider>> = Vec::new();
    let random = || around.random.clone();
    for (place, choice) in choices.iter().enumerate() {
        let path = format!("{path}.providers[{place}]");
        let Choice { aesgcm, aescbc, secretbox, identity, kms } = choice;
        let given = [aesgcm.is_some(), aescbc.is_some(), secretbox.is_some(), identity.is_some(), kms.is_some()];
        if given.into_iter().filter(|given| *given).count() != 1 {
            return refuse(path, "exactly one of aesgcm, aescbc, secretbox, identity and kms is required");
        }
        if let Some(keys) = aesgcm {
            add(&mut providers, keys, &format!("{path}.aesgcm"), |name, secret| {
                Ok(Box::new(AesGcm::new(name, secret, random())?))
            })?;
        }
        if let Some(keys) = aescbc {
            add(&mut providers, keys, &format!("{path}.aescbc"), |name, secret| {
                Ok(Box::new(AesCbc::new(name, secret, random())?))
            })?;
        }
        if let Some(keys) = secretbox {
            add(&mut providers, keys, &format!("{path}.secretbox"), |name, secret| {
                Ok(Box::new(SecretBox::new(name, secret, random())?))
            })?;
        }
        if identity.is_some() {
            providers.push(Box::new(Identity));
        }
        if let Some(plugin) = kms {
            let made = Arc::new(kms_plugin(plugin, &format!("{path}.kms"), around)?);
            if plugins.iter().any(|other| other.name() == made.name()) {
                let why = format!("duplicate KMS provider name {}, names must be unique", made.name());
                return refuse(format!("{path}.kms.name"), why);
            }
            providers.push(Box::new(made.clone()));
            plugins.push(made);
        }
    }
    if providers.is_empty() {
        return refuse(format!("{path}.providers"), "at least one provider is required");
    }
    Ok(providers)
}

fn kms_plugin(plugin: &Plugin, path: &str, around: &Surroundings) -> Result<Kms, Error> {
    let Plugin { api_version, name, endpoint, timeout, cachesize } = plugin;
    match api_version.as_str() {
        "v2" => {}
        "" | "v1" => {
            let why = "KMSv1 is deprecated and will only receive security updates going forward. Use KMSv2 instead";
            return refuse(format!("{path}.apiVersion"), why);
        }
        other => {
            return refuse(format!("{path}.apiVersion"), format!("unsupported apiVersion {other:?}: v2 is supported"));
        }
    }
    if name.is_empty() {
        return refuse(format!("{path}.name"), "name is a required field for a provider");
    }
    if name.contains(':') {
        return refuse(format!("{path}.name"), format!("invalid KMS provider name {name}, must not contain ':'"));
    }
    let at = format!("{path}.endpoint");
    let (scheme, socket) = match endpoint.split_once("://") {
        _ if endpoint.is_empty() => return refuse(at, "endpoint is a required field for a provider"),
        Some(parts) => parts,
        None => return refuse(at, format!("invalid endpoint {endpoint:?} for kms provider")),
    };
    if scheme != "unix" {
        return refuse(at, format!("unsupported scheme {scheme:?} for KMS provider, only unix is supported"));
    }
    if cachesize.is_some() {
        return refuse(format!("{path}.cachesize"), "cachesize is not supported in v2");
    }
    let timeout = match timeout.as_deref() {
        None => KMS_TIMEOUT,
        Some(text) => match duration::parse(text) {
            Some(timeout) if !timeout.is_zero() => timeout,
            _ => return refuse(format!("{path}.timeout"), "timeout should be a positive value"),
        },
    };
    Ok(Kms::new(name, PathBuf::from(socket), timeout, around.random.clone(), around.clock.clone()))
}

/// One provider for each key, the first of which writes.
fn add(
    providers: &mut Vec<Box<dyn Provider>>,
    keys: &Keys,
    path: &str,
    make: impl Fn(&str, &[u8]) -> Result<Box<dyn Provider>, &'static str>,
) -> Result<(), Error> {
    if keys.keys.is_empty() {
        return refuse(format!("{path}.keys"), "at least one key is required");
    }
    for (place, key) in keys.keys.iter().enumerate() {
        let path = format!("{path}.keys[{place}]");
        if key.name.is_empty() || key.name.contains(':') {
            return refuse(format!("{path}.name"), "a name without ':' is required");
        }
        // The secret itself must not get into a message.
        let secret = STANDARD.decode(&key.secret).or_else(|_| refuse(format!("{path}.secret"), "is not base64"))?;
        let provider = make(&key.name, &secret).or_else(|why| refuse(format!("{path}.secret"), why))?;
        if providers.iter().any(|other| other.prefix() == provider.prefix()) {
            return refuse(format!("{path}.name"), format!("there are two keys {:?}", key.name));
        }
        providers.push(provider);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The prefixes of the rules with their first provider's, or the message.
    fn check(resources: &str, expected: &str) {
        let yaml =
            format!("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: {resources}");
        let table = Table::new(wharf_registry::builtin::rows());
        let around = Surroundings { random: Arc::new(|_| {}), clock: Arc::new(jiff::Timestamp::now) };
        let shown = match read(&yaml, &table, &around) {
            Ok(Encryption { rules, .. }) => {
                let show = |rule: &Rule| format!("{}={}", rule.prefix, rule.providers[0].prefix());
                rules.iter().map(show).collect::<Vec<_>>().join(" ")
            }
            Err(error) => error.to_string(),
        };
        assert_eq!(shown, expected, "{resources}");
    }

    #[tokio::test]
    async fn resources_are_found_where_they_are_stored() {
        const KEY: &str = "keys: [{name: a, secret: AAAAAAAAAAAAAAAAAAAAAA==}]";
        check(
            &format!("[{{resources: [secrets, nodes], providers: [{{aesgcm: {{{KEY}}}}}, {{identity: {{}}}}]}}]"),
            "/registry/secrets/=k8s:enc:aesgcm:v1:a: /registry/minions/=k8s:enc:aesgcm:v1:a:",
        );
        check(
            &format!("[{{resources: [widgets.example.com, '*.*'], providers: [{{aescbc: {{{KEY}}}}}]}}]"),
            "/registry/example.com/widgets/=k8s:enc:aescbc:v1:a: /registry/=k8s:enc:aescbc:v1:a:",
        );
        check("[{resources: ['*.example.com'], providers: [{identity: {}}]}]", "/registry/example.com/=");
        check(
            "[{resources: [secrets], providers: [{kms: {apiVersion: v2, name: vault, endpoint: 'unix:///run/kms', timeout: 5s}}]}]",
            "/registry/secrets/=k8s:enc:kms:v2:vault:",
        );
        check(
            "[{resources: [secrets], providers: [{secretbox: {keys: [{name: a, secret: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=}]}}]}]",
            "/registry/secrets/=k8s:enc:secretbox:v1:a:",
        );
    }

    #[tokio::test]
    async fn what_is_wrong_is_named_and_secrets_are_not_shown() {
        check(
            "[{resources: [secrets], providers: [{aesgcm: {keys: [{name: a, secret: c2hvcnQ=}]}}]}]",
            "resources[0].providers[0].aesgcm.keys[0].secret: an AES key has 16, 24 or 32 bytes",
        );
        check(
            "[{resources: [secrets], providers: [{aescbc: {keys: [{name: a, secret: '*'}]}}]}]",
            "resources[0].providers[0].aescbc.keys[0].secret: is not base64",
        );
        check("[{resources: [secrets], providers: []}]", "resources[0].providers: at least one provider is required");
        check(
            "[{resources: [things], providers: [{identity: {}}]}]",
            "resources[0].resources[0]: there is no resource \"things\"",
        );
        check(
            "[{resources: [secrets], providers: [{}]}]",
            "resources[0].providers[0]: exactly one of aesgcm, aescbc, secretbox, identity and kms is required",
        );
        let kms = |fields: &str, expected: &str| {
            check(
                &format!("[{{resources: [secrets], providers: [{{kms: {{{fields}}}}}]}}]"),
                &format!("resources[0].providers[0].kms.{expected}"),
            );
        };
        let v1 =
            "apiVersion: KMSv1 is deprecated and will only receive security updates going forward. Use KMSv2 instead";
        kms("name: a, endpoint: 'unix:///a'", v1);
        kms("apiVersion: v2, endpoint: 'unix:///a'", "name: name is a required field for a provider");
        kms("apiVersion: v2, name: 'a:b', endpoint: x", "name: invalid KMS provider name a:b, must not contain ':'");
        kms(
            "apiVersion: v2, name: a, endpoint: 'tcp://a'",
            "endpoint: unsupported scheme \"tcp\" for KMS provider, only unix is supported",
        );
        kms(
            "apiVersion: v2, name: a, endpoint: 'unix:///a', cachesize: 5",
            "cachesize: cachesize is not supported in v2",
        );
        kms(
            "apiVersion: v2, name: a, endpoint: 'unix:///a', timeout: -1s",
            "timeout: timeout should be a positive value",
        );
        check("[]", "resources: at least one entry is required");
    }
}
