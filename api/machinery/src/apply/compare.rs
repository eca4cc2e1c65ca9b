//! What one document changes of another, as sets of fields. Source: structured-merge-diff's `typed/compare.go`.

use std::cmp::Ordering;

use super::path::{Element, Trail};
use super::schema::{ListType, MapType, Shape, TypeRef};
use super::set::Set;
use crate::tree::{Map, Value};

/// No field is in more than one of the sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    pub added: Set,
    pub modified: Set,
    pub removed: Set,
}

impl Comparison {
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// Leaves out what is not for the writer to say.
    pub(super) fn each(&mut self, filter: impl Fn(&mut Set)) {
        [&mut self.added, &mut self.modified, &mut self.removed].into_iter().for_each(filter);
    }
}

/// Compares two documents of one type.
pub fn compare(old: &Value<'_>, new: &Value<'_>, of: TypeRef<'_>) -> Result<Comparison, String> {
    let mut walk = Walk { found: Comparison::default() };
    walk.values(Some(old), Some(new), of, Trail::Root)?;
    Ok(walk.found)
}

struct Walk {
    found: Comparison,
}

type Found = Result<(), String>;

impl Walk {
    fn values(&mut self, old: Option<&Value<'_>>, new: Option<&Value<'_>>, of: TypeRef<'_>, at: Trail<'_>) -> Found {
        let ty = of.get();
        let (old_shape, new_shape) = (ty.shape_of(old), ty.shape_of(new));
        let mut leaf = false;
        match (old, new) {
            (None, None) => return Ok(()),
            (_, None) => leaf |= self.shaped(&old_shape, old, new, of, at)?,
            (None, _) => leaf |= self.shaped(&new_shape, old, new, of, at)?,
            (Some(_), Some(_)) if same_form(&old_shape, &new_shape) => {
                leaf |= self.shaped(&new_shape, old, new, of, at)?;
            }
            // Taken in two forms: each is compared in its own, where the other is no more than absent.
            (Some(_), Some(_)) => {
                self.shaped(&old_shape, old, new, of, at)?;
                leaf |= self.shaped(&new_shape, old, new, of, at)?;
            }
        }
        if !leaf {
            match (old, new) {
                (None, _) => self.found.added.insert(&at.path()),
                (_, None) => self.found.removed.insert(&at.path()),
                _ => {}
            }
        }
        Ok(())
    }

