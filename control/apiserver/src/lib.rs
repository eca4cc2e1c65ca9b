//! The API server: the request stack and the verbs, written once over the resource table.
//!
//! A request passes, in an order that stands in [`server`] alone: identity → priority and fairness → authorization → route →
//! decode → admission → commit → reply. Nothing but this crate touches the store.
//! Absent on purpose: knowledge of kinds (the registry's strategies have it), decoding to serve a read.

pub mod aggregate;
pub mod allocate;
pub mod audit;
mod body;
pub mod bootstrap;
pub mod call;
mod claims;
mod components;
mod connect;
pub mod definitions;
pub mod discovery;
pub mod encryption;
mod escalation;
pub mod fairness;
pub mod health;
mod impersonate;
mod index;
mod listbody;
pub mod listen;
mod managed;
mod measure;
pub mod metrics;
pub mod negotiate;
pub mod node;
pub mod nonresource;
pub mod openapi;
mod options;
pub mod plugins;
pub mod policy;
pub mod query;
pub mod reply;
pub mod request;
mod review;
pub mod route;
pub mod server;
mod subresource;
mod table;
mod verbs;
pub mod version;
mod versions;
mod views;

pub use body::BODY_MAX;
pub use node::NodeClient;
pub use reply::Body;
pub use server::{ApiServer, Clock, Options};
pub use views::Stored;
