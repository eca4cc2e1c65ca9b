//! One priority level at work: its seats, and the queues of those who wait for one.
//!
//! Source: `k8s.io/apiserver/pkg/util/flowcontrol/fairqueuing`. Invariants: seats in use never exceed the limit but for a request
//! that is wider than it, which runs alone; while anybody waits nobody passes them. A request that finds a free seat and nobody
//! waiting takes it without a queue, under one lock and without allocation: fairness matters only among those who wait.
//! Virtual time is the seconds that a flow with a queue of its own would have been served for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::shares::{Bounds, Demand};
use super::shuffle;
use super::spec::{Queuing, Spec};
use super::width::Width;

/// What a request is taken to last until it has. Source: `estimatedServiceSeconds`.
const GUESS_S: f64 = 0.003;
/// How much of the smoothed demand a period leaves. Source: `seatDemandSmoothingCoefficient`.
const SMOOTHING: f64 = 0.977;

pub struct Level {
    pub name: String,
    pub uid: Option<HeaderValue>,
    state: Mutex<State>,
}

struct State {
    spec: Spec,
    bounds: Bounds,
    limit: u32,
    executing: u32,
    in_use: u32,
    waiting: usize,
    waiting_seats: u32,
    queues: Vec<Queue>,
    /// Where the search for the next queue begins, so that equals take turns.
    next: usize,
    next_waiter: u64,
    virtual_now: f64,
    virtual_at: Instant,
    usage: Usage,
}

#[derive(Default)]
struct Queue {
    waiters: VecDeque<Waiter>,
    in_use: u32,
    /// The virtual time at which its next request is due.
    due: f64,
}

struct Waiter {
    id: u64,
    seats: u32,
    go: oneshot::Sender<()>,
}

/// Seats wanted over the current period: peak, mean and deviation over time.
struct Usage {
    since: Instant,
    at: Instant,
    wanted: u32,
    peak: u32,
    sum: f64,
    squares: f64,
    smooth: f64,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    ConcurrencyLimit,
    QueueFull,
    TimeOut,
}

impl Refusal {
    pub fn reason(self) -> &'static str {
        match self {
            Refusal::ConcurrencyLimit => "concurrency-limit",
            Refusal::QueueFull => "queue-full",
            Refusal::TimeOut => "time-out",
        }
    }
}

/// What a level shows of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub bounds: Bounds,
    pub limit: u32,
    pub executing: u32,
    pub in_use: u32,
    pub waiting: usize,
}

impl Usage {
    fn new(now: Instant) -> Self {
        Self { since: now, at: now, wanted: 0, peak: 0, sum: 0.0, squares: 0.0, smooth: 0.0 }
    }

    fn set(&mut self, wanted: u32, now: Instant) {
        let span = now.saturating_duration_since(self.at).as_secs_f64();
        let held = f64::from(self.wanted);
        self.sum += held * span;
        self.squares += held * held * span;
        (self.at, self.wanted) = (now, wanted);
        self.peak = self.peak.max(wanted);
    }

    /// Ends the period.
    fn take(&mut self, now: Instant) -> Demand {
        self.set(self.wanted, now);
        let span = now.saturating_duration_since(self.since).as_secs_f64().max(f64::EPSILON);
        let mean = self.sum / span;
        let deviation = (self.squares / span - mean * mean).max(0.0).sqrt();
        let envelope = mean + deviation;
        self.smooth = envelope.max(SMOOTHING * self.smooth + (1.0 - SMOOTHING) * envelope);
        let demand = Demand { peak: self.peak, smooth: self.smooth };
        let (smooth, wanted) = (self.smooth, self.wanted);
        *self = Self { smooth, wanted, peak: wanted, ..Self::new(now) };
        demand
    }
}

impl State {
    fn fits(&self, seats: u32) -> bool {
        self.in_use == 0 || self.in_use + seats <= self.limit
    }

    fn take(&mut self, seats: u32, now: Instant) {
        self.in_use += seats;
        self.executing += 1;
        self.usage.set(self.in_use + self.waiting_seats, now);
    }

