//! Connections to a pod's ports: a pair of SPDY streams for each, or a pair of channels for each port that was asked for.
//!
//! Source: `k8s.io/kubelet/pkg/cri/streaming/portforward/{httpstream,websocket}.go`.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use wharf_cri::streams::CHUNKS_MAX;
use wharf_cri::{Connection, Error, Runtime, SandboxState};

use super::spdy::{self, Stream, Writer};
use super::status::words;
use super::upgrade::{self, Opening, Protocol};
use super::websocket::{self, Form};

/// Bytes that are read from a pod at once.
const CHUNK_BYTES: usize = 32 * 1024;
/// Ports of one websocket: a channel's number is a byte, and each has two.
const PORTS_MAX: usize = 100;
/// Pairs of streams of which one half has come.
const HALVES_MAX: usize = 100;

/// The pod that is forwarded to.
#[derive(Clone)]
pub struct Target {
    pub runtime: Arc<dyn Runtime>,
    pub pod: String,
    pub uid: String,
}

impl Target {
    /// Errors are in upstream's words.
    async fn dial(&self, port: u16) -> Result<Box<dyn Connection>, String> {
        let dialled = async {
            let sandboxes = self.runtime.sandboxes().await?;
            let own = sandboxes.into_iter().filter(|sandbox| sandbox.config.uid == self.uid);
            let ready = own.filter(|sandbox| sandbox.state == SandboxState::Ready).max_by_key(|it| it.config.attempt);
            let id = ready.ok_or_else(|| Error::NotFound(format!("sandbox of pod {}", self.uid)))?.id;
            self.runtime.port_forward(&id, port).await
        };
        dialled.await.map_err(|error| {
            let (pod, uid, why) = (&self.pod, &self.uid, words(&error));
            format!(
                "error forwarding port {port} to pod {pod}, uid {uid}: failed to connect to localhost:{port}: {why}"
            )
        })
    }
}

/// The ports of a websocket's query.
pub fn ports(asked: &[String]) -> Result<Vec<u16>, String> {
    if asked.is_empty() {
        return Err("query parameter \"port\" is required".to_owned());
    }
    if asked.len() > PORTS_MAX {
        return Err(format!("more than {PORTS_MAX} ports"));
    }
    asked.iter().map(|text| port(text)).collect()
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(0) => Err(format!("port {text:?} must be > 0")),
        Ok(port) => Ok(port),
        Err(_) => Err(format!("unable to parse {text:?} as a port")),
    }
}

pub async fn serve(opening: Opening, target: Target, ports: Vec<u16>) {
    let protocol = opening.protocol;
    let Some(connection) = opening.connect().await else { return };
    match protocol {
        Protocol::Spdy { .. } => pairs(spdy::Connection::serve(connection), target).await,
        Protocol::Tunnel => {
            let tunnel = websocket::tunnel(upgrade::messages(connection).await);
            pairs(spdy::Connection::serve(tunnel), target).await;
        }
        Protocol::Channels { version, base64 } => {
            let messages = upgrade::messages(connection).await;
            channels(messages, Form { version, base64 }, target, ports).await;
        }
    }
}

/// One half of a pair, until the other comes.
enum Half {
    Data(Stream, Writer),
    Error(Writer),
}

/// A forwarded connection is a stream of data and one for what goes wrong, of the same request ID.
async fn pairs(mut connection: spdy::Connection, target: Target) {
    let (mut halves, mut tasks) = (HashMap::<String, Half>::new(), JoinSet::new());
    while let Some(stream) = connection.next().await {
        while tasks.try_join_next().is_some() {}
        let kind = stream.header("streamtype").to_owned();
        if port(stream.header("port")).is_err()
            || !matches!(kind.as_str(), "data" | "error")
            || halves.len() > HALVES_MAX
        {
            stream.refuse().await;
            continue;
        }
        // Clients from before request IDs open the two one after the other.
        let id = match stream.header("requestid") {
            "" => stream.header("port").to_owned(),
            id => id.to_owned(),
        };
        let writer = stream.accept().await;
        let half = if kind == "data" { Half::Data(stream, writer) } else { Half::Error(writer) };
        match (half, halves.remove(&id)) {
            (Half::Data(data, writer), Some(Half::Error(errors)))
            | (Half::Error(errors), Some(Half::Data(data, writer))) => {
                tasks.spawn(forward(target.clone(), data, writer, errors));
            }
            (half, _) => drop(halves.insert(id, half)),
        }
    }
}

async fn forward(target: Target, data: Stream, writer: Writer, errors: Writer) {
    let number = port(data.header("port")).unwrap_or_default();
    match target.dial(number).await {
        Err(why) => drop(errors.send(why.into()).await),
        Ok(connection) => {
            let (read, write) = tokio::io::split(connection);
            let hear = async {
                inbound(data.from, write).await;
                std::future::pending().await
            };
            // What the pod says last ends it: the client closes its side only when it has seen the end of ours.
            tokio::select! {
                () = outbound(read, &writer) => {}
                () = hear => {}
            }
        }
    }
    errors.close().await;
    writer.close().await;
}

