//! Connections to what is proxied to.
//!
//! A pod's or service's certificate is not verified: nobody says who signs it, and the client chose `https:` in the name.

use std::sync::Arc;
use std::time::Duration;

use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};

use crate::reply::Body;

/// How long a connection may take to come about: upstream's dialer.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long, and how many, idle connections to one backend are kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const IDLE_PER_HOST_MAX: usize = 8;

pub type HttpClient = Client<HttpsConnector<HttpConnector>, Body>;

/// Calls pods and services.
#[derive(Clone)]
pub struct Outgoing {
    pub client: HttpClient,
}

impl Default for Outgoing {
    fn default() -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("the provider has TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(trusting(&provider))
            .with_no_client_auth();
        Self { client: client(tls, CONNECT_TIMEOUT) }
    }
}

/// Takes whatever certificate the other side shows.
pub fn trusting(provider: &CryptoProvider) -> Arc<dyn ServerCertVerifier> {
    Arc::new(TrustAnyone(provider.signature_verification_algorithms))
}

/// A client that speaks HTTP/1.1, which upgrades need, with this TLS where the address says https.
pub fn client(tls: ClientConfig, connect_timeout: Duration) -> HttpClient {
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
    pooled(connector.wrap_connector(dialer(connect_timeout)))
}

/// The same for one server that is called by its address and certified for another name.
pub fn client_for(tls: ClientConfig, connect_timeout: Duration, name: FixedServerNameResolver) -> HttpClient {
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().with_server_name_resolver(name);
    pooled(connector.enable_http1().wrap_connector(dialer(connect_timeout)))
}

fn dialer(connect_timeout: Duration) -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_connect_timeout(Some(connect_timeout));
    connector.set_nodelay(true);
    connector
}

fn pooled(connector: HttpsConnector<HttpConnector>) -> HttpClient {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
        .build(connector)
}

#[derive(Debug)]
struct TrustAnyone(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for TrustAnyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
