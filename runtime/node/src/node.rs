//! A node: registers itself, runs the pods bound to it, serves the kubelet's API.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node as NodeObject, ObjectReference};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wharf_volumes::{Objects, Tokens};

use crate::admit::Ledger;
use crate::context::{Context, MAX_API_WRITES};
use crate::events::{self, Kind, Recorder};
use crate::images::Puller;
use crate::options::{NodeOptions, ServerOptions};
use crate::pods::{Dispatcher, Leftovers, Pods};
use crate::register::{self, Health, Identity};
use crate::services::Services;
use crate::status::NodeFacts;
use crate::{dns, housekeeping, names, server};

/// Where the node's own resolver settings are.
const RESOLV_CONF: &str = "/etc/resolv.conf";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("ask the runtime for its version")]
    Runtime(#[source] wharf_cri::Error),
    #[error("list what the runtime has")]
    Leftovers(#[source] wharf_cri::Error),
    #[error("make the node's directory")]
    DataDir(#[source] std::io::Error),
    #[error("set up the node's server")]
    Server(#[from] server::Error),
}

pub struct Node {
    ctx: Arc<Context>,
    identity: Identity,
    ledger: Arc<Ledger>,
    pods: Pods,
    writer: events::Writer,
    server: Option<ServerOptions>,
}

impl Node {
    /// Prepares everything that can fail before the node shows itself. Needs a tokio runtime.
    pub async fn new(options: NodeOptions) -> Result<Self, Error> {
        let version = options.runtime.version().await.map_err(Error::Runtime)?;
        for dir in ["pods", "logs"] {
            std::fs::create_dir_all(options.data_dir.join(dir)).map_err(Error::DataDir)?;
        }
        let port =
            options.server.as_ref().and_then(|server| server.listener.local_addr().ok()).map(|address| address.port());
        let identity = Identity {
            name: options.name.clone(),
            labels: options.labels,
            taints: options.taints,
            pod_cidr: options.pod_cidr,
            addresses: options.addresses.clone(),
            capacity: options.capacity,
            max_pods: options.max_pods,
            kubelet_port: port,
            runtime_version: format!("{}://{}", version.name, version.version),
        };
        let pods = Pods::default();
        let woken = pods.clone();
        let objects = Objects::new(options.client.clone(), move |uid| woken.objects_changed(uid));
        let (recorder, writer) = events::recorder(options.client.clone(), &options.name, options.clock.clone());
        let host_dns = dns::parse_resolv_conf(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default());
        let tokens = Tokens::new(Arc::new(options.client.clone()));
        let ctx = Context {
            client: options.client,
            runtime: options.runtime,
            puller: Puller::new(options.images),
            objects: Arc::new(objects),
            tokens,
            services: Arc::new(Services::default()),
            events: recorder,
            clock: options.clock,
            facts: NodeFacts { host_ips: options.addresses, restarts: options.timings.restarts },
            timings: options.timings,
            scheme: version.name,
            data_dir: options.data_dir,
            allocatable: identity.resources(),
            cluster_dns: options.cluster_dns.iter().map(ToString::to_string).collect(),
            cluster_domain: options.cluster_domain,
            host_dns,
            api_writes: Semaphore::new(MAX_API_WRITES),
        };
        let ledger = Arc::new(Ledger::new(&identity.name, identity.all_labels(), identity.max_pods, identity.capacity));
        Ok(Self { ctx: Arc::new(ctx), identity, ledger, pods, writer, server: options.server })
    }

    /// The pods that are here, for tests and for the server.
    pub fn pods(&self) -> Pods {
        self.pods.clone()
    }

    /// Until `cancel`, or until the server cannot be set up. Pods are left as they are.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), Error> {
        let tasks = TaskTracker::new();
        let stop = cancel.child_token();
        let _stop_all = stop.clone().drop_guard();
        if let Some(options) = self.server {
            let server = server::Server::new(self.ctx.clone(), self.pods.clone(), self.identity.name.clone(), options)?;
            tasks.spawn(server.run(stop.clone()));
        }
        tasks.spawn(self.writer.run(stop.clone()));
        let (services, client, until) = (self.ctx.services.clone(), self.ctx.client.clone(), stop.clone());
        tasks.spawn(async move { services.run(client, until).await });
        let leftovers = Leftovers::list(&*self.ctx.runtime).await.map_err(Error::Leftovers)?;
        let (ctx, identity, ledger) = (self.ctx.clone(), self.identity.clone(), self.ledger.clone());
        tasks.spawn(present(ctx, identity, ledger, stop.clone()));
        let (synced, mut first_list) = watch::channel(false);
        let (ctx, pods, until) = (self.ctx.clone(), self.pods.clone(), stop.clone());
        tasks.spawn(async move {
            let listed = until
                .run_until_cancelled(first_list.wait_for(|synced| *synced))
                .await
                .is_some_and(|listed| listed.is_ok());
            if listed {
                housekeeping::run(ctx, pods, until).await;
            }
        });
        let dispatcher = Dispatcher {
            ctx: self.ctx,
            pods: self.pods,
            ledger: self.ledger,
            node: self.identity.name,
            leftovers,
            synced,
        };
        dispatcher.run(stop.clone()).await;
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        Ok(())
    }
}

/// Registers, then keeps Lease and status fresh.
async fn present(ctx: Arc<Context>, identity: Identity, ledger: Arc<Ledger>, cancel: CancellationToken) {
    let Some(mut node) = cancel.run_until_cancelled(register(&ctx, &identity, &ledger)).await else { return };
    announce(&ctx.events, &node);
    let mut written_at = ctx.now();
    loop {
        if let Err(error) = register::renew(&ctx.client, &node, ctx.now()).await {
            tracing::warn!(%error, "renew node lease");
        }
        match refresh(&ctx, &identity, &mut node, &mut written_at).await {
            Ok(()) => {
                let spec = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
                ledger.node_changed(node.metadata.labels.clone().unwrap_or_default(), spec);
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                // Somebody deleted the node: it is still here.
                let Some(again) = cancel.run_until_cancelled(register(&ctx, &identity, &ledger)).await else { return };
                node = again;
            }
            Err(error) => tracing::warn!(%error, "write node status"),
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(ctx.timings.lease_renewal) => {}
        }
    }
}

async fn register(ctx: &Context, identity: &Identity, ledger: &Ledger) -> NodeObject {
    let mut delay = Duration::from_millis(50);
    loop {
        let (health, images) = observe(ctx).await;
        let node = identity.node(&health, &images, ctx.now());
        let registered = async {
            let held = register::register(&ctx.client, identity, &node).await?;
            let status = identity.status(held.status.as_ref(), &health, &images, ctx.now());
            if held.status.as_ref().is_some_and(|held| register::same_status(held, &status)) {
                return Ok(held);
            }
            register::write_status(&ctx.client, &identity.name, &status).await
        };
        match registered.await {
            Ok(node) => {
                let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
                ledger.node_changed(node.metadata.labels.clone().unwrap_or_default(), taints);
                return node;
            }
            Err::<_, kube::Error>(error) => {
                tracing::warn!(%error, "register node");
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(register::MAX_RETRY);
            }
        }
    }
}

/// Whether the runtime answers, and the images there are.
async fn observe(ctx: &Context) -> (Health, Vec<wharf_cri::ImageStatus>) {
    let health =
        ctx.runtime.version().await.err().map(|error| format!("container runtime is down: {}", names::chain(&error)));
    (health, ctx.puller.images().images().await.unwrap_or_default())
}

/// Writes the status if it changed or is due.
async fn refresh(
    ctx: &Context,
    identity: &Identity,
    node: &mut NodeObject,
    written_at: &mut jiff::Timestamp,
) -> Result<(), kube::Error> {
    let (health, images) = observe(ctx).await;
    let now = ctx.now();
    let status = identity.status(node.status.as_ref(), &health, &images, now);
    let due = crate::backoff::after(*written_at, ctx.timings.node_status) <= now;
    let same = node.status.as_ref().is_some_and(|held| register::same_status(held, &status));
    if due || !same {
        *node = register::write_status(&ctx.client, &identity.name, &status).await?;
        *written_at = now;
    }
    Ok(())
}

fn announce(events: &Recorder, node: &NodeObject) {
    // As the kubelet does, the node's name stands for its UID.
    let name = node.metadata.name.clone();
    let about =
        ObjectReference { kind: Some("Node".to_owned()), uid: name.clone(), name, ..ObjectReference::default() };
    events.record(about, Kind::Normal, "Starting", "Starting kubelet.".to_owned());
}
