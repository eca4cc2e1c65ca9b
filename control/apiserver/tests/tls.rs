//! The listener as clients meet it: handshakes, identities, protocols, shutdown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
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
use wharf_auth::{Identity, Pki, ServerNames};

mod support;

/// Nothing here takes this long, on any machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Running {
    pki: Pki,
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
    let listener = Listener::new(socket, listen::tls(&pki, &leaf).expect("TLS")).expect("listener");
    let (address, cancel) = (listener.address(), CancellationToken::new());
    let server = support::server().await;
    let task = tokio::spawn(listener.run(server.clone(), cancel.clone()));
    Running { pki, address, cancel, task, _server: server, _directory: directory }
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
        assert_eq!(client.get(&running, None, "/api").await, Ok(StatusCode::UNAUTHORIZED));
        assert_eq!(client.get(&running, None, "/livez").await, Ok(StatusCode::OK));
    }
    let jane = Identity::new("jane", &[]);
    assert_eq!(CLIENT.get(&running, Some((&running.pki, &jane)), "/metrics").await, Ok(StatusCode::FORBIDDEN));
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
