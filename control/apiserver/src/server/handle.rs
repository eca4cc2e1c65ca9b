//! The order in which a request passes through the server.
//!
//! Source: `DefaultBuildHandlerChain` upstream. Invariants: a write that has begun is finished even if its client goes away, so
//! what it allocated is never given back under a committed object; a panic ends one request, not the server.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, header};
use wharf_admission::Notes;
use wharf_auth::{Attributes, Decision, Remarks, User, bearer, duration};
use wharf_types::{ApiError, Gvr};

use super::load::InFlight;
use super::{ApiServer, in_process};
use crate::aggregate;
use crate::audit::Trail;
use crate::call::Call;
use crate::components;
use crate::connect;
use crate::fairness::Sorted;
use crate::impersonate::Impersonated;
use crate::measure;
use crate::negotiate;
use crate::nonresource;
use crate::query::Query;
use crate::reply::{self, Body};
use crate::request::{Info, Resource, Target, URI_MAX, Verb};
use crate::review;
use crate::route;
use crate::subresource::binding;

/// How long a request may take that is no stream: upstream's `--request-timeout`.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// What is known of a request when it is answered, however that comes about.
#[derive(Default)]
pub(super) struct Known {
    trail: Option<Trail>,
    remarks: Remarks,
    pub(super) sorted: Option<Arc<Sorted>>,
}

/// A request that has been read but for its body.
struct Incoming {
    parts: Parts,
    body: Body,
    query: Query,
    id: HeaderValue,
}

impl ApiServer {
    /// Answers one request. This is the order of things.
    pub async fn handle(self: &Arc<Self>, request: Request<Body>) -> Response<Body> {
        let began = Instant::now();
        let id = audit_id(&request);
        let (parts, body) = request.into_parts();
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let info = Info::parse(&parts.method, parts.uri.path(), &query);
        let labels = measure::labels(&self.table, &info, &query);
        let pretty = negotiate::is_pretty(&parts.headers, &query);
        let mut known = Known::default();
        let incoming = Incoming { parts, body, query, id: id.clone() };
        let answered = AssertUnwindSafe(self.answer(incoming, &info, &mut known)).catch_unwind().await;
        let mut response = match answered {
            Ok(Ok(response)) => response,
            Ok(Err(error)) if pretty => reply::pretty_error(&error),
            Ok(Err(error)) => reply::error(&error),
            Err(_) => {
                tracing::error!(path = info.path, "a handler panicked");
                if let Some(mut trail) = known.trail.take() {
                    trail.panicked((self.clock)());
                }
                reply::error(&panicked())
            }
        };
        if let Some(trail) = known.trail {
            response = trail.answered(response, info.long_running(), &self.clock).await;
        }
        reply::add_warnings(&mut response, &known.remarks.warnings);
        let headers = response.headers_mut();
        headers.insert("audit-id", id);
        if let Some(sorted) = &known.sorted {
            sorted.mark(headers);
        }
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let took = (!info.long_running()).then(|| began.elapsed());
        self.metrics.answered(&labels, response.status().as_u16(), took);
        if info.long_running() && response.status().is_success() {
            response = measure::while_it_lasts(response, self.metrics.long_running(&labels));
        }
        response
    }

