//! Chooses a node for each pod and binds it through the `binding` subresource.
//!
//! One task owns the [`cluster::Cluster`] (nodes and what their pods ask for) and the [`queue::Queue`]; it runs one cycle after
//! another without waiting for binds, which are assumed to succeed and taken back when they fail. So a cycle takes no lock and copies
//! no snapshot. Source of the behaviour: `k8s.io/kubernetes/pkg/scheduler`.
//!
//! Invariants: a pod is in one place (queue, assumed, bound) at a time; a node's sums are those of its bound and assumed pods.
//! Absent on purpose, until their kinds are: preemption, volume binding, inter-pod affinity, topology spread, resource claims.

pub mod cluster;
pub mod cycle;
pub mod framework;
pub mod plugins;
pub mod pod;
pub mod queue;
pub mod resources;
mod service;

pub use service::{Options, Scheduler};
