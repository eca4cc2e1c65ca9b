//! What test suites share: real clusters of the real binary, simulated nodes, and how to wait for things.
//!
//! Absent on purpose: fixed sleeps. A test waits for a condition, with a deadline that a loaded machine can keep.

pub mod cluster;
pub mod http;
pub mod joined;
pub mod kubectl;
pub mod registry;
pub mod sim_node;
pub mod slot;
pub mod wait;

pub use cluster::{Cluster, Options, Role};
pub use joined::JoinedNode;
pub use registry::GuardedRegistry;
pub use sim_node::SimNode;
pub use wait::{DEADLINE, eventually};
