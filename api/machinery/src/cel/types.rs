//! Types of values, and how names of fields are written in an expression.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The type of a value. For JSON it also says how what lies there is read: a string of type `Timestamp` is a time.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Type {
    /// Known only when it runs.
    #[default]
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    /// With the most characters it may have, where that is known.
    String(Option<u64>),
    /// As a base64 string in JSON.
    Bytes(Option<u64>),
    /// As RFC 3339 in JSON, or a date alone.
    Timestamp,
    Duration,
    List(Arc<Type>, ListKind, Option<u64>),
    /// From strings, in JSON.
    Map(Arc<Type>, Arc<Type>, Option<u64>),
    /// With fields that are known by name.
    Object(Arc<Fields>),
    Optional(Arc<Type>),
    /// A type as a value.
    Type,
    /// Of a library: `kubernetes.Quantity`.
    Library(&'static str),
    /// A type that a function's signature leaves open.
    Open(u8),
}

/// How two lists are compared and joined: `x-kubernetes-list-type`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListKind {
    #[default]
    Atomic,
    Set,
    Map(Arc<[String]>),
}

/// The fields of an object, under the names that JSON has for them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fields {
    /// For messages.
    pub name: String,
    pub fields: BTreeMap<String, Type>,
}

impl Type {
    pub const STRING: Type = Type::String(None);

    pub fn list(elements: Type) -> Self {
        Type::List(Arc::new(elements), ListKind::Atomic, None)
    }

    pub fn map(values: Type) -> Self {
        Type::Map(Arc::new(Type::STRING), Arc::new(values), None)
    }

    pub fn object<'a>(name: &str, fields: impl IntoIterator<Item = (&'a str, Type)>) -> Self {
        let fields = fields.into_iter().map(|(name, ty)| (name.to_owned(), ty)).collect();
        Type::Object(Arc::new(Fields { name: name.to_owned(), fields }))
    }

    pub fn optional(of: Type) -> Self {
        Type::Optional(Arc::new(of))
    }

    /// The type of the elements of a list in JSON.
    pub(super) fn element(&self) -> &Type {
        match self {
            Type::List(of, ..) => of,
            _ => &Type::Dyn,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Dyn => f.write_str("dyn"),
            Type::Null => f.write_str("null"),
            Type::Bool => f.write_str("bool"),
            Type::Int => f.write_str("int"),
            Type::Uint => f.write_str("uint"),
            Type::Double => f.write_str("double"),
            Type::String(_) => f.write_str("string"),
            Type::Bytes(_) => f.write_str("bytes"),
            Type::Timestamp => f.write_str("timestamp"),
            Type::Duration => f.write_str("duration"),
            Type::List(of, ..) => write!(f, "list({of})"),
            Type::Map(from, to, _) => write!(f, "map({from}, {to})"),
            Type::Object(fields) => f.write_str(&fields.name),
            Type::Optional(of) => write!(f, "optional_type({of})"),
            Type::Type => f.write_str("type"),
            Type::Library(name) => f.write_str(name),
            Type::Open(name) => write!(f, "{}", char::from(b'A' + name)),
        }
    }
}

/// Words that no identifier may be.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// True for a word that CEL keeps for itself.
pub fn is_reserved(word: &str) -> bool {
    RESERVED.contains(&word)
}

/// How a field is named in an expression; none where it cannot be. Source: `k8s.io/apiserver/pkg/cel/escaping.go`.
pub fn escape(name: &str) -> Option<String> {
    if is_reserved(name) {
        return Some(format!("__{name}__"));
    }
    let first = *name.as_bytes().first()?;
    if first.is_ascii_digit() {
        return None;
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(letter) = rest.chars().next() {
        let (text, taken) = match letter {
            '_' if rest.starts_with("__") => ("__underscores__", 2),
            '.' => ("__dot__", 1),
            '-' => ("__dash__", 1),
            '/' => ("__slash__", 1),
            letter if letter.is_ascii_alphanumeric() || letter == '_' => {
                out.push(letter);
                rest = &rest[1..];
                continue;
            }
            _ => return None,
        };
        out.push_str(text);
        rest = &rest[taken..];
    }
    Some(out)
}

/// The field that an identifier names.
pub fn unescape(name: &str) -> std::borrow::Cow<'_, str> {
    if !name.contains("__") {
        return name.into();
    }
    let word = name.strip_prefix("__").and_then(|name| name.strip_suffix("__"));
    if let Some(word) = word.filter(|word| is_reserved(word)) {
        return word.to_owned().into();
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    'next: while let Some(letter) = rest.chars().next() {
        for (from, to) in [("__underscores__", "__"), ("__dot__", "."), ("__dash__", "-"), ("__slash__", "/")] {
            if let Some(after) = rest.strip_prefix(from) {
                out.push_str(to);
                rest = after;
                continue 'next;
            }
        }
        out.push(letter);
        rest = &rest[letter.len_utf8()..];
    }
    out.into()
}
