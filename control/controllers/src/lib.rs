//! The controllers: one file or folder for each, registered in one place.
//!
//! Each is a pure plan and a thin act. They read shared informers and write through the API with an identity of their own, so
//! each can be swapped for upstream's, and all of them run unchanged against another API server.
//!
//! Adding a controller is one file and one line in [`register`].

mod batch;
mod bootstrapsigner;
mod budget;
mod call;
mod clusterroleaggregation;
mod csr;
mod deployment;
mod discovery;
mod disruption;
mod endpointslice;
mod gc;
mod job;
mod legacytokencleaner;
mod namespace;
mod nodeipam;
mod nodelifecycle;
mod owners;
mod podgc;
mod pods;
mod policystatus;
mod replicaset;
mod resourcequota;
mod rootca;
mod serviceaccount;
mod serviceaccounttoken;
mod tainteviction;
mod tokencleaner;
mod ttl;
mod volumeprotection;

use std::sync::Arc;

use jiff::SignedDuration;
use wharf_client::{Clock, Informers, Manager, Recorder};

pub use csr::{Ask, Authority};
pub use nodeipam::PodRange;
pub use serviceaccounttoken::TokenSigner;

/// What differs between one cluster and another.
#[derive(Clone, Debug)]
pub struct Options {
    pub clock: Clock,
    /// The certificate authority to publish in every namespace; `None` publishes none.
    pub ca_pem: Option<String>,
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
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: Clock::system(),
            ca_pem: None,
            authority: None,
            pod_range: None,
            token_signer: None,
            bootstrap_tokens: false,
            node_grace: nodelifecycle::GRACE,
        }
    }
}

/// The source that events of the controllers name, and the user they should run as: `system:kube-controller-manager`.
pub const COMPONENT: &str = "kube-controller-manager";

/// Steps of one controller that run at the same time. Source: upstream's `--concurrent-*-syncs`.
const WORKERS: usize = 5;
/// Source: upstream's `--concurrent-gc-syncs`.
const COLLECTORS: usize = 20;

/// Adds all controllers to `manager`. Must be called inside a tokio runtime, which drives the watches.
pub fn register(manager: &mut Manager, informers: &Informers, options: Options) {
    let clock = options.clock;
    let (recorder, writer) = Recorder::new(informers.client().clone(), COMPONENT, clock.clone());
    let writer = Arc::new(tokio::sync::Mutex::new(writer));
    manager.add_service("events", move |cancel| {
        let writer = writer.clone();
        async move { writer.lock().await.run(cancel).await }
    });
    manager.add(replicaset::ReplicaSets::new(informers, recorder.clone(), clock.clone()), WORKERS);
    manager.add(deployment::Deployments::new(informers, recorder.clone(), clock.clone()), WORKERS);
    manager.add(endpointslice::EndpointSlices::new(informers, recorder.clone()), WORKERS);
    manager.add(budget::Budgets::new(informers, recorder.clone(), clock.clone()), WORKERS);
    manager.add(job::Jobs::new(informers, recorder.clone(), clock.clone()), WORKERS);
    manager.add(ttl::TtlAfterFinished::new(informers, clock.clone()), WORKERS);
    manager.add(resourcequota::ResourceQuotas::new(informers, clock.clone()), WORKERS);
    manager.add(volumeprotection::ClaimProtection::new(informers), 1);
    manager.add(volumeprotection::VolumeProtection::new(informers), 1);
    manager.add(namespace::Namespaces::new(informers, clock.clone()), WORKERS);
    manager.add(gc::GarbageCollector::new(informers.client().clone()), COLLECTORS);
    manager.add(
        nodelifecycle::NodeLifecycle::new(informers, options.node_grace, recorder.clone(), clock.clone()),
        WORKERS,
    );
    manager.add(tainteviction::TaintEviction::new(informers, recorder.clone(), clock.clone()), WORKERS);
    manager.add(podgc::PodGc::new(informers, clock.clone()), 1);
    if let Some(range) = options.pod_range {
        manager.add(nodeipam::NodeIpam::new(informers, range, recorder.clone()), 1);
    }
    manager.add(serviceaccount::ServiceAccounts::new(informers), 1);
    if let Some(signer) = options.token_signer {
        let tokens = serviceaccounttoken::ServiceAccountTokens::new(informers, signer, options.ca_pem.clone());
        manager.add(tokens, WORKERS);
    }
    manager.add(legacytokencleaner::LegacyTokenCleaner::new(informers, clock.clone()), 1);
    if options.bootstrap_tokens {
        manager.add(bootstrapsigner::BootstrapSigner::new(informers, clock.clone()), 1);
        manager.add(tokencleaner::TokenCleaner::new(informers, clock.clone()), 1);
    }
    manager.add(policystatus::PolicyStatus::new(informers), 1);
    manager.add(clusterroleaggregation::ClusterRoleAggregation::new(informers), 1);
    manager.add(csr::Approver::new(informers, clock.clone()), 1);
    manager.add(csr::Cleaner::new(informers, clock.clone()), 1);
    if let Some(authority) = options.authority {
        manager.add(csr::Signer::new(informers, authority, clock.clone()), WORKERS);
    }
    if let Some(ca_pem) = options.ca_pem {
        manager.add(rootca::RootCa::new(informers, ca_pem), 1);
    }
}
