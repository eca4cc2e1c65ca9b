//! Strategic merge patch: lists of objects merge by key, as the types' annotations say.
//!
//! Directives: `$patch: replace|delete`, `$retainKeys`, `$setElementOrder/<list>`, `$deleteFromPrimitiveList/<list>`.
//! The document is walked by schema type ([`crate::schema`]); [`merge_keys`] says how each field merges. Nulls and
//! directives never end up in the result. Source: `k8s.io/apimachinery/pkg/util/strategicpatch` and `util/mergepatch`,
//! whose order of list items is kept even where it surprises: new items of a patch come before the server's own.
//! Recursion is bounded by the decoder's limit on nesting.

use std::cmp::Ordering;

use serde_json::{Map, Value};

use super::merge_keys::{self, Strategy};
use super::{Error, kind_of};
use crate::schema::{Shape, types};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ELEMENT_ORDER: &str = "$setElementOrder/";

type Object = Map<String, Value>;

/// Applies a strategic merge patch to an object of the schema type `type_name` (see [`crate::schema::type_name`]).
pub fn strategic(original: &mut Value, patch: &Value, type_name: &str) -> Result<(), Error> {
    let Value::Object(patch) = patch else {
        return Err(malformed("strategic merge patch format is not supported"));
    };
    let document = match original.take() {
        Value::Object(document) => document,
        _ => Object::new(),
    };
    *original = Value::Object(merge_map(document, patch.clone(), At::Type(type_name))?);
    Ok(())
}

fn malformed(message: impl Into<String>) -> Error {
    Error::Malformed(message.into())
}

fn schema_error(message: impl Into<String>) -> Error {
    Error::Schema(message.into())
}

/// What the schema knows of the object being merged.
#[derive(Clone, Copy)]
enum At<'a> {
    Type(&'a str),
    /// A map whose values have this shape.
    Map(&'a Shape),
    Anything,
}

/// What the schema knows of one field.
struct Field<'a> {
    /// The object that the field holds, or the items of its list.
    inside: At<'a>,
    strategy: Strategy,
    merge_key: &'static str,
}

impl<'a> At<'a> {
    fn of(shape: &'a Shape) -> Self {
        match shape {
            Shape::Named(name) => At::Type(name),
            Shape::Map(values) => At::Map(values),
            Shape::List(items) => At::of(items),
            Shape::Scalar | Shape::Any => At::Anything,
        }
    }

    fn field(self, name: &str) -> Result<Field<'a>, Error> {
        match self {
            At::Type(owner) => {
                let shape = types().field(owner, name).ok_or_else(|| {
                    let owner = owner.rsplit('.').next().unwrap_or(owner);
                    schema_error(format!("unable to find api field in struct {owner} for the json field {name:?}"))
                })?;
                let rule = merge_keys::rule(owner, name);
                Ok(Field {
                    inside: At::of(shape),
                    strategy: rule.map_or(Strategy::Plain, |rule| rule.strategy),
                    merge_key: rule.map_or("", |rule| rule.merge_key),
                })
            }
            At::Map(values) => Ok(Field { inside: At::of(values), strategy: Strategy::Plain, merge_key: "" }),
            At::Anything => Ok(Field { inside: At::Anything, strategy: Strategy::Plain, merge_key: "" }),
        }
    }
}

fn merge_map(mut original: Object, mut patch: Object, at: At<'_>) -> Result<Object, Error> {
    if let Some(directive) = patch.remove(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => Ok(clean_map(patch)),
            Some("delete") => Ok(Object::new()),
            _ => Err(schema_error(format!("unknown patch type: {directive} in map: {}", Value::Object(patch)))),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    merge_ordered_lists(&mut original, &mut patch, at)?;
    // Deletions go first, so that a value in both lists stays.
    let (deletions, fields): (Vec<_>, Vec<_>) = patch.into_iter().partition(|(key, _)| key.starts_with(DELETE_FROM));
    for (key, values) in deletions {
        delete_from_list(&mut original, &key[DELETE_FROM.len()..], &values)?;
    }
    for (key, value) in fields {
        merge_field(&mut original, key, value, at)?;
    }
    Ok(original)
}

fn merge_field(original: &mut Object, key: String, value: Value, at: At<'_>) -> Result<(), Error> {
    if value.is_null() {
        original.remove(&key);
        return Ok(());
    }
    let merged = match (original.remove(&key), value) {
        (Some(Value::Object(old)), Value::Object(new)) => {
            let field = at.field(&key)?;
            if field.strategy == Strategy::Replace {
                Some(Value::Object(clean_map(new)))
            } else {
                Some(Value::Object(merge_map(old, new, field.inside)?))
            }
        }
        (Some(Value::Array(old)), Value::Array(new)) => {
            let field = at.field(&key)?;
            Some(Value::Array(merge_or_replace(old, new, &field)?))
        }
        (_, new) => clean(new),
    };
    if let Some(merged) = merged {
        original.insert(key, merged);
    }
    Ok(())
}

/// `$retainKeys`: of the original, only the named fields stay.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), Error> {
    let Some(retained) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let bad = || malformed("invalid patch format of retainKeys");
    let retained: Vec<&str> = retained.as_array().ok_or_else(bad)?.iter().filter_map(Value::as_str).collect();
    let is_directive = |key: &str| key.starts_with(DELETE_FROM) || key.starts_with(ELEMENT_ORDER);
    if patch.iter().any(|(key, value)| !value.is_null() && !is_directive(key) && !retained.contains(&key.as_str())) {
        return Err(bad());
    }
    original.retain(|key, _| retained.contains(&key.as_str()));
    Ok(())
}

