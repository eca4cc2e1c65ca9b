//! The kubelet's HTTPS server (:10250): logs, exec, attach, port-forward, pods, stats, metrics.
//!
//! Only clients of the cluster's authority get in, and of those only the API server and administrators
//! (`system:apiserver`, `system:masters`). Paths and replies are the kubelet's, so any API server can use them.
//! Absent on purpose: anonymous health checks.

mod streaming;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use jiff::{SignedDuration, Timestamp};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::context::Context;
use crate::logs::{self, tail::Tail};
use crate::names;
use crate::options::{ServerOptions, ServerTls};
use crate::pods::Pods;
use crate::stats::{Detail, Machine, Stats};
use crate::worker::Snapshot;
use streaming::Sessions;

const MAX_CONNECTIONS: usize = 4096;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Blocks of a log that wait for a slow client.
const LOG_CHUNKS: usize = 8;
const METRICS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const ALLOWED_USER: &str = "system:apiserver";
const ALLOWED_GROUP: &str = "system:masters";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("use the certificate")]
    Certificate(#[source] rustls::Error),
    #[error("use the client authority")]
    ClientCa(#[source] rustls::server::VerifierBuilderError),
    #[error("watch log files")]
    Tail(#[source] std::io::Error),
}

struct Inner {
    ctx: Arc<Context>,
    pods: Pods,
    stats: Stats,
    tail: Tail,
    sessions: Sessions,
}

pub struct Server {
    inner: Arc<Inner>,
    listener: TcpListener,
    tls: TlsAcceptor,
}

impl Server {
    pub fn new(ctx: Arc<Context>, pods: Pods, node: String, options: ServerOptions) -> Result<Self, Error> {
        let tail = Tail::start().map_err(Error::Tail)?;
        let tls = TlsAcceptor::from(Arc::new(tls_config(options.tls)?));
        let stats = Stats::new(ctx.clone(), pods.clone(), node, Machine::new("/proc".into()));
        Ok(Self {
            inner: Arc::new(Inner { ctx, pods, stats, tail, sessions: Sessions::default() }),
            listener: options.listener,
            tls,
        })
    }

    /// Until `cancel`; open connections are then cut.
    pub async fn run(self, cancel: CancellationToken) {
        let sessions = self.inner.sessions.clone();
        let router = router(self.inner);
        let (slots, tasks) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), TaskTracker::new());
        loop {
            let accepted = tokio::select! {
                () = cancel.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accept");
                    // Out of descriptors: let some connections end.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
            let (tls, router, cancel) = (self.tls.clone(), router.clone(), cancel.clone());
            tasks.spawn(async move {
                let _slot = slot;
                cancel.run_until_cancelled(serve(stream, tls, router)).await;
            });
        }
        tasks.close();
        tasks.wait().await;
        sessions.stop().await;
    }
}

fn tls_config(tls: ServerTls) -> Result<rustls::ServerConfig, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in tls.client_ca {
        roots.add(certificate).map_err(Error::Certificate)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(Error::ClientCa)?;
    let builder = rustls::ServerConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(Error::Certificate)?;
    let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(tls.shown);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

async fn serve(stream: TcpStream, tls: TlsAcceptor, router: Router) {
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await else { return };
    let allowed = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).is_some_and(allowed);
    let router = if allowed { router } else { Router::new().fallback(refuse) };
    let connection = auto::Builder::new(TokioExecutor::new());
    if let Err(error) =
        connection.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(router)).await
    {
        tracing::debug!(error, "serve connection");
    }
}

async fn refuse() -> Response {
    (StatusCode::FORBIDDEN, "Forbidden").into_response()
}

/// The certificate's CN is the user, its O the groups.
fn allowed(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
    let subject = parsed.subject();
    let user = subject.iter_common_name().filter_map(|name| name.as_str().ok()).any(|name| name == ALLOWED_USER);
    user || subject.iter_organization().filter_map(|name| name.as_str().ok()).any(|group| group == ALLOWED_GROUP)
}

fn router(inner: Arc<Inner>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(container_logs))
        .route("/exec/{namespace}/{pod}/{container}", any(exec))
        .route("/exec/{namespace}/{pod}/{uid}/{container}", any(exec_in))
        .route("/attach/{namespace}/{pod}/{container}", any(attach))
        .route("/attach/{namespace}/{pod}/{uid}/{container}", any(attach_in))
        .route("/portForward/{namespace}/{pod}", any(port_forward))
        .route("/portForward/{namespace}/{pod}/{uid}", any(port_forward_in))
        .route("/pods", get(list_pods))
        .route("/stats/summary", get(stats_summary))
        .route("/metrics", get(metrics))
        .route("/metrics/resource", get(resource_metrics))
        .with_state(inner)
}

/// Namespace, pod, container.
type Place = (String, String, String);
/// Namespace, pod, UID, container.
type ExactPlace = (String, String, String, String);

