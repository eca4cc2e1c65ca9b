//! The real binary, driven by kubectl and kube-rs as a user would. Each test has a cluster of its own.

mod access;
mod bad_input;
mod certificates;
mod chart;
mod clients;
mod crash;
mod definitions;
mod encryption;
mod foreign;
mod images;
mod kubectl;
mod network;
mod pods;
mod secrecy;
mod streams;
mod tokens;
mod tools;
mod top;
mod walkthrough;

/// A file of `examples/`.
fn example(path: &str) -> String {
    format!("{}/../../examples/{path}", env!("CARGO_MANIFEST_DIR"))
}
