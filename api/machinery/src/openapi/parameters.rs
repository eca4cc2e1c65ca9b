//! Parameters of operations: what upstream's option structs hold, as data, and the few that stand in paths.
//!
//! `parameters.txt` is read off the structs and their documentation in `k8s.io/apimachinery` and `k8s.io/api` v0.36, a field a
//! line: struct, name, type and what it is for, as `AddObjectParams` in `apiserver/pkg/endpoints/installer.go` publishes them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::Dialect;

const PRETTY: &str = "If 'true', then the output is pretty printed. Defaults to 'false' unless the user-agent indicates a browser or command-line HTTP tool (curl and wget).";
const NAMESPACE: &str = "object name and auth scope, such as for teams and projects";

/// A parameter, in the order in which the documents list them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    /// `path` or `query`
    place: &'static str,
    /// `string`, `integer` or `boolean`
    kind: &'static str,
    description: Cow<'static, str>,
}

impl Parameter {
    fn query(name: &'static str, kind: &'static str, description: impl Into<Cow<'static, str>>) -> Self {
        Self { name, place: "query", kind, description: description.into() }
    }

    fn path(name: &'static str, description: impl Into<Cow<'static, str>>) -> Self {
        Self { name, place: "path", kind: "string", description: description.into() }
    }

    pub(super) fn render(&self, dialect: Dialect) -> Value {
        let Self { name, place, kind, description } = self;
        let mut rendered = match dialect {
            Dialect::V2 => json!({
                "uniqueItems": true, "type": kind, "description": description, "name": name, "in": place,
            }),
            Dialect::V3 => json!({
                "name": name, "in": place, "description": description, "schema": { "type": kind, "uniqueItems": true },
            }),
        };
        if *place == "path" {
            rendered["required"] = true.into();
        }
        rendered
    }
}

/// The fields of an option struct, e.g. `ListOptions`, as query parameters.
pub(super) fn of(options: &str) -> Vec<Parameter> {
    static OPTIONS: LazyLock<BTreeMap<&str, Vec<Parameter>>> = LazyLock::new(|| {
        let mut options: BTreeMap<&str, Vec<Parameter>> = BTreeMap::new();
        for line in include_str!("parameters.txt").lines() {
            let [owner, name, kind, description] = line.split('\t').collect::<Vec<_>>()[..] else { continue };
            let description = description.replace("\\n", "\n");
            options.entry(owner).or_default().push(Parameter::query(name, kind, description));
        }
        options
    });
    OPTIONS.get(options).cloned().unwrap_or_default()
}

/// `pretty`, which whatever answers with objects takes.
pub(super) fn pretty() -> Parameter {
    Parameter::query("pretty", "string", PRETTY)
}

/// What stands in a path between braces; `kind` is what is named.
pub(super) fn in_path(path: &str, kind: &str) -> Vec<Parameter> {
    let mut found = Vec::new();
    if path.contains("{name}") {
        found.push(Parameter::path("name", format!("name of the {kind}")));
    }
    if path.contains("{namespace}") {
        found.push(Parameter::path("namespace", NAMESPACE));
    }
    if path.contains("{path}") {
        found.push(Parameter::path("path", "path to the resource"));
    }
    found
}

/// Takes parameters that several operations of a version 2 document can share out of `paths`, and refers to them.
///
/// Source: `kube-openapi/pkg/builder/parameters.go`. What is named after a kind stays, and so do two that clients look for.
pub(super) fn share(paths: &mut Value) -> Value {
    let mut shared = Map::new();
    let items = paths.as_object_mut().into_iter().flat_map(Map::values_mut);
    for item in items.filter_map(Value::as_object_mut) {
        for (name, part) in item.iter_mut() {
            let list = if name == "parameters" { Some(part) } else { part.get_mut("parameters") };
            for parameter in list.and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(name) = shared_name(parameter) {
                    let reference = json!({ "$ref": format!("#/parameters/{name}") });
                    shared.insert(name, std::mem::replace(parameter, reference));
                }
            }
        }
    }
    Value::Object(shared)
}

fn shared_name(parameter: &Value) -> Option<String> {
    let name = parameter["name"].as_str()?;
    let of_its_own = match parameter["in"].as_str()? {
        "body" => {
            let schema = parameter["schema"]["$ref"].as_str().unwrap_or_default();
            !schema.starts_with("#/definitions/io.k8s.apimachinery")
        }
        _ => ["name", "fieldValidation", "dryRun"].contains(&name),
    };
    (!of_its_own).then(|| format!("{name}-{}", short_hash(&text(parameter))))
}

/// The parameter as Go writes it down.
fn text(parameter: &Value) -> String {
    const ORDER: [&str; 7] = ["uniqueItems", "type", "description", "name", "in", "required", "schema"];
    let fields = ORDER.iter().filter_map(|field| Some(format!("\"{field}\":{}", parameter.get(*field)?)));
    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
}

/// Six bytes of FNV-1, as eight characters that a URL can hold.
fn short_hash(text: &str) -> String {
    use base64::Engine;
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| hash.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte));
    base64::engine::general_purpose::URL_SAFE.encode(&hash.to_be_bytes()[..6])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_parameters_have_upstreams_names() {
        let check = |parameter: Value, expected: Option<&str>| {
            assert_eq!(shared_name(&parameter).as_deref(), expected, "{parameter}");
        };
        check(pretty().render(Dialect::V2), Some("pretty-tJGM1-ng"));
        let body =
            |schema: &str| json!({"name": "body", "in": "body", "schema": {"$ref": format!("#/definitions/{schema}")}});
        check(body("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"), Some("body-2Y1dVQaQ"));
        check(body("io.k8s.api.core.v1.Pod"), None);
        check(of("CreateOptions").remove(0).render(Dialect::V2), None);
    }

    #[test]
    fn options_are_whole() {
        let names = |options: &str| of(options).iter().map(|it| it.name).collect::<Vec<_>>().join(" ");
        assert_eq!(names("PatchOptions"), "dryRun fieldManager fieldValidation force");
        assert_eq!(names("PodExecOptions"), "command container stderr stdin stdout tty");
        assert!(of("ListOptions").iter().all(|it| !it.description.is_empty()));
    }
}
