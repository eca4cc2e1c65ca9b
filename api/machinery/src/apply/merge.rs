//! Putting one document over another, and taking fields out of one.
//!
//! Source: structured-merge-diff's `typed/merge.go` and `typed/remove.go`. A merge takes nothing away; where both have a
//! leaf, the second's stays. Items of sets and maps keep the first document's order, with the second's own before those
//! that follow them, as upstream weaves them.

use std::collections::{BTreeMap, BTreeSet};

use super::path::{Element, cow};
use super::schema::{ListType, MapType, Shape, TypeRef};
use super::set::Set;
use crate::tree::{Map, Value};

/// Puts `over` on top of `base`.
pub fn merge<'a>(base: &Value<'a>, over: &Value<'a>, of: TypeRef<'_>) -> Result<Value<'a>, String> {
    Ok(merged(Some(base), Some(over), of)?.unwrap_or_default())
}

fn merged<'a>(
    base: Option<&Value<'a>>,
    over: Option<&Value<'a>>,
    of: TypeRef<'_>,
) -> Result<Option<Value<'a>>, String> {
    let ty = of.get();
    let whole = || Ok(over.or(base).cloned());
    match ty.shape_of(if over.is_some() { over } else { base }) {
        Shape::Scalar(_) | Shape::None => whole(),
        Shape::Map(map) => {
            let (base_map, over_map) = (base.and_then(Value::as_map), over.and_then(Value::as_map));
            let is_empty = |map: Option<&Map<'_>>| map.is_none_or(Map::is_empty);
            if map.atomic || (is_empty(base_map) && is_empty(over_map)) {
                return whole();
            }
            merge_maps(map, base_map, over_map, of)
        }
        Shape::List(list) => {
            let (base_list, over_list) = (base.and_then(Value::as_list), over.and_then(Value::as_list));
            let is_empty = |list: Option<&[Value<'_>]>| list.is_none_or(<[_]>::is_empty);
            if list.is_atomic() || (is_empty(base_list) && is_empty(over_list)) {
                return whole();
            }
            merge_lists(list, base_list.unwrap_or_default(), over_list.unwrap_or_default(), of)
        }
    }
}

fn child_of<'s>(map: &MapType, name: &str, of: TypeRef<'s>) -> TypeRef<'s> {
    map.child(name).map_or(TypeRef::deduced(), |id| of.to(id))
}

fn merge_maps<'a>(
    map: &MapType,
    base: Option<&Map<'a>>,
    over: Option<&Map<'a>>,
    of: TypeRef<'_>,
) -> Result<Option<Value<'a>>, String> {
    let mut fields = Vec::new();
    for (name, base_value) in base.map(Map::entries).unwrap_or_default() {
        let over_value = over.and_then(|over| over.get(name));
        if let Some(value) =
            merged(Some(base_value), over_value, child_of(map, name, of)).map_err(|why| at(name, &why))?
        {
            fields.push((name.clone(), value));
        }
    }
    for (name, over_value) in over.map(Map::entries).unwrap_or_default() {
        if base.is_some_and(|base| base.get(name).is_some()) {
            continue;
        }
        if let Some(value) = merged(None, Some(over_value), child_of(map, name, of)).map_err(|why| at(name, &why))? {
            fields.push((name.clone(), value));
        }
    }
    Ok((!fields.is_empty()).then(|| fields.into_iter().collect()))
}

fn at(name: &str, why: &str) -> String {
    format!(".{name}{}{why}", if why.starts_with(['.', '[']) { "" } else { ": " })
}

