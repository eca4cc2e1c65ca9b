//! LIST: a snapshot, a filter, a page of it.
//!
//! Source of the rules on versions: `k8s.io/apiserver/pkg/storage` (`etcd3/store.go`, `cacher/cacher.go`).

use std::sync::Arc;
use std::time::Duration;

use wharf_cache::{Entry, Filter, Snapshot};
use wharf_machinery::selector::FieldSelector;
use wharf_store::Revision;
use wharf_types::ApiError;
use wharf_types::meta::{StatusCause, StatusDetails};

use crate::call::Call;
use crate::options::{ListOptions, Version, VersionMatch};
use crate::reply::{List, Reply};
use crate::verbs::page::{self, Token};
use crate::versions;

/// How long a read waits for the cache to come to a revision that the client has seen: upstream's `blockTimeout`.
const FRESH_WAIT: Duration = Duration::from_secs(3);
/// How many objects are shown at a time to be selected by what the row's version says of them.
const LATE_BATCH: usize = 500;
/// What a client is told to wait where that did not suffice.
const RETRY_AFTER_S: i32 = 1;

pub async fn list(call: &Call) -> Result<Reply, ApiError> {
    let options = ListOptions::parse(&call.query, &call.row, false)?;
    Ok(Reply::List(collect(call, &options).await?))
}

/// Where a list reads.
enum From {
    Now,
    At(Revision),
    Token(Token),
}

/// Reads one page, or everything.
pub async fn collect(call: &Call, options: &ListOptions) -> Result<List, ApiError> {
    let prefix = call.row.prefix();
    let from = decide(options, &prefix)?;
    let filter = filter(call, options)?;
    let (snapshot, after) = match from {
        From::Now => {
            not_older_than(call, options.version).await?;
            (call.collection.snapshot(), None)
        }
        From::At(revision) => {
            let old = "The resourceVersion for the provided list is too old.";
            (snapshot_at(call, revision, || ApiError::expired(old)).await?, None)
        }
        From::Token(token) => match token.revision {
            Some(revision) => {
                (snapshot_at(call, revision, || page::expired(&token, &prefix)).await?, Some(token.after))
            }
            None => (call.collection.snapshot(), Some(token.after)),
        },
    };
    // Upstream serves `resourceVersion=0` from its cache, which knows no pages.
    let limit = if options.version == Version::Any && after.is_none() { 0 } else { options.limit };
    if let Some(fields) = late(call, options) {
        let (entries, more) = chosen(call, &filter, &fields, &snapshot, after, limit).await?;
        let continue_token = entries.last().filter(|_| more).map(|last| token(call, &snapshot, &last.key));
        return Ok(List { revision: snapshot.revision, entries, continue_token, remaining: None });
    }
    let mut page = page_of(call, options, &filter, &snapshot, after.as_deref(), limit);
    page.entries = versions::all_served(&call.row, page.entries).await?;
    Ok(page)
}

/// The selector of fields that only the row's version of an object has; none where what is stored will do.
pub fn late(call: &Call, options: &ListOptions) -> Option<FieldSelector> {
    let is_late = call.row.convert.as_ref().is_some_and(|convert| convert.selects_late());
    let fields = options.fields.clone().only(|field| !is_metadata(field));
    (is_late && !fields.is_everything()).then_some(fields)
}

fn is_metadata(field: &str) -> bool {
    matches!(field, "metadata.name" | "metadata.namespace")
}

/// What of a page the row's version of each object decides. Objects are shown a batch at a time until the page is full; the flag
/// says whether there are more.
async fn chosen(
    call: &Call,
    filter: &Filter,
    fields: &FieldSelector,
    snapshot: &Snapshot,
    mut after: Option<String>,
    limit: usize,
) -> Result<(Vec<Arc<Entry>>, bool), ApiError> {
    let mut chosen = Vec::new();
    loop {
        let batch: Vec<_> = snapshot.select(filter, after.as_deref()).take(LATE_BATCH).cloned().collect();
        let is_last = batch.len() < LATE_BATCH;
        after = batch.last().map(|entry| entry.key.to_string());
        let shown = versions::all_served(&call.row, batch).await?;
        chosen.extend(shown.into_iter().filter(|entry| fields.matches(&entry.indexed.fields)));
        if limit > 0 && chosen.len() > limit {
            chosen.truncate(limit);
            return Ok((chosen, true));
        }
        if is_last {
            return Ok((chosen, false));
        }
    }
}

/// Where the page after this key begins. Its snapshot is kept.
fn token(call: &Call, snapshot: &Snapshot, last: &str) -> String {
    call.collection.pin(snapshot);
    Token { revision: Some(snapshot.revision), after: last.to_owned() }.encode(&call.row.prefix())
}

