//! Request bodies as JSON values: JSON or YAML in, with every duplicate field reported.
//!
//! A duplicate does not fail the decoding (the last one wins, as upstream): field validation decides what becomes of the
//! report. Upstream's decoder accepts 10,000 levels of nesting; this one stops at serde_json's 128 (and the YAML reader's
//! own 128), which no Kubernetes kind comes near and which no stack is too small for. YAML is one document of YAML 1.2;
//! aliases and `<<` are expanded within a budget, so a small body cannot become a large value.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

use crate::strict;
use crate::tree::{Map, Value};

/// Most duplicates reported for one body; upstream stops at as many.
pub const DUPLICATES_MAX: usize = 100;
/// Most values (scalars, lists, maps) that one YAML body may expand to.
pub const YAML_VALUES_MAX: usize = 1 << 20;
/// Most bytes of text that one YAML body may expand to.
pub const YAML_TEXT_MAX_BYTES: usize = 32 << 20;

/// Most fields of a map among which each further one is looked for.
const SEARCHED_MAX: usize = 64;

/// The encodings in which a body can come as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodingKind {
    Json,
    Yaml,
}

impl EncodingKind {
    /// By media type, without parameters.
    pub fn of(media_type: &str) -> Option<Self> {
        match media_type.split(';').next().unwrap_or_default().trim() {
            "application/json" => Some(Self::Json),
            "application/yaml" | "application/x-yaml" | "text/yaml" => Some(Self::Yaml),
            _ => None,
        }
    }
}

/// A body that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("json parse error: {0}")]
    Json(serde_json::Error),
    #[error("yaml parse error: {0}")]
    Yaml(serde_yaml::Error),
    #[error("yaml parse error: the body has more than one document")]
    ManyDocuments,
}

/// A body, read.
#[derive(Debug, PartialEq)]
pub struct Decoded<V = serde_json::Value> {
    pub value: V,
    /// In upstream's words, in order of appearance: `duplicate field "spec.replicas"`; of a YAML body all in one.
    pub duplicates: Vec<String>,
}

/// Reads a body.
pub fn decode(bytes: &[u8], encoding: EncodingKind) -> Result<Decoded, Error> {
    let Decoded { value, duplicates } = decode_tree(bytes, encoding)?;
    Ok(Decoded { value: value.into_json(), duplicates })
}

/// Reads a body into a document that borrows from it.
pub fn decode_tree(bytes: &[u8], encoding: EncodingKind) -> Result<Decoded<Value<'_>>, Error> {
    let report = RefCell::new(Report::default());
    let value = match encoding {
        EncodingKind::Json => {
            let mut reader = serde_json::Deserializer::from_slice(bytes);
            let value = Node { report: &report, path: Path::Root, yaml: false }
                .deserialize(&mut reader)
                .map_err(Error::Json)?;
            reader.end().map_err(Error::Json)?;
            value
        }
        EncodingKind::Yaml => {
            let mut documents = serde_yaml::Deserializer::from_slice(bytes);
            let value = match documents.next() {
                Some(document) => {
                    Node { report: &report, path: Path::Root, yaml: true }.deserialize(document).map_err(Error::Yaml)?
                }
                None => Value::Null,
            };
            if documents.next().is_some() {
                return Err(Error::ManyDocuments);
            }
            value
        }
    };
    let duplicates = report.into_inner().duplicates;
    let duplicates = match encoding {
        EncodingKind::Yaml if !duplicates.is_empty() => strict::yaml_duplicates(bytes).into_iter().collect(),
        _ => duplicates,
    };
    Ok(Decoded { value, duplicates })
}

#[derive(Default)]
struct Report {
    duplicates: Vec<String>,
    values: usize,
    text_bytes: usize,
}

impl Report {
    fn duplicate(&mut self, path: &Path<'_>, key: &str) {
        let message = format!("duplicate field \"{}\"", Path::Field(path, key));
        if self.duplicates.len() < DUPLICATES_MAX && !self.duplicates.contains(&message) {
            self.duplicates.push(message);
        }
    }
}

