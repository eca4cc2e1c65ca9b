//! Runs controllers: owns their tasks, bounds their workers, contains their failures, drains them at the end.
//!
//! Invariants: never two steps at once for a key of a controller; a step that fails or panics is logged once and tried again
//! with a growing pause; a service that panics is started again.
//! Absent on purpose: leader election. It comes with a store that several servers share, as a gate in front of [`Manager::run`].

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::key::ObjectKey;
use crate::reconcile::{Error, Reconcile};
use crate::workqueue::{Claim, Depth, Queue};

/// How long steps that are under way may take once the manager is told to stop.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// The pause before a service that panicked starts again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

type Service = Arc<dyn Fn(CancellationToken) -> BoxFuture<'static, ()> + Send + Sync>;

/// Collects controllers and services, then runs them all.
#[derive(Default)]
pub struct Manager {
    controllers: Vec<Arc<Controller>>,
    services: Vec<(&'static str, Service)>,
}

struct Controller {
    reconciler: Arc<dyn Reconcile>,
    workers: usize,
    queue: Queue<ObjectKey>,
    record: Mutex<Record>,
}

#[derive(Default)]
struct Record {
    synced: bool,
    successes: u64,
    failures: u64,
    panics: u64,
    last_error: Option<String>,
}

/// How a controller is doing.
#[derive(Clone, Debug)]
pub struct ControllerStatus {
    pub name: &'static str,
    pub synced: bool,
    pub queue: Depth,
    pub successes: u64,
    pub failures: u64,
    pub panics: u64,
    pub last_error: Option<String>,
}

/// Tells how the controllers of a manager are doing, also while it runs.
#[derive(Clone)]
pub struct StatusHandle {
    controllers: Vec<Arc<Controller>>,
}

impl StatusHandle {
    pub fn controllers(&self) -> Vec<ControllerStatus> {
        self.controllers.iter().map(|controller| controller.status()).collect()
    }

    /// True when every controller has read its world once.
    pub fn synced(&self) -> bool {
        self.controllers.iter().all(|controller| controller.record.lock().synced)
    }
}

impl Manager {
    pub fn new() -> Self {
        Self::default()
    }

    /// At most `workers` keys of this controller are worked on at once.
    pub fn add(&mut self, reconciler: impl Reconcile, workers: usize) {
        let reconciler: Arc<dyn Reconcile> = Arc::new(reconciler);
        let controller =
            Controller { reconciler, workers: workers.max(1), queue: Queue::new(), record: Mutex::default() };
        self.controllers.push(Arc::new(controller));
    }

    /// A loop that is not keyed by objects. It must end when its token is cancelled; ended or panicked otherwise, it starts again.
    pub fn add_service<F>(
        &mut self,
        name: &'static str,
        service: impl Fn(CancellationToken) -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        self.services.push((name, Arc::new(move |cancel| service(cancel).boxed())));
    }

    pub fn status(&self) -> StatusHandle {
        StatusHandle { controllers: self.controllers.clone() }
    }

    /// Runs everything until `cancel`, then lets steps that are under way end, for [`DRAIN_LIMIT`] at most.
    pub async fn run(self, cancel: CancellationToken) {
        let mut tasks = JoinSet::new();
        for controller in self.controllers {
            tasks.spawn(controller.run(cancel.clone()));
        }
        for (name, service) in self.services {
            tasks.spawn(keep_running(name, service, cancel.clone()));
        }
        cancel.cancelled().await;
        let drained = tokio::time::timeout(DRAIN_LIMIT, async { while tasks.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            tracing::warn!(left = tasks.len(), "controllers did not end in time; aborting them");
        }
    }
}

impl Controller {
    async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let mut triggers = JoinSet::new();
        let mut synced = Vec::new();
        for trigger in self.reconciler.triggers() {
            synced.push(trigger.synced);
            triggers.spawn((trigger.run)(self.queue.clone()));
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = futures::future::join_all(synced) => {}
        }
        self.record.lock().synced = true;
        tracing::debug!(controller = self.reconciler.name(), "synced");
        let mut steps = JoinSet::new();
        let free = Arc::new(Semaphore::new(self.workers));
        loop {
            let next = async {
                let slot = free.clone().acquire_owned().await.ok()?;
                Some((slot, self.queue.next().await?))
            };
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                next = next => {
                    let Some((slot, claim)) = next else { break };
                    let controller = self.clone();
                    steps.spawn(async move {
                        controller.step(claim).await;
                        drop(slot);
                    });
                }
            }
            while steps.try_join_next().is_some() {}
        }
        self.queue.close();
        while steps.join_next().await.is_some() {}
    }

    async fn step(&self, claim: Claim<ObjectKey>) {
        let key = claim.key().clone();
        let outcome = AssertUnwindSafe(self.reconciler.reconcile(&key)).catch_unwind().await;
        match outcome {
            Ok(Ok(action)) => {
                self.queue.forget(&key);
                self.record.lock().successes += 1;
                if let Some(delay) = action.requeue_after {
                    self.queue.add_after(key, delay);
                }
            }
            Ok(Err(error)) => {
                self.failed(&key, &error);
                self.queue.retry(key);
            }
            Err(panic) => {
                let words = panic_words(&*panic);
                tracing::error!(controller = self.reconciler.name(), %key, panic = words, "a step panicked");
                let mut record = self.record.lock();
                (record.panics, record.last_error) = (record.panics + 1, Some(format!("panic: {words}")));
                drop(record);
                self.queue.retry(key);
            }
        }
        drop(claim);
    }

