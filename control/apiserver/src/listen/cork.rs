//! A connection's outgoing bytes, gathered over one turn of its task.
//!
//! HTTP/2 flushes after every frame that is longer than a few hundred bytes. With a watch on each of a hundred streams that would be
//! a TLS record and a system call for each of their events. So a flush does nothing here; the connection's owner calls
//! [`Cork::poll_drain`] when the turn is over, and what the turn wrote goes out together.
//! Invariants: order is kept; no more than [`GATHERED_MAX`] waits, and a client that does not read stops the writer, as it would
//! without this; nothing is held while nothing waits. Absent on purpose: time. No byte waits for others that may come.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes that wait for the end of a turn: four TLS records.
const GATHERED_MAX: usize = 64 << 10;
/// What is at least as long goes out at once, with what waits before it, and is not copied.
const DIRECT_MIN: usize = 8 << 10;

/// Both ends are this: the one that writes, and the owner's, who drains.
pub struct Cork<S>(Arc<Mutex<Held<S>>>);

struct Held<S> {
    stream: S,
    waiting: Vec<u8>,
    /// How much of `waiting` is out already.
    gone: usize,
    /// Something was written since the stream was last flushed.
    unflushed: bool,
}

impl<S> Clone for Cork<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: AsyncWrite + Unpin> Cork<S> {
    pub fn new(stream: S) -> Self {
        Self(Arc::new(Mutex::new(Held { stream, waiting: Vec::new(), gone: 0, unflushed: false })))
    }

    /// Sends what waits. Pending while the client does not read.
    pub fn poll_drain(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_drain(context)
    }
}

impl<S: AsyncWrite + Unpin> Held<S> {
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.gone < self.waiting.len() {
            ready!(self.poll_send(context, &[]))?;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends some of what waits and of what comes after it; returns how much of the latter.
    fn poll_send(&mut self, context: &mut Context<'_>, after: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let waits = self.waiting.len() - self.gone;
        self.unflushed = true;
        let sent = if waits == 0 {
            ready!(Pin::new(&mut self.stream).poll_write_vectored(context, after))?
        } else {
            let mut all = Vec::with_capacity(1 + after.len());
            all.push(IoSlice::new(&self.waiting[self.gone..]));
            all.extend_from_slice(after);
            ready!(Pin::new(&mut self.stream).poll_write_vectored(context, &all))?
        };
        if sent == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        if sent < waits {
            self.gone += sent;
            return Poll::Ready(Ok(0));
        }
        (self.waiting, self.gone) = (Vec::new(), 0);
        Poll::Ready(Ok(sent - waits))
    }

    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let length: usize = bytes.iter().map(|slice| slice.len()).sum();
        if length == 0 {
            return Poll::Ready(Ok(0));
        }
        if length < DIRECT_MIN {
            while self.waiting.len() - self.gone + length > GATHERED_MAX {
                ready!(self.poll_send(context, &[]))?;
            }
            if self.waiting.capacity() == 0 {
                self.waiting.reserve_exact(GATHERED_MAX);
            }
            bytes.iter().for_each(|slice| self.waiting.extend_from_slice(slice));
            return Poll::Ready(Ok(length));
        }
        loop {
            match ready!(self.poll_send(context, bytes))? {
                0 => {}
                sent => return Poll::Ready(Ok(sent)),
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Cork<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Cork<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = self.0.lock();
        ready!(held.poll_drain(context))?;
        Pin::new(&mut held.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    fn corked(room: usize) -> (Cork<DuplexStream>, DuplexStream) {
        let (near, far) = duplex(room);
        (Cork::new(near), far)
    }

    async fn drain(cork: &Cork<DuplexStream>) {
        poll_fn(|context| cork.poll_drain(context)).await.expect("drain");
    }

    #[tokio::test]
    async fn what_a_turn_writes_goes_out_at_its_end_and_together() {
        let (mut cork, mut far) = corked(1 << 20);
        for part in ["a", "bc", "def"] {
            cork.write_all(part.as_bytes()).await.unwrap();
            cork.flush().await.unwrap();
        }
        let mut got = [0; 16];
        assert!(futures::poll!(std::pin::pin!(far.read(&mut got))).is_pending());
        drain(&cork).await;
        let length = far.read(&mut got).await.unwrap();
        assert_eq!(&got[..length], b"abcdef");
    }

    #[tokio::test]
    async fn order_is_kept_between_what_waits_and_what_does_not() {
        let (mut cork, mut far) = corked(100);
        let long = "x".repeat(3 * DIRECT_MIN);
        let writer = async {
            for part in ["first", &long, "then", "last"] {
                cork.write_all(part.as_bytes()).await.unwrap();
            }
            cork.shutdown().await.unwrap();
        };
        let mut got = String::new();
        let (_, read) = tokio::join!(writer, far.read_to_string(&mut got));
        read.unwrap();
        assert_eq!(got, format!("first{long}thenlast"));
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_stops_the_writer() {
        let (mut cork, mut far) = corked(10);
        let piece = vec![7; 1000];
        let mut written = 0;
        while let Poll::Ready(result) = futures::poll!(std::pin::pin!(cork.write(&piece))) {
            written += result.unwrap();
            assert!(written <= GATHERED_MAX + 10);
        }
        assert!(written > GATHERED_MAX - 1000);
        let reader = async {
            let mut got = vec![0; written];
            far.read_exact(&mut got).await.unwrap();
            assert!(got.iter().all(|byte| *byte == 7));
        };
        tokio::join!(drain(&cork), reader);
    }
}
