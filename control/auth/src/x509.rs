//! Users by client certificate: the common name is the user, the organisations are the groups.
//!
//! The TLS listener has verified the chain against the cluster's authority before a request comes here; what is left is to
//! read the subject, and to refuse a certificate that has ended since the connection began. Source: `k8s.io/apiserver/pkg/authentication/request/x509` (`CommonNameUserConversion`).

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use x509_parser::der_parser::asn1_rs::Oid;
use x509_parser::oid_registry::{OID_X509_COMMON_NAME, OID_X509_ORGANIZATION_NAME};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{AuthenticateError, Authenticator, Clock, FrontProxyCertificates, Remarks, User};

#[derive(Clone)]
pub struct X509 {
    clock: Clock,
}

impl X509 {
    pub fn new(clock: Clock) -> Self {
        Self { clock }
    }
}

#[async_trait]
impl Authenticator for X509 {
    async fn authenticate(
        &self,
        parts: &http::request::Parts,
        _: &mut Remarks,
    ) -> Result<Option<User>, AuthenticateError> {
        let Some(peer) = parts.extensions.get::<PeerCertificates>() else {
            // A front proxy that names nobody is nobody itself.
            return match parts.extensions.get::<FrontProxyCertificates>() {
                Some(_) => Err(AuthenticateError("the certificate is a front proxy's, and names no user".to_owned())),
                None => Ok(None),
            };
        };
        peer.user((self.clock)()).map(Some)
    }
}

/// The certificate that a TLS client has shown; a request extension that only the listener sets. Whom it
/// speaks for is read once for each connection.
#[derive(Clone, Debug)]
pub struct PeerCertificates(Arc<Peer>);

#[derive(Debug)]
struct Peer {
    leaf: CertificateDer<'static>,
    read: OnceLock<Result<(User, Timestamp), String>>,
}

impl PeerCertificates {
    pub fn new(leaf: CertificateDer<'static>) -> Self {
        Self(Arc::new(Peer { leaf, read: OnceLock::new() }))
    }

    fn user(&self, now: Timestamp) -> Result<User, AuthenticateError> {
        let read = || read(&self.0.leaf).map_err(|error| error.0);
        match self.0.read.get_or_init(read) {
            Ok((_, end)) if now > *end => Err(AuthenticateError(format!(
                "x509: certificate has expired or is not yet valid: current time {now} is after {end}"
            ))),
            Ok((user, _)) => Ok(user.clone()),
            Err(why) => Err(AuthenticateError(why.clone())),
        }
    }
}

/// Whom a verified certificate speaks for, and until when.
fn read(certificate: &[u8]) -> Result<(User, Timestamp), AuthenticateError> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|error| AuthenticateError(format!("read the client certificate: {error}")))?;
    let (name, groups) = subject(&parsed);
    if name.is_empty() {
        return Err(AuthenticateError("the client certificate has no common name".to_owned()));
    }
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    let end = Timestamp::from_second(parsed.validity().not_after.timestamp())
        .map_err(|error| AuthenticateError(format!("read the client certificate: {error}")))?;
    Ok((User::new(&name, &groups), end))
}

/// Common name and organisations. An attribute that is not text counts as empty, as in Go.
pub(crate) fn subject(certificate: &X509Certificate<'_>) -> (String, Vec<String>) {
    let texts = |kind: Oid<'static>| -> Vec<String> {
        let attributes = certificate.subject().iter_attributes().filter(|attribute| *attribute.attr_type() == kind);
        attributes.map(|attribute| attribute.as_str().unwrap_or_default().to_owned()).collect()
    };
    // Go keeps the last common name.
    (texts(OID_X509_COMMON_NAME).pop().unwrap_or_default(), texts(OID_X509_ORGANIZATION_NAME))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Identity, Pki};

    fn check(identity: &Identity, expected: Result<User, ()>) {
        let root = tempfile::tempdir().expect("temporary directory");
        let now: Timestamp = "2030-01-01T00:00:00Z".parse().expect("timestamp");
        let pki = Pki::open(root.path(), now).expect("open");
        let (chain, _) = pki.client(identity, now).expect("issue").chain().expect("chain");
        assert_eq!(read(&chain[0]).map(|(user, _)| user).map_err(drop), expected);
    }

    #[test]
    fn the_subject_names_the_user_and_its_groups() {
        check(&Identity::admin(), Ok(User::new("system:admin", &["system:masters"])));
        check(&Identity::node("n1"), Ok(User::new("system:node:n1", &["system:nodes"])));
        check(&Identity::new("jane", &[]), Ok(User::new("jane", &[])));
        let many: Vec<String> = (0..40).map(|n| format!("group-{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        check(&Identity::new("zoë", &many), Ok(User::new("zoë", &many)));
        check(&Identity::new("", &["nobody"]), Err(()));
    }

    #[test]
    fn a_certificate_that_ends_ends_its_connection_too() {
        let root = tempfile::tempdir().expect("temporary directory");
        let now: Timestamp = "2030-01-01T00:00:00Z".parse().expect("timestamp");
        let pki = Pki::open(root.path(), now).expect("open");
        let leaf = pki.client(&Identity::node("n1"), now).expect("issue");
        let (end, (chain, _)) = (leaf.expires().expect("an end"), leaf.chain().expect("chain"));
        let peer = PeerCertificates::new(chain[0].clone());
        assert_eq!(peer.user(end).map(|user| user.name), Ok("system:node:n1".to_owned()));
        let why = peer.user(end + std::time::Duration::from_secs(1)).expect_err("too late");
        assert!(why.0.starts_with("x509: certificate has expired"), "{why}");
        assert!(peer.user(now).is_ok());
    }
}
