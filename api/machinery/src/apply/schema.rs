//! What the merge must know of a kind: which lists are sets or maps and by what keys, which objects are owned as a whole.
//!
//! This is the seam: a [`Root`] is a type in a graph of types, and everything in this module works on one. Built-in kinds
//! get theirs with [`Root::built_in`], custom resources with [`Root::custom`] from their structural schema, and whatever has
//! no schema is [`Root::deduced`]: maps are granular, lists are owned as a whole.
//! Source: `k8s.io/kube-openapi/pkg/schemaconv`, structured-merge-diff's `schema` and `typed/parser.go`.

mod builder;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use serde_json::Value as Json;

use self::builder::Builder;
use super::path::{Element, Scalar};
use crate::schema::built;
use crate::tree::Value;

/// A type of a [`Schema`].
pub type TypeId = u32;

/// Maps are granular and lists atomic, all the way down.
const DEDUCED: TypeId = 0;
/// Everything is owned as one.
const UNTYPED_ATOMIC: TypeId = 1;

/// Types that refer to each other.
#[derive(Debug)]
pub struct Schema {
    types: Vec<Type>,
    /// True where a stored field set may have been written under another schema: custom resources.
    pub(super) may_have_changed: bool,
}

/// The type of whole objects of one kind.
#[derive(Clone, Debug)]
pub struct Root {
    schema: Arc<Schema>,
    id: TypeId,
}

/// A place in a schema.
#[derive(Clone, Copy, Debug)]
pub struct TypeRef<'s> {
    schema: &'s Schema,
    id: TypeId,
}

/// What may stand in a place. More than one is possible where the value decides.
#[derive(Clone, Debug, Default)]
pub(super) struct Type {
    pub scalar: Option<ScalarType>,
    pub list: Option<ListType>,
    pub map: Option<MapType>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScalarType {
    String,
    Number,
    Boolean,
    Untyped,
}

#[derive(Clone, Debug)]
pub(super) struct ListType {
    pub item: TypeId,
    pub kind: ListKind,
    /// Defaults of key fields that an item may leave out.
    defaults: Vec<(Box<str>, Scalar)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ListKind {
    Atomic,
    Set,
    Map(Vec<Box<str>>),
}

#[derive(Clone, Debug, Default)]
pub(super) struct MapType {
    fields: HashMap<Box<str>, Field>,
    /// The type of fields that are not named; none where there may be no others.
    values: Option<TypeId>,
    pub atomic: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Field {
    id: TypeId,
    default: Option<Scalar>,
    /// True for a struct or list that Go's encoder never leaves out, so that it does not come and go.
    pub always: bool,
}

/// A type as one value takes it.
pub(super) enum Shape<'s> {
    Map(&'s MapType),
    Scalar(ScalarType),
    List(&'s ListType),
    None,
}

impl Root {
    /// The type of a built-in kind, by its schema's name (see [`crate::schema::type_name`]).
    pub fn built_in(type_name: &str) -> Self {
        let Named { schema, by_name } = &built().merge;
        by_name.get(type_name).map_or_else(Self::deduced, |id| Self { schema: schema.clone(), id: *id })
    }

    /// The type of a kind without a schema.
    pub fn deduced() -> Self {
        static DEDUCED_ONLY: LazyLock<Arc<Schema>> = LazyLock::new(|| Builder::new(None).finish(false));
        Self { schema: DEDUCED_ONLY.clone(), id: DEDUCED }
    }

    /// The type of a custom resource, from the structural schema of one version.
    pub fn custom(structural: &Json, preserves_unknown_fields: bool) -> Self {
        let mut builder = Builder::new(None);
        let id = builder.embedded(structural, preserves_unknown_fields);
        Self { schema: builder.finish(true), id }
    }

    pub fn get(&self) -> TypeRef<'_> {
        TypeRef { schema: &self.schema, id: self.id }
    }
}

impl<'s> TypeRef<'s> {
    pub(super) fn get(self) -> &'s Type {
        &self.schema.types[self.id as usize]
    }

