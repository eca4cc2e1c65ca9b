//! Signs approved requests for the cluster's own signers.
//!
//! Source of the behaviour: `signer/signer.go`, `authority/policies.go`. A request that its signer cannot take is marked failed;
//! one of another signer is nobody's business here.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use wharf_client::{Action, Clock, Error, Informers, Lister, ObjectKey, Reconcile, Trigger};
use wharf_machinery::csr;
use wharf_types::k8s::ByteString;
use wharf_types::k8s::api::certificates::v1::CertificateSigningRequest;

use super::{
    APPROVED, Ask, Authority, CLIENT, DENIED, FAILED, KUBELET_CLIENT, KUBELET_SERVING, LEGACY, has, is_issued, kubelet,
    usages, with,
};
use crate::call::{self, During as _};

/// How long a certificate lives if the request does not ask for less: upstream's `--cluster-signing-duration`.
const LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// What a request may ask for at least.
const LIFETIME_MIN: Duration = Duration::from_secs(10 * 60);
/// Certificates start this long before now, for clients whose clocks are behind.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// A certificate that lives no longer than this is not cut short by its early start.
const SHORT: Duration = Duration::from_secs(8 * 60 * 60);

pub struct Signer {
    client: Client,
    requests: Lister<CertificateSigningRequest>,
    authority: Arc<dyn Authority>,
    clock: Clock,
}

impl Signer {
    pub fn new(informers: &Informers, authority: Arc<dyn Authority>, clock: Clock) -> Self {
        Self { client: informers.client().clone(), requests: informers.of(), authority, clock }
    }
}

#[async_trait]
impl Reconcile for Signer {
    fn name(&self) -> &'static str {
        "certificate-signer"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::primary(&self.requests)]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(request) = self.requests.get(key) else { return Ok(Action::done()) };
        let next = match plan(&request) {
            Plan::Leave => return Ok(Action::done()),
            Plan::Fail(why) => with(&request, FAILED, "SignerValidationFailure", &why, self.clock.now()),
            Plan::Sign(der) => {
                let (not_before, not_after) = validity(request.spec.expiration_seconds, self.clock.now());
                let usages = request.spec.usages.as_deref().unwrap_or_default();
                let ask = Ask { request: &der, usages, not_before, not_after };
                match self.authority.sign(&ask) {
                    Ok(pem) => issued(&request, pem),
                    Err(why) => {
                        tracing::warn!(request = %key, why, "sign a certificate request");
                        with(&request, FAILED, "SignerValidationFailure", &why, self.clock.now())
                    }
                }
            }
        };
        let api: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        match api.replace_status(&key.name, &PostParams::default(), &next).await {
            // Somebody was faster; their change wakes us.
            Err(error) if call::is_conflict(&error) || call::is_not_found(&error) => {}
            result => drop(result.during("issue the certificate of", key)?),
        }
        Ok(Action::done())
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Leave,
    Fail(String),
    /// The request as DER.
    Sign(Vec<u8>),
}

/// Pure: what becomes of the request.
fn plan(request: &CertificateSigningRequest) -> Plan {
    let spec = &request.spec;
    let ours = [CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY].contains(&spec.signer_name.as_str());
    let approved = has(request, APPROVED) && !has(request, DENIED);
    if !ours || !approved || has(request, FAILED) || is_issued(request) {
        return Plan::Leave;
    }
    let parsed = match csr::parse(&spec.request.0) {
        Ok(parsed) => parsed,
        Err(why) => return Plan::Fail(why.to_string()),
    };
    let verdict = match spec.signer_name.as_str() {
        KUBELET_CLIENT => kubelet::validate_client(&parsed, &usages(spec)),
        KUBELET_SERVING => kubelet::validate_serving(&parsed, &usages(spec)),
        CLIENT => validate_client_usages(spec.usages.as_deref().unwrap_or_default()),
        _ => Ok(()),
    };
    match verdict {
        Ok(()) => Plan::Sign(parsed.der),
        Err(why) => Plan::Fail(why),
    }
}

