//! The webhook back end: events in batches to a server that a kubeconfig names.
//!
//! Source: upstream's `--audit-webhook-*` in batch mode with its defaults. Events that come while the queue is full are lost, and
//! counted; a batch that fails is sent again with growing pauses.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{Request, header};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Events that wait. Source: `--audit-webhook-batch-buffer-size`.
const QUEUE_MAX: usize = 10_000;
/// Source: `--audit-webhook-batch-max-size`.
const BATCH_MAX: usize = 400;
/// How long an event waits for others. Source: `--audit-webhook-batch-max-wait`.
const BATCH_WAIT: Duration = Duration::from_secs(30);
/// Bytes of the events of a batch. Source: `--audit-webhook-truncate-max-batch-size`.
const BATCH_BYTES_MAX: usize = 10 << 20;
/// The pause after a failure, what it grows by, and how often a batch is sent. Source: `--audit-webhook-initial-backoff`.
const RETRY_FIRST: Duration = Duration::from_secs(10);
const RETRY_FACTOR: f64 = 1.5;
const TRIES: u32 = 5;

pub struct Webhook {
    events: mpsc::Sender<String>,
    lost: AtomicU64,
}

/// What sends them.
pub struct Sender {
    events: mpsc::Receiver<String>,
    client: kube::Client,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read the audit webhook's kubeconfig")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    #[error("reach the audit webhook")]
    Client(#[from] kube::Error),
}

impl Webhook {
    pub async fn open(kubeconfig: &Path) -> Result<(Self, Sender), Error> {
        let config = Kubeconfig::read_from(kubeconfig)?;
        let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        let client = kube::Client::try_from(config)?;
        let (sender, events) = mpsc::channel(QUEUE_MAX);
        Ok((Self { events: sender, lost: AtomicU64::new(0) }, Sender { events, client }))
    }

    pub fn write(&self, event: &str) {
        if self.events.try_send(event.to_owned()).is_err() {
            let lost = self.lost.fetch_add(1, Ordering::Relaxed) + 1;
            tracing::error!(lost, "an audit event was lost: the webhook is too slow");
        }
    }
}

impl Sender {
    /// Sends until cancelled; what waits then is sent once.
    pub async fn run(mut self, cancel: CancellationToken) {
        while !cancel.is_cancelled() {
            let first = tokio::select! {
                () = cancel.cancelled() => break,
                first = self.events.recv() => match first {
                    Some(first) => first,
                    None => return,
                },
            };
            let batch = self.gather(first, &cancel).await;
            self.send(&batch, TRIES, &cancel).await;
        }
        self.events.close();
        let mut rest = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            rest.push(event);
        }
        for batch in rest.chunks(BATCH_MAX) {
            self.send(batch, 1, &cancel).await;
        }
    }

    async fn gather(&mut self, first: String, cancel: &CancellationToken) -> Vec<String> {
        let until = tokio::time::Instant::now() + BATCH_WAIT;
        let mut bytes = first.len();
        let mut batch = vec![first];
        while batch.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX {
            tokio::select! {
                () = cancel.cancelled() => break,
                () = tokio::time::sleep_until(until) => break,
                event = self.events.recv() => match event {
                    Some(event) => {
                        bytes += event.len();
                        batch.push(event);
                    }
                    None => break,
                },
            }
        }
        batch
    }

    async fn send(&self, batch: &[String], tries: u32, cancel: &CancellationToken) {
        let items = batch.join(",");
        let body =
            format!(r#"{{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{{}},"items":[{items}]}}"#);
        let mut pause = RETRY_FIRST;
        for left in (0..tries).rev() {
            let request = Request::post("/").header(header::CONTENT_TYPE, "application/json");
            let Ok(request) = request.body(body.clone().into_bytes()) else { return };
            match self.client.request_text(request).await {
                Ok(_) => return,
                Err(error) if left == 0 => {
                    tracing::error!(events = batch.len(), %error, "audit events were lost: the webhook does not take them");
                }
                Err(error) => {
                    tracing::warn!(%error, "send audit events; will retry");
                    if cancel.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                        return;
                    }
                    pause = pause.mul_f64(RETRY_FACTOR);
                }
            }
        }
    }
}
