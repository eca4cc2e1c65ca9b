//! The state of one instance: what its host calls work on.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;
use wasmtime::Store;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::cli::{AsyncStdinStream, IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};
use wasmtime_wasi_io::poll::Pollable;
use wasmtime_wasi_io::streams::{InputStream, OutputStream, StreamError, StreamResult};

use crate::engine::Engine;
use crate::host::outgoing::Outgoing;
use crate::host::sockets::Addresses;
use crate::limits::{Cpu, Memory, Share};
use crate::log::{Output, Sink, Stream};
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
    pub console: Console,
    pub memory: Arc<Memory>,
    pub cpu: Arc<Cpu>,
}

/// What a container's spec says of its streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Console {
    pub stdin: bool,
    /// The first client's end of input is the container's.
    pub stdin_once: bool,
    pub tty: bool,
}

/// The streams of one instance.
pub struct Stdio {
    /// None is at its end from the start.
    pub stdin: Option<mpsc::Receiver<Bytes>>,
    pub output: Arc<dyn Output>,
    pub tty: bool,
}

impl Stdio {
    pub fn output(output: Arc<dyn Output>) -> Stdio {
        Stdio { stdin: None, output, tty: false }
    }
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
    pub fn store(engine: &Engine, spec: &Spec, argv: &[String], stdio: Stdio) -> wasmtime::Result<Store<Guest>> {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_RESOURCES);
        let guest = Guest {
            table,
            wasi: wasi(spec, argv, stdio)?,
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

fn wasi(spec: &Spec, argv: &[String], stdio: Stdio) -> wasmtime::Result<WasiCtx> {
    let mut wasi = WasiCtxBuilder::new();
    wasi.args(argv).envs(&spec.env);
    let Stdio { stdin, output, tty } = stdio;
    wasi.stdout(Out::new(output.clone(), Stream::Stdout, tty)).stderr(Out::new(output, Stream::Stderr, tty));
    if let Some(stdin) = stdin {
        wasi.stdin(In::new(stdin, tty));
    }
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

/// Stdout or stderr of one instance. Writes go straight through, so a guest cannot outrun its log or who listens.
struct Out {
    sink: Arc<Mutex<Box<dyn Sink>>>,
    tty: bool,
    /// What an asynchronous write waits for.
    waits: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl Clone for Out {
    fn clone(&self) -> Out {
        Out { sink: self.sink.clone(), tty: self.tty, waits: Mutex::default() }
    }
}

impl Out {
    fn new(output: Arc<dyn Output>, stream: Stream, tty: bool) -> Out {
        Out { sink: Arc::new(Mutex::new(output.open(stream))), tty, waits: Mutex::default() }
    }
}

impl IsTerminal for Out {
    fn is_terminal(&self) -> bool {
        self.tty
    }
}

impl StdoutStream for Out {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for Out {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.sink.lock().write_all(&bytes).map_err(|error| match error.kind() {
            std::io::ErrorKind::BrokenPipe => StreamError::Closed,
            _ => StreamError::LastOperationFailed(error.into()),
        })
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(if self.sink.lock().wait().is_some() { 0 } else { MAX_OUTPUT_WRITE })
    }
}

#[async_trait::async_trait]
impl Pollable for Out {
    async fn ready(&mut self) {
        loop {
            let wait = self.sink.lock().wait();
            match wait {
                Some(wait) => wait.await,
                None => return,
            }
        }
    }
}

impl AsyncWrite for Out {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let mut waits = self.waits.lock();
        loop {
            if let Some(wait) = waits.as_mut() {
                std::task::ready!(wait.as_mut().poll(context));
            }
            let mut sink = self.sink.lock();
            *waits = sink.wait();
            if waits.is_none() {
                return Poll::Ready(sink.write(&bytes[..bytes.len().min(MAX_OUTPUT_WRITE)]));
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Stdin of one instance.
struct In {
    stream: AsyncStdinStream,
    tty: bool,
}

impl In {
    fn new(chunks: mpsc::Receiver<Bytes>, tty: bool) -> In {
        let chunks = tokio_stream_of(chunks).map(Ok::<_, std::io::Error>);
        In { stream: AsyncStdinStream::new(StreamReader::new(Box::pin(chunks))), tty }
    }
}

fn tokio_stream_of(chunks: mpsc::Receiver<Bytes>) -> impl futures::Stream<Item = Bytes> + Send {
    futures::stream::unfold(chunks, |mut chunks| async move { Some((chunks.recv().await?, chunks)) })
}

impl IsTerminal for In {
    fn is_terminal(&self) -> bool {
        self.tty
    }
}

impl StdinStream for In {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        self.stream.async_stream()
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        self.stream.p2_stream()
    }
}