    pub(super) fn to(self, id: TypeId) -> Self {
        Self { schema: self.schema, id }
    }

    pub(super) fn is_deduced(self) -> bool {
        self.id == DEDUCED
    }

    pub(super) fn may_have_changed(self) -> bool {
        self.schema.may_have_changed
    }

    /// What a field that nobody declared is taken for.
    pub(super) fn deduced() -> TypeRef<'static> {
        static DEDUCED_ROOT: LazyLock<Root> = LazyLock::new(Root::deduced);
        DEDUCED_ROOT.get()
    }
}

impl Type {
    /// How a value is taken: by its own form where the type allows it, else as the first form that the type has.
    pub(super) fn shape_of(&self, value: Option<&Value<'_>>) -> Shape<'_> {
        let own = match value {
            Some(Value::Map(_)) => self.map.as_ref().map(Shape::Map),
            Some(Value::List(_)) => self.list.as_ref().map(Shape::List),
            Some(value) if value.is_scalar() => self.scalar.map(Shape::Scalar),
            _ => None,
        };
        own.or_else(|| self.map.as_ref().map(Shape::Map))
            .or_else(|| self.scalar.map(Shape::Scalar))
            .or_else(|| self.list.as_ref().map(Shape::List))
            .unwrap_or(Shape::None)
    }
}

impl MapType {
    pub(super) fn field(&self, name: &str) -> Option<&Field> {
        self.fields.get(name)
    }

    /// The type of a field, named or not; none if there can be no such field.
    pub(super) fn child(&self, name: &str) -> Option<TypeId> {
        self.fields.get(name).map(|field| field.id).or(self.values)
    }
}

impl ListType {
    pub(super) fn is_atomic(&self) -> bool {
        self.kind == ListKind::Atomic
    }

    /// What an item of a set or map is known by.
    pub(super) fn element(&self, item: &Value<'_>, of: TypeRef<'_>) -> Result<Element, String> {
        match &self.kind {
            ListKind::Atomic => Err("invalid indexing of non-associative list".to_owned()),
            ListKind::Set => match item {
                Value::Map(_) => Err("associative list without keys has an element that's a map type".to_owned()),
                Value::List(_) => Err("not supported: associative list with lists as elements".to_owned()),
                Value::Null => Err("associative list without keys has an element that's an explicit null".to_owned()),
                scalar => Ok(Element::Value(Scalar::from(scalar))),
            },
            ListKind::Map(keys) => {
                let map = match item {
                    Value::Map(map) => map,
                    Value::Null => return Err("associative list with keys may not have a null element".to_owned()),
                    _ => return Err("associative list with keys may not have non-map elements".to_owned()),
                };
                let mut fields = Vec::with_capacity(keys.len());
                for key in keys {
                    let value = match map.get(key) {
                        Some(value) => Scalar::from(value),
                        None => self.key_default(key, of).ok_or_else(|| {
                            format!("associative list with keys has an element that omits key field {key:?} (and doesn't have default value)")
                        })?,
                    };
                    fields.push((&**key, value));
                }
                Ok(Element::key(fields))
            }
        }
    }

    fn key_default(&self, key: &str, of: TypeRef<'_>) -> Option<Scalar> {
        let own = self.defaults.iter().find(|(name, _)| **name == *key).map(|(_, value)| value.clone());
        own.or_else(|| of.to(self.item).get().map.as_ref()?.field(key)?.default.clone())
    }
}

/// Types by name.
#[derive(Debug)]
pub(crate) struct Named {
    schema: Arc<Schema>,
    by_name: HashMap<Box<str>, TypeId>,
}

impl Named {
    /// The types of all built-in kinds.
    pub(crate) fn of(definitions: &BTreeMap<String, Json>) -> Self {
        let mut builder = Builder::new(Some(definitions));
        for name in definitions.keys() {
            builder.named(name);
        }
        let by_name = std::mem::take(&mut builder.by_name);
        Self { schema: builder.finish(false), by_name }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn walk<'s>(root: &'s Root, path: &[&str]) -> &'s Type {
        let mut at = root.get();
        for step in path {
            let ty = at.get();
            at = match (*step, &ty.list, &ty.map) {
                ("*", Some(list), _) => at.to(list.item),
                (name, _, Some(map)) => at.to(map.child(name).unwrap_or_else(|| panic!("no field {name}"))),
                (name, ..) => panic!("nothing at {name}"),
            };
        }
        at.get()
    }

