//! Write Wharf workloads in Rust.
//!
//! A function is a handler and one line:
//!
//! ```ignore
//! use wharf_guest::http::{Body, Error, Request, Response};
//!
//! async fn hello(_request: Request<Body>) -> Result<Response<Body>, Error> {
//!     Ok(Response::new("hello\n".into()))
//! }
//!
//! wharf_guest::http_handler!(hello);
//! ```
//!
//! Build it as a `cdylib` for `wasm32-wasip2`. A job needs nothing from here: an ordinary `fn main` is a `wasi:cli/command`
//! component, and `std` reaches its arguments, environment, volumes and sockets.
//!
//! What the API server asks before it stores something is an admission plugin: see [`admission`].
//!
//! Absent on purpose: a router, a runtime of its own. `wstd` is re-exported for what this crate does not wrap.

pub mod admission;
pub mod config;
pub mod http;
pub mod log;

pub use wstd;
