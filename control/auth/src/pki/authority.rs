//! The authority's key and certificate: made once, and reissued with the same key before its end.

use std::path::Path;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData,
};

use super::leaf::Facts;
use super::{CA_LIFETIME, Error, LEAF_LIFETIME, RENEW_BEFORE, load, set_validity, store, stored_key};

const CA_NAME: &str = "kubernetes";

/// The authority as it signs now.
pub(super) struct Authority {
    pub pem: String,
    pub issuer: Issuer<'static, KeyPair>,
    pub ends: Timestamp,
}

impl Authority {
    /// As the directory has it; issued anew if its end is near.
    pub fn open(directory: &Path, now: Timestamp) -> Result<Self, Error> {
        let (key, pem) = authority(directory, now)?;
        let ends = Facts::read(&pem)?.not_after;
        let issuer = Issuer::from_ca_cert_pem(&pem, key)
            .map_err(|source| Error::Issue { what: "the cluster's authority".to_owned(), source })?;
        Ok(Self { pem, issuer, ends })
    }
}

/// The authority's key and certificate.
fn authority(directory: &Path, now: Timestamp) -> Result<(KeyPair, String), Error> {
    let (certificate, key_file) = (directory.join("ca.crt"), directory.join("ca.key"));
    let stored = load(&certificate)?;
    if stored.is_some() && load(&key_file)?.is_none() {
        return Err(Error::KeyMissing { certificate, key: key_file });
    }
    let key = stored_key(&key_file)?;
    if let Some(pem) = stored {
        let facts = Facts::read(&pem).map_err(|_| Error::Unreadable { what: certificate.display().to_string() })?;
        if facts.public_key != key.subject_public_key_info() {
            return Err(Error::KeyMismatch { certificate, key: key_file });
        }
        // A leaf must be able to live its whole life.
        if facts.not_after > now + LEAF_LIFETIME + RENEW_BEFORE {
            return Ok((key, pem));
        }
        tracing::info!(path = %certificate.display(), ends = %facts.not_after, "the cluster's authority nears its end: reissuing it with the same key");
    }
    let pem = ca_params(now)
        .self_signed(&key)
        .map_err(|source| Error::Issue { what: "the cluster's authority".to_owned(), source })?
        .pem();
    store(&certificate, &pem)?;
    Ok((key, pem))
}

fn ca_params(now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, CA_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, now, now + CA_LIFETIME);
    params
}