    /// True where the two have been compared as a whole.
    fn shaped(
        &mut self,
        shape: &Shape<'_>,
        old: Option<&Value<'_>>,
        new: Option<&Value<'_>>,
        of: TypeRef<'_>,
        at: Trail<'_>,
    ) -> Result<bool, String> {
        match shape {
            Shape::Scalar(_) | Shape::None => self.leaf(old, new, at),
            Shape::Map(map) => {
                let (old_map, new_map) = (old.and_then(Value::as_map), new.and_then(Value::as_map));
                let is_empty = |map: Option<&Map<'_>>| map.is_none_or(Map::is_empty);
                if map.atomic || (is_empty(old_map) && is_empty(new_map)) {
                    self.leaf(old, new, at);
                } else {
                    self.maps(map, old_map, new_map, of, at)?;
                    return Ok(false);
                }
            }
            Shape::List(list) => {
                let (old_list, new_list) = (old.and_then(Value::as_list), new.and_then(Value::as_list));
                let is_empty = |list: Option<&[Value<'_>]>| list.is_none_or(<[_]>::is_empty);
                if list.is_atomic() || (is_empty(old_list) && is_empty(new_list)) {
                    self.leaf(old, new, at);
                } else if old_list != new_list {
                    self.lists(list, old_list.unwrap_or_default(), new_list.unwrap_or_default(), of, at)?;
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn leaf(&mut self, old: Option<&Value<'_>>, new: Option<&Value<'_>>, at: Trail<'_>) {
        match (old, new) {
            (None, _) => self.found.added.insert(&at.path()),
            (_, None) => self.found.removed.insert(&at.path()),
            (Some(old), Some(new)) if old != new => self.found.modified.insert(&at.path()),
            _ => {}
        }
    }

    fn maps(
        &mut self,
        map: &MapType,
        old: Option<&Map<'_>>,
        new: Option<&Map<'_>>,
        of: TypeRef<'_>,
        at: Trail<'_>,
    ) -> Found {
        let mut olds = old.into_iter().flat_map(Map::iter).peekable();
        let mut news = new.into_iter().flat_map(Map::iter).peekable();
        loop {
            let order = match (olds.peek(), news.peek()) {
                (None, None) => return Ok(()),
                (Some((a, _)), Some((b, _))) => a.cmp(b),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
            };
            let old_field = if order.is_le() { olds.next() } else { None };
            let new_field = if order.is_ge() { news.next() } else { None };
            let Some((name, _)) = old_field.or(new_field) else { return Ok(()) };
            let (old_value, new_value) = (old_field.map(|(_, value)| value), new_field.map(|(_, value)| value));
            let field = map.field(name);
            let child = map.child(name).map_or(TypeRef::deduced(), |id| of.to(id));
            let always = field.is_some_and(|field| field.always);
            let (old_value, new_value) = match (old_value, new_value) {
                (None, new_value) if always && old.is_some() => (Some(&ABSENT), new_value),
                (old_value, None) if always && new.is_some() => (old_value, Some(&ABSENT)),
                both => both,
            };
            self.values(old_value, new_value, child, Trail::Field(&at, name))?;
        }
    }

    fn lists(
        &mut self,
        list: &ListType,
        old: &[Value<'_>],
        new: &[Value<'_>],
        of: TypeRef<'_>,
        at: Trail<'_>,
    ) -> Found {
        let (olds, news) = (by_element(list, old, of)?, by_element(list, new, of)?);
        let (mut olds, mut news) = (olds.iter().peekable(), news.iter().peekable());
        loop {
            let order = match (olds.peek(), news.peek()) {
                (None, None) => return Ok(()),
                (Some(a), Some(b)) => a.0.cmp(&b.0),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
            };
            let old = if order.is_le() { olds.next() } else { None };
            let new = if order.is_ge() { news.next() } else { None };
            let Some((element, _)) = old.or(new) else { return Ok(()) };
            let (old, new) = (old.map_or(&[][..], |(_, items)| items), new.map_or(&[][..], |(_, items)| items));
            self.items(old, new, of.to(list.item), Trail::Item(&at, element))?;
        }
    }

    /// Items that share an element; more than one on a side are duplicates, which are owned together.
    fn items(&mut self, old: &[&Value<'_>], new: &[&Value<'_>], of: TypeRef<'_>, at: Trail<'_>) -> Found {
        match (old, new) {
            ([] | [_], [] | [_]) => self.values(old.first().copied(), new.first().copied(), of, at),
            ([_, _, ..], [_, _, ..]) => {
                if old != new {
                    self.found.modified.insert(&at.path());
                }
                Ok(())
            }
            ([_, _, ..], _) => {
                if let Some(new) = new.first() {
                    self.values(None, Some(new), of, at)?;
                }
                self.found.removed.insert(&at.path());
                Ok(())
            }
            (_, _) => {
                if let Some(old) = old.first() {
                    self.values(Some(old), None, of, at)?;
                }
                self.found.added.insert(&at.path());
                Ok(())
            }
        }
    }
}

/// What Go has in place of a struct or list that JSON leaves out.
static ABSENT: Value<'static> = Value::Map(Map::new());

fn same_form(a: &Shape<'_>, b: &Shape<'_>) -> bool {
    std::mem::discriminant(a) == std::mem::discriminant(b)
}

/// The items of a list by element, sorted, duplicates together.
type ByElement<'v, 'a> = Vec<(Element, Vec<&'v Value<'a>>)>;

fn by_element<'v, 'a>(list: &ListType, items: &'v [Value<'a>], of: TypeRef<'_>) -> Result<ByElement<'v, 'a>, String> {
    let mut found: ByElement<'v, 'a> = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let element = list.element(item, of).map_err(|why| format!("element {index}: {why}"))?;
        found.push((element, vec![item]));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found.dedup_by(|later, first| {
        let same = later.0 == first.0;
        if same {
            first.1.append(&mut later.1);
        }
        same
    });
    Ok(found)
}
