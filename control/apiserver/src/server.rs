//! The server: what it is made of. How a request passes through it is in [`handle`].

mod handle;
mod in_process;
mod load;
mod rows;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};

use arc_swap::{ArcSwap, ArcSwapOption};
use jiff::Timestamp;
use parking_lot::Mutex;
use wharf_admission::Chain;
use wharf_auth::token::Key;
use wharf_auth::{Authenticator, Authorizer, Rbac, Tokens, View};
use wharf_cache::{Cache, Collection};
use wharf_registry::Table;
use wharf_types::Gvr;

pub use self::handle::REQUEST_TIMEOUT;
pub(crate) use self::handle::forbidden;
pub use self::in_process::InProcessService;
use self::rows::Unopened;
use crate::aggregate::{Aggregator, FrontProxy};
use crate::allocate::Allocators;
use crate::audit::Auditor;
use crate::components::Components;
use crate::connect;
use crate::definitions::{self, Definitions};
use crate::fairness::{self, Fairness};
use crate::health::{Check, Health};
use crate::impersonate::Impersonation;
use crate::metrics::{Metrics, Observed, ObservedResource, Register};
use crate::node::NodeClient;
use crate::openapi;
use crate::plugins;

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What a server is made of.
pub struct Options {
    pub table: Arc<Table>,
    pub cache: Arc<Cache>,
    pub admission: Chain,
    pub authenticator: Arc<dyn Authenticator>,
    pub authorizer: Arc<dyn Authorizer>,
    /// What stands behind the authorizer, for who may grant what; none where writes of roles are not checked.
    pub rbac: Option<Arc<Rbac>>,
    /// For `TokenReview`; none where no token is known.
    pub tokens: Option<Arc<dyn Tokens>>,
    /// Signs the tokens of service accounts; none where there are none.
    pub token_key: Option<Arc<Key>>,
    /// Told of every change to the resources that they name, before it is acknowledged.
    pub views: Vec<Arc<dyn View>>,
    pub allocators: Allocators,
    /// How nodes are called; none where nothing is streamed from them.
    pub nodes: Option<NodeClient>,
    /// How this server shows itself to those that serve other groups; none where it shows nothing.
    pub front_proxy: Option<FrontProxy>,
    pub clock: Clock,
    /// What others count, for `/metrics`.
    pub metrics: Vec<Register>,
}

pub struct ApiServer {
    /// For clients of this server in this process.
    me: Weak<ApiServer>,
    pub table: Arc<Table>,
    pub cache: Arc<Cache>,
    pub admission: Chain,
    pub authenticator: Arc<dyn Authenticator>,
    pub authorizer: Arc<dyn Authorizer>,
    pub rbac: Option<Arc<Rbac>>,
    pub tokens: Option<Arc<dyn Tokens>>,
    pub token_key: Option<Arc<Key>>,
    views: Vec<Arc<dyn View>>,
    pub allocators: Allocators,
    pub nodes: Option<NodeClient>,
    /// How pods and services are called for a `proxy`.
    pub outgoing: connect::Outgoing,
    pub aggregator: Aggregator,
    pub clock: Clock,
    pub health: Health,
    pub components: Components,
    pub metrics: Metrics,
    pub openapi: openapi::Documents,
    pub definitions: Definitions,
    collections: ArcSwap<HashMap<Gvr, Arc<Collection>>>,
    /// What is served in part, for want of a value that nobody can open now.
    unopened: Mutex<HashMap<Gvr, Unopened>>,
    fairness: Fairness,
    impersonation: Impersonation,
    /// Where flow schemas and priority levels are, once they are served.
    flow_control: ArcSwapOption<(Arc<Collection>, Arc<Collection>)>,
    audit: OnceLock<Arc<Auditor>>,
}

impl ApiServer {
    /// Loads every row's collection from the store. The cache must be running.
    pub async fn new(options: Options) -> Result<Arc<Self>, wharf_cache::Error> {
        let Options {
            table,
            cache,
            admission,
            authenticator,
            authorizer,
            rbac,
            tokens,
            token_key,
            views,
            allocators,
            nodes,
            front_proxy,
            clock,
            metrics: counted,
        } = options;
        let health = Health::default();
        // Named as upstream's, which monitoring asks for by name.
        let store = {
            let cache = cache.clone();
            move || if cache.is_feeding() { Ok(()) } else { Err("the watch cache has lost the store".to_owned()) }
        };
        health.add(Check::new("etcd", store.clone()));
        health.add(Check::readiness("etcd-readiness", store.clone()));
        health.add(Check::readiness("informer-sync", store.clone()));
        let components = Components::default();
        components.add(Check::new("etcd-0", store));
        let mut metrics = Metrics::default();
        admission.host().metrics.register(metrics.registry());
        counted.into_iter().for_each(|register| register(metrics.registry()));
        let fairness = Fairness::new(fairness::SEATS, metrics.flow.clone());
        let server = Arc::new_cyclic(|me| Self {
            me: me.clone(),
            table,
            cache,
            admission,
            authenticator,
            authorizer,
            rbac,
            tokens,
            token_key,
            views,
            allocators,
            nodes,
            outgoing: connect::Outgoing::default(),
            aggregator: Aggregator::new(front_proxy),
            clock,
            health,
            components,
            metrics,
            openapi: openapi::Documents::default(),
            definitions: Definitions::default(),
            collections: ArcSwap::default(),
            unopened: Mutex::default(),
            fairness,
            impersonation: Impersonation::default(),
            flow_control: ArcSwapOption::empty(),
            audit: OnceLock::new(),
        });
        // The stored version of a kind brings the index; its other versions come after it.
        let mut rows = server.table.all();
        rows.retain(|row| !row.is_virtual());
        rows.sort_by_key(|row| row.convert.is_some());
        for row in rows {
            server.serve(&row).await?;
        }
        definitions::restore(&server).await?;
        plugins::restore(&server).await;
        Ok(server)
    }

    /// The server as its clients in this process hold it; none while it goes down.
    pub fn myself(&self) -> Option<Arc<Self>> {
        self.me.upgrade()
    }

    /// Has requests recorded from now on; the first call counts.
    pub fn audit_to(&self, auditor: Arc<Auditor>) {
        if self.audit.set(auditor).is_err() {
            tracing::warn!("requests are audited already");
        }
    }

    /// What the metrics tell of stored objects and watchers.
    pub async fn observe(&self) -> Observed {
        self.fairness.show();
        let collections = self.collections.load();
        let resource = |(gvr, collection): (&Gvr, &Arc<Collection>)| ObservedResource {
            group: gvr.group.clone(),
            resource: gvr.resource.clone(),
            objects: collection.len(),
            watchers: collection.watchers(),
        };
        Observed {
            resources: collections.iter().map(resource).collect(),
            cache_revision: self.cache.revision().0,
            store_bytes: self.cache.store().size_bytes().await.unwrap_or_default(),
        }
    }
}
