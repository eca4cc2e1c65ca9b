//! Instances of one HTTP component, made when requests come and gone when they do not.
//!
//! An instance answers one request at a time and is used again, up to [`MAX_REQUESTS`] times; one that trapped is thrown away.
//! The instance used last is used first, so that the others grow old and go. Invariants: never more than [`MAX_INSTANCES`], nor
//! more than the memory limit has room for; a request waits in a bounded queue when all are busy; an idle pool holds none.
//! Absent on purpose: several requests in one 0.3 instance at a time, so that a request's fault stays its own.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use futures::channel::oneshot;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wasmtime::{AsContextMut, Store};
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::handler::{Prepared, Proxy, Request, Response};

use crate::artifact::{Artifact, Program, one_line};
use crate::command::End;
use crate::engine::Engine;
use crate::guest::{Guest, Spec, Stdio};
use crate::log::Log;

/// Instances of a container at a time.
pub const MAX_INSTANCES: usize = 256;

/// Requests that wait for an instance; more are answered 503.
pub const MAX_WAITING: usize = 1024;

/// Requests that one instance answers before it is replaced, so that what it leaks has an end.
const MAX_REQUESTS: u32 = 10_000;

/// How long an instance is kept for the next request.
const INSTANCE_IDLE: Duration = Duration::from_secs(10);

/// How long a guest may go on after its response is through, or its client gone.
const MAX_AFTER_RESPONSE: Duration = Duration::from_secs(30);

/// A request on its way to an instance.
pub struct Job {
    pub request: Request,
    /// Dropped without a word when the guest failed.
    pub reply: oneshot::Sender<Response>,
    /// Cancelled when nobody waits for the response any more, or all of it is sent.
    pub over: CancellationToken,
}

/// Why a request is not taken.
#[derive(Debug, PartialEq, Eq)]
pub struct Overloaded;

pub struct Pool {
    engine: Arc<Engine>,
    artifact: Arc<Artifact>,
    spec: Arc<Spec>,
    log: Arc<Log>,
    state: Mutex<State>,
    workers: TaskTracker,
    /// Ends all instances at once.
    kill: CancellationToken,
    /// Cancelled when the memory limit ended the container.
    pub out_of_memory: CancellationToken,
}

struct State {
    /// Idle workers, the one used last at the end.
    idle: Vec<(u64, mpsc::Sender<Job>)>,
    live: usize,
    /// What the memory limit has been seen to have room for.
    ceiling: usize,
    waiting: VecDeque<Job>,
    next_worker: u64,
}

impl Pool {
    pub fn new(
        engine: Arc<Engine>,
        artifact: Arc<Artifact>,
        spec: Arc<Spec>,
        log: Arc<Log>,
        kill: CancellationToken,
    ) -> Arc<Pool> {
        let state =
            State { idle: Vec::new(), live: 0, ceiling: MAX_INSTANCES, waiting: VecDeque::new(), next_worker: 0 };
        Arc::new(Pool {
            engine,
            artifact,
            spec,
            log,
            state: Mutex::new(state),
            workers: TaskTracker::new(),
            kill,
            out_of_memory: CancellationToken::new(),
        })
    }

    /// Hands a request to an idle instance, a new one, or the queue.
    pub fn submit(self: &Arc<Self>, job: Job) -> Result<(), Overloaded> {
        let mut state = self.state.lock();
        if state.waiting.len() >= MAX_WAITING {
            return Err(Overloaded);
        }
        self.place(&mut state, job);
        Ok(())
    }

    fn place(self: &Arc<Self>, state: &mut State, mut job: Job) {
        while let Some((_, worker)) = state.idle.pop() {
            match worker.try_send(job) {
                Ok(()) => return,
                // It has just ended.
                Err(error) => job = error.into_inner(),
            }
        }
        if state.live >= state.ceiling {
            state.waiting.push_back(job);
            return;
        }
        state.live += 1;
        state.next_worker += 1;
        let (pool, id) = (self.clone(), state.next_worker);
        self.workers.spawn(async move {
            let work = pool.spec.cpu.clone().meter(pool.work(id, job));
            // A kill drops the guest where it stands.
            if pool.kill.clone().run_until_cancelled_owned(work).await.is_none() {
                pool.retire(id);
            }
        });
    }

    /// How the container ends when the memory limit ends it.
    pub fn out_of_memory_end(&self) -> End {
        End::out_of_memory(self.spec.memory.limit())
    }

    /// Waits until no instance is left. Call after `kill`, or when nothing is submitted any more.
    pub async fn drained(&self) {
        self.workers.close();
        self.workers.wait().await;
    }

    /// Forgets a worker. The last one lets the log's descriptor go.
    fn retire(self: &Arc<Self>, id: u64) {
        let mut state = self.state.lock();
        state.idle.retain(|(worker, _)| *worker != id);
        state.live -= 1;
        if state.live == 0 {
            state.ceiling = MAX_INSTANCES;
            self.log.rest();
        }
        // A worker that ends early may leave requests that nobody else would take up.
        if !self.kill.is_cancelled()
            && let Some(job) = state.waiting.pop_front()
        {
            self.place(&mut state, job);
        }
    }

