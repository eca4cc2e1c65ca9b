//! What the targets share: how one input becomes several documents.

use serde_json::Value;

/// Stands between the documents of an input.
const BETWEEN: &str = "\n---\n";

/// The two halves of an input, as text.
pub fn halves(input: &[u8]) -> Option<(&str, &str)> {
    std::str::from_utf8(input).ok()?.split_once(BETWEEN)
}

/// The two halves of an input, as JSON.
pub fn documents(input: &[u8]) -> Option<(Value, Value)> {
    let (first, second) = halves(input)?;
    Some((serde_json::from_str(first).ok()?, serde_json::from_str(second).ok()?))
}
