//! What plugins are told beside their names: the file behind `--admission-control-config-file`.
//!
//! Source: `k8s.io/apiserver/pkg/admission/config.go` and `apiserver.config.k8s.io/v1 AdmissionConfiguration`: each plugin's part
//! stands in the file itself or in a file of its own, which is named relative to it. Also the two older forms, which are a
//! plugin's part alone.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_yaml::Value;

/// Reads a file by its path.
pub type Load<'l> = dyn Fn(&str) -> Result<String, String> + 'l;

/// Versions of `AdmissionConfiguration` that are read.
const VERSIONS: [&str; 2] = ["apiserver.config.k8s.io/v1", "apiserver.k8s.io/v1alpha1"];
const KIND: &str = "AdmissionConfiguration";
/// Fields of older files, and the plugins that they are about.
const LEGACY: [(&str, &str); 2] =
    [("podNodeSelectorPluginConfig", "PodNodeSelector"), ("imagePolicy", "ImagePolicyWebhook")];

/// The parts of plugins, as they were written.
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    parts: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default)]
    plugins: Vec<Part>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    name: String,
    #[serde(default)]
    path: String,
    configuration: Option<Value>,
}

impl Configuration {
    /// Reads the file; `load` reads those that it names.
    pub fn parse(text: &str, load: &Load<'_>) -> Result<Self, String> {
        let document: Value = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
        if let Some((_, plugin)) = LEGACY.iter().find(|(field, _)| document.get(field).is_some()) {
            return Ok(Self { parts: BTreeMap::from([((*plugin).to_owned(), document)]) });
        }
        check_type(&document, &VERSIONS, KIND)?;
        let file: File = serde_yaml::from_value(document).map_err(|error| error.to_string())?;
        let mut parts = BTreeMap::new();
        for part in file.plugins {
            let value = match part.configuration {
                Some(value) => value,
                None if part.path.is_empty() => continue,
                None => {
                    let text = load(&part.path)
                        .map_err(|why| format!("Couldn't open admission plugin configuration {}: {why}", part.path))?;
                    serde_yaml::from_str(&text).map_err(|error| error.to_string())?
                }
            };
            // The first part of a plugin counts.
            parts.entry(part.name).or_insert(value);
        }
        Ok(Self { parts })
    }

    /// The part of a plugin, if it has one.
    pub fn of(&self, plugin: &str) -> Option<&Value> {
        self.parts.get(plugin)
    }
}

/// Reads a plugin's part as a kind in one of its versions. Fields that the kind does not have are refused.
pub fn read<T: DeserializeOwned>(part: &Value, versions: &[&str], kind: &str) -> Result<T, String> {
    check_type(part, versions, kind)?;
    let mut part = part.clone();
    if let Some(fields) = part.as_mapping_mut() {
        fields.retain(|name, _| !matches!(name.as_str(), Some("apiVersion" | "kind")));
    }
    serde_yaml::from_value(part).map_err(|error| format!("strict decoding error: {error}"))
}

/// In the words of upstream's decoder.
fn check_type(document: &Value, versions: &[&str], kind: &str) -> Result<(), String> {
    let text = |field: &str| document.get(field).and_then(Value::as_str).unwrap_or_default();
    let (held_version, held_kind) = (text("apiVersion"), text("kind"));
    let shown = || serde_json::to_string(document).unwrap_or_default();
    match (held_version, held_kind) {
        (_, "") => Err(format!("Object 'Kind' is missing in '{}'", shown())),
        ("", _) => Err(format!("Object 'apiVersion' is missing in '{}'", shown())),
        (version, held) if versions.contains(&version) && held == kind => Ok(()),
        (version, held) => Err(format!("no kind {held:?} is registered for version {version:?} in scheme")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&[(&str, &str)], &str>) {
        let load = |path: &str| match path {
            "eventconfig.yaml" => Ok("kind: Configuration".to_owned()),
            _ => Err("no such file or directory".to_owned()),
        };
        let read = Configuration::parse(text, &load);
        let shown = read.map(|read| {
            let parts =
                read.parts.iter().map(|(name, part)| (name.clone(), serde_json::to_string(part).expect("JSON")));
            parts.collect::<Vec<_>>()
        });
        let shown = shown.as_ref().map(|parts| parts.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect::<Vec<_>>());
        assert_eq!(shown.map_err(String::as_str), expected.map(<[_]>::to_vec), "{text}");
    }

    #[test]
    fn parts_stand_in_the_file_or_beside_it() {
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\n";
        check(head, Ok(&[]));
        check(
            &format!(
                "{head}plugins: [{{name: A, configuration: {{a: 1}}}}, {{name: B, path: eventconfig.yaml}}, {{name: C}}]"
            ),
            Ok(&[("A", r#"{"a":1}"#), ("B", r#"{"kind":"Configuration"}"#)]),
        );
        check(
            &format!("{head}plugins: [{{name: A, path: nowhere}}]"),
            Err("Couldn't open admission plugin configuration nowhere: no such file or directory"),
        );
        check(
            "podNodeSelectorPluginConfig: {a: b}",
            Ok(&[("PodNodeSelector", r#"{"podNodeSelectorPluginConfig":{"a":"b"}}"#)]),
        );
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        check("{}", Err("Object 'Kind' is missing in '{}'"));
        check("kind: A", Err(r#"Object 'apiVersion' is missing in '{"kind":"A"}'"#));
        check("{kind: A, apiVersion: b/v1}", Err(r#"no kind "A" is registered for version "b/v1" in scheme"#));
        let error = Configuration::parse(
            "{kind: AdmissionConfiguration, apiVersion: apiserver.config.k8s.io/v1, odd: 1}",
            &|_| Ok(String::new()),
        );
        assert!(error.unwrap_err().contains("unknown field `odd`"));
    }
}
