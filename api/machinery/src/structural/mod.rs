//! Structural schemas: what a custom resource's objects may hold.
//!
//! A [`Schema`] is read once from a definition's `openAPIV3Schema`; then objects are [pruned](Schema::prune),
//! [defaulted](Schema::default_object) and [validated](Schema::validate) by it, with [`rules`] in CEL where it has any.
//! Whether a schema is structural at all is told by [`invariants`].
//! Source: `k8s.io/apiextensions-apiserver/pkg/apiserver/{schema,validation}` and `k8s.io/kube-openapi/pkg/validation/validate`.
//! Invariants: no function here recurses deeper than a schema that [`DEPTH_MAX`] lets in; patterns match in linear time.

mod defaults;
pub mod formats;
mod invariants;
mod list_types;
mod prune;
pub mod rules;
mod validate;

use std::collections::BTreeMap;
use std::sync::Arc;

use regex::{Regex, RegexBuilder};
use serde_json::Value;

pub use invariants::invariants;
pub use rules::RuleSet;

/// Deepest schema that is read.
pub const DEPTH_MAX: usize = 128;
/// Largest compiled pattern, in bytes.
const PATTERN_MAX: usize = 1024 * 1024;

/// A node of a schema. Those under `allOf`, `anyOf`, `oneOf` and `not` are of the same type, and only check values.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    /// Empty where the schema does not say.
    pub kind: String,
    pub nullable: bool,
    pub properties: BTreeMap<String, Schema>,
    pub additional: Option<Additional>,
    pub items: Option<Box<Schema>>,
    pub default: Option<Value>,
    pub preserve_unknown: bool,
    pub embedded: bool,
    pub int_or_string: bool,
    pub list_type: ListType,
    pub list_map_keys: Vec<String>,
    /// `x-kubernetes-map-type: atomic`
    pub atomic_map: bool,
    pub rules: Vec<Rule>,
    pub checks: Checks,
}

#[derive(Clone, Debug)]
pub enum Additional {
    /// `true`
    Any,
    /// `false`
    Nothing,
    Schema(Box<Schema>),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    #[default]
    Atomic,
    Set,
    Map,
}

/// One of `x-kubernetes-validations`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    pub rule: String,
    pub message: String,
    pub message_expression: String,
    pub reason: String,
    pub field_path: String,
    pub optional_old_self: Option<bool>,
}

/// What a schema asks of a value.
#[derive(Clone, Debug, Default)]
pub struct Checks {
    pub format: String,
    pub allowed: Vec<Value>,
    pub maximum: Option<f64>,
    pub exclusive_maximum: bool,
    pub minimum: Option<f64>,
    pub exclusive_minimum: bool,
    pub multiple_of: Option<f64>,
    pub max_length: Option<u64>,
    pub min_length: Option<u64>,
    pub pattern: Option<Pattern>,
    pub max_items: Option<u64>,
    pub min_items: Option<u64>,
    pub unique_items: bool,
    pub max_properties: Option<u64>,
    pub min_properties: Option<u64>,
    pub required: Vec<String>,
    pub all_of: Vec<Schema>,
    pub any_of: Vec<Schema>,
    pub one_of: Vec<Schema>,
    pub not: Option<Box<Schema>>,
}

#[derive(Clone, Debug)]
pub struct Pattern {
    pub text: String,
    /// None where it is no pattern, or one too large.
    pub regex: Option<Arc<Regex>>,
}

impl Pattern {
    fn new(text: &str) -> Self {
        let regex = RegexBuilder::new(text).size_limit(PATTERN_MAX).build().ok().map(Arc::new);
        Self { text: text.to_owned(), regex }
    }
}

impl Schema {
    /// Reads `openAPIV3Schema`. What is deeper than [`DEPTH_MAX`] is left out: [`depth`] says so beforehand.
    pub fn new(json: &Value) -> Self {
        Self::read(json, 0)
    }