fn validate_client_usages(usages: &[String]) -> Result<(), String> {
    const ALLOWED: &[&str] = &["client auth", "digital signature", "key encipherment"];
    match usages.iter().find(|usage| !ALLOWED.contains(&usage.as_str())) {
        Some(usage) => Err(format!("invalid usage for client certificate: {usage}")),
        None if usages.iter().any(|usage| usage == "client auth") => Ok(()),
        None => Err("missing required usage for client certificate: client auth".to_owned()),
    }
}

/// From when to when the certificate is good.
fn validity(asked_s: Option<i32>, now: Timestamp) -> (Timestamp, Timestamp) {
    let asked = asked_s.map_or(LIFETIME, |seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or_default()));
    let lifetime = asked.clamp(LIFETIME_MIN, LIFETIME);
    let start = now - BACKDATE;
    (start, if lifetime <= SHORT { now + lifetime } else { start + lifetime })
}

fn issued(request: &CertificateSigningRequest, pem: String) -> CertificateSigningRequest {
    let mut next = request.clone();
    next.status.get_or_insert_default().certificate = Some(ByteString(pem.into_bytes()));
    next
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::fixtures::{NODE, SERVING, request};
    use super::*;

    fn approved() -> Value {
        json!({"conditions": [{"type": "Approved", "status": "True"}]})
    }

    fn check(request: &CertificateSigningRequest, expected: &str) {
        let plan = match plan(request) {
            Plan::Leave => "leave".to_owned(),
            Plan::Fail(why) => why,
            Plan::Sign(_) => "sign".to_owned(),
        };
        assert_eq!(plan, expected);
    }

    #[test]
    fn only_what_is_approved_is_signed() {
        let usages = &["digital signature", "client auth"];
        check(&request(NODE, KUBELET_CLIENT, usages, approved()), "sign");
        check(&request(NODE, KUBELET_CLIENT, usages, json!({})), "leave");
        let both =
            json!({"conditions": [{"type": "Approved", "status": "True"}, {"type": "Denied", "status": "True"}]});
        check(&request(NODE, KUBELET_CLIENT, usages, both), "leave");
        let issued = json!({"conditions": [{"type": "Approved", "status": "True"}], "certificate": "aGVsbG8="});
        check(&request(NODE, KUBELET_CLIENT, usages, issued), "leave");
        check(&request(NODE, "example.com/own", usages, approved()), "leave");
    }

    #[test]
    fn each_signer_has_its_terms() {
        let client = &["digital signature", "client auth"];
        check(&request(NODE, CLIENT, client, approved()), "sign");
        check(
            &request(NODE, CLIENT, &["server auth"], approved()),
            "invalid usage for client certificate: server auth",
        );
        check(
            &request(NODE, CLIENT, &["digital signature"], approved()),
            "missing required usage for client certificate: client auth",
        );
        check(&request(NODE, KUBELET_SERVING, client, approved()), "DNS or IP subjectAltName is required");
        let serving = &["digital signature", "key encipherment", "server auth"];
        check(&request(SERVING, KUBELET_SERVING, serving, approved()), "sign");
        check(&request(SERVING, LEGACY, &["any"], approved()), "sign");
    }

    #[test]
    fn a_certificate_lives_as_long_as_asked_within_bounds() {
        let now: Timestamp = "2024-05-01T12:00:00Z".parse().expect("a time");
        let lives = |asked_s: Option<i32>| {
            let (start, end) = validity(asked_s, now);
            assert_eq!(start, now - BACKDATE);
            end.as_second() - now.as_second()
        };
        assert_eq!(lives(None), 365 * 86_400 - 300);
        assert_eq!(lives(Some(i32::MAX)), 365 * 86_400 - 300);
        assert_eq!(lives(Some(3600)), 3600);
        assert_eq!(lives(Some(1)), 600);
    }
}