/// Weaves two lists into one.
fn merge_lists<'a>(
    list: &ListType,
    base: &[Value<'a>],
    over: &[Value<'a>],
    of: TypeRef<'_>,
) -> Result<Option<Value<'a>>, String> {
    let elements = |items: &[Value<'_>]| -> Result<Vec<Element>, String> {
        let element = |(index, item)| list.element(item, of).map_err(|why| format!("element {index}: {why}"));
        items.iter().enumerate().map(element).collect()
    };
    let (bases, overs) = (elements(base)?, elements(over)?);
    let mut over_by: BTreeMap<&Element, &Value<'a>> = BTreeMap::new();
    for (element, item) in overs.iter().zip(over) {
        if over_by.insert(element, item).is_some() {
            return Err(format!("duplicate entries for key {element}"));
        }
    }
    // Duplicates of the base are merged with nothing.
    let null = Value::Null;
    let mut base_by: BTreeMap<&Element, &Value<'a>> = BTreeMap::new();
    for (element, item) in bases.iter().zip(base) {
        base_by.entry(element).and_modify(|held| *held = &null).or_insert(item);
    }
    let item = of.to(list.item);
    let mut shared = overs.iter().filter(|element| base_by.contains_key(element));
    let mut next_shared = shared.next();
    let mut done: BTreeSet<&Element> = BTreeSet::new();
    let mut out = Vec::with_capacity(bases.len().max(overs.len()));
    let (mut b, mut o) = (0, 0);
    while b < bases.len() || o < overs.len() {
        if let (Some(element), Some(over_element)) = (bases.get(b), overs.get(o)) {
            if element == over_element {
                done.insert(element);
                out.extend(merged(base_by.get(element).copied(), over_by.get(element).copied(), item)?);
                (b, o) = (b + 1, o + 1);
                next_shared = shared.next();
                continue;
            }
            if over_by.contains_key(element) && next_shared.is_some_and(|next| next != element) {
                // Shared, but not the one whose turn it is.
                b += 1;
                continue;
            }
        }
        if let Some(element) = bases.get(b) {
            if !over_by.contains_key(element) {
                out.extend(merged(base.get(b), None, item)?);
                b += 1;
                continue;
            }
            if done.contains(element) {
                b += 1;
            }
        }
        if let Some(element) = overs.get(o) {
            done.insert(element);
            out.extend(merged(base_by.get(element).copied(), over_by.get(element).copied(), item)?);
            o += 1;
            if next_shared == Some(element) {
                next_shared = shared.next();
            }
        }
    }
    Ok((!out.is_empty()).then_some(Value::List(out)))
}

/// The document without the fields and items of a set.
pub fn without<'a>(value: &Value<'a>, fields: &Set, of: TypeRef<'_>) -> Value<'a> {
    match (of.get().shape_of(Some(value)), value) {
        (Shape::Map(map), Value::Map(held)) if !map.atomic => {
            let mut kept = Vec::with_capacity(held.len());
            for (name, value) in held.entries() {
                let element = Element::Field((**name).into());
                if fields.has_member(&element) {
                    continue;
                }
                let value = match fields.below(&element) {
                    Some(below) => without(value, below, child_of(map, name, of)),
                    None => value.clone(),
                };
                kept.push((name.clone(), value));
            }
            if kept.is_empty() { Value::Null } else { kept.into_iter().collect() }
        }
        (Shape::List(list), Value::List(items)) if !list.is_atomic() => {
            let mut kept = Vec::with_capacity(items.len());
            for item in items {
                let Ok(element) = list.element(item, of) else { continue };
                if fields.has_member(&element) {
                    continue;
                }
                kept.push(match fields.below(&element) {
                    Some(below) => without(item, below, of.to(list.item)),
                    None => item.clone(),
                });
            }
            if kept.is_empty() { Value::Null } else { Value::List(kept) }
        }
        // A list or map that is owned as a whole has no fields to keep.
        (Shape::Map(_) | Shape::List(_), _) => Value::Null,
        _ => value.clone(),
    }
}

/// Puts `apiVersion` and `kind` on an object that has neither.
pub(super) fn with_type<'a>(api_version: &str, kind: &str) -> Value<'a> {
    let text = |text: &str| Value::String(cow(text));
    [(cow("apiVersion"), text(api_version)), (cow("kind"), text(kind))].into_iter().collect()
}
