//! Requests that are handed on: `proxy` of pods, services and nodes; `exec`, `attach` and `portforward` of pods.
//!
//! Source: `pkg/registry/core/{pod,service,node}/rest` and `ConnectResource` in `k8s.io/apiserver/pkg/endpoints/handlers`. The
//! body is not read here and there is no time limit: what goes through lasts as long as both ends like.
//! Absent on purpose: translating websockets into SPDY. Nodes serve both, as kubelets do from 1.36 on.

pub mod forward;
mod html;
mod rewrite;
mod stream;
mod target;
pub mod transport;
pub mod websocket;

use std::sync::Arc;

use http::request::Parts;
use http::{Method, Request, Response};
use wharf_admission::{ConnectOptions, Operation};
use wharf_auth::{Decision, User};
use wharf_registry::Subresource;
use wharf_types::ApiError;

use forward::forward;
pub use transport::Outgoing;

use crate::call::Call;
use crate::query::Query;
use crate::reply::{self, Body};
use crate::request::{Info, Resource, Verb};
use crate::route;
use crate::server::ApiServer;

/// What a proxy passes on; the verbs of upstream's `proxyMethods`.
const PROXIED: &[Method] =
    &[Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD, Method::OPTIONS];

/// True for requests that are handed on instead of being answered here.
pub fn serves(resource: &Resource) -> bool {
    resource.named && matches!(resource.subresource.as_deref(), Some("proxy" | "exec" | "attach" | "portforward"))
}

/// Hands an authorized request on.
pub async fn answer(
    server: &Arc<ApiServer>,
    parts: Parts,
    body: Body,
    query: Query,
    info: &Info,
    resource: &Resource,
    user: User,
) -> Result<Response<Body>, ApiError> {
    // HEAD and OPTIONS are no verbs of a resource, but a proxy passes them on.
    let passed_on = resource.subresource.as_deref() == Some("proxy") && PROXIED.contains(&parts.method);
    let verb = if passed_on && info.verb == Verb::Other { Verb::Get } else { info.verb };
    route::resolve(&server.table, resource, verb)?;
    let (mut bare, ()) = Request::new(()).into_parts();
    bare.headers = parts.headers.clone();
    let mut call = server.call(bare, query, &Info { verb, ..info.clone() }, resource, user).await?;
    let path = target::path(&resource.rest, parts.uri.path().ends_with('/'));
    // What plugins have to say goes with the answer, whoever gives that.
    let mut response = match hand_on(&mut call, &path, info, Request::from_parts(parts, body)).await {
        Ok(mut response) => {
            reply::add_warnings(&mut response, &call.notes.warnings);
            response
        }
        Err(error) => reply::refuse(&call, &error),
    };
    call.annotate(&mut response);
    Ok(response)
}

async fn hand_on(call: &mut Call, path: &str, info: &Info, request: Request<Body>) -> Result<Response<Body>, ApiError> {
    let path = admit(call, path).await?;
    match call.subresource {
        Some(Subresource::Proxy) => proxy(call, path, request).await,
        _ => {
            ensure_create(call, info).await?;
            stream::hand_on(call, request).await
        }
    }
}

/// Lets plugins see the request's options, and change them; returns the path that is asked of a proxy.
async fn admit(call: &mut Call, path: &str) -> Result<String, ApiError> {
    let kind = call.subresource.and_then(|part| ConnectOptions::kind_of(call.gvr(), part)).unwrap_or_default();
    let asked = ConnectOptions::read(kind, &|name| call.query.all(name), path);
    let mut attributes = call.attributes(Operation::Connect, Some(Box::new(asked.clone())), None, false);
    call.admit(&mut attributes).await?;
    call.validate(&attributes).await?;
    let admitted = attributes.object.as_deref().and_then(|object| object.downcast_ref::<ConnectOptions>());
    let Some(admitted) = admitted.filter(|admitted| **admitted != asked) else { return Ok(path.to_owned()) };
    let parameters = admitted.parameters();
    let path = parameters.iter().find(|(name, _)| name == "path").map_or("", |(_, path)| path).to_owned();
    call.query = parameters.into_iter().collect();
    Ok(target::path(std::slice::from_ref(&path), path.ends_with('/')))
}

async fn proxy(call: &Call, path: String, request: Request<Body>) -> Result<Response<Body>, ApiError> {
    let mut backend = target::find(call)?;
    backend.path = path;
    forward(&call.server.outgoing, call.server.nodes.as_ref(), backend, request).await
}

/// A websocket begins with GET, which must not let in who may only read: streams need `create` in any case.
/// Source: `ensureAuthorizedForVerb` in `pkg/registry/core/pod/rest/authorize.go`.
async fn ensure_create(call: &Call, info: &Info) -> Result<(), ApiError> {
    if info.verb == Verb::Create {
        return Ok(());
    }
    let attributes = wharf_auth::Attributes { verb: Verb::Create.name().to_owned(), ..info.attributes() };
    match call.server.authorizer.authorize(&call.user, &attributes).await {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(why) | Decision::NoOpinion(why) | Decision::Failed { why, .. } => {
            Err(ApiError::forbidden(call.gvr(), &call.name, why))
        }
    }
}
