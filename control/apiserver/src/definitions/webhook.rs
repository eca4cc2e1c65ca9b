//! Conversion by webhook: `apiextensions.k8s.io/v1 ConversionReview`.
//!
//! Source: `apiextensions-apiserver/pkg/apiserver/conversion/webhook_converter.go`. The server's certificate must chain to the
//! definition's bundle, or to the machine's roots where there is none, and name the service or the host of the URL.
//! Absent on purpose: `v1beta1` reviews, which no version of Kubernetes that is still served needs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Limited};
use hyper_rustls::{ConfigBuilderExt, FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use wharf_cache::Cache;
use wharf_registry::custom::Converter;
use wharf_registry::{ConvertError, Converted};
use wharf_types::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    ServiceReference, WebhookClientConfig, WebhookConversion,
};

use crate::reply::{self, Body};

/// How long a webhook may take: upstream's default.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer, in bytes.
const ANSWER_MAX: usize = 16 * 1024 * 1024;
/// Most objects that one review carries.
const OBJECTS_MAX: usize = 500;
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

type HttpClient = Client<HttpsConnector<HttpConnector>, Body>;

pub struct Webhook {
    config: WebhookClientConfig,
    is_v1: bool,
    /// `stable.example.com, Kind=CronTab`, for messages.
    subject: String,
    cache: Arc<Cache>,
    client: Mutex<Option<HttpClient>>,
}

impl Webhook {
    pub fn new(conversion: &WebhookConversion, subject: String, cache: Arc<Cache>) -> Self {
        Self {
            config: conversion.client_config.clone().unwrap_or_default(),
            is_v1: conversion.conversion_review_versions.iter().any(|version| version == "v1"),
            subject,
            cache,
            client: Mutex::new(None),
        }
    }

    fn client(&self) -> Result<HttpClient, String> {
        let mut held = self.client.lock();
        if let Some(client) = &*held {
            return Ok(client.clone());
        }
        let made = self.connect()?;
        *held = Some(made.clone());
        Ok(made)
    }