    /// Brings virtual time up to now: it runs as fast as seats are used for each queue that uses or wants some.
    fn advance(&mut self, now: Instant) {
        let span = now.saturating_duration_since(self.virtual_at).as_secs_f64();
        self.virtual_at = now;
        let active = self.queues.iter().filter(|queue| !queue.waiters.is_empty() || queue.in_use > 0).count();
        if active > 0 {
            let used = (self.in_use + self.waiting_seats).min(self.limit.max(1));
            self.virtual_now += span * f64::from(used) / active as f64;
        }
    }

    fn enqueue(&mut self, flow: u64, seats: u32, queuing: Queuing, now: Instant) -> Result<Place, Refusal> {
        let deck = self.queues.len();
        let index = shuffle::least(flow, deck, queuing.hand_size, |index| {
            let queue = &self.queues[index];
            queue.waiters.iter().map(|waiter| u64::from(waiter.seats)).sum::<u64>() + u64::from(queue.in_use)
        });
        if self.queues[index].waiters.len() >= queuing.length_max {
            return Err(Refusal::QueueFull);
        }
        self.advance(now);
        let queue = &mut self.queues[index];
        if queue.waiters.is_empty() && queue.in_use == 0 {
            queue.due = self.virtual_now;
        }
        let (go, turn) = oneshot::channel();
        let id = self.next_waiter;
        self.next_waiter += 1;
        queue.waiters.push_back(Waiter { id, seats, go });
        self.waiting += 1;
        self.waiting_seats += seats;
        self.usage.set(self.in_use + self.waiting_seats, now);
        Ok(Place { queue: index, id, turn })
    }

    /// Gives free seats to those who are due first.
    fn dispatch(&mut self, now: Instant) {
        while self.waiting > 0 {
            let count = self.queues.len();
            let due = |queue: &Queue| {
                let first = queue.waiters.front()?;
                Some(queue.due + f64::from(first.seats) * GUESS_S)
            };
            let order = (0..count).map(|step| (self.next + step) % count);
            let first = order
                .filter_map(|index| due(&self.queues[index]).map(|due| (index, due)))
                .min_by(|(_, a), (_, b)| a.total_cmp(b));
            let Some((index, _)) = first else { return };
            let seats = self.queues[index].waiters.front().map_or(0, |waiter| waiter.seats);
            // Nobody else goes before one that is too wide for now, or it would never go.
            if !self.fits(seats) {
                return;
            }
            let queue = &mut self.queues[index];
            let Some(waiter) = queue.waiters.pop_front() else { return };
            queue.due += f64::from(seats) * GUESS_S;
            queue.in_use += seats;
            self.next = (index + 1) % count;
            self.waiting -= 1;
            self.waiting_seats -= seats;
            self.take(seats, now);
            // A waiter that has given up leaves its queue under the lock, so this one is there.
            let _ = waiter.go.send(());
        }
    }

    fn release(&mut self, seats: u32, queue: Option<usize>, lasted: Duration, now: Instant) {
        self.advance(now);
        self.in_use = self.in_use.saturating_sub(seats);
        if let Some(queue) = queue.and_then(|index| self.queues.get_mut(index)) {
            queue.in_use = queue.in_use.saturating_sub(seats);
            queue.due += f64::from(seats) * (lasted.as_secs_f64() - GUESS_S);
        }
        self.usage.set(self.in_use + self.waiting_seats, now);
        self.dispatch(now);
    }
}

/// Where a request waits.
struct Place {
    queue: usize,
    id: u64,
    turn: oneshot::Receiver<()>,
}

/// A place that is given back when whoever waits goes away.
struct Waiting<'a> {
    level: &'a Arc<Level>,
    place: Place,
    seats: u32,
    is_done: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let now = Instant::now();
        let mut state = self.level.state.lock();
        let waiters = state.queues.get_mut(self.place.queue).map(|queue| &mut queue.waiters);
        let found = waiters.and_then(|waiters| {
            let index = waiters.iter().position(|waiter| waiter.id == self.place.id)?;
            waiters.remove(index)
        });
        match found {
            Some(waiter) => {
                state.waiting -= 1;
                state.waiting_seats -= waiter.seats;
                let wanted = state.in_use + state.waiting_seats;
                state.usage.set(wanted, now);
                state.dispatch(now);
            }
            // Its turn came just as it went.
            None => {
                state.executing -= 1;
                state.release(self.seats, Some(self.place.queue), Duration::ZERO, now);
            }
        }
    }
}

