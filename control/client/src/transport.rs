//! Ways to reach an API server; each ends in an ordinary `kube::Client`.
//!
//! - [`from_service`]: the API server's request stack in the same process. The same authentication, authorization and
//!   admission run; only sockets and TLS are absent. The identity belongs to the service that is passed in.
//! - [`from_kubeconfig`], [`from_identity`]: TLS with rustls, the connection pool and the retries on 429, 503 and 504 are kube's.
//! - [`exchangeable`]: any of these, which another may replace while it is in use.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use kube::config::{AuthInfo, Config, KubeConfigOptions, Kubeconfig};
use parking_lot::RwLock;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tower::retry::Retry;
use tower::{BoxError, Service};

use crate::retry::Patience;

/// Where objects without a namespace are looked for, as in a kubeconfig without one.
const DEFAULT_NAMESPACE: &str = "default";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read kubeconfig {path}")]
    Kubeconfig { path: String, source: kube::config::KubeconfigError },
    #[error("parse the API server's URL {url:?}")]
    Url { url: String, source: http::uri::InvalidUri },
    #[error("parse the certificate authority's PEM")]
    Authority(#[source] rustls::pki_types::pem::Error),
    #[error("the certificate authority's PEM holds no certificate")]
    NoAuthority,
    #[error("a client certificate and its key must be UTF-8 PEM")]
    NotText,
    #[error("set up the API client")]
    Client(#[source] kube::Error),
}

/// A client that calls `service` directly, and again when it answers 429. Must be called inside a tokio runtime, which drives the client's queue.
pub fn from_service<S, B>(service: S) -> Client
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Client::new(Retry::new(Patience::default(), service), DEFAULT_NAMESPACE)
}

/// A client for the current context of the kubeconfig file at `path`.
pub async fn from_kubeconfig(path: &Path) -> Result<Client, Error> {
    Client::try_from(config(path).await?).map_err(Error::Client)
}

/// The current context of the kubeconfig file at `path`.
pub async fn config(path: &Path) -> Result<Config, Error> {
    let bad = |source| Error::Kubeconfig { path: path.display().to_string(), source };
    let kubeconfig = Kubeconfig::read_from(path).map_err(bad)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(bad)
}

/// The client certificate that a configuration holds, or names the file of, as PEM.
pub fn certificate(config: &Config) -> Option<Vec<u8>> {
    let auth = &config.auth_info;
    match (&auth.client_certificate_data, &auth.client_certificate) {
        (Some(data), _) => STANDARD.decode(data).ok(),
        (None, Some(path)) => std::fs::read(path).ok(),
        (None, None) => None,
    }
}

/// The same server, by this certificate and key, as PEM, and by no other credentials.
pub fn with_identity(mut config: Config, cert_pem: &str, key_pem: &str) -> Result<Client, Error> {
    config.auth_info = identity(cert_pem, key_pem);
    Client::try_from(config).map_err(Error::Client)
}

fn identity(cert_pem: &str, key_pem: &str) -> AuthInfo {
    AuthInfo {
        client_certificate_data: Some(STANDARD.encode(cert_pem)),
        client_key_data: Some(STANDARD.encode(key_pem).into()),
        ..AuthInfo::default()
    }
}

/// A client that sends what it is asked through another, and whoever can put a third in that one's place: one whose identity changes
/// while clones of it are in use. What is under way goes on as it began. Must be called inside a tokio runtime.
pub fn exchangeable(first: Client) -> (Client, Exchange) {
    let current = Arc::new(RwLock::new(first));
    let held = current.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let client = held.read().clone();
        async move { client.send(request).await }
    });
    (Client::new(service, DEFAULT_NAMESPACE), Exchange(current))
}

/// The other end of an [`exchangeable`] client.
#[derive(Clone)]
pub struct Exchange(Arc<RwLock<Client>>);

