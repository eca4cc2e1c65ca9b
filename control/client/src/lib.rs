//! What every component of the control plane talks to the API with.
//!
//! - [`transport`]: a `kube::Client` over TLS, or over a tower service in the same process.
//! - [`Informers`] and [`Lister`]: one watch for each kind in a process; an object is decoded once and shared as `Arc`.
//! - [`Reconcile`], [`Queue`], [`Manager`]: level-triggered loops, never two at once for a key.
//! - [`Fences`]: "has my own write come back through the watch?"
//! - [`Recorder`]: `core/v1` Events, best effort.
//!
//! This crate knows the API only, so its users run unchanged against another API server.
//! Absent on purpose: leader election (one server runs the loops until the store can be shared), and write-through caches.

mod clock;
pub mod events;
mod expectations;
mod index;
mod informer;
mod key;
mod lister;
mod manager;
mod reconcile;
mod retry;
mod subscription;
pub mod transport;
pub mod workqueue;

pub use clock::Clock;
pub use events::Recorder;
pub use expectations::{FENCE_LIMIT, Fences};
pub use index::Index;
pub use informer::{Informers, WatchBackoff, expired};
pub use key::ObjectKey;
pub use kube::Client;
pub use lister::{Informed, Lister};
pub use manager::{ControllerStatus, Manager, StatusHandle};
pub use reconcile::{Action, Error, Reconcile, Trigger};
pub use subscription::{Changed, Changes};
pub use workqueue::Queue;
