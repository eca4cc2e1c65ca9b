//! The listener as clients meet it: handshakes, identities, protocols, shutdown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::Timestamp;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use wharf_apiserver::ApiServer;
use wharf_apiserver::listen::{self, Listener};
use wharf_auth::{Identity, Pki, ServerNames, Shown};

mod support;

/// Nothing here takes this long, on any machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Running {
    pki: Pki,
    front: Pki,
    address: SocketAddr,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    _server: Arc<ApiServer>,
    _directory: tempfile::TempDir,
}

fn now() -> Timestamp {
    // Certificates are judged by rustls against the machine's clock.
    Timestamp::now()
}

async fn start() -> Running {
    let directory = tempfile::tempdir().expect("temporary directory");
    let pki = Pki::open(directory.path(), now()).expect("PKI");
    let names = ServerNames::api_server([127, 96, 0, 1].into(), None, &[]);
    let leaf = pki.api_server(&names, now()).expect("server certificate");
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let front = Pki::open(&directory.path().join("front"), now()).expect("PKI");
    let tls =
        listen::tls_trusting(&[&pki, &front], Shown::new(&leaf).expect("a certificate and its key")).expect("TLS");
    let listener = Listener::new(socket, tls).expect("listener").with_front_proxies(&front).expect("front proxies");
    let (address, cancel) = (listener.address(), CancellationToken::new());
    let server = support::server().await;
    let task = tokio::spawn(listener.run(server.clone(), cancel.clone()));
    Running { pki, front, address, cancel, task, _server: server, _directory: directory }
}

struct Client {
    versions: &'static [&'static SupportedProtocolVersion],
    alpn: &'static [u8],
}

static TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
const CLIENT: Client = Client { versions: rustls::ALL_VERSIONS, alpn: b"h2" };