    async fn answer(
        self: &Arc<Self>,
        mut incoming: Incoming,
        info: &Info,
        known: &mut Known,
    ) -> Result<Response<Body>, ApiError> {
        let parts = &incoming.parts;
        let length = parts.uri.path_and_query().map_or(0, |text| text.as_str().len());
        if length > URI_MAX {
            return Err(ApiError::new(
                414,
                "",
                format!("the request's path and query are longer than {URI_MAX} bytes"),
            ));
        }
        let limit = time_limit(info, &incoming.query)?;
        let attributes = info.attributes();
        let identified = self.identify(parts, &mut known.remarks).await;
        if let Some(auditor) = self.audit.get() {
            let id = incoming.id.to_str().unwrap_or_default();
            known.trail = auditor.begin(id, parts, info, identified.as_ref().ok(), (self.clock)());
        }
        if let Some(trail) = &mut known.trail {
            known.remarks.annotations.iter().for_each(|(key, value)| trail.annotate(key, value));
        }
        let identified = identified?;
        bearer::strip(&mut incoming.parts.headers);
        let headers = &mut incoming.parts.headers;
        let user = match self.impersonation.resolve(headers, &identified, &attributes, &*self.authorizer).await? {
            None => identified,
            Some(Impersonated { user, constraint }) => {
                if let Some(trail) = &mut known.trail {
                    trail.impersonated(&user, &constraint);
                }
                user
            }
        };
        let place = self.admit_load(info, &incoming.query, &user, known).await?;
        let decision = self.authorizer.authorize(&user, &attributes).await;
        if let Some(trail) = &mut known.trail {
            trail.decided(&decision);
        }
        match decision {
            Decision::Allow(_) => {}
            Decision::Deny(why) | Decision::NoOpinion(why) => return Err(forbidden(&user, &attributes, &why)),
            Decision::Failed { why, .. } => return Ok(undecided(&incoming.parts, &why)),
        }
        let work = self.serve_one(incoming, info, user, place, &mut known.trail);
        match limit {
            None => work.await,
            Some(limit) => tokio::time::timeout(limit, work)
                .await
                .unwrap_or_else(|_| Err(ApiError::timeout("request did not complete within the allotted timeout"))),
        }
    }

    /// From here on the request is allowed.
    async fn serve_one(
        self: &Arc<Self>,
        incoming: Incoming,
        info: &Info,
        user: User,
        place: Option<InFlight>,
        trail: &mut Option<Trail>,
    ) -> Result<Response<Body>, ApiError> {
        let Incoming { mut parts, body, query, id } = incoming;
        let built_in = match self.aggregator.find(self, info) {
            Some(remote) if !remote.is_built_in() => {
                return self.aggregator.pass(self, remote, parts, body, &user).await;
            }
            found => found.is_some(),
        };
        if let Target::Resource(resource) = &info.target
            && connect::serves(resource)
        {
            return connect::answer(self, parts, body, query, info, resource, user).await;
        }
        // What is not passed on may be made for people to read.
        let pretty = info.has_objects() && !info.long_running() && negotiate::is_pretty(&parts.headers, &query);
        if pretty {
            parts.headers.remove(header::ACCEPT_ENCODING);
        }
        let incoming = Incoming { parts, body, query, id };
        let answer = self.serve_own(incoming, info, user, place, trail, built_in).await?;
        if pretty { reply::pretty(answer).await } else { Ok(answer) }
    }

    /// What this server has itself; `built_in` where that is in the place of another's.
    async fn serve_own(
        self: &Arc<Self>,
        incoming: Incoming,
        info: &Info,
        user: User,
        place: Option<InFlight>,
        trail: &mut Option<Trail>,
        built_in: bool,
    ) -> Result<Response<Body>, ApiError> {
        let Incoming { mut parts, body, query, .. } = incoming;
        if built_in {
            return aggregate::metrics::answer(self, &parts, &query, info).await;
        }
        let Target::Resource(resource) = &info.target else {
            return nonresource::answer(self, &parts).await?.ok_or_else(ApiError::no_such_path);
        };
        if review::serves(resource) {
            let route = route::resolve(&self.table, resource, info.verb)?;
            let bytes = crate::body::read(body).await?;
            if let Some(trail) = trail {
                trail.sent(&bytes);
            }
            return review::answer(self, &parts, &query, &route, &user, &bytes).await;
        }
        if components::serves(resource) {
            return components::answer(self, &parts, &query, resource, info.verb);
        }
        let watcher = connect::websocket::Watcher::of(&mut parts, info)?;
        let call = self.call(parts, query, info, resource, user).await?;
        if !info.verb.mutates() {
            let answer = run(call, info.verb, Bytes::new(), place).await?;
            return Ok(watcher.into_iter().fold(answer, |answer, watcher| watcher.answer(answer)));
        }
        // The body comes at its client's pace; only what follows is nobody's to break off.
        let bytes = crate::body::read(body).await?;
        if let Some(trail) = trail {
            trail.sent(&bytes);
        }
        finish_regardless(run(call, info.verb, bytes, place)).await
    }