impl Exchange {
    /// Requests go through this client from now on, over connections of its own.
    pub fn put(&self, client: Client) {
        *self.0.write() = client;
    }
}

/// A client with a certificate of its own. Every argument but `url` is PEM; `ca_pem` may hold several certificates.
pub fn from_identity(url: &str, ca_pem: &[u8], cert_pem: &[u8], key_pem: &[u8]) -> Result<Client, Error> {
    Client::try_from(identity_config(url, ca_pem, cert_pem, key_pem)?).map_err(Error::Client)
}

fn identity_config(url: &str, ca_pem: &[u8], cert_pem: &[u8], key_pem: &[u8]) -> Result<Config, Error> {
    let mut config = Config::new(url.parse().map_err(|source| Error::Url { url: url.to_owned(), source })?);
    let roots: Vec<Vec<u8>> = CertificateDer::pem_slice_iter(ca_pem)
        .map(|der| der.map(|der| der.to_vec()))
        .collect::<Result<_, _>>()
        .map_err(Error::Authority)?;
    if roots.is_empty() {
        return Err(Error::NoAuthority);
    }
    let (Ok(cert_pem), Ok(key_pem)) = (std::str::from_utf8(cert_pem), std::str::from_utf8(key_pem)) else {
        return Err(Error::NotText);
    };
    config.root_cert = Some(roots);
    config.auth_info = identity(cert_pem, key_pem);
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_without_a_certificate_is_refused() {
        let error = identity_config("https://127.0.0.1:6443", b"", b"", b"").expect_err("no certificate");
        assert!(matches!(error, Error::NoAuthority), "{error}");
    }

    #[test]
    fn a_url_that_is_none_is_refused() {
        let error = identity_config("https://a b", b"", b"", b"").expect_err("not a URL");
        assert!(error.to_string().contains("https://a b"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_service_is_asked_again() {
        let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counter = asked.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let busy = counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 3;
            assert_eq!(request.uri().path(), "/healthz");
            let status = if busy { http::StatusCode::TOO_MANY_REQUESTS } else { http::StatusCode::OK };
            let mut response = Response::new(http_body_util::Full::new(Bytes::from("ok")));
            *response.status_mut() = status;
            std::future::ready(Ok::<_, std::convert::Infallible>(response))
        });
        let request = Request::get("/healthz").body(Vec::new()).expect("a request");
        assert_eq!(from_service(service).request_text(request).await.expect("an answer"), "ok");
        assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 4);
    }

    #[tokio::test]
    async fn a_service_in_the_process_answers_requests() {
        let service = tower::service_fn(|request: Request<Body>| async move {
            assert_eq!(request.uri().path(), "/version");
            let body = r#"{"major":"1","minor":"36","gitVersion":"v1.36.0","gitCommit":"","gitTreeState":"","buildDate":"","goVersion":"","compiler":"","platform":""}"#;
            Ok::<_, std::convert::Infallible>(Response::new(http_body_util::Full::new(Bytes::from(body))))
        });
        let version = from_service(service).apiserver_version().await.expect("version");
        assert_eq!(version.minor, "36");
    }

    #[tokio::test]
    async fn clones_of_a_client_change_with_it() {
        let named = |name: &'static str| {
            from_service(tower::service_fn(move |_: Request<Body>| {
                std::future::ready(Ok::<_, std::convert::Infallible>(Response::new(http_body_util::Full::new(
                    Bytes::from(name),
                ))))
            }))
        };
        let (client, exchange) = exchangeable(named("old"));
        let clone = client.clone();
        let ask = async |client: &Client| {
            let request = Request::get("/whoami").body(Vec::new()).expect("a request");
            client.request_text(request).await.expect("an answer")
        };
        assert_eq!((ask(&client).await, ask(&clone).await), ("old".to_owned(), "old".to_owned()));
        exchange.put(named("new"));
        assert_eq!((ask(&client).await, ask(&clone).await), ("new".to_owned(), "new".to_owned()));
    }
}
