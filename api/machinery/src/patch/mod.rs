//! The three kinds of patch that change a document: JSON patch, merge patch and strategic merge patch.
//!
//! All work on `serde_json::Value`, in place; after an error the document is in no particular state and must be dropped.
//! [`Error`] knows the Status that upstream answers with. Source: `apiserver/pkg/endpoints/handlers/patch.go`.
//! Absent on purpose: server-side apply, which is no patch but a merge of owners.

mod json;
pub mod merge_keys;
mod strategic;

use serde_json::Value;
use wharf_types::ApiError;

pub use json::{COPY_MAX_BYTES, OPERATIONS_MAX, json};
pub use strategic::strategic;

/// Why a patch was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The patch is not a patch of its kind.
    #[error("{0}")]
    Malformed(String),
    #[error("The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {0}")]
    TooManyOperations(usize),
    /// A good patch that this document does not fit.
    #[error("{0}")]
    DoesNotApply(String),
    /// A strategic patch at odds with the schema; upstream answers 500.
    #[error("{0}")]
    Schema(String),
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Malformed(_) => ApiError::bad_request(message),
            Error::TooManyOperations(_) => ApiError::too_large(message),
            // Upstream hides the cause behind a generic sentence; here it follows, since nothing else would carry it.
            Error::DoesNotApply(_) => ApiError::new(
                422,
                "Invalid",
                format!("the server rejected our request due to an error in our request: {message}"),
            ),
            Error::Schema(_) => ApiError::new(500, "InternalError", message),
        }
    }
}

/// Applies a merge patch (RFC 7386).
pub fn merge(original: &mut Value, patch: &Value) -> Result<(), Error> {
    if !patch.is_object() {
        return Err(Error::Malformed("Invalid JSON Patch".to_owned()));
    }
    json_patch::merge(original, patch);
    Ok(())
}

/// The Go kind of a value, as upstream's messages name it.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_merge_patch_removes_with_null_and_replaces_lists() {
        let mut document = json!({"a": {"b": 1, "c": 2}, "l": [1, 2]});
        merge(&mut document, &json!({"a": {"b": null, "d": {"e": null, "f": 1}}, "l": [3]})).unwrap();
        assert_eq!(document, json!({"a": {"c": 2, "d": {"f": 1}}, "l": [3]}));
    }

    #[test]
    fn a_merge_patch_is_an_object() {
        for patch in [json!([]), json!("x"), json!(null)] {
            assert!(matches!(merge(&mut json!({}), &patch), Err(Error::Malformed(_))));
        }
    }

    #[test]
    fn errors_have_the_status_that_upstream_answers_with() {
        let check = |error: Error, code, reason| {
            let status = ApiError::from(error);
            assert_eq!((status.code, &*status.reason), (code, reason));
        };
        check(Error::Malformed(String::new()), 400, "BadRequest");
        check(Error::TooManyOperations(20_000), 413, "RequestEntityTooLarge");
        check(Error::DoesNotApply(String::new()), 422, "Invalid");
        check(Error::Schema(String::new()), 500, "InternalError");
    }
}
