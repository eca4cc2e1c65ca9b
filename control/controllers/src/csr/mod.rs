//! Certificate signing requests: approved where the requester may have what it asks for, signed, and cleaned up.
//!
//! Source of the behaviour: `k8s.io/kubernetes/pkg/controller/certificates`. Three controllers that share what a request is;
//! the authority's key comes in as an [`Authority`], so none of them holds it.

mod approver;
mod cleaner;
mod kubelet;
mod signer;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use jiff::Timestamp;
use wharf_types::k8s::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
};
use wharf_types::meta::Time;

pub use approver::Approver;
pub use cleaner::Cleaner;
pub use signer::Signer;

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
const LEGACY: &str = "kubernetes.io/legacy-unknown";

const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";
const FAILED: &str = "Failed";

/// What a certificate is signed for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask<'a> {
    /// The request, as DER; its subject, names and key are taken over.
    pub request: &'a [u8],
    /// As a CertificateSigningRequest words them.
    pub usages: &'a [String],
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

/// The cluster's authority: signs, and keeps its key to itself.
pub trait Authority: Debug + Send + Sync {
    /// A certificate as PEM, or why there is none. It ends no later than the authority itself.
    fn sign(&self, ask: &Ask<'_>) -> Result<String, String>;
}

fn conditions(request: &CertificateSigningRequest) -> &[CertificateSigningRequestCondition] {
    request.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

fn has(request: &CertificateSigningRequest, kind: &str) -> bool {
    conditions(request).iter().any(|condition| condition.type_ == kind)
}

fn is_issued(request: &CertificateSigningRequest) -> bool {
    certificate(request).is_some()
}

fn certificate(request: &CertificateSigningRequest) -> Option<&[u8]> {
    let certificate = request.status.as_ref()?.certificate.as_ref()?;
    Some(certificate.0.as_slice()).filter(|pem| !pem.is_empty())
}

fn usages(spec: &CertificateSigningRequestSpec) -> BTreeSet<&str> {
    spec.usages.iter().flatten().map(String::as_str).collect()
}

/// A copy of the request with one more condition, which holds.
fn with(
    request: &CertificateSigningRequest,
    kind: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> CertificateSigningRequest {
    let mut next = request.clone();
    next.status.get_or_insert_default().conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now))),
        last_transition_time: None,
    });
    next
}

/// What is left until something is this old; zero if it is older.
fn left(since: Timestamp, age: Duration, now: Timestamp) -> Duration {
    let passed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    age.saturating_sub(passed)
}

#[cfg(test)]
mod fixtures {
    use serde_json::{Value, json};
    use wharf_types::k8s::ByteString;
    use wharf_types::k8s::api::certificates::v1::CertificateSigningRequest;

    /// Of `/O=system:nodes/CN=system:node:n1`.
    pub const NODE: &str = "-----BEGIN CERTIFICATE REQUEST-----\nMIHrMIGSAgEAMDAxFTATBgNVBAoMDHN5c3RlbTpub2RlczEXMBUGA1UEAwwOc3lz\ndGVtOm5vZGU6bjEwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAQxREtM3vhyIDzU\nORYVuo059V71V7BdeOkbmMgkO36htIade5Eyz9u+cfO864Ve8/hCH15ZQ5Wv3sTS\nOqmuvDsWoAAwCgYIKoZIzj0EAwIDSAAwRQIgZEs48E/sJc2VMccVB9kYk1UghRKY\n2x8kMGWBxQQhiNMCIQCrlqSYqPoeyvsqrIzuJDN0+8Zj1HKRKpaFyXOqewxJOg==\n-----END CERTIFICATE REQUEST-----\n";
    /// Of the same node, with the name `n1` and the address 10.0.0.1.
    pub const SERVING: &str = "-----BEGIN CERTIFICATE REQUEST-----\nMIIBETCBuAIBADAwMRUwEwYDVQQKDAxzeXN0ZW06bm9kZXMxFzAVBgNVBAMMDnN5\nc3RlbTpub2RlOm4xMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEMURLTN74ciA8\n1DkWFbqNOfVe9VewXXjpG5jIJDt+obSGnXuRMs/bvnHzvOuFXvP4Qh9eWUOVr97E\n0jqprrw7FqAmMCQGCSqGSIb3DQEJDjEXMBUwEwYDVR0RBAwwCoICbjGHBAoAAAEw\nCgYIKoZIzj0EAwIDSAAwRQIhAJasCUAnJuuraAbbPtJsre3xngWeh4+Khthal7w0\nXrnvAiBxxpFubnyuIDPHVXrUuzXPGGzVCr4LFUhioOzcQZYbvQ==\n-----END CERTIFICATE REQUEST-----\n";

    pub fn request(pem: &str, signer: &str, usages: &[&str], status: Value) -> CertificateSigningRequest {
        serde_json::from_value(json!({
            "metadata": {"name": "r", "creationTimestamp": "2024-05-01T00:00:00Z"},
            "spec": {
                "request": ByteString(pem.as_bytes().to_vec()), "signerName": signer, "usages": usages, "username": "system:node:n1",
            },
            "status": status,
        }))
        .expect("a request")
    }
}
