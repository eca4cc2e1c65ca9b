//! SPDY/3.1 as Kubernetes' streams use it, on the server's side.
//!
//! Source: the SPDY/3 draft and what clients of `moby/spdystream` send. The client opens the streams; each is taken or refused
//! by who serves the connection. A stream that is not read holds the whole connection up, as its clients expect.
//! Absent on purpose: priorities, settings, flow control by windows (the clients send none), opening streams from here.

mod frame;
mod headers;

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use wharf_cri::streams::CHUNKS_MAX;

use self::frame::Frame;
pub use self::headers::Headers;
use self::headers::{Decoder, Encoder};

/// Streams of one connection at a time.
const STREAMS_MAX: usize = 1000;
/// Frames that wait for a slow client.
const FRAMES_MAX: usize = 32;
/// Streams that wait to be taken.
const BACKLOG: usize = 16;
/// Bytes of one frame that is written.
const CHUNK_MAX: usize = 1 << 20;
const REFUSED_STREAM: u32 = 3;
const CANCEL: u32 = 5;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Frame(&'static str),
    #[error("{0}")]
    Headers(&'static str),
    #[error("read or write a SPDY connection")]
    Io(#[source] std::io::Error),
}

/// A connection that is being served. Dropping it cuts it off.
#[derive(Debug)]
pub struct Connection {
    streams: mpsc::Receiver<Stream>,
    frames: mpsc::Sender<Frame>,
    gone: CancellationToken,
    writing: AbortOnDropHandle<()>,
    _reading: AbortOnDropHandle<()>,
}

/// A stream that the client has opened.
#[derive(Debug)]
pub struct Stream {
    id: u32,
    pub headers: Headers,
    pub from: mpsc::Receiver<Bytes>,
    frames: mpsc::Sender<Frame>,
}

/// The way back on a stream.
#[derive(Clone, Debug)]
pub struct Writer {
    id: u32,
    frames: mpsc::Sender<Frame>,
}

impl Connection {
    pub fn serve(io: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        let (read, write) = tokio::io::split(io);
        let (frames, queued) = mpsc::channel(FRAMES_MAX);
        let (opened, streams) = mpsc::channel(BACKLOG);
        let gone = CancellationToken::new();
        let reader = Reader { frames: frames.clone(), opened, streams: HashMap::new(), decoder: Decoder::default() };
        let (ended, broke) = (gone.clone(), gone.clone());
        let reading = tokio::spawn(async move {
            if let Err(error) = reader.run(read).await {
                tracing::debug!(error = &error as &dyn std::error::Error, "a SPDY connection broke");
            }
            ended.cancel();
        });
        let writing = tokio::spawn(async move {
            if let Err(error) = write_all(write, queued).await {
                tracing::debug!(error = &error as &dyn std::error::Error, "a SPDY connection broke");
                broke.cancel();
            }
        });
        let (writing, reading) = (AbortOnDropHandle::new(writing), AbortOnDropHandle::new(reading));
        Self { streams, frames, gone, writing, _reading: reading }
    }

    /// The next stream that the client opens; none when it is gone.
    pub async fn next(&mut self) -> Option<Stream> {
        self.streams.recv().await
    }

    /// Done when the client is gone.
    pub fn gone(&self) -> CancellationToken {
        self.gone.clone()
    }

    /// Says goodbye, and returns when everything is written and the client has hung up.
    pub async fn finish(self) {
        let Self { streams, frames, gone, mut writing, _reading } = self;
        drop(streams);
        let _ = frames.send(Frame::GoAway { last: 0 }).await;
        drop(frames);
        tokio::select! {
            () = gone.cancelled() => {}
            _ = &mut writing => gone.cancelled().await,
        }
    }
}

impl Stream {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Takes the stream.
    pub async fn accept(&self) -> Writer {
        let _ = self.frames.send(Frame::Reply { id: self.id, headers: Headers::new() }).await;
        Writer { id: self.id, frames: self.frames.clone() }
    }

    pub async fn refuse(self) {
        let _ = self.frames.send(Frame::Reset { id: self.id, status: CANCEL }).await;
    }
}

impl Writer {
    /// False when the connection is gone.
    pub async fn send(&self, mut bytes: Bytes) -> bool {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(CHUNK_MAX));
            if self.frames.send(Frame::Data { id: self.id, bytes: piece, fin: false }).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Nothing more comes on this stream.
    pub async fn close(self) {
        let _ = self.frames.send(Frame::Data { id: self.id, bytes: Bytes::new(), fin: true }).await;
    }
}

struct Reader {
    frames: mpsc::Sender<Frame>,
    opened: mpsc::Sender<Stream>,
    streams: HashMap<u32, mpsc::Sender<Bytes>>,
    decoder: Decoder,
}

impl Reader {
    async fn run(mut self, mut io: ReadHalf<impl AsyncRead + AsyncWrite>) -> Result<(), Error> {
        while let Some(frame) = frame::read(&mut io, &mut self.decoder).await? {
            match frame {
                Frame::Open { id, headers, fin } => self.open(id, headers, fin).await,
                Frame::Data { id, bytes, fin } => self.data(id, bytes, fin).await,
                Frame::Reset { id, .. } => drop(self.streams.remove(&id)),
                Frame::Ping { id } => drop(self.frames.send(Frame::Ping { id }).await),
                Frame::Reply { .. } | Frame::GoAway { .. } | Frame::Other => {}
            }
        }
        Ok(())
    }

    async fn open(&mut self, id: u32, headers: Headers, fin: bool) {
        self.streams.retain(|_, to| !to.is_closed());
        if self.streams.len() >= STREAMS_MAX || self.streams.contains_key(&id) {
            let _ = self.frames.send(Frame::Reset { id, status: REFUSED_STREAM }).await;
            return;
        }
        let (to, from) = mpsc::channel(CHUNKS_MAX);
        if !fin {
            self.streams.insert(id, to);
        }
        let stream = Stream { id, headers, from, frames: self.frames.clone() };
        if let Err(refused) = self.opened.send(stream).await {
            refused.0.refuse().await;
        }
    }

    async fn data(&mut self, id: u32, bytes: Bytes, fin: bool) {
        let Some(to) = self.streams.get(&id) else { return };
        let over = !bytes.is_empty() && to.send(bytes).await.is_err();
        if fin || over {
            self.streams.remove(&id);
        }
    }
}

/// Writes what comes until nobody can write any more.
async fn write_all(
    mut io: WriteHalf<impl AsyncRead + AsyncWrite>,
    mut frames: mpsc::Receiver<Frame>,
) -> Result<(), Error> {
    let (mut out, mut encoder) = (BytesMut::new(), Encoder::default());
    while let Some(frame) = frames.recv().await {
        let last = matches!(frame, Frame::GoAway { .. });
        frame.write(&mut out, &mut encoder)?;
        while out.len() < CHUNK_MAX
            && let Ok(frame) = frames.try_recv()
        {
            frame.write(&mut out, &mut encoder)?;
        }
        io.write_all(&out).await.map_err(Error::Io)?;
        io.flush().await.map_err(Error::Io)?;
        out.clear();
        if last {
            break;
        }
    }
    io.shutdown().await.map_err(Error::Io)
}

/// The client's side, for tests.
#[cfg(test)]
pub mod client {
    use super::*;

    pub struct Client<IO> {
        read: ReadHalf<IO>,
        write: WriteHalf<IO>,
        decoder: Decoder,
        encoder: Encoder,
        next: u32,
    }

    #[derive(Debug, PartialEq, Eq)]
    pub enum Seen {
        Taken(u32),
        Refused(u32),
        Data(u32, String),
        Closed(u32),
        Goodbye,
    }

    impl<IO: AsyncRead + AsyncWrite> Client<IO> {
        pub fn new(io: IO) -> Self {
            let (read, write) = tokio::io::split(io);
            Self { read, write, decoder: Decoder::default(), encoder: Encoder::default(), next: 1 }
        }

        async fn send(&mut self, frame: Frame) {
            let mut out = BytesMut::new();
            frame.write(&mut out, &mut self.encoder).unwrap();
            self.write.write_all(&out).await.unwrap();
            self.write.flush().await.unwrap();
        }

        pub async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
            let id = self.next;
            self.next += 2;
            let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            self.send(Frame::Open { id, headers, fin: false }).await;
            id
        }

        pub async fn data(&mut self, id: u32, text: &str, fin: bool) {
            self.send(Frame::Data { id, bytes: text.to_owned().into(), fin }).await;
        }

        pub async fn next(&mut self) -> Option<Seen> {
            loop {
                return Some(match frame::read(&mut self.read, &mut self.decoder).await.unwrap()? {
                    Frame::Reply { id, .. } => Seen::Taken(id),
                    Frame::Reset { id, .. } => Seen::Refused(id),
                    Frame::Data { id, fin: true, .. } => Seen::Closed(id),
                    Frame::Data { id, bytes, .. } => Seen::Data(id, String::from_utf8(bytes.to_vec()).unwrap()),
                    Frame::GoAway { .. } => Seen::Goodbye,
                    _ => continue,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::client::{Client, Seen};
    use super::*;

    #[tokio::test]
    async fn a_stream_is_taken_spoken_on_and_closed() {
        let (near, far) = tokio::io::duplex(1024);
        let (mut connection, mut client) = (Connection::serve(near), Client::new(far));
        let id = client.open(&[("streamtype", "data")]).await;
        let mut stream = connection.next().await.unwrap();
        assert_eq!(stream.header("streamtype"), "data");
        let writer = stream.accept().await;
        client.data(id, "ping", true).await;
        assert_eq!(stream.from.recv().await.unwrap(), "ping");
        assert_eq!(stream.from.recv().await, None);
        assert!(writer.send("pong".into()).await);
        writer.close().await;
        let refused = client.open(&[]).await;
        connection.next().await.unwrap().refuse().await;
        let finished = tokio::spawn(connection.finish());
        let expected =
            [Seen::Taken(id), Seen::Data(id, "pong".into()), Seen::Closed(id), Seen::Refused(refused), Seen::Goodbye];
        for seen in expected {
            assert_eq!(client.next().await, Some(seen));
        }
        assert_eq!(client.next().await, None);
        drop(client);
        finished.await.unwrap();
    }
}
