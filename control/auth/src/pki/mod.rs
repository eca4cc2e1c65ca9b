//! The cluster's own certificates: one authority, made at the first start, and what it signs.
//!
//! Files under the PKI directory (0700; files 0600; names as kubeadm's): `ca.crt`, `ca.key`, `sa.key`, `sa.pub`,
//! `apiserver.crt`, `apiserver.key`. Client certificates of components in this process are never written down.
//!
//! Invariants: keys are ECDSA P-256 from the system's generator; serial numbers are random; a stored certificate is used again
//! until its names change, its authority changes or its end comes near; an authority near its end is reissued with the same
//! key, so what it signed stays good, at a start and while the process runs ([`Pki::renew`]); whoever knows the authority by its
//! name and key, as TLS here does, goes on as before, and who looks at its dates is told by [`Pki::published`]; the authority's
//! key is never replaced behind the back of certificates that need it.
//! Absent on purpose: the front-proxy authority (comes with aggregation), revocation (certificates are short-lived instead).

mod authority;
mod files;
mod leaf;
mod names;
mod request;
mod shown;
mod subject;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use authority::Authority;
pub(crate) use files::write as write_private;
use leaf::Facts;
pub use leaf::{Leaf, expires, is_signed_by};
pub use names::{Identity, ServerNames};
pub use shown::Shown;

/// How long the authority lives: upstream's ten years.
pub const CA_LIFETIME: Duration = Duration::from_secs(3650 * DAY_S);
/// How long everything that it signs lives.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(365 * DAY_S);
/// A stored certificate with less than this left is reissued at start.
pub const RENEW_BEFORE: Duration = Duration::from_secs(90 * DAY_S);
/// Certificates start this long before now, for clients whose clocks are behind.
pub const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// Random bytes in a serial number (RFC 5280 allows 20 bytes).
const SERIAL_BYTES: usize = 16;
const DAY_S: u64 = 24 * 60 * 60;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{operation} {path}")]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("read {what}")]
    Unreadable { what: String },
    /// Making a new key would cut off every certificate that the old one signed: somebody must decide that.
    #[error("{certificate} is there but {key} is not; restore the key, or remove both to start a new authority")]
    KeyMissing { certificate: PathBuf, key: PathBuf },
    #[error("{certificate} was not made for {key}")]
    KeyMismatch { certificate: PathBuf, key: PathBuf },
    #[error("issue a certificate for {what}")]
    Issue {
        what: String,
        #[source]
        source: rcgen::Error,
    },
    #[error("encode a kubeconfig")]
    Kubeconfig(#[source] serde_yaml::Error),
}

/// The authority and the service-account key, loaded or made.
pub struct Pki {
    directory: PathBuf,
    authority: ArcSwap<Authority>,
    published: watch::Sender<String>,
    service_account: KeyPair,
}

impl Pki {
    /// Loads what `directory` holds and makes what is missing.
    pub fn open(directory: &Path, now: Timestamp) -> Result<Self, Error> {
        files::make_directory(directory).map_err(|source| io_error("make", directory, source))?;
        let authority = Authority::open(directory, now)?;
        let (published, _) = watch::channel(authority.pem.clone());
        let service_account = stored_key(&directory.join("sa.key"))?;
        store(&directory.join("sa.pub"), &service_account.public_key_pem())?;
        Ok(Self {
            directory: directory.to_owned(),
            authority: ArcSwap::from_pointee(authority),
            published,
            service_account,
        })
    }

    /// Issues the authority's certificate anew, for the same key, if a start would do so now; says when it has to be looked at
    /// again.
    pub fn renew(&self, now: Timestamp) -> Result<Timestamp, Error> {
        let fresh = Authority::open(&self.directory, now)?;
        let (pem, due) = (fresh.pem.clone(), fresh.ends - LEAF_LIFETIME - RENEW_BEFORE);
        if pem != self.authority.load().pem {
            self.authority.store(Arc::new(fresh));
            self.published.send_replace(pem);
        }
        Ok(due)
    }

    /// The authority's certificate: what clients must trust.
    pub fn ca_pem(&self) -> String {
        self.authority.load().pem.clone()
    }

    /// The same, for whoever passes it on.
    pub fn published(&self) -> watch::Receiver<String> {
        self.published.subscribe()
    }

