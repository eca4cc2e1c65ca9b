//! The parts of a cluster, put together.

pub mod admission;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod images;
pub mod node;
pub mod server;
