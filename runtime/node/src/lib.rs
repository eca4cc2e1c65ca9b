//! The kubelet's job: runs the pods that are bound to this node, over the Runtime contract, and tells the API about them.
//!
//! ```text
//! watch ─► pods (one worker for each UID) ─► worker: observed ─► plan ─► steps ─► status
//!                                               ▲ runtime events, objects, probes, deadlines
//! ```
//! The node speaks to the cluster through a `kube::Client` with its own identity and through nothing else, so it joins any
//! Kubernetes cluster. Invariants: decisions are pure functions ([`plan`], [`status`], [`admit`]); what runs is derived anew
//! after a restart, and a finished container never runs twice; a pod event costs the same however many pods there are.
//! Absent on purpose: eviction under pressure, ephemeral containers, in-place resize.

mod admit;
pub mod backoff;
pub mod certificates;
mod container_config;
mod context;
mod dns;
mod env;
mod events;
mod hooks;
mod housekeeping;
mod images;
mod last_words;
pub mod logs;
mod names;
mod node;
pub mod observed;
mod options;
pub mod plan;
mod pods;
mod probes;
pub mod pull_secrets;
mod register;
mod sandbox_config;
mod server;
mod services;
mod start;
mod stats;
pub mod status;
mod status_patch;
mod worker;

use std::sync::Arc;

pub use node::{Error, Node};
pub use options::{Capacity, DEFAULT_MAX_PODS, NodeOptions, ServerOptions, ServerTls, Timings};
pub use pods::Pods;

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> jiff::Timestamp + Send + Sync>;