/// Seats that a request holds until this is dropped, and those that stay taken for a while after.
pub struct Ticket {
    level: Arc<Level>,
    width: Width,
    queue: Option<usize>,
    since: Instant,
}

impl Ticket {
    /// When the seats were taken.
    pub fn since(&self) -> Instant {
        self.since
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let now = Instant::now();
        let lasted = now.saturating_duration_since(self.since);
        let mut state = self.level.state.lock();
        state.executing = state.executing.saturating_sub(1);
        let after = self.width.after.filter(|_| state.waiting > 0 || matches!(state.spec, Spec::Limited(_)));
        let Some((seats, time)) = after else {
            return state.release(self.width.seats, self.queue, lasted, now);
        };
        state.in_use += seats;
        state.release(self.width.seats, self.queue, lasted, now);
        drop(state);
        let level = self.level.clone();
        let give_back = move || level.state.lock().release(seats, None, time, Instant::now());
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                tokio::time::sleep(time).await;
                give_back();
            })),
            Err(_) => give_back(),
        }
    }
}

impl Level {
    pub fn new(name: &str, uid: &str, now: Instant) -> Self {
        let state = State {
            spec: Spec::Exempt { shares: 0, lendable_percent: 0 },
            bounds: Bounds::default(),
            limit: 1,
            executing: 0,
            in_use: 0,
            waiting: 0,
            waiting_seats: 0,
            queues: Vec::new(),
            next: 0,
            next_waiter: 0,
            virtual_now: 0.0,
            virtual_at: now,
            usage: Usage::new(now),
        };
        let uid = HeaderValue::from_str(uid).ok().filter(|uid| !uid.is_empty());
        Self { name: name.to_owned(), uid, state: Mutex::new(state) }
    }

    /// What the level may do from now on. Those who wait go on waiting where they are.
    pub fn configure(&self, spec: Spec, bounds: Bounds) {
        let mut state = self.state.lock();
        let is_new = state.spec != spec || state.bounds != bounds;
        if !is_new {
            return;
        }
        (state.spec, state.bounds, state.limit) = (spec, bounds, bounds.nominal.max(1));
        let wanted = match spec {
            Spec::Limited(limited) => limited.queuing.map_or(0, |queuing| queuing.queues),
            Spec::Exempt { .. } => 0,
        };
        if state.waiting == 0 || wanted > state.queues.len() {
            state.queues.resize_with(wanted, Queue::default);
        }
        state.dispatch(Instant::now());
    }

    /// Ends a period of the level's demand.
    pub fn demand(&self, now: Instant) -> (Spec, Bounds, Demand) {
        let mut state = self.state.lock();
        (state.spec, state.bounds, state.usage.take(now))
    }

    pub fn set_limit(&self, limit: u32, now: Instant) {
        let mut state = self.state.lock();
        state.limit = limit.max(1);
        state.dispatch(now);
    }

    pub fn figures(&self) -> Figures {
        let state = self.state.lock();
        let State { bounds, limit, executing, in_use, waiting, .. } = *state;
        Figures { bounds, limit, executing, in_use, waiting }
    }

