//! The Wasm engine behind the Runtime contract.
//!
//! A pod's containers are guests of one Wasmtime engine in this process: commands (`wasi:cli`), HTTP components (`wasi:http`)
//! and core modules (WASI 0.1, adapted when loaded). [`WasmRuntime`] implements [`wharf_cri::Runtime`] over an image store
//! ([`Artifacts`]) and the pod network ([`wharf_net::Network`]).
//!
//! From a file to a running guest: `artifact` (adapt, compile, cache, link) → `guest` (one instance's state) under `limits` →
//! `command` or `http` + `pool` → `container` (its life) → `runtime` (the contract). `host/` is what guests may import.
//! Invariants: a guest reaches only what its pod grants; it never holds a thread for long; ending it is always possible.
//! Absent on purpose: Linux containers, image pulls, anything of Kubernetes.

mod adapt;
mod artifact;
mod code_cache;
mod command;
mod container;
mod engine;
mod guest;
mod host;
mod http;
mod image;
mod kind;
mod limits;
mod log;
mod pod;
mod pool;
mod runtime;
mod terminal;
mod toolbox;

pub use code_cache::{CODE_MAX_BYTES, CodeCache};
pub use image::{ArtifactFile, Artifacts};
pub use runtime::{Options, WasmRuntime};
pub use toolbox::TOOLS;
