//! The state of one call: an empty WASI context, a memory limit, and the guest's last words.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, Store};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{I32Exit, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use super::engine::Engine;

/// What a guest may write to stdout and stderr that somebody will see, in bytes; the rest is lost.
const WORDS_MAX: usize = 4 << 10;
/// Bytes of a guest's output that go into a message.
const QUOTED_MAX: usize = 512;
/// Most that a guest may write in one call.
const WRITE_MAX: usize = 64 << 10;
/// Host resources (streams, pollables) that one instance may hold at a time.
const RESOURCES_MAX: usize = 1024;
/// What a table's entry costs in memory.
const TABLE_ELEMENT_BYTES: u64 = 8;

pub struct Guest {
    table: ResourceTable,
    wasi: WasiCtx,
    memory: Memory,
    words: Words,
}

impl Guest {
    pub fn store(engine: &Engine, memory_bytes: u64) -> Store<Guest> {
        let (mut table, words) = (ResourceTable::new(), Words::default());
        table.set_max_capacity(RESOURCES_MAX);
        let mut wasi = WasiCtxBuilder::new();
        wasi.stdout(words.clone()).stderr(words.clone());
        wasi.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
        let memory = Memory { limit: memory_bytes, left: memory_bytes, denied: false };
        let mut store = Store::new(&engine.wasmtime, Guest { table, wasi: wasi.build(), memory, words });
        store.limiter(|guest| &mut guest.memory);
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        store
    }

    /// Why a call came to nothing, in words for whoever installed the plugin.
    pub fn explain(&self, error: &wasmtime::Error) -> String {
        if self.memory.denied {
            return format!("it met its memory limit of {} bytes", self.memory.limit);
        }
        let why = match (error.downcast_ref::<I32Exit>(), error.downcast_ref::<wasmtime::Trap>()) {
            (Some(exit), _) => format!("it exited with code {}", exit.0),
            (None, Some(trap)) => trap.to_string(),
            (None, None) => error.root_cause().to_string(),
        };
        match self.words() {
            words if words.is_empty() => why,
            words => format!("{why}; it said: {words}"),
        }
    }

    /// The end of what the guest has written.
    pub fn words(&self) -> String {
        let held = self.words.0.lock();
        let text = String::from_utf8_lossy(&held);
        let text = text.trim();
        let start = (text.len().saturating_sub(QUOTED_MAX)..text.len()).find(|at| text.is_char_boundary(*at));
        text[start.unwrap_or(text.len())..].to_owned()
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// All linear memories and tables of a call, together.
struct Memory {
    limit: u64,
    left: u64,
    denied: bool,
}

impl Memory {
    fn grow(&mut self, bytes: u64) -> bool {
        match self.left.checked_sub(bytes) {
            Some(left) => self.left = left,
            None => self.denied = true,
        }
        !self.denied
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        // Past its own maximum the guest's growth fails whatever we say: that is not our limit's doing.
        Ok(maximum.is_none_or(|maximum| desired <= maximum) && self.grow((desired - current) as u64))
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let bytes = (desired - current) as u64 * TABLE_ELEMENT_BYTES;
        Ok(maximum.is_none_or(|maximum| desired <= maximum) && self.grow(bytes))
    }
}

/// What a guest writes to stdout and stderr: the first of it is kept.
#[derive(Clone, Default)]
struct Words(Arc<Mutex<Vec<u8>>>);

impl Words {
    fn hear(&self, bytes: &[u8]) {
        let mut held = self.0.lock();
        let room = WORDS_MAX.saturating_sub(held.len());
        held.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

impl IsTerminal for Words {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Words {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for Words {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.hear(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_MAX)
    }
}

#[async_trait::async_trait]
impl Pollable for Words {
    async fn ready(&mut self) {}
}

impl AsyncWrite for Words {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.hear(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
