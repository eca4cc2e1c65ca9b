//! JSON patch (RFC 6902), with the habits of the library that upstream uses.
//!
//! Beyond the RFC: a negative array index counts from the end, and `test` against null passes where the path is missing.
//! Source of these: `gopkg.in/evanphx/json-patch.v4`.

use std::slice;

use json_patch::jsonptr::{PointerBuf, Token};
use json_patch::{Patch, PatchOperation};
use serde::Deserialize;
use serde_json::Value;

use super::Error;

/// Most operations in one patch.
pub const OPERATIONS_MAX: usize = 10_000;
/// Most bytes of JSON that the `copy` operations of one patch may add.
pub const COPY_MAX_BYTES: usize = 3 << 20;

/// Applies a JSON patch.
pub fn json(original: &mut Value, patch: &Value) -> Result<(), Error> {
    let count = patch.as_array().map_or(0, Vec::len);
    if count > OPERATIONS_MAX {
        return Err(Error::TooManyOperations(count));
    }
    let Patch(operations) = Patch::deserialize(patch).map_err(|error| Error::Malformed(error.to_string()))?;
    let mut copied_bytes = 0;
    for operation in operations {
        let operation = from_the_front(original, operation);
        match &operation {
            PatchOperation::Test(test) if test.value.is_null() && original.pointer(test.path.as_str()).is_none() => {
                continue;
            }
            PatchOperation::Copy(copy) => {
                copied_bytes += original.pointer(copy.from.as_str()).map_or(0, size);
                if copied_bytes > COPY_MAX_BYTES {
                    return Err(Error::DoesNotApply(format!(
                        "Unable to complete the copy, the accumulated size increase of copy is {copied_bytes}, exceeding the limit {COPY_MAX_BYTES}"
                    )));
                }
            }
            _ => {}
        }
        json_patch::patch_unsafe(original, slice::from_ref(&operation)).map_err(|error| {
            Error::DoesNotApply(format!(
                "{} operation does not apply at {:?}: {}",
                name(&operation),
                error.path.as_str(),
                error.kind
            ))
        })?;
    }
    Ok(())
}

fn name(operation: &PatchOperation) -> &'static str {
    match operation {
        PatchOperation::Add(_) => "add",
        PatchOperation::Remove(_) => "remove",
        PatchOperation::Replace(_) => "replace",
        PatchOperation::Move(_) => "move",
        PatchOperation::Copy(_) => "copy",
        PatchOperation::Test(_) => "test",
    }
}

/// Bytes of a value's JSON, without making it.
fn size(value: &Value) -> usize {
    struct Counter(usize);
    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    serde_json::to_writer(&mut counter, value).map_or(usize::MAX, |()| counter.0)
}

/// Rewrites negative array indices to the positions that they mean in `document`.
fn from_the_front(document: &Value, mut operation: PatchOperation) -> PatchOperation {
    // An `add` inserts before the index, so there -1 is the place after the last item.
    let end =
        usize::from(matches!(operation, PatchOperation::Add(_) | PatchOperation::Copy(_) | PatchOperation::Move(_)));
    match &mut operation {
        PatchOperation::Add(operation) => rewrite(document, &mut operation.path, end),
        PatchOperation::Remove(operation) => rewrite(document, &mut operation.path, end),
        PatchOperation::Replace(operation) => rewrite(document, &mut operation.path, end),
        PatchOperation::Test(operation) => rewrite(document, &mut operation.path, end),
        PatchOperation::Move(operation) => {
            rewrite(document, &mut operation.from, 0);
            rewrite(document, &mut operation.path, end);
        }
        PatchOperation::Copy(operation) => {
            rewrite(document, &mut operation.from, 0);
            rewrite(document, &mut operation.path, end);
        }
    }
    operation
}

