//! Deletes requests that nobody needs any more.
//!
//! Source of the behaviour: `cleaner/cleaner.go`. Each request wakes when its time comes, where upstream looks every hour.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client};
use wharf_client::{Action, Clock, Error, Informers, Lister, ObjectKey, Reconcile, Trigger};
use wharf_machinery::csr;
use wharf_types::k8s::api::certificates::v1::CertificateSigningRequest;

use super::{APPROVED, DENIED, FAILED, certificate, conditions, is_issued, left};
use crate::call::{During as _, gone_is_fine};

/// How long a request stays that is settled, and one that nobody has looked at.
const SETTLED: Duration = Duration::from_secs(60 * 60);
const PENDING: Duration = Duration::from_secs(24 * 60 * 60);

pub struct Cleaner {
    client: Client,
    requests: Lister<CertificateSigningRequest>,
    clock: Clock,
}

impl Cleaner {
    pub fn new(informers: &Informers, clock: Clock) -> Self {
        Self { client: informers.client().clone(), requests: informers.of(), clock }
    }
}

#[async_trait]
impl Reconcile for Cleaner {
    fn name(&self) -> &'static str {
        "certificate-cleaner"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::primary(&self.requests)]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(request) = self.requests.get(key) else { return Ok(Action::done()) };
        let Some(left) = remaining(&request, self.clock.now()) else { return Ok(Action::done()) };
        if !left.is_zero() {
            return Ok(Action::requeue_after(left));
        }
        let meta = &request.metadata;
        let only = Preconditions { uid: meta.uid.clone(), resource_version: meta.resource_version.clone() };
        let api: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        let deleted = api.delete(&key.name, &DeleteParams::default().preconditions(only)).await;
        gone_is_fine(deleted).during("delete settled certificate request", key)?;
        Ok(Action::done())
    }
}

/// Pure: how long the request stays; none if that is not known yet.
fn remaining(request: &CertificateSigningRequest, now: Timestamp) -> Option<Duration> {
    if conditions(request).is_empty() {
        let created = request.metadata.creation_timestamp.as_ref()?.0;
        return Some(left(created, PENDING, now));
    }
    let settled = conditions(request).iter().filter(|condition| match condition.type_.as_str() {
        APPROVED => is_issued(request),
        DENIED | FAILED => true,
        _ => false,
    });
    let settled = settled.filter_map(|condition| Some(left(condition.last_update_time.as_ref()?.0, SETTLED, now)));
    let expired = certificate(request).and_then(csr::not_after).filter(|end| *end < now).map(|_| Duration::ZERO);
    settled.chain(expired).min()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::fixtures::{NODE, request};
    use super::*;

    const NOW: &str = "2024-05-01T12:00:00Z";

    fn check(status: Value, expected_s: Option<u64>) {
        let request = request(NODE, "example.com/a", &["client auth"], status);
        let left = remaining(&request, NOW.parse().expect("a time"));
        assert_eq!(left.map(|left| left.as_secs()), expected_s);
    }

    fn condition(kind: &str, at: &str) -> Value {
        json!({"type": kind, "status": "True", "lastUpdateTime": format!("2024-05-01T{at}Z")})
    }

    #[test]
    fn what_is_settled_stays_for_an_hour() {
        check(json!({"conditions": [condition("Denied", "11:59:00")]}), Some(3540));
        check(json!({"conditions": [condition("Failed", "10:59:00")]}), Some(0));
        check(json!({"conditions": [condition("Approved", "10:59:00")], "certificate": "aGVsbG8="}), Some(0));
    }

    #[test]
    fn what_waits_for_its_signer_stays() {
        check(json!({"conditions": [condition("Approved", "00:00:00")]}), None);
    }

    #[test]
    fn what_nobody_looks_at_stays_for_a_day() {
        // Made at midnight.
        check(json!({}), Some(12 * 3600));
    }
}
