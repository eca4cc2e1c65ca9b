//! A whole API server in memory, driven by raw requests.

#![allow(dead_code, reason = "each suite uses a part of it")]

pub mod webhook;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::Service;
use wharf_admission::Chain;
use wharf_apiserver::allocate::{Allocators, NODE_PORTS, Services};
use wharf_apiserver::server::InProcessService;
use wharf_apiserver::{ApiServer, Body, NodeClient, Options, policy};
use wharf_auth::{
    Attributes, AuthenticateError, Authenticator, Authorizer, Decision, FirstOpinion, Masters, NodeAuthorizer, Rbac,
    Remarks, Union, User,
};
use wharf_cache::Cache;
use wharf_registry::{Table, builtin};
use wharf_store::MemoryStore;

/// Far longer than anything here takes.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Lets everyone do everything, but for the user `stranger`.
struct Permissive;

#[async_trait]
impl Authorizer for Permissive {
    async fn authorize(&self, user: &User, _: &Attributes) -> Decision {
        if user.name == "stranger" { Decision::NoOpinion(String::new()) } else { Decision::Allow(String::new()) }
    }
}

/// Knows nobody.
struct Nobody;

#[async_trait]
impl Authenticator for Nobody {
    async fn authenticate(&self, _: &http::request::Parts, _: &mut Remarks) -> Result<Option<User>, AuthenticateError> {
        Ok(None)
    }
}

/// A server with the built-in authenticators, authorizers and roles.
pub async fn server() -> Arc<ApiServer> {
    let (rbac, nodes) = (Arc::new(Rbac::default()), Arc::new(NodeAuthorizer::default()));
    let options = Options {
        admission: Chain::built_in(),
        authenticator: Arc::new(Union::built_in(Arc::new(jiff::Timestamp::now))),
        authorizer: Arc::new(FirstOpinion::new(vec![Arc::new(Masters), nodes.clone(), rbac.clone()])),
        views: vec![nodes, rbac.clone()],
        rbac: Some(rbac),
        allocators: Allocators::built_in(Services::new(
            "127.96.0.0/12".parse().expect("a range"),
            NODE_PORTS,
            Box::new(StdRng::from_os_rng()),
        )),
        ..options(&CancellationToken::new()).await
    };
    let server = ApiServer::new(options).await.expect("a server");
    while !server.cache.is_feeding() {
        tokio::task::yield_now().await;
    }
    let masters = server.service_for(User::new("tester", &["system:masters"]));
    for name in ["kube-system", "kube-public"] {
        let body = json!({"metadata": {"name": name}}).to_string();
        let body = http_body_util::Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
        let request = Request::post("/api/v1/namespaces").body(body).expect("a request");
        assert_eq!(answer(masters.clone().call(request).await.expect("an answer")).await.code, StatusCode::CREATED);
    }
    policy::ensure(&server).await.expect("the roles that every cluster has");
    server
}

/// An empty store under a running cache, and nothing refused.
async fn options(cancel: &CancellationToken) -> Options {
    let cache = Cache::open(Arc::new(MemoryStore::new())).await.expect("an empty cache");
    let (feeding, stop) = (cache.clone(), cancel.clone());
    tokio::spawn(async move { feeding.run(stop).await });
    Options {
        table: Arc::new(Table::new(builtin::rows())),
        cache,
        admission: Chain::default(),
        authenticator: Arc::new(Nobody),
        authorizer: Arc::new(Permissive),
        rbac: None,
        tokens: None,
        token_key: None,
        views: Vec::new(),
        allocators: Allocators::default(),
        nodes: None,
        front_proxy: None,
        metrics: Vec::new(),
        clock: Arc::new(jiff::Timestamp::now),
    }
}

