//! The versions of one custom resource: what is stored, shown in each.
//!
//! An object is pruned and defaulted by the schema of the version it was stored in, then converted. One that was written since
//! the definition last changed is so already, and is shown as it is stored: reading costs nothing then.
//! Source: `apiserver/{customresource_handler.go,conversion/*}`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use wharf_types::Gvk;

use super::kind::Custom;
use crate::convert::{Convert, ConvertError, Converted, ordered};

/// Converts objects in ways that the definition does not know itself: a webhook.
pub trait Converter: Send + Sync {
    /// All objects are of versions other than `api_version`, in which they come back, in this order.
    fn convert<'a>(&'a self, objects: Vec<Value>, api_version: &'a str) -> Converted<'a, Vec<Value>>;
}

/// What the versions of a custom resource share.
pub struct Family {
    pub group: String,
    /// The version that is stored.
    pub stored: String,
    pub kinds: BTreeMap<String, Arc<Custom>>,
    pub settled: u64,
    pub converter: Option<Arc<dyn Converter>>,
}

/// One version's way from and to what is stored.
pub struct Version {
    family: Arc<Family>,
    slot: u8,
    name: String,
}

impl Family {
    pub fn version(self: &Arc<Self>, slot: u8, name: &str) -> Version {
        Version { family: self.clone(), slot, name: name.to_owned() }
    }

    fn api_version(&self, version: &str) -> String {
        format!("{}/{version}", self.group)
    }

    fn kind_of(&self, value: &Value) -> Option<&Custom> {
        let (_, version) = value.get("apiVersion")?.as_str()?.split_once('/')?;
        self.kinds.get(version).map(|kind| &**kind)
    }

    /// Brings objects into a version and cuts them to its schema. Those of that version already stay as they are.
    async fn bring(&self, mut values: Vec<Value>, version: &str) -> Result<Vec<Value>, ConvertError> {
        let wanted = self.api_version(version);
        let others: Vec<usize> = (0..values.len()).filter(|at| values[*at]["apiVersion"] != wanted.as_str()).collect();
        if others.is_empty() {
            return Ok(values);
        }
        let sent: Vec<Value> = others.iter().map(|at| values[*at].take()).collect();
        let converted = match &self.converter {
            Some(converter) => converter.convert(sent, &wanted).await?,
            None => sent,
        };
        for (at, mut value) in others.into_iter().zip(converted) {
            value["apiVersion"] = wanted.clone().into();
            if let Some(kind) = self.kinds.get(version) {
                kind.coerce(&mut value, &mut |_| {});
            }
            values[at] = value;
        }
        Ok(values)
    }

    async fn bring_one(&self, object: Bytes, version: &str) -> Result<Bytes, ConvertError> {
        let brought = self.bring(vec![parse(&object)?], version).await?;
        Ok(brought.first().map(|value| ordered(value).into()).unwrap_or(object))
    }
}

fn parse(bytes: &Bytes) -> Result<Value, ConvertError> {
    serde_json::from_slice(bytes).map_err(|error| ConvertError(format!("read stored object: {error}")))
}

impl Convert for Version {
    fn slot(&self) -> u8 {
        self.slot
    }

    fn stored_version(&self) -> String {
        self.family.api_version(&self.family.stored)
    }

    fn concerns(&self, revision: u64) -> bool {
        self.name != self.family.stored || revision <= self.family.settled
    }

    fn selects_late(&self) -> bool {
        self.family.kinds.len() > 1
    }

    fn to_served(&self, objects: Vec<Bytes>) -> Converted<'_, Vec<Bytes>> {
        Box::pin(async move {
            let mut values = objects.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
            for value in &mut values {
                if let Some(kind) = self.family.kind_of(value) {
                    kind.coerce(value, &mut |_| {});
                    kind.schema().default_object(value);
                }
            }
            let brought = self.family.bring(values, &self.name).await?;
            Ok(brought.iter().map(|value| ordered(value).into()).collect())
        })
    }

    fn to_stored(&self, object: Bytes) -> Converted<'_, Bytes> {
        Box::pin(async move {
            if self.name == self.family.stored {
                return Ok(object);
            }
            self.family.bring_one(object, &self.family.stored).await
        })
    }

    fn to_other<'a>(&'a self, object: Bytes, other: &'a Gvk) -> Option<Converted<'a, Bytes>> {
        Some(Box::pin(self.family.bring_one(object, &other.version)))
    }
}
