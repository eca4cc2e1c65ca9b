//! A certificate with its key, as PEM.

use jiff::Timestamp;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{Error, Identity};

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
        expires(&self.certificate_pem)
    }

    /// True when the certificate speaks for this identity, whoever has signed it.
    pub fn is_of(&self, identity: &Identity) -> bool {
        let facts = Facts::read(&self.certificate_pem);
        facts.is_ok_and(|facts| facts.user == identity.user && facts.groups == identity.groups)
    }
}

/// When the first certificate of `pem` ends.
pub fn expires(pem: &str) -> Result<Timestamp, Error> {
    Ok(Facts::read(pem)?.not_after)
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

/// True when one of these authorities, given as DER, has signed the first certificate of `pem`.
pub fn is_signed_by(pem: &str, authorities: &[Vec<u8>]) -> bool {
    let Some(certificate) = certificates(pem).ok().map(|mut all| all.remove(0)) else { return false };
    let Ok((_, parsed)) = X509Certificate::from_der(&certificate) else { return false };
    authorities.iter().any(|authority| {
        let authority = X509Certificate::from_der(authority);
        authority.is_ok_and(|(_, authority)| parsed.verify_signature(Some(authority.public_key())).is_ok())
    })
}

/// True when `pem` carries a valid signature of the authority whose certificate is `ca_pem`.
pub(super) fn signed_by(pem: &str, ca_pem: &str) -> Result<bool, Error> {
    Ok(is_signed_by(pem, &[certificates(ca_pem)?.remove(0).to_vec()]))
}
