//! What a request must hold, and what may change of it and how.
//!
//! Source: `pkg/apis/certificates/validation`, `ValidateSignerName` in `pkg/apis/core/validation`. An object that was stored with
//! a fault keeps it: an update is not refused for what it did not bring.

use std::collections::BTreeSet;

use wharf_machinery::{csr, names};
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::ByteString;
use wharf_types::k8s::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};

use super::{APPROVED, DENIED, FAILED, conditions};
use crate::checks;

const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
const EXPIRATION_MIN_S: i32 = 600;
/// Longest name of a signer, in bytes: a domain and the name of a namespaced object, `example.com/namespace.name`.
const SIGNER_MAX: usize = names::SUBDOMAIN_MAX + 1 + names::LABEL_MAX + 1 + names::SUBDOMAIN_MAX;
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// The way by which an update comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Main,
    Status,
    Approval,
}

pub fn validate(request: &CertificateSigningRequest, old: Option<&CertificateSigningRequest>) -> Errors {
    let (spec, path) = (&request.spec, Path::new("spec"));
    let mut errors = Vec::new();
    if let Err(why) = csr::parse(&spec.request.0).and_then(|parsed| csr::check_signature(&parsed)) {
        errors.push(Error::invalid(&path.child("request"), checks::json(&spec.request), why.to_string()));
    }
    let held = old.map(|old| old.spec.usages.as_deref().unwrap_or_default()).unwrap_or_default();
    errors.extend(validate_usages(spec.usages.as_deref().unwrap_or_default(), held, &path.child("usages")));
    let at = path.child("signerName");
    if spec.signer_name == LEGACY_SIGNER {
        if old.is_none_or(|old| old.spec.signer_name != LEGACY_SIGNER) {
            let why = "the legacy signerName is not allowed via this API version";
            errors.push(Error::invalid(&at, &spec.signer_name, why));
        }
    } else {
        errors.extend(validate_signer(&spec.signer_name, &at));
    }
    if let Some(seconds) = spec.expiration_seconds.filter(|seconds| *seconds < EXPIRATION_MIN_S) {
        let why = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(Error::invalid(&path.child("expirationSeconds"), seconds, why));
    }
    let held = old.map(conditions).unwrap_or_default();
    errors.extend(validate_conditions(conditions(request), held, &Path::new("status").child("conditions")));
    errors.extend(validate_certificate(request, old));
    errors
}

fn validate_usages(usages: &[String], held: &[String], path: &Path) -> Errors {
    let mut errors = Vec::new();
    if usages.is_empty() {
        errors.push(Error::required(path, ""));
    }
    let known = |usage: &String| USAGES.contains(&usage.as_str());
    if held.iter().all(known) {
        let unknown = usages.iter().enumerate().filter(|(_, usage)| !known(usage));
        errors.extend(unknown.map(|(index, usage)| Error::not_supported(&path.index(index), usage, USAGES)));
    }
    if repeats(held).next().is_none() {
        errors.extend(repeats(usages).map(|index| Error::duplicate(&path.index(index), &usages[index])));
    }
    errors
}

/// Where something stands that stands before, too.
fn repeats<T: Ord>(items: &[T]) -> impl Iterator<Item = usize> {
    let mut seen = BTreeSet::new();
    items.iter().enumerate().filter(move |(_, item)| !seen.insert(*item)).map(|(index, _)| index)
}

/// `example.com/signer-name`
fn validate_signer(signer: &str, path: &Path) -> Errors {
    if signer.is_empty() {
        return vec![Error::required(path, "")];
    }
    let (domain, rest) = match signer.split('/').collect::<Vec<_>>()[..] {
        [domain, rest] => (domain, rest),
        _ => {
            let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
            return vec![Error::invalid(path, signer, why)];
        }
    };
    let mut errors = Vec::new();
    if domain.len() > names::SUBDOMAIN_MAX {
        errors.push(Error::too_long(path, names::SUBDOMAIN_MAX));
    }
    errors.extend(first_bad_label(domain, names::dns1123_label, path));
    if domain.split('.').count() < 2 {
        errors.push(Error::invalid(path, domain, "should be a domain with at least two segments separated by dots"));
    }
    errors.extend(first_bad_label(rest, names::dns1123_subdomain, path));
    if signer.len() > SIGNER_MAX {
        errors.push(Error::too_long(path, SIGNER_MAX));
    }
    errors
}

