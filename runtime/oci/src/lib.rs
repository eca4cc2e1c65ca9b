//! Images: pulled from any OCI registry or imported by hand, kept by digest, served by an embedded registry.
//!
//! [`Store`] keeps blobs and an index of images and repositories; [`Puller`] fills it from registries and is the
//! Runtime contract's image service; [`import`] takes a bare `.wasm`; [`Registry`] serves the same blobs over the OCI
//! distribution protocol, so what is pushed to it runs without being copied.
//! Absent on purpose: Linux images (they come with the runtime for Linux containers) and image signatures.

pub mod binary;
pub mod digest;
pub mod import;
pub mod manifest;
pub mod pull;
pub mod reference;
pub mod registry;
pub mod store;
mod unpack;

pub use binary::Binary;
pub use digest::Digest;
pub use import::import;
pub use pull::Puller;
pub use reference::Reference;
pub use registry::Registry;
pub use store::{Image, Store};
