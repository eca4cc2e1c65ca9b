//! The object of a CONNECT: the options in the query of `exec`, `attach`, `portforward` and `proxy`, as webhooks see them.
//!
//! Source: `PodExecOptions` and its like in `k8s.io/api/core/v1`. They are read from a query and stored nowhere, so they have no
//! metadata and are kept as JSON.

use std::any::Any;

use serde_json::{Map, Value, json};
use wharf_registry::Subresource;
use wharf_types::meta::ObjectMeta;
use wharf_types::{AnyObject, BoxObject, Gvr};

/// Parameters that are true or false.
const FLAGS: &[&str] = &["stdin", "stdout", "stderr", "tty"];

#[derive(Clone, Debug, PartialEq)]
pub struct ConnectOptions {
    /// Always empty.
    meta: ObjectMeta,
    fields: Map<String, Value>,
}

/// What reads a query's parameter: all of its values.
pub type Parameters<'q> = dyn Fn(&str) -> &'q [String] + 'q;

impl ConnectOptions {
    /// The kind of the options; none where nothing is connected to.
    pub fn kind_of(gvr: &Gvr, part: Subresource) -> Option<&'static str> {
        match (part, gvr.resource.as_ref()) {
            (Subresource::Exec, _) => Some("PodExecOptions"),
            (Subresource::Attach, _) => Some("PodAttachOptions"),
            (Subresource::PortForward, _) => Some("PodPortForwardOptions"),
            (Subresource::Proxy, "pods") => Some("PodProxyOptions"),
            (Subresource::Proxy, "services") => Some("ServiceProxyOptions"),
            (Subresource::Proxy, "nodes") => Some("NodeProxyOptions"),
            _ => None,
        }
    }

    /// Reads the options of a kind; `path` is what a proxy is asked for.
    pub fn read(kind: &str, parameters: &Parameters<'_>, path: &str) -> Self {
        let mut fields = Map::new();
        fields.insert("kind".to_owned(), json!(kind));
        fields.insert("apiVersion".to_owned(), json!("v1"));
        let first = |name: &str| parameters(name).first().filter(|value| !value.is_empty()).cloned();
        match kind {
            "PodExecOptions" | "PodAttachOptions" => {
                let is_set = |value: &String| value != "0" && !value.eq_ignore_ascii_case("false");
                for flag in FLAGS.iter().filter(|flag| parameters(flag).first().is_some_and(is_set)) {
                    fields.insert((*flag).to_owned(), json!(true));
                }
                fields.extend(first("container").map(|name| ("container".to_owned(), json!(name))));
                if kind == "PodExecOptions" {
                    fields.insert("command".to_owned(), json!(parameters("command")));
                }
            }
            "PodPortForwardOptions" => {
                let ports: Vec<i64> = parameters("ports").iter().filter_map(|port| port.parse().ok()).collect();
                if !ports.is_empty() {
                    fields.insert("ports".to_owned(), json!(ports));
                }
            }
            _ if !path.is_empty() => {
                fields.insert("path".to_owned(), json!(path));
            }
            _ => {}
        }
        Self { meta: ObjectMeta::default(), fields }
    }

    pub(crate) fn of_json(json: &Value) -> Self {
        Self { meta: ObjectMeta::default(), fields: json.as_object().cloned().unwrap_or_default() }
    }

    /// The parameters that say the same, for who is connected to.
    pub fn parameters(&self) -> Vec<(String, String)> {
        let mut parameters = Vec::new();
        for (name, value) in self.fields.iter().filter(|(name, _)| !matches!(name.as_str(), "kind" | "apiVersion")) {
            let values = match value {
                Value::Array(values) => values.as_slice(),
                value => std::slice::from_ref(value),
            };
            let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            parameters.extend(values.iter().map(|value| (name.clone(), text(value))));
        }
        parameters
    }
}

impl AnyObject for ConnectOptions {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }

    fn encode(&self, out: &mut Vec<u8>) {
        // A map with string keys serialises into a Vec.
        serde_json::to_writer(out, &self.fields).expect("options serialise to JSON");
    }

    fn clone_box(&self) -> BoxObject {
        Box::new(self.clone())
    }

    fn same(&self, other: &dyn AnyObject) -> bool {
        other.as_any().downcast_ref::<Self>().is_some_and(|other| self == other)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[track_caller]
    fn check(kind: &str, query: &[(&str, &str)], expected: Value) {
        let mut held: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (name, value) in query {
            held.entry(name).or_default().push((*value).to_owned());
        }
        let options = ConnectOptions::read(kind, &|name| held.get(name).map_or(&[], Vec::as_slice), "a/b");
        let json: Value = serde_json::from_slice(&(&options as &dyn AnyObject).to_vec()).expect("JSON");
        assert_eq!(json, expected);
        assert_eq!(ConnectOptions::of_json(&json), options);
    }

    #[test]
    fn a_query_reads_as_an_object() {
        check(
            "PodExecOptions",
            &[("command", "sh"), ("command", "-c"), ("stdin", "true"), ("tty", "false"), ("container", "main")],
            json!({"kind": "PodExecOptions", "apiVersion": "v1", "command": ["sh", "-c"], "stdin": true, "container": "main"}),
        );
        check(
            "PodAttachOptions",
            &[("stdout", "1"), ("command", "ignored")],
            json!({"kind": "PodAttachOptions", "apiVersion": "v1", "stdout": true}),
        );
        check(
            "PodPortForwardOptions",
            &[("ports", "80"), ("ports", "443")],
            json!({"kind": "PodPortForwardOptions", "apiVersion": "v1", "ports": [80, 443]}),
        );
        check("NodeProxyOptions", &[], json!({"kind": "NodeProxyOptions", "apiVersion": "v1", "path": "a/b"}));
    }

    #[test]
    fn an_object_reads_as_a_query() {
        let options =
            ConnectOptions::of_json(&json!({"kind": "X", "apiVersion": "v1", "command": ["a", "b"], "tty": true}));
        let expected = [("command", "a"), ("command", "b"), ("tty", "true")];
        let shown = options.parameters();
        let shown: Vec<(&str, &str)> = shown.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(shown, expected);
    }
}
