//! A strategy behind a pointer, so that the verbs are compiled once.

use std::borrow::Cow;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use wharf_machinery::apply::{Root, text};
use wharf_machinery::tree::Value as Tree;
use wharf_types::field::Errors;
use wharf_types::meta::DeleteOptions;
use wharf_types::{AnyObject, BoxObject};

use crate::row::Subresource;
use crate::strategy::{Asked, Column, FieldPaths, Graceful, Scale, Strategy};
use crate::wire;

/// A body that does not have the shape of its kind.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub String);

/// [`Strategy`] over [`AnyObject`]. Implemented for typed strategies by [`Typed`]; custom resources bring their own.
/// Methods panic when handed an object of another kind: rows and objects are paired by the verbs.
pub trait Kind: Send + Sync {
    /// Reads an object; `unknown` is called with the path of each field that the kind does not have (`spec.foo`).
    fn decode(&self, value: &Value, unknown: &mut dyn FnMut(String)) -> Result<BoxObject, DecodeError>;
    /// As [`Kind::decode`], of a document that is given away.
    fn read(&self, document: Tree<'_>, unknown: &mut dyn FnMut(String)) -> Result<BoxObject, DecodeError> {
        self.decode(&document.into_json(), unknown)
    }
    /// Reads an object that the server itself has written, without its managed fields.
    fn decode_stored(&self, bytes: &[u8]) -> Result<BoxObject, DecodeError>;
    fn default(&self, object: &mut dyn AnyObject);
    fn prepare_for_create(&self, object: &mut dyn AnyObject);
    fn prepare_for_update(&self, object: &mut dyn AnyObject, old: &dyn AnyObject);
    fn prepare_for_status_update(&self, object: &mut dyn AnyObject, old: &dyn AnyObject);
    fn prepare_for_subresource(&self, _which: Subresource, _object: &mut dyn AnyObject, _old: &dyn AnyObject) {}
    fn stamp(&self, _object: &mut dyn AnyObject, _old: Option<&dyn AnyObject>, _asked: &Asked<'_>) {}
    fn validate(&self, object: &dyn AnyObject) -> Errors;
    fn validate_new(&self, object: &dyn AnyObject) -> Errors;
    fn validate_update(&self, object: &dyn AnyObject, old: &dyn AnyObject) -> Errors;
    /// Everything that is checked on an update: the new object by itself, and what may change.
    fn validate_change(&self, object: &dyn AnyObject, old: &dyn AnyObject) -> Errors {
        let mut errors = self.validate(object);
        errors.extend(self.validate_update(object, old));
        errors
    }
    fn validate_status_update(&self, object: &dyn AnyObject, old: &dyn AnyObject) -> Errors;
    fn validate_subresource(&self, _which: Subresource, _object: &dyn AnyObject, _old: &dyn AnyObject) -> Errors {
        Vec::new()
    }
    fn validate_name(&self, name: &str) -> Vec<String>;
    fn warnings(&self, object: &dyn AnyObject, old: Option<&dyn AnyObject>) -> Vec<String>;
    fn allow_create_on_update(&self) -> bool;
    fn allow_unconditional_update(&self) -> bool;
    fn fields(&self, object: &dyn AnyObject) -> Vec<(Cow<'static, str>, String)>;
    fn field_names(&self) -> Vec<&str>;
    /// What a selectable field is called in the version that is stored.
    fn stored_field<'a>(&self, name: &'a str) -> &'a str {
        name
    }
    fn columns(&self) -> Vec<Column<&str>>;
    /// One cell for each column, of an object as it is stored.
    fn cells(&self, stored: &[u8], now: Timestamp) -> Result<Vec<Value>, DecodeError>;
    fn delete(&self, object: &mut dyn AnyObject, options: &DeleteOptions) -> Graceful;
    fn refuse_delete(&self, name: &str) -> Option<&'static str>;
    fn orphans_by_default(&self) -> bool;
    fn scale(&self, object: &dyn AnyObject) -> Option<Scale>;
    fn set_scale(&self, object: &mut dyn AnyObject, replicas: i32);
    /// How server-side apply merges the kind's objects.
    fn merge_root(&self) -> Root {
        Root::deduced()
    }
    /// See [`Strategy::reset_fields`].
    fn reset_fields(&self, _subresource: Option<Subresource>) -> Option<FieldPaths> {
        None
    }
    /// The kind's JSON schema; the types that it refers to are added to the generator's definitions.
    fn schema(&self, generator: &mut schemars::SchemaGenerator) -> schemars::Schema;
    /// The schema of a kind that is not built in, as version 2 or 3 of OpenAPI has it; references start with `#/definitions/`.
    fn definition(&self, _v2: bool) -> Option<Value> {
        None
    }
    /// What everybody who uses the kind is warned of.
    fn deprecation(&self) -> Option<&str> {
        None
    }
    /// True for custom resources, which have no strategic merge patch.
    fn is_custom(&self) -> bool {
        false
    }
    /// True while no object may be created any more.
    fn is_closed(&self) -> bool {
        false
    }
    /// The schema's name in OpenAPI, e.g. `io.k8s.api.apps.v1.Deployment`.
    fn schema_name(&self) -> String;
}

/// A typed strategy as a [`Kind`].
pub struct Typed<S>(pub S);

impl<S: Strategy> Typed<S> {
    fn of<'a>(&self, object: &'a dyn AnyObject) -> &'a S::Object {
        object.downcast_ref().expect("object is of its row's kind")
    }

    fn of_mut<'a>(&self, object: &'a mut dyn AnyObject) -> &'a mut S::Object {
        object.downcast_mut().expect("object is of its row's kind")
    }
}

