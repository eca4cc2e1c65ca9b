//! One version of a custom resource as a [`Kind`].
//!
//! Source: `registry/customresource/{strategy,status_strategy,validator}.go`.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use serde_json::{Map, Value};
use wharf_machinery::apply::Root;
use wharf_machinery::cel::Budget;
use wharf_machinery::jsonpath::JsonPath;
use wharf_machinery::structural::{RuleSet, Schema};
use wharf_types::field::{Error, Errors, Kind as ErrorKind, Path};
use wharf_types::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinitionVersion, CustomResourceSubresourceScale,
};
use wharf_types::meta::{DeleteOptions, ObjectMeta};
use wharf_types::{AnyObject, BoxObject, Gvk};

use super::object::CustomObject;
use super::printer::Printer;
use super::{publish, schema_of};
use crate::kind::{DecodeError, Kind};
use crate::row::Subresource;
use crate::strategy::{Column, FieldPaths, Graceful, Scale};

pub struct Custom {
    gvk: Gvk,
    api_version: String,
    schema: Schema,
    /// As it was written, for publishing.
    written: Value,
    rules: Option<RuleSet>,
    /// How server-side apply merges the version's objects.
    merge: Root,
    /// `spec.preserveUnknownFields` of the definition: nothing is pruned.
    preserve: bool,
    has_status: bool,
    scale: Option<ScalePaths>,
    printer: Printer,
    selectable: Vec<(String, JsonPath)>,
    deprecation: Option<String>,
    closed: Arc<AtomicBool>,
}

struct ScalePaths {
    spec: Vec<String>,
    status: Vec<String>,
    selector: Option<Vec<String>>,
}

impl Custom {
    pub fn new(gvk: Gvk, version: &CustomResourceDefinitionVersion, preserve: bool, closed: Arc<AtomicBool>) -> Self {
        let written = schema_of(version).unwrap_or_default();
        let schema = Schema::new(&written);
        let subresources = version.subresources.as_ref();
        let selectable = version.selectable_fields.iter().flatten().filter_map(|field| {
            let path = JsonPath::parse(&field.json_path).ok()?;
            Some((field.json_path.trim_start_matches('.').to_owned(), path))
        });
        let api_version = gvk.group_version().to_string();
        let deprecation = (version.deprecated == Some(true)).then(|| {
            let own = version.deprecation_warning.clone();
            own.unwrap_or_else(|| format!("{api_version} {} is deprecated", gvk.kind))
        });
        Self {
            rules: RuleSet::new(&schema),
            merge: if version.schema.is_some() { Root::custom(&written, preserve) } else { Root::deduced() },
            preserve: preserve || version.schema.is_none(),
            has_status: subresources.is_some_and(|named| named.status.is_some()),
            scale: subresources.and_then(|named| named.scale.as_ref()).map(ScalePaths::new),
            printer: Printer::new(version.additional_printer_columns.as_deref().unwrap_or_default()),
            selectable: selectable.collect(),
            deprecation,
            closed,
            api_version,
            schema,
            written,
            gvk,
        }
    }

    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    fn of<'a>(&self, object: &'a dyn AnyObject) -> &'a CustomObject {
        object.downcast_ref().expect("object is of its row's kind")
    }

    fn of_mut<'a>(&self, object: &'a mut dyn AnyObject) -> &'a mut CustomObject {
        object.downcast_mut().expect("object is of its row's kind")
    }

    /// Makes of an object what the schema lets through; `unknown` is called with what goes.
    pub fn coerce(&self, value: &mut Value, unknown: &mut dyn FnMut(String)) {
        if !self.preserve {
            self.schema.prune(value, unknown);
            self.schema.prune_nulls(value);
        }
    }

    fn check(&self, object: &CustomObject, old: Option<&CustomObject>) -> Errors {
        let value = object.to_value();
        let old = old.map(CustomObject::to_value);
        let mut errors = self.schema.validate(&value, old.as_ref());
        errors.extend(self.schema.validate_lists(&value, &Path::root()));
        errors.extend(self.check_embedded(&value));
        let Some(rules) = &self.rules else { return errors };
        let blocks = |error: &Error| {
            matches!(error.kind, ErrorKind::Required | ErrorKind::TooLong | ErrorKind::TooMany | ErrorKind::TypeInvalid)
        };
        if errors.iter().any(blocks) {
            let why = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
            errors.push(Error::invalid(&Path::root(), "null", why));
        } else {
            errors.extend(rules.validate(&self.schema, &value, old.as_ref(), &mut Budget::validation()));
        }
        errors
    }

    /// Objects inside of objects have a kind and a name of the right shape.
    fn check_embedded(&self, value: &Value) -> Errors {
        let mut errors = Vec::new();
        embedded(&self.schema, value, &Path::root(), true, &mut errors);
        errors
    }

    fn get(&self, object: &CustomObject, path: &[String]) -> Option<Value> {
        let mut value = object.fields.get(path.first()?)?;
        for name in &path[1..] {
            value = value.get(name)?;
        }
        Some(value.clone())
    }
}

