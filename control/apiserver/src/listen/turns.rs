//! An HTTP/2 connection and its streams as one task.
//!
//! In a turn first the streams that were woken are asked for what they have, then the connection takes it all up, then it goes out
//! ([`Cork`]). So the watches of a connection that wait for one event cost one wake-up, and few TLS records and system calls,
//! however many they are. What computes a reply does not run here but in a task of its own ([`apart`]): only bodies do.
//! Invariants: a stream's panic ends that stream; a turn is bounded, so that others get theirs.

use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, Stream};
use hyper::rt::Executor;
use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use tokio::task::{JoinError, JoinHandle};

use super::cork::Cork;

/// How often streams and connection are looked at before other tasks get their turn.
const ROUNDS_MAX: usize = 4;

/// Where the connection puts its streams.
#[derive(Clone, Default)]
pub struct Streams(Arc<Mutex<Vec<BoxFuture<'static, ()>>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let guarded = AssertUnwindSafe(stream).catch_unwind().map(|ended| {
            if ended.is_err() {
                tracing::error!("the body of a reply panicked");
            }
        });
        self.0.lock().push(Box::pin(guarded));
    }
}

/// Who is to be looked at. A wake-up during a turn is for that turn, and does not wake the task.
struct Ready {
    woken: AtomicBool,
    turns: Arc<Turn>,
}

#[derive(Default)]
struct Turn {
    /// A turn is under way.
    runs: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Ready {
    fn of(turns: &Arc<Turn>) -> Arc<Self> {
        Arc::new(Self { woken: AtomicBool::new(true), turns: turns.clone() })
    }

    fn take(&self) -> bool {
        self.woken.swap(false, SeqCst)
    }
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, SeqCst) && !self.turns.runs.load(SeqCst) {
            self.turns.wake();
        }
    }
}

impl Turn {
    fn wake(&self) {
        if let Some(task) = &*self.task.lock() {
            task.wake_by_ref();
        }
    }
}

/// See the module.
pub struct Turns<C, S> {
    connection: Pin<Box<C>>,
    cork: Cork<S>,
    new: Streams,
    streams: FuturesUnordered<BoxFuture<'static, ()>>,
    turn: Arc<Turn>,
    connection_ready: Arc<Ready>,
    streams_ready: Arc<Ready>,
    wakers: [Waker; 2],
}

impl<C: Future<Output = hyper::Result<()>>, S: AsyncWrite + Unpin> Turns<C, S> {
    /// `connection` writes to `cork` and puts its streams into `new`.
    pub fn new(connection: C, cork: Cork<S>, new: Streams) -> Self {
        let turn = Arc::new(Turn::default());
        let (connection_ready, streams_ready) = (Ready::of(&turn), Ready::of(&turn));
        let wakers = [connection_ready.clone().into(), streams_ready.clone().into()];
        let (connection, streams) = (Box::pin(connection), FuturesUnordered::new());
        Self { connection, cork, new, streams, turn, connection_ready, streams_ready, wakers }
    }

    fn look(&mut self) -> Poll<hyper::Result<()>> {
        let [connection_waker, streams_waker] = &self.wakers;
        let new = std::mem::take(&mut *self.new.0.lock());
        let any_new = !new.is_empty();
        self.streams.extend(new);
        if self.streams_ready.take() || any_new {
            let mut context = Context::from_waker(streams_waker);
            while let Poll::Ready(Some(())) = Pin::new(&mut self.streams).poll_next(&mut context) {}
        }
        match self.connection_ready.take() {
            true => self.connection.as_mut().poll(&mut Context::from_waker(connection_waker)),
            false => Poll::Pending,
        }
    }

    fn has_more(&self) -> bool {
        self.streams_ready.woken.load(SeqCst)
            || self.connection_ready.woken.load(SeqCst)
            || !self.new.0.lock().is_empty()
    }
}

impl<C: Future<Output = hyper::Result<()>>, S: AsyncWrite + Unpin> Future for Turns<C, S> {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let me = &mut *self;
        me.turn.runs.store(true, SeqCst);
        {
            let mut task = me.turn.task.lock();
            match &mut *task {
                Some(task) => task.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
        }
        let mut ended = Poll::Pending;
        for _ in 0..ROUNDS_MAX {
            ended = me.look();
            if ended.is_ready() || !me.has_more() {
                break;
            }
        }
        // Where the client does not read, the connection may be waiting for room, too: it is woken with what waits here.
        let drained = me.cork.poll_drain(&mut Context::from_waker(&me.wakers[0]));
        me.turn.runs.store(false, SeqCst);
        if let Poll::Ready(Err(error)) = drained {
            return Poll::Ready(Err(Error::Write(error)));
        }
        if let Poll::Ready(result) = ended {
            return Poll::Ready(result.map_err(Error::Http));
        }
        if me.has_more() {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("speak HTTP/2")]
    Http(#[source] hyper::Error),
    #[error("write to a connection")]
    Write(#[source] io::Error),
}

/// Runs `work` in a task of its own, which ends when nobody waits for it any more.
pub fn apart<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Apart<T> {
    Apart(tokio::spawn(work))
}

pub struct Apart<T>(JoinHandle<T>);

impl<T> Future for Apart<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl<T> Drop for Apart<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_stream_that_panics_is_over_and_nothing_else() {
        let streams = Streams::default();
        streams.execute(async { panic!("the body of this reply") });
        let stream = streams.0.lock().remove(0);
        stream.await;
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_any_more_ends() {
        let (held, dropped) = oneshot::channel::<()>();
        let work = apart(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        drop(work);
        dropped.await.expect_err("the work is dropped with what it holds");
    }

    #[tokio::test]
    async fn a_turn_takes_up_what_its_streams_have_and_sends_it() {
        let (near, mut far) = tokio::io::duplex(1 << 10);
        let (cork, streams) = (Cork::new(near), Streams::default());
        // What stands for a connection writes what its streams, of which it makes one, hand to it.
        let (sender, mut handed) = tokio::sync::mpsc::unbounded_channel::<&[u8]>();
        let (mut writer, executor) = (cork.clone(), streams.clone());
        let connection = async move {
            executor.execute(async move {
                for word in [&b"one "[..], b"two "] {
                    sender.send(word).expect("the connection is there");
                    tokio::task::yield_now().await;
                }
            });
            while let Some(word) = handed.recv().await {
                tokio::io::AsyncWriteExt::write_all(&mut writer, word).await.expect("room");
            }
            tokio::io::AsyncWriteExt::shutdown(&mut writer).await.expect("shutdown");
            Ok(())
        };
        tokio::spawn(Turns::new(connection, cork, streams));
        let mut got = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut far, &mut got).await.expect("text");
        assert_eq!(got, "one two ");
    }
}
