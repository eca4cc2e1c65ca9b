//! Paths to fields and what is wrong with them, worded as upstream does.
//!
//! Source: `k8s.io/apimachinery/pkg/util/validation/field`.

use std::fmt;

use crate::meta::StatusCause;

/// A path such as `spec.containers[0].name`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    pub fn root() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }

    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

/// The kinds of field error; the wire name is [`Kind::reason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    TypeInvalid,
    Internal,
}

impl Kind {
    pub fn reason(self) -> &'static str {
        match self {
            Kind::NotFound => "FieldValueNotFound",
            Kind::Required => "FieldValueRequired",
            Kind::Duplicate => "FieldValueDuplicate",
            Kind::Invalid => "FieldValueInvalid",
            Kind::NotSupported => "FieldValueNotSupported",
            Kind::Forbidden => "FieldValueForbidden",
            Kind::TooLong => "FieldValueTooLong",
            Kind::TooMany => "FieldValueTooMany",
            Kind::TypeInvalid => "FieldValueTypeInvalid",
            Kind::Internal => "InternalError",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Kind::NotFound => "Not found",
            Kind::Required => "Required value",
            Kind::Duplicate => "Duplicate value",
            Kind::Invalid => "Invalid value",
            Kind::NotSupported => "Unsupported value",
            Kind::Forbidden => "Forbidden",
            Kind::TooLong => "Too long",
            Kind::TooMany => "Too many",
            Kind::TypeInvalid => "Invalid value",
            Kind::Internal => "Internal error",
        }
    }
}

/// One thing wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub kind: Kind,
    pub path: String,
    /// The offending value as upstream prints it (strings in quotes), or none where the message names none.
    pub value: Option<String>,
    pub detail: String,
}

/// What a validation found; empty means valid.
pub type Errors = Vec<Error>;

impl Error {
    fn new(kind: Kind, path: &Path, value: Option<String>, detail: impl Into<String>) -> Self {
        Self { kind, path: path.to_string(), value, detail: detail.into() }
    }

    pub fn required(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(Kind::Required, path, None, detail)
    }

    pub fn invalid(path: &Path, value: impl Shown, detail: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, path, Some(value.shown()), detail)
    }

    pub fn duplicate(path: &Path, value: impl Shown) -> Self {
        Self::new(Kind::Duplicate, path, Some(value.shown()), "")
    }

    pub fn not_found(path: &Path, value: impl Shown) -> Self {
        Self::new(Kind::NotFound, path, Some(value.shown()), "")
    }

    pub fn forbidden(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(Kind::Forbidden, path, None, detail)
    }

    /// `supported` is listed in the message in the order given; upstream sorts it.
    pub fn not_supported(path: &Path, value: impl Shown, supported: &[&str]) -> Self {
        let quoted: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
        let detail = if quoted.is_empty() { String::new() } else { format!("supported values: {}", quoted.join(", ")) };
        Self::new(Kind::NotSupported, path, Some(value.shown()), detail)
    }

    /// `max_bytes` is the longest length allowed, in bytes.
    pub fn too_long(path: &Path, max_bytes: usize) -> Self {
        Self::new(Kind::TooLong, path, None, format!("may not be more than {max_bytes} bytes"))
    }

    pub fn too_many(path: &Path, actual: usize, max: usize) -> Self {
        Self::new(Kind::TooMany, path, Some(actual.to_string()), format!("must have at most {max} items"))
    }

    pub fn type_invalid(path: &Path, value: impl Shown, detail: impl Into<String>) -> Self {
        Self::new(Kind::TypeInvalid, path, Some(value.shown()), detail)
    }

    pub fn cause(&self) -> StatusCause {
        StatusCause {
            field: Some(self.path.clone()),
            message: Some(self.body()),
            reason: Some(self.kind.reason().to_owned()),
        }
    }

    /// The message without the path: `Invalid value: -1: must be …`.
    fn body(&self) -> String {
        let mut out = self.kind.words().to_owned();
        if let Some(value) = &self.value {
            out.push_str(": ");
            out.push_str(value);
        }
        if !self.detail.is_empty() {
            out.push_str(": ");
            out.push_str(&self.detail);
        }
        out
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

/// A value as upstream prints it in a field error: strings quoted, numbers bare, structs as JSON.
pub trait Shown {
    fn shown(&self) -> String;
}

impl Shown for str {
    fn shown(&self) -> String {
        format!("{self:?}")
    }
}

impl Shown for String {
    fn shown(&self) -> String {
        self.as_str().shown()
    }
}

impl<T: Shown + ?Sized> Shown for &T {
    fn shown(&self) -> String {
        (**self).shown()
    }
}

macro_rules! shown_bare {
    ($($ty:ty),*) => { $(impl Shown for $ty { fn shown(&self) -> String { self.to_string() } })* };
}
shown_bare!(i32, i64, u16, u32, u64, usize, bool);

impl Shown for serde_json::Value {
    fn shown(&self) -> String {
        self.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_as_upstream_words_them() {
        let path = Path::new("spec").child("containers").index(0).child("name");
        assert_eq!(Error::required(&path, "").to_string(), "spec.containers[0].name: Required value");
        assert_eq!(
            Error::invalid(&Path::new("spec").child("replicas"), -1, "must be greater than or equal to 0").to_string(),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0"
        );
        assert_eq!(
            Error::not_supported(&Path::new("type"), "x", &["A", "B"]).to_string(),
            "type: Unsupported value: \"x\": supported values: \"A\", \"B\""
        );
    }
}