fn rewrite(document: &Value, pointer: &mut PointerBuf, end: usize) {
    if !pointer.as_str().contains("/-") {
        return;
    }
    let mut rewritten = PointerBuf::new();
    let mut at = Some(document);
    let last = pointer.tokens().count() - 1;
    for (position, token) in pointer.tokens().enumerate() {
        let length = at.and_then(Value::as_array).map(|items| items.len() + if position == last { end } else { 0 });
        let index = length.zip(token.decoded().strip_prefix('-').and_then(|back| back.parse::<usize>().ok()));
        match index.and_then(|(length, back)| length.checked_sub(back)) {
            Some(index) => rewritten.push_back(Token::from(index)),
            None => rewritten.push_back(token.to_owned()),
        }
        at = at.and_then(|at| {
            at.pointer(rewritten.last().map(|token| format!("/{}", token.encoded())).as_deref().unwrap_or(""))
        });
    }
    *pointer = rewritten;
}

#[cfg(test)]
mod tests {
    use serde_json::json as value;

    use super::*;

    fn check(document: Value, patch: Value, expected: Value) {
        let mut patched = document;
        json(&mut patched, &patch).unwrap_or_else(|error| panic!("{patch}: {error}"));
        assert_eq!(patched, expected, "{patch}");
    }

    fn refused(document: Value, patch: Value) -> Error {
        json(&mut document.clone(), &patch).expect_err("refused")
    }

    #[test]
    fn operations_apply_in_order() {
        check(
            value!({"a": [1, 2], "m": {"x/y": 1}}),
            value!([
                {"op": "add", "path": "/a/-", "value": 3},
                {"op": "remove", "path": "/a/0"},
                {"op": "replace", "path": "/m/x~1y", "value": 2},
                {"op": "copy", "from": "/m", "path": "/n"},
                {"op": "move", "from": "/n/x~1y", "path": "/z"},
                {"op": "test", "path": "/z", "value": 2}
            ]),
            value!({"a": [2, 3], "m": {"x/y": 2}, "n": {}, "z": 2}),
        );
    }

    #[test]
    fn negative_indices_count_from_the_end() {
        check(value!({"a": [1, 2, 3]}), value!([{"op": "remove", "path": "/a/-1"}]), value!({"a": [1, 2]}));
        check(value!({"a": [1, 2]}), value!([{"op": "add", "path": "/a/-1", "value": 9}]), value!({"a": [1, 2, 9]}));
        check(
            value!([{"b": 1}, {"b": 2}]),
            value!([{"op": "replace", "path": "/-2/b", "value": 7}]),
            value!([{"b": 7}, {"b": 2}]),
        );
        check(value!({"-1": 1}), value!([{"op": "remove", "path": "/-1"}]), value!({}));
        refused(value!({"a": [1]}), value!([{"op": "remove", "path": "/a/-2"}]));
    }

    #[test]
    fn test_of_null_passes_where_nothing_is() {
        check(value!({}), value!([{"op": "test", "path": "/a", "value": null}]), value!({}));
        assert!(matches!(
            refused(value!({}), value!([{"op": "test", "path": "/a", "value": 1}])),
            Error::DoesNotApply(_)
        ));
    }

    #[test]
    fn misfits_are_unprocessable_and_nonsense_is_malformed() {
        for patch in [
            value!([{"op": "remove", "path": "/x"}]),
            value!([{"op": "replace", "path": "/x", "value": 1}]),
            value!([{"op": "add", "path": "/x/y", "value": 1}]),
            value!([{"op": "move", "from": "/a", "path": "/a/b"}]),
            value!([{"op": "add", "path": "/a/7", "value": 1}]),
        ] {
            assert!(matches!(refused(value!({"a": []}), patch), Error::DoesNotApply(_)));
        }
        for patch in
            [value!({}), value!([{"op": "jump", "path": "/x"}]), value!([{"op": "remove", "path": "x"}]), value!("x")]
        {
            assert!(matches!(refused(value!({}), patch), Error::Malformed(_)));
        }
    }

    #[test]
    fn a_copy_bomb_is_refused_before_it_grows() {
        let doubling: Vec<Value> =
            (0..64).map(|n| value!({"op": "copy", "from": "", "path": format!("/k{n}")})).collect();
        assert!(matches!(refused(value!({"a": "x".repeat(1000)}), doubling.into()), Error::DoesNotApply(_)));
    }

    #[test]
    fn the_number_of_operations_is_limited() {
        let many = vec![value!({"op": "test", "path": "", "value": {}}); OPERATIONS_MAX + 1];
        assert_eq!(refused(value!({}), many.into()), Error::TooManyOperations(OPERATIONS_MAX + 1));
    }
}
