//! A small client for what issuers publish: GET over TLS, with limits.
//!
//! Absent on purpose: redirects, which an issuer's documents have no need of, and proxies.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::tls;

/// How long an answer may take, with its body. Source: `oidc.New`.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer, in bytes: far more than any key set.
const BODY_MAX: usize = 1 << 20;
/// Idle connections, and how long they are kept.
const IDLE_MAX: usize = 2;
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

#[derive(Clone)]
pub struct Https(Client<HttpsConnector<HttpConnector>, Empty<Bytes>>);

impl Https {
    /// Trusts the authorities of a PEM bundle, or those of the system if it is empty.
    pub fn new(bundle: &str) -> Result<Self, String> {
        let tls = tls::config(bundle.as_bytes())?;
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_all_versions().build();
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(IDLE_MAX)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Ok(Self(client))
    }

    /// The body of an answer of 200.
    pub async fn get(&self, url: &str, token: Option<&str>) -> Result<Bytes, String> {
        let fail = |why: String| format!("Get {url:?}: {why}");
        let mut request = Request::get(url);
        if let Some(token) = token {
            let value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|error| fail(error.to_string()))?;
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(Empty::new()).map_err(|error| fail(error.to_string()))?;
        let exchange = async {
            let response = self.0.request(request).await.map_err(|error| fail(tls::cause(&error)))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), BODY_MAX).collect().await;
            let body = body.map_err(|error| format!("unable to read response body: {error}"))?.to_bytes();
            match status {
                StatusCode::OK => Ok(body),
                status => Err(format!("{status}: {}", String::from_utf8_lossy(&body))),
            }
        };
        tokio::time::timeout(TIMEOUT, exchange)
            .await
            .unwrap_or_else(|_| Err(fail("context deadline exceeded".to_owned())))
    }
}
