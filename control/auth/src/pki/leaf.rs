//! A certificate with its key, as PEM.

use jiff::Timestamp;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::Error;

/// A certificate signed by the cluster's authority, and its private key.
#[derive(Clone)]
pub struct Leaf {
    pub certificate_pem: String,
    pub key_pem: String,
}

impl std::fmt::Debug for Leaf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leaf").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}

impl Leaf {
    /// What rustls wants: the chain and the key.
    pub fn chain(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|_| unreadable("private key"))?;
        Ok((certificates(&self.certificate_pem)?, key))
    }

    pub fn expires(&self) -> Result<Timestamp, Error> {
        Ok(Facts::read(&self.certificate_pem)?.not_after)
    }
}

fn unreadable(what: &str) -> Error {
    Error::Unreadable { what: what.to_owned() }
}

pub(super) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    all.ok().filter(|all| !all.is_empty()).ok_or_else(|| unreadable("certificate"))
}

/// What deciding about a certificate needs to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub not_after: Timestamp,
    /// DNS names and addresses in their text form, sorted.
    pub names: Vec<String>,
    /// The subject's public key, as DER.
    pub public_key: Vec<u8>,
    pub user: String,
    pub groups: Vec<String>,
}

impl Facts {
    pub fn read(pem: &str) -> Result<Self, Error> {
        let certificate = certificates(pem)?.remove(0);
        let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|_| unreadable("certificate"))?;
        let not_after =
            Timestamp::from_second(parsed.validity().not_after.timestamp()).map_err(|_| unreadable("expiry"))?;
        let alternative = parsed.subject_alternative_name().map_err(|_| unreadable("alternative names"))?;
        let mut names: Vec<String> =
            alternative.iter().flat_map(|extension| &extension.value.general_names).filter_map(shown).collect();
        names.sort_unstable();
        let (user, groups) = crate::x509::subject(&parsed);
        Ok(Self { not_after, names, public_key: parsed.public_key().raw.to_vec(), user, groups })
    }
}

fn shown(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
            Ok(bytes) => Some(std::net::Ipv4Addr::from(bytes).to_string()),
            Err(_) => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()),
        },
        _ => None,
    }
}

/// True when `pem` carries a valid signature of the authority whose certificate is `ca_pem`.
pub(super) fn signed_by(pem: &str, ca_pem: &str) -> Result<bool, Error> {
    let (certificate, ca) = (certificates(pem)?.remove(0), certificates(ca_pem)?.remove(0));
    let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|_| unreadable("certificate"))?;
    let (_, ca) = X509Certificate::from_der(&ca).map_err(|_| unreadable("certificate"))?;
    Ok(parsed.verify_signature(Some(ca.public_key())).is_ok())
}
