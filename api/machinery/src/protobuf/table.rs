//! The table: types and their fields, as generated.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::names::{Known, Names};
use super::special::Special;
use crate::schema::go;

/// A line that starts a type has its name; the lines below it a number, a name in JSON, a label, a kind, a type.
/// One that comes again has more fields.
const TEXT: &str =
    concat!(include_str!("table.txt"), "\n", include_str!("partial.txt"), "\n", include_str!("newer.txt"));

#[derive(Debug)]
pub(super) struct Table {
    types: Vec<Type>,
    by_name: HashMap<&'static str, usize>,
}

#[derive(Debug)]
pub(super) struct Type {
    /// Without `io.k8s.`.
    pub name: &'static str,
    pub special: Option<Special>,
    /// By number.
    pub fields: Vec<Field>,
    pub names: Names,
}

#[derive(Debug)]
pub(super) struct Field {
    pub number: u32,
    pub json: &'static str,
    pub label: Label,
    pub kind: Kind,
    /// A zero on the wire is a zero in JSON, and not an absent field.
    pub keeps_zero: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Label {
    One,
    Repeated,
    Map,
    /// A message whose fields stand in the parent's JSON.
    Inline,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    String,
    Bytes,
    Bool,
    Int32,
    Int64,
    Double,
    /// Bytes that are JSON.
    Json,
    Message(usize),
}

impl Table {
    pub fn named(&self, name: &str) -> Option<&Type> {
        self.by_name.get(name).map(|&index| &self.types[index])
    }

    pub fn at(&self, index: usize) -> &Type {
        &self.types[index]
    }

    #[cfg(test)]
    pub fn types(&self) -> &[Type] {
        &self.types
    }
}

impl Type {
    pub fn field(&self, number: u32) -> Option<&Field> {
        self.fields.binary_search_by_key(&number, |field| field.number).ok().map(|at| &self.fields[at])
    }

    /// A field of its own; those of an inline field are the inner type's.
    pub fn by_json(&self, json: &str) -> Option<&Field> {
        let known = self.names.find(json.as_bytes()).filter(|known| !known.inner)?;
        self.fields.get(usize::from(known.at))
    }
}

pub(super) fn table() -> &'static Table {
    static TABLE: LazyLock<Table> = LazyLock::new(|| parse(TEXT));
    &TABLE
}

fn parse(text: &'static str) -> Table {
    let lines = || text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut types: Vec<Type> = Vec::new();
    let mut by_name: HashMap<&'static str, usize> = HashMap::new();
    for name in lines().filter(|line| !line.starts_with(' ')) {
        by_name.entry(name).or_insert_with(|| {
            types.push(Type { name, special: Special::of(name), fields: Vec::new(), names: Names::default() });
            types.len() - 1
        });
    }
    let mut owner = None;
    for line in lines() {
        let Some(line) = line.strip_prefix(' ') else {
            owner = by_name.get(line).copied();
            continue;
        };
        let Some(owner) = owner.map(|owner| &mut types[owner]) else { continue };
        let field = field(line, owner, &by_name);
        owner.fields.push(field);
    }
    types.iter_mut().for_each(|owner| owner.fields.sort_by_key(|field| field.number));
    let names: Vec<Names> = types.iter().map(|ty| Names::new(known(ty, &types))).collect();
    for (ty, names) in types.iter_mut().zip(names) {
        ty.names = names;
    }
    Table { types, by_name }
}

/// What the JSON of a type's objects may have: its own fields, and for an inline one those of the inner type.
fn known(ty: &Type, types: &[Type]) -> Vec<Known> {
    let mut all = Vec::with_capacity(ty.fields.len());
    for (field, at) in ty.fields.iter().zip(0..) {
        match (field.label, field.kind) {
            (Label::Inline, Kind::Message(inner)) => {
                all.extend(known(&types[inner], types).into_iter().map(|known| Known { at, inner: true, ..known }));
            }
            _ => all.push(Known { json: field.json, at, inner: false }),
        }
    }
    all
}

/// The table is part of the program: a line that cannot be read is a defect that every test meets.
fn field(line: &'static str, owner: &Type, by_name: &HashMap<&'static str, usize>) -> Field {
    let mut words = line.split(' ');
    let mut word = || words.next().unwrap_or_default();
    let number = word().parse().expect("a field's number");
    let json = word();
    let label = match word() {
        "one" => Label::One,
        "repeated" => Label::Repeated,
        "map" => Label::Map,
        "inline" => Label::Inline,
        other => unreachable!("label {other:?} in the table"),
    };
    let kind = match word() {
        "string" => Kind::String,
        "bytes" if owner.special == Some(Special::Json) => Kind::Json,
        "bytes" => Kind::Bytes,
        "bool" => Kind::Bool,
        "int32" => Kind::Int32,
        "int64" => Kind::Int64,
        "double" => Kind::Double,
        "message" => Kind::Message(by_name[word()]),
        other => unreachable!("kind {other:?} in the table"),
    };
    let said = go::field(owner.name, json);
    let keeps_zero = match kind {
        Kind::String | Kind::Bytes => said.optional_text,
        _ => !said.plain,
    };
    Field { number, json, label, kind, keeps_zero }
}