/// What is wrong with the first part between dots that is not as it should be; the others would be told the same.
fn first_bad_label(segment: &str, check: fn(&str) -> Vec<String>, path: &Path) -> Errors {
    let bad = segment.split('.').map(|label| (label, check(label))).find(|(_, why)| !why.is_empty());
    let (label, why) = bad.unwrap_or_default();
    why.into_iter().map(|why| Error::invalid(path, segment, format!("validating label {label:?}: {why}"))).collect()
}

fn validate_conditions(
    new: &[CertificateSigningRequestCondition],
    held: &[CertificateSigningRequestCondition],
    path: &Path,
) -> Errors {
    let has = |all: &[CertificateSigningRequestCondition], kind: &str| all.iter().any(|held| held.type_ == kind);
    let kinds = |all: &[CertificateSigningRequestCondition]| -> Vec<String> {
        all.iter().map(|condition| condition.type_.clone()).collect()
    };
    let allow_both = has(held, APPROVED) && has(held, DENIED);
    let allow_repeats = repeats(&kinds(held)).next().is_some();
    let repeated: BTreeSet<usize> = repeats(&kinds(new)).collect();
    let mut errors = Vec::new();
    for (index, condition) in new.iter().enumerate() {
        let path_of = |field: &str| path.index(index).child(field);
        let kind = condition.type_.as_str();
        if kind.is_empty() && !has(held, "") {
            errors.push(Error::required(&path_of("type"), ""));
        }
        let statuses: &[&str] =
            if matches!(kind, APPROVED | DENIED | FAILED) { &["True"] } else { &["False", "True", "Unknown"] };
        errors.extend(checks::required_one_of(&condition.status, statuses, &path_of("status")));
        let other = if kind == APPROVED { DENIED } else { APPROVED };
        if matches!(kind, APPROVED | DENIED) && has(&new[..index], other) && !allow_both {
            errors.push(Error::invalid(path, kind, "Approved and Denied conditions are mutually exclusive"));
        }
        if repeated.contains(&index) && !allow_repeats {
            errors.push(Error::duplicate(&path_of("type"), kind));
        }
    }
    errors
}

fn certificate(request: &CertificateSigningRequest) -> &[u8] {
    let certificate = request.status.as_ref().and_then(|status| status.certificate.as_ref());
    certificate.map(|ByteString(pem)| pem.as_slice()).unwrap_or_default()
}

/// What was stored may be anything; what comes new must be certificates.
fn validate_certificate(request: &CertificateSigningRequest, old: Option<&CertificateSigningRequest>) -> Errors {
    let pem = certificate(request);
    if old.is_some_and(|old| certificate(old) == pem || csr::validate_certificates(certificate(old)).is_err()) {
        return Vec::new();
    }
    let path = Path::new("status").child("certificate");
    let why = csr::validate_certificates(pem).err();
    why.map(|why| Error::invalid(&path, "<certificate data>", why.to_string())).into_iter().collect()
}

