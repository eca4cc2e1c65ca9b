//! Puts `metadata.resourceVersion` into stored JSON.
//!
//! A stored value has no resourceVersion: the store's revision is it, and is known only after the commit. The splice scans
//! the tokens of the top-level object up to its `metadata`; our encoder writes `apiVersion`, `kind`, `metadata` first, so
//! that is a few dozen bytes. Absent on purpose: unescaping (a `metadata` spelled with escapes is not recognised).

use std::io::Write;
use std::ops::Range;

use bytes::Bytes;
use wharf_machinery::cursor::{Cursor, Malformed};
use wharf_store::Revision;

/// Where a resourceVersion goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// After this many bytes, first in `metadata`.
    Metadata { at: usize, empty: bool },
    /// After this many bytes, first in an object without `metadata`.
    Object { at: usize, empty: bool },
    /// Not a JSON object, or `metadata` is not one: left alone.
    Nowhere,
}

const FIELD: &[u8] = br#""resourceVersion":""#;
/// Most bytes that a splice adds: `"metadata":{"resourceVersion":"<u64>"},`.
pub(crate) const ADDED_MAX: usize = 60;

/// The stored value as GET returns it.
pub fn with_revision(stored: &[u8], revision: Revision) -> Bytes {
    let mut out = Vec::with_capacity(stored.len() + ADDED_MAX);
    write(&mut out, stored, revision);
    out.into()
}

/// Appends the spliced value; returns where in `out` the revision's digits stand.
pub(crate) fn write(out: &mut Vec<u8>, stored: &[u8], revision: Revision) -> Option<Range<usize>> {
    let (at, empty, wrapped) = match place(stored) {
        Place::Metadata { at, empty } => (at, empty, false),
        Place::Object { at, empty } => (at, empty, true),
        Place::Nowhere => {
            out.extend_from_slice(stored);
            return None;
        }
    };
    out.extend_from_slice(&stored[..at]);
    if wrapped {
        out.extend_from_slice(br#""metadata":{"#);
    }
    out.extend_from_slice(FIELD);
    let start = out.len();
    write_number(out, revision.0);
    let digits = start..out.len();
    out.push(b'"');
    if wrapped {
        out.push(b'}');
    }
    if !empty {
        out.push(b',');
    }
    out.extend_from_slice(&stored[at..]);
    Some(digits)
}

pub(crate) fn write_number(out: &mut Vec<u8>, number: u64) {
    write!(out, "{number}").expect("a Vec takes every write");
}

pub(crate) fn place(json: &[u8]) -> Place {
    scan(json).unwrap_or(Place::Nowhere)
}

fn scan(json: &[u8]) -> Result<Place, Malformed> {
    let mut cursor = Cursor::new(json);
    cursor.enter_object()?;
    let (object, mut first) = (cursor.at(), true);
    let mut empty = true;
    while let Some(key) = cursor.key(&mut first)? {
        if key.raw() == b"metadata" {
            cursor.enter_object()?;
            let at = cursor.at();
            return Ok(Place::Metadata { at, empty: cursor.peek()? == b'}' });
        }
        cursor.value()?;
        empty = false;
    }
    Ok(Place::Object { at: object, empty })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stored: &str, expected: &str) {
        assert_eq!(with_revision(stored.as_bytes(), Revision(7)), expected, "{stored}");
    }

    #[test]
    fn the_revision_goes_first_into_top_level_metadata() {
        check(
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{}}"#,
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"resourceVersion":"7","name":"a"},"spec":{}}"#,
        );
        check(r#"{"metadata":{}}"#, r#"{"metadata":{"resourceVersion":"7"}}"#);
        check(r#"{ "metadata" : { } }"#, r#"{ "metadata" : {"resourceVersion":"7" } }"#);
    }

    #[test]
    fn metadata_elsewhere_is_not_mistaken_for_it() {
        check(
            r#"{"a":"\"metadata\":{","spec":{"template":{"metadata":{"x":"}"}}},"b":[1,{"metadata":{}}],"n":-1e3,"metadata":{"name":"a"}}"#,
            r#"{"a":"\"metadata\":{","spec":{"template":{"metadata":{"x":"}"}}},"b":[1,{"metadata":{}}],"n":-1e3,"metadata":{"resourceVersion":"7","name":"a"}}"#,
        );
    }

    #[test]
    fn an_object_without_metadata_gets_one() {
        check("{}", r#"{"metadata":{"resourceVersion":"7"}}"#);
        check(r#"{"kind":"X"}"#, r#"{"metadata":{"resourceVersion":"7"},"kind":"X"}"#);
    }

    #[test]
    fn what_is_not_an_object_is_left_alone() {
        for stored in
            ["", "[]", "1", "{", r#"{"a"#, r#"{"a":"#, r#"{"a":{"#, r#"{"metadata":null}"#, r#"{"a":"\"#, "{]"]
        {
            check(stored, stored);
        }
    }
}
