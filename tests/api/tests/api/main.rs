//! The API of the real binary over real TLS, asked as any client would ask it.
//!
//! The resources are those that the server says it has, so a new one is tested as soon as it is served; without a sample in
//! `samples.yaml` the suite fails. Absent on purpose: what only one kind does (the registry's own tests), and the request stack
//! in detail (the API server's).

mod http;
mod life;
mod pages;
mod samples;
mod watch;
