//! The words every room of the house shares: Kubernetes types, identities of resources, errors and field paths.
//!
//! Nothing here does I/O or knows tokio. Kubernetes' own structs are `k8s-openapi`'s, re-exported as [`k8s`];
//! this crate adds what upstream keeps in `apimachinery` beside them.

pub mod admission;
pub mod error;
pub mod field;
pub mod gvk;
mod lean;
pub mod object;
pub mod order;

pub use error::ApiError;
pub use gvk::{GroupVersion, Gvk, Gvr};
pub use k8s_openapi as k8s;
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
pub use lean::lean;
pub use object::{AnyObject, BoxObject, KubeObject};

/// The version that `/version` reports: the Kubernetes minor release whose API is served.
pub const KUBERNETES_VERSION: &str = "v1.36.0";
