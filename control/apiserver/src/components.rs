//! ComponentStatuses: the parts of the control plane, each asked when somebody wants to know.
//!
//! Source: `pkg/registry/core/componentstatus`. Nothing is stored, so there is no version and nothing to watch. Components are
//! told of by who starts them; the store is `etcd-0`, as clients expect. Invariant: asking does no I/O.

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::request::Parts;
use http::{Response, StatusCode};
use wharf_cache::{Entry, EventType};
use wharf_registry::Row;
use wharf_store::Revision;
use wharf_types::ApiError;
use wharf_types::k8s::api::core::v1::{ComponentCondition, ComponentStatus};
use wharf_types::meta::ObjectMeta;

use crate::health::Check;
use crate::index;
use crate::options::ListOptions;
use crate::query::Query;
use crate::reply::{self, Asker, Body, List, Reply};
use crate::request::{Resource, Verb};
use crate::route;
use crate::server::ApiServer;

const RESOURCE: &str = "componentstatuses";

/// The parts of the control plane, by name.
#[derive(Default)]
pub struct Components(ArcSwap<Vec<Check>>);

impl Components {
    /// Adds a component, or replaces the one of its name.
    pub fn add(&self, check: Check) {
        self.0.rcu(|held| {
            let mut checks: Vec<Check> = held.iter().filter(|held| held.name() != check.name()).cloned().collect();
            checks.push(check.clone());
            checks.sort_by(|a, b| a.name().cmp(b.name()));
            checks
        });
    }

    fn all(&self) -> Vec<ComponentStatus> {
        self.0.load().iter().map(status).collect()
    }
}

pub fn is(row: &Row) -> bool {
    row.gvr.group.is_empty() && row.gvr.resource == RESOURCE
}

pub fn serves(resource: &Resource) -> bool {
    resource.group.is_empty() && resource.resource == RESOURCE
}

/// Answers an authorized request.
pub fn answer(
    server: &ApiServer,
    parts: &Parts,
    query: &Query,
    resource: &Resource,
    verb: Verb,
) -> Result<Response<Body>, ApiError> {
    let route = route::resolve(&server.table, resource, verb)?;
    let row = &*route.row;
    let warnings: Vec<String> = row.kind.deprecation().map(str::to_owned).into_iter().collect();
    let reply = match verb {
        Verb::Get => get(&server.components, &route.name)?,
        _ => list(&server.components, query, row)?,
    };
    let asker = Asker { row, headers: &parts.headers, query, now: (server.clock)(), warnings: &warnings };
    reply::render_for(asker, reply)
}

fn get(components: &Components, name: &str) -> Result<Reply, ApiError> {
    let found = components.all().into_iter().find(|component| component.metadata.name.as_deref() == Some(name));
    // No NotFound: upstream's error has no type.
    let found = found.ok_or_else(|| ApiError::internal(format!("Component not found: {name}")))?;
    Ok(Reply::Object { code: StatusCode::OK, bytes: encode(&found).into() })
}

fn list(components: &Components, query: &Query, row: &Row) -> Result<Reply, ApiError> {
    let options = ListOptions::parse(query, row, false)?;
    let index = index::index(row);
    let all = components.all().into_iter().map(|component| {
        let (name, bytes) = (component.metadata.name.clone().unwrap_or_default(), encode(&component));
        let entry = Entry::new(name.as_str().into(), Revision(0), &bytes, &*index, EventType::Added);
        entry.shown_as(&bytes, entry.indexed.clone(), EventType::Added)
    });
    let chosen = all
        .filter(|entry| options.labels.matches(&entry.indexed.labels) && options.fields.matches(&entry.indexed.fields));
    let entries = chosen.map(Arc::new).collect();
    Ok(Reply::List(List { revision: Revision(0), entries, continue_token: None, remaining: None }))
}

fn encode(component: &ComponentStatus) -> Vec<u8> {
    serde_json::to_vec(component).expect("Kubernetes structs serialise to JSON")
}

fn status(check: &Check) -> ComponentStatus {
    let condition = match check.ask() {
        Ok(()) => ComponentCondition { status: "True".to_owned(), message: Some("ok".to_owned()), ..healthy() },
        Err(why) => ComponentCondition { status: "False".to_owned(), error: Some(why), ..healthy() },
    };
    ComponentStatus {
        metadata: ObjectMeta { name: Some(check.name().to_owned()), ..ObjectMeta::default() },
        conditions: Some(vec![condition]),
    }
}

fn healthy() -> ComponentCondition {
    ComponentCondition { type_: "Healthy".to_owned(), ..ComponentCondition::default() }
}
