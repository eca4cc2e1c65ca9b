//! The state of one instance: what its host calls work on.

use std::io::Write;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use wasmtime::Store;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};
use wasmtime_wasi_io::poll::Pollable;
use wasmtime_wasi_io::streams::{OutputStream, StreamError, StreamResult};

use crate::engine::Engine;
use crate::host::outgoing::Outgoing;
use crate::host::sockets::Addresses;
use crate::limits::{Cpu, Memory, Share};
use crate::log::{Output, Stream};
use crate::pod::Pod;

/// Host resources (sockets, streams, files, requests) that one instance may hold at a time.
const MAX_RESOURCES: usize = 65_536;

/// What a guest may write to stdout or stderr in one call.
const MAX_OUTPUT_WRITE: usize = 64 * 1024;

/// A directory that a guest may open.
#[derive(Clone, Debug)]
pub struct Preopen {
    pub host: PathBuf,
    pub guest: String,
    pub read_only: bool,
}

/// What all instances of a container have in common.
pub struct Spec {
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub working_dir: String,
    pub preopens: Vec<Preopen>,
    pub pod: Arc<Pod>,
    pub memory: Arc<Memory>,
    pub cpu: Arc<Cpu>,
}

/// The data of a [`Store`].
pub struct Guest {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    addresses: Addresses,
    share: Share,
}

impl Guest {
    /// A store for one instance, under the container's limits.
    pub fn store(
        engine: &Engine,
        spec: &Spec,
        argv: &[String],
        output: Arc<dyn Output>,
    ) -> wasmtime::Result<Store<Guest>> {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_RESOURCES);
        let guest = Guest {
            table,
            wasi: wasi(spec, argv, output)?,
            http: WasiHttpCtx::new(),
            outgoing: Outgoing::new(spec.pod.clone()),
            addresses: Addresses::new(spec.pod.clone()),
            share: Share::new(spec.memory.clone()),
        };
        let mut store = Store::new(engine.wasmtime(), guest);
        store.limiter(|guest| &mut guest.share);
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        Ok(store)
    }

    /// True once the memory limit refused it something.
    pub fn out_of_memory(&self) -> bool {
        self.share.denied()
    }

    pub fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }

    pub fn addresses(&mut self) -> &mut Addresses {
        &mut self.addresses
    }

    /// WASI's sockets and the pod's addresses, borrowed together.
    pub fn sockets_and_addresses(&mut self) -> (wasmtime_wasi::sockets::WasiSocketsCtxView<'_>, &mut Addresses) {
        let view = wasmtime_wasi::sockets::WasiSocketsCtxView { ctx: self.wasi.sockets(), table: &mut self.table };
        (view, &mut self.addresses)
    }
}

fn wasi(spec: &Spec, argv: &[String], output: Arc<dyn Output>) -> wasmtime::Result<WasiCtx> {
    let mut wasi = WasiCtxBuilder::new();
    wasi.args(argv).envs(&spec.env);
    wasi.stdout(Stdio::new(output.clone(), Stream::Stdout)).stderr(Stdio::new(output, Stream::Stderr));
    if !spec.working_dir.is_empty() {
        wasi.initial_cwd(&spec.working_dir);
    }
    for preopen in &spec.preopens {
        let perms = if preopen.read_only { FsPerms::ReadOnly } else { FsPerms::ReadWrite };
        wasi.preopened_dir(&preopen.host, &preopen.guest, perms)
            .map_err(|error| error.context(format!("open {} for {}", preopen.host.display(), preopen.guest)))?;
    }
    // What an address means and whether it may be used is decided in `host::sockets`, which translates every one of them.
    wasi.socket_addr_check(|_, _| Box::pin(async { true })).allow_tcp(true).allow_udp(true).allow_ip_name_lookup(false);
    Ok(wasi.build())
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.outgoing, table: &mut self.table, ctx: &mut self.http }
    }
}

/// Stdout or stderr of one instance. Writes go straight through, so a guest cannot outrun its log.
#[derive(Clone)]
struct Stdio(Arc<Mutex<Box<dyn Write + Send>>>);

impl Stdio {
    fn new(output: Arc<dyn Output>, stream: Stream) -> Stdio {
        Stdio(Arc::new(Mutex::new(output.open(stream))))
    }
}

impl IsTerminal for Stdio {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stdio {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for Stdio {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.lock().write_all(&bytes).map_err(|error| StreamError::LastOperationFailed(error.into()))
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(MAX_OUTPUT_WRITE)
    }
}

#[async_trait::async_trait]
impl Pollable for Stdio {
    async fn ready(&mut self) {}
}

impl AsyncWrite for Stdio {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(self.0.lock().write(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