async fn exec(State(inner): State<Arc<Inner>>, Path(place): Path<Place>, request: Request) -> Response {
    streaming::remote(inner, place, true, request).await
}

async fn exec_in(State(inner): State<Arc<Inner>>, Path(place): Path<ExactPlace>, request: Request) -> Response {
    let (namespace, pod, _, container) = place;
    streaming::remote(inner, (namespace, pod, container), true, request).await
}

async fn attach(State(inner): State<Arc<Inner>>, Path(place): Path<Place>, request: Request) -> Response {
    streaming::remote(inner, place, false, request).await
}

async fn attach_in(State(inner): State<Arc<Inner>>, Path(place): Path<ExactPlace>, request: Request) -> Response {
    let (namespace, pod, _, container) = place;
    streaming::remote(inner, (namespace, pod, container), false, request).await
}

async fn port_forward(
    State(inner): State<Arc<Inner>>,
    Path(place): Path<(String, String)>,
    request: Request,
) -> Response {
    streaming::port_forward(inner, place, request).await
}

async fn port_forward_in(State(inner): State<Arc<Inner>>, Path(place): Path<Place>, request: Request) -> Response {
    let (namespace, pod, _) = place;
    streaming::port_forward(inner, (namespace, pod), request).await
}

/// `PodLogOptions`, as the API server passes them on.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LogQuery {
    follow: bool,
    previous: bool,
    timestamps: bool,
    tail_lines: Option<i64>,
    since_seconds: Option<i64>,
    since_time: Option<Timestamp>,
    limit_bytes: Option<i64>,
    stream: Option<String>,
}

impl LogQuery {
    fn options(&self, now: Timestamp) -> Result<logs::Options, &'static str> {
        let whole =
            |value: Option<i64>, message| value.map(|value| u64::try_from(value).map_err(|_| message)).transpose();
        if self.since_seconds.is_some() && self.since_time.is_some() {
            return Err("at most one of `sinceTime` or `sinceSeconds` may be specified");
        }
        let since_seconds = self.since_seconds.map(|seconds| match seconds {
            1.. => Ok(now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN)),
            _ => Err("sinceSeconds must be greater than 0"),
        });
        let limit_bytes = whole(self.limit_bytes, "limitBytes must be greater than 0")?;
        if limit_bytes == Some(0) {
            return Err("limitBytes must be greater than 0");
        }
        let stream = match self.stream.as_deref() {
            None | Some("" | "All") => None,
            Some("Stdout") => Some("stdout".to_owned()),
            Some("Stderr") => Some("stderr".to_owned()),
            Some(_) => return Err("stream must be one of All, Stdout, Stderr"),
        };
        Ok(logs::Options {
            follow: self.follow && !self.previous,
            tail_lines: whole(self.tail_lines, "tailLines must be greater than or equal to 0")?,
            since: since_seconds.transpose()?.or(self.since_time),
            timestamps: self.timestamps,
            limit_bytes,
            stream,
        })
    }
}

async fn container_logs(
    State(inner): State<Arc<Inner>>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(query): Query<LogQuery>,
) -> Response {
    let refused = |code: StatusCode, message: String| (code, message).into_response();
    let options = match query.options(inner.ctx.now()) {
        Ok(options) => options,
        Err(message) => return refused(StatusCode::BAD_REQUEST, message.to_owned()),
    };
    let Some(mut news) = inner.pods.find(&namespace, &pod) else {
        return refused(StatusCode::NOT_FOUND, format!("pod \"{pod}\" not found in namespace \"{namespace}\""));
    };
    let Some(snapshot) = news.borrow_and_update().clone() else {
        return refused(StatusCode::BAD_REQUEST, waiting(&pod, &container, "ContainerCreating"));
    };
    let attempt = match choose(&snapshot, &pod, &container, query.previous) {
        Ok(attempt) => attempt,
        Err((code, message)) => return refused(code, message),
    };
    let dir = inner.ctx.log_dir(&snapshot.pod).join(&container);
    let follow = if options.follow {
        let changes = match inner.tail.subscribe(&dir) {
            Ok(changes) => changes,
            Err(error) => {
                return refused(StatusCode::INTERNAL_SERVER_ERROR, format!("failed to follow the log: {error}"));
            }
        };
        Some(logs::Follow { changes, running: running(news, container, attempt) })
    } else {
        None
    };
    let (sink, chunks) = mpsc::channel(LOG_CHUNKS);
    let run = logs::Run { dir, attempt };
    tokio::spawn(async move {
        if let Err(error) = logs::read(run, options, follow, sink).await {
            tracing::warn!(%error, "read log");
        }
    });
    let body = tokio_stream::wrappers::ReceiverStream::new(chunks);
    let body = Body::from_stream(futures::StreamExt::map(body, Ok::<_, std::convert::Infallible>));
    ([(header::CONTENT_TYPE, "text/plain")], body).into_response()
}

