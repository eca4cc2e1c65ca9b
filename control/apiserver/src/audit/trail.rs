//! One request's record, from its receipt to the end of its reply.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Response, header};
use http_body_util::BodyExt;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use wharf_auth::{Decision, FrontProxyCertificates, PeerCertificates, User};
use wharf_machinery::protobuf;
use wharf_types::Gvk;

use super::{Annotations, Auditor, Level, Stage, Verdict};
use crate::listen::RemoteAddress;
use crate::reply::Body;
use crate::request::{Info, Target};
use crate::server::Clock;

/// Bytes of a client's name for itself that are recorded. Source: `maxUserAgentLength`.
const USER_AGENT_MAX: usize = 1024;

pub struct Trail {
    auditor: Arc<Auditor>,
    verdict: Verdict,
    content_type: String,
    is_resource: bool,
    /// What was tried, where nobody proved who they are. Such a request has one record, of its refusal.
    attempted: Option<String>,
    event: Map<String, Value>,
}

impl Trail {
    pub fn new(
        auditor: Arc<Auditor>,
        verdict: Verdict,
        id: &str,
        parts: &Parts,
        info: &Info,
        user: Option<&User>,
        now: Timestamp,
    ) -> Self {
        let text = |name: header::HeaderName| {
            parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        let mut event = Map::new();
        let mut put = |name: &str, value: Value| drop(event.insert(name.to_owned(), value));
        put("kind", "Event".into());
        put("apiVersion", "audit.k8s.io/v1".into());
        put("level", json!(verdict.level));
        put("auditID", id.into());
        put("requestURI", parts.uri.path_and_query().map_or(info.path.as_str(), |it| it.as_str()).into());
        put("verb", info.attributes().verb.into());
        put("user", user.map_or_else(|| json!({}), shown));
        put("sourceIPs", json!(sources(parts)));
        put("requestReceivedTimestamp", micros(now).into());
        let agent = text(header::USER_AGENT);
        if !agent.is_empty() {
            let mut end = agent.len().min(USER_AGENT_MAX);
            while !agent.is_char_boundary(end) {
                end -= 1;
            }
            let cut = if end < agent.len() { "...TRUNCATED" } else { "" };
            put("userAgent", format!("{}{cut}", &agent[..end]).into());
        }
        if let Target::Resource(_) = info.target {
            put("objectRef", reference(info));
        }
        let is_resource = matches!(info.target, Target::Resource(_));
        let attempted = user.is_none().then(|| attempted(parts));
        let content_type = text(header::CONTENT_TYPE);
        let trail = Self { auditor, verdict, content_type, is_resource, attempted, event };
        if trail.attempted.is_none() {
            trail.record(Stage::RequestReceived, now);
        }
        trail
    }

    fn record(&self, stage: Stage, now: Timestamp) {
        if self.verdict.omit_stages.contains(&stage) {
            return;
        }
        let mut event = self.event.clone();
        event.insert("stage".to_owned(), json!(stage));
        event.insert("stageTimestamp".to_owned(), micros(now).into());
        self.auditor.record(&Value::Object(event), now);
    }

    /// Whom the request acts as, and which permission let it, if that was a constrained one.
    pub fn impersonated(&mut self, user: &User, constraint: &str) {
        self.event.insert("impersonatedUser".to_owned(), shown(user));
        if !constraint.is_empty() {
            let metadata = json!({"impersonationConstraint": constraint});
            self.event.insert("authenticationMetadata".to_owned(), metadata);
        }
    }

    /// What the authorizers said of it.
    pub fn decided(&mut self, decision: &Decision) {
        let (word, reason) = match decision {
            Decision::Allow(reason) => ("allow", reason.as_str()),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => ("forbid", reason.as_str()),
            Decision::Failed { .. } => return self.annotate("authorization.k8s.io/reason", "internal error"),
        };
        self.annotate("authorization.k8s.io/decision", word);
        self.annotate("authorization.k8s.io/reason", reason);
    }

    pub fn annotate(&mut self, key: &str, value: &str) {
        let annotations = self.event.entry("annotations").or_insert_with(|| json!({}));
        annotations[key] = value.into();
    }

    /// Takes in what was sent, where the level asks for it.
    pub fn sent(&mut self, bytes: &Bytes) {
        if self.verdict.level < Level::Request || bytes.is_empty() || !self.is_resource {
            return;
        }
        let Some(object) = self.object(bytes, &self.content_type) else { return };
        let meta = &object["metadata"];
        if let Some(reference) = self.event.get_mut("objectRef").and_then(Value::as_object_mut) {
            for field in ["uid", "resourceVersion", "name"] {
                if let Some(text) = meta[field].as_str().filter(|text| !text.is_empty()) {
                    reference.entry(field).or_insert_with(|| text.into());
                }
            }
        }
        self.event.insert("requestObject".to_owned(), object);
    }

    /// Reads a body of any encoding.
    fn object(&self, bytes: &[u8], content_type: &str) -> Option<Value> {
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        let mut object = match media_type {
            "application/vnd.kubernetes.protobuf" => {
                let assumed = Gvk { group: "".into(), version: "".into(), kind: "".into() };
                protobuf::decode_object(bytes, &assumed).ok()?.into_json()
            }
            yaml if yaml.ends_with("yaml") => serde_yaml::from_slice(bytes).ok()?,
            _ => serde_json::from_slice(bytes).ok()?,
        };
        if self.verdict.omit_managed_fields {
            strip(&mut object);
        }
        Some(object)
    }

    /// The handler broke down.
    pub fn panicked(&mut self, now: Timestamp) {
        let status = json!({
            "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
            "message": "APIServer panic'd",
        });
        self.event.insert("responseStatus".to_owned(), status);
        self.record(Stage::Panic, now);
    }

    /// Takes in the reply, and hands it on. A stream is complete when its end has gone out.
    pub async fn answered(mut self, response: Response<Body>, is_stream: bool, clock: &Clock) -> Response<Body> {
        if let Some(Annotations(annotations)) = response.extensions().get().cloned() {
            annotations.iter().for_each(|(key, value)| self.annotate(key, value));
        }
        let code = response.status().as_u16();
        if let Some(attempted) = self.attempted.take() {
            let status = json!({"metadata": {}, "message": attempted, "code": code});
            self.event.insert("responseStatus".to_owned(), status);
            self.record(Stage::ResponseStarted, clock());
            return response;
        }
        self.event.insert("responseStatus".to_owned(), json!({"metadata": {}, "code": code}));
        if is_stream && code < 400 {
            self.record(Stage::ResponseStarted, clock());
            let end = AtEnd { trail: self, clock: clock.clone() };
            return response.map(|body| {
                let body = body.map_frame(move |frame| {
                    let _ = &end;
                    frame
                });
                body.boxed_unsync()
            });
        }
        // What was refused is told in the Status; the rest of a body is looked at only where it is recorded.
        let response = match code >= 400 || self.verdict.level == Level::RequestResponse && self.is_resource {
            true => self.read(response, code).await,
            false => response,
        };
        self.record(Stage::ResponseComplete, clock());
        response
    }

    async fn read(&mut self, response: Response<Body>, code: u16) -> Response<Body> {
        let (parts, body) = response.into_parts();
        let bytes = match body.collect().await {
            Ok(collected) => collected.to_bytes(),
            Err(error) => {
                tracing::warn!(%error, "read a reply for its audit event");
                Bytes::new()
            }
        };
        if !parts.headers.contains_key(header::CONTENT_ENCODING)
            && let Some(object) = self.object(&bytes, content_type(&parts.headers))
        {
            if code >= 400 && object["kind"] == "Status" {
                let mut status = object.clone();
                if let Some(fields) = status.as_object_mut() {
                    fields.remove("kind");
                    fields.remove("apiVersion");
                }
                self.event.insert("responseStatus".to_owned(), status);
            }
            if self.verdict.level == Level::RequestResponse && self.is_resource {
                self.event.insert("responseObject".to_owned(), object);
            }
        }
        let body = http_body_util::Full::new(bytes).map_err(|never| match never {});
        Response::from_parts(parts, body.boxed_unsync())
    }
}

/// Records the end of a stream when it is dropped.
struct AtEnd {
    trail: Trail,
    clock: Clock,
}

impl Drop for AtEnd {
    fn drop(&mut self) {
        self.trail.record(Stage::ResponseComplete, (self.clock)());
    }
}

/// How somebody tried to prove who they are. Source: `getAuthMethods` of `filters/authn_audit.go`.
fn attempted(parts: &Parts) -> String {
    let value = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let scheme = value.trim().split_once(' ').map(|(scheme, _)| scheme.to_ascii_lowercase()).unwrap_or_default();
    let query = parts.uri.query().unwrap_or_default();
    let access = query.split('&').any(|pair| pair.strip_prefix("access_token=").is_some_and(|token| !token.is_empty()));
    let certificate = parts.extensions.get::<PeerCertificates>().is_some()
        || parts.extensions.get::<FrontProxyCertificates>().is_some();
    let tried =
        [(scheme == "basic", "basic"), (scheme == "bearer", "bearer"), (access, "access_token"), (certificate, "x509")];
    let tried: Vec<&str> = tried.into_iter().filter(|(tried, _)| *tried).map(|(_, name)| name).collect();
    match tried.is_empty() {
        true => "Authentication failed, no credentials provided".to_owned(),
        false => format!("Authentication failed, attempted: {}", tried.join(", ")),
    }
}

fn content_type(headers: &HeaderMap) -> &str {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn shown(user: &User) -> Value {
    let mut shown = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        shown["uid"] = user.uid.as_str().into();
    }
    if !user.extra.is_empty() {
        shown["extra"] = json!(user.extra);
    }
    shown
}

fn reference(info: &Info) -> Value {
    let asked = info.attributes();
    let fields = [
        ("resource", asked.resource),
        ("namespace", asked.namespace),
        ("name", asked.name),
        ("apiGroup", asked.group),
        ("apiVersion", asked.version),
        ("subresource", asked.subresource),
    ];
    fields
        .into_iter()
        .filter(|(_, text)| !text.is_empty())
        .map(|(name, text)| (name.to_owned(), text.into()))
        .collect::<Map<_, _>>()
        .into()
}

/// Those that proxies say they speak for, then whoever is connected.
fn sources(parts: &Parts) -> Vec<String> {
    let forwarded = parts.headers.get("x-forwarded-for").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let said = forwarded.split(',').map(str::trim).filter(|text| text.parse::<std::net::IpAddr>().is_ok());
    let mut sources: Vec<String> = said.map(str::to_owned).collect();
    let own = parts.extensions.get::<RemoteAddress>().map_or("127.0.0.1".to_owned(), |it| it.0.ip().to_string());
    if sources.last() != Some(&own) {
        sources.push(own);
    }
    sources
}

fn strip(object: &mut Value) {
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
    }
    for item in object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        strip(item);
    }
}

/// `metav1.MicroTime`
fn micros(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}