/// `$deleteFromPrimitiveList/<list>`: takes values out of a list of scalars.
fn delete_from_list(original: &mut Object, field: &str, values: &Value) -> Result<(), Error> {
    let values = values.as_array().ok_or_else(|| malformed("invalid patch format of primitive list"))?;
    if let Some(Value::Array(list)) = original.get_mut(field) {
        list.retain(|item| !values.contains(item));
    }
    Ok(())
}

/// Merges every list that has a `$setElementOrder/<list>`, and takes both out of the patch.
fn merge_ordered_lists(original: &mut Object, patch: &mut Object, at: At<'_>) -> Result<(), Error> {
    let directives: Vec<String> = patch.keys().filter(|key| key.starts_with(ELEMENT_ORDER)).cloned().collect();
    for directive in directives {
        let name = &directive[ELEMENT_ORDER.len()..];
        let bad = || malformed("invalid patch format of setElementOrder list");
        let Some(Value::Array(order)) = patch.remove(&directive) else { return Err(bad()) };
        let field = at.field(name)?;
        let new = match patch.remove(name) {
            Some(Value::Array(new)) => Some(new),
            Some(Value::Null) => {
                original.remove(name);
                continue;
            }
            Some(other) => return Err(schema_error(format!("expected a slice, but received a {}", kind_of(&other)))),
            None => None,
        };
        let old = match original.remove(name) {
            Some(Value::Array(old)) => Some(old),
            Some(other) => return Err(schema_error(format!("expected a slice, but received a {}", kind_of(&other)))),
            None => None,
        };
        check_order(new.as_deref().unwrap_or_default(), &order, field.merge_key)?;
        let server_order = old.clone().unwrap_or_default();
        let merged = match (old, new) {
            (Some(old), None) => old,
            (None, Some(new)) => clean_list(new),
            (Some(old), Some(new)) => merge_or_replace(old, new, &field)?,
            (None, None) => continue,
        };
        let sorted = sort_items(merged, &order, &server_order, field.merge_key)?;
        original.insert(name.to_owned(), Value::Array(sorted));
    }
    Ok(())
}

/// Refuses a patch list whose items do not follow the order list.
fn check_order(new: &[Value], order: &[Value], merge_key: &str) -> Result<(), Error> {
    let mut expected = new.iter().filter(|item| item.get(DIRECTIVE).is_none()).peekable();
    for item in order {
        if expected.peek().is_some_and(|next| same_item(next, item, merge_key)) {
            expected.next();
        }
    }
    match expected.peek() {
        None => Ok(()),
        Some(_) => Err(schema_error(format!(
            "The order in patch list:\n{}\n doesn't match {ELEMENT_ORDER} list:\n{}\n",
            Value::from(new),
            Value::from(order)
        ))),
    }
}

fn merge_or_replace(old: Vec<Value>, new: Vec<Value>, field: &Field<'_>) -> Result<Vec<Value>, Error> {
    if field.strategy.merges() { merge_list(old, new, field) } else { Ok(clean_list(new)) }
}

fn merge_list(old: Vec<Value>, new: Vec<Value>, field: &Field<'_>) -> Result<Vec<Value>, Error> {
    let Some(kind) = item_kind(&old, &new)? else { return Ok(old) };
    let (merged, order, server_order) = if kind == "map" {
        if field.merge_key.is_empty() {
            return Err(schema_error("cannot merge lists without merge key"));
        }
        let (old, new) = apply_item_directives(old, new, field.merge_key)?;
        (merge_items(&old, &new, field)?, new, old)
    } else {
        let mut merged: Vec<Value> = Vec::with_capacity(old.len() + new.len());
        for item in old.iter().chain(&new) {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        (merged, new, old)
    };
    sort_items(merged, &order, &server_order, field.merge_key)
}

/// The one kind that all items have; none where there are no items.
fn item_kind(old: &[Value], new: &[Value]) -> Result<Option<&'static str>, Error> {
    let mut kind = None;
    for item in old.iter().chain(new) {
        let this = kind_of(item);
        if this == "slice" {
            return Err(Error::DoesNotApply("lists of lists are not supported".to_owned()));
        }
        match kind {
            Some(kind) if kind != this => {
                return Err(schema_error(format!("list element types are not identical: {kind} and {this}")));
            }
            _ => kind = Some(this),
        }
    }
    Ok(kind)
}

