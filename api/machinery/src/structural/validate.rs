//! Checking values, in the words of upstream's validator.
//!
//! An update is checked against the old object: a value that has not changed is not held against it, whatever is wrong with
//! it (KEP-4008). Elements of lists are the same element only where the list is a map.

use serde_json::{Map, Value};
use wharf_types::field::{Error, Errors, Path};

use super::{Additional, ListType, Schema, formats};

/// What came of checking a value.
#[derive(Default)]
struct Outcome {
    errors: Errors,
    /// How many checks passed: of several alternatives that fail, the one with most of them is told.
    passed: usize,
}

impl Outcome {
    fn merge(&mut self, other: Outcome) {
        self.errors.extend(other.errors);
        self.passed += other.passed;
    }

    fn check(&mut self, error: Option<Error>) {
        match error {
            Some(error) => self.errors.push(error),
            None => self.passed += 1,
        }
    }
}

impl Schema {
    /// What is wrong with a whole object; for an update only what the update brings.
    pub fn validate(&self, value: &Value, old: Option<&Value>) -> Errors {
        node(self, value, old, "").errors
    }

    /// The same for a part of an object, found at a path.
    pub fn validate_at(&self, value: &Value, path: &str) -> Errors {
        node(self, value, None, path).errors
    }
}

fn node(schema: &Schema, value: &Value, old: Option<&Value>, path: &str) -> Outcome {
    let mut out = Outcome::default();
    if old == Some(value) {
        return out;
    }
    out.check(type_error(schema, value, path));
    if value.is_null() {
        out.check(enum_error(schema, value, path));
        return out;
    }
    out.merge(junctions(schema, value, path));
    match value {
        Value::String(text) => text_checks(schema, text, path, &mut out),
        Value::Number(number) => number_checks(schema, value, number.as_f64().unwrap_or_default(), path, &mut out),
        Value::Array(values) => array_checks(schema, values, old, path, &mut out),
        Value::Object(fields) => object_checks(schema, fields, old, path, &mut out),
        Value::Bool(_) | Value::Null => {}
    }
    out.check(enum_error(schema, value, path));
    out
}

