//! The parts of a cluster, put together.

pub mod admission;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod encryption;
pub mod images;
pub mod join;
pub mod node;
pub mod renewal;
pub mod server;
