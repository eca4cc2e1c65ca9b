//! Requests and replies, bare.

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use futures::stream::BoxStream;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::Value;
use wharf_test_support::{Cluster, DEADLINE, eventually};

pub const JSON: &str = "application/json";
pub const YAML: &str = "application/yaml";
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
pub const METADATA: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
pub const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
/// How much of a body a failure shows.
const SHOWN: usize = 1500;

#[derive(Clone)]
pub struct Http(Client);

pub struct Reply {
    /// `GET /api/v1/pods`
    asked: String,
    status: u16,
    text: String,
}

impl Http {
    /// A control plane with a namespace `walk` in it, whose ServiceAccount is there.
    pub async fn server() -> (Cluster, Self) {
        let cluster = Cluster::server(&[]).await;
        let http = Self(cluster.client.clone());
        let namespace = serde_json::json!({"metadata": {"name": "walk"}});
        http.post("/api/v1/namespaces", &namespace).await.and_then(|reply| reply.json(201)).expect("a namespace");
        let account = "/api/v1/namespaces/walk/serviceaccounts/default";
        eventually("the namespace is set up", || async { http.get(account).await?.json(200) }).await;
        (cluster, http)
    }

    pub async fn get(&self, path: &str) -> Result<Reply> {
        self.get_as(path, JSON).await
    }

    pub async fn get_as(&self, path: &str, accept: &str) -> Result<Reply> {
        self.ask(Method::GET, path, JSON, accept, Vec::new()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Reply> {
        self.ask(Method::POST, path, JSON, JSON, body.to_string().into()).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Result<Reply> {
        self.ask(Method::PUT, path, JSON, JSON, body.to_string().into()).await
    }

    /// `kind` is `json`, `merge` or `strategic-merge`.
    pub async fn patch(&self, path: &str, kind: &str, body: &Value) -> Result<Reply> {
        let media_type = format!("application/{kind}-patch+json");
        self.ask(Method::PATCH, path, &media_type, JSON, body.to_string().into()).await
    }

    /// With the options in the query: it does not count when there is a body.
    pub async fn delete(&self, path: &str) -> Result<Reply> {
        let joint = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{joint}propagationPolicy=Background");
        self.ask(Method::DELETE, &path, JSON, JSON, Vec::new()).await
    }

    /// With the options in the body.
    pub async fn delete_with(&self, path: &str, options: &Value) -> Result<Reply> {
        self.ask(Method::DELETE, path, JSON, JSON, options.to_string().into()).await
    }

    /// Body and reply are YAML.
    pub async fn yaml(&self, method: Method, path: &str, body: &Value) -> Result<Reply> {
        self.ask(method, path, YAML, YAML, serde_yaml::to_string(body).context("write YAML")?.into()).await
    }

    async fn ask(&self, method: Method, path: &str, media_type: &str, accept: &str, body: Vec<u8>) -> Result<Reply> {
        let asked = format!("{method} {path}");
        let response = tokio::time::timeout(DEADLINE, self.send(method, path, media_type, accept, body));
        let response = response.await.with_context(|| format!("{asked}: no answer"))??;
        let status = response.status().as_u16();
        let body = response.into_body().collect_bytes().await.with_context(|| format!("{asked}: read the reply"))?;
        let text = String::from_utf8(body.to_vec()).with_context(|| format!("{asked}: read the reply"))?;
        Ok(Reply { asked, status, text })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        media_type: &str,
        accept: &str,
        body: Vec<u8>,
    ) -> Result<Response<Body>> {
        let request = Request::builder().method(method.clone()).uri(path).header("accept", accept);
        // A request without a body names no type.
        let request = if body.is_empty() { request } else { request.header("content-type", media_type) };
        let request = request.body(Body::from(body)).context("make a request")?;
        self.0.send(request).await.with_context(|| format!("{method} {path}"))
    }

    pub async fn watch(&self, path: &str) -> Result<Watch> {
        let response = self.send(Method::GET, path, JSON, JSON, Vec::new()).await?;
        ensure!(response.status() == 200, "GET {path}: {}", response.status());
        let chunks = response.into_body().into_data_stream();
        let chunks = chunks.map(|chunk| chunk.map(|bytes| bytes.to_vec()).map_err(anyhow::Error::from)).boxed();
        Ok(Watch { chunks, read: Vec::new() })
    }
}

impl Reply {
    /// The body of a reply with this status.
    pub fn json(self, status: u16) -> Result<Value> {
        self.must(status)?;
        serde_json::from_str(&self.text).with_context(|| format!("{}: not JSON", self.asked))
    }

    pub fn read_yaml(self, status: u16) -> Result<Value> {
        self.must(status)?;
        serde_yaml::from_str(&self.text).with_context(|| format!("{}: not YAML", self.asked))
    }

    /// A Status that refuses, with this code and reason.
    pub fn refused(self, code: u16, reason: &str) -> Result<Value> {
        let asked = self.asked.clone();
        let status = self.json(code)?;
        ensure!(status["kind"] == "Status" && status["status"] == "Failure", "{asked}: no Status: {status}");
        ensure!(status["reason"] == reason && status["code"] == code, "{asked}: not {reason}: {status}");
        Ok(status)
    }

    pub fn is(&self, status: u16) -> bool {
        self.status == status
    }

    fn must(&self, status: u16) -> Result<()> {
        let shown: String = self.text.chars().take(SHOWN).collect();
        ensure!(self.status == status, "{}: {} instead of {status}: {shown}", self.asked, self.status);
        Ok(())
    }
}

/// A watch's events.
pub struct Watch {
    chunks: BoxStream<'static, Result<Vec<u8>>>,
    /// Read, and not yet taken as a line.
    read: Vec<u8>,
}

impl Watch {
    /// The next event; `None` when the watch has ended.
    pub async fn next(&mut self) -> Result<Option<Value>> {
        let event = tokio::time::timeout(DEADLINE, self.line());
        let Some(line) = event.await.context("no event came")?? else { return Ok(None) };
        Ok(Some(serde_json::from_slice(&line).context("read an event")?))
    }

    /// The next event's type and object; the watch must go on.
    pub async fn event(&mut self) -> Result<(String, Value)> {
        let Some(mut event) = self.next().await? else { bail!("the watch has ended") };
        let kind = event["type"].as_str().context("an event has a type")?.to_owned();
        Ok((kind, event["object"].take()))
    }

    async fn line(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Ok(Some(line));
            }
            match self.chunks.next().await {
                Some(chunk) => self.read.extend(chunk?),
                None => {
                    ensure!(self.read.is_empty(), "the watch ended within an event");
                    return Ok(None);
                }
            }
        }
    }
}

/// An object's resourceVersion as the number that ours are.
pub fn revision(object: &Value) -> Result<u64> {
    let version = object["metadata"]["resourceVersion"].as_str();
    version.and_then(|version| version.parse().ok()).with_context(|| format!("no resourceVersion: {object}"))
}
