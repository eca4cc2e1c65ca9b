//! Which rows are served, and where their objects are.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use wharf_cache::{Collection, Error as CacheError};
use wharf_registry::Row;
use wharf_types::{ApiError, Gvr};

use super::ApiServer;
use crate::call::decode_stored;
use crate::options::ListOptions;
use crate::query::Query;
use crate::request::Verb;
use crate::route::Route;
use crate::verbs::list::cache_error;
use crate::{fairness, index, views};

/// A value that nobody can open now.
#[derive(Clone, Debug)]
pub(super) struct Unopened {
    key: String,
    why: String,
    since: Timestamp,
}

/// What a request gets by on without its resource's collection.
#[derive(Debug, PartialEq, Eq)]
enum Instead {
    /// Keys, read one by one.
    Keys,
    /// What is below this prefix now.
    Below(String),
    /// Nothing: it has to wait for the collection.
    Nothing,
}

/// As upstream, whose cache is not ready then: single objects and pages of lists without selectors come from the store.
/// Source: `cacher/delegator.go` (`Get`, `shouldDelegateListOnNotReadyCache`) and `Store.DeleteCollection`, which lists by pages.
fn instead(verb: Verb, route: &Route, query: &Query) -> Result<Instead, ApiError> {
    Ok(match verb {
        Verb::Watch => Instead::Nothing,
        Verb::List | Verb::DeleteCollection => {
            let options = ListOptions::parse(query, &route.row, false)?;
            let by_pages = options.limit > 0 || verb == Verb::DeleteCollection;
            match route.namespace.as_deref().filter(|_| route.row.namespaced()) {
                _ if !by_pages || !options.selects_everything() => Instead::Nothing,
                Some(namespace) => Instead::Below(format!("{}{namespace}/", route.row.prefix())),
                None => Instead::Below(route.row.prefix()),
            }
        }
        _ => Instead::Keys,
    })
}

fn unable(key: &str, why: &str) -> String {
    format!("unable to transform key {key:?}: {why}")
}

impl Unopened {
    /// Longest wait that a client is told.
    const RETRY_MAX_S: f64 = 30.0;

    /// As upstream says it, whose cache tells why its last list failed; the longer ago that was, the later clients come again.
    fn not_ready(&self, row: &Row, now: Timestamp) -> ApiError {
        // The package of upstream's Go type.
        let package = match row.gvk.group.split('.').next().unwrap_or_default() {
            "" => "core",
            group => group,
        };
        let failed = format!("failed to list *{package}.{}: {}", row.gvk.kind, unable(&self.key, &self.why));
        let down_s = now.duration_since(self.since).as_secs_f64();
        let wait_s = (0.06 * down_s).exp().clamp(1.0, Self::RETRY_MAX_S);
        // Cut off, as Go does.
        ApiError::too_many_requests(format!("storage is (re)initializing: {failed}"), wait_s as i32)
    }
}

