//! Managed fields as a part of an object's text: they are taken out and put back without being read.
//!
//! Only the object's own `metadata` is looked at. Our encoder writes `apiVersion`, `kind`, `metadata` first, and managed
//! fields go first into the metadata, so that finding them again takes a few dozen bytes.
//! Absent on purpose: unescaping (a `metadata` spelled with escapes is not recognised).

use std::borrow::Cow;
use std::ops::Range;

use crate::cursor::{Cursor, Malformed};

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
    let Ok(Some(metadata)) = field(Cursor::new(&object), METADATA) else { return object };
    let at = metadata.value.start + 1;
    let Ok(next) = Cursor::starting_at(&object, at).peek() else { return object };
    let mut out = Vec::with_capacity(object.len() + managed.len() + MANAGED.len() + 4);
    out.extend_from_slice(&object[..at]);
    out.push(b'"');
    out.extend_from_slice(MANAGED);
    out.extend_from_slice(b"\":");
    out.extend_from_slice(managed);
    if next != b'}' {
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
    let metadata = field(Cursor::new(object), METADATA).ok()??;
    let found = field(Cursor::starting_at(object, metadata.value.start), MANAGED).ok()??;
    (object[found.value.clone()] != *b"null").then_some(found)
}

/// A field of the object that the cursor is at.
fn field(mut cursor: Cursor<'_>, name: &[u8]) -> Result<Option<Found>, Malformed> {
    cursor.enter_object()?;
    let (mut first, mut before) = (true, cursor.at());
    while let Some(key) = cursor.key(&mut first)? {
        let value = cursor.value()?;
        let value = cursor.at() - value.len()..cursor.at();
        if key.raw() == name {
            let whole = match cursor.peek()? {
                b',' => key.start()..cursor.at() + 1,
                _ => before..value.end,
            };
            return Ok(Some(Found { whole, value }));
        }
        before = value.end;
    }
    Ok(None)
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
        check(
            r#"{ "metadata" : { "name" : "x" , "managedFields" : [ ] } }"#,
            r#"{ "metadata" : { "name" : "x" } }"#,
            Some("[ ]"),
        );
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
        assert_eq!(join(br#"{"metadata":{ }}"#.to_vec(), Some(b"[]")), br#"{"metadata":{"managedFields":[] }}"#);
    }
}
