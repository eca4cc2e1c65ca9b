//! Managed fields as a part of an object's text: they are taken out and put back without being read.
//!
//! Only the object's own `metadata` is looked at. Our encoder writes `apiVersion`, `kind`, `metadata` first, and managed
//! fields go first into the metadata, so that finding them again takes a few dozen bytes.
//! Absent on purpose: unescaping (a `metadata` spelled with escapes is not recognised).

use std::borrow::Cow;
use std::ops::Range;

const METADATA: &[u8] = b"metadata";
const MANAGED: &[u8] = b"managedFields";

/// An object without its managed fields, and their JSON.
pub fn split(object: &[u8]) -> (Cow<'_, [u8]>, Option<&[u8]>) {
    let Some(found) = find(object) else { return (Cow::Borrowed(object), None) };
    let mut rest = Vec::with_capacity(object.len() - found.whole.len());
    rest.extend_from_slice(&object[..found.whole.start]);
    rest.extend_from_slice(&object[found.whole.end..]);
    (Cow::Owned(rest), Some(&object[found.value]))
}

/// The JSON of an object's managed fields.
pub fn managed(object: &[u8]) -> Option<&[u8]> {
    find(object).map(|found| &object[found.value])
}

/// Puts managed fields into an object that has none.
pub fn join(object: Vec<u8>, managed: Option<&[u8]>) -> Vec<u8> {
    let Some(managed) = managed else { return object };
    let Some(metadata) = field(&object, 0, METADATA).map(|(_, value)| value) else { return object };
    let at = metadata.start + 1;
    let is_empty = object.get(at) == Some(&b'}');
    let mut out = Vec::with_capacity(object.len() + managed.len() + MANAGED.len() + 4);
    out.extend_from_slice(&object[..at]);
    out.push(b'"');
    out.extend_from_slice(MANAGED);
    out.extend_from_slice(b"\":");
    out.extend_from_slice(managed);
    if !is_empty {
        out.push(b',');
    }
    out.extend_from_slice(&object[at..]);
    out
}

struct Found {
    /// The field with the comma that goes with it.
    whole: Range<usize>,
    value: Range<usize>,
}

fn find(object: &[u8]) -> Option<Found> {
    let (_, metadata) = field(object, 0, METADATA)?;
    let (key, value) = field(object, metadata.start, MANAGED)?;
    if object[value.clone()] == *b"null" {
        return None;
    }
    let whole = if object.get(value.end) == Some(&b',') {
        key..value.end + 1
    } else if key > 0 && object[key - 1] == b',' {
        key - 1..value.end
    } else {
        key..value.end
    };
    Some(Found { whole, value })
}

/// A field of the object that begins at `at`: where its key begins, and its value. Only text without white space, as our
/// encoder writes it, is understood.
fn field(json: &[u8], at: usize, name: &[u8]) -> Option<(usize, Range<usize>)> {
    let mut at = at;
    if json.get(at) != Some(&b'{') {
        return None;
    }
    at += 1;
    while json.get(at) == Some(&b'"') {
        let key = at;
        at = string_end(json, at)?;
        let is_it = &json[key + 1..at - 1] == name;
        if json.get(at) != Some(&b':') {
            return None;
        }
        let value = at + 1..value_end(json, at + 1)?;
        at = value.end;
        if is_it {
            return Some((key, value));
        }
        if json.get(at) != Some(&b',') {
            return None;
        }
        at += 1;
    }
    None
}

/// The end of the string that begins at `at`.
fn string_end(json: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += 1;
        match json.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 1,
            _ => {}
        }
    }
}

fn value_end(json: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    loop {
        match json.get(at)? {
            b'"' => at = string_end(json, at)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' if depth == 0 => return Some(at),
            b'}' | b']' => {
                depth -= 1;
                at += 1;
            }
            b',' if depth == 0 => return Some(at),
            _ => at += 1,
        }
        if depth == 0 && matches!(json.get(at), None | Some(b',' | b'}' | b']')) {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(object: &str, rest: &str, managed_fields: Option<&str>) {
        let (left, found) = split(object.as_bytes());
        assert_eq!(std::str::from_utf8(&left).unwrap(), rest);
        assert_eq!(found.map(|found| std::str::from_utf8(found).unwrap()), managed_fields);
    }

    #[test]
    fn managed_fields_are_found_in_the_metadata_alone() {
        check(
            r#"{"apiVersion":"v1","kind":"X","metadata":{"resourceVersion":"1","managedFields":[{"a":"]}\""}],"name":"x"},"spec":{}}"#,
            r#"{"apiVersion":"v1","kind":"X","metadata":{"resourceVersion":"1","name":"x"},"spec":{}}"#,
            Some(r#"[{"a":"]}\""}]"#),
        );
        check(r#"{"metadata":{"name":"x","managedFields":[]}}"#, r#"{"metadata":{"name":"x"}}"#, Some("[]"));
        check(r#"{"metadata":{"managedFields":[]}}"#, r#"{"metadata":{}}"#, Some("[]"));
        for object in [
            r#"{"metadata":{"name":"x"},"spec":{"managedFields":[1]}}"#,
            r#"{"metadata":{"labels":{"managedFields":"x"}}}"#,
            r#"{"spec":{"metadata":{"managedFields":[1]}}}"#,
            r#"{"metadata":{"managedFields":null}}"#,
            r#"{"metadata":{"managedFields":[1"#,
            "{}",
            "[]",
            "",
        ] {
            check(object, object, None);
        }
    }

    #[test]
    fn what_is_taken_out_is_put_back() {
        for object in [r#"{"metadata":{"name":"x"},"spec":{}}"#, r#"{"metadata":{}}"#] {
            let joined = join(object.as_bytes().to_vec(), Some(br#"[{"a":1}]"#));
            check(std::str::from_utf8(&joined).unwrap(), object, Some(r#"[{"a":1}]"#));
        }
        assert_eq!(join(b"{}".to_vec(), Some(b"[]")), b"{}");
    }
}
