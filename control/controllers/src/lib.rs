//! The controllers: one file or folder for each, registered in one place.
//!
//! Each is a pure plan and a thin act. They read shared informers and write through the API with an identity of their own (upstream's:
//! a service account of `kube-system`, with a role for it alone), so each can be swapped for upstream's, and all of them run
//! unchanged against another API server.
//!
//! Adding a controller is one file and one line in [`register`].

mod batch;
mod bootstrapsigner;
mod budget;
mod call;
mod clusterroleaggregation;
mod cronjob;
mod csr;
mod daemonset;
mod deployment;
mod discovery;
mod disruption;
mod endpointslice;
mod gc;
mod history;
mod hpa;
mod job;
mod legacytokencleaner;
mod namespace;
mod nodeipam;
mod nodelifecycle;
mod note;
mod owners;
mod podcontrol;
mod podgc;
mod pods;
mod policystatus;
mod replicaset;
mod resourcequota;
mod rootca;
mod serviceaccount;
mod serviceaccounttoken;
mod servicecidr;
mod share;
mod statefulset;
mod tainteviction;
mod template;
mod tokencleaner;
mod ttl;
mod volumeprotection;

use std::sync::Arc;

use jiff::SignedDuration;
use jiff::tz::TimeZone;
use tokio::sync::watch;
use wharf_client::{Client, Clock, Informers, Manager, Recorder};
use wharf_types::k8s::api::apps::v1::ReplicaSet;
use wharf_types::k8s::api::core::v1::ReplicationController;

pub use csr::{Ask, Authority};
pub use nodeipam::PodRange;
pub use serviceaccounttoken::TokenSigner;

/// Gives clients with the identities of `kube-system`'s service accounts.
#[derive(Clone)]
pub struct Accounts(Arc<dyn Fn(&str) -> Client + Send + Sync>);

impl Accounts {
    /// `client` is told the name of an account.
    pub fn new(client: impl Fn(&str) -> Client + Send + Sync + 'static) -> Self {
        Self(Arc::new(client))
    }
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Accounts")
    }
}

/// What differs between one cluster and another.
#[derive(Clone, Debug)]
pub struct Options {
    pub clock: Clock,
    /// Whom each controller acts as; `None` is whoever watches, for all of them.
    pub accounts: Option<Accounts>,
    /// The certificate authority to publish in every namespace, as it is from time to time; `None` publishes none.
    pub ca_pem: Option<watch::Receiver<String>>,
    /// Signs certificate requests; `None` leaves them to others.
    pub authority: Option<Arc<dyn Authority>>,
    /// The pod addresses to divide among nodes; `None` leaves `spec.podCIDR` to others.
    pub pod_range: Option<PodRange>,
    /// Signs the tokens that secrets are to hold; `None` leaves such secrets as they are.
    pub token_signer: Option<TokenSigner>,
    /// Whether bootstrap tokens sign `cluster-info` and are deleted in time.
    pub bootstrap_tokens: bool,
    /// How long a node may be silent.
    pub node_grace: SignedDuration,
    /// By whose clocks the schedules go that name no time zone.
    pub zone: TimeZone,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: Clock::system(),
            accounts: None,
            ca_pem: None,
            authority: None,
            pod_range: None,
            token_signer: None,
            bootstrap_tokens: false,
            node_grace: nodelifecycle::GRACE,
            zone: TimeZone::UTC,
        }
    }
}

/// The source that events of the controllers name, and the user that watches, writes events and tokens: `system:kube-controller-manager`.
pub const COMPONENT: &str = "kube-controller-manager";

/// Steps of one controller that run at the same time. Source: upstream's `--concurrent-*-syncs`.
const WORKERS: usize = 5;
/// Source: upstream's `--concurrent-daemonset-syncs`.
const DAEMON_WORKERS: usize = 2;
/// Source: upstream's `--concurrent-gc-syncs`.
const COLLECTORS: usize = 20;