impl ApiServer {
    /// Loads a row's collection, and tells its allocator what is held already. A row is served from then on.
    pub async fn serve(&self, row: &Row) -> Result<(), wharf_cache::Error> {
        let collection = match self.cache.collection(&row.prefix(), index::index(row)).await {
            Err(CacheError::Store(wharf_store::Error::Transform { key, why })) => {
                self.leave_unopened(&row.gvr, key, why);
                return Ok(());
            }
            loaded => loaded?,
        };
        if let Some(allocator) = self.allocators.get(&row.gvr) {
            let snapshot = collection.snapshot();
            let objects = snapshot.range("", None).filter_map(|entry| decode_stored(row, entry).ok());
            allocator.seed(&objects.collect::<Vec<_>>());
        }
        views::attach(&self.views, row, &collection);
        self.unopened.lock().remove(&row.gvr);
        self.collections.rcu(|held| {
            let mut collections = HashMap::clone(held);
            collections.insert(row.gvr.clone(), collection.clone());
            collections
        });
        if row.gvr.group == fairness::GROUP {
            let found = |resource: &'static str| {
                let held = self.collections.load();
                held.iter()
                    .find(|(gvr, _)| gvr.group == fairness::GROUP && gvr.resource == resource)
                    .map(|(_, it)| it.clone())
            };
            let both = found("flowschemas").zip(found("prioritylevelconfigurations"));
            self.flow_control.store(both.map(Arc::new));
        }
        Ok(())
    }

    /// Tries again to serve what could not be opened.
    pub async fn serve_unopened(&self) {
        let waiting: Vec<Gvr> = self.unopened.lock().keys().cloned().collect();
        for gvr in waiting {
            let Some(row) = self.table.find(&gvr.group, &gvr.version, &gvr.resource) else { continue };
            match self.serve(&row).await {
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, resource = %gvr.resource, "serve what was sealed");
                }
                Ok(()) if self.unopened.lock().contains_key(&gvr) => {}
                Ok(()) => tracing::info!(resource = %gvr.resource, "what is stored can be opened: served again"),
            }
        }
    }

    fn leave_unopened(&self, gvr: &Gvr, key: String, why: String) {
        let mut unopened = self.unopened.lock();
        let known = unopened.get(gvr);
        if known.is_some_and(|known| known.key == key && known.why == why) {
            return;
        }
        tracing::error!(resource = %gvr.resource, key, why, "what is stored cannot be opened: served in part for now");
        let since = known.map_or_else(|| (self.clock)(), |known| known.since);
        unopened.insert(gvr.clone(), Unopened { key, why, since });
    }

    /// What stands in for the collection of a resource of which some value cannot be opened: a part of it for this one
    /// request, read from the store; or why there is none.
    pub(super) async fn glimpse(&self, route: &Route, verb: Verb, query: &Query) -> Result<Arc<Collection>, ApiError> {
        let row = &route.row;
        let Some(unopened) = self.unopened.lock().get(&row.gvr).cloned() else { return Err(ApiError::no_such_path()) };
        let below = match instead(verb, route, query)? {
            Instead::Nothing => return Err(unopened.not_ready(row, (self.clock)())),
            // What is held already is not known.
            Instead::Keys if verb.mutates() && self.allocators.get(&row.gvr).is_some() => {
                return Err(ApiError::internal(unopened.why));
            }
            Instead::Keys => None,
            Instead::Below(prefix) => Some(prefix),
        };
        let glimpse = self.cache.glimpse(&row.prefix(), index::index(row), below.as_deref()).await;
        glimpse.map_err(|error| match error {
            // As upstream, the key is named where a list meets it, and nowhere else.
            CacheError::Store(wharf_store::Error::Transform { key, why }) => ApiError::internal(unable(&key, &why)),
            error => cache_error(error),
        })
    }

    /// Serves rows, in place of what was served under their names, or of the same storage. Watches of what is replaced end,
    /// as they do upstream: the clients list again and see the new shape.
    pub async fn put_rows(&self, rows: Vec<Row>) -> Result<(), wharf_cache::Error> {
        let prefixes: BTreeSet<String> = rows.iter().map(Row::prefix).collect();
        let names: Vec<Gvr> = rows.iter().map(|row| row.gvr.clone()).collect();
        prefixes.iter().for_each(|prefix| self.cache.remove_collection(prefix));
        self.table.put(rows);
        let mut served: Vec<_> =
            names.iter().filter_map(|gvr| self.table.find(&gvr.group, &gvr.version, &gvr.resource)).collect();
        // What is stored brings the index.
        served.sort_by_key(|row| row.convert.as_ref().is_some_and(|convert| convert.concerns(u64::MAX)));
        for row in served {
            self.serve(&row).await?;
        }
        Ok(())
    }

    /// Stops serving rows: they are not found any more, and their watches end. What is stored stays stored.
    pub fn remove_rows(&self, rows: &[Arc<Row>]) {
        self.table.remove(rows.iter().map(|row| &row.gvr));
        self.collections.rcu(|held| {
            let mut collections = HashMap::clone(held);
            collections.retain(|gvr, _| rows.iter().all(|row| row.gvr != *gvr));
            collections
        });
        let kept: BTreeSet<String> = self.table.all().iter().map(|row| row.prefix()).collect();
        for prefix in rows.iter().map(|row| row.prefix()).filter(|prefix| !kept.contains(prefix)) {
            self.cache.remove_collection(&prefix);
        }
    }

    /// Where a row's objects are; none if it is not served yet.
    pub fn collection(&self, row: &Row) -> Option<Arc<Collection>> {
        self.collection_of(&row.gvr)
    }

    pub fn collection_of(&self, gvr: &Gvr) -> Option<Arc<Collection>> {
        self.collections.load().get(gvr).cloned()
    }
}

#[cfg(test)]
mod tests {
    use wharf_registry::{Table, builtin};

    use super::*;

    #[test]
    fn objects_and_plain_pages_are_read_without_the_cache() {
        let row = Table::new(builtin::rows()).find("", "v1", "secrets").expect("secrets are served");
        let check = |verb: Verb, namespace: Option<&str>, query: &str, expected: Instead| {
            let namespace = namespace.map(str::to_owned);
            let route = Route { row: row.clone(), subresource: None, namespace, name: String::new() };
            assert_eq!(instead(verb, &route, &Query::parse(query)).expect("a query"), expected, "{verb:?} {query}");
        };
        let below = |prefix: &str| Instead::Below(prefix.to_owned());
        for verb in [Verb::Get, Verb::Create, Verb::Update, Verb::Patch, Verb::Delete] {
            check(verb, Some("a"), "", Instead::Keys);
        }
        check(Verb::List, Some("a"), "limit=500", below("/registry/secrets/a/"));
        check(Verb::List, None, "limit=500", below("/registry/secrets/"));
        check(Verb::DeleteCollection, Some("a"), "", below("/registry/secrets/a/"));
        for query in ["", "limit=500&labelSelector=a", "limit=500&fieldSelector=metadata.name%3Da"] {
            check(Verb::List, Some("a"), query, Instead::Nothing);
        }
        check(Verb::Watch, Some("a"), "limit=500", Instead::Nothing);
    }

    #[test]
    fn who_needs_the_cache_comes_again_later_and_later() {
        let row = Table::new(builtin::rows()).find("", "v1", "secrets").expect("secrets are served");
        let unopened = Unopened { key: "/registry/secrets/a/b".into(), why: "no".into(), since: Timestamp::UNIX_EPOCH };
        for (second, expected) in [(0, 1), (30, 6), (600, 30)] {
            let now = Timestamp::from_second(second).expect("a time");
            let error = unopened.not_ready(&row, now);
            let wait = error.details.and_then(|details| details.retry_after_seconds);
            assert_eq!((error.code, wait), (429, Some(expected)), "{second}");
            let why = "storage is (re)initializing: failed to list *core.Secret: unable to transform key \"/registry/secrets/a/b\": no";
            assert_eq!(error.message, why);
        }
    }
}
