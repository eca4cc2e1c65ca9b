//! Makes the types of built-in kinds from their definitions, and those of custom resources from their structural schemas.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value as Json;

use super::{
    DEDUCED, Field, ListKind, ListType, MapType, Root, ScalarType, Schema, Type, TypeId, TypeRef, UNTYPED_ATOMIC,
};
use crate::apply::path::Scalar;
use crate::patch::merge_keys::{self, Topology};
use crate::schema::{REF_PREFIX, go};
use crate::tree::Value;

/// Lists of maps that Go writes even when they are empty.
const LISTS_ALWAYS_THERE: &[(&str, &str)] =
    &[("io.k8s.api.core.v1.PodSpec", "containers"), ("io.k8s.api.storage.v1.CSINodeSpec", "drivers")];

/// Makes types of JSON schemas.
pub(super) struct Builder<'d> {
    definitions: Option<&'d BTreeMap<String, Json>>,
    types: Vec<Type>,
    pub(super) by_name: HashMap<Box<str>, TypeId>,
    imported: HashMap<TypeId, TypeId>,
}

impl<'d> Builder<'d> {
    pub(super) fn new(definitions: Option<&'d BTreeMap<String, Json>>) -> Self {
        let untyped = |inside: TypeId, atomic| Type {
            scalar: Some(ScalarType::Untyped),
            list: Some(ListType { item: UNTYPED_ATOMIC, kind: ListKind::Atomic, defaults: Vec::new() }),
            map: Some(MapType { values: Some(inside), atomic, ..MapType::default() }),
        };
        Self {
            definitions,
            types: vec![untyped(DEDUCED, false), untyped(UNTYPED_ATOMIC, true)],
            by_name: HashMap::new(),
            imported: HashMap::new(),
        }
    }

    pub(super) fn finish(self, may_have_changed: bool) -> Arc<Schema> {
        Arc::new(Schema { types: self.types, may_have_changed })
    }

    fn add(&mut self, ty: Type) -> TypeId {
        self.types.push(ty);
        TypeId::try_from(self.types.len() - 1).unwrap_or(DEDUCED)
    }

    /// The type behind a `$ref`.
    pub(super) fn named(&mut self, name: &str) -> TypeId {
        if let Some(id) = self.by_name.get(name) {
            return *id;
        }
        let Some(schema) = self.definitions.and_then(|definitions| definitions.get(name)) else { return DEDUCED };
        // Its place is taken first, as a type may hold itself.
        let id = self.add(Type::default());
        self.by_name.insert(name.into(), id);
        let mut ty = self.type_of(schema, name, false);
        if merge_keys::is_atomic_type(name)
            && let Some(map) = &mut ty.map
        {
            map.atomic = true;
        }
        self.types[id as usize] = ty;
        id
    }

    /// The type of a schema that may be a reference.
    fn reference(&mut self, schema: &Json, owner: &str, preserve: bool) -> TypeId {
        let target = schema["$ref"].as_str().or_else(|| match schema["allOf"].as_array().map(Vec::as_slice) {
            Some([one]) => one["$ref"].as_str(),
            _ => None,
        });
        let id = match target {
            Some(target) => self.named(target.strip_prefix(REF_PREFIX).unwrap_or(target)),
            None => {
                let ty = self.type_of(schema, owner, preserve);
                return self.add(ty);
            }
        };
        if schema["x-kubernetes-map-type"] == "atomic" { self.atomic_map(id) } else { id }
    }

    fn atomic_map(&mut self, id: TypeId) -> TypeId {
        let mut ty = self.types[id as usize].clone();
        if let Some(map) = &mut ty.map {
            map.atomic = true;
        }
        self.add(ty)
    }

    /// `owner` is the named type that the schema is part of.
    fn type_of(&mut self, schema: &Json, owner: &str, preserve: bool) -> Type {
        let preserve = preserve || schema["x-kubernetes-preserve-unknown-fields"] == true;
        let properties = schema["properties"].as_object();
        match schema["type"].as_str() {
            _ if schema["x-kubernetes-int-or-string"] == true => scalar(ScalarType::Untyped),
            None if properties.is_none_or(serde_json::Map::is_empty) => self.types[DEDUCED as usize].clone(),
            None | Some("object") => Type { map: Some(self.map_of(schema, owner, preserve)), ..Type::default() },
            Some("array") => Type { list: Some(self.list_of(schema, owner, preserve)), ..Type::default() },
            Some("integer" | "number") => scalar(ScalarType::Number),
            Some("boolean") => scalar(ScalarType::Boolean),
            Some("string") if owner.ends_with(".Quantity") || owner.ends_with(".IntOrString") => {
                scalar(ScalarType::Untyped)
            }
            Some("string") => match schema["format"].as_str() {
                None | Some("" | "byte") => scalar(ScalarType::String),
                Some(_) => scalar(ScalarType::Untyped),
            },
            Some(_) => scalar(ScalarType::Untyped),
        }
    }

