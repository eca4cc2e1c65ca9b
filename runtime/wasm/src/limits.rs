//! Memory and CPU limits of a container.
//!
//! Memory: linear memories and tables of all of a container's instances together stay under one cap. A growth beyond it is
//! refused, as `malloc` may be; a guest that then aborts is OOMKilled. CPU: the time that guest futures spend being polled is
//! charged to a budget per period, and a container that overdraws waits for later periods (as CFS quota does).
//! Absent on purpose: host memory on the guest's behalf (resource tables have a cap of their own, see `guest.rs`); the CPU time
//! of host calls that run on blocking threads.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::time::Sleep;
use wasmtime::ResourceLimiter;

use crate::engine::Pulse;

/// What a container without `limits.memory` may use: what one 32-bit memory can address.
pub const DEFAULT_MEMORY_BYTES: u64 = 4 << 30;

/// What a table entry costs in memory.
const TABLE_ELEMENT_BYTES: u64 = 8;

/// The period over which `limits.cpu` is a budget.
const CPU_PERIOD: Duration = Duration::from_millis(100);

/// The memory of one container.
#[derive(Debug)]
pub struct Memory {
    limit: u64,
    used: AtomicU64,
}

impl Memory {
    pub fn new(limit: Option<u64>) -> Memory {
        Memory { limit: limit.unwrap_or(DEFAULT_MEMORY_BYTES), used: AtomicU64::new(0) }
    }

    pub fn limit(&self) -> u64 {
        self.limit
    }

    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: u64) -> bool {
        let within = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok()
    }

    fn give(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The share of one instance; gives it back when the instance goes.
#[derive(Debug)]
pub struct Share {
    memory: Arc<Memory>,
    held: u64,
    denied: bool,
}

impl Share {
    pub fn new(memory: Arc<Memory>) -> Share {
        Share { memory, held: 0, denied: false }
    }

    /// True once a growth was refused: a trap after that is the limit's doing.
    pub fn denied(&self) -> bool {
        self.denied
    }

    fn grow(&mut self, bytes: u64) -> bool {
        let granted = self.memory.take(bytes);
        if granted {
            self.held += bytes;
        } else {
            self.denied = true;
        }
        granted
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.memory.give(self.held);
    }
}

impl ResourceLimiter for Share {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        // Past its own maximum the guest's growth fails whatever we say: that is not our limit's doing.
        Ok(maximum.is_none_or(|maximum| desired <= maximum) && self.grow((desired - current) as u64))
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let bytes = (desired - current) as u64 * TABLE_ELEMENT_BYTES;
        Ok(maximum.is_none_or(|maximum| desired <= maximum) && self.grow(bytes))
    }
}

/// Guest time of one container, and its budget if it has one.
pub struct Cpu {
    used_nanos: AtomicU64,
    budget: Option<Mutex<Budget>>,
    pulse: Arc<Pulse>,
}

impl Cpu {
    pub fn new(limit_millis: Option<u64>, pulse: Arc<Pulse>) -> Cpu {
        let budget = limit_millis.map(|millis| Mutex::new(Budget::new(millis, Instant::now())));
        Cpu { used_nanos: AtomicU64::new(0), budget, pulse }
    }

    pub fn used_nanos(&self) -> u64 {
        self.used_nanos.load(Ordering::Relaxed)
    }

    /// Runs guest code: charges its time and makes it wait when the budget is spent.
    pub fn meter<F: Future>(self: &Arc<Self>, guest: F) -> Metered<F> {
        Metered { guest: Box::pin(guest), cpu: self.clone(), pause: None }
    }

    fn charge(&self, nanos: u64) {
        self.used_nanos.fetch_add(nanos, Ordering::Relaxed);
        if let Some(budget) = &self.budget {
            budget.lock().charge(nanos);
        }
    }

    fn pause(&self) -> Option<Duration> {
        self.budget.as_ref().and_then(|budget| budget.lock().wait(Instant::now()))
    }
}

