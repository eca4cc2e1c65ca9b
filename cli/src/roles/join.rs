//! How a node becomes a member of a cluster, and stays one: its identity, and the certificate that it is called by.
//!
//! Source of the behaviour: `LoadClientConfig`, `buildKubeletClientConfig` and the managers of `pkg/kubelet/certificate`. What the node
//! holds from before counts if it is this node's, of this cluster, and has time left; else the kubeconfig does; else the
//! bootstrap kubeconfig is used to ask for a certificate, and a kubeconfig that names it is written.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use kube::Config;
use rustls::pki_types::CertificateDer;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wharf_auth::kubeconfig::Kubeconfig;
use wharf_auth::pki::{self, Identity, Leaf, Shown};
use wharf_client::{Client, transport};
use wharf_node::certificates::{self, CLIENT, Manager, Means, Pair, Purpose, SERVING, Store, Template};

/// Whom to join, and as whom.
pub struct Ask<'a> {
    /// Read if it is there; written after joining by `bootstrap`.
    pub kubeconfig: &'a Path,
    pub bootstrap: Option<&'a Path>,
    /// Where the node's certificates are kept.
    pub certificates: &'a Path,
    pub node: &'a str,
    /// Exchange the client certificate before it ends.
    pub rotate: bool,
}

/// A node that the cluster knows.
pub struct Member {
    /// Its identity changes as its certificate does.
    pub client: Client,
    /// The cluster's authorities.
    pub authorities: Vec<CertificateDer<'static>>,
    bootstrap: Option<Client>,
}

impl Member {
    /// Waits for the first certificate, if there is none, for as long as the cluster takes to approve it.
    pub async fn join(ask: Ask<'_>, tasks: &mut JoinSet<()>, cancel: &CancellationToken) -> Result<Self> {
        let store = Store::open(ask.certificates, CLIENT.prefix).context("open the node's certificates")?;
        let bootstrap = match ask.bootstrap {
            Some(path) => Some(transport::config(path).await?),
            None => None,
        };
        let known = if ask.kubeconfig.exists() { Some(transport::config(ask.kubeconfig).await?) } else { None };
        let known = known.filter(|config| !has_ended(config, Timestamp::now()));
        let config = match (known, &bootstrap) {
            (Some(config), _) => config,
            (None, Some(bootstrap)) => ask.first(bootstrap, &store).await?,
            (None, None) => bail!(
                "{} is not there or has ended; name a --bootstrap-kubeconfig to join with",
                ask.kubeconfig.display()
            ),
        };
        let authorities = config.root_cert.clone().unwrap_or_default();
        let current = of_node(&store, ask.node, &authorities);
        let (client, exchange) = transport::exchangeable(client(&config, current.as_ref())?);
        let bootstrap = bootstrap.map(Client::try_from).transpose().context("use the bootstrap kubeconfig")?;
        let authorities = authorities.into_iter().map(CertificateDer::from).collect();
        let member = Self { client, authorities, bootstrap };
        if ask.rotate {
            let taken = move |pair: &Pair| match self::client(&config, Some(pair)) {
                Ok(client) => exchange.put(client),
                Err(error) => tracing::error!("take the node's new certificate: {error:#}"),
            };
            let manager = member.manager(&CLIENT, Template::client(ask.node), store, current, Box::new(taken));
            tasks.spawn(manager.run(cancel.clone()));
        }
        Ok(member)
    }

