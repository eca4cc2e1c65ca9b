//! What a write takes from a shared pool before it is committed: service addresses, node ports.
//!
//! The verbs call [`Allocate::begin`] before validation, as upstream's `BeginCreate` and `BeginUpdate`, keep the [`Claim`] once the
//! write is committed, and give it back where it fails.

mod addresses;
mod cidr;
mod families;
mod pool;
pub mod repair;
pub mod service;
mod shape;

pub use service::{Cidr, NODE_PORTS, Services};

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use wharf_types::{AnyObject, ApiError, BoxObject, Gvr};

use crate::server::ApiServer;

/// What one write has taken, until it is known whether it is committed.
#[async_trait]
pub trait Claim: Send + Sync {
    /// The write is committed: what it took is the object's, what it let go is free.
    async fn keep(self: Box<Self>);

    /// The write failed: what it took is free again.
    async fn give_back(self: Box<Self>);
}

/// Ends a claim as its write ended.
pub async fn settle<T, E>(
    claim: Option<Box<dyn Claim>>,
    written: Result<T, E>,
    is_kept: impl FnOnce(&T) -> bool,
) -> Result<T, E> {
    let Some(claim) = claim else { return written };
    match written.as_ref().is_ok_and(is_kept) {
        true => claim.keep().await,
        false => claim.give_back().await,
    }
    written
}

/// Allocation for one resource.
#[async_trait]
pub trait Allocate: Send + Sync + 'static {
    /// Fills the object in. `old` is none for a create. A dry run takes nothing, but fails where the write would.
    async fn begin(
        &self,
        server: &Arc<ApiServer>,
        object: &mut dyn AnyObject,
        old: Option<&dyn AnyObject>,
        dry_run: bool,
    ) -> Result<Box<dyn Claim>, ApiError>;

    /// Learns what is held already. Called once, before the first write.
    fn seed(&self, objects: &[BoxObject]);

    /// The object is gone.
    async fn release(&self, server: &Arc<ApiServer>, object: &dyn AnyObject);
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
