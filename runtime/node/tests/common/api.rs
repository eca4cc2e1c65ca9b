//! An API server small enough for tests: objects as JSON, watches, patches, graceful deletion of pods.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::body::Body;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use wharf_machinery::patch;

/// Longest that a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone)]
struct Change {
    kind: &'static str,
    key: Key,
    object: Value,
}

/// Resource, namespace, name.
type Key = (String, String, String);

#[derive(Default)]
struct State {
    objects: BTreeMap<Key, Value>,
    /// The change of revision n is at n - 1.
    history: Vec<Change>,
    /// How many tokens were given out.
    tokens: u32,
}

#[derive(Clone)]
pub struct Api {
    state: Arc<Mutex<State>>,
    revision: Arc<watch::Sender<usize>>,
    /// Seconds that this cluster's time is ahead.
    ahead_s: Arc<AtomicI64>,
}

impl Api {
    pub fn new() -> Self {
        Self { state: Arc::default(), revision: Arc::new(watch::Sender::new(0)), ahead_s: Arc::default() }
    }

    /// The cluster's clock.
    pub fn clock(&self) -> impl Fn() -> Timestamp + Send + Sync + use<> {
        let ahead_s = self.ahead_s.clone();
        move || Timestamp::now() + SignedDuration::from_secs(ahead_s.load(Ordering::Relaxed))
    }

    pub fn advance(&self, seconds: i64) {
        self.ahead_s.fetch_add(seconds, Ordering::Relaxed);
    }

