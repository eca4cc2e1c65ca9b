//! A JSON document that borrows its text: what a write is read, compared and merged as.
//!
//! Maps are vectors sorted by key, so two documents are walked side by side and nothing is hashed; strings without escapes
//! are slices of the body. Absent on purpose: editing in place beyond what reading a body needs (patches work on
//! `serde_json::Value`).

mod de;

use std::borrow::Cow;

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::Number;

/// One JSON value.
#[derive(Clone, Debug, Default)]
pub enum Value<'a> {
    #[default]
    Null,
    Bool(bool),
    Number(Number),
    String(Cow<'a, str>),
    List(Vec<Value<'a>>),
    Map(Map<'a>),
}

/// Fields, sorted by key, each once.
#[derive(Clone, Debug, Default)]
pub struct Map<'a>(Vec<(Cow<'a, str>, Value<'a>)>);

impl<'a> Value<'a> {
    /// Reads one JSON document. Of a duplicate field the last stays.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_map(&self) -> Option<&Map<'a>> {
        match self {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    pub fn as_map_mut(&mut self) -> Option<&mut Map<'a>> {
        match self {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    pub fn as_list(&self) -> Option<&[Value<'a>]> {
        match self {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    pub fn is_scalar(&self) -> bool {
        matches!(self, Value::Bool(_) | Value::Number(_) | Value::String(_))
    }

    /// A field of a map.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.as_map()?.get(key)
    }

    /// A field of fields.
    pub fn at(&self, path: &[&str]) -> Option<&Value<'a>> {
        path.iter().try_fold(self, |value, key| value.get(key))
    }

    /// The same document, borrowing nothing.
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Value::Null => Value::Null,
            Value::Bool(value) => Value::Bool(value),
            Value::Number(number) => Value::Number(number),
            Value::String(text) => Value::String(Cow::Owned(text.into_owned())),
            Value::List(items) => Value::List(items.into_iter().map(Value::into_owned).collect()),
            Value::Map(map) => Value::Map(Map(map
                .0
                .into_iter()
                .map(|(key, value)| (Cow::Owned(key.into_owned()), value.into_owned()))
                .collect())),
        }
    }

    /// The document as its owner's library has it.
    pub fn into_json(self) -> serde_json::Value {
        match self {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => value.into(),
            Value::Number(number) => serde_json::Value::Number(number),
            Value::String(text) => serde_json::Value::String(text.into_owned()),
            Value::List(items) => items.into_iter().map(Value::into_json).collect(),
            Value::Map(map) => serde_json::Value::Object(
                map.0.into_iter().map(|(key, value)| (key.into_owned(), value.into_json())).collect(),
            ),
        }
    }
}

impl From<serde_json::Value> for Value<'static> {
    fn from(value: serde_json::Value) -> Self {
        match value {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(value),
            serde_json::Value::Number(number) => Value::Number(number),
            serde_json::Value::String(text) => Value::String(Cow::Owned(text)),
            serde_json::Value::Array(items) => Value::List(items.into_iter().map(Value::from).collect()),
            serde_json::Value::Object(fields) => {
                fields.into_iter().map(|(key, value)| (Cow::Owned(key), Value::from(value))).collect()
            }
        }
    }
}

impl<'a> From<&'a serde_json::Value> for Value<'a> {
    fn from(value: &'a serde_json::Value) -> Self {
        match value {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(*value),
            serde_json::Value::Number(number) => Value::Number(number.clone()),
            serde_json::Value::String(text) => Value::String(Cow::Borrowed(text)),
            serde_json::Value::Array(items) => Value::List(items.iter().map(Value::from).collect()),
            serde_json::Value::Object(fields) => {
                fields.iter().map(|(key, value)| (Cow::Borrowed(key.as_str()), Value::from(value))).collect()
            }
        }
    }
}

/// Numbers are equal by value: `1` is `1.0`.
impl PartialEq for Value<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Number(a), Value::Number(b)) => a == b || (a.as_f64() == b.as_f64() && (a.is_f64() || b.is_f64())),
            (Value::String(a), Value::String(b)) => a == b,
            (Value::List(a), Value::List(b)) => a == b,
            (Value::Map(a), Value::Map(b)) => a.0 == b.0,
            _ => false,
        }
    }
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Number(number) => number.serialize(serializer),
            Value::String(text) => serializer.serialize_str(text),
            Value::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                items.iter().try_for_each(|item| list.serialize_element(item))?;
                list.end()
            }
            Value::Map(map) => {
                let mut fields = serializer.serialize_map(Some(map.len()))?;
                map.iter().try_for_each(|(key, value)| fields.serialize_entry(key, value))?;
                fields.end()
            }
        }
    }
}