    fn failed(&self, key: &ObjectKey, error: &Error) {
        let words = with_causes(&**error);
        if is_routine(&**error) {
            tracing::debug!(controller = self.reconciler.name(), %key, error = words, "will retry");
        } else {
            tracing::warn!(controller = self.reconciler.name(), %key, error = words, "will retry");
        }
        let mut record = self.record.lock();
        record.failures += 1;
        record.last_error = Some(words);
    }

    fn status(&self) -> ControllerStatus {
        let record = self.record.lock();
        ControllerStatus {
            name: self.reconciler.name(),
            synced: record.synced,
            queue: self.queue.depth(),
            successes: record.successes,
            failures: record.failures,
            panics: record.panics,
            last_error: record.last_error.clone(),
        }
    }
}

async fn keep_running(name: &'static str, service: Service, cancel: CancellationToken) {
    while !cancel.is_cancelled() {
        let outcome = AssertUnwindSafe(async { service(cancel.clone()).await }).catch_unwind().await;
        if cancel.is_cancelled() {
            return;
        }
        match outcome {
            Ok(()) => tracing::warn!(service = name, "ended by itself; starting it again"),
            Err(panic) => tracing::error!(service = name, panic = panic_words(&*panic), "panicked; starting it again"),
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(RESTART_PAUSE) => {}
        }
    }
}

fn panic_words(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&'static str>().copied()).unwrap_or("(no message)")
}

fn with_causes(error: &(dyn StdError + 'static)) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !words.ends_with(&text) {
            // Writing to a String cannot fail.
            let _ = write!(words, ": {text}");
        }
        cause = error.source();
    }
    words
}

/// Losing a race for an object is how optimistic concurrency works, and nothing to warn about.
fn is_routine(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(kube::Error::Api(status)) = error.downcast_ref::<kube::Error>() {
            return status.is_conflict();
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use tokio::sync::Notify;

    use super::*;
    use crate::reconcile::{Action, Trigger};

    /// Fails as its key says, once, and counts.
    struct Probe {
        attempts: Arc<Mutex<HashMap<String, usize>>>,
        running: Arc<AtomicUsize>,
        most: Arc<AtomicUsize>,
        progress: Arc<Notify>,
    }

    #[async_trait]
    impl Reconcile for Probe {
        fn name(&self) -> &'static str {
            "probe"
        }

        fn triggers(&self) -> Vec<Trigger> {
            let keys = || ["ok", "error", "panic"].map(ObjectKey::cluster).to_vec();
            vec![Trigger::every(Duration::from_secs(3600), keys)]
        }

        async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
            let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(running, Ordering::SeqCst);
            tokio::task::yield_now().await;
            self.running.fetch_sub(1, Ordering::SeqCst);
            let attempt = {
                let mut attempts = self.attempts.lock();
                let attempt = attempts.entry(key.to_string()).or_insert(0);
                *attempt += 1;
                *attempt
            };
            self.progress.notify_one();
            match (&*key.name, attempt) {
                ("error", 1) => Err("as asked".into()),
                ("panic", 1) => panic!("as asked"),
                _ => Ok(Action::done()),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn errors_and_panics_are_contained_and_retried() {
        let attempts = Arc::new(Mutex::new(HashMap::new()));
        let (most, progress) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let mut manager = Manager::new();
        let probe = Probe {
            attempts: attempts.clone(),
            running: Arc::default(),
            most: most.clone(),
            progress: progress.clone(),
        };
        manager.add(probe, 1);
        let status = manager.status();
        let cancel = CancellationToken::new();
        let running = tokio::spawn(manager.run(cancel.clone()));
        while attempts.lock().values().sum::<usize>() < 5 {
            progress.notified().await;
        }
        cancel.cancel();
        running.await.expect("the manager ends");
        let status = status.controllers().remove(0);
        assert_eq!((status.successes, status.failures, status.panics), (3, 1, 1), "{status:?}");
        assert_eq!(most.load(Ordering::SeqCst), 1, "one worker runs one step at a time");
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_panics_starts_again() {
        let (starts, again) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let mut manager = Manager::new();
        let (counter, notify) = (starts.clone(), again.clone());
        manager.add_service("fragile", move |cancel| {
            let (counter, notify) = (counter.clone(), notify.clone());
            async move {
                assert!(counter.fetch_add(1, Ordering::SeqCst) > 0, "the first start fails");
                notify.notify_one();
                cancel.cancelled().await;
            }
        });
        let cancel = CancellationToken::new();
        let running = tokio::spawn(manager.run(cancel.clone()));
        again.notified().await;
        cancel.cancel();
        running.await.expect("the manager ends");
        assert_eq!(starts.load(Ordering::SeqCst), 2);
    }
}
