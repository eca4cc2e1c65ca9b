//! Certificates that this process signs for itself, its authorities' own among them, issued anew before they end while it runs.
//!
//! Invariant: a certificate is due when the next start would issue it anew too ([`Pki::renew_at`], [`Pki::renew`]), so a process
//! that runs for years and one that starts each day show the same.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wharf_auth::pki::{self, Leaf, Pki, Shown};

/// The longest sleep: a machine that was suspended, or whose clock was set, finds out after so long. Failures are tried again then.
const LOOK_AGAIN: Duration = Duration::from_secs(60 * 60);

type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// One certificate, and how it is replaced.
pub struct Renewal {
    what: &'static str,
    due: Timestamp,
    /// Puts a new one in its place, and says when that is due.
    renew: Box<dyn Fn(Timestamp) -> Result<Timestamp> + Send>,
}

impl Renewal {
    /// `renew` also makes the first one.
    pub fn new(
        what: &'static str,
        now: Timestamp,
        renew: impl Fn(Timestamp) -> Result<Timestamp> + Send + 'static,
    ) -> Result<Self> {
        let due = renew(now).with_context(|| format!("issue {what}"))?;
        Ok(Self { what, due, renew: Box::new(renew) })
    }

    /// The authority itself.
    pub fn authority(what: &'static str, now: Timestamp, pki: &Arc<Pki>) -> Result<Self> {
        let pki = pki.clone();
        Self::new(what, now, move |now| Ok(pki.renew(now)?))
    }

    /// A certificate that TLS shows.
    pub fn shown(
        what: &'static str,
        now: Timestamp,
        issue: impl Fn(Timestamp) -> Result<Leaf, pki::Error> + Send + 'static,
    ) -> Result<(Arc<Shown>, Self)> {
        let shown = Arc::new(Shown::default());
        let cell = shown.clone();
        let renewal = Self::new(what, now, move |now| {
            let leaf = issue(now)?;
            cell.exchange(&leaf)?;
            Ok(Pki::renew_at(&leaf)?)
        })?;
        Ok((shown, renewal))
    }

    pub fn spawn(self, tasks: &mut JoinSet<()>, cancel: &CancellationToken) {
        let cancel = cancel.clone();
        tasks.spawn(async move {
            cancel.run_until_cancelled(self.keep(Arc::new(Timestamp::now))).await;
        });
    }

    async fn keep(mut self, clock: Clock) {
        loop {
            let left = Duration::try_from(self.due.duration_since(clock())).unwrap_or_default();
            if left.is_zero() {
                match (self.renew)(clock()) {
                    Ok(due) => {
                        tracing::info!(what = self.what, %due, "issued anew");
                        self.due = due;
                    }
                    Err(error) => tracing::error!(what = self.what, "issue anew: {error:#}"),
                }
            }
            let left = Duration::try_from(self.due.duration_since(clock())).unwrap_or_default();
            tokio::time::sleep(if left.is_zero() { LOOK_AGAIN } else { left.min(LOOK_AGAIN) }).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const START: i64 = 1_900_000_000;
    const DAY_S: u64 = 24 * 60 * 60;

    fn at(second: u64) -> Timestamp {
        Timestamp::from_second(START).expect("a time") + Duration::from_secs(second)
    }

    /// The clock goes with tokio's, which stands still but for sleeps.
    fn clock() -> Clock {
        let begun = tokio::time::Instant::now();
        Arc::new(move || at(begun.elapsed().as_secs()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_runs_for_years_never_shows_a_certificate_near_its_end() {
        let root = tempfile::tempdir().expect("temporary directory");
        let pki = Pki::open(root.path(), at(0)).expect("open");
        let issued: Arc<parking_lot::Mutex<Vec<Leaf>>> = Arc::default();
        let kept = issued.clone();
        let (_, renewal) = Renewal::shown("a certificate", at(0), move |now| {
            let leaf = pki.client(&wharf_auth::Identity::node("n1"), now)?;
            kept.lock().push(leaf.clone());
            Ok(leaf)
        })
        .expect("a first one");
        let now = clock();
        let task = tokio::spawn(renewal.keep(now.clone()));
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_secs(200 * DAY_S)).await;
            let ends = issued.lock().last().expect("one").expires().expect("an end");
            assert!(ends > now() + Duration::from_secs(80 * DAY_S), "{ends} at {}", now());
        }
        assert_eq!(issued.lock().len(), 3, "at the start, and each 275 days");
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn an_authority_outlives_ten_years_of_one_process() {
        let root = tempfile::tempdir().expect("temporary directory");
        let pki = Arc::new(Pki::open(root.path(), at(0)).expect("open"));
        let (first, published) = (pki.ca_pem(), pki.published());
        let renewal = Renewal::authority("an authority", at(0), &pki).expect("a first look");
        let now = clock();
        let task = tokio::spawn(renewal.keep(now.clone()));
        tokio::time::sleep(Duration::from_secs((3650 - 365 - 90) * DAY_S - 60)).await;
        assert_eq!(pki.ca_pem(), first);
        tokio::time::sleep(Duration::from_secs(2 * 60)).await;
        assert_ne!(pki.ca_pem(), first);
        assert_eq!(*published.borrow(), pki.ca_pem());
        tokio::time::sleep(Duration::from_secs(500 * DAY_S)).await;
        let leaf = pki.client(&wharf_auth::Identity::node("n1"), now()).expect("it signs");
        let ends = leaf.expires().expect("an end");
        assert!(ends > now() + pki::LEAF_LIFETIME - Duration::from_secs(60), "a whole life: {ends} at {}", now());
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_tried_again() {
        let tries = Arc::new(AtomicU64::new(0));
        let counter = tries.clone();
        let renewal = Renewal::new("a certificate", at(0), move |now| {
            let tried = counter.fetch_add(1, Ordering::Relaxed);
            anyhow::ensure!(tried != 1, "not this time");
            Ok(now + Duration::from_secs(DAY_S))
        });
        let task = tokio::spawn(renewal.expect("a first one").keep(clock()));
        tokio::time::sleep(Duration::from_secs(DAY_S + 2 * 60 * 60)).await;
        assert_eq!(tries.load(Ordering::Relaxed), 3);
        task.abort();
    }
}
