//! One Kubernetes object, typed ([`KubeObject`]) or behind a pointer ([`AnyObject`]).
//!
//! The API server's verbs are written once, over [`AnyObject`]; strategies see their own struct.

use std::any::Any;
use std::fmt::Debug;

use serde::{Serialize, de::DeserializeOwned};

use crate::meta::ObjectMeta;

/// A struct of a top-level Kubernetes kind.
pub trait KubeObject:
    crate::k8s::Resource
    + crate::k8s::Metadata<Ty = ObjectMeta>
    + Serialize
    + DeserializeOwned
    + Clone
    + Debug
    + PartialEq
    + Send
    + Sync
    + 'static
{
}

impl<K> KubeObject for K where
    K: crate::k8s::Resource
        + crate::k8s::Metadata<Ty = ObjectMeta>
        + Serialize
        + DeserializeOwned
        + Clone
        + Debug
        + PartialEq
        + Send
        + Sync
        + 'static
{
}

pub type BoxObject = Box<dyn AnyObject>;

/// An object whose kind is known only at run time.
pub trait AnyObject: Any + Send + Sync + Debug {
    fn meta(&self) -> &ObjectMeta;
    fn meta_mut(&mut self) -> &mut ObjectMeta;
    /// Appends the object's JSON, with `apiVersion`, `kind` and `metadata` first and in this order.
    fn encode(&self, out: &mut Vec<u8>);
    fn clone_box(&self) -> BoxObject;
    /// True when `other` is of the same kind and has the same content.
    fn same(&self, other: &dyn AnyObject) -> bool;
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

impl<K: KubeObject> AnyObject for K {
    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.metadata_mut()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        // Writing to a Vec cannot fail, and Kubernetes structs have string keys only.
        serde_json::to_writer(out, self).expect("Kubernetes structs serialise to JSON");
    }

    fn clone_box(&self) -> BoxObject {
        Box::new(self.clone())
    }

    fn same(&self, other: &dyn AnyObject) -> bool {
        other.as_any().downcast_ref::<K>().is_some_and(|other| self == other)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl dyn AnyObject {
    pub fn downcast_ref<K: 'static>(&self) -> Option<&K> {
        self.as_any().downcast_ref()
    }

    pub fn downcast_mut<K: 'static>(&mut self) -> Option<&mut K> {
        self.as_any_mut().downcast_mut()
    }

    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024);
        self.encode(&mut out);
        out
    }

    pub fn name(&self) -> &str {
        self.meta().name.as_deref().unwrap_or_default()
    }

    pub fn namespace(&self) -> Option<&str> {
        self.meta().namespace.as_deref().filter(|namespace| !namespace.is_empty())
    }
}
