//! What a write takes from a shared pool before it is committed: service addresses, node ports.
//!
//! The verbs call [`Allocate::begin`] before validation, as upstream's `BeginCreate` and `BeginUpdate`, and keep the [`Claim`]
//! once the write is committed. A claim that is dropped gives back what it took.

mod families;
mod pool;
pub mod service;
#[cfg(test)]
mod tests;

pub use service::{Cidr, NODE_PORTS, Services};

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use wharf_types::{AnyObject, ApiError, BoxObject, Gvr};

/// What one write has taken, until it is known whether it is committed.
pub trait Claim: Send {
    /// The write is committed: what it took is the object's, what it let go is free.
    fn keep(self: Box<Self>);
}

/// Allocation for one resource.
#[async_trait]
pub trait Allocate: Send + Sync + 'static {
    /// Fills the object in. `old` is none for a create. A dry run takes nothing, but fails where the write would.
    async fn begin(
        &self,
        object: &mut dyn AnyObject,
        old: Option<&dyn AnyObject>,
        dry_run: bool,
    ) -> Result<Box<dyn Claim>, ApiError>;

    /// Learns what is held already. Called once, before the first write.
    fn seed(&self, objects: &[BoxObject]);

    /// The object is gone.
    fn release(&self, object: &dyn AnyObject);
}

/// Allocators by resource.
#[derive(Clone, Default)]
pub struct Allocators(BTreeMap<Gvr, Arc<dyn Allocate>>);

impl Allocators {
    /// The allocators of built-in resources.
    pub fn built_in(services: Services) -> Self {
        let mut allocators = Self::default();
        let gvr = Gvr { group: "".into(), version: "v1".into(), resource: "services".into() };
        allocators.insert(gvr, Arc::new(services));
        allocators
    }

    pub fn insert(&mut self, gvr: Gvr, allocate: Arc<dyn Allocate>) {
        self.0.insert(gvr, allocate);
    }

    pub fn get(&self, gvr: &Gvr) -> Option<&Arc<dyn Allocate>> {
        self.0.get(gvr)
    }
}