/// Where a value stands, without allocation until somebody prints it.
pub(crate) enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, key) => f.write_str(key),
            Path::Field(parent, key) => write!(f, "{parent}.{key}"),
            Path::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// One value about to be read.
struct Node<'a> {
    report: &'a RefCell<Report>,
    path: Path<'a>,
    yaml: bool,
}

impl Node<'_> {
    /// Counts a value against the budget of a YAML body; a JSON body cannot grow.
    fn charge<E: serde::de::Error>(&self, text_bytes: usize) -> Result<(), E> {
        if !self.yaml {
            return Ok(());
        }
        let mut report = self.report.borrow_mut();
        report.values += 1;
        report.text_bytes += text_bytes;
        if report.values > YAML_VALUES_MAX || report.text_bytes > YAML_TEXT_MAX_BYTES {
            return Err(E::custom("document contains excessive aliasing"));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value<'de>, E> {
        self.charge(0).map(|()| Value::Null)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Value<'de>, E> {
        self.visit_unit()
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value<'de>, E> {
        self.charge(0).map(|()| Value::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value<'de>, E> {
        self.charge(0).map(|()| Value::Number(value.into()))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value<'de>, E> {
        self.charge(0).map(|()| Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value<'de>, E> {
        self.charge(0)?;
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom(format!("{value} has no JSON form")))
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, value: &'de str) -> Result<Value<'de>, E> {
        self.charge(value.len()).map(|()| Value::String(Cow::Borrowed(value)))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value<'de>, E> {
        self.charge(value.len()).map(|()| Value::String(Cow::Owned(value.to_owned())))
    }

    fn visit_string<E: serde::de::Error>(self, value: String) -> Result<Value<'de>, E> {
        self.charge(value.len()).map(|()| Value::String(Cow::Owned(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value<'de>, A::Error> {
        self.charge(0)?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Node {
            report: self.report,
            path: Path::Item(&self.path, list.len()),
            yaml: self.yaml,
        })? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value<'de>, A::Error> {
        self.charge(0)?;
        let mut fields = Vec::new();
        let (mut merged, mut is_sorted) = (None, true);
        while let Some(Key(key)) = entries.next_key()? {
            // Told as they come; a map too large for that is looked through when it has been read.
            let is_last = fields.last().is_none_or(|(last, _): &(Cow<'de, str>, Value<'de>)| *last < key);
            is_sorted &= is_last;
            if !is_sorted && fields.len() <= SEARCHED_MAX && fields.iter().any(|(held, _)| *held == key) {
                self.report.borrow_mut().duplicate(&self.path, &key);
            }
            let path = Path::Field(&self.path, &key);
            let value = entries.next_value_seed(Node { report: self.report, path, yaml: self.yaml })?;
            if self.yaml && key == "<<" {
                merged = Some(value);
            } else {
                fields.push((key, value));
            }
        }
        let map = Map::from_read(fields, |key| self.report.borrow_mut().duplicate(&self.path, key));
        match merged {
            Some(merged) => merge_in(map, merged).map(Value::Map).map_err(A::Error::custom),
            None => Ok(Value::Map(map)),
        }
    }
}

/// YAML's `<<`: fields of the merged maps that the map itself does not have; of several, the first wins.
fn merge_in<'a>(mut map: Map<'a>, merged: Value<'a>) -> Result<Map<'a>, &'static str> {
    let sources = match merged {
        Value::Map(source) => vec![Value::Map(source)],
        Value::List(sources) => sources,
        _ => return Err("map merge requires map or sequence of maps as the value"),
    };
    for source in sources {
        let Value::Map(source) = source else {
            return Err("map merge requires map or sequence of maps as the value");
        };
        for (key, value) in source {
            if map.get(&key).is_none() {
                map.insert(key, value);
            }
        }
    }
    Ok(map)
}

/// A field's name. YAML allows scalars of other types, which become their text.
struct Key<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeyVisitor).map(Key)
    }
}

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_owned()))
    }

    fn visit_bool<E: serde::de::Error>(self, key: bool) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_string()))
    }

    fn visit_i64<E: serde::de::Error>(self, key: i64) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_string()))
    }

    fn visit_u64<E: serde::de::Error>(self, key: u64) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_string()))
    }

    fn visit_f64<E: serde::de::Error>(self, key: f64) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{decode, *};

    fn check(body: &str, encoding: EncodingKind, value: Value, duplicates: &[&str]) {
        let decoded = decode(body.as_bytes(), encoding).unwrap_or_else(|error| panic!("{body}: {error}"));
        assert_eq!(decoded.value, value, "{body}");
        assert_eq!(decoded.duplicates, duplicates, "{body}");
    }

    fn refused(body: impl AsRef<[u8]>, encoding: EncodingKind) -> String {
        decode(body.as_ref(), encoding).expect_err("refused").to_string()
    }

    #[test]
    fn duplicates_are_reported_with_their_path_and_the_last_wins() {
        let body = r#"{"spec":{"replicas":1,"replicas":2,"list":[{"a":1},{"a":1,"a":3}]},"kind":"x","kind":"y"}"#;
        check(
            body,
            EncodingKind::Json,
            json!({"spec": {"replicas": 2, "list": [{"a": 1}, {"a": 3}]}, "kind": "y"}),
            &[r#"duplicate field "spec.replicas""#, r#"duplicate field "spec.list[1].a""#, r#"duplicate field "kind""#],
        );
        check(
            "a: 1\nb: {c: 1, c: 2}\na: 3\n",
            EncodingKind::Yaml,
            json!({"a": 3, "b": {"c": 2}}),
            &[
                "error converting YAML to JSON: yaml: unmarshal errors:\n  line 2: key \"c\" already set in map\n  line 3: key \"a\" already set in map",
            ],
        );
    }

    #[test]
    fn a_flood_of_duplicates_is_cut_short() {
        let fields: Vec<String> = (0..300).map(|n| format!(r#""k{n}":1,"k{n}":2"#)).collect();
        let decoded = decode(format!("{{{}}}", fields.join(",")).as_bytes(), EncodingKind::Json).unwrap();
        assert_eq!(decoded.duplicates.len(), DUPLICATES_MAX);
    }

    #[test]
    fn yaml_becomes_the_json_it_stands_for() {
        let body = "base: &b {x: 1, y: two}\nkid:\n  <<: *b\n  y: 2\n1: one\ntrue: t\nnil:\nf: 1.5\nday: 2001-01-01\ns: \"1\"\n";
        check(
            body,
            EncodingKind::Yaml,
            json!({"base": {"x": 1, "y": "two"}, "kid": {"x": 1, "y": 2}, "1": "one", "true": "t", "nil": null, "f": 1.5, "day": "2001-01-01", "s": "1"}),
            &[],
        );
        check("", EncodingKind::Yaml, Value::Null, &[]);
        check("---\na: 1\n", EncodingKind::Yaml, json!({"a": 1}), &[]);
    }

    #[test]
    fn broken_bodies_are_refused() {
        for body in ["", "{", "{\"a\":}", "{} {}", "[1,]", "nul", "{\"a\":1e999}"] {
            refused(body, EncodingKind::Json);
        }
        for body in ["a: [", "a: b: c", "\t- x", "a: 1\n---\nb: 2\n", "a: .nan", "a: !custom 1", "{[1]: 2}"] {
            refused(body, EncodingKind::Yaml);
        }
        refused(b"{\"a\":\"\xff\"}", EncodingKind::Json);
        refused(b"a: \"\xff\"", EncodingKind::Yaml);
    }

    #[test]
    fn deep_nesting_is_refused_without_a_stack_overflow() {
        let deep = |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
        assert!(refused(deep("[", "]"), EncodingKind::Json).contains("recursion limit"));
        assert!(refused("[".repeat(2_000) + &"]".repeat(2_000), EncodingKind::Yaml).contains("recursion limit"));
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut body = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for n in 1..12 {
            let items = vec![format!("*a{}", n - 1); 9].join(",");
            body.push_str(&format!("a{n}: &a{n} [{items}]\n"));
        }
        refused(body, EncodingKind::Yaml);
        let text = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 64].join(","));
        assert!(refused(text, EncodingKind::Yaml).contains("excessive aliasing"));
    }
}