/// A body of nothing.
pub fn empty() -> Body {
    http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub struct Api {
    pub server: Arc<ApiServer>,
    service: InProcessService,
    cancel: CancellationToken,
}

impl Drop for Api {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

pub struct Answer {
    pub code: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Bytes,
    pub json: Value,
}

impl Answer {
    #[track_caller]
    pub fn expect(self, code: u16) -> Value {
        assert_eq!(self.code.as_u16(), code, "{}", String::from_utf8_lossy(&self.bytes));
        self.json
    }

    /// The Status of a refusal, checked for its code, reason and message.
    #[track_caller]
    pub fn refused(self, code: u16, reason: &str, message: &str) -> Value {
        let json = self.expect(code);
        assert_eq!(json["kind"], "Status", "{json}");
        assert_eq!(json["status"], "Failure", "{json}");
        assert_eq!(json["reason"], reason, "{json}");
        assert_eq!(json["code"], code, "{json}");
        let text = json["message"].as_str().unwrap_or_default();
        assert!(text.contains(message), "{text:?} does not contain {message:?}");
        json
    }

    pub fn warnings(&self) -> Vec<String> {
        let values = self.headers.get_all("warning").iter();
        values.map(|value| value.to_str().expect("a readable warning").to_owned()).collect()
    }
}

impl Api {
    pub async fn new() -> Self {
        Self::of(None).await
    }

    /// A server that calls nodes.
    pub async fn calling(nodes: NodeClient) -> Self {
        Self::of(Some(nodes)).await
    }

    async fn of(nodes: Option<NodeClient>) -> Self {
        Self::guarded(nodes, Arc::new(Permissive)).await
    }

    /// A server that asks this authorizer.
    pub async fn guarded(nodes: Option<NodeClient>, authorizer: Arc<dyn Authorizer>) -> Self {
        Self::with(|options| (options.nodes, options.authorizer) = (nodes, authorizer)).await
    }

    /// A server with the built-in admission plugins, and the namespace `default`.
    pub async fn admitting() -> Self {
        Self::admitting_by(Chain::built_in()).await
    }

    /// The same with other plugins.
    pub async fn admitting_by(admission: Chain) -> Self {
        let api = Self::with(|options| options.admission = admission).await;
        api.post("/api/v1/namespaces", &json!({"metadata": {"name": "default"}})).await.expect(201);
        api.post(&format!("{}/serviceaccounts", IN_DEFAULT), &json!({"metadata": {"name": "default"}}))
            .await
            .expect(201);
        api
    }

    /// A server of which `configure` changes what it is made of.
    pub async fn with(configure: impl FnOnce(&mut Options)) -> Self {
        let cancel = CancellationToken::new();
        let mut options = options(&cancel).await;
        configure(&mut options);
        let server = ApiServer::new(options).await.expect("a server");
        let service = server.service_for(User::new("tester", &[]));
        Self { server, service, cancel }
    }

    /// A server with the namespace `default`.
    pub async fn with_namespace() -> Self {
        let api = Self::new().await;
        api.post("/api/v1/namespaces", &json!({"metadata": {"name": "default"}})).await.expect(201);
        api
    }

    /// Serves on a socket of its own, over plain HTTP/1.1 with upgrades, as the user `tester`.
    pub async fn listen(&self) -> std::net::SocketAddr {
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let (address, service) = (socket.local_addr().expect("an address"), self.service.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let service = hyper_util::service::TowerToHyperService::new(service.clone());
                let http = hyper::server::conn::http1::Builder::new();
                let io = hyper_util::rt::TokioIo::new(stream);
                tokio::spawn(http.serve_connection(io, service).with_upgrades());
            }
        });
        address
    }

    pub async fn send(&self, request: Request<Body>) -> http::Response<Body> {
        let answered = self.service.clone().call(request);
        match tokio::time::timeout(DEADLINE, answered).await {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(_) => panic!("no answer in time"),
        }
    }

    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = http_body_util::Full::new(body.into()).map_err(|never| match never {}).boxed_unsync();
        answer(self.send(request.body(body).expect("a request")).await).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path, &[], "").await
    }

    pub async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.request(Method::GET, path, &[("accept", accept)], "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.request(Method::POST, path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.request(Method::PUT, path, &[("content-type", "application/json")], body.to_string()).await
    }

    /// `kind` is `json`, `merge` or `strategic-merge`.
    pub async fn patch(&self, path: &str, kind: &str, body: &Value) -> Answer {
        let media_type = format!("application/{kind}-patch+json");
        self.request(Method::PATCH, path, &[("content-type", &media_type)], body.to_string()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.request(Method::DELETE, path, &[], "").await
    }

    pub async fn delete_with(&self, path: &str, options: &Value) -> Answer {
        self.request(Method::DELETE, path, &[("content-type", "application/json")], options.to_string()).await
    }

    /// Writes so much into the ConfigMap that neither the cache nor the store remembers what came before.
    pub async fn forget_history(&self, name: &str) {
        for index in 0..24 {
            let fill = format!("{index}{}", "x".repeat(512 << 10));
            self.put(&format!("{CONFIG_MAPS}/{name}"), &config_map(name, &json!({"fill": fill}))).await.expect(200);
        }
        self.put(&format!("{CONFIG_MAPS}/{name}"), &config_map(name, &json!({}))).await.expect(200);
        self.server.cache.store().compact(self.server.cache.revision()).await.expect("compaction");
    }

    /// Opens a watch.
    pub async fn watch(&self, path: &str) -> Watch {
        self.watch_as(path, "application/json").await
    }

    pub async fn watch_as(&self, path: &str, accept: &str) -> Watch {
        let request = Request::get(path).header("accept", accept);
        let empty = http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync();
        let response = self.send(request.body(empty).expect("a request")).await;
        assert_eq!(response.status(), 200);
        Watch { body: response.into_body(), rest: Vec::new() }
    }
}

async fn answer(response: http::Response<Body>) -> Answer {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.expect("a whole reply").to_bytes();
    let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Answer { code: parts.status, headers: parts.headers, bytes, json }
}

pub struct Watch {
    body: Body,
    rest: Vec<u8>,
}

impl Watch {
    /// The next event; none when the watch is over.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("a frame of JSON"));
            }
            tokio::time::timeout(DEADLINE, self.read()).await.expect("an event in time")?;
        }
    }

    /// The next event, without a deadline: for tests that run on paused time.
    pub async fn next_unhurried(&mut self) -> Option<Value> {
        while !self.rest.contains(&b'\n') {
            self.read().await?;
        }
        self.next().await
    }

    async fn read(&mut self) -> Option<()> {
        let frame = self.body.frame().await?;
        self.rest.extend_from_slice(&frame.expect("a frame").into_data().expect("data"));
        Some(())
    }

    /// The next event as `TYPE name`.
    pub async fn event(&mut self) -> String {
        match self.next().await {
            Some(event) => {
                let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                format!("{} {name}", event["type"].as_str().unwrap_or_default()).trim_end().to_owned()
            }
            None => "END".to_owned(),
        }
    }
}

pub fn config_map(name: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

pub fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "main", "image": "hello:v1"}]},
    })
}

pub fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().expect("a resourceVersion").parse().expect("a number")
}

pub const IN_DEFAULT: &str = "/api/v1/namespaces/default";
pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const PODS: &str = "/api/v1/namespaces/default/pods";

pub fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": pod("x")["spec"]},
        },
    })
}