/// Carries out the items that are directives; returns what is left of both lists.
fn apply_item_directives(
    mut old: Vec<Value>,
    new: Vec<Value>,
    merge_key: &str,
) -> Result<(Vec<Value>, Vec<Value>), Error> {
    let (mut items, mut replace) = (Vec::with_capacity(new.len()), false);
    for item in new {
        match item.get(DIRECTIVE).map(Value::as_str) {
            None => items.push(item),
            Some(Some("delete")) => {
                let key = item.get(merge_key).ok_or_else(|| no_merge_key(&item, merge_key))?;
                old.retain(|old| old.get(merge_key) != Some(key));
            }
            Some(Some("replace")) => replace = true,
            Some(Some("merge")) => return Err(schema_error("merging lists cannot yet be specified in the patch")),
            Some(_) => return Err(schema_error(format!("unknown patch type: {} in map: {item}", item[DIRECTIVE]))),
        }
    }
    Ok(if replace { (clean_list(items), Vec::new()) } else { (old, items) })
}

fn no_merge_key(item: &Value, merge_key: &str) -> Error {
    schema_error(format!("map: {item} does not contain declared merge key: {merge_key}"))
}

fn merge_items(old: &[Value], new: &[Value], field: &Field<'_>) -> Result<Vec<Value>, Error> {
    let mut merged = old.to_vec();
    for item in new {
        let Value::Object(item) = item else { continue };
        let key =
            item.get(field.merge_key).ok_or_else(|| no_merge_key(&Value::Object(item.clone()), field.merge_key))?;
        match merged.iter_mut().find(|old| old.get(field.merge_key) == Some(key)) {
            Some(slot) => {
                let Value::Object(old) = slot.take() else { continue };
                *slot = Value::Object(merge_map(old, item.clone(), field.inside)?);
            }
            None => merged.push(Value::Object(clean_map(item.clone()))),
        }
    }
    Ok(merged)
}

/// Puts the items that `order` names in its order, and the others among them as they stood in `server_order`.
fn sort_items(
    merged: Vec<Value>,
    order: &[Value],
    server_order: &[Value],
    merge_key: &str,
) -> Result<Vec<Value>, Error> {
    if !merge_key.is_empty()
        && let Some(item) = merged.iter().chain(order).find(|item| item.get(merge_key).is_none())
    {
        return Err(no_merge_key(item, merge_key));
    }
    let place = |list: &[Value], item: &Value| list.iter().position(|other| same_item(other, item, merge_key));
    let (mut ordered, server_only): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| place(order, item).is_some());
    ordered.sort_by_key(|item| place(order, item));
    let mut sorted = Vec::with_capacity(ordered.len() + server_only.len());
    let (mut left, mut right) = (server_only.into_iter().peekable(), ordered.into_iter().peekable());
    while let (Some(server), Some(patched)) = (left.peek(), right.peek()) {
        let server_first = match (place(server_order, server), place(server_order, patched)) {
            (Some(server), Some(patched)) => server.cmp(&patched) == Ordering::Less,
            _ => false,
        };
        sorted.extend(if server_first { left.next() } else { right.next() });
    }
    sorted.extend(right);
    sorted.extend(left);
    Ok(sorted)
}

/// True where two list items stand for the same thing.
fn same_item(a: &Value, b: &Value, merge_key: &str) -> bool {
    if merge_key.is_empty() { a == b } else { a.get(merge_key).is_some() && a.get(merge_key) == b.get(merge_key) }
}

/// A value that the original did not have, without nulls and directives; none where a directive deletes it.
fn clean(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.get(DIRECTIVE).and_then(Value::as_str) == Some("delete") => None,
        Value::Object(map) => Some(Value::Object(clean_map(map))),
        Value::Array(list) => Some(Value::Array(clean_list(list))),
        other => Some(other),
    }
}

fn clean_map(map: Object) -> Object {
    let is_directive = |key: &str| {
        key == DIRECTIVE || key == RETAIN_KEYS || key.starts_with(DELETE_FROM) || key.starts_with(ELEMENT_ORDER)
    };
    map.into_iter()
        .filter(|(key, value)| !value.is_null() && !is_directive(key))
        .filter_map(|(key, value)| clean(value).map(|value| (key, value)))
        .collect()
}

fn clean_list(list: Vec<Value>) -> Vec<Value> {
    let only_replaces = |item: &Value| {
        item.as_object()
            .is_some_and(|map| map.len() == 1 && map.get(DIRECTIVE).and_then(Value::as_str) == Some("replace"))
    };
    list.into_iter().filter(|item| !only_replaces(item)).filter_map(clean).collect()
}

#[cfg(test)]
mod tests;
