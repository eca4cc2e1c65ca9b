//! Outgoing HTTP requests of guests (`wasi:http` 0.2 and 0.3).
//!
//! Names are looked up and services resolved as the pod's sockets do it, when a connection is made; connections are kept alive
//! and shared by the containers of a pod. TLS trusts the host's CA certificates.
//! Absent on purpose: proxies from the environment, retries, redirects (a guest's HTTP library does them).

use std::error::Error as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Sleep;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};
use wharf_net::Transport;

use crate::pod::Pod;

/// Connections kept open to one authority while nobody uses them, and for how long.
const MAX_IDLE_PER_HOST: usize = 8;
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// What a guest's request waits for when the guest does not say: a connection, the response's head, each part of its body.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(600);
const BETWEEN_BYTES_TIMEOUT: Duration = Duration::from_secs(600);

/// Trust in the host's CA certificates, read once. None if there are none: then https fails and says so.
static TLS: LazyLock<Option<rustls::ClientConfig>> = LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()?;
    let config =
        config.with_native_roots().inspect_err(|error| tracing::warn!(%error, "no CA certificates for guests"));
    Some(config.ok()?.with_no_client_auth())
});

#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("the pod is gone")]
    Gone,
    #[error("look up {0}")]
    Lookup(String, #[source] wharf_net::Error),
    #[error("route")]
    Route(#[source] wharf_net::Error),
    #[error("connect")]
    Connect(#[source] std::io::Error),
    #[error("connection timed out")]
    Timeout,
}

/// The hooks of one instance.
pub struct Outgoing {
    pod: Arc<Pod>,
}

impl Outgoing {
    pub fn new(pod: Arc<Pod>) -> Outgoing {
        Outgoing { pod }
    }
}

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Io,
    ) -> Box<dyn Future<Output = Result<(Response<WasiBody>, Io), Error>> + Send> {
        let client = self.pod.client().clone();
        Box::new(async move {
            let response = client.send(request, options.unwrap_or_default()).await?;
            // The connection is driven by a task of the client's own.
            Ok((response, Box::new(async { Ok(()) }) as Io))
        })
    }
}

/// A pod's HTTP client. Clones share the connections.
#[derive(Clone)]
pub struct Client {
    plain: legacy::Client<Connector, WasiBody>,
    tls: Option<legacy::Client<HttpsConnector<Connector>, WasiBody>>,
}

impl Client {
    pub fn new(pod: Weak<Pod>) -> Client {
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder.pool_max_idle_per_host(MAX_IDLE_PER_HOST).pool_idle_timeout(IDLE_TIMEOUT).pool_timer(TokioTimer::new());
        let connector = Connector(pod);
        let tls = TLS.clone().map(|config| {
            let https = HttpsConnectorBuilder::new().with_tls_config(config).https_only().enable_http1().enable_http2();
            builder.build(https.wrap_connector(connector.clone()))
        });
        Client { plain: builder.build(connector), tls }
    }

    async fn send(&self, mut request: Request<WasiBody>, options: RequestOptions) -> Result<Response<WasiBody>, Error> {
        if request.uri().authority().is_none() {
            return Err(Error::HttpRequestUriInvalid);
        }
        // The client writes its own Host header from the URI and would refuse neither; one is enough.
        request.headers_mut().remove(http::header::HOST);
        let connect = options.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
        let first_byte = options.first_byte_timeout.unwrap_or(FIRST_BYTE_TIMEOUT);
        let sending = if request.uri().scheme() == Some(&Scheme::HTTPS) {
            let tls = self.tls.as_ref();
            tls.ok_or_else(|| Error::InternalError(Some("this host has no CA certificates".into())))?.request(request)
        } else {
            self.plain.request(request)
        };
        let sent = tokio::time::timeout(connect.saturating_add(first_byte), sending).await;
        let response = sent.map_err(|_| Error::ConnectionReadTimeout)?.map_err(|error| cause(&error))?;
        let between = options.between_bytes_timeout.unwrap_or(BETWEEN_BYTES_TIMEOUT);
        Ok(response.map(|body| Paced::new(body, between).boxed_unsync()))
    }
}

/// Tells a guest what went wrong, in wasi:http's words.
fn cause(error: &legacy::Error) -> Error {
    let mut source = error.source();
    while let Some(inner) = source {
        match inner.downcast_ref::<ConnectError>() {
            Some(ConnectError::Lookup(..)) => {
                return Error::DnsError { rcode: Some("NXDOMAIN".into()), info_code: None };
            }
            Some(ConnectError::Route(wharf_net::Error::Denied(_))) => return Error::DestinationIpProhibited,
            Some(ConnectError::Route(_)) => return Error::ConnectionRefused,
            Some(ConnectError::Timeout) => return Error::ConnectionTimeout,
            Some(ConnectError::Connect(io)) => return Error::Connect(std::io::Error::new(io.kind(), io.to_string())),
            Some(ConnectError::Gone) => return Error::DestinationUnavailable,
            None => {}
        }
        if inner.downcast_ref::<rustls::Error>().is_some() {
            return Error::TlsProtocolError;
        }
        source = inner.source();
    }
    if error.is_connect() {
        return Error::ConnectionRefused;
    }
    tracing::debug!(%error, source = ?error.source(), "a guest's request failed");
    Error::HttpProtocolError
}

/// Makes connections through the pod's network.
#[derive(Clone)]
struct Connector(Weak<Pod>);

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let pod = self.0.upgrade();
        Box::pin(async move {
            let pod = pod.ok_or(ConnectError::Gone)?;
            let connect = tokio::time::timeout(CONNECT_TIMEOUT, connect(&pod, &uri)).await;
            connect.map_err(|_| ConnectError::Timeout)?.map(|stream| Stream(TokioIo::new(stream)))
        })
    }
}

async fn connect(pod: &Pod, uri: &Uri) -> Result<TcpStream, ConnectError> {
    let host = uri.host().unwrap_or_default();
    let port = uri.port_u16().unwrap_or(if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 });
    let addresses = pod.lookup(host).await.map_err(|error| ConnectError::Lookup(host.to_owned(), error))?;
    let mut last = ConnectError::Lookup(host.to_owned(), wharf_net::Error::NoSuchName(host.to_owned()));
    for ip in addresses {
        match dial(pod, (ip, port).into()).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn dial(pod: &Pod, address: std::net::SocketAddr) -> Result<TcpStream, ConnectError> {
    let real = pod.connect(Transport::Tcp, address).map_err(ConnectError::Route)?;
    let open = || {
        let socket = if real.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = pod.source(real) {
            socket.set_reuseaddr(true)?;
            socket.bind(source)?;
        }
        Ok(socket)
    };
    let stream = open().map_err(ConnectError::Connect)?.connect(real).await.map_err(ConnectError::Connect)?;
    // A request is written whole; waiting to fill a segment only delays it.
    stream.set_nodelay(true).map_err(ConnectError::Connect)?;
    Ok(stream)
}

/// A connection as hyper's client wants it.
struct Stream(TokioIo<TcpStream>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A response body that fails when its sender falls silent.
struct Paced {
    body: Incoming,
    limit: Duration,
    silence: Option<Pin<Box<Sleep>>>,
}

impl Paced {
    fn new(body: Incoming, limit: Duration) -> Paced {
        Paced { body, limit, silence: None }
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.silence = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Error::from)));
        }
        let silence = this.silence.get_or_insert_with(|| Box::pin(tokio::time::sleep(this.limit)));
        silence.as_mut().poll(cx).map(|()| Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