/// What an update may not do, by the way on which it comes.
pub fn validate_change(new: &CertificateSigningRequest, old: &CertificateSigningRequest, change: Change) -> Errors {
    let path = Path::new("status");
    let of = |request: &CertificateSigningRequest, kind: &str| -> Vec<CertificateSigningRequestCondition> {
        conditions(request).iter().filter(|condition| condition.type_ == kind).cloned().collect()
    };
    let at = path.child("conditions");
    let mut errors = Vec::new();
    for kind in [APPROVED, DENIED, FAILED] {
        if of(new, kind).len() < of(old, kind).len() {
            errors.push(Error::forbidden(&at, format!("updates may not remove a condition of type {kind:?}")));
        }
    }
    for kind in [APPROVED, DENIED].into_iter().filter(|_| change != Change::Approval) {
        let (new, old) = (of(new, kind), of(old, kind));
        if new.len() > old.len() {
            errors.push(Error::forbidden(&at, format!("updates may not add a condition of type {kind:?}")));
        } else if new.len() == old.len() && new != old {
            errors.push(Error::forbidden(&at, format!("updates may not modify a condition of type {kind:?}")));
        }
    }
    if certificate(new) != certificate(old) {
        let at = path.child("certificate");
        if change != Change::Status {
            errors.push(Error::forbidden(&at, "updates may not set certificate content"));
        } else if !certificate(old).is_empty() {
            errors.push(Error::forbidden(&at, "updates may not modify existing certificate content"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::super::CertificateSigningRequests;
    use super::*;
    use crate::testing::{check, object};

    const REQUEST: &str = include_str!("../../../../../api/machinery/src/csr/request.pem");
    const CERTIFICATE: &str = include_str!("../../../../../api/machinery/src/csr/certificate.pem");

    fn yaml(spec: &str, status: &str) -> String {
        let request = STANDARD.encode(REQUEST);
        format!("{{metadata: {{name: r}}, spec: {{request: {request}, {spec}}}, status: {status}}}")
    }

    const SPEC: &str = "usages: [client auth], signerName: example.com/a";

    #[test]
    fn a_request_is_whole_and_names_its_signer() {
        check(&CertificateSigningRequests, &yaml(SPEC, "{}"), &[]);
        check(
            &CertificateSigningRequests,
            "{spec: {request: aGVsbG8=, signerName: '', expirationSeconds: 5}}",
            &[
                "spec.request: Invalid value: \"aGVsbG8=\": PEM block type must be CERTIFICATE REQUEST",
                "spec.usages: Required value",
                "spec.signerName: Required value",
                "spec.expirationSeconds: Invalid value: 5: may not specify a duration less than 600 seconds (10 minutes)",
            ],
        );
        check(
            &CertificateSigningRequests,
            &yaml("usages: [signing, signing], signerName: kubernetes.io/legacy-unknown", "{}"),
            &[
                "spec.usages[1]: Duplicate value: \"signing\"",
                "spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName is not allowed via this API version",
            ],
        );
        check(
            &CertificateSigningRequests,
            &yaml("usages: [signing], signerName: a", "{}"),
            &[
                "spec.signerName: Invalid value: \"a\": must be a fully qualified domain and path of the form 'example.com/signer-name'",
            ],
        );
        check(
            &CertificateSigningRequests,
            &yaml("usages: [signing], signerName: com/a", "{}"),
            &[
                "spec.signerName: Invalid value: \"com\": should be a domain with at least two segments separated by dots",
            ],
        );
    }

    #[track_caller]
    fn check_change(old: &str, new: &str, change: Change, expected: &[&str]) {
        let read = |status: &str| object(&CertificateSigningRequests, &yaml(SPEC, status));
        let (old, new) = (read(old), read(new));
        let mut errors = validate(&new, Some(&old));
        errors.extend(validate_change(&new, &old, change));
        assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn each_way_changes_its_own() {
        let approved = "{conditions: [{type: Approved, status: 'True'}]}";
        let issued = format!(
            "{{conditions: [{{type: Approved, status: 'True'}}], certificate: {}}}",
            STANDARD.encode(CERTIFICATE)
        );
        check_change("{}", approved, Change::Approval, &[]);
        check_change(approved, &issued, Change::Status, &[]);
        let added = "status.conditions: Forbidden: updates may not add a condition of type \"Approved\"";
        check_change("{}", approved, Change::Status, &[added]);
        let removed = "status.conditions: Forbidden: updates may not remove a condition of type \"Approved\"";
        check_change(approved, "{}", Change::Approval, &[removed]);
        let set = "status.certificate: Forbidden: updates may not set certificate content";
        check_change(approved, &issued, Change::Approval, &[set]);
        let other = format!(
            "{{conditions: [{{type: Approved, status: 'True'}}], certificate: {}}}",
            STANDARD.encode(format!("#\n{CERTIFICATE}"))
        );
        let modified = "status.certificate: Forbidden: updates may not modify existing certificate content";
        check_change(&issued, &other, Change::Status, &[modified]);
    }

    #[test]
    fn conditions_do_not_contradict_each_other() {
        let both = "{conditions: [{type: Approved, status: 'True'}, {type: Denied, status: 'True'}]}";
        let why = "status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive";
        check_change("{}", both, Change::Approval, &[why]);
        check_change(both, both, Change::Approval, &[]);
        check_change(
            "{}",
            "{conditions: [{type: Approved, status: 'False'}, {type: '', status: ''}, {type: Mine, status: Maybe}]}",
            Change::Approval,
            &[
                "status.conditions[0].status: Unsupported value: \"False\": supported values: \"True\"",
                "status.conditions[1].type: Required value",
                "status.conditions[1].status: Required value",
                "status.conditions[2].status: Unsupported value: \"Maybe\": supported values: \"False\", \"True\", \"Unknown\"",
            ],
        );
    }

    #[test]
    fn a_signer_issues_certificates_and_nothing_else() {
        let why = "status.certificate: Invalid value: \"<certificate data>\": must contain at least one CERTIFICATE PEM block";
        check_change("{}", "{certificate: aGVsbG8=}", Change::Status, &[why]);
    }
}
