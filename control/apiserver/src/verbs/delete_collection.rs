//! DELETECOLLECTION: a list, and a DELETE of each of its objects.
//!
//! Not atomic, as upstream: objects that come meanwhile stay, and the first refusal ends it with what was deleted deleted.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use wharf_types::ApiError;

use crate::call::Call;
use crate::options::ListOptions;
use crate::reply::Reply;
use crate::verbs::{delete, list};

/// Deletes of one collection that are under way at once.
const CONCURRENCY: usize = 16;

pub async fn delete_collection(call: &mut Call, bytes: Bytes) -> Result<Reply, ApiError> {
    let options = delete::read_options(call, &bytes)?;
    let selected = ListOptions::parse(&call.query, &call.row, false)?;
    let found = list::collect(call, &selected).await?;
    let parts: Vec<Call> = found
        .entries
        .iter()
        .map(|entry| {
            let field = |name| entry.indexed.fields.get(name).map(String::as_str).filter(|value| !value.is_empty());
            call.about(field("metadata.namespace"), field("metadata.name").unwrap_or_default())
        })
        .collect();
    let deletes = parts.into_iter().map(|mut part| {
        let options = &options;
        async move {
            match delete::delete_object(&mut part, options).await {
                Ok(_) => Ok(part.notes.warnings),
                Err(error) if error.is_not_found() => Ok(Vec::new()),
                Err(error) => Err(error),
            }
        }
    });
    let warnings: Vec<Vec<String>> = futures::stream::iter(deletes).buffer_unordered(CONCURRENCY).try_collect().await?;
    call.warn(warnings.into_iter().flatten());
    Ok(Reply::List(found))
}