    /// The life of one instance.
    async fn work(self: &Arc<Self>, id: u64, first: Job) {
        match self.instantiate().await {
            Ok((store, proxy)) => self.answer(id, store, &proxy, first).await,
            Err(NoInstance::OutOfMemory) => self.wait_for_room(first),
            Err(NoInstance::Failed(error)) => {
                self.log.note(&format!("instance cannot be made: {}", one_line(&error)));
            }
        }
        self.retire(id);
    }

    async fn instantiate(&self) -> Result<(Store<Guest>, Proxy), NoInstance> {
        let Program::Http(pre) = &self.artifact.program else {
            return Err(NoInstance::Failed(wasmtime::format_err!("a command is not an HTTP component")));
        };
        let store = Guest::store(&self.engine, &self.spec, &self.spec.argv, Stdio::output(self.log.clone()));
        let mut store = store.map_err(NoInstance::Failed)?;
        match pre.instantiate_async(&mut store).await {
            Ok(proxy) => Ok((store, proxy)),
            Err(_) if store.data().out_of_memory() => Err(NoInstance::OutOfMemory),
            Err(error) => Err(NoInstance::Failed(error)),
        }
    }

    /// The limit has no room for one more instance: the request waits for another, if there is one.
    fn wait_for_room(&self, job: Job) {
        let mut state = self.state.lock();
        if state.live > 1 {
            state.ceiling = state.live - 1;
            state.waiting.push_front(job);
        } else {
            self.out_of_memory.cancel();
        }
    }

    async fn answer(&self, id: u64, mut store: Store<Guest>, proxy: &Proxy, first: Job) {
        let (sender, mut jobs) = mpsc::channel(1);
        let mut job = first;
        for served in 1.. {
            if !self.serve(&mut store, proxy, job).await || served == MAX_REQUESTS {
                return;
            }
            job = match self.next(id, &sender) {
                Some(waiting) => waiting,
                None => match tokio::time::timeout(INSTANCE_IDLE, jobs.recv()).await {
                    Ok(Some(given)) => given,
                    Ok(None) => return,
                    Err(_) => {
                        self.state.lock().idle.retain(|(worker, _)| *worker != id);
                        // A request may have come between the time-out and the lock.
                        match jobs.try_recv() {
                            Ok(given) => given,
                            Err(_) => return,
                        }
                    }
                },
            };
        }
    }

    /// The next waiting request; none after having lined up for one.
    fn next(&self, id: u64, sender: &mpsc::Sender<Job>) -> Option<Job> {
        let mut state = self.state.lock();
        let waiting = state.waiting.pop_front();
        if waiting.is_none() {
            state.idle.push((id, sender.clone()));
        }
        waiting
    }

    /// Answers one request. False when the instance is of no more use.
    async fn serve(&self, store: &mut Store<Guest>, proxy: &Proxy, job: Job) -> bool {
        let (what, over) = (format!("{} {}", job.request.method(), job.request.uri().path()), job.over.clone());
        let deadline = async {
            over.cancelled().await;
            tokio::time::sleep(MAX_AFTER_RESPONSE).await;
        };
        let result = tokio::select! {
            result = call(store, proxy, job) => result,
            () = deadline => Err(wasmtime::format_err!("the guest went on for too long after its response and was ended")),
        };
        let Err(error) = result else { return true };
        if store.data().out_of_memory() {
            self.out_of_memory.cancel();
        }
        self.log.note(&format!("{what}: {}", one_line(&error)));
        false
    }
}

/// Why there is no instance.
enum NoInstance {
    OutOfMemory,
    Failed(wasmtime::Error),
}

/// Calls the handler, passes its response on, and waits until the guest has nothing left to do. Fails if it trapped or gave an
/// error for a response.
async fn call(store: &mut Store<Guest>, proxy: &Proxy, job: Job) -> wasmtime::Result<()> {
    let Job { request, reply, over: _over } = job;
    store
        .run_concurrent(async |accessor| {
            let (sender, receiver) = oneshot::channel();
            let prepared = accessor.with(|mut access| {
                Prepared::new(access.as_context_mut(), proxy, request, WasiHttpView::http, sender)
            })?;
            let forward = async {
                match receiver.await {
                    // The client may be gone; the guest learns it when it writes the body.
                    Ok(Ok(response)) => Ok(_ = reply.send(response)),
                    Ok(Err(error)) => Err(error),
                    Err(oneshot::Canceled) => Ok(()),
                }
            };
            let (ran, forwarded) = futures::join!(prepared.run(accessor, std::future::pending()), forward);
            ran?;
            forwarded?;
            poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
            wasmtime::error::Ok(())
        })
        .await?
}
