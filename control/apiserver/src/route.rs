//! From a path to a row, a subresource and the verb's code.
//!
//! [`verbs`] is the one list of what is served; discovery reads it too. Requests that are handed on (`proxy`,
//! `exec`, …) are routed here and answered by [`crate::connect`]. Absent until its issue comes: `token`.

use std::sync::Arc;

use bytes::Bytes;
use wharf_registry::{Row, Subresource, Table};
use wharf_types::ApiError;

use crate::call::Call;
use crate::components;
use crate::reply::Reply;
use crate::request::{Resource, Verb};
use crate::subresource::{binding, eviction, log, scale, token};
use crate::verbs::write::Rules;
use crate::verbs::{create, delete, delete_collection, get, list, patch, update, watch};

/// What a resource can do, in the order in which discovery names it.
const ALL: &[Verb] = &[
    Verb::Create,
    Verb::Delete,
    Verb::DeleteCollection,
    Verb::Get,
    Verb::List,
    Verb::Patch,
    Verb::Update,
    Verb::Watch,
];
const NAMESPACES: &[Verb] =
    &[Verb::Create, Verb::Delete, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch];
const PROXY: &[Verb] = &[Verb::Create, Verb::Delete, Verb::Get, Verb::Patch, Verb::Update];
const VIEW: &[Verb] = &[Verb::Get, Verb::Patch, Verb::Update];

/// What is served of a row or its subresource; empty if nothing is.
pub fn verbs(row: &Row, subresource: Option<Subresource>) -> &'static [Verb] {
    match subresource {
        Some(subresource) if !row.has(subresource) => &[],
        None if row.gvr.resource == "namespaces" && row.gvr.group.is_empty() => NAMESPACES,
        None if row.is_virtual() && components::is(row) => &[Verb::Get, Verb::List],
        None if row.is_virtual() => &[Verb::Create],
        None => ALL,
        Some(Subresource::Status | Subresource::Scale | Subresource::Approval) => VIEW,
        Some(Subresource::EphemeralContainers | Subresource::Resize) => VIEW,
        Some(Subresource::Binding | Subresource::Eviction | Subresource::Token) => &[Verb::Create],
        Some(Subresource::Finalize) => &[Verb::Update],
        Some(Subresource::Log) => &[Verb::Get],
        Some(Subresource::Exec | Subresource::Attach | Subresource::PortForward) => &[Verb::Create, Verb::Get],
        Some(Subresource::Proxy) => PROXY,
    }
}

/// Where a request goes.
pub struct Route {
    pub row: Arc<Row>,
    pub subresource: Option<Subresource>,
    /// None for cluster-scoped resources and across namespaces.
    pub namespace: Option<String>,
    /// Empty where the path names none.
    pub name: String,
}

/// Finds the row, or says what upstream's router says.
pub fn resolve(table: &Table, resource: &Resource, verb: Verb) -> Result<Route, ApiError> {
    let row = table.find(&resource.group, &resource.version, &resource.resource).ok_or_else(ApiError::no_such_path)?;
    let namespace = namespace_of(&row, resource)?;
    let subresource = match resource.subresource.as_deref() {
        None => None,
        Some(name) => {
            let found = row.subresources.iter().find(|subresource| subresource.name() == name);
            Some(*found.ok_or_else(ApiError::no_such_path)?)
        }
    };
    let served = verbs(&row, subresource);
    if served.is_empty() || (!resource.rest.is_empty() && subresource != Some(Subresource::Proxy)) {
        return Err(ApiError::no_such_path());
    }
    let one_namespace = namespace.is_some() || !row.namespaced();
    let fits = match verb {
        // A subresource's POST goes to one object.
        Verb::Create => resource.named == subresource.is_some() && one_namespace,
        Verb::DeleteCollection => one_namespace,
        Verb::List | Verb::Watch => true,
        _ => resource.named && one_namespace,
    };
    if !served.contains(&verb) || !fits {
        // A name without its namespace is no path at all.
        let lost = resource.named && !one_namespace;
        return Err(if lost { ApiError::no_such_path() } else { method_not_allowed() });
    }
    for part in [namespace.as_deref(), resource.name.as_deref()].into_iter().flatten() {
        check_segment(part)?;
    }
    Ok(Route { row, subresource, namespace, name: resource.name.clone().unwrap_or_default() })
}

/// The namespace that the path puts the request in, for a row that has namespaces.
fn namespace_of(row: &Row, resource: &Resource) -> Result<Option<String>, ApiError> {
    let is_namespace = row.gvr.resource == "namespaces" && row.gvr.group.is_empty();
    match (&resource.namespace, row.namespaced()) {
        (namespace, true) => Ok(namespace.clone()),
        (None, false) => Ok(None),
        // A namespace's own path reads as if it were in itself.
        (Some(namespace), false) if is_namespace && resource.name.as_ref() == Some(namespace) => Ok(None),
        (Some(_), false) => Err(ApiError::no_such_path()),
    }
}

fn method_not_allowed() -> ApiError {
    ApiError::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
}

/// A name goes into a key and must stay one segment of it.
fn check_segment(name: &str) -> Result<(), ApiError> {
    let why = match name {
        "." => "may not be '.'",
        ".." => "may not be '..'",
        name if name.contains('/') => "may not contain '/'",
        name if name.contains('%') => "may not contain '%'",
        _ => return Ok(()),
    };
    Err(ApiError::bad_request(format!("Name parameter invalid: {name:?}: {why}")))
}