fn waiting(pod: &str, container: &str, reason: &str) -> String {
    let why = match reason {
        "ErrImagePull" => "image can't be pulled",
        "ImagePullBackOff" => "trying and failing to pull image",
        other => other,
    };
    format!("container \"{container}\" in pod \"{pod}\" is waiting to start: {why}")
}

/// The run that is asked for. Source: `validateContainerLogStatus`.
fn choose(snapshot: &Snapshot, pod: &str, container: &str, previous: bool) -> Result<u32, (StatusCode, String)> {
    let spec = snapshot.pod.spec.as_ref();
    if spec.and_then(|spec| names::container(spec, container)).is_none() {
        return Err((StatusCode::NOT_FOUND, format!("container \"{container}\" not found in pod \"{pod}\"")));
    }
    let runs = snapshot.containers.get(container).cloned().unwrap_or_default();
    // Between two runs, the one that ended last is both the latest and, while the next waits, the previous one.
    let (latest, running) =
        (runs.latest.as_ref().map(|run| run.attempt), runs.latest.as_ref().is_some_and(|run| run.running));
    if previous {
        let ended = runs.previous.or(latest.filter(|_| !running && shown_waiting(snapshot, container).is_some()));
        let message = || format!("previous terminated container \"{container}\" in pod \"{pod}\" not found");
        return ended.ok_or_else(|| (StatusCode::BAD_REQUEST, message()));
    }
    latest.ok_or_else(|| {
        let reason = shown_waiting(snapshot, container).unwrap_or_else(|| "ContainerCreating".to_owned());
        (StatusCode::BAD_REQUEST, waiting(pod, container, &reason))
    })
}

fn shown_waiting(snapshot: &Snapshot, container: &str) -> Option<String> {
    let status = snapshot.pod.status.as_ref()?;
    let mut all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    all.find(|status| status.name == container)?.state.as_ref()?.waiting.as_ref()?.reason.clone()
}

/// Becomes false when that run ends.
fn running(mut news: watch::Receiver<Option<Arc<Snapshot>>>, container: String, attempt: u32) -> watch::Receiver<bool> {
    let runs = move |snapshot: &Option<Arc<Snapshot>>| {
        let latest = snapshot.as_ref().and_then(|snapshot| snapshot.containers.get(&container)?.latest.clone());
        latest.is_some_and(|run| run.attempt == attempt && run.running)
    };
    let (sender, receiver) = watch::channel(runs(&news.borrow()));
    tokio::spawn(async move {
        tokio::select! {
            // An error is the end of the worker, and so of the run.
            _ = news.wait_for(|snapshot| !runs(snapshot)) => { sender.send_replace(false); }
            () = sender.closed() => {}
        }
    });
    receiver
}

async fn list_pods(State(inner): State<Arc<Inner>>) -> Response {
    let items: Vec<Value> =
        inner.pods.snapshots().iter().filter_map(|snapshot| serde_json::to_value(&*snapshot.pod).ok()).collect();
    axum::Json(json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})).into_response()
}

/// What metrics-server and `kubectl top` add up.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SummaryQuery {
    only_cpu_and_memory: bool,
}

async fn stats_summary(State(inner): State<Arc<Inner>>, Query(query): Query<SummaryQuery>) -> Response {
    let detail = if query.only_cpu_and_memory { Detail::CpuAndMemory } else { Detail::All };
    axum::Json(inner.stats.summary(detail).await).into_response()
}

async fn resource_metrics(State(inner): State<Arc<Inner>>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_TEXT)], inner.stats.resource_metrics().await).into_response()
}

async fn metrics(State(inner): State<Arc<Inner>>) -> Response {
    let snapshots = inner.pods.snapshots();
    let running = snapshots.iter().flat_map(|snapshot| snapshot.containers.values());
    let running = running.filter(|runs| runs.latest.as_ref().is_some_and(|run| run.running)).count();
    let text = format!(
        "# HELP kubelet_running_pods Number of pods that have a worker.\n# TYPE kubelet_running_pods gauge\nkubelet_running_pods {}\n\
         # HELP kubelet_running_containers Number of containers currently running.\n# TYPE kubelet_running_containers gauge\nkubelet_running_containers{{container_state=\"running\"}} {running}\n\
         # HELP wharf_node_watched_objects ConfigMaps and Secrets that are watched.\n# TYPE wharf_node_watched_objects gauge\nwharf_node_watched_objects {}\n\
         # HELP wharf_node_events_dropped_total Events that found the queue full.\n# TYPE wharf_node_events_dropped_total counter\nwharf_node_events_dropped_total {}\n",
        snapshots.len(),
        inner.ctx.objects.watched(),
        inner.ctx.events.dropped(),
    );
    ([(header::CONTENT_TYPE, METRICS_TEXT)], text).into_response()
}