    #[test]
    fn built_in_kinds_have_their_topologies() {
        let deployment = Root::built_in("io.k8s.api.apps.v1.Deployment");
        let list = |path: &[&str]| walk(&deployment, path).list.as_ref().expect("a list").kind.clone();
        let pod = ["spec", "template", "spec"];
        let of = |rest: &[&'static str]| [&pod[..], rest].concat();
        assert_eq!(list(&of(&["containers"])), ListKind::Map(vec!["name".into()]));
        assert_eq!(
            list(&of(&["containers", "*", "ports"])),
            ListKind::Map(vec!["containerPort".into(), "protocol".into()])
        );
        assert_eq!(list(&of(&["containers", "*", "args"])), ListKind::Atomic);
        assert_eq!(list(&["metadata", "finalizers"]), ListKind::Set);
        let map = |path: &[&str]| walk(&deployment, path).map.as_ref().expect("a map").atomic;
        assert!(map(&of(&["nodeSelector"])));
        assert!(map(&["spec", "selector"]));
        assert!(!map(&["metadata", "labels"]));
        assert!(!map(&["spec", "strategy"]));
        let scalar = |path: &[&str]| walk(&deployment, path).scalar;
        assert_eq!(scalar(&["spec", "replicas"]), Some(ScalarType::Number));
        assert_eq!(scalar(&of(&["containers", "*", "resources", "limits", "cpu"])), Some(ScalarType::Untyped));
        assert_eq!(scalar(&["spec", "strategy", "rollingUpdate", "maxSurge"]), Some(ScalarType::Untyped));
        assert_eq!(scalar(&["metadata", "creationTimestamp"]), Some(ScalarType::Untyped));
    }

    #[test]
    fn a_key_may_have_a_default() {
        let service = Root::built_in("io.k8s.api.core.v1.Service");
        let spec = service.get().to(service.get().get().map.as_ref().unwrap().child("spec").unwrap());
        let ports = spec.to(spec.get().map.as_ref().unwrap().child("ports").unwrap());
        let element = ports.get().list.as_ref().unwrap().element(&Value::from(&json!({"port": 80})), ports).unwrap();
        assert_eq!(element.to_string(), r#"[port=80,protocol="TCP"]"#);
    }

    #[test]
    fn custom_resources_say_it_in_their_schema() {
        let root = Root::custom(
            &json!({"type": "object", "properties": {
                "spec": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {}},
                "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port"],
                    "items": {"type": "object", "properties": {"port": {"type": "integer", "default": 80}}}},
                "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "size": {"x-kubernetes-int-or-string": true},
            }}),
            false,
        );
        assert!(walk(&root, &["spec"]).map.as_ref().unwrap().atomic);
        assert_eq!(walk(&root, &["tags"]).list.as_ref().unwrap().kind, ListKind::Set);
        assert_eq!(walk(&root, &["ports"]).list.as_ref().unwrap().kind, ListKind::Map(vec!["port".into()]));
        assert_eq!(walk(&root, &["size"]).scalar, Some(ScalarType::Untyped));
        assert!(!walk(&root, &["any", "thing"]).map.as_ref().unwrap().atomic);
        assert_eq!(walk(&root, &["metadata", "finalizers"]).list.as_ref().unwrap().kind, ListKind::Set);
        assert!(root.get().get().map.as_ref().unwrap().child("other").is_none());
    }
}
