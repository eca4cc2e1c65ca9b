//! The control plane: store, cache, API server, scheduler, controllers.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use rand::SeedableRng;
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wharf_admission::Chain;
use wharf_admission::wasm::{Components, Host};
use wharf_apiserver::aggregate::FrontProxy;
use wharf_apiserver::aggregate::availability::{self, Authorities};
use wharf_apiserver::allocate::Allocators;
use wharf_apiserver::allocate::service::{Cidr, NODE_PORTS, Services};
use wharf_apiserver::encryption::ReloadMetrics;
use wharf_apiserver::health::{self, Check, Health, Step};
use wharf_apiserver::metrics::Register;
use wharf_apiserver::{ApiServer, NodeClient, Stored, bootstrap, definitions, listen, plugins as extensions, policy};
use wharf_auth::authorization::Configured;
use wharf_auth::kubeconfig::Kubeconfig;
use wharf_auth::pki::{Identity, Pki, ServerNames, Shown};
use wharf_auth::token::{Key, LegacyClaims, TokenMetrics};
use wharf_auth::{BootstrapTokens, NodeAuthorizer, Rbac, SERVICE_ACCOUNT_PREFIX, ServiceAccountTokens, Tokens, User};
use wharf_cache::Cache;
use wharf_client::{Client, Clock, Informers, Manager, Recorder, transport};
use wharf_controllers::{Accounts, TokenSigner};
use wharf_registry::{Table, builtin};
use wharf_scheduler::{Scheduler, plugins};
use wharf_store::{RedbStore, Store};
use wharf_types::Gvr;

use crate::data::DataDir;
use crate::process;
use crate::roles::admission;
use crate::roles::audit::{self, AuditArgs};
use crate::roles::authn::{self, Authentication, AuthnArgs};
use crate::roles::authz::{Asked, AuthzArgs};
use crate::roles::encryption::{self, EncryptionArgs};
use crate::roles::renewal::Renewal;

/// How long everything may take to end after a signal.
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// Where in the service range the `kubernetes` Service and the DNS server are.
const API_PLACE: u32 = 1;
const DNS_PLACE: u32 = 10;

#[derive(Args, Clone, Debug)]
pub struct ServerArgs {
    /// Where the API server listens; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:6443")]
    pub listen: SocketAddr,
    /// Service addresses; rootless ones lie in 127.96.0.0/12
    #[arg(long, default_value = "127.96.0.0/12")]
    pub service_cidr: Cidr,
    /// More names and addresses for the API server's certificate
    #[arg(long = "tls-san")]
    pub names: Vec<String>,
    /// Seconds that a node may be silent until its pods are moved
    #[arg(long = "node-monitor-grace-period", value_name = "SECONDS", default_value_t = 50)]
    pub node_grace_s: u32,
    /// Admission plugins to run beside those that are on by default, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub enable_admission_plugins: Vec<String>,
    /// Admission plugins not to run, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub disable_admission_plugins: Vec<String>,
    /// What admission plugins are told: a file of kind AdmissionConfiguration
    #[arg(long, value_name = "FILE")]
    pub admission_control_config_file: Option<PathBuf>,
    #[command(flatten)]
    pub authn: AuthnArgs,
    #[command(flatten)]
    pub authz: AuthzArgs,
    #[command(flatten)]
    pub audit: AuditArgs,
    /// Let secrets of type bootstrap.kubernetes.io/token in kube-system be used to join the cluster
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub enable_bootstrap_token_auth: bool,
    #[command(flatten)]
    pub encryption: EncryptionArgs,
}

/// A control plane that runs.
pub struct Running {
    pub pki: Arc<Pki>,
    pub url: String,
    pub kubeconfig: PathBuf,
    pub dns_ip: IpAddr,
    api: Arc<ApiServer>,
    store: Arc<RedbStore>,
    feed: Feed,
    tasks: JoinSet<()>,
}