    pub fn ca_der(&self) -> Result<CertificateDer<'static>, Error> {
        Ok(leaf::certificates(&self.ca_pem())?.remove(0))
    }

    /// The key that signs service account tokens (ES256), PKCS#8 as PEM.
    pub fn service_account_key_pem(&self) -> String {
        self.service_account.serialize_pem()
    }

    pub fn service_account_public_key_pem(&self) -> String {
        self.service_account.public_key_pem()
    }

    /// The API server's certificate, kept on disk and reissued when `names` differ or its end comes near.
    pub fn api_server(&self, names: &ServerNames, now: Timestamp) -> Result<Leaf, Error> {
        let (certificate, key) = (self.directory.join("apiserver.crt"), self.directory.join("apiserver.key"));
        if let (Some(certificate_pem), Some(key_pem)) = (load(&certificate)?, load(&key)?) {
            let stored = Leaf { certificate_pem, key_pem };
            if self.facts(&stored, now).is_some_and(|facts| facts.names == names.sorted()) {
                return Ok(stored);
            }
        }
        let fresh = self.serving("kube-apiserver", names, now)?;
        // The key goes first: a crash between the two leaves a pair that does not match, which the next start reissues.
        store(&key, &fresh.key_pem)?;
        store(&certificate, &fresh.certificate_pem)?;
        Ok(fresh)
    }

    /// What the certificate says, if it is this authority's, fits its key and does not near its end.
    fn facts(&self, leaf: &Leaf, now: Timestamp) -> Option<Facts> {
        let facts = Facts::read(&leaf.certificate_pem).ok()?;
        let key = KeyPair::from_pem(&leaf.key_pem).ok()?;
        let ours = leaf::signed_by(&leaf.certificate_pem, &self.ca_pem()).unwrap_or(false);
        let good = ours && facts.public_key == key.subject_public_key_info() && now + RENEW_BEFORE < facts.not_after;
        good.then_some(facts)
    }

    /// When a certificate of this authority is to be issued anew: before what is stored would be refused at a start.
    pub fn renew_at(leaf: &Leaf) -> Result<Timestamp, Error> {
        Ok(leaf.expires()? - RENEW_BEFORE)
    }

    /// True when the certificate and its key are `identity`'s, signed by this authority, with time left.
    pub fn speaks_for(&self, leaf: &Leaf, identity: &Identity, now: Timestamp) -> bool {
        let facts = self.facts(leaf, now);
        facts.is_some_and(|facts| facts.user == identity.user && facts.groups == identity.groups)
    }

    /// A new certificate for a TLS server, a node's for one.
    pub fn serving(&self, common_name: &str, names: &ServerNames, now: Timestamp) -> Result<Leaf, Error> {
        let mut params = self.leaf_params(common_name, now);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for name in &names.dns {
            let name = name.as_str().try_into().map_err(|source| Error::Issue { what: name.clone(), source })?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.subject_alt_names.extend(names.ips.iter().copied().map(SanType::IpAddress));
        let key = new_key()?;
        let certificate = self.sign(&params, &key, common_name)?;
        Ok(Leaf { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// A new certificate with which a client proves who it is.
    pub fn client(&self, identity: &Identity, now: Timestamp) -> Result<Leaf, Error> {
        let mut params = self.leaf_params(&identity.user, now);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if let [group] = identity.groups.as_slice() {
            params.distinguished_name = name(group, &identity.user);
        }
        let key = new_key()?;
        let certificate = self.sign(&params, &key, &identity.user)?;
        let certificate_pem = match identity.groups.len() {
            0 | 1 => certificate.pem(),
            _ => {
                let subject = subject::name(identity);
                to_pem(&subject::exchange(
                    certificate.der(),
                    &subject,
                    &identity.user,
                    self.authority.load().issuer.key(),
                )?)
            }
        };
        Ok(Leaf { certificate_pem, key_pem: key.serialize_pem() })
    }

    fn leaf_params(&self, common_name: &str, now: Timestamp) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, now, (now + LEAF_LIFETIME).min(self.authority.load().ends));
        params
    }

    fn sign(&self, params: &CertificateParams, key: &KeyPair, what: &str) -> Result<rcgen::Certificate, Error> {
        let authority = self.authority.load();
        params.signed_by(key, &authority.issuer).map_err(|source| Error::Issue { what: what.to_owned(), source })
    }
}

/// Sets from when to when a certificate is good, and its serial number.
fn set_validity(params: &mut CertificateParams, now: Timestamp, end: Timestamp) {
    // rcgen takes the `time` crate's moments and hands out one to start from.
    let moment = |at: Timestamp| {
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let distance = Duration::from_secs(at.as_second().unsigned_abs());
        if at.as_second() < 0 { epoch - distance } else { epoch + distance }
    };
    params.not_before = moment(now) - BACKDATE;
    params.not_after = moment(end);
    let mut serial: [u8; SERIAL_BYTES] = rand::random();
    serial[0] = serial[0] & 0x7f | 0x40; // positive, and always of one length
    params.serial_number = Some(SerialNumber::from_slice(&serial));
}

fn name(organization: &str, common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, organization);
    name.push(DnType::CommonName, common_name);
    name
}

fn new_key() -> Result<KeyPair, Error> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
        .map_err(|source| Error::Issue { what: "a new key".to_owned(), source })
}

fn stored_key(path: &Path) -> Result<KeyPair, Error> {
    if let Some(pem) = load(path)? {
        return KeyPair::from_pem(&pem).map_err(|_| Error::Unreadable { what: path.display().to_string() });
    }
    let key = new_key()?;
    store(path, &key.serialize_pem())?;
    Ok(key)
}

/// A certificate as PEM.
pub fn to_pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

fn load(path: &Path) -> Result<Option<String>, Error> {
    files::read(path).map_err(|source| io_error("read", path, source))
}

fn store(path: &Path, text: &str) -> Result<(), Error> {
    files::write(path, text.as_bytes()).map_err(|source| io_error("write", path, source))
}

fn io_error(operation: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::Io { operation, path: path.to_owned(), source }
}
