//! What an authenticator or authorizer knows of stored objects: a view that is told of each change, and a look at one object.
//!
//! The API server feeds views from its watch cache: all objects first, then each change as it is committed. A view never lists
//! and never asks again. Absent on purpose: where the objects come from.

use wharf_types::Gvr;

/// Kept current by whoever holds the objects. Calls for one resource come one at a time, in the order of commits.
pub trait View: Send + Sync + 'static {
    /// What the view wants to be told of. Resources that nobody serves are passed over.
    fn resources(&self) -> Vec<Gvr>;
    /// All objects of a resource as JSON, in place of what the view had of it.
    fn replace(&self, resource: &Gvr, objects: &mut dyn Iterator<Item = &[u8]>);
    /// An object is new or has changed.
    fn put(&self, resource: &Gvr, object: &[u8]);
    /// An object is gone; this is its last state.
    fn remove(&self, resource: &Gvr, object: &[u8]);
}

/// One stored object, as fresh as the last acknowledged write.
pub trait Lookup: Send + Sync + 'static {
    /// The object's JSON; none if it is not there.
    fn get(&self, resource: &Gvr, namespace: Option<&str>, name: &str) -> Option<bytes::Bytes>;
}

pub(crate) const fn gvr(group: &'static str, version: &'static str, resource: &'static str) -> Gvr {
    use std::borrow::Cow::Borrowed;
    Gvr { group: Borrowed(group), version: Borrowed(version), resource: Borrowed(resource) }
}
