//! Certificate signing requests and certificates in PEM: what they say, and whether they are whole.
//!
//! Source of the checks: `pkg/apis/certificates/{helpers,validation}`, which read PEM as Go's `encoding/pem` does: what stands
//! around a block is nobody's business. Absent on purpose: keys, and signing with them.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{OID_X509_COMMON_NAME, OID_X509_ORGANIZATION_NAME};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Name;

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// One block of a PEM text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    pub label: String,
    pub has_headers: bool,
    pub der: Vec<u8>,
}

/// What a request asks to have certified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns_names: Vec<String>,
    pub ip_addresses: Vec<IpAddr>,
    pub emails: Vec<String>,
    pub uris: Vec<String>,
    /// The request itself.
    pub der: Vec<u8>,
}

/// The blocks of a text; what is no block is passed over.
pub fn blocks(pem: &[u8]) -> Vec<Block> {
    let text = String::from_utf8_lossy(pem);
    let mut lines = text.lines().map(str::trim_end);
    let mut blocks = Vec::new();
    while let Some(line) = lines.next() {
        let Some(label) = line.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(DASHES)) else { continue };
        let end = format!("{END}{label}{DASHES}");
        let (mut body, mut has_headers, mut whole) = (String::new(), false, false);
        for line in lines.by_ref() {
            whole = line == end;
            match line {
                _ if whole => break,
                line if line.contains(':') => has_headers = true,
                line => body.push_str(line.trim()),
            }
        }
        if let Some(der) = STANDARD.decode(body).ok().filter(|_| whole) {
            blocks.push(Block { label: label.to_owned(), has_headers, der });
        }
    }
    blocks
}

/// Reads a request. Its signature may be anybody's: see [`check_signature`].
pub fn parse(pem: &[u8]) -> Result<Request, Error> {
    let block = blocks(pem).into_iter().next().filter(|block| block.label == "CERTIFICATE REQUEST");
    let block = block.ok_or_else(|| Error("PEM block type must be CERTIFICATE REQUEST".to_owned()))?;
    let parsed = read(&block.der)?;
    let mut request = Request { der: block.der.clone(), ..Request::default() };
    request.take_subject(&parsed.certification_request_info.subject);
    for extension in parsed.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension {
            names.general_names.iter().try_for_each(|name| request.add(name))?;
        }
    }
    Ok(request)
}

impl Request {
    fn take_subject(&mut self, subject: &X509Name<'_>) {
        for attribute in subject.iter_attributes() {
            let text = || attribute.as_str().unwrap_or_default().to_owned();
            if *attribute.attr_type() == OID_X509_COMMON_NAME {
                self.common_name = text();
            } else if *attribute.attr_type() == OID_X509_ORGANIZATION_NAME {
                self.organizations.push(text());
            }
        }
    }

    fn add(&mut self, name: &GeneralName<'_>) -> Result<(), Error> {
        match name {
            GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
            GeneralName::RFC822Name(name) => self.emails.push((*name).to_owned()),
            GeneralName::URI(name) => self.uris.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => self.ip_addresses.push(address(bytes)?),
            _ => {}
        }
        Ok(())
    }
}

fn address(bytes: &[u8]) -> Result<IpAddr, Error> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let sixteen = || <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| sixteen()).map_err(|_| Error(format!("x509: cannot parse IP address of length {}", bytes.len())))
}

/// True only for a request that was signed with the key that it asks to certify.
pub fn check_signature(request: &Request) -> Result<(), Error> {
    read(&request.der)?
        .verify_signature()
        .map_err(|_| Error("x509: the request's signature does not fit its key".to_owned()))
}

/// The key that a request is for, as DER of its public half.
pub fn public_key(request: &Request) -> Result<Vec<u8>, Error> {
    Ok(read(&request.der)?.certification_request_info.subject_pki.raw.to_vec())
}

/// The key that the first certificate of a chain is for, as DER of its public half.
pub fn certified_key(pem: &[u8]) -> Option<Vec<u8>> {
    let block = first_certificate(pem)?;
    let (_, certificate) = X509Certificate::from_der(&block.der).ok()?;
    Some(certificate.public_key().raw.to_vec())
}

fn read(der: &[u8]) -> Result<X509CertificationRequest<'_>, Error> {
    match X509CertificationRequest::from_der(der) {
        Ok(([], request)) => Ok(request),
        Ok(_) => Err(Error("asn1: syntax error: trailing data".to_owned())),
        Err(error) => Err(Error(format!("x509: malformed certificate request: {error}"))),
    }
}

/// Refuses a text that is no chain of certificates; an empty one is none yet.
pub fn validate_certificates(pem: &[u8]) -> Result<(), Error> {
    if pem.is_empty() {
        return Ok(());
    }
    let blocks = blocks(pem);
    for block in &blocks {
        if block.label != "CERTIFICATE" {
            return Err(Error(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label)));
        }
        if block.has_headers {
            return Err(Error("no PEM block headers are permitted".to_owned()));
        }
        if block.der.is_empty() {
            return Err(Error("found CERTIFICATE PEM block containing 0 certificates".to_owned()));
        }
        let mut rest = block.der.as_slice();
        while !rest.is_empty() {
            let (after, _) = X509Certificate::from_der(rest)
                .map_err(|error| Error(format!("x509: malformed certificate: {error}")))?;
            rest = after;
        }
    }
    if blocks.is_empty() { Err(Error("must contain at least one CERTIFICATE PEM block".to_owned())) } else { Ok(()) }
}