/// The task that takes commits from the store into the cache. It must outlive whatever writes.
struct Feed {
    until: CancellationToken,
    task: JoinHandle<()>,
}

impl Feed {
    fn start(cache: Arc<Cache>) -> Self {
        let until = CancellationToken::new();
        let cancel = until.clone();
        Self { until, task: tokio::spawn(async move { cache.run(cancel).await }) }
    }

    async fn stop(self) {
        self.until.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the cache's task died");
        }
    }
}

impl Running {
    /// A client in this process, through the whole request stack, as `user`.
    pub fn client(&self, user: User) -> Client {
        transport::from_service(self.api.service_for(user))
    }

    /// Waits for the tasks to drain, then stops the cache and closes the store.
    pub async fn stop(mut self) {
        let drained = tokio::time::timeout(STOP_LIMIT, async { while self.tasks.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            tracing::warn!("the control plane did not end in time");
        }
        self.feed.stop().await;
        self.store.close().await;
    }
}

/// `components` is where admission plugins are loaded from.
pub async fn start(
    data: &DataDir,
    args: &ServerArgs,
    components: Arc<dyn Components>,
    cancel: CancellationToken,
) -> Result<Running> {
    let now = Timestamp::now();
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("listen on {}", args.listen))?;
    let address = listener.local_addr().context("read the listener's address")?;
    let mut tasks = JoinSet::new();

    let store_path = data.store();
    let open = tokio::task::spawn_blocking(move || RedbStore::open(store_path, wharf_store::Options::default()));
    let store = Arc::new(open.await.context("open the store")?.context("open the store")?);
    let table = Arc::new(Table::new(builtin::rows()));
    let encrypted = encryption::open(store.clone(), &args.encryption, table.clone()).await?;
    let sealed = encrypted.as_ref().map_or_else(|| store.clone() as Arc<dyn Store>, |(encrypted, _)| encrypted.store());
    let cache = Cache::open(sealed).await.context("load the cache")?;
    let feed = Feed::start(cache.clone());

    let pki = Arc::new(Pki::open(&data.pki(), now).context("open the cluster's authority")?);
    let (service_ip, dns_ip) =
        (args.service_cidr.address(API_PLACE).into(), args.service_cidr.address(DNS_PLACE).into());
    let front_proxy = Pki::open(&data.pki().join("front-proxy"), now).context("open the front proxy's authority")?;
    let front_proxy = Arc::new(front_proxy);
    for (what, authority) in [("the cluster's authority", &pki), ("the front proxy's authority", &front_proxy)] {
        Renewal::authority(what, now, authority)?.spawn(&mut tasks, &cancel);
    }
    let identities = Identities::open(args, &pki, &mut tasks, &cancel).await?;
    let host = Arc::new(Host::new(Some(components)));
    let admission = Chain::select(&args.enable_admission_plugins, &args.disable_admission_plugins, host)
        .context("choose the admission plugins")?;
    let admission = admission::configured(admission, args.admission_control_config_file.as_deref())?;
    let (shown, renewals) = Certificates::issue(&pki, &front_proxy, now)?;
    renewals.into_iter().for_each(|renewal| renewal.spawn(&mut tasks, &cancel));
    let counted = encrypted.as_ref().map(|(encrypted, _)| encrypted.metrics());
    let api = api_server(args, (table, cache, admission), identities, &pki, shown, counted).await?;
    let steps = Steps::of(&api.health);
    if let Some((encrypted, text)) = encrypted {
        encryption::tend(encrypted, text, &args.encryption, &api, &mut tasks, &cancel);
    }
    if let Some((auditor, sender)) = audit::open(&args.audit).await? {
        api.audit_to(auditor);
        if let Some(sender) = sender {
            tasks.spawn(sender.run(cancel.clone()));
        }
    }
    let server_names = ServerNames::api_server(service_ip, Some(&process::hostname()?), &names(args, address));
    let issuer = pki.clone();
    let (serving, renewal) =
        Renewal::shown("the API server's certificate", now, move |now| issuer.api_server(&server_names, now))?;
    renewal.spawn(&mut tasks, &cancel);
    let tls = listen::tls_trusting(&[&pki, &front_proxy], serving)?;
    let listener = listen::Listener::new(listener, tls)?.with_front_proxies(&front_proxy)?;
    let (serving, until) = (api.clone(), cancel.clone());
    tasks.spawn(async move { listener.run(serving, until).await });

