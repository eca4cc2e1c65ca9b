//! The TLS listener: connections in, requests with a verified identity out.
//!
//! One task for each connection, HTTP/1.1 (with upgrades) or HTTP/2 by ALPN; [`turns`] says how the latter's streams share it. A client certificate is optional and, when there is
//! one, must chain to the cluster's authority or the handshake fails; its chain goes along with each request as
//! [`PeerCertificates`]. Strong suites of TLS 1.2 and 1.3 only (rustls has no others).
//! Invariants: every connection has an owner ([`Listener::run`]), every wait a deadline, every buffer a limit named below.
//! Absent on purpose: plain HTTP (a client that speaks it is told so), rate limits by address.

mod cork;
mod turns;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use wharf_auth::{FrontProxyCertificates, Leaf, PeerCertificates, Pki, Shown, pki};

use self::cork::Cork;
use self::turns::{Streams, Turns, apart};
use crate::reply::{Body, BoxError};
use crate::server::ApiServer;

/// Connections at a time. Those beyond wait in the kernel's backlog until one ends.
pub const MAX_CONNECTIONS: usize = 12_000;
/// From connect to the end of the TLS handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Upstream's `ReadHeaderTimeout`.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(32);
/// HTTP/2 requests at a time on one connection, watches among them: what upstream's server has where no flag says otherwise.
/// Clients open another connection for more.
pub const MAX_STREAMS: u32 = 100;
/// All headers of one request together.
pub const MAX_HEADER_BYTES: usize = 64 << 10;
pub const MAX_HEADERS: usize = 200;
/// What a client may send ahead on one stream and on one connection before a handler reads it.
pub const STREAM_WINDOW_BYTES: u32 = 256 << 10;
pub const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// What a handler may write ahead of a slow client on one stream.
pub const SEND_BUFFER_BYTES: usize = 128 << 10;
/// Streams that a peer may open and reset before they are accepted (the "rapid reset" attack), and those that we reset.
pub const MAX_PENDING_RESETS: usize = 20;
pub const MAX_LOCAL_RESETS: usize = 1024;
/// A silent HTTP/2 connection is asked whether it lives, and closed when it does not answer.
pub const PING_INTERVAL: Duration = Duration::from_secs(30);
pub const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// How long requests that are under way at shutdown may take.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed accept, which is most often a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const TLS_HANDSHAKE_RECORD: u8 = 0x16;
const ALPN_HTTP2: &[u8] = b"h2";
const PLAIN_HTTP_REPLY: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("set up TLS")]
    Tls(#[from] rustls::Error),
    #[error("trust the cluster's authority")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    #[error("read the server's certificate")]
    Certificate(#[from] pki::Error),
    #[error("read the listener's address")]
    Address(#[source] std::io::Error),
}

/// Where a request comes from; a request extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteAddress(pub SocketAddr);

/// TLS as the API server speaks it, with `leaf` as its certificate.
pub fn tls(pki: &Pki, leaf: &Leaf) -> Result<Arc<ServerConfig>, Error> {
    tls_trusting(&[pki], Shown::new(leaf)?)
}

/// The same, for clients of several authorities, with a certificate that may be exchanged.
pub fn tls_trusting(authorities: &[&Pki], shown: Arc<Shown>) -> Result<Arc<ServerConfig>, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.ca_der()?)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(shown);
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A bound socket and how to speak on it.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    tls: TlsAcceptor,
    /// Tells front proxies from other clients.
    front_proxies: Option<Arc<dyn ClientCertVerifier>>,
    permits: Arc<Semaphore>,
}

impl Listener {
    /// Takes a socket that is bound already, so that its owner chooses the address and knows the port.
    pub fn new(socket: TcpListener, tls: Arc<ServerConfig>) -> Result<Self, Error> {
        let address = socket.local_addr().map_err(Error::Address)?;
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        Ok(Self { socket, address, tls: tls.into(), front_proxies: None, permits })
    }