    pub async fn call(
        self: &Arc<Self>,
        parts: Parts,
        query: Query,
        info: &Info,
        resource: &Resource,
        user: User,
    ) -> Result<Call, ApiError> {
        let route = route::resolve(&self.table, resource, info.verb)?;
        let mut notes = Notes::default();
        notes.warnings.extend(route.row.kind.deprecation().map(ToOwned::to_owned));
        let collection = match route.row.is_virtual() {
            // A binding is written to its pod.
            true => self.collection_of(&binding::pods()),
            false => self.collection(&route.row),
        };
        let collection = match collection {
            Some(collection) => collection,
            None => self.glimpse(&route, info.verb, &query).await?,
        };
        Ok(Call {
            server: self.clone(),
            user,
            collection,
            row: route.row,
            subresource: route.subresource,
            namespace: route.namespace,
            asked_name: route.name.clone(),
            name: route.name,
            query,
            headers: parts.headers,
            now: (self.clock)(),
            notes,
        })
    }

    async fn identify(&self, parts: &Parts, remarks: &mut Remarks) -> Result<User, ApiError> {
        if let Some(user) = in_process::user(parts) {
            return Ok(user.clone());
        }
        match self.authenticator.authenticate(parts, remarks).await {
            Ok(Some(user)) => Ok(user),
            Ok(None) => Err(ApiError::unauthorized()),
            Err(error) => {
                tracing::info!(path = parts.uri.path(), %error, "refused credentials");
                Err(ApiError::unauthorized())
            }
        }
    }
}

/// `responsewriters.ForbiddenStatusError`, with the authorizer's reason.
pub(crate) fn forbidden(user: &User, asked: &Attributes, why: &str) -> ApiError {
    let mut message = asked.refusal(user);
    if !why.is_empty() {
        message += &format!(": {why}");
    }
    let gvr = Gvr {
        group: asked.group.clone().into(),
        version: asked.version.clone().into(),
        resource: asked.resource.clone().into(),
    };
    ApiError::forbidden(&gvr, &asked.name, message)
}

/// No authorizer could say: `responsewriters.InternalError`, which is no Status.
fn undecided(parts: &Parts, why: &str) -> Response<Body> {
    let uri = parts.uri.path_and_query().map_or("", |uri| uri.as_str());
    let text = format!("Internal Server Error: {uri:?}: {why}\n").replace('<', "&lt;").replace('>', "&gt;");
    reply::bytes(StatusCode::INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", text)
}

/// The client's id for the request, if it is one that fits a log, or a new one.
fn audit_id(request: &Request<Body>) -> HeaderValue {
    let sent = request.headers().get("audit-id").filter(|id| !id.is_empty() && id.len() <= 64);
    let usable = sent.filter(|id| id.as_bytes().iter().all(|byte| byte.is_ascii_graphic()));
    usable.cloned().unwrap_or_else(|| {
        HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).unwrap_or(HeaderValue::from_static("unknown"))
    })
}

/// None for streams, which end when they say.
fn time_limit(info: &Info, query: &Query) -> Result<Option<Duration>, ApiError> {
    if info.long_running() {
        return Ok(None);
    }
    match query.get("timeout") {
        None => Ok(Some(REQUEST_TIMEOUT)),
        Some(text) => match duration::parse(text) {
            Some(Duration::ZERO) => Ok(Some(REQUEST_TIMEOUT)),
            Some(asked) => Ok(Some(asked.min(REQUEST_TIMEOUT))),
            None => Err(ApiError::bad_request(format!(
                "invalid timeout specified in the request URL - time: invalid duration {text:?}"
            ))),
        },
    }
}

/// Runs the verb. The request counts as under way until this is dropped.
async fn run(mut call: Call, verb: Verb, body: Bytes, _place: Option<InFlight>) -> Result<Response<Body>, ApiError> {
    let mut response = match route::dispatch(&mut call, verb, body).await {
        Ok(reply) => reply::render(&call, reply)?,
        Err(error) => reply::refuse(&call, &error),
    };
    call.annotate(&mut response);
    Ok(response)
}

/// Runs a write in a task of its own, which goes on if nobody waits for it any more.
async fn finish_regardless(
    work: impl Future<Output = Result<Response<Body>, ApiError>> + Send + 'static,
) -> Result<Response<Body>, ApiError> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => {
            tracing::error!("a handler panicked");
            Err(panicked())
        }
        Err(_) => Err(ApiError::unavailable("the server is shutting down")),
    }
}

fn panicked() -> ApiError {
    ApiError::internal("this request caused the API server to panic; look in its log for details")
}
