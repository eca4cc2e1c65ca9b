//! The one Wasmtime engine of a node, and the pulse that interrupts its guests.
//!
//! Invariants: guest code never holds a thread longer than [`TICK`] (an epoch makes it yield to the scheduler); the pulse rests
//! while no guest runs, so an idle node wakes for nothing. Memories are allocated on demand rather than from a pool: a pool
//! would bound how many instances, tables and modules a component may have, and idle HTTP pods hold no instance anyway.
//! Absent on purpose: fuel (epochs cost less), Wasm threads, memory64 of components.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::Duration;

use wasmtime::component::Linker;
use wasmtime::{Config, EngineWeak};

use crate::guest::Guest;
use crate::host;

/// How long guest code may run before it yields.
pub const TICK: Duration = Duration::from_millis(10);

/// Ticks without a running guest after which the pulse rests.
const IDLE_TICKS: u32 = 20;

pub struct Engine {
    wasmtime: wasmtime::Engine,
    linker: Linker<Guest>,
    pulse: Arc<Pulse>,
}

impl Engine {
    pub fn new() -> wasmtime::Result<Engine> {
        let mut config = Config::new();
        config.epoch_interruption(true).wasm_component_model_async(true);
        let wasmtime = wasmtime::Engine::new(&config)?;
        let linker = host::linker(&wasmtime)?;
        let pulse = Pulse::start(wasmtime.weak())?;
        Ok(Engine { wasmtime, linker, pulse })
    }

    pub fn wasmtime(&self) -> &wasmtime::Engine {
        &self.wasmtime
    }

    pub fn linker(&self) -> &Linker<Guest> {
        &self.linker
    }

    pub fn pulse(&self) -> Arc<Pulse> {
        self.pulse.clone()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.pulse.stop();
    }
}

/// Advances the engine's epoch while guests run.
#[derive(Debug, Default)]
pub struct Pulse {
    running: AtomicUsize,
    resting: AtomicBool,
    stopped: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Pulse {
    fn start(engine: EngineWeak) -> std::io::Result<Arc<Pulse>> {
        let pulse = Arc::new(Pulse::default());
        let beating = pulse.clone();
        let thread = std::thread::Builder::new().name("wasm-epoch".into()).spawn(move || beating.beat(&engine))?;
        let _ = pulse.thread.set(thread.thread().clone());
        Ok(pulse)
    }

    fn beat(&self, engine: &EngineWeak) {
        let mut idle = 0;
        while !self.stopped.load(Ordering::SeqCst) {
            idle = if self.running.load(Ordering::SeqCst) == 0 { idle + 1 } else { 0 };
            if idle > IDLE_TICKS {
                // `enter` counts itself before it looks at `resting`, so one of the two sees the other.
                self.resting.store(true, Ordering::SeqCst);
                if self.running.load(Ordering::SeqCst) == 0 && !self.stopped.load(Ordering::SeqCst) {
                    std::thread::park();
                }
                self.resting.store(false, Ordering::SeqCst);
                idle = 0;
            }
            let Some(engine) = engine.upgrade() else { return };
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(TICK);
        }
    }

    /// Guest code is about to run, until the guard goes.
    pub fn enter(&self) -> Running<'_> {
        self.running.fetch_add(1, Ordering::SeqCst);
        if self.resting.load(Ordering::SeqCst) {
            self.wake();
        }
        Running(self)
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.wake();
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

/// See [`Pulse::enter`].
#[derive(Debug)]
pub struct Running<'a>(&'a Pulse);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}
