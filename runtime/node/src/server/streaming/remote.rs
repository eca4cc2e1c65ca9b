//! The streams of one exec or attach, whatever they come over.
//!
//! Source: `remotecommand/{httpstream,websocket}.go` in `k8s.io/kubelet/pkg/cri/streaming`.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use wharf_cri::{Ends, Streams, TerminalSize, Wanted};

use super::spdy::{self, Writer};
use super::status::Status;
use super::upgrade::{self, Opening, Protocol};
use super::websocket;

/// How long a client may take to open its streams: upstream's `DefaultStreamCreationTimeout`.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the end may take to reach the client.
const FINISH_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest description of a terminal's size.
const RESIZE_MAX: usize = 1024;

pub struct Session {
    pub streams: Streams,
    /// Cancelled when the client is gone.
    pub gone: CancellationToken,
    pub end: End,
}

/// Tells the client how it ended, after all that was said before.
pub struct End {
    pub status: oneshot::Sender<Status>,
    pub flushed: AbortOnDropHandle<()>,
}

impl End {
    pub async fn finish(self, status: Status) {
        if self.status.send(status).is_ok() {
            let _ = tokio::time::timeout(FINISH_TIMEOUT, self.flushed).await;
        }
    }
}

/// None where the client went away or did not open its streams.
pub async fn open(opening: Opening, wanted: Wanted) -> Option<Session> {
    let protocol = opening.protocol;
    let connection = opening.connect().await?;
    match protocol {
        Protocol::Channels { version, base64 } => {
            let messages = upgrade::messages(connection).await;
            Some(websocket::remote(messages, websocket::Form { version, base64 }, wanted))
        }
        Protocol::Spdy { version } => {
            let connection = spdy::Connection::serve(connection);
            tokio::time::timeout(OPEN_TIMEOUT, over_spdy(connection, version, wanted)).await.ok().flatten()
        }
        Protocol::Tunnel => None,
    }
}

/// Streams by what their headers call them.
async fn over_spdy(mut connection: spdy::Connection, version: u8, wanted: Wanted) -> Option<Session> {
    let (streams, ends) = wanted.open();
    let resizes = wanted.tty && version >= 3;
    let expected = 1 + [wanted.stdin, wanted.stdout, wanted.stderr && !wanted.tty, resizes]
        .iter()
        .filter(|wanted| **wanted)
        .count();
    let Ends { mut stdin, mut stdout, mut stderr, resize } = ends;
    let mut resize = resize.filter(|_| resizes);
    let (mut errors, mut writing, mut taken) = (None, Vec::new(), 0);
    while taken < expected {
        let stream = connection.next().await?;
        let writer = stream.accept().await;
        taken += 1;
        match stream.header("streamtype") {
            "error" => errors = Some(writer),
            "stdin" => pass_on(stream.from, stdin.take()?),
            "stdout" => writing.push(tokio::spawn(say(writer, stdout.take()?))),
            "stderr" => writing.push(tokio::spawn(say(writer, stderr.take()?))),
            "resize" => resizing(stream.from, resize.take()?),
            other => {
                tracing::debug!(kind = other, "a client opened a stream of no known kind");
                return None;
            }
        }
    }
    let (errors, gone) = (errors?, connection.gone());
    let (status, told) = oneshot::channel::<Status>();
    let flushed = tokio::spawn(async move {
        let status = told.await;
        for stream in writing {
            let _ = stream.await;
        }
        if let Ok(status) = status {
            let text = if version >= 4 { status.json() } else { status.plain() };
            errors.send(text.into()).await;
            errors.close().await;
            connection.finish().await;
        }
    });
    Some(Session { streams, gone, end: End { status, flushed: AbortOnDropHandle::new(flushed) } })
}

/// Everything that comes from the container, then the stream's end.
async fn say(writer: Writer, mut from: mpsc::Receiver<Bytes>) {
    while let Some(chunk) = from.recv().await {
        if !writer.send(chunk).await {
            return;
        }
    }
    writer.close().await;
}

fn pass_on(mut from: mpsc::Receiver<Bytes>, to: mpsc::Sender<Bytes>) {
    tokio::spawn(async move {
        while let Some(chunk) = from.recv().await {
            if to.send(chunk).await.is_err() {
                return;
            }
        }
    });
}

fn resizing(mut from: mpsc::Receiver<Bytes>, to: mpsc::Sender<TerminalSize>) {
    tokio::spawn(async move {
        let mut sizes = Sizes::default();
        while let Some(chunk) = from.recv().await {
            for size in sizes.push(&chunk) {
                // A container that does not care has let go of its end; the client need not know.
                let _ = to.try_send(size);
            }
        }
    });
}

/// Reads `{"Width":80,"Height":24}`, one after the other.
#[derive(Debug, Default)]
pub struct Sizes(Vec<u8>);

#[derive(Deserialize)]
struct Size {
    #[serde(rename = "Width", default)]
    width: u16,
    #[serde(rename = "Height", default)]
    height: u16,
}

impl Sizes {
    pub fn push(&mut self, bytes: &[u8]) -> Vec<TerminalSize> {
        self.0.extend_from_slice(bytes);
        let mut values = serde_json::Deserializer::from_slice(&self.0).into_iter::<Size>();
        let mut sizes = Vec::new();
        let mut read = 0;
        while let Some(Ok(Size { width, height })) = values.next() {
            sizes.push(TerminalSize { width, height });
            read = values.byte_offset();
        }
        self.0.drain(..read);
        if self.0.len() > RESIZE_MAX {
            self.0.clear();
        }
        sizes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_come() {
        let mut sizes = Sizes::default();
        assert_eq!(sizes.push(br#"{"Width":80,"#), []);
        let got = sizes.push(b"\"Height\":24}\n{\"Width\":1,\"Height\":2}");
        assert_eq!(got, [TerminalSize { width: 80, height: 24 }, TerminalSize { width: 1, height: 2 }]);
        assert_eq!(sizes.push(&[b'x'; 2 * RESIZE_MAX]), []);
        assert_eq!(sizes.push(b"{}"), [TerminalSize::default()]);
    }
}