    /// Whoever shows a certificate of this authority is a front proxy, and no client. TLS must let it in.
    pub fn with_front_proxies(mut self, authority: &Pki) -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(authority.ca_der()?)?;
        self.front_proxies = Some(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?);
        Ok(self)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `cancel`; then takes no new connections, lets requests under way end, and after [`DRAIN_TIMEOUT`] ends them.
    pub async fn run(self, server: Arc<ApiServer>, cancel: CancellationToken) {
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                Some(_) = connections.join_next() => {}
                (stream, peer, permit) = self.accept() => {
                    let (server, front_proxies) = (server.clone(), self.front_proxies.clone());
                    let connection = Connection { server, peer, front_proxies, permit };
                    connections.spawn(connection.serve(self.tls.clone(), stream, graceful.watcher()));
                }
            }
        }
        drop(self.socket);
        if tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
            tracing::debug!(connections = connections.len(), "ending connections that are still busy");
        }
        connections.shutdown().await;
    }

    async fn accept(&self) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
        if self.permits.available_permits() == 0 {
            tracing::warn!(limit = MAX_CONNECTIONS, "the limit of connections is met; new ones wait");
        }
        // The semaphore is never closed.
        let permit = self.permits.clone().acquire_owned().await.expect("the semaphore is open");
        loop {
            match self.socket.accept().await {
                Ok((stream, peer)) => return (stream, peer, permit),
                Err(error) => {
                    tracing::warn!(%error, "accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

type TlsStream = tokio_rustls::server::TlsStream<TcpStream>;

struct Connection {
    server: Arc<ApiServer>,
    peer: SocketAddr,
    front_proxies: Option<Arc<dyn ClientCertVerifier>>,
    /// Held for as long as the connection lives.
    permit: OwnedSemaphorePermit,
}

impl Connection {
    async fn serve(self, tls: TlsAcceptor, stream: TcpStream, watcher: Watcher) {
        let Self { server, peer, front_proxies, permit } = self;
        let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(tls, stream)).await {
            Ok(Ok(Some(stream))) => stream,
            Ok(Ok(None)) => return,
            Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake"),
            Err(_) => return tracing::debug!(%peer, "TLS handshake took too long"),
        };
        let chain = stream.get_ref().1.peer_certificates().and_then(|chain| Peer::of(chain, front_proxies.as_deref()));
        let handle = move |request: Request<Incoming>| {
            let (server, chain) = (server.clone(), chain.clone());
            async move { server.handle(annotate(request, peer, chain)).await }
        };
        let ended = match stream.get_ref().1.alpn_protocol() {
            Some(ALPN_HTTP2) => serve_http2(stream, handle, watcher).await.map_err(Ended::Http2),
            _ => serve_http1(stream, handle, watcher).await.map_err(Ended::Http1),
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, error = &error as &dyn std::error::Error, "connection ended");
        }
        drop(permit);
    }
}

#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("speak HTTP/1.1")]
    Http1(#[source] BoxError),
    #[error(transparent)]
    Http2(turns::Error),
}

async fn serve_http1<F>(
    stream: TlsStream,
    handle: impl Fn(Request<Incoming>) -> F,
    watcher: Watcher,
) -> Result<(), BoxError>
where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let service = service_fn(|request| {
        let answer = handle(request);
        async move { Ok::<Response<Body>, Infallible>(answer.await) }
    });
    let builder = http1_builder();
    watcher.watch(builder.serve_connection_with_upgrades(TokioIo::new(stream), service)).await
}

async fn serve_http2<F>(
    stream: TlsStream,
    handle: impl Fn(Request<Incoming>) -> F,
    watcher: Watcher,
) -> Result<(), turns::Error>
where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let (cork, streams) = (Cork::new(stream), Streams::default());
    let service = service_fn(|request| apart(handle(request)));
    let connection = http2_builder(streams.clone()).serve_connection(TokioIo::new(cork.clone()), service);
    Turns::new(watcher.watch(connection), cork, streams).await
}

/// None when the client does not speak TLS; it has been told so.
async fn handshake(tls: TlsAcceptor, mut stream: TcpStream) -> std::io::Result<Option<TlsStream>> {
    stream.set_nodelay(true)?;
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Ok(None);
    }
    if first[0].is_ascii_uppercase() && first[0] != TLS_HANDSHAKE_RECORD {
        stream.write_all(PLAIN_HTTP_REPLY).await?;
        stream.shutdown().await?;
        return Ok(None);
    }
    tls.accept(stream).await.map(Some)
}

/// A verified chain, by who it makes the peer.
#[derive(Clone)]
enum Peer {
    Client(PeerCertificates),
    FrontProxy(FrontProxyCertificates),
}

impl Peer {
    /// None where the peer has shown none.
    fn of(chain: &[CertificateDer<'static>], front_proxies: Option<&dyn ClientCertVerifier>) -> Option<Self> {
        let (leaf, rest) = chain.split_first()?;
        let is_front_proxy =
            |verifier: &dyn ClientCertVerifier| verifier.verify_client_cert(leaf, rest, UnixTime::now()).is_ok();
        Some(match front_proxies.is_some_and(is_front_proxy) {
            true => Peer::FrontProxy(FrontProxyCertificates(chain.to_vec().into())),
            false => Peer::Client(PeerCertificates::new(leaf.clone())),
        })
    }
}

fn annotate(request: Request<Incoming>, peer: SocketAddr, chain: Option<Peer>) -> Request<Body> {
    let mut request = request.map(|body| body.map_err(Into::into).boxed_unsync());
    request.extensions_mut().insert(RemoteAddress(peer));
    match chain {
        Some(Peer::Client(chain)) => drop(request.extensions_mut().insert(chain)),
        Some(Peer::FrontProxy(chain)) => drop(request.extensions_mut().insert(chain)),
        None => {}
    }
    request
}

fn http1_builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADERS);
    builder
}

fn http2_builder(streams: Streams) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES as u32)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_LOCAL_RESETS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}
