//! Keys that wait to be worked on.
//!
//! Invariants: a key waits at most once; a key that is being worked on is not handed out again before that work is done, and
//! is handed out afterwards if it was added meanwhile; of several delays for a key the earliest counts. So the queue's limit is
//! the number of distinct keys.
//! Source of the behaviour: `k8s.io/client-go/util/workqueue`, with jitter on retries and without the overall token bucket,
//! which protects a remote API server from a client; ours protects itself.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The pause after a first failure; it doubles with each further one.
pub const RETRY_FIRST: Duration = Duration::from_millis(5);
pub const RETRY_MOST: Duration = Duration::from_secs(1000);
/// At most this share of a pause is added at random, so that keys that failed together do not come back together.
const JITTER: f64 = 0.1;

/// A handle; clones share the queue.
pub struct Queue<T> {
    inner: Arc<Inner<T>>,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

struct Inner<T> {
    state: Mutex<State<T>>,
    wake: Notify,
}

struct State<T> {
    ready: VecDeque<T>,
    /// Keys in `ready`, and keys to put there when their present work is done.
    dirty: HashSet<T>,
    working: HashSet<T>,
    delayed: BinaryHeap<Reverse<(Instant, u64)>>,
    /// What waits in `delayed`, by the number that stands there; numbers of replaced delays have no entry.
    delayed_keys: HashMap<u64, T>,
    delays: HashMap<T, (Instant, u64)>,
    next_number: u64,
    failures: HashMap<T, u32>,
    closed: bool,
    added: u64,
}

/// What a queue holds, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    pub ready: usize,
    pub delayed: usize,
    pub working: usize,
    /// Keys whose last work failed.
    pub failing: usize,
    /// Keys that were ever added, not counting those that already waited.
    pub added: u64,
}

/// A key that is being worked on; drop it when the work is done.
pub struct Claim<T: Clone + Eq + Hash> {
    queue: Queue<T>,
    key: T,
}

impl<T: Clone + Eq + Hash> Default for Queue<T> {
    fn default() -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            working: HashSet::new(),
            delayed: BinaryHeap::new(),
            delayed_keys: HashMap::new(),
            delays: HashMap::new(),
            next_number: 0,
            failures: HashMap::new(),
            closed: false,
            added: 0,
        };
        Self { inner: Arc::new(Inner { state: Mutex::new(state), wake: Notify::new() }) }
    }
}

impl<T: Clone + Eq + Hash> Queue<T> {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn add(&self, key: T) {
        if self.inner.state.lock().add(key) {
            self.inner.wake.notify_one();
        }
    }

    pub fn add_after(&self, key: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        if self.inner.state.lock().add_at(key, Instant::now() + delay) {
            self.inner.wake.notify_one();
        }
    }

    /// Adds `key` again after a failure, later each time until [`Queue::forget`].
    pub fn retry(&self, key: T) {
        let failures = {
            let mut state = self.inner.state.lock();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            *failures = failures.saturating_add(1);
            *failures
        };
        self.add_after(key, retry_pause(failures).mul_f64(1.0 + JITTER * rand::random::<f64>()));
    }

    /// The work on `key` succeeded: its next failure is a first one.
    pub fn forget(&self, key: &T) {
        self.inner.state.lock().failures.remove(key);
    }

    /// The next key, when there is one; `None` once the queue is closed. For one caller at a time; safe to cancel.
    pub async fn next(&self) -> Option<Claim<T>> {
        loop {
            let woken = self.inner.wake.notified();
            let next_due = {
                let mut state = self.inner.state.lock();
                if state.closed {
                    return None;
                }
                state.take_due(Instant::now());
                if let Some(key) = state.claim() {
                    return Some(Claim { queue: self.clone(), key });
                }
                state.delayed.peek().map(|Reverse((due, _))| *due)
            };
            match next_due {
                None => woken.await,
                Some(due) => {
                    // Either way the loop looks again.
                    let _ = tokio::time::timeout_at(due, woken).await;
                }
            }
        }
    }

    /// No key is handed out any more.
    pub fn close(&self) {
        self.inner.state.lock().closed = true;
        self.inner.wake.notify_one();
    }

