//! One kind under several versions: rows that share a storage prefix.
//!
//! Objects are stored once, in one version. Each row of another version has a [`Convert`] that shows what is stored as the
//! row's version (on GET, LIST, WATCH and before an update) and writes the row's objects in the version that is stored.
//! A row without one costs nothing.
//!
//! To serve `events.k8s.io/v1` over `events`: add a row with the same `storage` whose `kind` is that of the new version, and
//! ```ignore
//! convert: Some(Arc::new(Mapped::new(1, "events.k8s.io/v1", "v1", to_new, to_old)))
//! ```
//! where the functions edit an object as JSON; `apiVersion` is changed for them. Selectors look at what is stored, as the row that
//! is served first says: rows of a prefix that are sorted first bring the index, so their selectable fields must suffice for all.
//! Where they do not, [`Convert::selects_late`] says so, and objects are selected as the row shows them.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use serde_json::Value;
use wharf_types::Gvk;

use crate::row::Row;

/// Why an object cannot be shown in, or stored from, a row's version. The text is what a client is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConvertError(pub String);

pub type Converted<'a, T> = Pin<Box<dyn Future<Output = Result<T, ConvertError>> + Send + 'a>>;

/// How the objects of a row differ from what is stored. It may have to ask others, so it may wait.
pub trait Convert: Send + Sync {
    /// Tells the versions of a prefix apart; at least 1, and no other row of the prefix has it. What watchers share is kept
    /// under it.
    fn slot(&self) -> u8;

    /// The `apiVersion` that objects are stored in.
    fn stored_version(&self) -> String;

    /// False where an object that was written at this revision is shown as it is stored.
    fn concerns(&self, _revision: u64) -> bool {
        true
    }

    /// True where objects may be stored in other versions than the row's, so that selectors of the row's own fields have to look at
    /// an object as the row shows it.
    fn selects_late(&self) -> bool {
        false
    }

    /// Stored objects, each as a GET would show it (with its resourceVersion), as the row shows them.
    fn to_served(&self, objects: Vec<Bytes>) -> Converted<'_, Vec<Bytes>>;

    /// An object of the row as it is to be stored.
    fn to_stored(&self, object: Bytes) -> Converted<'_, Bytes>;

    /// An object of the row as one of another row of the same storage, where that takes no detour over what is stored.
    fn to_other<'a>(&'a self, _object: Bytes, _other: &'a Gvk) -> Option<Converted<'a, Bytes>> {
        None
    }
}

/// An object of one row as another row of the same storage shows it.
pub async fn between(from: &Row, to: &Row, object: Bytes) -> Result<Bytes, ConvertError> {
    if from.gvr == to.gvr {
        return Ok(object);
    }
    if let Some(direct) = from.convert.as_ref().and_then(|convert| convert.to_other(object.clone(), &to.gvk)) {
        return direct.await;
    }
    let stored = match &from.convert {
        Some(convert) => convert.to_stored(object).await?,
        None => object,
    };
    let Some(convert) = &to.convert else { return Ok(stored) };
    let served = convert.to_served(vec![stored]).await?;
    served.into_iter().next().ok_or_else(|| ConvertError("a conversion returned nothing".to_owned()))
}

/// Edits an object; `apiVersion` is not its business.
pub type Edit = fn(&mut Value);

/// Versions that a pair of functions maps onto each other.
pub struct Mapped {
    slot: u8,
    served: String,
    stored: String,
    to_served: Edit,
    to_stored: Edit,
}

impl Mapped {
    /// `served` and `stored` are `apiVersion`s.
    pub fn new(
        slot: u8,
        served: impl Into<String>,
        stored: impl Into<String>,
        to_served: Edit,
        to_stored: Edit,
    ) -> Self {
        Self { slot, served: served.into(), stored: stored.into(), to_served, to_stored }
    }
}

impl Convert for Mapped {
    fn slot(&self) -> u8 {
        self.slot
    }

    fn stored_version(&self) -> String {
        self.stored.clone()
    }

    fn to_served(&self, objects: Vec<Bytes>) -> Converted<'_, Vec<Bytes>> {
        let convert = |object: &Bytes| map(object, &self.served, self.to_served);
        let converted = objects.iter().map(convert).collect();
        Box::pin(async { converted })
    }

    fn to_stored(&self, object: Bytes) -> Converted<'_, Bytes> {
        let converted = map(&object, &self.stored, self.to_stored);
        Box::pin(async { converted })
    }
}

fn map(object: &Bytes, version: &str, edit: Edit) -> Result<Bytes, ConvertError> {
    let mut value: Value = serde_json::from_slice(object).map_err(|error| ConvertError(error.to_string()))?;
    if value.get("apiVersion").and_then(Value::as_str) == Some(version) {
        return Ok(object.clone());
    }
    edit(&mut value);
    value["apiVersion"] = version.into();
    Ok(ordered(&value).into())
}

/// An object as our encoder writes it: `apiVersion`, `kind` and `metadata` first, where the cache looks for them.
pub fn ordered(value: &Value) -> Vec<u8> {
    let Some(fields) = value.as_object() else { return value.to_string().into_bytes() };
    const FIRST: [&str; 3] = ["apiVersion", "kind", "metadata"];
    let first = FIRST.iter().filter_map(|name| Some((*name, fields.get(*name)?)));
    let rest = fields.iter().map(|(name, value)| (name.as_str(), value)).filter(|(name, _)| !FIRST.contains(name));
    let mut out = vec![b'{'];
    for (name, value) in first.chain(rest) {
        if out.len() > 1 {
            out.push(b',');
        }
        // Strings and values of JSON serialise into a Vec.
        serde_json::to_writer(&mut out, name).expect("a name serialises to JSON");
        out.push(b':');
        serde_json::to_writer(&mut out, value).expect("a value serialises to JSON");
    }
    out.push(b'}');
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_is_mapped_once_and_keeps_its_order() {
        let up: Edit = |value| value["spec"] = json!({"size": 2});
        let stored = Bytes::from_static(br#"{"apiVersion":"a/v1","kind":"X","metadata":{"name":"n"},"spec":{}}"#);
        let served = map(&stored, "a/v2", up).unwrap();
        assert_eq!(served, r#"{"apiVersion":"a/v2","kind":"X","metadata":{"name":"n"},"spec":{"size":2}}"#);
        assert_eq!(map(&served, "a/v2", up).unwrap().as_ptr(), served.as_ptr());
        assert_eq!(
            map(&Bytes::from_static(b"{"), "a/v2", up).unwrap_err().0,
            "EOF while parsing an object at line 1 column 1"
        );
    }
}