    let url = format!("https://{}", reachable(address));
    let (issuer, path, server) = (pki.clone(), data.kubeconfig(), url.clone());
    let admin = Renewal::new("the admin's kubeconfig", now, move |now| {
        let written = Kubeconfig::ensure_admin(&path, &issuer, &server, now)?;
        Ok(Pki::renew_at(&written.leaf().context("it has no certificate")?)?)
    })?;
    admin.spawn(&mut tasks, &cancel);
    let authorities = Authorities { clients: pki.published(), front_proxy: front_proxy.published() };
    let mut running = Running { pki, url, kubeconfig: data.kubeconfig(), dns_ip, api, store, feed, tasks };
    let location = bootstrap::Location { service_ip, services: args.service_cidr, listener: reachable(address) };
    steps.serves.done();
    bootstrap::ensure(&running.api, location).await.context("write the objects every cluster has")?;
    steps.bootstrapped.done();
    policy::ensure(&running.api).await.context("write the roles every cluster has")?;
    steps.roles.done();
    if args.enable_bootstrap_token_auth {
        let mut authority = running.pki.published();
        let ca_pem = authority.borrow_and_update().clone();
        let joining = bootstrap::joining::ensure(&running.api, &ca_pem, &running.url).await;
        joining.context("write what bootstrap tokens need")?;
        let keep = bootstrap::joining::keep(running.api.clone(), authority, running.url.clone());
        let until = cancel.clone();
        running.tasks.spawn(async move { until.run_until_cancelled(keep).await.unwrap_or_default() });
    }
    running.tasks.spawn(bootstrap::keep(running.api.clone(), location, cancel.clone()));
    running.tasks.spawn(definitions::run(running.api.clone(), cancel.clone()));
    running.tasks.spawn(extensions::run(running.api.clone(), cancel.clone()));
    running.tasks.spawn(availability::keep(running.api.clone(), authorities, cancel.clone()));
    steps.extended.done();
    Ok(with_loops(running, args, cancel))
}

/// What the health checks wait for.
struct Steps {
    serves: Step,
    bootstrapped: Step,
    roles: Step,
    extended: Step,
}

impl Steps {
    fn of(health: &Health) -> Self {
        let logs = || match tracing::dispatcher::has_been_set() {
            true => Ok(()),
            false => Err("nobody takes what is logged".to_owned()),
        };
        health.add(Check::new("log", logs));
        Self {
            serves: health.step(health::SERVES),
            bootstrapped: health.step(health::BOOTSTRAPPED),
            roles: health.step(health::ROLES),
            extended: health.step(health::EXTENDED),
        }
    }
}