    pub fn depth(&self) -> Depth {
        let state = self.inner.state.lock();
        Depth {
            ready: state.ready.len(),
            delayed: state.delays.len(),
            working: state.working.len(),
            failing: state.failures.len(),
            added: state.added,
        }
    }

    fn done(&self, key: &T) {
        let mut state = self.inner.state.lock();
        state.working.remove(key);
        if state.dirty.contains(key) {
            state.ready.push_back(key.clone());
            drop(state);
            self.inner.wake.notify_one();
        }
    }
}

/// Source: `ItemExponentialFailureRateLimiter`.
fn retry_pause(failures: u32) -> Duration {
    RETRY_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(30)).min(RETRY_MOST)
}

impl<T: Clone + Eq + Hash> State<T> {
    /// True when somebody who waits has something to do.
    fn add(&mut self, key: T) -> bool {
        if self.closed || !self.dirty.insert(key.clone()) {
            return false;
        }
        self.added += 1;
        if self.working.contains(&key) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    fn add_at(&mut self, key: T, due: Instant) -> bool {
        if self.closed || self.delays.get(&key).is_some_and(|(earlier, _)| *earlier <= due) {
            return false;
        }
        let number = self.next_number;
        self.next_number += 1;
        if let Some((_, replaced)) = self.delays.insert(key.clone(), (due, number)) {
            self.delayed_keys.remove(&replaced);
        }
        self.delayed_keys.insert(number, key);
        self.delayed.push(Reverse((due, number)));
        true
    }

    fn take_due(&mut self, now: Instant) {
        while let Some(Reverse((due, number))) = self.delayed.peek().copied() {
            let live = self.delayed_keys.contains_key(&number);
            if live && due > now {
                return;
            }
            self.delayed.pop();
            if let Some(key) = self.delayed_keys.remove(&number) {
                self.delays.remove(&key);
                self.add(key);
            }
        }
    }

    fn claim(&mut self) -> Option<T> {
        let key = self.ready.pop_front()?;
        self.dirty.remove(&key);
        self.working.insert(key.clone());
        Some(key)
    }
}

impl<T: Clone + Eq + Hash> Claim<T> {
    pub fn key(&self) -> &T {
        &self.key
    }
}

impl<T: Clone + Eq + Hash> Drop for Claim<T> {
    fn drop(&mut self) {
        self.queue.done(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(queue: &Queue<&'static str>, expected: &'static str) -> Claim<&'static str> {
        let claim =
            tokio::time::timeout(Duration::from_secs(10_000), queue.next()).await.expect("a key").expect("open");
        assert_eq!(*claim.key(), expected);
        claim
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_waits_once_and_is_never_out_twice() {
        let queue = Queue::new();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        let a = check(&queue, "a").await;
        queue.add("a");
        let _b = check(&queue, "b").await;
        assert_eq!(queue.depth().ready, 0);
        drop(a);
        assert_eq!(queue.depth().ready, 1);
        check(&queue, "a").await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_delay_counts() {
        let queue = Queue::new();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(60));
        queue.add_after("a", Duration::from_secs(5));
        queue.add_after("a", Duration::from_secs(30));
        drop(check(&queue, "a").await);
        assert_eq!(start.elapsed().as_secs(), 5);
        assert_eq!(queue.depth(), Depth { added: 1, ..Depth::default() });
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_each_time_until_a_success() {
        let queue = Queue::new();
        for (attempt, least_ms) in [5, 10, 20, 40].into_iter().enumerate() {
            let start = Instant::now();
            queue.retry("a");
            drop(check(&queue, "a").await);
            assert!(start.elapsed() >= Duration::from_millis(least_ms), "attempt {attempt}");
        }
        assert_eq!(retry_pause(1000), RETRY_MOST);
        queue.forget(&"a");
        assert_eq!(queue.depth().failing, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_queue_hands_out_nothing() {
        let queue = Queue::new();
        queue.add("a");
        queue.close();
        queue.add("b");
        assert!(queue.next().await.is_none());
    }
}
