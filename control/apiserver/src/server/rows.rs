//! Which rows are served, and where their objects are.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use wharf_cache::Collection;
use wharf_registry::Row;
use wharf_types::{ApiError, Gvr};

use super::ApiServer;
use crate::call::decode_stored;
use crate::request::Verb;
use crate::{fairness, index, views};

impl ApiServer {
    /// Loads a row's collection, and tells its allocator what is held already. A row is served from then on.
    pub async fn serve(&self, row: &Row) -> Result<(), wharf_cache::Error> {
        let collection = match self.cache.collection(&row.prefix(), index::index(row)).await {
            Err(wharf_cache::Error::Store(wharf_store::Error::Transform { key, why })) => {
                tracing::error!(resource = %row.gvr.resource, key, why, "what is stored cannot be opened: not served for now");
                self.unopened.lock().insert(row.gvr.clone(), (key, why));
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

    /// Why a resource is not served although it is known, if that is so.
    pub(super) fn unopened(&self, gvr: &Gvr, verb: Verb) -> Option<ApiError> {
        let unopened = self.unopened.lock();
        let (key, why) = unopened.get(gvr)?;
        // As upstream, the key is named where a list meets it, and nowhere else.
        Some(match verb {
            Verb::List | Verb::Watch | Verb::DeleteCollection => {
                ApiError::internal(format!("unable to transform key {key:?}: {why}"))
            }
            _ => ApiError::internal(why),
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
