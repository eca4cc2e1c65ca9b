//! Serves an HTTP component: the host listens, each request gets an instance from the pool.
//!
//! HTTP/1.1 and h2c on one port. Invariants: an idle container holds a listener and no instance; the number of connections and
//! of requests on their way is bounded; SIGTERM lets what is on its way finish (exit code 0), a kill does not.
//! Absent on purpose: TLS (ingress terminates it), access logs, limits on a response's length in time.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot;
use http::header::{HOST, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use wasmtime_wasi_http::{Error, WasiBody};

use crate::command::{EXIT_KILLED, End};
use crate::pool::{Job, Pool};

/// Where a component listens whose pod declares no port.
pub const DEFAULT_PORT: u16 = 8080;

/// Connections of a container at a time; the next ones wait in the kernel.
const MAX_CONNECTIONS: usize = 4096;

/// Connections that wait in the kernel.
const BACKLOG: u32 = 1024;

/// How long a request waits for the head of its response, instance and queue included; then it is answered 504.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a client may take to send a request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// The pause after an accept that failed for want of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

type Reply = Response<Either<Guarded, Full<Bytes>>>;

/// Opens the listener. The text of an error is what a Go server would say.
pub fn listen(address: SocketAddr, shown: SocketAddr) -> Result<TcpListener, String> {
    let open = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    open().map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => format!("listen tcp {shown}: bind: address already in use"),
        io::ErrorKind::AddrNotAvailable => format!("listen tcp {shown}: bind: cannot assign requested address"),
        io::ErrorKind::PermissionDenied => format!("listen tcp {shown}: bind: permission denied"),
        _ => format!("listen tcp {shown}: {error}"),
    })
}

/// What ends a container from outside.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    pub terminate: CancellationToken,
    pub kill: CancellationToken,
}

/// Serves until a signal, or until the memory limit, ends the container.
pub async fn serve(listener: TcpListener, pool: Arc<Pool>, signals: Signals) -> End {
    let (connections, graceful) = (TaskTracker::new(), GracefulShutdown::new());
    let early = tokio::select! {
        () = accept(&listener, &pool, &connections, &graceful, &signals.kill) => None,
        () = signals.terminate.cancelled() => None,
        () = signals.kill.cancelled() => Some(killed()),
        () = pool.out_of_memory.cancelled() => Some(pool.out_of_memory_end()),
    };
    // New connections are refused from here on.
    drop(listener);
    connections.close();
    let end = match early {
        Some(end) => end,
        None => tokio::select! {
            () = drain(&connections, graceful) => End::exited(0),
            () = signals.kill.cancelled() => killed(),
            () = pool.out_of_memory.cancelled() => pool.out_of_memory_end(),
        },
    };
    signals.kill.cancel();
    connections.wait().await;
    pool.drained().await;
    end
}

fn killed() -> End {
    End::exited(EXIT_KILLED)
}

async fn drain(connections: &TaskTracker, graceful: GracefulShutdown) {
    graceful.shutdown().await;
    connections.wait().await;
}

async fn accept(
    listener: &TcpListener,
    pool: &Arc<Pool>,
    connections: &TaskTracker,
    graceful: &GracefulShutdown,
    kill: &CancellationToken,
) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        let connection = graceful.watch(connection(stream, pool.clone()));
        let kill = kill.clone();
        connections.spawn(async move {
            if let Some(Err(error)) = kill.run_until_cancelled(connection).await {
                tracing::debug!(error, "connection to a guest");
            }
            drop(permit);
        });
    }
}

fn connection(
    stream: TcpStream,
    pool: Arc<Pool>,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = Box<dyn std::error::Error + Send + Sync>> + Send {
    // Best effort: without it a small response may wait for an acknowledgement.
    let _ = stream.set_nodelay(true);
    let local = stream.local_addr().ok();
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder.http2().timer(TokioTimer::new());
    let service = service_fn(move |request| {
        let pool = pool.clone();
        async move { Ok::<_, Infallible>(handle(&pool, request, local).await) }
    });
    builder.serve_connection(TokioIo::new(stream), service).into_owned()
}

async fn handle(pool: &Arc<Pool>, mut request: Request<Incoming>, local: Option<SocketAddr>) -> Reply {
    name_host(&mut request, local);
    let (reply, response) = oneshot::channel();
    let over = CancellationToken::new();
    // Goes with this future when the client leaves, else with the response's body.
    let guard = over.clone().drop_guard();
    let request = request.map(|body| body.map_err(Error::from).boxed_unsync());
    if pool.submit(Job { request, reply, over }).is_err() {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "too many requests are waiting for this container\n");
    }
    match tokio::time::timeout(REQUEST_TIMEOUT, response).await {
        Ok(Ok(response)) => response.map(|body| Either::Left(Guarded { body, _guard: guard })),
        Ok(Err(oneshot::Canceled)) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "the component failed: see its log\n"),
        Err(_) => refuse(StatusCode::GATEWAY_TIMEOUT, "the component did not answer in time\n"),
    }
}

/// A request of HTTP/1.0 need not name its host, but wasi:http wants an authority: it is the address the client reached.
fn name_host(request: &mut Request<Incoming>, local: Option<SocketAddr>) {
    if request.uri().authority().is_none()
        && !request.headers().contains_key(HOST)
        && let Some(host) = local.and_then(|address| HeaderValue::from_str(&address.to_string()).ok())
    {
        request.headers_mut().insert(HOST, host);
    }
}

fn refuse(status: StatusCode, text: &'static str) -> Reply {
    let mut response = Response::new(Either::Right(Full::new(Bytes::from_static(text.as_bytes()))));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A response's body; tells the instance when it is through.
struct Guarded {
    body: WasiBody,
    _guard: DropGuard,
}

impl Body for Guarded {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