/// A budget that refills each period, never saves, and remembers an overdraft.
#[derive(Debug)]
struct Budget {
    quota: i64,
    left: i64,
    period_start: Instant,
}

impl Budget {
    fn new(millis: u64, now: Instant) -> Budget {
        let quota = (CPU_PERIOD.as_nanos() as u64).saturating_mul(millis) / 1000;
        let quota = i64::try_from(quota).unwrap_or(i64::MAX).max(1);
        Budget { quota, left: quota, period_start: now }
    }

    fn charge(&mut self, nanos: u64) {
        self.left = self.left.saturating_sub(i64::try_from(nanos).unwrap_or(i64::MAX));
    }

    /// How long to wait before running on; none when there is budget.
    fn wait(&mut self, now: Instant) -> Option<Duration> {
        let periods = (now.saturating_duration_since(self.period_start).as_nanos() / CPU_PERIOD.as_nanos()) as u32;
        if periods > 0 {
            self.left = self.left.saturating_add(self.quota.saturating_mul(i64::from(periods))).min(self.quota);
            self.period_start += CPU_PERIOD * periods;
        }
        if self.left > 0 {
            return None;
        }
        let needed = u32::try_from(-self.left / self.quota + 1).unwrap_or(u32::MAX);
        Some((self.period_start + CPU_PERIOD.saturating_mul(needed)).saturating_duration_since(now))
    }
}

/// See [`Cpu::meter`].
pub struct Metered<F> {
    guest: Pin<Box<F>>,
    cpu: Arc<Cpu>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<F: Future> Future for Metered<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        loop {
            if let Some(pause) = &mut this.pause {
                std::task::ready!(pause.as_mut().poll(cx));
                this.pause = None;
            }
            match this.cpu.pause() {
                Some(pause) => this.pause = Some(Box::pin(tokio::time::sleep(pause))),
                None => break,
            }
        }
        let _running = this.cpu.pulse.enter();
        let start = Instant::now();
        let poll = this.guest.as_mut().poll(cx);
        this.cpu.charge(start.elapsed().as_nanos() as u64);
        poll
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_share_one_cap_and_give_back_what_they_held() {
        let memory = Arc::new(Memory::new(Some(100)));
        let (mut a, mut b) = (Share::new(memory.clone()), Share::new(memory.clone()));
        assert!(a.memory_growing(0, 60, None).unwrap());
        assert!(!b.memory_growing(0, 60, None).unwrap());
        assert!(b.denied() && !a.denied());
        drop(a);
        assert!(b.memory_growing(0, 60, None).unwrap());
        assert_eq!(memory.used(), 60);
    }

    #[test]
    fn growth_past_the_guests_own_maximum_is_not_the_limits_doing() {
        let mut share = Share::new(Arc::new(Memory::new(Some(100))));
        assert!(!share.memory_growing(0, 60, Some(50)).unwrap());
        assert!(!share.denied());
    }

    #[test]
    fn tables_count() {
        let mut share = Share::new(Arc::new(Memory::new(Some(80))));
        assert!(share.table_growing(0, 10, None).unwrap());
        assert!(!share.table_growing(10, 11, None).unwrap());
    }

    /// Charges at times (ms) and says how long (ms) the guest then waits.
    fn check(millis: u64, charges: &[(u64, u64)], expected: Option<u64>) {
        let start = Instant::now();
        let mut budget = Budget::new(millis, start);
        let mut wait = None;
        for (at, used) in charges {
            budget.charge(used * 1_000_000);
            wait = budget.wait(start + Duration::from_millis(*at));
        }
        assert_eq!(wait, expected.map(Duration::from_millis), "{millis}m {charges:?}");
    }

    #[test]
    fn a_budget_refills_each_period_and_remembers_overdraft() {
        check(500, &[(10, 10)], None);
        check(500, &[(50, 50)], Some(50));
        check(500, &[(50, 120)], Some(150));
        check(500, &[(50, 120), (200, 0)], None);
        check(100, &[(1_000, 0), (1_010, 10)], Some(90));
        check(2_000, &[(100, 100), (150, 50)], None);
    }
}