impl<'a> Map<'a> {
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value<'a>)> {
        self.0.iter().map(|(key, value)| (&**key, value))
    }

    /// Keys stay as they are; values may be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut Value<'a>)> {
        self.0.iter_mut().map(|(key, value)| (&**key, value))
    }

    /// Fields with their keys as they are borrowed.
    pub fn entries(&self) -> &[(Cow<'a, str>, Value<'a>)] {
        &self.0
    }

    fn place(&self, key: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(held, _)| (**held).cmp(key))
    }

    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.place(key).ok().map(|index| &self.0[index].1)
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value<'a>> {
        self.place(key).ok().map(|index| &mut self.0[index].1)
    }

    pub fn insert(&mut self, key: Cow<'a, str>, value: Value<'a>) {
        match self.place(&key) {
            Ok(index) => self.0[index].1 = value,
            Err(index) => self.0.insert(index, (key, value)),
        }
    }

    pub fn remove(&mut self, key: &str) -> Option<Value<'a>> {
        self.place(key).ok().map(|index| self.0.remove(index).1)
    }

    /// Sorts what was read; `duplicate` is told each key that came again, in order of appearance.
    pub(crate) fn from_read(mut fields: Vec<(Cow<'a, str>, Value<'a>)>, mut duplicate: impl FnMut(&str)) -> Self {
        if fields.is_sorted_by(|a, b| a.0 < b.0) {
            return Self(fields);
        }
        let mut order: Vec<usize> = (0..fields.len()).collect();
        order.sort_by(|a, b| fields[*a].0.cmp(&fields[*b].0).then(a.cmp(b)));
        let mut again: Vec<usize> =
            order.windows(2).filter(|pair| fields[pair[0]].0 == fields[pair[1]].0).map(|pair| pair[1]).collect();
        again.sort_unstable();
        again.iter().for_each(|index| duplicate(&fields[*index].0));
        // A stable sort keeps duplicates in order of appearance; the last of them stays.
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        fields.reverse();
        fields.dedup_by(|later, kept| later.0 == kept.0);
        fields.reverse();
        Self(fields)
    }
}

impl<'a> IntoIterator for Map<'a> {
    type Item = (Cow<'a, str>, Value<'a>);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> FromIterator<(Cow<'a, str>, Value<'a>)> for Value<'a> {
    fn from_iter<I: IntoIterator<Item = (Cow<'a, str>, Value<'a>)>>(fields: I) -> Self {
        Value::Map(Map::from_read(fields.into_iter().collect(), |_| {}))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_read_is_what_is_written() {
        for text in [r#"{"a":[1,-2,1.5,true,null,"x\n"],"b":{}}"#, "[]", r#""x""#, "18446744073709551615"] {
            let value = Value::parse(text.as_bytes()).unwrap();
            assert_eq!(serde_json::to_string(&value).unwrap(), text);
            assert_eq!(value.into_json(), serde_json::from_str::<serde_json::Value>(text).unwrap());
        }
    }

    #[test]
    fn fields_are_sorted_and_the_last_duplicate_wins() {
        let value = Value::parse(br#"{"b":1,"a":2,"b":3}"#).unwrap();
        assert_eq!(serde_json::to_string(&value).unwrap(), r#"{"a":2,"b":3}"#);
        assert_eq!(value.get("b"), Some(&Value::Number(3.into())));
    }

    #[test]
    fn numbers_are_equal_by_value() {
        let parse = |text: &'static str| Value::parse(text.as_bytes()).unwrap();
        assert_eq!(parse("[1]"), parse("[1.0]"));
        assert_ne!(parse("1"), parse("2"));
        assert_ne!(parse("1"), parse("\"1\""));
    }

    #[test]
    fn a_tree_is_read_into_structs_as_json_is() {
        #[derive(Debug, PartialEq, Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Sample {
            name: String,
            list: Option<Vec<u8>>,
            kind: Kind,
            map: std::collections::BTreeMap<String, Option<f64>>,
        }
        #[derive(Debug, PartialEq, Deserialize)]
        enum Kind {
            Plain,
            Of(u8),
        }
        for document in [
            json!({"name": "a", "list": [1, 2], "kind": "Plain", "map": {"x": 1, "y": null}}),
            json!({"name": "a", "kind": {"Of": 3}, "map": {}}),
            json!({"name": 1, "kind": "Plain", "map": {}}),
            json!({"name": "a", "list": 5, "kind": "Plain", "map": {}}),
            json!({"name": "a", "list": null, "kind": "None", "map": {}}),
            json!({"name": null, "kind": "Plain", "map": {}}),
        ] {
            let direct = Sample::deserialize(&document).map_err(|error| error.to_string());
            let through = Sample::deserialize(Value::from(&document)).map_err(|error| error.to_string());
            assert_eq!(through, direct, "{document}");
        }
    }
}
