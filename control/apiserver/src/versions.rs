//! Between the version that is stored and the one that a row serves, for rows that have a [`Convert`](wharf_registry::Convert).
//!
//! What the cache holds is shown in the row's version before anything looks at it, and what a verb writes is put into the stored
//! version right before the commit. Rows without conversion get back what they gave.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use wharf_cache::{Delivery, Entry, EventType};
use wharf_machinery::selector::FieldSelector;
use wharf_registry::{ConvertError, Row};
use wharf_store::Revision;
use wharf_types::ApiError;

use crate::index;

/// An entry in the row's version.
pub async fn served(row: &Row, entry: Arc<Entry>) -> Result<Arc<Entry>, ApiError> {
    let written = entry.revision;
    shown(row, entry, written, EventType::Added).await
}

/// The last state of an object that is gone, which was written at this revision.
pub async fn deleted(row: &Row, entry: Arc<Entry>, written: Revision) -> Result<Arc<Entry>, ApiError> {
    shown(row, entry, written, EventType::Deleted).await
}

async fn shown(row: &Row, entry: Arc<Entry>, written: Revision, kind: EventType) -> Result<Arc<Entry>, ApiError> {
    let Some(convert) = row.convert.as_ref().filter(|convert| convert.concerns(written.0)) else { return Ok(entry) };
    let converted = convert.to_served(vec![entry.bytes.clone()]).await.map_err(refusal)?;
    let bytes = converted.first().ok_or_else(|| ApiError::internal("a conversion returned nothing"))?;
    Ok(Arc::new(entry.shown_as(bytes, index::shown(row, &entry, bytes), kind)))
}

/// The same for readers that cannot wait; none where the conversion has to ask somebody.
pub fn served_now(row: &Row, entry: Arc<Entry>) -> Option<Arc<Entry>> {
    served(row, entry).now_or_never()?.ok()
}

/// Entries in the row's version; those that need it are converted together.
pub async fn all_served(row: &Row, mut entries: Vec<Arc<Entry>>) -> Result<Vec<Arc<Entry>>, ApiError> {
    let Some(convert) = &row.convert else { return Ok(entries) };
    let old: Vec<usize> = (0..entries.len()).filter(|at| convert.concerns(entries[*at].revision.0)).collect();
    if old.is_empty() {
        return Ok(entries);
    }
    let converted = convert.to_served(old.iter().map(|at| entries[*at].bytes.clone()).collect()).await;
    for (at, bytes) in old.into_iter().zip(converted.map_err(refusal)?) {
        let indexed = index::shown(row, &entries[at], &bytes);
        entries[at] = Arc::new(entries[at].shown_as(&bytes, indexed, EventType::Added));
    }
    Ok(entries)
}

/// True where a watch event needs no [`delivered`]: the row serves what is stored.
pub fn delivers_as_stored(row: &Row, delivery: &Delivery) -> bool {
    row.convert.as_ref().is_none_or(|convert| !convert.concerns(delivery.written_at().0))
}

/// A watch event in the row's version, made once for all who watch it.
pub async fn delivered(row: &Row, delivery: Delivery) -> Result<Delivery, ApiError> {
    let Some(convert) = row.convert.as_ref().filter(|_| !delivers_as_stored(row, &delivery)) else {
        return Ok(delivery);
    };
    if let Some(made) = delivery.shown(convert.slot()) {
        return Ok(made);
    }
    let converted = convert.to_served(vec![delivery.entry.bytes.clone()]).await.map_err(refusal)?;
    let bytes = converted.first().ok_or_else(|| ApiError::internal("a conversion returned nothing"))?;
    Ok(delivery.show(convert.slot(), bytes, index::shown(row, &delivery.entry, bytes)))
}

/// A watch event in the row's version as a watcher sees it who selects by fields of that version; none where it is nothing to it.
pub async fn chosen(row: &Row, delivery: Delivery, late: Option<&FieldSelector>) -> Result<Option<Delivery>, ApiError> {
    let Some(fields) = late else { return delivered(row, delivery).await.map(Some) };
    let selects = |delivery: Delivery| async move {
        let delivery = delivered(row, delivery).await?;
        Ok::<_, ApiError>(fields.matches(&delivery.entry.indexed.fields))
    };
    let before = delivery.kind != EventType::Added && selects(delivery.turned(EventType::Deleted)).await?;
    let now = delivery.kind != EventType::Deleted && selects(delivery.clone()).await?;
    match EventType::of(before, now) {
        Some(kind) => delivered(row, delivery.turned(kind)).await.map(Some),
        None => Ok(None),
    }
}

/// A written object as it is to be stored.
pub async fn stored(row: &Row, object: Bytes) -> Result<Bytes, ApiError> {
    match &row.convert {
        Some(convert) => convert.to_stored(object).await.map_err(refusal),
        None => Ok(object),
    }
}

fn refusal(error: ConvertError) -> ApiError {
    ApiError::new(500, "", error.to_string())
}
