//! The one Wasmtime engine of admission, what it links, and the pulse that interrupts its guests.
//!
//! Memories, tables and stacks are taken from a pool of addresses that costs nothing until guests run. So a fresh instance for each
//! call, which is what keeps one write from being told of another, costs about as much again as the call itself (0.10 ms in place of the
//! 0.05 ms of an instance that is used again; 0.15 ms where memory is mapped for each call). The pulse rests while no guest runs.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use wasmtime::component::Linker;
use wasmtime::{Config, EngineWeak, InstanceAllocationStrategy, PoolingAllocationConfig};
use wasmtime_wasi::cli::{WasiCli, WasiCliView};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView};
use wasmtime_wasi::p2::bindings;
use wasmtime_wasi::random::WasiRandom;

use super::guest::Guest;
use super::host::CALLS_MAX;
use wasmtime_wasi::WasiView;

/// How long a guest may compute before others have their turn.
const TICK: Duration = Duration::from_millis(5);
/// Modules that a component's instance may be made of, for guests of the size of an interpreter.
const CORE_INSTANCES_PER_CALL: u32 = 32;
const MEMORIES_PER_CALL: u32 = 2;
const TABLE_ELEMENTS_MAX: usize = 100_000;
/// Of a memory or table, how much is wiped rather than given back to the system between calls.
const KEPT_BYTES: usize = 64 << 10;
/// Ticks without a running guest after which the pulse rests.
const IDLE_TICKS: u32 = 40;

pub struct Engine {
    pub wasmtime: wasmtime::Engine,
    pub linker: Linker<Guest>,
    pulse: Arc<Pulse>,
}

impl Engine {
    pub fn new() -> wasmtime::Result<Self> {
        // Where addresses are too few for a pool, each call pays for its own memory.
        Self::with(pooled()).or_else(|error| {
            tracing::warn!(error = %error, "no pool for admission plugins: calls are slower");
            Self::with(Config::new())
        })
    }

    fn with(mut config: Config) -> wasmtime::Result<Self> {
        config.epoch_interruption(true);
        let wasmtime = wasmtime::Engine::new(&config)?;
        let mut linker = Linker::new(&wasmtime);
        link(&mut linker)?;
        let pulse = Pulse::start(wasmtime.weak())?;
        Ok(Self { wasmtime, linker, pulse })
    }

    /// Guest code is about to run, until the guard goes.
    pub fn enter(&self) -> Running {
        self.pulse.clone().enter()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.pulse.stop();
    }
}

fn pooled() -> Config {
    let (calls, mut pool) = (u32::try_from(CALLS_MAX).unwrap_or(u32::MAX), PoolingAllocationConfig::default());
    pool.total_component_instances(calls)
        .total_stacks(calls)
        .total_core_instances(calls.saturating_mul(CORE_INSTANCES_PER_CALL))
        .total_tables(calls.saturating_mul(CORE_INSTANCES_PER_CALL))
        .total_memories(calls.saturating_mul(MEMORIES_PER_CALL))
        .table_elements(TABLE_ELEMENTS_MAX)
        .linear_memory_keep_resident(KEPT_BYTES)
        .table_keep_resident(KEPT_BYTES);
    let mut config = Config::new();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

/// What runtimes of languages import, over a context that is empty: no sockets, and of files and the environment nothing but the
/// knowledge that there are none. Clocks and random numbers are real.
fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    use bindings::{cli, filesystem, random};
    wasmtime_wasi::p2::add_to_linker_proxy_interfaces_async(linker)?;
    random::insecure::add_to_linker::<Guest, WasiRandom>(linker, |guest| guest.ctx().ctx.random())?;
    random::insecure_seed::add_to_linker::<Guest, WasiRandom>(linker, |guest| guest.ctx().ctx.random())?;
    cli::exit::add_to_linker::<Guest, WasiCli>(linker, Guest::cli)?;
    cli::environment::add_to_linker::<Guest, WasiCli>(linker, Guest::cli)?;
    cli::terminal_input::add_to_linker::<Guest, WasiCli>(linker, Guest::cli)?;
    cli::terminal_output::add_to_linker::<Guest, WasiCli>(linker, Guest::cli)?;
    cli::terminal_stdin::add_to_linker::<Guest, WasiCli>(linker, Guest::cli)?;
    cli::terminal_stdout::add_to_linker::<Guest, WasiCli>(linker, Guest::cli)?;
    cli::terminal_stderr::add_to_linker::<Guest, WasiCli>(linker, Guest::cli)?;
    filesystem::types::add_to_linker::<Guest, WasiFilesystem>(linker, Guest::filesystem)?;
    filesystem::preopens::add_to_linker::<Guest, WasiFilesystem>(linker, Guest::filesystem)
}

/// Advances the engine's epoch while guests run.
#[derive(Default)]
struct Pulse {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    running: usize,
    resting: bool,
    stopped: bool,
}

impl Pulse {
    fn start(engine: EngineWeak) -> std::io::Result<Arc<Self>> {
        let pulse = Arc::new(Self::default());
        let beating = pulse.clone();
        std::thread::Builder::new().name("admission-epoch".into()).spawn(move || beating.beat(&engine))?;
        Ok(pulse)
    }

    fn beat(&self, engine: &EngineWeak) {
        let mut idle = 0;
        loop {
            std::thread::sleep(TICK);
            let mut state = self.state.lock();
            idle = if state.running == 0 { idle + 1 } else { 0 };
            if idle > IDLE_TICKS {
                state.resting = true;
                self.wake.wait_while(&mut state, |state| state.running == 0 && !state.stopped);
                state.resting = false;
                idle = 0;
            }
            if state.stopped {
                return;
            }
            drop(state);
            let Some(engine) = engine.upgrade() else { return };
            engine.increment_epoch();
        }
    }

    fn enter(self: Arc<Self>) -> Running {
        let mut state = self.state.lock();
        state.running += 1;
        if state.resting {
            self.wake.notify_one();
        }
        drop(state);
        Running(self)
    }

    fn stop(&self) {
        self.state.lock().stopped = true;
        self.wake.notify_one();
    }
}

/// See [`Engine::enter`].
pub struct Running(Arc<Pulse>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.state.lock().running -= 1;
    }
}