    fn connect(&self) -> Result<HttpClient, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let tls = match self.config.ca_bundle.as_ref().filter(|bundle| !bundle.0.is_empty()) {
            Some(bundle) => {
                let mut roots = rustls::RootCertStore::empty();
                for certificate in CertificateDer::pem_slice_iter(&bundle.0) {
                    let certificate = certificate.map_err(|error| format!("read caBundle: {error}"))?;
                    roots.add(certificate).map_err(|error| format!("read caBundle: {error}"))?;
                }
                builder.with_root_certificates(roots).with_no_client_auth()
            }
            None => builder.with_native_roots().map_err(|error| error.to_string())?.with_no_client_auth(),
        };
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_only();
        let connector = match &self.config.service {
            Some(service) => {
                let name = ServerName::try_from(host_of(service)).map_err(|error| error.to_string())?;
                https
                    .with_server_name_resolver(FixedServerNameResolver::new(name))
                    .enable_http1()
                    .wrap_connector(connector)
            }
            None => https.enable_http1().wrap_connector(connector),
        };
        Ok(Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(connector))
    }

    /// Where the webhook is, and the host it is called by.
    fn address(&self) -> Result<(String, Option<String>), String> {
        let Some(service) = &self.config.service else {
            return Ok((self.config.url.clone().unwrap_or_default(), None));
        };
        let port = service.port.unwrap_or(443);
        let ip = self.cluster_ip(service)?;
        let ip = if ip.contains(':') { format!("[{ip}]") } else { ip };
        let path = service.path.as_deref().unwrap_or("/");
        Ok((format!("https://{ip}:{port}{path}"), Some(format!("{}:{port}", host_of(service)))))
    }

    fn cluster_ip(&self, service: &ServiceReference) -> Result<String, String> {
        let key = format!("/registry/services/specs/{}/{}", service.namespace, service.name);
        let entry = self.cache.peek(&key).ok_or_else(|| format!("service {:?} not found", service.name))?;
        let held: Value = serde_json::from_slice(&entry.bytes).map_err(|error| error.to_string())?;
        match held["spec"]["clusterIP"].as_str() {
            Some(ip) if !ip.is_empty() && ip != "None" => Ok(ip.to_owned()),
            _ => Err(format!("service {:?} has no cluster address", service.name)),
        }
    }

    async fn review(&self, objects: Vec<Value>, api_version: &str) -> Result<Vec<Value>, String> {
        if !self.is_v1 {
            return Err("the webhook speaks none of the review versions that are served: v1".to_owned());
        }
        let uid = uuid::Uuid::new_v4().to_string();
        let review = json!({
            "kind": "ConversionReview",
            "apiVersion": "apiextensions.k8s.io/v1",
            "request": {"uid": uid, "desiredAPIVersion": api_version, "objects": objects},
        });
        let (url, host) = self.address()?;
        let call = async {
            let mut request = Request::post(&url)
                .header(header::CONTENT_TYPE, "application/json")
                .header(header::ACCEPT, "application/json");
            if let Some(host) = host {
                request = request.header(header::HOST, host);
            }
            let request =
                request.body(reply::full(Bytes::from(review.to_string()))).map_err(|error| error.to_string())?;
            let response = self.client()?.request(request).await.map_err(|error| told(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            if !status.is_success() {
                return Err(format!(
                    "an error on the server ({:?}) has prevented the request from succeeding",
                    String::from_utf8_lossy(&body[..body.len().min(1024)])
                ));
            }
            serde_json::from_slice::<Value>(&body).map_err(|error| error.to_string())
        };
        let shown = url.split('?').next().unwrap_or_default();
        let answer = match tokio::time::timeout(TIMEOUT, call).await {
            Ok(answer) => answer.map_err(|why| format!("Post {shown:?}: {why}"))?,
            Err(_) => return Err(format!("Post {shown:?}: context deadline exceeded")),
        };
        judge(answer, &uid, &objects, api_version)
    }
}

fn host_of(service: &ServiceReference) -> String {
    format!("{}.{}.svc", service.name, service.namespace)
}

fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

/// The converted objects, if the answer is one to the request and changes nothing that it may not.
fn judge(mut answer: Value, uid: &str, sent: &[Value], api_version: &str) -> Result<Vec<Value>, String> {
    if answer["kind"] != "ConversionReview" || answer["apiVersion"] != "apiextensions.k8s.io/v1" {
        return Err("expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview".to_owned());
    }
    let response = answer["response"].take();
    if response.is_null() {
        return Err("no response provided".to_owned());
    }
    if response["uid"] != uid {
        return Err(format!("expected response.uid={uid:?}, got {}", response["uid"]));
    }
    if response["result"]["status"] != "Success" {
        let message = response["result"]["message"].as_str().unwrap_or_default();
        let status = &response["result"]["status"];
        return Err(match message {
            "" => format!("response.result.status was '{}', not 'Success'", status.as_str().unwrap_or_default()),
            message => message.to_owned(),
        });
    }
    let converted = response["convertedObjects"].as_array().cloned().unwrap_or_default();
    if converted.len() != sent.len() {
        return Err(format!("expected {} converted objects, got {}", sent.len(), converted.len()));
    }
    converted
        .into_iter()
        .zip(sent)
        .enumerate()
        .map(|(index, (object, sent))| one(object, sent, index, api_version))
        .collect()
}

fn one(mut object: Value, sent: &Value, index: usize, api_version: &str) -> Result<Value, String> {
    if object["apiVersion"] != api_version {
        return Err(format!(
            "invalid groupVersion at index {index}: expected {api_version}, got {}",
            object["apiVersion"].as_str().unwrap_or_default()
        ));
    }
    if object["kind"] != sent["kind"] {
        return Err(format!("invalid kind at index {index}: expected {}, got {}", sent["kind"], object["kind"]));
    }
    for field in ["name", "namespace", "uid"] {
        if object["metadata"].get(field) != sent["metadata"].get(field) {
            return Err(format!("invalid metadata at index {index}: must have the same {field}"));
        }
    }
    // A webhook may change labels and annotations; the rest of the metadata is what it was.
    let mut metadata = sent["metadata"].clone();
    for field in ["labels", "annotations"] {
        match object["metadata"].get(field).filter(|value| !value.is_null()) {
            Some(value) => metadata[field] = value.clone(),
            None => {
                metadata.as_object_mut().map(|metadata| metadata.remove(field));
            }
        }
    }
    object["metadata"] = metadata;
    Ok(object)
}

impl Converter for Webhook {
    fn convert<'a>(&'a self, objects: Vec<Value>, api_version: &'a str) -> Converted<'a, Vec<Value>> {
        Box::pin(async move {
            let mut converted = Vec::with_capacity(objects.len());
            let mut rest = objects;
            while !rest.is_empty() {
                let later = rest.split_off(rest.len().min(OBJECTS_MAX));
                let part = self
                    .review(std::mem::replace(&mut rest, later), api_version)
                    .await
                    .map_err(|why| ConvertError(format!("conversion webhook for {} failed: {why}", self.subject)))?;
                converted.extend(part);
            }
            Ok(converted)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(response: Value, expected: Result<Value, &str>) {
        let sent = [
            json!({"apiVersion": "a/v1", "kind": "C", "metadata": {"name": "n", "uid": "u", "resourceVersion": "4", "labels": {"a": "b"}}}),
        ];
        let answer = json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": response});
        let got = judge(answer, "id", &sent, "a/v2").map(|mut objects| objects.remove(0));
        assert_eq!(got, expected.map_err(ToOwned::to_owned));
    }

    #[test]
    fn answers_are_taken_or_refused_in_upstreams_words() {
        let object = json!({"apiVersion": "a/v2", "kind": "C", "metadata": {"name": "n", "uid": "u", "labels": {"x": "y"}}, "spec": 1});
        let success = json!({"status": "Success"});
        check(
            json!({"uid": "id", "result": success, "convertedObjects": [object]}),
            Ok(
                json!({"apiVersion": "a/v2", "kind": "C", "metadata": {"name": "n", "uid": "u", "resourceVersion": "4", "labels": {"x": "y"}}, "spec": 1}),
            ),
        );
        check(json!({"uid": "other", "result": success}), Err("expected response.uid=\"id\", got \"other\""));
        check(json!({"uid": "id", "result": {"status": "Failed", "message": "no"}}), Err("no"));
        check(
            json!({"uid": "id", "result": success, "convertedObjects": []}),
            Err("expected 1 converted objects, got 0"),
        );
        let mut moved = object.clone();
        moved["metadata"]["name"] = "m".into();
        check(
            json!({"uid": "id", "result": success, "convertedObjects": [moved]}),
            Err("invalid metadata at index 0: must have the same name"),
        );
        let mut old = object;
        old["apiVersion"] = "a/v1".into();
        check(
            json!({"uid": "id", "result": success, "convertedObjects": [old]}),
            Err("invalid groupVersion at index 0: expected a/v2, got a/v1"),
        );
    }
}
