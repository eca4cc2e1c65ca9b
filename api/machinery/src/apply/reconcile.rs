//! Field sets that were written before a schema changed: what was owned as a whole is owned field by field, or the reverse.
//!
//! Source: structured-merge-diff's `typed/reconcile_schema.go`. Only custom resources change their schema under their objects.

use super::path::Element;
use super::schema::{Shape, TypeRef};
use super::set::{Set, mentioned};
use crate::tree::Value;

/// The set as it is under the schema of `live`; none where it is as it was.
pub(super) fn reconcile(fields: &Set, live: &Value<'_>, of: TypeRef<'_>) -> Result<Option<Set>, String> {
    if of.is_deduced() {
        return Ok(None);
    }
    let mut found = Found { all: mentioned(live, of)?, to_remove: Set::default(), to_add: Set::default() };
    found.walk(Some(fields), false, &mut Vec::new(), of);
    if found.to_remove.is_empty() && found.to_add.is_empty() {
        return Ok(None);
    }
    let mut reconciled = fields.clone();
    reconciled.remove_with_children(&found.to_remove);
    reconciled.add(found.to_add);
    Ok(Some(reconciled))
}

struct Found {
    /// Every field of the live object.
    all: Set,
    to_remove: Set,
    to_add: Set,
}

impl Found {
    /// `whole` is true where the set holds the place itself and nothing below it.
    fn walk(&mut self, fields: Option<&Set>, whole: bool, at: &mut Vec<Element>, of: TypeRef<'_>) {
        let (atomic, is_list) = match of.get().shape_of(None) {
            Shape::Map(map) => (map.atomic, false),
            Shape::List(list) => (list.is_atomic(), true),
            Shape::Scalar(_) | Shape::None => return,
        };
        if !whole && atomic {
            if is_list || fields.is_some_and(|fields| !fields.is_empty()) {
                self.to_remove.insert(at);
                self.to_add.insert(at);
            }
            return;
        }
        if whole && !atomic {
            self.to_add.insert(at);
            let below = at.iter().try_fold(&self.all, |set, element| set.below(element)).cloned();
            self.to_add.add_below(at, below.unwrap_or_default());
        }
        for (element, member, below) in fields.into_iter().flat_map(Set::children) {
            let child = match (of.get().shape_of(None), element) {
                (Shape::Map(map), Element::Field(name)) => map.child(name),
                (Shape::List(list), _) => Some(list.item),
                _ => None,
            };
            let Some(child) = child else { continue };
            at.push(element.clone());
            let below = (!below.is_empty()).then_some(below);
            self.walk(below, member && below.is_none(), at, of.to(child));
            at.pop();
        }
    }
}
