//! What guests may import: WASI 0.2 and 0.3 and wasi:http, over what their pod grants.
//!
//! Wasmtime's implementations serve all of it; `sockets` stands before theirs to give addresses and names their meaning in the
//! pod, `outgoing` sends HTTP requests through the pod's network, `filesystem` lays out what a guest may open.

pub mod filesystem;
pub mod outgoing;
pub mod sockets;

use wasmtime::component::Linker;

use crate::guest::Guest;

/// Every import that the host satisfies. An interface that is not here makes a container fail with its name.
pub fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi::p3::add_to_linker(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    linker.allow_shadowing(true);
    sockets::add_to_linker(&mut linker)?;
    linker.allow_shadowing(false);
    Ok(linker)
}
