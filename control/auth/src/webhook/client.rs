//! Reviews that are posted to the server that a kubeconfig names, to exactly the path that it names.
//!
//! Source: `k8s.io/apiserver/pkg/util/webhook` (`GenericWebhook`, `WithExponentialBackoff`, `DefaultShouldRetry`).

use std::path::Path;
use std::time::Duration;

use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Limited};
use hyper_util::client::legacy::Client as Http;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::ConfigExt;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rand::Rng;
use serde_json::Value;
use tower::ServiceBuilder;
use wharf_types::meta::Status;
use wharf_types::order;

use crate::tls;

/// How long an answer may take where nothing else is said, as upstream.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// The pause after the first failure, what it grows by, how much of it chance adds, and how often a review is posted.
pub const PAUSE: Duration = Duration::from_millis(500);
const FACTOR: f64 = 1.5;
const JITTER: f64 = 0.2;
const TRIES: u32 = 5;
/// Longest pause that a server may ask for.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Longest answer, in bytes.
const ANSWER_MAX: usize = 1 << 20;
/// How long idle connections are kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("read the webhook's kubeconfig")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    #[error("reach the webhook")]
    Client(#[from] kube::Error),
}

#[derive(Clone)]
pub struct Client {
    inner: kube::Client,
    url: Uri,
    timeout: Duration,
    pause: Duration,
}

/// One attempt that failed.
struct Failure {
    why: String,
    /// None where another attempt would not help.
    retry: Option<Option<Duration>>,
}

impl Client {
    /// `timeout` is for each attempt; `pause` follows the first that fails.
    pub async fn open(kubeconfig: &Path, timeout: Duration, pause: Duration) -> Result<Self, OpenError> {
        let config = Kubeconfig::read_from(kubeconfig)?;
        let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        let http = Http::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_timer(TokioTimer::new())
            .build(config.rustls_https_connector()?);
        // Without the layer that puts the server's path before another one: the URL is the whole address.
        let service = ServiceBuilder::new()
            .option_layer(config.auth_layer()?)
            .map_err(Into::<tower::BoxError>::into)
            .service(http);
        let inner = kube::Client::new(service, "default");
        Ok(Self { inner, url: config.cluster_url, timeout, pause })
    }

    /// The answer to a review.
    pub async fn post(&self, review: &Value) -> Result<Value, String> {
        let mut pause = self.pause;
        for left in (0..TRIES).rev() {
            let failure = match self.attempt(review).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            match failure.retry {
                Some(asked) if left > 0 => {
                    let jitter = 1.0 + JITTER * rand::rng().random::<f64>();
                    tokio::time::sleep(asked.unwrap_or_else(|| pause.mul_f64(jitter)).min(PAUSE_MAX)).await;
                    pause = pause.mul_f64(FACTOR);
                }
                _ => return Err(failure.why),
            }
        }
        Err("the webhook was not called".to_owned())
    }

    async fn attempt(&self, review: &Value) -> Result<Value, Failure> {
        let url = &self.url;
        let fail = |why: String, retry| Failure { why: format!("Post \"{url}\": {why}"), retry };
        let request = Request::post(url)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, */*")
            .body(kube::client::Body::from(order::envelope(review)))
            .map_err(|error| fail(error.to_string(), None))?;
        let exchange = async {
            let response = self.inner.send(request).await;
            let response = response.map_err(|error| fail(tls::cause(&error), was_reset(&error).then_some(None)))?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_MAX).collect().await;
            let body = body.map_err(|error| fail(format!("read the answer: {error}"), None))?.to_bytes();
            if !parts.status.is_success() {
                return Err(refused(parts.status, &parts.headers, &body));
            }
            serde_json::from_slice(&body)
                .map_err(|error| fail(format!("couldn't get version/kind; json parse error: {error}"), None))
        };
        let late =
            || Err(fail("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned(), None));
        tokio::time::timeout(self.timeout, exchange).await.unwrap_or_else(|_| late())
    }
}

fn was_reset(error: &(dyn std::error::Error + 'static)) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionReset) || error.source().is_some_and(was_reset)
}

/// What client-go makes of an answer that is no success, and whether another attempt may help.
fn refused(status: StatusCode, headers: &http::HeaderMap, body: &[u8]) -> Failure {
    let after = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let retry = match (after, status.as_u16()) {
        (Some(seconds), 429 | 500..) => Some(Some(Duration::from_secs(seconds))),
        (None, 429 | 500 | 504) => Some(None),
        _ => None,
    };
    let sent = serde_json::from_slice::<Status>(body).ok();
    let said = sent.filter(|sent| sent.status.as_deref() == Some("Failure")).and_then(|sent| sent.message);
    let text = String::from_utf8_lossy(body).trim().to_owned();
    let why = said.unwrap_or_else(|| match status.as_u16() {
        401 => "the server has asked for the client to provide credentials".to_owned(),
        403 => "unknown".to_owned(),
        404 => "the server could not find the requested resource".to_owned(),
        429 => "the server has received too many requests and has asked us to try again later".to_owned(),
        503 => "the server is currently unable to handle the request".to_owned(),
        code if code >= 500 => format!("an error on the server ({text:?}) has prevented the request from succeeding"),
        code => format!("the server responded with the status code {code} but did not return more information"),
    });
    Failure { why, retry }
}