/// Adds all controllers to `manager`, each under the account that upstream gives it. Must be called inside a tokio runtime, which
/// drives the watches.
pub fn register(manager: &mut Manager, watches: &Informers, options: Options) {
    let (clock, accounts) = (options.clock, options.accounts);
    let of = |account: &str| match &accounts {
        Some(Accounts(client)) => watches.acting_as(client(account)),
        None => watches.clone(),
    };
    let (recorder, writer) = Recorder::new(watches.client().clone(), COMPONENT, clock.clone());
    let writer = Arc::new(tokio::sync::Mutex::new(writer));
    manager.add_service("events", move |cancel| {
        let writer = writer.clone();
        async move { writer.lock().await.run(cancel).await }
    });
    let (sets, controllers) = (of("replicaset-controller"), of("replication-controller"));
    manager.add(replicaset::Sets::<ReplicaSet>::new(&sets, recorder.clone(), clock.clone()), WORKERS);
    manager.add(replicaset::Sets::<ReplicationController>::new(&controllers, recorder.clone(), clock.clone()), WORKERS);
    manager.add(deployment::Deployments::new(&of("deployment-controller"), recorder.clone(), clock.clone()), WORKERS);
    manager
        .add(statefulset::StatefulSets::new(&of("statefulset-controller"), recorder.clone(), clock.clone()), WORKERS);
    let daemons = of("daemon-set-controller");
    manager.add(daemonset::DaemonSets::new(&daemons, recorder.clone(), clock.clone()), DAEMON_WORKERS);
    manager.add(endpointslice::EndpointSlices::new(&of("endpointslice-controller"), recorder.clone()), WORKERS);
    manager.add(budget::Budgets::new(&of("disruption-controller"), recorder.clone(), clock.clone()), WORKERS);
    let autoscaler = of("horizontal-pod-autoscaler");
    manager.add(hpa::Autoscalers::new(&autoscaler, recorder.clone(), clock.clone()), WORKERS);
    manager.add(job::Jobs::new(&of("job-controller"), recorder.clone(), clock.clone()), WORKERS);
    let zones = cronjob::Zones { database: jiff::tz::db(), local: options.zone };
    manager.add(cronjob::CronJobs::new(&of("cronjob-controller"), recorder.clone(), zones, clock.clone()), WORKERS);
    manager.add(ttl::TtlAfterFinished::new(&of("ttl-after-finished-controller"), clock.clone()), WORKERS);
    manager.add(resourcequota::ResourceQuotas::new(&of("resourcequota-controller"), clock.clone()), WORKERS);
    manager.add(volumeprotection::ClaimProtection::new(&of("pvc-protection-controller")), 1);
    manager.add(volumeprotection::VolumeProtection::new(&of("pv-protection-controller")), 1);
    manager.add(namespace::Namespaces::new(&of("namespace-controller"), clock.clone()), WORKERS);
    manager.add(gc::GarbageCollector::new(of("generic-garbage-collector").client().clone()), COLLECTORS);
    let grace = options.node_grace;
    manager.add(
        nodelifecycle::NodeLifecycle::new(&of("node-controller"), grace, recorder.clone(), clock.clone()),
        WORKERS,
    );
    let eviction = of("taint-eviction-controller");
    manager.add(tainteviction::TaintEviction::new(&eviction, recorder.clone(), clock.clone()), WORKERS);
    manager.add(podgc::PodGc::new(&of("pod-garbage-collector"), clock.clone()), 1);
    if let Some(range) = options.pod_range {
        manager.add(nodeipam::NodeIpam::new(&of("node-controller"), range, recorder.clone()), 1);
    }
    manager.add(serviceaccount::ServiceAccounts::new(&of("service-account-controller")), 1);
    let ranges = of("service-cidrs-controller");
    manager.add(servicecidr::ServiceCidrs::new(&ranges, recorder.clone(), clock.clone()), 1);
    if let Some(signer) = options.token_signer {
        // Who makes tokens can have none of its own: upstream's works as the manager itself, too.
        let tokens = serviceaccounttoken::ServiceAccountTokens::new(watches, signer, options.ca_pem.clone());
        manager.add(tokens, WORKERS);
    }
    let unused = of("legacy-service-account-token-cleaner");
    manager.add(legacytokencleaner::LegacyTokenCleaner::new(&unused, clock.clone()), 1);
    if options.bootstrap_tokens {
        manager.add(bootstrapsigner::BootstrapSigner::new(&of("bootstrap-signer"), clock.clone()), 1);
        manager.add(tokencleaner::TokenCleaner::new(&of("token-cleaner"), clock.clone()), 1);
    }
    manager.add(policystatus::PolicyStatus::new(&of("validatingadmissionpolicy-status-controller")), 1);
    manager.add(clusterroleaggregation::ClusterRoleAggregation::new(&of("clusterrole-aggregation-controller")), 1);
    let certificates = of("certificate-controller");
    manager.add(csr::Approver::new(&certificates, clock.clone()), 1);
    manager.add(csr::Cleaner::new(&certificates, clock.clone()), 1);
    if let Some(authority) = options.authority {
        manager.add(csr::Signer::new(&certificates, authority, clock.clone()), WORKERS);
    }
    if let Some(ca_pem) = options.ca_pem {
        manager.add(rootca::RootCa::new(&of("root-ca-cert-publisher"), ca_pem), 1);
    }
}
