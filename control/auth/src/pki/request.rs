//! Certificates for keys that somebody else holds.
//!
//! Source: `pkg/controller/certificates/authority`. The subject, the alternative names and the key are the request's; usages and
//! times are the signer's to say. Invariants: never an authority; never good for longer than the one that signs.

use jiff::Timestamp;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType, SubjectPublicKeyInfo};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use super::{BACKDATE, Error, Pki, set_validity, subject, to_pem};

/// What a certificate's key may do, by the names that CertificateSigningRequests have for it.
const KEY_USAGES: &[(&str, KeyUsagePurpose)] = &[
    ("signing", KeyUsagePurpose::DigitalSignature),
    ("digital signature", KeyUsagePurpose::DigitalSignature),
    ("content commitment", KeyUsagePurpose::ContentCommitment),
    ("key encipherment", KeyUsagePurpose::KeyEncipherment),
    ("key agreement", KeyUsagePurpose::KeyAgreement),
    ("data encipherment", KeyUsagePurpose::DataEncipherment),
    ("cert sign", KeyUsagePurpose::KeyCertSign),
    ("crl sign", KeyUsagePurpose::CrlSign),
    ("encipher only", KeyUsagePurpose::EncipherOnly),
    ("decipher only", KeyUsagePurpose::DecipherOnly),
];
/// Purposes that rcgen has no name for.
const OTHER_PURPOSES: &[(&str, &[u64])] = &[
    ("ipsec end system", &[1, 3, 6, 1, 5, 5, 7, 3, 5]),
    ("ipsec tunnel", &[1, 3, 6, 1, 5, 5, 7, 3, 6]),
    ("ipsec user", &[1, 3, 6, 1, 5, 5, 7, 3, 7]),
    ("microsoft sgc", &[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
    ("netscape sgc", &[2, 16, 840, 1, 113_730, 4, 1]),
];
const WHAT: &str = "a certificate request";

impl Pki {
    /// Signs a request, given as DER, whose signature has been checked.
    pub fn sign_request(
        &self,
        request: &[u8],
        usages: &[String],
        (not_before, not_after): (Timestamp, Timestamp),
    ) -> Result<String, Error> {
        let unreadable = || Error::Unreadable { what: WHAT.to_owned() };
        let (_, parsed) = X509CertificationRequest::from_der(request).map_err(|_| unreadable())?;
        let info = &parsed.certification_request_info;
        // The name is a stand-in: what the request has is put in its place, whole.
        let mut params = self.leaf_params("request", not_before);
        let authority = self.authority.load();
        set_validity(&mut params, not_before + BACKDATE, not_after.min(authority.ends));
        set_usages(&mut params, usages);
        for extension in parsed.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                params.subject_alt_names = names.general_names.iter().filter_map(alternative).collect();
            }
        }
        let issue = |source| Error::Issue { what: WHAT.to_owned(), source };
        let key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw).map_err(issue)?;
        let plain = params.signed_by(&key, &authority.issuer).map_err(issue)?;
        let certificate = subject::exchange(plain.der(), info.subject.as_raw(), WHAT, authority.issuer.key())?;
        Ok(to_pem(&certificate))
    }
}

fn set_usages(params: &mut CertificateParams, usages: &[String]) {
    params.key_usages = Vec::new();
    params.extended_key_usages = Vec::new();
    for usage in usages {
        if let Some((_, purpose)) = KEY_USAGES.iter().find(|(name, _)| name == usage) {
            if !params.key_usages.contains(purpose) {
                params.key_usages.push(*purpose);
            }
        } else if let Some(purpose) = extended(usage) {
            params.extended_key_usages.push(purpose);
        }
    }
}

fn extended(usage: &str) -> Option<ExtendedKeyUsagePurpose> {
    Some(match usage {
        "any" => ExtendedKeyUsagePurpose::Any,
        "server auth" => ExtendedKeyUsagePurpose::ServerAuth,
        "client auth" => ExtendedKeyUsagePurpose::ClientAuth,
        "code signing" => ExtendedKeyUsagePurpose::CodeSigning,
        "email protection" | "s/mime" => ExtendedKeyUsagePurpose::EmailProtection,
        "timestamping" => ExtendedKeyUsagePurpose::TimeStamping,
        "ocsp signing" => ExtendedKeyUsagePurpose::OcspSigning,
        other => {
            let (_, oid) = OTHER_PURPOSES.iter().find(|(name, _)| *name == other)?;
            ExtendedKeyUsagePurpose::Other(oid.to_vec())
        }
    })
}

fn alternative(name: &GeneralName<'_>) -> Option<SanType> {
    match name {
        GeneralName::DNSName(name) => (*name).try_into().ok().map(SanType::DnsName),
        GeneralName::RFC822Name(name) => (*name).try_into().ok().map(SanType::Rfc822Name),
        GeneralName::URI(name) => (*name).try_into().ok().map(SanType::URI),
        GeneralName::IPAddress(bytes) => {
            let four = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from).ok();
            let sixteen = <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from).ok();
            four.or(sixteen).map(SanType::IpAddress)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PublicKeyData};

    use super::super::leaf::{Facts, signed_by};
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn a_certificate_is_for_whom_the_request_names() {
        let root = tempfile::tempdir().expect("temporary directory");
        let pki = Pki::open(root.path(), at("2030-01-01T00:00:00Z")).expect("open");
        let key = KeyPair::generate().expect("a key");
        let mut params =
            CertificateParams::new(vec!["n1.example.com".to_owned(), "10.0.0.1".to_owned()]).expect("names");
        params.distinguished_name = super::super::name("system:nodes", "system:node:n1");
        let request = params.serialize_request(&key).expect("a request");
        let usages = ["digital signature".to_owned(), "server auth".to_owned(), "microsoft sgc".to_owned()];
        let times = (at("2030-01-02T00:00:00Z"), at("2030-02-01T00:00:00Z"));
        let pem = pki.sign_request(request.der(), &usages, times).expect("a certificate");

        assert!(signed_by(&pem, &pki.ca_pem()).expect("verify"));
        let facts = Facts::read(&pem).expect("read");
        assert_eq!((facts.user.as_str(), facts.groups), ("system:node:n1", vec!["system:nodes".to_owned()]));
        assert_eq!(facts.names, ["10.0.0.1", "n1.example.com"]);
        assert_eq!(facts.not_after, times.1);
        assert_eq!(facts.public_key, key.subject_public_key_info());
    }

    #[test]
    fn no_certificate_outlives_its_authority() {
        let root = tempfile::tempdir().expect("temporary directory");
        let pki = Pki::open(root.path(), at("2030-01-01T00:00:00Z")).expect("open");
        let key = KeyPair::generate().expect("a key");
        let request = CertificateParams::new(Vec::new()).expect("names").serialize_request(&key).expect("a request");
        let times = (at("2030-01-02T00:00:00Z"), at("2130-01-01T00:00:00Z"));
        let pem = pki.sign_request(request.der(), &["any".to_owned()], times).expect("a certificate");
        assert_eq!(Facts::read(&pem).expect("read").not_after, pki.authority.load().ends);
    }
}