impl<S: Strategy> Kind for Typed<S> {
    fn decode(&self, value: &Value, unknown: &mut dyn FnMut(String)) -> Result<BoxObject, DecodeError> {
        self.read(Tree::from(value), unknown)
    }

    fn read(&self, mut document: Tree<'_>, unknown: &mut dyn FnMut(String)) -> Result<BoxObject, DecodeError> {
        wire::normalize(&mut document).map_err(|error| DecodeError(error.to_string()))?;
        let mut report = |path: serde_ignored::Path<'_>| unknown(dotted(&path));
        let object = S::Object::deserialize(serde_ignored::Deserializer::new(document, &mut report))
            .map_err(|error| DecodeError(error.to_string()))?;
        Ok(Box::new(object))
    }

    fn decode_stored(&self, bytes: &[u8]) -> Result<BoxObject, DecodeError> {
        let (rest, _) = text::split(bytes);
        let object: S::Object = serde_json::from_slice(&rest).map_err(|error| DecodeError(error.to_string()))?;
        Ok(Box::new(object))
    }

    fn default(&self, object: &mut dyn AnyObject) {
        self.0.default(self.of_mut(object));
    }

    fn prepare_for_create(&self, object: &mut dyn AnyObject) {
        self.0.prepare_for_create(self.of_mut(object));
    }

    fn prepare_for_update(&self, object: &mut dyn AnyObject, old: &dyn AnyObject) {
        self.0.prepare_for_update(self.of_mut(object), self.of(old));
    }

    fn prepare_for_status_update(&self, object: &mut dyn AnyObject, old: &dyn AnyObject) {
        self.0.prepare_for_status_update(self.of_mut(object), self.of(old));
    }

    fn prepare_for_subresource(&self, which: Subresource, object: &mut dyn AnyObject, old: &dyn AnyObject) {
        self.0.prepare_for_subresource(which, self.of_mut(object), self.of(old));
    }

    fn stamp(&self, object: &mut dyn AnyObject, old: Option<&dyn AnyObject>, asked: &Asked<'_>) {
        self.0.stamp(self.of_mut(object), old.map(|old| self.of(old)), asked);
    }

    fn validate(&self, object: &dyn AnyObject) -> Errors {
        self.0.validate(self.of(object))
    }

    fn validate_new(&self, object: &dyn AnyObject) -> Errors {
        self.0.validate_new(self.of(object))
    }

    fn validate_update(&self, object: &dyn AnyObject, old: &dyn AnyObject) -> Errors {
        self.0.validate_update(self.of(object), self.of(old))
    }

    fn validate_status_update(&self, object: &dyn AnyObject, old: &dyn AnyObject) -> Errors {
        self.0.validate_status_update(self.of(object), self.of(old))
    }

    fn validate_subresource(&self, which: Subresource, object: &dyn AnyObject, old: &dyn AnyObject) -> Errors {
        self.0.validate_subresource(which, self.of(object), self.of(old))
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        self.0.validate_name(name)
    }

    fn warnings(&self, object: &dyn AnyObject, old: Option<&dyn AnyObject>) -> Vec<String> {
        self.0.warnings(self.of(object), old.map(|old| self.of(old)))
    }

    fn deprecation(&self) -> Option<&str> {
        self.0.deprecation()
    }

    fn allow_create_on_update(&self) -> bool {
        self.0.allow_create_on_update()
    }

    fn allow_unconditional_update(&self) -> bool {
        self.0.allow_unconditional_update()
    }

    fn fields(&self, object: &dyn AnyObject) -> Vec<(Cow<'static, str>, String)> {
        self.0.fields(self.of(object)).into_iter().map(|(name, value)| (name.into(), value)).collect()
    }

    fn field_names(&self) -> Vec<&str> {
        self.0.field_names().to_vec()
    }

    fn stored_field<'a>(&self, name: &'a str) -> &'a str {
        self.0.stored_field(name)
    }

    fn columns(&self) -> Vec<Column<&str>> {
        self.0.columns().to_vec()
    }

    fn cells(&self, stored: &[u8], now: Timestamp) -> Result<Vec<Value>, DecodeError> {
        self.0.stored_cells(stored, now).map_err(|error| DecodeError(error.to_string()))
    }

    fn delete(&self, object: &mut dyn AnyObject, options: &DeleteOptions) -> Graceful {
        self.0.delete(self.of_mut(object), options)
    }

    fn refuse_delete(&self, name: &str) -> Option<&'static str> {
        self.0.refuse_delete(name)
    }

    fn orphans_by_default(&self) -> bool {
        self.0.orphans_by_default()
    }

    fn scale(&self, object: &dyn AnyObject) -> Option<Scale> {
        self.0.scale(self.of(object))
    }

    fn set_scale(&self, object: &mut dyn AnyObject, replicas: i32) {
        self.0.set_scale(self.of_mut(object), replicas);
    }

    fn merge_root(&self) -> Root {
        Root::built_in(&self.schema_name())
    }

    fn reset_fields(&self, subresource: Option<Subresource>) -> Option<FieldPaths> {
        self.0.reset_fields(subresource)
    }

    fn schema(&self, generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        generator.subschema_for::<S::Object>()
    }

    fn schema_name(&self) -> String {
        S::Object::schema_name().into_owned()
    }
}

/// `spec.containers[0].foo`, as upstream names an unknown field.
fn dotted(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", dotted(parent)),
        Path::Map { parent, key } => {
            let parent = dotted(parent);
            if parent.is_empty() { key.clone() } else { format!("{parent}.{key}") }
        }
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => dotted(parent),
    }
}
