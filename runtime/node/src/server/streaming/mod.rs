//! exec, attach and port-forward, as the kubelet serves them: over SPDY/3.1 and over websockets.
//!
//! Source: `pkg/kubelet/server/server.go` and `k8s.io/kubelet/pkg/cri/streaming`. Each is an upgrade; what follows runs in a task
//! that ends with the client, the container or the node, whichever is first.
//! Absent on purpose: resuming, idle timeouts (the API server's clients keep their connections alive).

mod forward;
mod remote;
mod spdy;
mod status;
mod upgrade;
mod websocket;

use std::future::Future;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wharf_cri::{ContainerId, Wanted};

use self::upgrade::Opening;
use super::Inner;

/// Streams at a time, over all pods.
const SESSIONS_MAX: usize = 1000;

/// The streams that are open.
#[derive(Clone)]
pub struct Sessions {
    places: Arc<Semaphore>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(SESSIONS_MAX)),
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
        }
    }
}

impl Sessions {
    fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().try_acquire_owned().ok()
    }

    fn spawn(&self, place: OwnedSemaphorePermit, work: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move {
            let _place = place;
            cancel.run_until_cancelled(work).await;
        });
    }

    /// Cuts all of them.
    pub async fn stop(&self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// The kubelet's query: `input=1&output=1&error=1&tty=1&command=…&port=…`.
#[derive(Debug, Default)]
struct Asked {
    wanted: Wanted,
    command: Vec<String>,
    ports: Vec<String>,
}

impl Asked {
    fn parse(query: &str) -> Self {
        let mut asked = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let yes = value == "1" || value == "true";
            match &*name {
                "input" => asked.wanted.stdin = yes,
                "output" => asked.wanted.stdout = yes,
                "error" => asked.wanted.stderr = yes,
                "tty" => asked.wanted.tty = yes,
                "command" => asked.command.push(value.into_owned()),
                "port" => asked.ports.extend(value.split(',').map(str::to_owned)),
                _ => {}
            }
        }
        // A terminal has one stream of output.
        asked.wanted.stderr &= !asked.wanted.tty;
        asked
    }
}

/// What a client gets instead of an upgrade.
type Refusal = Box<Response>;

fn refused(code: StatusCode, why: impl Into<String>) -> Response {
    (code, why.into()).into_response()
}

/// The running container, or the kubelet's words for there being none.
fn running(inner: &Inner, namespace: &str, pod: &str, container: &str) -> Result<ContainerId, Refusal> {
    let news = inner.pods.find(namespace, pod);
    let news = news.ok_or_else(|| refused(StatusCode::NOT_FOUND, "pod does not exist"))?;
    let snapshot = news.borrow().clone();
    let runs = snapshot.and_then(|snapshot| snapshot.containers.get(container)?.latest.clone());
    runs.filter(|run| run.running).and_then(|run| run.id).ok_or_else(|| {
        refused(StatusCode::INTERNAL_SERVER_ERROR, format!("container not found ({container:?})")).into()
    })
}

/// `exec` and `attach`.
pub async fn remote(
    inner: Arc<Inner>,
    (namespace, pod, container): (String, String, String),
    run: bool,
    mut request: Request,
) -> Response {
    let asked = Asked::parse(request.uri().query().unwrap_or_default());
    let Wanted { stdin, stdout, stderr, .. } = asked.wanted;
    if !(stdin || stdout || stderr) {
        return refused(StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr");
    }
    let id = match running(&inner, &namespace, &pod, &container) {
        Ok(id) => id,
        Err(refusal) => return *refusal,
    };
    let Some(place) = inner.sessions.place() else { return too_many() };
    let (opening, response) = match Opening::of(&mut request, upgrade::Kind::Remote) {
        Ok(opened) => opened,
        Err(refusal) => return *refusal,
    };
    let runtime = inner.ctx.runtime.clone();
    inner.sessions.spawn(place, async move {
        let Some(session) = remote::open(opening, asked.wanted).await else { return };
        let remote::Session { streams, gone, end } = session;
        let work = async {
            if run {
                status::of_exec(&asked.command, runtime.exec(&id, asked.command.clone(), streams).await)
            } else {
                status::of_attach(runtime.attach(&id, streams).await)
            }
        };
        if let Some(status) = gone.run_until_cancelled(work).await {
            end.finish(status).await;
        }
    });
    response
}

pub async fn port_forward(inner: Arc<Inner>, (namespace, pod): (String, String), mut request: Request) -> Response {
    let asked = Asked::parse(request.uri().query().unwrap_or_default());
    let Some(news) = inner.pods.find(&namespace, &pod) else {
        return refused(StatusCode::NOT_FOUND, "pod does not exist");
    };
    let snapshot = news.borrow().clone();
    let Some(uid) = snapshot.map(|snapshot| crate::names::uid(&snapshot.pod).to_owned()) else {
        return refused(StatusCode::INTERNAL_SERVER_ERROR, format!("pod not found ({pod:?})"));
    };
    let Some(place) = inner.sessions.place() else { return too_many() };
    let target = forward::Target { runtime: inner.ctx.runtime.clone(), pod, uid };
    let (opening, response) = match Opening::of(&mut request, upgrade::Kind::Forward) {
        Ok(opened) => opened,
        Err(refusal) => return *refusal,
    };
    let ports = match opening.is_channels().then(|| forward::ports(&asked.ports)).transpose() {
        Ok(ports) => ports.unwrap_or_default(),
        Err(why) => return refused(StatusCode::BAD_REQUEST, why),
    };
    inner.sessions.spawn(place, forward::serve(opening, target, ports));
    response
}

fn too_many() -> Response {
    refused(StatusCode::SERVICE_UNAVAILABLE, format!("more than {SESSIONS_MAX} streams are open"))
}
