//! What a request waits for before it is looked at: its seats, by flow schemas and priority levels as they are stored.

use wharf_admission::Reader;
use wharf_auth::User;
use wharf_types::{ApiError, Gvr};

use super::ApiServer;
use super::handle::Known;
use crate::call::Cluster;
use crate::fairness::{self, Ticket, Width};
use crate::metrics::Under;
use crate::query::Query;
use crate::request::{Info, Target, Verb};

/// What a client is told to wait that found no seat.
const RETRY_AFTER_S: i32 = 1;

/// A request under way, until it is dropped.
pub(super) struct InFlight {
    _seats: Ticket,
    _counted: Option<Under>,
}

impl ApiServer {
    /// Seats for the request, when it is its turn. Streams need none but for their beginning, which a watch has.
    pub(super) async fn admit_load(
        &self,
        info: &Info,
        query: &Query,
        user: &User,
        known: &mut Known,
    ) -> Result<Option<InFlight>, ApiError> {
        if info.long_running() && info.verb != Verb::Watch {
            return Ok(None);
        }
        self.follow_flow_control();
        let sorted = known.sorted.insert(self.fairness.sort(user, info)).clone();
        let mutating = info.verb.mutates();
        let width = Width::of(info, query, || self.held(info));
        let seats = self.fairness.admit(&sorted, user, info, width).await.map_err(|refusal| {
            tracing::debug!(user = user.name, path = info.path, reason = refusal.reason(), "refused for want of seats");
            self.metrics.rejected(mutating);
            ApiError::too_many_requests("Too many requests, please try again later.", RETRY_AFTER_S)
        })?;
        let counted = (!info.long_running()).then(|| self.metrics.in_flight(mutating));
        Ok(Some(InFlight { _seats: seats, _counted: counted }))
    }

    /// How many objects and watchers the request's collection has.
    fn held(&self, info: &Info) -> (usize, usize) {
        let Target::Resource(resource) = &info.target else { return (0, 0) };
        let row = self.table.find(&resource.group, &resource.version, &resource.resource);
        let collection = row.and_then(|row| self.collection(&row));
        collection.map_or((0, 0), |collection| (collection.len(), collection.watchers()))
    }

    /// Takes up flow schemas and priority levels that have changed.
    fn follow_flow_control(&self) {
        let held = self.flow_control.load();
        let Some((schemas, levels)) = held.as_deref() else { return };
        let version = schemas.last().max(levels.last()).0;
        if !self.fairness.is_stale(version) {
            return;
        }
        self.fairness.refresh(version, &self.stored("flowschemas"), &self.stored("prioritylevelconfigurations"));
    }

    /// The objects of a resource of flow control.
    fn stored<K: Clone + 'static>(&self, resource: &'static str) -> Vec<K> {
        let gvr = Gvr { group: fairness::GROUP.into(), version: "v1".into(), resource: resource.into() };
        let objects = Cluster(self).list(&gvr, None);
        objects.iter().filter_map(|object| object.downcast_ref::<K>().cloned()).collect()
    }
}