/// Adds the scheduler and the controllers, each with an identity of its own.
fn with_loops(mut running: Running, args: &ServerArgs, cancel: CancellationToken) -> Running {
    let clock = Clock::system();

    // One view of the cluster for all of them. Who watches for it is allowed to see everything upstream, too.
    let informers = Informers::new(running.client(User::new("system:kube-controller-manager", &[])));
    let loops = TaskTracker::new();

    let client = running.client(User::new("system:kube-scheduler", &[]));
    let (events, mut writer) = Recorder::new(client.clone(), "default-scheduler", clock.clone());
    let scheduler = Scheduler::new(wharf_scheduler::Options {
        client: client.clone(),
        informers: informers.acting_as(client.clone()),
        framework: plugins::default(Box::new(plugins::ApiBind::new(client))),
        name: "default-scheduler".to_owned(),
        clock: clock.clone(),
        events,
    });
    let until = cancel.clone();
    running.tasks.spawn(async move { writer.run(until).await });
    let until = cancel.clone();
    let task = running.tasks.spawn(loops.track_future(async move { scheduler.run(until).await }));
    running.api.components.add(runs("scheduler", task));

    let api = running.api.clone();
    let accounts = Accounts::new(move |name| transport::from_service(api.service_for(account(name))));
    let mut manager = Manager::new();
    let ca_pem = Some(running.pki.published());
    let node_grace = SignedDuration::from_secs(args.node_grace_s.into());
    let authority: Option<Arc<dyn wharf_controllers::Authority>> = Some(Arc::new(Authority(running.pki.clone())));
    let options = wharf_controllers::Options {
        clock,
        accounts: Some(accounts),
        ca_pem,
        authority,
        node_grace,
        token_signer: running.api.token_key.clone().map(token_signer),
        bootstrap_tokens: args.enable_bootstrap_token_auth,
        zone: TimeZone::system(),
        ..wharf_controllers::Options::default()
    };
    wharf_controllers::register(&mut manager, &informers, options);
    let task = running.tasks.spawn(loops.track_future(async move { manager.run(cancel).await }));
    running.api.components.add(runs("controller-manager", task));
    loops.close();
    running.tasks.spawn(async move {
        loops.wait().await;
        informers.stop().await;
    });
    running
}

/// A service account of `kube-system`, as one of its tokens would name it.
fn account(name: &str) -> User {
    let name = format!("{SERVICE_ACCOUNT_PREFIX}kube-system:{name}");
    User::new(&name, &["system:serviceaccounts", "system:serviceaccounts:kube-system"])
}

/// A component is well while its task runs.
fn runs(name: &'static str, task: AbortHandle) -> Check {
    Check::new(name, move || if task.is_finished() { Err("its task has ended".to_owned()) } else { Ok(()) })
}

/// The cluster's authority, for requests that are approved.
struct Authority(Arc<Pki>);

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

impl wharf_controllers::Authority for Authority {
    fn sign(&self, ask: &wharf_controllers::Ask<'_>) -> Result<String, String> {
        let times = (ask.not_before, ask.not_after);
        self.0.sign_request(ask.request, ask.usages, times).map_err(|error| format!("{:#}", anyhow::Error::from(error)))
    }
}

/// Makes the tokens that secrets of service accounts hold.
fn token_signer(key: Arc<Key>) -> TokenSigner {
    TokenSigner::new(move |account, secret| {
        key.sign(&LegacyClaims::new(account, secret)).map_err(|error| error.to_string())
    })
}

/// Who users are and what they may, and the key that the tokens of service accounts are signed with.
struct Identities {
    authentication: Authentication,
    token_metrics: TokenMetrics,
    key: Arc<Key>,
    /// What tokens name must be there; it is looked up in the server, once that is made.
    stored: Arc<Stored>,
    node: Arc<NodeAuthorizer>,
    rbac: Arc<Rbac>,
    authorizer: Arc<Configured>,
}

impl Identities {
    async fn open(args: &ServerArgs, pki: &Pki, tasks: &mut JoinSet<()>, cancel: &CancellationToken) -> Result<Self> {
        let key = Key::new(&pki.service_account_key_pem(), &pki.service_account_public_key_pem());
        let (key, stored) = (Arc::new(key.context("open the service account key")?), Arc::new(Stored::default()));
        let tokens = ServiceAccountTokens::new(key.clone(), stored.clone(), Arc::new(Timestamp::now));
        let token_metrics = TokenMetrics::default();
        let tokens = tokens.counting(token_metrics.clone()).with_legacy(stored.clone());
        let mut of_cluster: Vec<Arc<dyn Tokens>> = vec![Arc::new(tokens)];
        if args.enable_bootstrap_token_auth {
            of_cluster.push(Arc::new(BootstrapTokens::new(stored.clone(), Arc::new(Timestamp::now))));
        }
        let asked = Asked::read(&args.authz)?;
        let strangers = !asked.allows_everything();
        let authentication =
            authn::open(&args.authn, of_cluster, token_metrics.clone(), strangers, tasks, cancel).await?;
        let (node, rbac) = (Arc::new(NodeAuthorizer::default()), Arc::new(Rbac::default()));
        let authorizer = asked.open(node.clone(), rbac.clone(), tasks, cancel).await?;
        Ok(Self { authentication, token_metrics, key, stored, node, rbac, authorizer })
    }
}