/// What the client says, then its end.
async fn inbound(mut from: mpsc::Receiver<Bytes>, mut to: WriteHalf<Box<dyn Connection>>) {
    while let Some(chunk) = from.recv().await {
        if to.write_all(&chunk).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

async fn outbound(mut from: ReadHalf<Box<dyn Connection>>, to: &Writer) {
    let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
    while from.read_buf(&mut chunk).await.is_ok_and(|read| read > 0) {
        if !to.send(chunk.split().freeze()).await {
            return;
        }
        chunk.reserve(CHUNK_BYTES);
    }
}

/// Channel `2i` is the data of the i-th port, `2i + 1` what goes wrong with it; both begin with the port's number.
async fn channels(
    messages: tokio_tungstenite::WebSocketStream<upgrade::Connection>,
    form: Form,
    target: Target,
    ports: Vec<u16>,
) {
    let (mut replies, mut messages) = messages.split();
    let (out, mut queued) = mpsc::channel::<(u8, Bytes)>(CHUNKS_MAX);
    let (mut tasks, mut inputs) = (JoinSet::new(), Vec::new());
    for (index, port) in ports.into_iter().enumerate() {
        let data = index as u8 * 2;
        for channel in [data, data + 1] {
            let mut number = BytesMut::new();
            number.put_u16_le(port);
            if replies.send(form.message(channel, &number)).await.is_err() {
                return;
            }
        }
        let (to, from) = mpsc::channel(CHUNKS_MAX);
        inputs.push(to);
        tasks.spawn(channel(target.clone(), port, data, from, out.clone()));
    }
    drop(out);
    let hear = async {
        while let Some(Ok(message)) = messages.next().await {
            if let Some((channel, bytes)) = form.read(message)
                && channel % 2 == 0
                && let Some(to) = inputs.get(usize::from(channel / 2))
            {
                let _ = to.send(bytes).await;
            }
        }
    };
    let say = async {
        while let Some((channel, bytes)) = queued.recv().await {
            if replies.send(form.message(channel, &bytes)).await.is_err() {
                return;
            }
        }
        websocket::goodbye(&mut replies).await;
    };
    tokio::select! {
        () = hear => {}
        () = say => {}
    }
}

async fn channel(target: Target, port: u16, data: u8, from: mpsc::Receiver<Bytes>, out: mpsc::Sender<(u8, Bytes)>) {
    let (mut read, write) = match target.dial(port).await {
        Ok(connection) => tokio::io::split(connection),
        Err(why) => return drop(out.send((data + 1, why.into())).await),
    };
    let outbound = async {
        let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
        while read.read_buf(&mut chunk).await.is_ok_and(|read| read > 0) {
            if out.send((data, chunk.split().freeze())).await.is_err() {
                return;
            }
        }
    };
    // What the pod says last ends it: a websocket's channel cannot be closed by the client.
    tokio::select! {
        () = outbound => {}
        () = async { inbound(from, write).await; std::future::pending().await } => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::spdy::client::{Client, Seen};
    use super::*;
    use wharf_cri::SandboxConfig;
    use wharf_cri::fake::{CLOSED_PORT, Fake, Options};

    #[test]
    fn ports_are_read_in_upstreams_words() {
        let check = |asked: &[&str], expected: Result<&[u16], &str>| {
            let asked: Vec<String> = asked.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(ports(&asked).as_deref().map_err(String::as_str), expected);
        };
        check(&["80", "443"], Ok(&[80, 443]));
        check(&[], Err("query parameter \"port\" is required"));
        check(&["0"], Err("port \"0\" must be > 0"));
        check(&["http"], Err("unable to parse \"http\" as a port"));
        check(&["65536"], Err("unable to parse \"65536\" as a port"));
    }

    async fn target() -> Target {
        let fake = Fake::new(Options::new(|| jiff::Timestamp::UNIX_EPOCH));
        let config = SandboxConfig { uid: "u".into(), ..SandboxConfig::default() };
        fake.run_sandbox(config).await.unwrap();
        Target { runtime: Arc::new(fake), pod: "web".into(), uid: "u".into() }
    }

    #[tokio::test]
    async fn a_pair_of_streams_is_a_connection() {
        let (near, far) = tokio::io::duplex(1024);
        let serving = tokio::spawn(pairs(spdy::Connection::serve(near), target().await));
        let mut client = Client::new(far);
        let errors = client.open(&[("streamtype", "error"), ("port", "80"), ("requestid", "0")]).await;
        assert_eq!(client.next().await, Some(Seen::Taken(errors)));
        let data = client.open(&[("streamtype", "data"), ("port", "80"), ("requestid", "0")]).await;
        assert_eq!(client.next().await, Some(Seen::Taken(data)));
        client.data(data, "hello", true).await;
        assert_eq!(client.next().await, Some(Seen::Data(data, "hello".into())));
        assert_eq!(client.next().await, Some(Seen::Closed(errors)));
        assert_eq!(client.next().await, Some(Seen::Closed(data)));
        let bad = client.open(&[("streamtype", "data"), ("port", "x")]).await;
        assert_eq!(client.next().await, Some(Seen::Refused(bad)));
        drop(client);
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn a_refused_connection_is_told_on_the_error_stream() {
        let (near, far) = tokio::io::duplex(1024);
        let _serving = tokio::spawn(pairs(spdy::Connection::serve(near), target().await));
        let mut client = Client::new(far);
        let port = CLOSED_PORT.to_string();
        let data = client.open(&[("streamtype", "data"), ("port", &port), ("requestid", "0")]).await;
        let errors = client.open(&[("streamtype", "error"), ("port", &port), ("requestid", "0")]).await;
        assert_eq!(client.next().await, Some(Seen::Taken(data)));
        assert_eq!(client.next().await, Some(Seen::Taken(errors)));
        let Some(Seen::Data(on, why)) = client.next().await else { panic!("an error is told") };
        assert_eq!(on, errors);
        assert!(
            why.starts_with("error forwarding port 1 to pod web, uid u: ") && why.ends_with("connection refused"),
            "{why}"
        );
    }
}