    fn read(json: &Value, depth: usize) -> Self {
        if depth > DEPTH_MAX {
            return Self::default();
        }
        let inner = |json: &Value| Self::read(json, depth + 1);
        let boxed = |name: &str| json.get(name).filter(|json| json.is_object()).map(|json| Box::new(inner(json)));
        let list_of = |name: &str| list(json, name).iter().map(inner).collect::<Vec<_>>();
        let properties = json.get("properties").and_then(Value::as_object);
        Self {
            kind: text(json, "type"),
            nullable: flag(json, "nullable"),
            properties: properties.into_iter().flatten().map(|(name, json)| (name.clone(), inner(json))).collect(),
            additional: match json.get("additionalProperties") {
                Some(Value::Bool(true)) => Some(Additional::Any),
                Some(Value::Bool(false)) => Some(Additional::Nothing),
                Some(json @ Value::Object(_)) => Some(Additional::Schema(Box::new(inner(json)))),
                _ => None,
            },
            items: boxed("items"),
            default: json.get("default").filter(|value| !value.is_null()).cloned(),
            preserve_unknown: flag(json, "x-kubernetes-preserve-unknown-fields"),
            embedded: flag(json, "x-kubernetes-embedded-resource"),
            int_or_string: flag(json, "x-kubernetes-int-or-string"),
            list_type: match text(json, "x-kubernetes-list-type").as_str() {
                "set" => ListType::Set,
                "map" => ListType::Map,
                _ => ListType::Atomic,
            },
            list_map_keys: strings(json, "x-kubernetes-list-map-keys"),
            atomic_map: text(json, "x-kubernetes-map-type") == "atomic",
            rules: list(json, "x-kubernetes-validations").iter().map(Rule::new).collect(),
            checks: Checks {
                format: text(json, "format"),
                allowed: list(json, "enum").to_vec(),
                maximum: number(json, "maximum"),
                exclusive_maximum: flag(json, "exclusiveMaximum"),
                minimum: number(json, "minimum"),
                exclusive_minimum: flag(json, "exclusiveMinimum"),
                multiple_of: number(json, "multipleOf"),
                max_length: count(json, "maxLength"),
                min_length: count(json, "minLength"),
                pattern: Some(text(json, "pattern")).filter(|text| !text.is_empty()).map(|text| Pattern::new(&text)),
                max_items: count(json, "maxItems"),
                min_items: count(json, "minItems"),
                unique_items: flag(json, "uniqueItems"),
                max_properties: count(json, "maxProperties"),
                min_properties: count(json, "minProperties"),
                required: strings(json, "required"),
                all_of: list_of("allOf"),
                any_of: list_of("anyOf"),
                one_of: list_of("oneOf"),
                not: boxed("not"),
            },
        }
    }

    /// The schema of a field of an object, if it has one.
    pub fn field(&self, name: &str) -> Option<&Schema> {
        match (self.properties.get(name), &self.additional) {
            (Some(schema), _) => Some(schema),
            (None, Some(Additional::Schema(schema))) => Some(schema),
            _ => None,
        }
    }

    /// True where anything in the schema has a default.
    pub fn has_defaults(&self) -> bool {
        self.default.is_some() || self.below().any(Schema::has_defaults)
    }

    /// The schemas of fields, entries and elements.
    pub(crate) fn below(&self) -> impl Iterator<Item = &Schema> {
        let additional = match &self.additional {
            Some(Additional::Schema(schema)) => Some(&**schema),
            _ => None,
        };
        self.properties.values().chain(additional).chain(self.items.as_deref())
    }
}

impl Rule {
    fn new(json: &Value) -> Self {
        Self {
            rule: text(json, "rule"),
            message: text(json, "message"),
            message_expression: text(json, "messageExpression"),
            reason: text(json, "reason"),
            field_path: text(json, "fieldPath"),
            optional_old_self: json.get("optionalOldSelf").and_then(Value::as_bool),
        }
    }
}

/// How deep JSON is nested.
pub fn depth(json: &Value) -> usize {
    let deepest = match json {
        Value::Array(values) => values.iter().map(depth).max(),
        Value::Object(fields) => fields.values().map(depth).max(),
        _ => return 0,
    };
    1 + deepest.unwrap_or_default()
}

fn text(json: &Value, name: &str) -> String {
    json.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn flag(json: &Value, name: &str) -> bool {
    json.get(name).and_then(Value::as_bool).unwrap_or_default()
}

fn number(json: &Value, name: &str) -> Option<f64> {
    json.get(name).and_then(Value::as_f64)
}

fn count(json: &Value, name: &str) -> Option<u64> {
    let value = json.get(name)?;
    value.as_u64().or_else(|| value.as_f64().filter(|number| *number >= 0.0).map(|number| number as u64))
}

fn list<'a>(json: &'a Value, name: &str) -> &'a [Value] {
    json.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn strings(json: &Value, name: &str) -> Vec<String> {
    list(json, name).iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect()
}

#[cfg(test)]
mod tests;
