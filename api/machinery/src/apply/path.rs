//! One step into a document, and paths of such steps.
//!
//! Source: structured-merge-diff's `fieldpath` (`element.go`, `serialize-pe.go`), whose order and text this keeps.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt::{self, Write};

use crate::tree::Value;

/// How a child is told from its siblings. The order of variants is upstream's order of elements.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// A field of an object, or a key of a map.
    Field(Box<str>),
    /// The list item whose fields have these values; sorted by name.
    Key(Box<[(Box<str>, Scalar)]>),
    /// The item of a set.
    Value(Scalar),
    /// The item of a list by its place.
    Index(i64),
}

/// What a list item is known by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scalar {
    Number(Number),
    String(Box<str>),
    Bool(bool),
    /// A list or map, as JSON: no schema asks for such a key, but a client's `fieldsV1` may hold one.
    Other(Box<str>),
    Null,
}

/// A number, compared by value.
#[derive(Clone, Copy, Debug)]
pub enum Number {
    Int(i64),
    Float(f64),
}

impl Number {
    fn as_f64(self) -> f64 {
        match self {
            Number::Int(value) => value as f64,
            Number::Float(value) => value,
        }
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Number::Int(a), Number::Int(b)) => a.cmp(b),
            (a, b) => a.as_f64().total_cmp(&b.as_f64()),
        }
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Number {}

impl From<&Value<'_>> for Scalar {
    fn from(value: &Value<'_>) -> Self {
        match value {
            Value::Null => Scalar::Null,
            Value::Bool(value) => Scalar::Bool(*value),
            Value::String(text) => Scalar::String((**text).into()),
            Value::Number(number) => Scalar::Number(match (number.as_i64(), number.as_f64()) {
                (Some(int), _) => Number::Int(int),
                // Go reads every number of a field set as a float; a whole one is the same either way.
                (None, Some(float)) if float.fract() == 0.0 && float.abs() < 1e15 => Number::Int(float as i64),
                (None, float) => Number::Float(float.unwrap_or_default()),
            }),
            other => Scalar::Other(serde_json::to_string(other).unwrap_or_default().into()),
        }
    }
}

impl Scalar {
    /// As it stands in a field set: JSON, with Go's escapes for what HTML would read.
    fn write_json(&self, out: &mut String) {
        match self {
            Scalar::Number(Number::Int(value)) => write!(out, "{value}").expect("a String takes every write"),
            Scalar::Number(Number::Float(value)) => write!(out, "{value}").expect("a String takes every write"),
            Scalar::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Scalar::Null => out.push_str("null"),
            Scalar::Other(json) => out.push_str(json),
            Scalar::String(text) => write_go_string(out, text),
        }
    }
}

fn write_go_string(out: &mut String, text: &str) {
    let json = serde_json::to_string(text).unwrap_or_default();
    for c in json.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            c => out.push(c),
        }
    }
}

/// As messages show it: `"main"`, `80`.
impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Number(Number::Int(value)) => write!(f, "{value}"),
            Scalar::Number(Number::Float(value)) => write!(f, "{value}"),
            Scalar::String(text) => write!(f, "{text:?}"),
            Scalar::Bool(value) => write!(f, "{value}"),
            Scalar::Other(json) => f.write_str(json),
            Scalar::Null => f.write_str("null"),
        }
    }
}

/// As messages show it: `.spec`, `[name="main"]`, `[="a"]`, `[0]`.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Field(name) => write!(f, ".{name}"),
            Element::Key(fields) => {
                f.write_char('[')?;
                for (index, (name, value)) in fields.iter().enumerate() {
                    write!(f, "{}{name}={value}", if index == 0 { "" } else { "," })?;
                }
                f.write_char(']')
            }
            Element::Value(value) => write!(f, "[={value}]"),
            Element::Index(index) => write!(f, "[{index}]"),
        }
    }
}

impl Element {
    pub fn field(name: &str) -> Self {
        Element::Field(name.into())
    }

    pub fn key<'a>(fields: impl IntoIterator<Item = (&'a str, Scalar)>) -> Self {
        let mut fields: Vec<(Box<str>, Scalar)> =
            fields.into_iter().map(|(name, value)| (name.into(), value)).collect();
        fields.sort();
        Element::Key(fields.into())
    }

    /// Appends the element as a key of `fieldsV1`: `f:spec`, `k:{"name":"main"}`.
    pub(super) fn write(&self, out: &mut String) {
        match self {
            Element::Field(name) => {
                out.push_str("f:");
                out.push_str(name);
            }
            Element::Key(fields) => {
                out.push_str("k:{");
                for (index, (name, value)) in fields.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    write_go_string(out, name);
                    out.push(':');
                    value.write_json(out);
                }
                out.push('}');
            }
            Element::Value(value) => {
                out.push_str("v:");
                value.write_json(out);
            }
            Element::Index(index) => write!(out, "i:{index}").expect("a String takes every write"),
        }
    }

    /// Reads a key of `fieldsV1`; none for a sort of element that is not known, which is left out.
    pub(super) fn read(text: &str) -> Result<Option<Self>, String> {
        let bytes = text.as_bytes();
        if bytes.len() < 2 {
            return Err("key must be 2 characters long:".to_owned());
        }
        if bytes[1] != b':' {
            return Err(format!("missing colon: {text}"));
        }
        let rest = &text[2..];
        let json = || Value::parse(rest.as_bytes()).map_err(|error| error.to_string());
        Ok(Some(match bytes[0] {
            b'f' => Element::field(rest),
            b'v' => Element::Value(Scalar::from(&json()?)),
            b'k' => match json()? {
                Value::Map(map) => Element::key(map.iter().map(|(name, value)| (name, Scalar::from(value)))),
                _ => return Err(format!("a key is an object: {text}")),
            },
            b'i' => {
                Element::Index(rest.parse().map_err(|_| format!("strconv.Atoi: parsing {rest:?}: invalid syntax"))?)
            }
            _ => return Ok(None),
        }))
    }
}

/// Steps from the document's root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(pub Vec<Element>);

impl Path {
    pub fn fields(names: &[&str]) -> Self {
        Self(names.iter().map(|name| Element::field(name)).collect())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|element| write!(f, "{element}"))
    }
}

/// The steps to where a walk stands; elements are made only where somebody keeps the path.
#[derive(Clone, Copy)]
pub(super) enum Trail<'t> {
    Root,
    Field(&'t Trail<'t>, &'t str),
    Item(&'t Trail<'t>, &'t Element),
}

impl Trail<'_> {
    pub(super) fn path(&self) -> Vec<Element> {
        let mut path = match self {
            Trail::Root => return Vec::new(),
            Trail::Field(parent, _) | Trail::Item(parent, _) => parent.path(),
        };
        path.push(match self {
            Trail::Item(_, element) => (*element).clone(),
            Trail::Field(_, name) => Element::field(name),
            Trail::Root => return path,
        });
        path
    }
}

impl fmt::Display for Trail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Path(self.path()).fmt(f)
    }
}

/// A name as it goes into a tree.
pub(super) fn cow(name: &str) -> Cow<'static, str> {
    Cow::Owned(name.to_owned())
}