/// What the first certificate of a chain certifies; `der` is the certificate itself.
pub fn certified(pem: &[u8]) -> Option<Request> {
    let block = first_certificate(pem)?;
    let (_, certificate) = X509Certificate::from_der(&block.der).ok()?;
    let mut held = Request { der: block.der.clone(), ..Request::default() };
    held.take_subject(certificate.subject());
    let names = certificate.subject_alternative_name().ok()?;
    for name in names.iter().flat_map(|extension| &extension.value.general_names) {
        held.add(name).ok()?;
    }
    Some(held)
}

/// From when to when the first certificate of a chain is good.
pub fn validity(pem: &[u8]) -> Option<(Timestamp, Timestamp)> {
    let block = first_certificate(pem)?;
    let (_, certificate) = X509Certificate::from_der(&block.der).ok()?;
    let moment = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
    Some((moment(certificate.validity().not_before)?, moment(certificate.validity().not_after)?))
}

/// When the first certificate of a chain ends.
pub fn not_after(pem: &[u8]) -> Option<Timestamp> {
    validity(pem).map(|(_, end)| end)
}

fn first_certificate(pem: &[u8]) -> Option<Block> {
    blocks(pem).into_iter().find(|block| block.label == "CERTIFICATE")
}

/// When a certificate is exchanged for a new one: after 70 to 90 % of its life, as `luck` (0 to 1) has it, so that nodes
/// that started together do not all ask at once. Source: `jitteryDuration` in `client-go/util/certificate`.
pub fn exchange_at((start, end): (Timestamp, Timestamp), luck: f64) -> Timestamp {
    let life = end.duration_since(start);
    // As a quotient: a sum of fractions would miss the second.
    start + life.mul_f64((70.0 + 20.0 * luck.clamp(0.0, 1.0)) / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &str = include_str!("csr/request.pem");
    const CERTIFICATE: &str = include_str!("csr/certificate.pem");

    #[test]
    fn a_request_tells_its_subject_and_names() {
        let request = parse(format!("something before\n{REQUEST}").as_bytes()).expect("a request");
        assert_eq!(request.common_name, "system:node:n1");
        assert_eq!(request.organizations, ["system:nodes", "others"]);
        assert_eq!(request.dns_names, ["n1.example.com"]);
        assert_eq!(request.ip_addresses, ["10.0.0.1".parse::<IpAddr>().expect("an address")]);
        assert_eq!(check_signature(&request), Ok(()));
    }

    #[test]
    fn a_request_signed_by_another_key_is_refused() {
        let mut request = parse(REQUEST.as_bytes()).expect("a request");
        let last = request.der.len() - 1;
        request.der[last] ^= 1;
        assert!(check_signature(&request).is_err());
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for text in ["", "hello", CERTIFICATE] {
            let why = parse(text.as_bytes()).expect_err("no request").to_string();
            assert_eq!(why, "PEM block type must be CERTIFICATE REQUEST");
        }
        let broken = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n";
        assert!(parse(broken.as_bytes()).expect_err("broken").to_string().starts_with("x509: malformed"));
    }

    #[test]
    fn certificates_are_whole_or_refused() {
        let check = |pem: &str, expected: Result<(), &str>| {
            assert_eq!(validate_certificates(pem.as_bytes()).map_err(|error| error.0), expected.map_err(str::to_owned));
        };
        check("", Ok(()));
        check(&format!("# mine\n{CERTIFICATE}{CERTIFICATE}"), Ok(()));
        check("hello", Err("must contain at least one CERTIFICATE PEM block"));
        check(REQUEST, Err("only CERTIFICATE PEM blocks are allowed, found \"CERTIFICATE REQUEST\""));
        let headed = CERTIFICATE.replace("CERTIFICATE-----\nM", "CERTIFICATE-----\nA: b\n\nM");
        check(&headed, Err("no PEM block headers are permitted"));
    }

    #[test]
    fn a_certificate_is_exchanged_late_in_its_life_but_not_all_at_once() {
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        let life = (at("2030-01-01T00:00:00Z"), at("2030-01-11T00:00:00Z"));
        assert_eq!(exchange_at(life, 0.0), at("2030-01-08T00:00:00Z"));
        assert_eq!(exchange_at(life, 1.0), at("2030-01-10T00:00:00Z"));
        assert!(exchange_at(life, 7.0) < life.1);
    }

    #[test]
    fn a_certificate_tells_whom_it_certifies_and_for_how_long() {
        let held = certified(CERTIFICATE.as_bytes()).expect("a certificate");
        assert!(!held.der.is_empty() && !held.common_name.is_empty());
        let (start, end) = validity(CERTIFICATE.as_bytes()).expect("a life");
        assert!(start < end);
        assert_eq!(not_after(CERTIFICATE.as_bytes()), Some(end));
        assert_eq!(certified(REQUEST.as_bytes()), None);
    }
}