    pub fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.handle(request).await) }
        });
        Client::new(service, "default")
    }

    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.state.lock().objects.get(&key(resource, namespace, name)).cloned()
    }

    pub fn list(&self, resource: &str) -> Vec<Value> {
        self.state
            .lock()
            .objects
            .iter()
            .filter(|(key, _)| key.0 == resource)
            .map(|(_, object)| object.clone())
            .collect()
    }

    pub fn create(&self, resource: &str, mut object: Value) -> Value {
        let meta = &mut object["metadata"];
        if meta["uid"].is_null() {
            meta["uid"] = json!(format!("uid-{}", self.state.lock().history.len()));
        }
        meta["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        let key = key_of(resource, &object);
        self.commit("ADDED", key, object)
    }

    pub fn change(&self, resource: &str, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut object = self.get(resource, namespace, name).expect("the object is there");
        change(&mut object);
        self.commit("MODIFIED", key(resource, namespace, name), object);
    }

    pub fn remove(&self, resource: &str, namespace: &str, name: &str) {
        if let Some(object) = self.get(resource, namespace, name) {
            self.commit("DELETED", key(resource, namespace, name), object);
        }
    }

    fn commit(&self, kind: &'static str, key: Key, mut object: Value) -> Value {
        let mut state = self.state.lock();
        let revision = state.history.len() + 1;
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        match kind {
            "DELETED" => state.objects.remove(&key),
            _ => state.objects.insert(key.clone(), object.clone()),
        };
        state.history.push(Change { kind, key, object: object.clone() });
        drop(state);
        self.revision.send_replace(revision);
        object
    }

    /// Waits until `test` holds of the object (None while it is not there), now or at any change from now on.
    pub async fn wait(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        what: &str,
        test: impl Fn(Option<&Value>) -> bool,
    ) -> Option<Value> {
        let (key, mut news) = (key(resource, namespace, name), self.revision.subscribe());
        let (mut at, now) = {
            let state = self.state.lock();
            (state.history.len(), state.objects.get(&key).cloned())
        };
        if test(now.as_ref()) {
            return now;
        }
        let wait = async {
            loop {
                news.borrow_and_update();
                let changes: Vec<Change> = self.state.lock().history[at..].to_vec();
                at += changes.len();
                for change in changes.into_iter().filter(|change| change.key == key) {
                    let object = (change.kind != "DELETED").then_some(change.object);
                    if test(object.as_ref()) {
                        return object;
                    }
                }
                if news.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(object) => object,
            Err(_) => panic!("{resource} {name} never: {what}; it is {:#?}", self.get(resource, namespace, name)),
        }
    }

    /// The object as it was when it was deleted.
    pub fn last(&self, resource: &str, name: &str) -> Option<Value> {
        let state = self.state.lock();
        let deleted = |change: &&Change| change.kind == "DELETED" && change.key.0 == resource && change.key.2 == name;
        state.history.iter().rev().find(deleted).map(|change| change.object.clone())
    }

    /// True if the object was ever so.
    pub fn ever(&self, resource: &str, name: &str, test: impl Fn(&Value) -> bool) -> bool {
        let state = self.state.lock();
        state.history.iter().any(|change| change.key.0 == resource && change.key.2 == name && test(&change.object))
    }

    async fn handle(&self, request: Request<kube::client::Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let sent: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let query: HashMap<String, String> = form(parts.uri.query().unwrap_or_default());
        let (resource, namespace, name, subresource) = target(parts.uri.path());
        let held = self.get(&resource, &namespace, &name);
        match (parts.method, name.is_empty()) {
            (Method::GET, true) if query.get("watch").is_some_and(|watch| watch == "true" || watch == "1") => {
                self.watch(&resource, &namespace, &query)
            }
            (Method::GET, true) => self.reply_list(&resource, &namespace, &query),
            (Method::GET, false) => held.map_or_else(not_found, reply),
            (Method::POST, false) if subresource == "token" => self.issue(&name, sent),
            (Method::POST, _) => {
                let mut object = sent;
                if !namespace.is_empty() {
                    object["metadata"]["namespace"] = json!(namespace);
                }
                let (_, _, name) = key_of(&resource, &object);
                match self.get(&resource, &namespace, &name) {
                    Some(_) => status(StatusCode::CONFLICT, "AlreadyExists"),
                    None => reply(self.create(&resource, object)),
                }
            }
            (Method::PATCH, _) => match held {
                Some(held) => {
                    let strategic = parts.headers["content-type"].to_str().unwrap().contains("strategic");
                    self.patch(&resource, held, &sent, strategic, &subresource)
                }
                None => not_found(),
            },
            (Method::DELETE, _) => match held {
                Some(held) => self.delete(&resource, held, &sent),
                None => not_found(),
            },
            _ => status(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        }
    }

    /// Numbers its tokens: `bot-1`, `bot-2`.
    fn issue(&self, account: &str, mut request: Value) -> Response<Body> {
        assert_eq!(request["spec"]["boundObjectRef"]["kind"], "Pod", "nodes ask for pods");
        let mut state = self.state.lock();
        state.tokens += 1;
        let seconds = request["spec"]["expirationSeconds"].as_i64().expect("a life");
        let expires = (self.clock())() + SignedDuration::from_secs(seconds);
        request["status"] =
            json!({"token": format!("{account}-{}", state.tokens), "expirationTimestamp": expires.to_string()});
        reply(request)
    }

    fn reply_list(&self, resource: &str, namespace: &str, query: &HashMap<String, String>) -> Response<Body> {
        let state = self.state.lock();
        let items: Vec<&Value> = state
            .objects
            .iter()
            .filter(|(key, object)| selected(key, object, resource, namespace, query))
            .map(|(_, object)| object)
            .collect();
        reply(
            json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": state.history.len().to_string()}, "items": items}),
        )
    }

    fn watch(&self, resource: &str, namespace: &str, query: &HashMap<String, String>) -> Response<Body> {
        let from: usize = query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
        let (resource, namespace, query, api) =
            (resource.to_owned(), namespace.to_owned(), query.clone(), self.clone());
        let stream = futures::stream::unfold((from, self.revision.subscribe()), move |(mut at, mut news)| {
            let (resource, namespace, query, api) = (resource.clone(), namespace.clone(), query.clone(), api.clone());
            async move {
                loop {
                    news.borrow_and_update();
                    let next = api.state.lock().history.get(at).cloned();
                    match next {
                        Some(change) => {
                            at += 1;
                            if selected(&change.key, &change.object, &resource, &namespace, &query) {
                                let mut line = json!({"type": change.kind, "object": change.object}).to_string();
                                line.push('\n');
                                return Some((Ok::<_, Infallible>(line), (at, news)));
                            }
                        }
                        None => news.changed().await.ok()?,
                    }
                }
            }
        });
        Response::new(Body::from_stream(stream.boxed()))
    }

    fn patch(&self, resource: &str, held: Value, sent: &Value, strategic: bool, subresource: &str) -> Response<Body> {
        let uid = &sent["metadata"]["uid"];
        if !uid.is_null() && *uid != held["metadata"]["uid"] {
            return status(StatusCode::CONFLICT, "Conflict");
        }
        let mut object = held.clone();
        let patched = if strategic {
            let kind = match resource {
                "pods" => "Pod",
                "nodes" => "Node",
                other => panic!("no strategic patch of {other}"),
            };
            patch::strategic(&mut object, sent, &format!("io.k8s.api.core.v1.{kind}"))
        } else {
            patch::merge(&mut object, sent)
        };
        patched.expect("the patch applies");
        if subresource == "status" {
            let status = object["status"].take();
            object = held.clone();
            object["status"] = status;
        }
        reply(self.commit("MODIFIED", key_of(resource, &held), object))
    }

    fn delete(&self, resource: &str, mut held: Value, options: &Value) -> Response<Body> {
        let uid = &options["preconditions"]["uid"];
        if !uid.is_null() && *uid != held["metadata"]["uid"] {
            return status(StatusCode::CONFLICT, "Conflict");
        }
        let key = key_of(resource, &held);
        let grace = options["gracePeriodSeconds"]
            .as_i64()
            .or(held["spec"]["terminationGracePeriodSeconds"].as_i64())
            .unwrap_or(30);
        if resource == "pods" && grace > 0 {
            held["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            held["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
            return reply(self.commit("MODIFIED", key, held));
        }
        reply(self.commit("DELETED", key, held))
    }
}

fn key(resource: &str, namespace: &str, name: &str) -> Key {
    (resource.to_owned(), namespace.to_owned(), name.to_owned())
}

fn key_of(resource: &str, object: &Value) -> Key {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (resource.to_owned(), text("namespace"), text("name"))
}

fn form(query: &str) -> HashMap<String, String> {
    let decode = |text: &str| text.replace("%3D", "=").replace("%2C", ",").replace("%2F", "/");
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), decode(value)))
        .collect()
}

