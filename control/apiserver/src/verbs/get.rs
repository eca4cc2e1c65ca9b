//! GET of one object: the bytes that the cache holds.

use http::StatusCode;
use wharf_types::ApiError;

use crate::call::Call;
use crate::options::Version;
use crate::reply::Reply;
use crate::verbs::list;

pub async fn get(call: &Call) -> Result<Reply, ApiError> {
    let version = Version::parse(call.query.get("resourceVersion").unwrap_or_default())?;
    list::not_older_than(call, version).await?;
    let entry = call.existing().await?;
    Ok(Reply::Object { code: StatusCode::OK, bytes: entry.bytes.clone() })
}
