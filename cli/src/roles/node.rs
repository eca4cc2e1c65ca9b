//! A node: the engine, images, the network and the kubelet's job.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wharf_auth::pki::{Identity, Pki, ServerNames, Shown};
use wharf_client::Client;
use wharf_net::addresses::Prefix;
use wharf_net::names::Names;
use wharf_net::proxy::Proxy;
use wharf_net::rootless::{self, Rootless};
use wharf_net::services::Services;
use wharf_node::{Capacity, Node, NodeOptions, ServerOptions, ServerTls};
use wharf_oci::pull::Puller;
use wharf_oci::registry::Registry;
use wharf_wasm::WasmRuntime;

use crate::data::DataDir;
use crate::process;
use crate::roles::images::Images;
use crate::roles::renewal::Renewal;

/// The zone of the cluster's names.
const CLUSTER_DOMAIN: &str = "cluster.local";
/// The file that the toolbox is in, beside the binary.
const TOOLBOX: &str = "toolbox.wasm";
/// How long pods' processes and tasks may take to end after a signal.
const STOP_LIMIT: Duration = Duration::from_secs(15);

#[derive(Args, Clone, Debug)]
pub struct NodeArgs {
    /// The node's name [default: the host's name]
    #[arg(long)]
    pub node_name: Option<String>,
    /// The node's address, as the API server calls it
    #[arg(long = "node-address", default_value = "127.0.0.1")]
    pub address: IpAddr,
    /// The port of the kubelet's API; 0 picks a free one
    #[arg(long, default_value_t = 10250)]
    pub kubelet_port: u16,
    /// Where the embedded image registry listens
    #[arg(long, default_value = "127.0.0.1:5000")]
    pub registry: SocketAddr,
    /// Pod addresses of this node; rootless ones lie in 127.64.0.0/12
    #[arg(long, default_value = "127.64.0.0/20")]
    pub pod_cidr: Prefix,
    /// The port of the cluster's DNS server
    #[arg(long, default_value_t = 53)]
    pub dns_port: u16,
    /// Pods this node takes
    #[arg(long, default_value_t = 1000)]
    pub max_pods: u32,
    /// The component with the programs that `kubectl exec` and `kubectl cp` call in Wasm containers [default: toolbox.wasm beside
    /// this binary]
    #[arg(long, value_name = "FILE")]
    pub toolbox: Option<PathBuf>,
    /// Do not listen on service addresses for the host's processes
    #[arg(long)]
    pub no_service_proxy: bool,
}

impl NodeArgs {
    pub fn name(&self) -> Result<String> {
        self.node_name.clone().map_or_else(process::hostname, Ok)
    }

    /// The certificate that the kubelet's API is served with, issued by an authority that is here.
    pub fn serving(&self, pki: Arc<Pki>, now: Timestamp) -> Result<(Arc<Shown>, Renewal)> {
        let name = self.name()?;
        let names = ServerNames::of(&[name.clone(), self.address.to_string()]);
        let user = Identity::node(&name).user;
        Renewal::shown("the node's serving certificate", now, move |now| pki.serving(&user, &names, now))
    }

    /// None where there is none: then containers have no programs but their own.
    fn toolbox(&self) -> Result<Option<PathBuf>> {
        match &self.toolbox {
            Some(path) => {
                let found =
                    std::fs::metadata(path).with_context(|| format!("look for the toolbox {}", path.display()))?;
                anyhow::ensure!(found.is_file(), "the toolbox {} is no file", path.display());
                Ok(Some(path.clone()))
            }
            None => {
                let binary = std::env::current_exe().context("find the toolbox beside this binary")?;
                Ok(Some(binary.with_file_name(TOOLBOX)).filter(|path| path.is_file()))
            }
        }
    }
}

/// What a node needs of the cluster it joins.
pub struct Joined {
    pub client: Client,
    /// Who watches what services route to.
    pub router: Client,
    /// The certificate that the kubelet's API is served with.
    pub serving: Arc<Shown>,
    /// The authorities of clients of that API.
    pub authorities: Vec<CertificateDer<'static>>,
    /// Where to serve DNS; none serves nothing (another node does).
    pub cluster_dns: Option<IpAddr>,
}

