//! Whom a connection to a webhook or an issuer trusts: an authority bundle, or what the system trusts.
//!
//! As Go verifies, and webpki alone does not: a certificate that stands in the bundle itself is trusted, also where it says
//! that it is an authority. That is what self-signed webhooks show.

use std::sync::Arc;

use hyper_rustls::ConfigBuilderExt;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// A client's settings for those who show a certificate of this bundle; empty is the system's.
pub fn config(bundle: &[u8]) -> Result<ClientConfig, String> {
    config_as(bundle, None)
}

/// The same, showing certificates and their key, as PEM.
pub fn config_as(bundle: &[u8], identity: Option<(&[u8], &[u8])>) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    let builder = match verifier(bundle, provider)? {
        Some(verifier) => builder.dangerous().with_custom_certificate_verifier(verifier),
        None => builder.with_native_roots().map_err(|error| error.to_string())?,
    };
    let Some((certificates, key)) = identity else { return Ok(builder.with_no_client_auth()) };
    let certificates = CertificateDer::pem_slice_iter(certificates).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| error.to_string())?;
    builder.with_client_auth_cert(certificates, key).map_err(|error| error.to_string())
}

/// None where the system's authorities are trusted.
fn verifier(bundle: &[u8], provider: Arc<CryptoProvider>) -> Result<Option<Arc<Verifier>>, String> {
    if bundle.is_empty() {
        return Ok(None);
    }
    let listed: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(bundle).filter_map(Result::ok).collect();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(listed.iter().cloned());
    if added == 0 {
        return Err("unable to load root certificates: unable to parse bytes as PEM block".to_owned());
    }
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let inner = inner.map_err(|error| error.to_string())?;
    Ok(Some(Arc::new(Verifier { inner, listed })))
}

#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    listed: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict = self.inner.verify_server_cert(shown, intermediates, name, ocsp, now);
        let listed = self.listed.iter().any(|listed| listed == shown);
        match verdict {
            // Neither its dates nor its name are forgiven: webpki looks at the dates before it finds this fault.
            Err(Error::InvalidCertificate(CertificateError::Other(_))) if listed => {
                rustls::client::verify_server_name(&ParsedCertificate::try_from(shown)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, shown, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, shown, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// A failed handshake in the words that users know.
pub fn explain(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let Error::InvalidCertificate(why) = find(error)? else { return None };
    let why = match why {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "certificate signed by unknown authority".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "certificate has expired or is not yet valid".to_owned()
        }
        CertificateError::NotValidForName => "certificate is not valid for the server's name".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let name = |text: &String| text.split('"').nth(1).unwrap_or(text).to_owned();
            let names: Vec<String> = presented.iter().map(name).collect();
            format!("certificate is valid for {}, not {}", names.join(", "), expected.to_str())
        }
        other => other.to_string(),
    };
    Some(format!("tls: failed to verify certificate: x509: {why}"))
}

/// What went wrong on the way, down to the cause.
pub fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    if let Some(why) = explain(error) {
        return why;
    }
    let (mut text, mut source) = (error.to_string(), error.source());
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    text
}

/// The error of the handshake among its wrappings. What an I/O error carries is not its source, but stands beside it.
fn find<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e Error> {
    if let Some(found) = error.downcast_ref::<Error>() {
        return Some(found);
    }
    let carried = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    let carried = carried.and_then(|inner| find(inner));
    carried.or_else(|| error.source().and_then(find))
}