fn decide(options: &ListOptions, prefix: &str) -> Result<From, ApiError> {
    if let Some(token) = &options.continue_token {
        if matches!(options.version, Version::At(_)) {
            return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
        }
        return Token::decode(token, prefix).map(From::Token);
    }
    Ok(match (options.version, options.version_match) {
        (Version::At(revision), Some(VersionMatch::Exact)) => From::At(revision),
        // The meaning of a limited list from before resourceVersionMatch.
        (Version::At(revision), None) if options.limit > 0 => From::At(revision),
        _ => From::Now,
    })
}

/// What the request narrows the collection to. A name in a path or a selector becomes a key.
pub fn filter(call: &Call, options: &ListOptions) -> Result<Filter, ApiError> {
    let name = options.fields.exact("metadata.name");
    if !call.name.is_empty() && name.is_some_and(|name| name != call.name) {
        return Err(ApiError::bad_request("fieldSelector metadata.name doesn't match requested name"));
    }
    let name = name.or(Some(call.name.as_str())).filter(|name| !name.is_empty());
    // `metadata.namespace=a` across namespaces narrows as the path does.
    let selected = options.fields.exact("metadata.namespace").filter(|namespace| !namespace.is_empty());
    let namespace = call.namespace.as_deref().or(selected).filter(|_| call.row.namespaced());
    let key_prefix = match (call.row.namespaced(), namespace, name) {
        (true, Some(namespace), Some(name)) => call.row.key(Some(namespace), name),
        (true, Some(namespace), None) => format!("{}{namespace}/", call.row.prefix()),
        (false, _, Some(name)) => call.row.key(None, name),
        _ => String::new(),
    };
    let fields = match late(call, options) {
        Some(_) => options.fields.clone().only(is_metadata),
        None => options.fields.clone(),
    };
    Ok(Filter { key_prefix, labels: options.labels.clone(), fields })
}

fn page_of(
    call: &Call,
    options: &ListOptions,
    filter: &Filter,
    snapshot: &Snapshot,
    after: Option<&str>,
    limit: usize,
) -> List {
    let mut selected = snapshot.select(filter, after);
    if limit == 0 {
        let entries = selected.cloned().collect();
        return List { revision: snapshot.revision, entries, continue_token: None, remaining: None };
    }
    let entries: Vec<_> = selected.by_ref().take(limit).cloned().collect();
    let more = selected.next().is_some();
    let last = entries.last().map(|entry| Arc::clone(&entry.key)).filter(|_| more);
    let continue_token = last.as_ref().map(|last| token(call, snapshot, last));
    // With a selector the rest would have to be matched to be counted; upstream leaves the number out.
    let remaining =
        last.filter(|_| options.selects_everything()).map(|last| snapshot.count(&filter.key_prefix, Some(&last)));
    List { revision: snapshot.revision, entries, continue_token, remaining }
}

async fn snapshot_at(
    call: &Call,
    revision: Revision,
    expired: impl FnOnce() -> ApiError,
) -> Result<Snapshot, ApiError> {
    not_older_than(call, Version::At(revision)).await?;
    call.collection.snapshot_at(revision).await.map_err(|error| match error {
        wharf_cache::Error::Expired { .. } => expired(),
        error => cache_error(error),
    })
}

/// Waits until reads see the version, for as long as upstream does.
pub async fn not_older_than(call: &Call, version: Version) -> Result<(), ApiError> {
    let Version::At(revision) = version else { return Ok(()) };
    call.server.cache.wait_for(revision, FRESH_WAIT).await.map_err(cache_error)
}

/// What a client is told of a cache that cannot serve it.
pub fn cache_error(error: wharf_cache::Error) -> ApiError {
    match error {
        wharf_cache::Error::Expired { .. } => ApiError::expired(error.to_string()),
        wharf_cache::Error::Future { .. } => {
            let mut refusal = ApiError::timeout(error);
            let cause = StatusCause {
                field: None,
                message: Some("Too large resource version".to_owned()),
                reason: Some("ResourceVersionTooLarge".to_owned()),
            };
            refusal.details = Some(Box::new(StatusDetails {
                causes: Some(vec![cause]),
                retry_after_seconds: Some(RETRY_AFTER_S),
                ..StatusDetails::default()
            }));
            refusal
        }
        wharf_cache::Error::TooManyWatchers { .. } => ApiError::too_many_requests(error.to_string(), RETRY_AFTER_S),
        wharf_cache::Error::Store(wharf_store::Error::TooLarge { size, limit }) => {
            ApiError::too_large(format!("Request entity too large: the object is {size} bytes, the limit is {limit}"))
        }
        // As upstream, the key is named where a list meets it, and nowhere else.
        wharf_cache::Error::Store(wharf_store::Error::Transform { why, .. }) => ApiError::internal(why),
        wharf_cache::Error::Store(wharf_store::Error::Closed) => ApiError::unavailable("the store is closed"),
        error => {
            tracing::error!(error = &error as &dyn std::error::Error, "the cache failed");
            ApiError::internal(error)
        }
    }
}