    fn map_of(&mut self, schema: &Json, owner: &str, preserve: bool) -> MapType {
        let properties = schema["properties"].as_object();
        let mut map = MapType { atomic: schema["x-kubernetes-map-type"] == "atomic", ..MapType::default() };
        for (name, property) in properties.into_iter().flatten() {
            map.fields.insert(name.as_str().into(), self.field(name, property, owner, preserve));
        }
        map.values = match &schema["additionalProperties"] {
            Json::Null if preserve || properties.is_none_or(serde_json::Map::is_empty) => Some(DEDUCED),
            Json::Null | Json::Bool(false) => preserve.then_some(DEDUCED),
            Json::Bool(true) => Some(DEDUCED),
            values => Some(self.reference(values, "", preserve)),
        };
        if schema["x-kubernetes-embedded-resource"] == true {
            self.add_envelope(&mut map);
        }
        map
    }

    fn field(&mut self, name: &str, property: &Json, owner: &str, preserve: bool) -> Field {
        let mut id = if self.definitions.is_some() {
            self.reference(property, "", preserve)
        } else if property["x-kubernetes-embedded-resource"] == true {
            self.embedded(property, preserve)
        } else {
            self.reference(property, "", preserve)
        };
        let rule = merge_keys::rule(owner, name).map(|rule| rule.topology);
        match rule {
            Some(Topology::AtomicMap) => id = self.atomic_map(id),
            Some(Topology::Set) => self.set_list_kind(id, ListKind::Set),
            Some(Topology::Map(keys)) => {
                self.set_list_kind(id, ListKind::Map(keys.iter().map(|key| (*key).into()).collect()));
            }
            Some(Topology::AtomicList | Topology::Granular) | None => {}
        }
        let said = if self.definitions.is_some() { go::field(owner, name) } else { go::Field::default() };
        let built_in = said.default.and_then(|json| serde_json::from_str::<Json>(json).ok());
        let default = match (&property["default"], built_in) {
            (_, Some(default)) => Some(Scalar::from(&Value::from(&default))),
            (Json::Null, None) => None,
            (default, None) => Some(Scalar::from(&Value::from(default))),
        };
        let always = said.always || LISTS_ALWAYS_THERE.contains(&(owner, name));
        Field { id, default, always }
    }

    fn set_list_kind(&mut self, id: TypeId, kind: ListKind) {
        if let Some(list) = &mut self.types[id as usize].list {
            list.kind = kind;
        }
    }

    fn list_of(&mut self, schema: &Json, _owner: &str, preserve: bool) -> ListType {
        let items = &schema["items"];
        let item = if items.is_null() { DEDUCED } else { self.reference(items, "", preserve) };
        let kind = match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => ListKind::Set,
            Some("map") => ListKind::Map(
                schema["x-kubernetes-list-map-keys"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Json::as_str)
                    .map(Into::into)
                    .collect(),
            ),
            _ => ListKind::Atomic,
        };
        ListType { item, kind, defaults: Vec::new() }
    }

    /// A whole object: what its schema says, with `apiVersion`, `kind` and `metadata` as every object has them.
    pub(super) fn embedded(&mut self, schema: &Json, preserve: bool) -> TypeId {
        let mut ty = self.type_of(schema, "", preserve);
        if let Some(map) = &mut ty.map {
            let mut with_envelope = std::mem::take(map);
            self.add_envelope(&mut with_envelope);
            ty.map = Some(with_envelope);
        }
        self.add(ty)
    }

    fn add_envelope(&mut self, map: &mut MapType) {
        let metadata = Root::built_in("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
        let text = self.add(scalar(ScalarType::String));
        let metadata = self.import(metadata.get());
        for (name, id) in [("apiVersion", text), ("kind", text), ("metadata", metadata)] {
            map.fields.insert(name.into(), Field { id, default: None, always: false });
        }
    }

    /// Copies a type of another schema, with everything that it refers to.
    fn import(&mut self, from: TypeRef<'_>) -> TypeId {
        if from.id == DEDUCED || from.id == UNTYPED_ATOMIC {
            return from.id;
        }
        if let Some(id) = self.imported.get(&from.id) {
            return *id;
        }
        let id = self.add(Type::default());
        self.imported.insert(from.id, id);
        let mut ty = from.get().clone();
        if let Some(list) = &mut ty.list {
            list.item = self.import(from.to(list.item));
        }
        if let Some(map) = &mut ty.map {
            map.values = map.values.map(|values| self.import(from.to(values)));
            for field in map.fields.values_mut() {
                field.id = self.import(from.to(field.id));
            }
        }
        self.types[id as usize] = ty;
        id
    }
}

fn scalar(kind: ScalarType) -> Type {
    Type { scalar: Some(kind), ..Type::default() }
}
