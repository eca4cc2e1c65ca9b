//! What a user types, one file each.

pub mod image;
pub mod kubeconfig;
pub mod node;
pub mod server;
pub mod up;
