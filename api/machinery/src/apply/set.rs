//! Sets of fields: who owns what is told by them.
//!
//! A set is a tree as its JSON form is: each node says whether it is in the set itself and what is in the set below it.
//! Invariants: nodes are sorted by element, and none is there that is neither a member nor has members below.
//! Source: structured-merge-diff's `fieldpath` (`set.go`, `serialize.go`).

use super::path::{Element, Path};
use super::schema::{Shape, Type, TypeRef};
use crate::tree::Value;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    nodes: Vec<Node>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    element: Element,
    /// True where the element itself is in the set.
    member: bool,
    below: Set,
}

impl Set {
    pub fn of(paths: &[&[&str]]) -> Self {
        let mut set = Self::default();
        paths.iter().for_each(|path| set.insert(&Path::fields(path).0));
        set
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    fn place(&self, element: &Element) -> Result<usize, usize> {
        self.nodes.binary_search_by(|node| node.element.cmp(element))
    }

    /// Adds the field at a path; the root itself is nobody's.
    pub fn insert(&mut self, path: &[Element]) {
        let [first, rest @ ..] = path else { return };
        let index = self.place(first).unwrap_or_else(|index| {
            self.nodes.insert(index, Node { element: first.clone(), member: false, below: Set::default() });
            index
        });
        let node = &mut self.nodes[index];
        if rest.is_empty() {
            node.member = true;
        } else {
            node.below.insert(rest);
        }
    }

    /// Adds a child that a walk has come to last. Children that come out of order are put in order.
    pub(super) fn push(&mut self, element: Element, member: bool, below: Set) {
        if !member && below.is_empty() {
            return;
        }
        let node = Node { element, member, below };
        if self.nodes.last().is_none_or(|last| last.element < node.element) {
            self.nodes.push(node);
            return;
        }
        match self.place(&node.element) {
            Err(index) => self.nodes.insert(index, node),
            Ok(index) => {
                self.nodes[index].member |= node.member;
                self.nodes[index].below.add(node.below);
            }
        }
    }

    pub fn has(&self, path: &[Element]) -> bool {
        match path {
            [] => false,
            [last] => self.place(last).is_ok_and(|index| self.nodes[index].member),
            [first, rest @ ..] => self.place(first).is_ok_and(|index| self.nodes[index].below.has(rest)),
        }
    }

    pub(super) fn has_member(&self, element: &Element) -> bool {
        self.place(element).is_ok_and(|index| self.nodes[index].member)
    }

    /// What is in the set below an element.
    pub(super) fn below(&self, element: &Element) -> Option<&Set> {
        let node = &self.nodes[self.place(element).ok()?];
        (!node.below.is_empty()).then_some(&node.below)
    }

    /// Each child with whether it is a member and what is below it.
    pub(super) fn children(&self) -> impl Iterator<Item = (&Element, bool, &Set)> {
        self.nodes.iter().map(|node| (&node.element, node.member, &node.below))
    }

    /// Adds everything that is in `other`.
    pub fn add(&mut self, other: Set) {
        if self.is_empty() {
            self.nodes = other.nodes;
            return;
        }
        for node in other.nodes {
            match self.place(&node.element) {
                Err(index) => self.nodes.insert(index, node),
                Ok(index) => {
                    self.nodes[index].member |= node.member;
                    self.nodes[index].below.add(node.below);
                }
            }
        }
    }

    #[must_use]
    pub fn union(mut self, other: &Set) -> Set {
        self.add(other.clone());
        self
    }

    /// Adds what is in `other`, below a path.
    pub(super) fn add_below(&mut self, path: &[Element], other: Set) {
        match path {
            [] => self.add(other),
            [first, rest @ ..] => {
                let mut below = Set::default();
                below.add_below(rest, other);
                self.add(Set { nodes: vec![Node { element: first.clone(), member: false, below }] });
            }
        }
        self.nodes.retain(|node| node.member || !node.below.is_empty());
    }

    /// What both sets hold.
    #[must_use]
    pub fn intersection(&self, other: &Set) -> Set {
        let mut both = Set::default();
        for node in &self.nodes {
            if let Ok(index) = other.place(&node.element) {
                let peer = &other.nodes[index];
                both.push(node.element.clone(), node.member && peer.member, node.below.intersection(&peer.below));
            }
        }
        both
    }

    /// Takes out what is in `other`, field by field: a parent goes without its children.
    pub fn remove(&mut self, other: &Set) {
        self.prune(other, false);
    }

    /// Takes out what is in `other`, and everything below it.
    pub fn remove_with_children(&mut self, other: &Set) {
        self.prune(other, true);
    }

    fn prune(&mut self, other: &Set, with_children: bool) {
        if other.is_empty() {
            return;
        }
        self.nodes.retain_mut(|node| {
            let Ok(index) = other.place(&node.element) else { return true };
            let peer = &other.nodes[index];
            if peer.member && with_children {
                return false;
            }
            node.member &= !peer.member;
            node.below.prune(&peer.below, with_children);
            node.member || !node.below.is_empty()
        });
    }

    /// The set without what is in `other`.
    #[must_use]
    pub fn difference(&self, other: &Set) -> Set {
        let mut rest = self.clone();
        rest.remove(other);
        rest
    }

    /// The set and every named field of an object on the way to its members. Keys of maps and list items are not named.
    #[must_use]
    pub(super) fn with_named_fields(&self, of: TypeRef<'_>) -> Set {
        let shape = of.get();
        let nodes = self.nodes.iter().map(|node| {
            let (named, inside) = match (&node.element, &shape.map, &shape.list) {
                (Element::Field(name), Some(map), _) => {
                    (map.field(name).is_some(), map.child(name).map(|id| of.to(id)))
                }
                (Element::Key(_) | Element::Value(_), _, Some(list)) => (false, Some(of.to(list.item))),
                _ => (false, None),
            };
            Node {
                element: node.element.clone(),
                member: node.member || (named && !node.below.is_empty()),
                below: inside.map_or_else(|| node.below.clone(), |inside| node.below.with_named_fields(inside)),
            }
        });
        Set { nodes: nodes.collect() }
    }

    /// Each member's path: the members of a level before those below them, as upstream lists conflicts.
    pub fn paths(&self) -> Vec<Path> {
        let mut paths = Vec::new();
        self.collect(&mut Vec::new(), &mut paths);
        paths
    }

    fn collect(&self, prefix: &mut Vec<Element>, paths: &mut Vec<Path>) {
        for node in self.nodes.iter().filter(|node| node.member) {
            let mut path = prefix.clone();
            path.push(node.element.clone());
            paths.push(Path(path));
        }
        for node in &self.nodes {
            prefix.push(node.element.clone());
            node.below.collect(prefix, paths);
            prefix.pop();
        }
    }

    /// The paths below which only what an include filter names is kept.
    #[must_use]
    pub fn only(&self, wanted: &Set) -> Set {
        let mut kept = Set::default();
        for node in &self.nodes {
            let Ok(index) = wanted.place(&node.element) else { continue };
            let peer = &wanted.nodes[index];
            if peer.member {
                kept.nodes.push(node.clone());
            } else {
                kept.push(node.element.clone(), false, node.below.only(&peer.below));
            }
        }
        kept
    }

    /// Appends the set as `fieldsV1`.
    pub fn write(&self, out: &mut String) {
        self.write_with(false, out, &mut String::new());
    }

    fn write_with(&self, is_member: bool, out: &mut String, scratch: &mut String) {
        out.push('{');
        let mut first = true;
        if is_member && !self.is_empty() {
            out.push_str(r#"".":{}"#);
            first = false;
        }
        for node in &self.nodes {
            if !first {
                out.push(',');
            }
            first = false;
            scratch.clear();
            node.element.write(scratch);
            write_string(out, scratch);
            out.push(':');
            node.below.write_with(node.member, out, scratch);
        }
        out.push('}');
    }

    /// Reads `fieldsV1`.
    pub fn read(fields: &Value<'_>) -> Result<Set, String> {
        Ok(read_node(fields)?.1)
    }
}

/// Whether the node itself is a member, and what is below it.
fn read_node(fields: &Value<'_>) -> Result<(bool, Set), String> {
    let map = match fields {
        Value::Null => return Ok((true, Set::default())),
        Value::Map(map) => map,
        _ => return Err("a set of fields is an object".to_owned()),
    };
    let (mut member, mut set) = (false, Set::default());
    for (key, value) in map.iter() {
        if key == "." {
            member = true;
            continue;
        }
        if let Some(element) = Element::read(key)? {
            let (child_is_member, below) = read_node(value)?;
            set.push(element, child_is_member, below);
        }
    }
    Ok((member || set.is_empty(), set))
}

/// A JSON string; nearly all need no escape.
fn write_string(out: &mut String, text: &str) {
    if text.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        out.push_str(&serde_json::to_string(text).unwrap_or_default());
        return;
    }
    out.push('"');
    out.push_str(text);
    out.push('"');
}

/// Every field that a document mentions.
pub(super) fn mentioned(value: &Value<'_>, of: TypeRef<'_>) -> Result<Set, String> {
    let mut set = Set::default();
    fields_of(value, of, &mut set)?;
    Ok(set)
}

/// Adds what is below `value`; true where the value itself is owned as one.
fn fields_of(value: &Value<'_>, of: TypeRef<'_>, out: &mut Set) -> Result<bool, String> {
    let ty: &Type = of.get();
    match (ty.shape_of(Some(value)), value) {
        (Shape::Scalar(_) | Shape::None, _) => return Ok(true),
        (Shape::Map(map), _) if map.atomic => return Ok(true),
        (Shape::List(list), _) if list.is_atomic() => return Ok(true),
        (Shape::Map(map), Value::Map(fields)) => {
            for (name, value) in fields.iter() {
                let mut below = Set::default();
                let child = map.child(name).map_or(TypeRef::deduced(), |id| of.to(id));
                let whole = fields_of(value, child, &mut below)?;
                let empty = value.is_null() || value.as_map().is_some_and(|map| map.is_empty());
                out.push(Element::field(name), whole || empty || map.field(name).is_none(), below);
            }
        }
        (Shape::List(list), Value::List(items)) => {
            let mut elements = Vec::with_capacity(items.len());
            for item in items {
                elements.push(list.element(item, of)?);
            }
            let mut sorted: Vec<&Element> = elements.iter().collect();
            sorted.sort();
            for (item, element) in items.iter().zip(&elements) {
                let mut below = Set::default();
                let first = sorted.partition_point(|other| *other < element);
                let is_duplicate = sorted.get(first + 1) == Some(&element);
                if !is_duplicate {
                    fields_of(item, of.to(list.item), &mut below)?;
                }
                out.push(element.clone(), true, below);
            }
        }
        _ => {}
    }
    Ok(false)
}
