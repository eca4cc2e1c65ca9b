//! Exchanges one certificate for the next, for as long as the node runs.
//!
//! Source of the behaviour: `certificate_manager.go` in `client-go/util/certificate`. Each attempt has a key and a request of its own.
//! Absent on purpose: requests for shorter lives than the signer gives.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use rcgen::KeyPair;
use tokio_util::sync::CancellationToken;
use wharf_machinery::csr;

use super::request::Ask;
use super::{Error, GROUP, Pair, Purpose, Store, Template};
use crate::Clock;

pub const BACKOFF_MIN: Duration = Duration::from_secs(2);
const BACKOFF_MAX: Duration = Duration::from_secs(32);
/// The longest sleep: a machine that was suspended, or whose clock was set, finds out after so long.
const LOOK_AGAIN: Duration = Duration::from_secs(60 * 60);

/// What a manager works with.
pub struct Means {
    /// With the node's own identity, which the manager of the client certificate changes by and by.
    pub client: Client,
    /// With credentials that ask for a first certificate, for when the node's own have ended.
    pub bootstrap: Option<Client>,
    pub clock: Clock,
    /// Between 0 and 1, anew at each call.
    pub luck: Arc<dyn Fn() -> f64 + Send + Sync>,
    /// Told of each pair once it is stored.
    pub taken: Box<dyn Fn(&Pair) + Send + Sync>,
}

pub struct Manager {
    purpose: &'static Purpose,
    template: Template,
    store: Store,
    means: Means,
    current: Option<Pair>,
}

impl Manager {
    /// `current` is what is shown now; where it is none, or not what the template wants, a new one is asked for at once.
    pub fn new(
        purpose: &'static Purpose,
        template: Template,
        store: Store,
        current: Option<Pair>,
        means: Means,
    ) -> Self {
        Self { purpose, template, store, means, current }
    }

    /// Until `cancel`.
    pub async fn run(mut self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.keep()).await;
    }

    async fn keep(&mut self) {
        loop {
            let due = due(self.current.as_ref(), &self.template, (self.means.luck)());
            if let Some(due) = due {
                tracing::debug!(%due, signer = self.purpose.signer, "the next certificate's time");
                self.sleep_until(due).await;
            }
            let mut attempt = 0;
            while let Err(error) = self.exchange().await {
                let error = crate::names::chain(&error);
                tracing::warn!(error, signer = self.purpose.signer, "exchange the node's certificate");
                tokio::time::sleep(backoff(attempt)).await;
                attempt += 1;
            }
        }
    }

    async fn sleep_until(&self, due: Timestamp) {
        loop {
            let left = Duration::try_from(due.duration_since((self.means.clock)())).unwrap_or_default();
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK_AGAIN)).await;
        }
    }

    async fn exchange(&mut self) -> Result<(), Error> {
        let ask = Ask::new(KeyPair::generate()?, &self.template, self.purpose)?;
        let now = (self.means.clock)();
        let pair = ask.settle(self.client(now), None).await?;
        self.store.update(&pair, (self.means.clock)())?;
        (self.means.taken)(&pair);
        tracing::info!(signer = self.purpose.signer, "the node has a new certificate");
        self.current = Some(pair);
        Ok(())
    }

    /// Whom to ask as: with a certificate that has ended nobody is anybody.
    fn client(&self, now: Timestamp) -> &Client {
        let ends = self.current.as_ref().and_then(|pair| csr::not_after(pair.certificate_pem.as_bytes()));
        match &self.means.bootstrap {
            Some(bootstrap) if ends.is_none_or(|end| end < now) => bootstrap,
            _ => &self.means.client,
        }
    }
}

/// How long to wait after so many failures: as upstream, doubling, then steady.
pub fn backoff(attempt: u32) -> Duration {
    (BACKOFF_MIN * 2_u32.saturating_pow(attempt.min(16))).min(BACKOFF_MAX)
}

/// Pure: when the certificate is to be exchanged; none is at once.
fn due(current: Option<&Pair>, template: &Template, luck: f64) -> Option<Timestamp> {
    let pem = current?.certificate_pem.as_bytes();
    let held = csr::certified(pem)?;
    let satisfied = held.common_name == template.common_name()
        && held.organizations.iter().any(|group| group == GROUP)
        && template.dns_names.iter().all(|name| held.dns_names.contains(name))
        && template.ip_addresses.iter().all(|address| held.ip_addresses.contains(address));
    satisfied.then_some(())?;
    Some(csr::exchange_at(csr::validity(pem)?, luck))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, SanType, date_time_ymd};

    use super::*;

    /// Of n1 at 10.0.0.1, good for the year 2030.
    fn pair() -> Pair {
        let mut params = CertificateParams::new(vec!["n1".to_owned()]).expect("names");
        params.subject_alt_names.push(SanType::IpAddress("10.0.0.1".parse().expect("an address")));
        params.distinguished_name.push(DnType::OrganizationName, GROUP);
        params.distinguished_name.push(DnType::CommonName, "system:node:n1");
        (params.not_before, params.not_after) = (date_time_ymd(2030, 1, 1), date_time_ymd(2031, 1, 1));
        let key = KeyPair::generate().expect("a key");
        Pair { certificate_pem: params.self_signed(&key).expect("a certificate").pem(), key_pem: key.serialize_pem() }
    }

    #[track_caller]
    fn check(current: Option<&Pair>, template: &Template, luck: f64, expected: Option<&str>) {
        let due = due(current, template, luck).map(|at| at.to_string());
        assert_eq!(due.as_deref(), expected);
    }

    #[test]
    fn a_certificate_is_exchanged_between_seven_and_nine_tenths_of_its_life() {
        let pair = pair();
        check(Some(&pair), &Template::client("n1"), 0.0, Some("2030-09-13T12:00:00Z"));
        check(Some(&pair), &Template::client("n1"), 1.0, Some("2030-11-25T12:00:00Z"));
    }

    #[test]
    fn one_that_is_not_what_is_wanted_is_exchanged_at_once() {
        let pair = pair();
        let address = |text: &str| text.parse().expect("an address");
        check(None, &Template::client("n1"), 0.0, None);
        check(Some(&pair), &Template::client("n2"), 0.0, None);
        check(Some(&pair), &Template::serving("n1", &[address("10.0.0.2")]), 0.0, None);
        check(Some(&pair), &Template::serving("n1", &[address("10.0.0.1")]), 0.0, Some("2030-09-13T12:00:00Z"));
        let spoilt = Pair { certificate_pem: "no certificate".to_owned(), ..pair };
        check(Some(&spoilt), &Template::client("n1"), 0.0, None);
    }

    #[test]
    fn failures_are_followed_by_longer_and_longer_pauses() {
        let pauses: Vec<u64> = (0..7).map(|attempt| backoff(attempt).as_secs()).collect();
        assert_eq!(pauses, [2, 4, 8, 16, 32, 32, 32]);
    }
}