pub struct Running {
    /// Where images can be pushed.
    pub registry: SocketAddr,
    tasks: JoinSet<()>,
}

impl Running {
    pub async fn stop(mut self) {
        let drained = tokio::time::timeout(STOP_LIMIT, async { while self.tasks.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            tracing::warn!("the node did not end in time");
        }
    }
}

pub async fn start(
    data: &DataDir,
    args: &NodeArgs,
    joined: Joined,
    images: Images,
    cancel: CancellationToken,
) -> Result<Running> {
    let directory = data.node()?;
    let mut tasks = JoinSet::new();
    let Images { store, puller, registry, listener, .. } = images;
    serve_registry(listener, Registry::new(store.clone()), &mut tasks, cancel.clone());
    let services = network(args, &joined, &mut tasks, cancel.clone());

    let network = rootless::Options {
        pod_cidr: args.pod_cidr,
        services: services.clone(),
        names: Names::new(services, CLUSTER_DOMAIN),
    };
    let runtime = WasmRuntime::new(wharf_wasm::Options {
        data: directory.clone(),
        network: Arc::new(Rootless::new(network)),
        artifacts: store,
        clock: Arc::new(jiff::Timestamp::now),
        guest_threads: None,
        toolbox: args.toolbox()?,
    })
    .context("start the Wasm engine")?;
    let options = node_options(args, &joined, &directory, Arc::new(runtime), puller).await?;
    let node = Node::new(options).await.context("set the node up")?;
    tasks.spawn(async move {
        if let Err(error) = node.run(cancel.clone()).await {
            tracing::error!(error = &error as &dyn std::error::Error, "the node failed");
            cancel.cancel();
        }
    });
    Ok(Running { registry, tasks })
}

async fn node_options(
    args: &NodeArgs,
    joined: &Joined,
    directory: &Path,
    runtime: Arc<WasmRuntime>,
    images: Arc<Puller>,
) -> Result<NodeOptions> {
    let address = SocketAddr::new(args.address, args.kubelet_port);
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("listen on {address} for the kubelet's API"))?;
    let tls = ServerTls { shown: joined.serving.clone(), client_ca: joined.authorities.clone() };
    let mut options = NodeOptions::new(&args.name()?, joined.client.clone(), runtime, images, directory.to_owned());
    options.max_pods = args.max_pods;
    options.capacity = Capacity::detect(directory);
    options.pod_cidr = Some(args.pod_cidr.to_string());
    options.addresses = vec![args.address];
    options.cluster_dns = joined.cluster_dns.into_iter().collect();
    options.cluster_domain = CLUSTER_DOMAIN.to_owned();
    options.server = Some(ServerOptions { listener, tls });
    Ok(options)
}

/// Starts what routes to services: the table's watches, the host's proxy, the DNS server.
fn network(args: &NodeArgs, joined: &Joined, tasks: &mut JoinSet<()>, cancel: CancellationToken) -> Arc<Services> {
    let services = Arc::new(Services::default());
    let (watched, client, until) = (services.clone(), joined.router.clone(), cancel.clone());
    tasks.spawn(async move {
        tokio::select! {
            () = until.cancelled() => {}
            () = wharf_net::watch::run(client, watched) => {}
        }
    });
    if !args.no_service_proxy {
        tasks.spawn(Proxy::new(services.clone(), Some(args.address)).run(cancel.clone()));
    }
    if let Some(ip) = joined.cluster_dns {
        let (names, address) = (Names::new(services.clone(), CLUSTER_DOMAIN), SocketAddr::new(ip, args.dns_port));
        tasks.spawn(async move {
            if let Err(error) = wharf_net::dns::serve(names, address, cancel).await {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::warn!(%address, %error, cause, "no DNS for the host's processes; guests resolve names all the same");
            }
        });
    }
    services
}

fn serve_registry(listener: TcpListener, registry: Arc<Registry>, tasks: &mut JoinSet<()>, cancel: CancellationToken) {
    let router = registry.router();
    tasks.spawn(async move {
        let serving = axum::serve(listener, router).with_graceful_shutdown(cancel.cancelled_owned());
        if let Err(error) = serving.await {
            tracing::error!(%error, "the image registry ended");
        }
    });
}
