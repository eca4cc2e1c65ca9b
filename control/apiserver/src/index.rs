//! What the cache extracts from each object for selectors, as the kind's strategy says it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use wharf_cache::{Entry, Index, Indexed};
use wharf_registry::{Kind, Row};

/// The index of a row's collection.
pub fn index(row: &Row) -> Arc<dyn Index> {
    if row.kind.field_names().is_empty() { Arc::new(MetadataOnly) } else { Arc::new(WithFields(row.kind.clone())) }
}

/// What selectors look at of an object that a row shows in its version. Only custom resources have fields in one version that
/// another has not.
pub fn shown(row: &Row, entry: &Entry, bytes: &[u8]) -> Indexed {
    if row.kind.is_custom() && !row.kind.field_names().is_empty() {
        WithFields(row.kind.clone()).index(bytes)
    } else {
        entry.indexed.clone()
    }
}

/// For kinds without selectable fields of their own: the rest of the object is skipped over, not read.
struct MetadataOnly;

#[derive(Deserialize)]
struct Partial<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
}

#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    namespace: Option<Cow<'a, str>>,
    labels: Option<BTreeMap<String, String>>,
}

impl Index for MetadataOnly {
    fn index(&self, bytes: &[u8]) -> Indexed {
        let Ok(Partial { metadata }) = serde_json::from_slice::<Partial<'_>>(bytes) else { return Indexed::default() };
        let text = |value: Option<Cow<'_, str>>| value.map(Cow::into_owned).unwrap_or_default();
        indexed(metadata.labels.unwrap_or_default(), text(metadata.name), text(metadata.namespace))
    }
}

/// For kinds with selectable fields: reads the whole object.
struct WithFields(Arc<dyn Kind>);

impl Index for WithFields {
    fn index(&self, bytes: &[u8]) -> Indexed {
        let Ok(object) = self.0.decode_stored(bytes) else { return MetadataOnly.index(bytes) };
        let meta = object.meta();
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let mut indexed = indexed(meta.labels.clone().unwrap_or_default(), text(&meta.name), text(&meta.namespace));
        indexed.fields.extend(self.0.fields(&*object));
        indexed
    }
}

fn indexed(labels: BTreeMap<String, String>, name: String, namespace: String) -> Indexed {
    let fields = BTreeMap::from([("metadata.name".into(), name), ("metadata.namespace".into(), namespace)]);
    Indexed { labels, fields }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(resource: &str, object: &str, field: &str, expected: &str) {
        let rows = wharf_registry::builtin::rows();
        let row = rows.iter().find(|row| row.gvr.resource == resource).expect("a built-in resource");
        let indexed = index(row).index(object.as_bytes());
        assert_eq!(indexed.fields.get(field).map(String::as_str), Some(expected), "{object}");
        assert_eq!(indexed.labels.get("app").map(String::as_str), Some("web"), "{object}");
    }

    #[test]
    fn names_labels_and_fields_are_found() {
        check(
            "configmaps",
            r#"{"metadata":{"name":"a","labels":{"app":"web"}},"data":{"x":"y"}}"#,
            "metadata.name",
            "a",
        );
        check(
            "configmaps",
            r#"{"metadata":{"name":"a","namespace":"n\u00e9","labels":{"app":"web"}}}"#,
            "metadata.namespace",
            "né",
        );
    }
}