/// `/api/v1/namespaces/<ns>/<resource>/<name>/<subresource>` and its shorter forms.
fn target(path: &str) -> (String, String, String, String) {
    let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    parts.drain(..if parts[0] == "api" { 2 } else { 3 });
    let namespace = if parts.first() == Some(&"namespaces") && parts.len() > 2 {
        let namespace = parts[1];
        parts.drain(..2);
        namespace
    } else {
        ""
    };
    let part = |index: usize| parts.get(index).copied().unwrap_or_default().to_owned();
    (part(0), namespace.to_owned(), part(1), part(2))
}

fn selected(key: &Key, object: &Value, resource: &str, namespace: &str, query: &HashMap<String, String>) -> bool {
    let fields = query.get("fieldSelector").map(String::as_str).unwrap_or_default();
    let fits = fields.split(',').filter_map(|term| term.split_once('=')).all(|(field, value)| {
        let held = field.split('.').fold(object, |object, part| &object[part]);
        held.as_str().unwrap_or_default() == value
    });
    key.0 == resource && (namespace.is_empty() || key.1 == namespace) && fits
}

fn reply(object: Value) -> Response<Body> {
    Response::new(Body::from(object.to_string()))
}

fn not_found() -> Response<Body> {
    status(StatusCode::NOT_FOUND, "NotFound")
}

fn status(code: StatusCode, reason: &str) -> Response<Body> {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code.as_u16()});
    let mut response = reply(body);
    *response.status_mut() = code;
    response
}
