//! `pod-security.admission.config.k8s.io PodSecurityConfiguration`: what holds where a namespace does not say, and who is exempt.
//!
//! Source: `k8s.io/pod-security-admission/admission/api` (`load`, `validation`).

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_yaml::Value;
use wharf_machinery::names;
use wharf_types::field::{Error, Errors, Path};

use super::PodSecurity;
use super::policy::{LevelVersion, Policy};
use crate::config;

const VERSIONS: [&str; 3] = [
    "pod-security.admission.config.k8s.io/v1",
    "pod-security.admission.config.k8s.io/v1beta1",
    "pod-security.admission.config.k8s.io/v1alpha1",
];
const KIND: &str = "PodSecurityConfiguration";

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Configuration {
    defaults: Defaults,
    exemptions: Exemptions,
}

/// Each mode's level and version.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Defaults {
    enforce: String,
    enforce_version: String,
    audit: String,
    audit_version: String,
    warn: String,
    warn_version: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Exemptions {
    usernames: Vec<String>,
    namespaces: Vec<String>,
    runtime_classes: Vec<String>,
}

/// Reads the plugin's part of the configuration.
pub fn read(part: &Value) -> Result<PodSecurity, String> {
    let Configuration { defaults, exemptions } = config::read(part, &VERSIONS, KIND)?;
    let mut errors = Vec::new();
    let mut mode = |name: &str, level: &str, version: &str| LevelVersion {
        level: parse(name, level, "privileged", &mut errors),
        version: parse(&format!("{name}-version"), version, "latest", &mut errors),
    };
    let policy = Policy {
        enforce: mode("enforce", &defaults.enforce, &defaults.enforce_version),
        audit: mode("audit", &defaults.audit, &defaults.audit_version),
        warn: mode("warn", &defaults.warn, &defaults.warn_version),
    };
    let path = Path::new("exemptions");
    errors.extend(check(&exemptions.namespaces, &path.child("namespaces"), names::dns1123_label));
    errors.extend(check(&exemptions.runtime_classes, &path.child("runtimeClasses"), names::dns1123_subdomain));
    let named = |name: &str| if name.is_empty() { vec!["username must not be empty".to_owned()] } else { Vec::new() };
    errors.extend(check(&exemptions.usernames, &path.child("usernames"), named));
    if !errors.is_empty() {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        return Err(super::super::refusals(&errors));
    }
    Ok(PodSecurity {
        defaults: policy,
        exempt_users: exemptions.usernames,
        exempt_namespaces: exemptions.namespaces,
        exempt_runtime_classes: exemptions.runtime_classes,
    })
}

fn parse<T>(field: &str, text: &str, otherwise: &str, errors: &mut Errors) -> T
where
    T: std::str::FromStr<Err = &'static str> + Default,
{
    let text = if text.is_empty() { otherwise } else { text };
    text.parse().unwrap_or_else(|why| {
        errors.push(Error::invalid(&Path::new("defaults").child(field), text, why));
        T::default()
    })
}

/// Each name must be one, and stand there once.
fn check(list: &[String], path: &Path, judge: impl Fn(&str) -> Vec<String>) -> Errors {
    let (mut errors, mut seen) = (Vec::new(), BTreeSet::new());
    for (index, name) in list.iter().enumerate() {
        let path = path.index(index);
        let why = judge(name);
        if !why.is_empty() {
            errors.push(Error::invalid(&path, name.as_str(), why.join(", ")));
        } else if !seen.insert(name) {
            errors.push(Error::duplicate(&path, name.as_str()));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rest: &str) -> Result<PodSecurity, String> {
        let text =
            format!("apiVersion: pod-security.admission.config.k8s.io/v1\nkind: PodSecurityConfiguration\n{rest}");
        super::read(&serde_yaml::from_str(&text).expect("YAML"))
    }

    #[test]
    fn defaults_and_exemptions_are_read() {
        let plugin = read(
            "defaults: {enforce: baseline, enforce-version: v1.30, warn: restricted}\nexemptions: {usernames: [a], namespaces: [kube-system], runtimeClasses: [r]}",
        )
        .expect("a configuration");
        let Policy { enforce, audit, warn } = plugin.defaults;
        assert_eq!(format!("{enforce} {audit} {warn}"), "baseline:v1.30 privileged:latest restricted:latest");
        assert_eq!(
            (plugin.exempt_users, plugin.exempt_namespaces),
            (vec!["a".to_owned()], vec!["kube-system".to_owned()])
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let error = read(
            "defaults: {enforce: strict, audit-version: '1'}\nexemptions: {usernames: [''], namespaces: [a, a, B]}",
        )
        .unwrap_err();
        for part in [
            "defaults.enforce: Invalid value: \"strict\": must be one of privileged, baseline, restricted",
            "defaults.audit-version: Invalid value: \"1\": must be \"latest\" or \"v1.x\"",
            "exemptions.namespaces[1]: Duplicate value: \"a\"",
            "exemptions.namespaces[2]: Invalid value: \"B\": ",
            "exemptions.usernames[0]: Invalid value: \"\": username must not be empty",
        ] {
            assert!(error.contains(part), "{error} does not contain {part}");
        }
        assert!(read("odd: 1").unwrap_err().starts_with("strict decoding error: unknown field `odd`"));
    }
}