impl ScalePaths {
    fn new(named: &CustomResourceSubresourceScale) -> Self {
        let parts = |path: &str| path.trim_start_matches('.').split('.').map(ToOwned::to_owned).collect();
        Self {
            spec: parts(&named.spec_replicas_path),
            status: parts(&named.status_replicas_path),
            selector: named.label_selector_path.as_deref().filter(|path| !path.is_empty()).map(parts),
        }
    }
}

fn embedded(schema: &Schema, value: &Value, path: &Path, root: bool, errors: &mut Errors) {
    if schema.embedded && !root && value.is_object() {
        for name in ["apiVersion", "kind"] {
            if value.get(name).and_then(Value::as_str).is_none_or(str::is_empty) {
                errors.push(Error::required(&path.child(name), "must not be empty"));
            }
        }
        let metadata = value.get("metadata").cloned().unwrap_or_default();
        if let Err(error) = serde_json::from_value::<Option<ObjectMeta>>(metadata.clone()) {
            errors.push(Error::invalid(&path.child("metadata"), metadata, error.to_string()));
        }
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if schema.properties.contains_key(name) { path.child(name) } else { path.key(name) };
                if let Some(schema) = schema.field(name) {
                    embedded(schema, value, &path, false, errors);
                }
            }
        }
        Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                if let Some(schema) = &schema.items {
                    embedded(schema, value, &path.index(index), false, errors);
                }
            }
        }
        _ => {}
    }
}

impl Kind for Custom {
    fn decode(&self, value: &Value, unknown: &mut dyn FnMut(String)) -> Result<BoxObject, DecodeError> {
        let mut value = value.clone();
        self.coerce(&mut value, unknown);
        let mut object = CustomObject::read(value, unknown)?;
        object.fields.insert("apiVersion".to_owned(), self.api_version.clone().into());
        object.fields.insert("kind".to_owned(), self.gvk.kind.to_string().into());
        Ok(Box::new(object))
    }

    fn decode_stored(&self, bytes: &[u8]) -> Result<BoxObject, DecodeError> {
        let value: Value = serde_json::from_slice(bytes).map_err(|error| DecodeError(error.to_string()))?;
        Ok(Box::new(CustomObject::read(value, &mut |_| {})?))
    }

    fn default(&self, object: &mut dyn AnyObject) {
        let object = self.of_mut(object);
        let mut value = Value::Object(std::mem::take(&mut object.fields));
        self.schema.default_object(&mut value);
        if let Value::Object(mut fields) = value {
            // A default of the root's metadata has nothing to fill in.
            fields.remove("metadata");
            object.fields = fields;
        }
    }

    fn prepare_for_create(&self, object: &mut dyn AnyObject) {
        let object = self.of_mut(object);
        if self.has_status {
            object.fields.remove("status");
        }
        object.metadata.generation = Some(1);
    }

    fn prepare_for_update(&self, object: &mut dyn AnyObject, old: &dyn AnyObject) {
        let (object, old) = (self.of_mut(object), self.of(old));
        if self.has_status {
            keep(&mut object.fields, &old.fields, "status");
        }
        if object.fields != old.fields {
            object.metadata.generation = Some(old.metadata.generation.unwrap_or_default() + 1);
        }
    }

    fn prepare_for_status_update(&self, object: &mut dyn AnyObject, old: &dyn AnyObject) {
        let (object, old) = (self.of_mut(object), self.of(old));
        let status = object.fields.remove("status");
        let (version, managed) = (object.metadata.resource_version.clone(), object.metadata.managed_fields.take());
        *object = old.clone();
        object.metadata.resource_version = version;
        object.metadata.managed_fields = managed;
        object.fields.remove("status");
        object.fields.extend(status.map(|status| ("status".to_owned(), status)));
    }