impl Client {
    /// Connects with a certificate of `signer` for `identity`, or with none.
    async fn connect(
        &self,
        running: &Running,
        identity: Option<(&Pki, &Identity)>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(running.pki.ca_der().expect("CA")).expect("CA");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some((signer, identity)) => {
                let (chain, key) = signer.client(identity, now()).expect("issue").chain().expect("chain");
                builder.with_client_auth_cert(chain, key).expect("client certificate")
            }
        };
        config.alpn_protocols = vec![self.alpn.to_vec()];
        let stream = TcpStream::connect(running.address).await?;
        let name = ServerName::try_from("kubernetes.default.svc").expect("name");
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// The status of a GET, or why there was none.
    async fn get(
        &self,
        running: &Running,
        identity: Option<(&Pki, &Identity)>,
        path: &str,
    ) -> Result<StatusCode, String> {
        let work = async {
            let stream = self.connect(running, identity).await.map_err(|error| error.to_string())?;
            let uri = format!("https://kubernetes.default.svc{path}");
            let request = Request::get(uri).body(Empty::<Bytes>::new()).expect("request");
            let io = TokioIo::new(stream);
            let response = if self.alpn == b"h2" {
                let (mut send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                    .await
                    .map_err(|error| error.to_string())?;
                tokio::spawn(connection);
                send.send_request(request).await
            } else {
                let (mut send, connection) =
                    hyper::client::conn::http1::handshake(io).await.map_err(|error| error.to_string())?;
                tokio::spawn(connection);
                send.send_request(request).await
            };
            let response = response.map_err(|error| error.to_string())?;
            let status = response.status();
            response.into_body().collect().await.map_err(|error| error.to_string())?;
            Ok(status)
        };
        tokio::time::timeout(PATIENCE, work).await.expect("an answer in time")
    }
}

#[tokio::test]
async fn a_client_is_who_its_certificate_says() {
    let running = start().await;
    let admin = Identity::admin();
    for client in [CLIENT, Client { alpn: b"http/1.1", ..CLIENT }, Client { versions: TLS12, ..CLIENT }] {
        assert_eq!(client.get(&running, Some((&running.pki, &admin)), "/api").await, Ok(StatusCode::OK));
        assert_eq!(client.get(&running, None, "/api").await, Ok(StatusCode::FORBIDDEN));
        assert_eq!(client.get(&running, None, "/livez").await, Ok(StatusCode::OK));
    }
    let jane = Identity::new("jane", &[]);
    assert_eq!(CLIENT.get(&running, Some((&running.pki, &jane)), "/metrics").await, Ok(StatusCode::FORBIDDEN));
}

#[tokio::test]
async fn a_front_proxy_is_believed_what_it_says_of_its_user() {
    let running = start().await;
    let ask = async |identity: &Identity, headers: &[(&str, &str)]| {
        let stream = CLIENT.connect(&running, Some((&running.front, identity))).await.expect("connect");
        let (mut send, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
        tokio::spawn(connection);
        let mut request = Request::get("https://kubernetes.default.svc/metrics");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = send.send_request(request.body(Empty::<Bytes>::new()).expect("request"));
        tokio::time::timeout(PATIENCE, answer).await.expect("in time").expect("an answer").status().as_u16()
    };
    let proxy = Identity::new("front-proxy-client", &["system:masters"]);
    let (root, jane) = ([("x-remote-user", "root"), ("x-remote-group", "system:masters")], [("x-remote-user", "jane")]);
    assert_eq!(ask(&proxy, &root).await, 200);
    assert_eq!(ask(&proxy, &jane).await, 403);
    assert_eq!(ask(&proxy, &[]).await, 401, "it is no client itself");
    assert_eq!(ask(&Identity::new("other", &[]), &root).await, 401);
    let admin = Identity::admin();
    let client = CLIENT.get(&running, Some((&running.pki, &admin)), "/metrics").await;
    assert_eq!(client, Ok(StatusCode::OK), "clients are who they were");
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let running = start().await;
    let directory = tempfile::tempdir().expect("temporary directory");
    let other = Pki::open(directory.path(), now()).expect("PKI");
    let refused = CLIENT.get(&running, Some((&other, &Identity::admin())), "/livez").await;
    assert!(refused.is_err(), "{refused:?}");
    // A server's certificate is no client's, whoever has signed it.
    assert_eq!(CLIENT.get(&running, None, "/livez").await, Ok(StatusCode::OK), "the listener lives on");
}

#[tokio::test]
async fn old_protocols_and_plain_http_are_refused() {
    let running = start().await;
    // A ClientHello of TLS 1.1, which no library here speaks any more.
    let random = [7_u8; 32];
    let body = [&[3, 2][..], &random, &[0], &[0, 4, 0xc0, 0x13, 0x00, 0x2f], &[1, 0]].concat();
    let hello = [&[1, 0, 0, body.len() as u8][..], &body].concat();
    let record = [&[0x16, 3, 1, 0, hello.len() as u8][..], &hello].concat();
    let reply = talk(&running, &record).await;
    assert_eq!(reply.get(..6), Some(&[0x15, 3, 3, 0, 2, 2][..]), "a fatal alert and nothing else: {reply:?}");

    let reply = talk(&running, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(reply.starts_with(b"HTTP/1.0 400 Bad Request\r\n"), "{}", String::from_utf8_lossy(&reply));
}

async fn talk(running: &Running, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(running.address).await.expect("connect");
    stream.write_all(bytes).await.expect("write");
    let mut reply = Vec::new();
    // The server may reset the connection after its reply.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut reply)).await.expect("an answer in time");
    reply
}

#[tokio::test]
async fn shutdown_ends_idle_connections_and_the_listener() {
    let running = start().await;
    let admin = Identity::admin();
    let _idle = CLIENT.connect(&running, Some((&running.pki, &admin))).await.expect("connect");
    assert_eq!(CLIENT.get(&running, Some((&running.pki, &admin)), "/api").await, Ok(StatusCode::OK));
    running.cancel.cancel();
    tokio::time::timeout(PATIENCE, running.task).await.expect("the listener ends").expect("and does not panic");
    TcpStream::connect(running.address).await.expect_err("nobody listens any more");
}

/// An HTTP/2 frame without flags but those given.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Says all of this over HTTP/2 and returns the frames of the answer until one of this kind: (kind, payload).
async fn frames_until(running: &Running, bytes: &[u8], last: u8) -> Vec<(u8, Vec<u8>)> {
    let identity = Identity::admin();
    let mut stream = CLIENT.connect(running, Some((&running.pki, &identity))).await.expect("connect");
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("write");
    stream.write_all(&frame(4, 0, 0, &[])).await.expect("write");
    stream.write_all(bytes).await.expect("write");
    stream.flush().await.expect("flush");
    let mut frames = Vec::new();
    let read = async {
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.expect("a frame");
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            stream.read_exact(&mut payload).await.expect("its payload");
            frames.push((head[3], payload));
            if head[3] == last {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("an answer in time");
    frames
}

/// A connection of the administrator's, on which a stream that nobody reads fills soon and the others do not.
async fn many_streams(running: &Running) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
    let stream = CLIENT.connect(running, Some((&running.pki, &Identity::admin()))).await.expect("connect");
    let (send, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(64 << 20)
        .handshake(TokioIo::new(stream))
        .await
        .expect("HTTP/2");
    tokio::spawn(connection);
    send
}

/// The names that a watch tells of, until there are as many as were made.
async fn told(mut watch: Incoming, number: usize) -> Vec<String> {
    let (mut names, mut rest) = (Vec::new(), Vec::new());
    while names.len() < number {
        rest.extend_from_slice(
            &watch.frame().await.expect("the watch goes on").expect("a frame").into_data().expect("data"),
        );
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let event: serde_json::Value = serde_json::from_slice(&rest[..end]).expect("an event");
            names.push(event["object"]["metadata"]["name"].as_str().expect("a name").to_owned());
            rest.drain(..=end);
        }
    }
    names
}

#[tokio::test]
async fn watches_of_one_connection_hear_of_all_in_order_though_one_is_not_read() {
    let running = start().await;
    let uri = "https://kubernetes.default.svc/api/v1/namespaces";
    let (mut watching, mut writing) = (many_streams(&running).await, many_streams(&running).await);
    let mut watches = Vec::new();
    for _ in 0..20 {
        let request = Request::get(format!("{uri}?watch=1&resourceVersion=0&labelSelector=made")).body(Full::default());
        watches.push(watching.send_request(request.expect("request")).await.expect("a watch").into_body());
    }
    let names: Vec<String> = (0..12).map(|number| format!("made-{number}")).collect();
    for name in &names {
        // Together more than the window of a stream.
        let annotations = serde_json::json!({"long": "x".repeat(20_000)});
        let object =
            serde_json::json!({"metadata": {"name": name, "labels": {"made": ""}, "annotations": annotations}});
        let request = Request::post(uri).body(Full::from(object.to_string())).expect("request");
        assert_eq!(writing.send_request(request).await.expect("an answer").status(), StatusCode::CREATED);
    }
    let unread = watches.remove(7);
    let read = futures::future::join_all(watches.into_iter().map(|watch| told(watch, names.len())));
    for heard in tokio::time::timeout(PATIENCE, read).await.expect("in time") {
        assert_eq!(heard, names);
    }
    assert_eq!(tokio::time::timeout(PATIENCE, told(unread, names.len())).await.expect("in time"), names);
}

const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

#[tokio::test]
async fn a_connection_has_as_many_streams_as_upstreams() {
    let running = start().await;
    let frames = frames_until(&running, &[], SETTINGS).await;
    let (_, settings) = frames.last().expect("settings");
    let streams = settings.chunks(6).find(|setting| setting[..2] == [0, 3]).expect("a limit of streams");
    assert_eq!(streams[2..], listen::MAX_STREAMS.to_be_bytes());
    assert_eq!(listen::MAX_STREAMS, 100);
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_at_once_end_the_connection() {
    let running = start().await;
    // GET https /, by the static table; then RST_STREAM with CANCEL.
    let headers = [0x82, 0x87, 0x84, 0x41, 1, b'x'];
    let pair =
        |index: u32| [frame(1, 5, 2 * index + 1, &headers), frame(3, 0, 2 * index + 1, &8_u32.to_be_bytes())].concat();
    let attack: Vec<u8> = (0..2000).flat_map(pair).collect();
    let frames = frames_until(&running, &attack, GOAWAY).await;
    let (_, goodbye) = frames.last().expect("a goodbye");
    assert_eq!(goodbye[4..8], 0xb_u32.to_be_bytes(), "ENHANCE_YOUR_CALM");
    assert_eq!(CLIENT.get(&running, None, "/livez").await, Ok(StatusCode::OK), "others are served");
}

#[tokio::test]
async fn headers_that_are_too_long_are_refused() {
    let running = start().await;
    let identity = Identity::admin();
    let ask = async |length: usize| {
        let client = Client { alpn: b"http/1.1", ..CLIENT };
        let mut stream = client.connect(&running, Some((&running.pki, &identity))).await.expect("connect");
        let request =
            format!("GET /livez HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\nConnection: close\r\n\r\n", "x".repeat(length));
        // The server may answer, and close, before it has read everything.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut head = [0; 12];
        let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut head)).await.expect("an answer in time");
        read.map(|_| String::from_utf8_lossy(&head).into_owned()).unwrap_or_default()
    };
    assert_eq!(ask(1000).await, "HTTP/1.1 200");
    assert_eq!(ask(2 * listen::MAX_HEADER_BYTES).await, "HTTP/1.1 431");
}