/// What the API server shows to those whom it calls.
struct Certificates {
    to_nodes: Arc<Shown>,
    to_servers: Arc<Shown>,
}

impl Certificates {
    fn issue(pki: &Arc<Pki>, front_proxy: &Arc<Pki>, now: Timestamp) -> Result<(Self, [Renewal; 2])> {
        let client = |what, authority: &Arc<Pki>, user: &str| {
            let (authority, identity) = (authority.clone(), Identity::new(user, &[]));
            Renewal::shown(what, now, move |now| authority.client(&identity, now))
        };
        let (to_nodes, nodes) = client("the API server's certificate for nodes", pki, "system:apiserver")?;
        let (to_servers, servers) = client("the front proxy's certificate", front_proxy, "front-proxy-client")?;
        Ok((Self { to_nodes, to_servers }, [nodes, servers]))
    }
}

async fn api_server(
    args: &ServerArgs,
    (table, cache, admission): (Arc<Table>, Arc<Cache>, Chain),
    identities: Identities,
    pki: &Pki,
    shown: Certificates,
    reloads: Option<ReloadMetrics>,
) -> Result<Arc<ApiServer>> {
    let mut metrics: Vec<Register> = Vec::new();
    if let Some(reloads) = reloads {
        metrics.push(Box::new(move |registry| reloads.register(registry)));
    }
    let Identities { authentication, token_metrics, key, stored, node, rbac, authorizer } = identities;
    metrics.push(Box::new(move |registry| token_metrics.register(registry)));
    let Authentication { requests, tokens } = authentication;
    let services = Services::new(args.service_cidr, NODE_PORTS, Box::new(rand::rngs::StdRng::from_os_rng()));
    let mut allocators = Allocators::default();
    let gvr = Gvr { group: "".into(), version: "v1".into(), resource: "services".into() };
    allocators.insert(gvr, Arc::new(services));
    let options = wharf_apiserver::Options {
        table,
        cache,
        admission,
        authenticator: requests,
        tokens: Some(tokens),
        token_key: Some(key),
        authorizer,
        views: vec![node, rbac.clone()],
        rbac: Some(rbac),
        allocators,
        nodes: Some(NodeClient::new(kubelet_tls(pki, shown.to_nodes)?)),
        front_proxy: Some(FrontProxy(shown.to_servers)),
        clock: Arc::new(Timestamp::now),
        metrics,
    };
    let server = ApiServer::new(options).await.context("load the API server's collections")?;
    stored.set(&server);
    Ok(server)
}

/// How the API server calls nodes: with a certificate of its own, to certificates of the cluster's authority, which is known by
/// its name and key and may be issued anew meanwhile.
fn kubelet_tls(pki: &Pki, shown: Arc<Shown>) -> Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pki.ca_der()?).context("trust the cluster's authority")?;
    let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_client_cert_resolver(shown);
    // A resumed session would go on with the certificate that was shown when it began.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// An address that a client on this machine can dial.
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() { SocketAddr::new([127, 0, 0, 1].into(), address.port()) } else { address }
}

/// What clients may call the API server, beside the usual names.
fn names(args: &ServerArgs, address: SocketAddr) -> Vec<String> {
    let own = Some(address.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_loopback()).map(|ip| ip.to_string());
    args.names.iter().cloned().chain(own).collect()
}