    /// The certificate that the kubelet's API is served with, asked of the cluster; somebody must approve that.
    pub fn serving(
        &self,
        certificates: &Path,
        node: &str,
        addresses: &[IpAddr],
        tasks: &mut JoinSet<()>,
        cancel: &CancellationToken,
    ) -> Result<Arc<Shown>> {
        let store = Store::open(certificates, SERVING.prefix).context("open the node's certificates")?;
        let authorities: Vec<Vec<u8>> = self.authorities.iter().map(|der| der.to_vec()).collect();
        let current = of_node(&store, node, &authorities);
        let shown = Arc::new(Shown::default());
        if let Some(pair) = &current {
            shown.exchange(&leaf(pair)).context("use the node's certificate")?;
        }
        let cell = shown.clone();
        let taken = move |pair: &Pair| {
            if let Err(error) = cell.exchange(&leaf(pair)) {
                tracing::error!(%error, "take the node's new serving certificate");
            }
        };
        let manager = self.manager(&SERVING, Template::serving(node, addresses), store, current, Box::new(taken));
        tasks.spawn(manager.run(cancel.clone()));
        Ok(shown)
    }

    fn manager(
        &self,
        purpose: &'static Purpose,
        template: Template,
        store: Store,
        current: Option<Pair>,
        taken: Box<dyn Fn(&Pair) + Send + Sync>,
    ) -> Manager {
        // Who may ask for a first certificate may ask for no other kind.
        let bootstrap = self.bootstrap.clone().filter(|_| *purpose == CLIENT);
        let means = Means {
            client: self.client.clone(),
            bootstrap,
            clock: Arc::new(Timestamp::now),
            luck: Arc::new(rand::random::<f64>),
            taken,
        };
        Manager::new(purpose, template, store, current, means)
    }
}

impl Ask<'_> {
    /// Asks for the first certificate and writes the kubeconfig that names it.
    async fn first(&self, bootstrap: &Config, store: &Store) -> Result<Config> {
        let client = Client::try_from(bootstrap.clone()).context("use the bootstrap kubeconfig")?;
        let template = Template::client(self.node);
        certificates::first(&client, store, &template, &Timestamp::now).await.context("join the cluster")?;
        let authorities = bootstrap.root_cert.clone().unwrap_or_default();
        let ca_pem: String = authorities.iter().map(|der| pki::to_pem(&der.as_slice().into())).collect();
        let url = bootstrap.cluster_url.to_string();
        let user = Identity::node(self.node).user;
        Kubeconfig::by_file(url.trim_end_matches('/'), &ca_pem, &user, &store.current_path())
            .write(self.kubeconfig)
            .with_context(|| format!("write {}", self.kubeconfig.display()))?;
        Ok(transport::config(self.kubeconfig).await?)
    }
}

/// A client of the server that `config` names, by this pair, or by its own credentials.
fn client(config: &Config, pair: Option<&Pair>) -> Result<Client> {
    Ok(match pair {
        Some(pair) => transport::with_identity(config.clone(), &pair.certificate_pem, &pair.key_pem)?,
        None => Client::try_from(config.clone()).context("use the kubeconfig")?,
    })
}

/// True where the credentials are a certificate that cannot be read or that nobody takes any more.
fn has_ended(config: &Config, now: Timestamp) -> bool {
    let auth = &config.auth_info;
    let by_certificate = auth.client_certificate.is_some() || auth.client_certificate_data.is_some();
    let ends = transport::certificate(config).and_then(|pem| pki::expires(&String::from_utf8(pem).ok()?).ok());
    by_certificate && ends.is_none_or(|end| end < now)
}

/// What is stored, if it names this node, is this cluster's, and has time left.
fn of_node(store: &Store, node: &str, authorities: &[Vec<u8>]) -> Option<Pair> {
    let stored = match store.current() {
        Ok(stored) => stored?,
        Err(error) => {
            tracing::warn!(%error, "read the node's certificate");
            return None;
        }
    };
    let leaf = leaf(&stored);
    let known = pki::is_signed_by(&stored.certificate_pem, authorities);
    let lives = leaf.expires().is_ok_and(|end| end > Timestamp::now());
    (known && lives && leaf.is_of(&Identity::node(node))).then_some(stored)
}

fn leaf(pair: &Pair) -> Leaf {
    Leaf { certificate_pem: pair.certificate_pem.clone(), key_pem: pair.key_pem.clone() }
}
