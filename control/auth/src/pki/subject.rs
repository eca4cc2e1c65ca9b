//! Subjects with more than one organisation.
//!
//! A Kubernetes identity is a common name and any number of organisations (its groups). rcgen keeps one value for each
//! attribute type, so a certificate that needs more is built with a plain subject, which is then exchanged, and signed again.

use rcgen::SigningKey;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Error, Identity};

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const BIT_STRING: u8 = 0x03;
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];

/// The same certificate with another subject, given as DER, signed with `key` (which must have signed the original); `what` is
/// for the error.
pub(super) fn exchange(
    certificate: &CertificateDer<'_>,
    subject: &[u8],
    what: &str,
    key: &impl SigningKey,
) -> Result<CertificateDer<'static>, Error> {
    let unreadable = |_| Error::Unreadable { what: "certificate to give a subject".to_owned() };
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(unreadable)?;
    let to_be_signed: &[u8] = parsed.tbs_certificate.as_ref();
    let held = parsed.tbs_certificate.subject.as_raw();
    // The subject is a slice of the certificate, so its place inside is the distance between the two.
    let start = held.as_ptr() as usize - to_be_signed.as_ptr() as usize;
    let header = header_len(to_be_signed);
    let content = [&to_be_signed[header..start], subject, &to_be_signed[start + held.len()..]].concat();
    let to_be_signed = element(SEQUENCE, &content);
    let signature = key.sign(&to_be_signed).map_err(|source| Error::Issue { what: what.to_owned(), source })?;
    let signature = element(BIT_STRING, &[&[0], signature.as_slice()].concat());
    let algorithm = signature_algorithm(certificate, header_len(certificate) + parsed.tbs_certificate.as_ref().len());
    Ok(element(SEQUENCE, &[&to_be_signed, algorithm, &signature].concat()).into())
}

/// The element that starts at `start`, header and all.
fn signature_algorithm(certificate: &[u8], start: usize) -> &[u8] {
    let rest = &certificate[start..];
    &rest[..header_len(rest) + content_len(rest)]
}

/// The subject of an identity, as DER.
pub(super) fn name(identity: &Identity) -> Vec<u8> {
    let attribute = |kind: &[u8], value: &str| {
        let pair = [element(OBJECT_IDENTIFIER, kind), element(UTF8_STRING, value.as_bytes())].concat();
        element(SET, &element(SEQUENCE, &pair))
    };
    let mut sets: Vec<u8> = identity.groups.iter().flat_map(|group| attribute(ORGANIZATION, group)).collect();
    sets.extend(attribute(COMMON_NAME, &identity.user));
    element(SEQUENCE, &sets)
}

/// A DER element with its length in the shortest form.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    if content.len() < 0x80 {
        out.push(content.len() as u8);
    } else {
        let length = content.len().to_be_bytes();
        let length = &length[length.iter().take_while(|byte| **byte == 0).count()..];
        out.push(0x80 | length.len() as u8);
        out.extend_from_slice(length);
    }
    out.extend_from_slice(content);
    out
}

/// Bytes of tag and length. The input is DER that a parser has accepted.
fn header_len(der: &[u8]) -> usize {
    if der[1] < 0x80 { 2 } else { 2 + usize::from(der[1] & 0x7f) }
}

fn content_len(der: &[u8]) -> usize {
    if der[1] < 0x80 {
        usize::from(der[1])
    } else {
        der[2..header_len(der)].iter().fold(0, |length, byte| length << 8 | usize::from(*byte))
    }
}
