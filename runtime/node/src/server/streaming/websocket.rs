//! Channels over websocket messages: each begins with its channel's number.
//!
//! Source: `wsstream/conn.go` and `remotecommand/websocket.go`. From version 5 on a client ends a channel with
//! `[255, channel]`; before, only with the connection.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use wharf_cri::{Ends, TerminalSize, Wanted};

use super::remote::{End, Session, Sizes};
use super::status::Status;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
/// Bytes of a tunnel that wait on either side.
const TUNNEL_BYTES: usize = 64 * 1024;

/// How a channel's bytes go into a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    pub version: u8,
    pub base64: bool,
}

impl Form {
    pub fn message(self, channel: u8, bytes: &[u8]) -> Message {
        if self.base64 {
            let mut text = char::from(b'0' + channel).to_string();
            STANDARD.encode_string(bytes, &mut text);
            return Message::text(text);
        }
        let mut message = BytesMut::with_capacity(bytes.len() + 1);
        message.put_u8(channel);
        message.put_slice(bytes);
        Message::binary(message.freeze())
    }

    /// Channel and bytes; none for what is no channel's.
    pub fn read(self, message: Message) -> Option<(u8, Bytes)> {
        let mut data = match message {
            Message::Binary(data) => data,
            Message::Text(text) => Bytes::from(text),
            _ => return None,
        };
        let channel = *data.first()?;
        let _ = data.split_to(1);
        if self.base64 {
            return Some((channel.checked_sub(b'0')?, STANDARD.decode(data).ok()?.into()));
        }
        Some((channel, data))
    }
}

pub type Messages<IO> = SplitStream<WebSocketStream<IO>>;
pub type Replies<IO> = SplitSink<WebSocketStream<IO>, Message>;

/// Says goodbye as a server that is done.
pub async fn goodbye<IO: AsyncRead + AsyncWrite + Unpin>(replies: &mut Replies<IO>) {
    let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    let _ = replies.send(Message::Close(Some(close))).await;
}

/// The streams of an exec or attach.
pub fn remote<IO>(messages: WebSocketStream<IO>, form: Form, wanted: Wanted) -> Session
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (streams, Ends { stdin, stdout, stderr, resize }) = wanted.open();
    let (mut replies, messages) = messages.split();
    let (status, told) = oneshot::channel();
    let gone = CancellationToken::new();
    let left = gone.clone();
    let hearing = tokio::spawn(async move {
        hear(messages, form, stdin, resize).await;
        left.cancel();
    });
    let left = gone.clone();
    let flushed = tokio::spawn(async move {
        // The lowest channel says that the connection stands.
        let first = [(wanted.stdout, STDOUT), (wanted.stderr, STDERR)]
            .iter()
            .find(|(open, _)| *open)
            .map_or(ERROR, |(_, it)| *it);
        let said = async {
            replies.send(form.message(first, b"")).await.ok()?;
            say(&mut replies, form, stdout, stderr).await?;
            let status: Status = told.await.ok()?;
            let text = if form.version >= 4 { status.json() } else { status.plain() };
            replies.send(form.message(ERROR, text.as_bytes())).await.ok()
        };
        if said.await.is_some() {
            goodbye(&mut replies).await;
            // The client answers and hangs up.
            let _ = hearing.await;
        }
        left.cancel();
    });
    Session { streams, gone, end: End { status, flushed: AbortOnDropHandle::new(flushed) } }
}

/// Passes on what the client says, until it is gone.
async fn hear<IO: AsyncRead + AsyncWrite + Unpin>(
    mut messages: Messages<IO>,
    form: Form,
    mut stdin: Option<mpsc::Sender<Bytes>>,
    mut resize: Option<mpsc::Sender<TerminalSize>>,
) {
    let mut sizes = Sizes::default();
    while let Some(Ok(message)) = messages.next().await {
        match form.read(message) {
            Some((STDIN, bytes)) if !bytes.is_empty() => {
                if let Some(to) = &stdin
                    && to.send(bytes).await.is_err()
                {
                    stdin = None;
                }
            }
            Some((RESIZE, bytes)) => {
                for size in sizes.push(&bytes) {
                    if let Some(to) = &resize {
                        let _ = to.try_send(size);
                    }
                }
            }
            Some((CLOSE, channel)) if form.version >= 5 => match channel.first() {
                Some(&STDIN) => stdin = None,
                Some(&RESIZE) => resize = None,
                _ => {}
            },
            _ => {}
        }
    }
}

/// Passes on what the container says, to its end; none if the client is gone.
async fn say<IO: AsyncRead + AsyncWrite + Unpin>(
    replies: &mut Replies<IO>,
    form: Form,
    mut stdout: Option<mpsc::Receiver<Bytes>>,
    mut stderr: Option<mpsc::Receiver<Bytes>>,
) -> Option<()> {
    async fn next(from: &mut Option<mpsc::Receiver<Bytes>>) -> Option<Bytes> {
        match from {
            Some(open) => open.recv().await,
            None => std::future::pending().await,
        }
    }
    while stdout.is_some() || stderr.is_some() {
        let (channel, chunk) = tokio::select! {
            chunk = next(&mut stdout) => (STDOUT, chunk),
            chunk = next(&mut stderr) => (STDERR, chunk),
        };
        match chunk {
            Some(chunk) => replies.send(form.message(channel, &chunk)).await.ok()?,
            None if channel == STDOUT => stdout = None,
            None => stderr = None,
        }
    }
    Some(())
}

/// The bytes inside of a websocket's messages, as a connection of their own.
pub fn tunnel<IO>(messages: WebSocketStream<IO>) -> DuplexStream
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (near, far) = tokio::io::duplex(TUNNEL_BYTES);
    let (mut replies, mut messages) = messages.split();
    let (mut from, mut to) = tokio::io::split(far);
    let inbound = async move {
        while let Some(Ok(message)) = messages.next().await {
            if let Message::Binary(bytes) = message
                && to.write_all(&bytes).await.is_err()
            {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    let outbound = async move {
        let mut chunk = BytesMut::with_capacity(TUNNEL_BYTES);
        while from.read_buf(&mut chunk).await.is_ok_and(|read| read > 0) {
            if replies.send(Message::binary(chunk.split().freeze())).await.is_err() {
                return;
            }
        }
        goodbye(&mut replies).await;
    };
    // Ends when both ends have: the reader of the tunnel drops its half.
    tokio::spawn(async move { tokio::join!(inbound, outbound) });
    near
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_its_channel() {
        let (binary, text) = (Form { version: 4, base64: false }, Form { version: 4, base64: true });
        assert_eq!(binary.message(1, b"hi"), Message::binary(&b"\x01hi"[..]));
        assert_eq!(text.message(1, b"hi"), Message::text("1aGk="));
        for form in [binary, text] {
            assert_eq!(form.read(form.message(3, b"abc")), Some((3, Bytes::from_static(b"abc"))));
        }
        assert_eq!(text.read(Message::text("0***")), None);
        assert_eq!(binary.read(Message::binary(&b""[..])), None);
        assert_eq!(binary.read(Message::Ping(Bytes::new())), None);
    }
}
