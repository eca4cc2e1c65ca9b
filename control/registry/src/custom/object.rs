//! An object of a custom resource: typed metadata, and the rest as JSON.

use std::any::Any;

use serde::Deserialize;
use serde_json::{Map, Value};
use wharf_types::meta::ObjectMeta;
use wharf_types::{AnyObject, BoxObject};

use crate::kind::DecodeError;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct CustomObject {
    pub metadata: ObjectMeta,
    /// Everything but `metadata`; `apiVersion` and `kind` among it.
    pub fields: Map<String, Value>,
}

impl CustomObject {
    /// Takes JSON apart. `unknown` is called with fields that no metadata has.
    pub fn read(value: Value, unknown: &mut dyn FnMut(String)) -> Result<Self, DecodeError> {
        let Value::Object(mut fields) = value else { return Err(DecodeError("the body is no object".to_owned())) };
        let metadata = match fields.remove("metadata") {
            None | Some(Value::Null) => ObjectMeta::default(),
            Some(metadata) => {
                let mut report = |path: serde_ignored::Path<'_>| unknown(format!("metadata.{path}").replace(".?", ""));
                ObjectMeta::deserialize(serde_ignored::Deserializer::new(&metadata, &mut report))
                    .map_err(|error| DecodeError(format!("metadata: {error}")))?
            }
        };
        Ok(Self { metadata, fields })
    }

    /// The whole object as JSON.
    pub fn to_value(&self) -> Value {
        let mut fields = self.fields.clone();
        // Metadata is a struct with string keys only.
        fields.insert("metadata".to_owned(), serde_json::to_value(&self.metadata).unwrap_or_default());
        Value::Object(fields)
    }
}

impl AnyObject for CustomObject {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&crate::ordered(&self.to_value()));
    }

    fn clone_box(&self) -> BoxObject {
        Box::new(self.clone())
    }

    fn same(&self, other: &dyn AnyObject) -> bool {
        other.as_any().downcast_ref::<Self>().is_some_and(|other| self == other)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
