//! The parts of a cluster, put together.

pub mod node;
pub mod server;