    fn validate(&self, object: &dyn AnyObject) -> Errors {
        self.check(self.of(object), None)
    }

    fn validate_new(&self, _: &dyn AnyObject) -> Errors {
        Vec::new()
    }

    fn refuse_delete(&self, _: &str) -> Option<&'static str> {
        None
    }

    fn validate_update(&self, _: &dyn AnyObject, _: &dyn AnyObject) -> Errors {
        Vec::new()
    }

    fn validate_change(&self, object: &dyn AnyObject, old: &dyn AnyObject) -> Errors {
        self.check(self.of(object), Some(self.of(old)))
    }

    fn validate_status_update(&self, object: &dyn AnyObject, old: &dyn AnyObject) -> Errors {
        self.check(self.of(object), Some(self.of(old)))
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        wharf_machinery::names::dns1123_subdomain(name)
    }

    fn warnings(&self, _: &dyn AnyObject, _: Option<&dyn AnyObject>) -> Vec<String> {
        Vec::new()
    }

    fn deprecation(&self) -> Option<&str> {
        self.deprecation.as_deref()
    }

    fn is_custom(&self) -> bool {
        true
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn allow_create_on_update(&self) -> bool {
        false
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn fields(&self, object: &dyn AnyObject) -> Vec<(Cow<'static, str>, String)> {
        if self.selectable.is_empty() {
            return Vec::new();
        }
        let value = self.of(object).to_value();
        let shown = |path: &JsonPath| match path.find(&value).first() {
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => String::new(),
        };
        self.selectable.iter().map(|(name, path)| (name.clone().into(), shown(path))).collect()
    }

    fn field_names(&self) -> Vec<&str> {
        self.selectable.iter().map(|(name, _)| name.as_str()).collect()
    }

    fn columns(&self) -> Vec<Column<&str>> {
        self.printer.columns()
    }

    fn cells(&self, stored: &[u8], now: Timestamp) -> Result<Vec<Value>, DecodeError> {
        Ok(self.printer.cells(self.of(&*self.decode_stored(stored)?), now))
    }

    fn merge_root(&self) -> Root {
        self.merge.clone()
    }

    fn reset_fields(&self, subresource: Option<Subresource>) -> Option<FieldPaths> {
        (subresource == Some(Subresource::Status)).then_some(&[&["metadata"], &["spec"]])
    }

    fn delete(&self, _: &mut dyn AnyObject, _: &DeleteOptions) -> Graceful {
        Graceful::Immediate
    }

    fn orphans_by_default(&self) -> bool {
        false
    }

    fn scale(&self, object: &dyn AnyObject) -> Option<Scale> {
        let (paths, object) = (self.scale.as_ref()?, self.of(object));
        let count = |path: &[String]| {
            let number = self.get(object, path).and_then(|value| value.as_i64()).unwrap_or_default();
            i32::try_from(number).unwrap_or(i32::MAX)
        };
        let selector = paths.selector.as_deref().and_then(|path| self.get(object, path));
        Some(Scale {
            spec_replicas: count(&paths.spec),
            status_replicas: count(&paths.status),
            selector: selector.and_then(|value| value.as_str().map(ToOwned::to_owned)).unwrap_or_default(),
        })
    }

    fn set_scale(&self, object: &mut dyn AnyObject, replicas: i32) {
        let Some(paths) = &self.scale else { return };
        let object = self.of_mut(object);
        let Some((last, above)) = paths.spec.split_last() else { return };
        let mut fields = &mut object.fields;
        for name in above {
            let below = fields.entry(name.clone()).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(below) = below else { return };
            fields = below;
        }
        fields.insert(last.clone(), replicas.into());
    }

    fn schema(&self, _: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::Schema::from(true)
    }

    fn schema_name(&self) -> String {
        publish::name(&self.gvk)
    }

    fn definition(&self, v2: bool) -> Option<Value> {
        let selectable = self.field_names();
        let traits = publish::Traits { preserve: self.preserve, selectable: &selectable };
        Some(publish::definition(&self.gvk, &self.written, &traits, v2))
    }
}

fn keep(fields: &mut Map<String, Value>, old: &Map<String, Value>, name: &str) {
    match old.get(name) {
        Some(value) => fields.insert(name.to_owned(), value.clone()),
        None => fields.remove(name),
    };
}