    /// Takes the request's seats, at once or when it is their turn. `flow` is asked for where the request must wait.
    pub async fn acquire(
        self: &Arc<Self>,
        width: Width,
        patience: Duration,
        flow: impl FnOnce() -> u64,
    ) -> Result<Ticket, Refusal> {
        let now = Instant::now();
        let place = {
            let mut state = self.state.lock();
            let queuing = match state.spec {
                Spec::Exempt { .. } => None,
                Spec::Limited(limited) if state.waiting > 0 || !state.fits(width.seats) => Some(limited.queuing),
                Spec::Limited(_) => None,
            };
            match queuing {
                None => {
                    state.take(width.seats, now);
                    None
                }
                Some(None) => return Err(Refusal::ConcurrencyLimit),
                Some(Some(queuing)) => Some(state.enqueue(flow(), width.seats, queuing, now)?),
            }
        };
        let Some(place) = place else {
            return Ok(Ticket { level: self.clone(), width, queue: None, since: now });
        };
        let queue = Some(place.queue);
        let mut waiting = Waiting { level: self, place, seats: width.seats, is_done: false };
        match tokio::time::timeout(patience, &mut waiting.place.turn).await {
            Ok(Ok(())) => {
                waiting.is_done = true;
                Ok(Ticket { level: self.clone(), width, queue, since: Instant::now() })
            }
            _ => Err(Refusal::TimeOut),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::Limited;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(600);

    fn level(limit: u32, queuing: Option<Queuing>) -> Arc<Level> {
        let level = Level::new("l", "", Instant::now());
        let limited = Limited { shares: 1, lendable_percent: 0, borrowing_percent: None, queuing };
        level.configure(Spec::Limited(limited), Bounds { nominal: limit, lowest: limit, highest: limit });
        Arc::new(level)
    }

    fn queues(queues: usize, length_max: usize) -> Option<Queuing> {
        Some(Queuing { queues, hand_size: 1, length_max })
    }

    fn seats(seats: u32) -> Width {
        Width { seats, after: None }
    }

    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn seats_run_out_and_come_back() {
        let level = level(2, None);
        let one = level.acquire(seats(1), PATIENCE, || 0).await.expect("a seat");
        let two = level.acquire(seats(1), PATIENCE, || 0).await.expect("a seat");
        assert_eq!(level.acquire(seats(1), PATIENCE, || 0).await.err(), Some(Refusal::ConcurrencyLimit));
        drop((one, two));
        let wide = level.acquire(seats(9), PATIENCE, || 0).await.expect("the whole level");
        assert_eq!(level.figures().in_use, 9);
        drop(wide);
        assert_eq!((level.figures().in_use, level.figures().executing), (0, 0));
    }

    #[test]
    fn a_small_flow_passes_a_flood() {
        let (level, now) = (level(1, queues(2, 100)), Instant::now());
        let mut state = level.state.lock();
        state.take(1, now);
        // Flow 0 floods one queue, then flow 1 comes to the other.
        let queuing = queues(2, 100).expect("queues");
        let mut flood: Vec<Place> = (0..20).map(|_| state.enqueue(0, 1, queuing, now).expect("a place")).collect();
        flood.push(state.enqueue(1, 1, queuing, now).expect("a place"));
        let (mut queue, mut order) = (None, Vec::new());
        while !flood.is_empty() {
            state.release(1, queue, Duration::from_millis(3), now);
            let next = flood.iter_mut().position(|place| place.turn.try_recv().is_ok()).expect("somebody's turn");
            let place = flood.remove(next);
            queue = Some(place.queue);
            order.push(place.queue);
        }
        assert!(order.iter().position(|queue| *queue == 1).is_some_and(|place| place <= 1), "{order:?}");
        assert_eq!((state.waiting, state.in_use), (0, 1));
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_patience_ends() {
        let level = level(1, queues(1, 1));
        let held = level.acquire(seats(1), PATIENCE, || 0).await.expect("a seat");
        let waiting = tokio::spawn({
            let level = level.clone();
            async move { level.acquire(seats(1), PATIENCE, || 0).await.is_ok() }
        });
        settle().await;
        assert_eq!(level.acquire(seats(1), PATIENCE, || 0).await.err(), Some(Refusal::QueueFull));
        waiting.abort();
        let _ = waiting.await;
        assert_eq!(level.figures().waiting, 0);
        let late = level.acquire(seats(1), Duration::from_millis(1), || 0).await;
        assert_eq!(late.err(), Some(Refusal::TimeOut));
        assert_eq!((level.figures().waiting, level.figures().in_use), (0, 1));
        drop(held);
        assert_eq!((level.figures().executing, level.figures().in_use), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_keeps_seats_while_watchers_are_told() {
        let level = level(10, queues(1, 1));
        let width = Width { seats: 1, after: Some((3, Duration::from_millis(5))) };
        drop(level.acquire(width, PATIENCE, || 0).await.expect("a seat"));
        assert_eq!(level.figures().in_use, 3);
        tokio::time::sleep(Duration::from_millis(6)).await;
        assert_eq!(level.figures().in_use, 0);
    }
}