fn at(path: &str) -> Path {
    Path::new(path.strip_prefix('.').unwrap_or(path))
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn type_error(schema: &Schema, value: &Value, path: &str) -> Option<Error> {
    let wanted = schema.kind.as_str();
    let held = type_name(value);
    if schema.int_or_string {
        let fits = matches!(held, "integer" | "string") || (held == "null" && schema.nullable) || is_whole(value);
        return (!fits).then(|| wrong_type(path, "integer,string", held));
    }
    let fits = wanted.is_empty()
        || wanted == held
        || (held == "null" && schema.nullable)
        || (wanted == "number" && held == "integer")
        || (wanted == "integer" && is_whole(value));
    (!fits).then(|| wrong_type(path, wanted, held))
}

fn is_whole(value: &Value) -> bool {
    value.as_f64().is_some_and(|number| number.fract() == 0.0 && number.abs() < 9.1e15)
}

fn wrong_type(path: &str, wanted: &str, held: &str) -> Error {
    Error::type_invalid(&at(path), held, format!("{path} in body must be of type {wanted}: {held:?}"))
}

fn enum_error(schema: &Schema, value: &Value, path: &str) -> Option<Error> {
    let allowed = &schema.checks.allowed;
    if allowed.is_empty() || allowed.iter().any(|held| same(held, value)) {
        return None;
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    let allowed: Vec<String> = allowed.iter().map(text).collect();
    let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
    Some(Error::not_supported(&at(path), value.clone(), &allowed))
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

fn text_checks(schema: &Schema, text: &str, path: &str, out: &mut Outcome) {
    let checks = &schema.checks;
    let length = text.chars().count() as u64;
    if let Some(max) = checks.max_length {
        out.check((length > max).then(|| Error::too_long(&at(path), max as usize)));
    }
    if let Some(min) = checks.min_length {
        let why = || format!("{path} in body should be at least {min} chars long");
        out.check((length < min).then(|| Error::invalid(&at(path), text, why())));
    }
    if let Some(pattern) = &checks.pattern {
        let fits = pattern.regex.as_ref().is_some_and(|regex| regex.is_match(text));
        let why = || format!("{path} in body should match '{}'", pattern.text);
        out.check((!fits).then(|| Error::invalid(&at(path), text, why())));
    }
    if !checks.format.is_empty() && !schema.int_or_string {
        let why = || format!("{path} in body must be of type {}: {text:?}", checks.format);
        let fits = formats::is_valid(&checks.format, text);
        out.check((!fits).then(|| Error::type_invalid(&at(path), text, why())));
    }
}

fn number_checks(schema: &Schema, value: &Value, number: f64, path: &str, out: &mut Outcome) {
    let checks = &schema.checks;
    let mut bound = |fails: bool, words: &str, limit: f64| {
        let why = || format!("{path} in body should be {words} {}", plain(limit));
        out.check(fails.then(|| Error::invalid(&at(path), value.clone(), why())));
    };
    if let Some(factor) = checks.multiple_of.filter(|factor| *factor > 0.0) {
        let times = number / factor;
        bound((times - times.round()).abs() > 1e-9, "a multiple of", factor);
    }
    match (checks.maximum, checks.exclusive_maximum) {
        (Some(max), true) => bound(number >= max, "less than", max),
        (Some(max), false) => bound(number > max, "less than or equal to", max),
        _ => {}
    }
    match (checks.minimum, checks.exclusive_minimum) {
        (Some(min), true) => bound(number <= min, "greater than", min),
        (Some(min), false) => bound(number < min, "greater than or equal to", min),
        _ => {}
    }
    let too_big = match checks.format.as_str() {
        "int32" => number.abs() > f64::from(i32::MAX) + if number < 0.0 { 1.0 } else { 0.0 },
        "float" => number.abs() > f64::from(f32::MAX),
        _ => false,
    };
    let why = || format!("Checked value must be of type {} with format {}", schema.kind, checks.format);
    out.check(too_big.then(|| Error::invalid(&Path::root(), "", why())));
}

/// As Go prints a float: whole numbers without a point, large ones with an exponent.
fn plain(number: f64) -> String {
    if number.abs() < 1e21 { number.to_string() } else { format!("{number:e}") }
}

fn array_checks(schema: &Schema, values: &[Value], old: Option<&Value>, path: &str, out: &mut Outcome) {
    let checks = &schema.checks;
    if let Some(items) = &schema.items {
        for (index, value) in values.iter().enumerate() {
            let old = old.and_then(|old| counterpart(schema, value, old));
            out.merge(node(items, value, old, &format!("{path}[{index}]")));
        }
    }
    let length = values.len() as u64;
    if let Some(min) = checks.min_items {
        let why = || format!("{path} in body should have at least {min} items");
        out.check((length < min).then(|| Error::invalid(&at(path), length as i64, why())));
    }
    if let Some(max) = checks.max_items {
        out.check((length > max).then(|| Error::too_many(&at(path), values.len(), max as usize)));
    }
    if checks.unique_items {
        let twice = values.iter().enumerate().any(|(index, value)| values[..index].contains(value));
        out.check(twice.then(|| Error::invalid(&at(path), "", format!("{path} in body shouldn't contain duplicates"))));
    }
}

/// The old element that an element of a map-like list was.
pub(super) fn counterpart<'a>(schema: &Schema, value: &Value, old: &'a Value) -> Option<&'a Value> {
    if schema.list_type != ListType::Map {
        return None;
    }
    let keys = schema.keys_of(value);
    old.as_array()?.iter().find(|old| schema.keys_of(old) == keys)
}

fn object_checks(schema: &Schema, fields: &Map<String, Value>, old: Option<&Value>, path: &str, out: &mut Outcome) {
    let checks = &schema.checks;
    let count = fields.len() as u64;
    if let Some(min) = checks.min_properties.filter(|min| count < *min) {
        let why = format!("{path} in body should have at least {min} properties");
        return out.check(Some(Error::invalid(&at(path), count as i64, why)));
    }
    if let Some(max) = checks.max_properties.filter(|max| count > *max) {
        return out.check(Some(Error::too_many(&at(path), fields.len(), max as usize)));
    }
    for (name, value) in fields {
        let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let old = old.and_then(|old| old.get(name));
        match (schema.properties.get(name), &schema.additional) {
            (Some(schema), _) => out.merge(node(schema, value, old, &below)),
            (None, Some(Additional::Schema(schema))) => out.merge(node(schema, value, old, &below)),
            (None, Some(Additional::Nothing)) => {
                let why = format!("{path}.{name} in body is a forbidden property");
                out.check(Some(Error::invalid(&at(path), name.as_str(), why)));
            }
            _ => {}
        }
    }
    for name in &checks.required {
        let missing = !fields.contains_key(name);
        out.check(missing.then(|| Error::required(&at(&format!("{path}.{name}")), "")));
    }
}

/// `anyOf`, `oneOf`, `allOf` and `not`.
fn junctions(schema: &Schema, value: &Value, path: &str) -> Outcome {
    let checks = &schema.checks;
    let mut out = Outcome::default();
    let whole = |why: String| Error::invalid(&Path::root(), "", why);
    if !checks.any_of.is_empty() {
        let (valid, best) = alternatives(&checks.any_of, value, path);
        if valid == 0 {
            out.check(Some(whole(format!("{path:?} must validate at least one schema (anyOf)"))));
        }
        out.merge(best);
    }
    if !checks.one_of.is_empty() {
        let (valid, best) = alternatives(&checks.one_of, value, path);
        if valid != 1 {
            let found =
                if valid == 0 { "Found none valid".to_owned() } else { format!("Found {valid} valid alternatives") };
            out.check(Some(whole(format!("{path:?} must validate one and only one schema (oneOf). {found}"))));
        }
        out.merge(best);
    }
    if !checks.all_of.is_empty() {
        let mut valid = 0;
        for schema in &checks.all_of {
            let outcome = node(schema, value, None, path);
            valid += usize::from(outcome.errors.is_empty());
            out.merge(outcome);
        }
        if valid != checks.all_of.len() {
            let none = if valid == 0 { ". None validated" } else { "" };
            out.check(Some(whole(format!("{path:?} must validate all the schemas (allOf){none}"))));
        }
    }
    if let Some(not) = &checks.not {
        let valid = node(not, value, None, path).errors.is_empty();
        out.check(valid.then(|| whole(format!("{path:?} must not validate the schema (not)"))));
    }
    out
}

/// How many schemas hold, and what to tell: nothing if one does, else what is wrong by the one that comes closest.
fn alternatives(schemas: &[Schema], value: &Value, path: &str) -> (usize, Outcome) {
    let mut valid = 0;
    let mut best: Option<Outcome> = None;
    for schema in schemas {
        let outcome = node(schema, value, None, path);
        if outcome.errors.is_empty() {
            valid += 1;
        } else if best.as_ref().is_none_or(|best| outcome.passed > best.passed) {
            best = Some(outcome);
        }
    }
    (valid, best.filter(|_| valid == 0).unwrap_or_default())
}