/// Runs the verb.
pub async fn dispatch(call: &mut Call, verb: Verb, body: Bytes) -> Result<Reply, ApiError> {
    match (call.subresource, verb) {
        (None | Some(Subresource::Status | Subresource::Approval), Verb::Get) => get::get(call).await,
        (Some(Subresource::EphemeralContainers | Subresource::Resize), Verb::Get) => get::get(call).await,
        (Some(part @ (Subresource::EphemeralContainers | Subresource::Resize)), Verb::Update) => {
            update::update(call, Rules::Of(part), body).await
        }
        (Some(part @ (Subresource::EphemeralContainers | Subresource::Resize)), Verb::Patch) => {
            patch::patch(call, Rules::Of(part), body).await
        }
        (None, Verb::List) => list::list(call).await,
        (None, Verb::Watch) => watch::watch(call).await,
        (None, Verb::Create) if call.row.is_virtual() => binding::create(call, body).await,
        (None, Verb::Create) => create::create(call, body).await,
        (None, Verb::Update) => update::update(call, Rules::Main, body).await,
        (None, Verb::Patch) => patch::patch(call, Rules::Main, body).await,
        (None, Verb::Delete) => delete::delete(call, body).await,
        (None, Verb::DeleteCollection) => delete_collection::delete_collection(call, body).await,
        (Some(Subresource::Status), Verb::Update) => update::update(call, Rules::Status, body).await,
        (Some(Subresource::Status), Verb::Patch) => patch::patch(call, Rules::Status, body).await,
        (Some(Subresource::Finalize), Verb::Update) => update::update(call, Rules::Finalize, body).await,
        (Some(which @ Subresource::Approval), Verb::Update) => update::update(call, Rules::Of(which), body).await,
        (Some(which @ Subresource::Approval), Verb::Patch) => patch::patch(call, Rules::Of(which), body).await,
        (Some(Subresource::Scale), Verb::Get) => scale::get(call).await,
        (Some(Subresource::Scale), Verb::Update) => scale::update(call, body).await,
        (Some(Subresource::Scale), Verb::Patch) => scale::patch(call, body).await,
        (Some(Subresource::Binding), Verb::Create) => binding::create(call, body).await,
        (Some(Subresource::Eviction), Verb::Create) => eviction::create(call, body).await,
        (Some(Subresource::Log), Verb::Get) => log::get(call).await,
        (Some(Subresource::Token), Verb::Create) => token::create(call, body).await,
        _ => Err(method_not_allowed()),
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::query::Query;
    use crate::request::{Info, Target};

    fn check(method: Method, path: &str, expected: Result<&str, u16>) {
        let table = Table::new(wharf_registry::builtin::rows());
        let info = Info::parse(&method, path, &Query::default());
        let Target::Resource(resource) = &info.target else { panic!("{path} is no resource") };
        let got = resolve(&table, resource, info.verb);
        let got = got.map(|route| route.row.key(route.namespace.as_deref(), &route.name)).map_err(|error| error.code);
        assert_eq!(got.as_deref().map_err(|code| *code), expected, "{method} {path}");
    }

    #[test]
    fn paths_lead_to_rows() {
        check(Method::GET, "/api/v1/namespaces/a/pods/b", Ok("/registry/pods/a/b"));
        check(Method::GET, "/api/v1/nodes/n", Ok("/registry/minions/n"));
        check(Method::GET, "/api/v1/namespaces/a", Ok("/registry/namespaces/a"));
        check(Method::PUT, "/api/v1/namespaces/a/finalize", Ok("/registry/namespaces/a"));
        check(Method::POST, "/api/v1/namespaces/a/pods/b/binding", Ok("/registry/pods/a/b"));
        check(Method::GET, "/apis/apps/v1/namespaces/a/deployments/b/scale", Ok("/registry/deployments/a/b"));
        check(Method::POST, "/api/v1/namespaces/a/pods/b/exec", Ok("/registry/pods/a/b"));
        check(
            Method::GET,
            "/api/v1/namespaces/a/services/https:b:443/proxy/x/y",
            Ok("/registry/services/specs/a/https:b:443"),
        );
    }

    #[test]
    fn what_is_not_served_is_not_found() {
        for path in [
            "/api/v1/things",
            "/apis/apps/v2/deployments",
            "/api/v1/pods/b",
            "/api/v1/namespaces/a/nodes/b",
            "/api/v1/namespaces/a/namespaces/b",
            "/api/v1/namespaces/a/configmaps/b/status",
            "/api/v1/namespaces/a/pods/b/nonsense",
            "/api/v1/namespaces/a/pods/b/exec/more",
            "/api/v1/namespaces/a/pods/b/log/more",
        ] {
            check(Method::GET, path, Err(404));
        }
    }

    #[test]
    fn other_methods_are_not_allowed() {
        check(Method::POST, "/api/v1/pods", Err(405));
        check(Method::DELETE, "/api/v1/pods", Err(405));
        check(Method::DELETE, "/api/v1/namespaces", Err(405));
        check(Method::HEAD, "/api/v1/namespaces/a/pods/b", Err(405));
        check(Method::OPTIONS, "/api/v1/nodes", Err(405));
        check(Method::POST, "/api/v1/namespaces/a/pods/b", Err(405));
        check(Method::POST, "/api/v1/namespaces/a/pods/b/log", Err(405));
    }

    #[test]
    fn a_name_is_one_segment() {
        check(Method::GET, "/api/v1/namespaces/a/pods/b%2Fc", Err(400));
        check(Method::GET, "/api/v1/namespaces/../pods/b", Err(400));
    }
}
