//! From a Wasm file to code that can be started: adapted, compiled, cached, linked.
//!
//! A core module is first made a component (WASI 0.1 is adapted). Compiled code lives in `<data>/compiled/`, by the digest of
//! the file, the engine's settings and the CPU's features; it is mapped into memory and shared by every container of the image.
//! Invariants: an image compiles once however many containers wait for it; what the cache on disk does not have whole is made again.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use wasmtime::component::Component;
use wasmtime_wasi_http::handler::ProxyPre;

use crate::adapt;
use crate::code_cache::CodeCache;
use crate::engine::Engine;
use crate::guest::Guest;
use crate::image::ArtifactFile;
use crate::kind::{Kind, decide};

/// Compilations at a time. Each uses every core (parallel compilation), so more would only take memory.
const MAX_COMPILATIONS: usize = 2;

/// The largest file that is read as a guest.
pub const MAX_WASM_BYTES: u64 = 512 << 20;

/// Counts up when what is stored under a key changes in a way that nothing else in the key covers.
const CACHE_FORMAT: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("image is not WebAssembly: {0}")]
    NotWasm(String),
    #[error("image is {size} bytes of WebAssembly: the limit is {MAX_WASM_BYTES}")]
    TooLarge { size: u64 },
    #[error(transparent)]
    Adapt(#[from] adapt::Error),
    #[error("WebAssembly does not compile: {0}")]
    Compile(String),
    #[error("imports cannot be satisfied: {0}")]
    Imports(String),
    #[error(
        "component has nothing to run: it exports {exports}, but none of wasi:cli/run, wasi:http/incoming-handler (0.2) and wasi:http/handler (0.3)"
    )]
    NoEntry { exports: String },
    #[error("read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the compiler crashed on this file")]
    Crashed,
    #[error("compilation was interrupted")]
    Interrupted,
}

/// Code that is ready to be instantiated.
pub struct Artifact {
    pub kind: Kind,
    pub program: Program,
}

pub enum Program {
    Command2(wasmtime_wasi::p2::bindings::CommandPre<Guest>),
    Command3(wasmtime_wasi::p3::bindings::CommandPre<Guest>),
    Http(ProxyPre<Guest>),
}

type Slot = Arc<tokio::sync::Mutex<Weak<Artifact>>>;

/// Makes artifacts and remembers those in use.
pub struct Compiler {
    engine: Arc<Engine>,
    cache: CodeCache,
    slots: Mutex<HashMap<String, Slot>>,
    permits: Arc<Semaphore>,
}

impl Compiler {
    pub fn new(engine: Arc<Engine>, dir: PathBuf) -> Compiler {
        let permits = Arc::new(Semaphore::new(MAX_COMPILATIONS));
        Compiler { engine, cache: CodeCache::new(dir), slots: Mutex::default(), permits }
    }

    /// The artifact of a file: the one in use, else from the cache, else compiled now.
    pub async fn load(&self, file: &ArtifactFile) -> Result<Arc<Artifact>, Error> {
        let slot = self.slot(&file.digest);
        let mut known = slot.lock().await;
        if let Some(artifact) = known.upgrade() {
            return Ok(artifact);
        }
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| Error::Interrupted)?;
        let (engine, cache, file) = (self.engine.clone(), self.cache.clone(), file.clone());
        let work = move || {
            let _permit = permit;
            make(&engine, &cache, &file)
        };
        let made = tokio::task::spawn_blocking(work).await;
        let artifact = made.map_err(|error| if error.is_panic() { Error::Crashed } else { Error::Interrupted })??;
        let artifact = Arc::new(artifact);
        *known = Arc::downgrade(&artifact);
        Ok(artifact)
    }

    /// One lock for each digest, so that an image compiles once. Slots that nobody uses any more are dropped on the way.
    fn slot(&self, digest: &str) -> Slot {
        let mut slots = self.slots.lock();
        slots.retain(|_, slot| {
            Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|artifact| artifact.strong_count() > 0)
        });
        slots.entry(digest.to_owned()).or_default().clone()
    }
}

fn make(engine: &Engine, cache: &CodeCache, file: &ArtifactFile) -> Result<Artifact, Error> {
    let key = cache_key(engine, &file.digest);
    let component = match cached(engine, cache, &key) {
        Some(component) => component,
        None => {
            let component = compile(engine, &read(&file.path)?)?;
            if let Err(error) = keep(cache, &key, &component) {
                // Only speed is lost: the next start compiles again.
                tracing::warn!(digest = file.digest, %error, "compiled code could not be cached");
            }
            component
        }
    };
    link(engine, &component)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let fail = |source| Error::Read { path: path.to_owned(), source };
    let size = std::fs::metadata(path).map_err(fail)?.len();
    if size > MAX_WASM_BYTES {
        return Err(Error::TooLarge { size });
    }
    std::fs::read(path).map_err(fail)
}

fn compile(engine: &Engine, bytes: &[u8]) -> Result<Component, Error> {
    let component = if wasmparser::Parser::is_core_wasm(bytes) {
        &adapt::componentize(bytes)?
    } else if wasmparser::Parser::is_component(bytes) {
        bytes
    } else {
        return Err(Error::NotWasm(describe(bytes)));
    };
    Component::from_binary(engine.wasmtime(), component).map_err(|error| Error::Compile(one_line(&error)))
}

/// What a file that is not Wasm seems to be, for the user who took it for Wasm.
fn describe(bytes: &[u8]) -> String {
    match bytes {
        [] => "the file is empty".into(),
        [0x7f, b'E', b'L', b'F', ..] => "it is an ELF binary".into(),
        [b'#', b'!', ..] => "it is a script".into(),
        [0x1f, 0x8b, ..] => "it is a gzip archive".into(),
        _ => {
            let head = &bytes[..bytes.len().min(8)];
            format!("it starts with {:?} instead of \"\\0asm\"", head.escape_ascii().to_string())
        }
    }
}

fn link(engine: &Engine, component: &Component) -> Result<Artifact, Error> {
    let ty = component.component_type();
    let exports: Vec<String> = ty.exports(engine.wasmtime()).map(|(name, _)| name.to_owned()).collect();
    let Some(kind) = decide(exports.iter().map(String::as_str)) else {
        let exports = if exports.is_empty() { "nothing".into() } else { exports.join(", ") };
        return Err(Error::NoEntry { exports });
    };
    let imports = |error: wasmtime::Error| Error::Imports(one_line(&error));
    let pre = engine.linker().instantiate_pre(component).map_err(imports)?;
    let program = match kind {
        Kind::Command2 => wasmtime_wasi::p2::bindings::CommandPre::new(pre).map(Program::Command2),
        Kind::Command3 => wasmtime_wasi::p3::bindings::CommandPre::new(pre).map(Program::Command3),
        Kind::Http2 => wasmtime_wasi_http::p2::bindings::ProxyPre::new(pre).map(|pre| Program::Http(ProxyPre::P2(pre))),
        Kind::Http3 => {
            wasmtime_wasi_http::p3::bindings::ServicePre::new(pre).map(|pre| Program::Http(ProxyPre::P3(pre)))
        }
    };
    let program = program.map_err(|error| Error::Compile(one_line(&error)))?;
    Ok(Artifact { kind, program })
}

/// An error and its causes on one line, as a pod's status shows it.
pub fn one_line(error: &wasmtime::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        // Wasmtime's contexts often repeat their cause.
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(cause.trim());
        }
    }
    text.replace('\n', " ")
}

/// Names what the compiled form depends on: the file, and all that goes into compiling it on this machine.
fn cache_key(engine: &Engine, digest: &str) -> String {
    struct Sum(Sha256);
    impl Hasher for Sum {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut sum = Sum(Sha256::new());
    (CACHE_FORMAT, adapt::VERSION, digest).hash(&mut sum);
    engine.wasmtime().precompile_compatibility_hash().hash(&mut sum);
    hex::encode(sum.0.finalize())
}

/// The component that was compiled before under this key.
fn cached(engine: &Engine, cache: &CodeCache, key: &str) -> Option<Component> {
    let file = cache.find(key)?;
    // SAFETY: mapping native code is sound if it is what this engine's compiler wrote. Only this process writes to the
    // directory (mode 0700), each file atomically and under a name that covers compiler, settings and CPU, and never changes
    // one in place; the checksum just verified rules out truncation and bit rot; Wasmtime itself refuses a file of another
    // version or other settings.
    #[allow(unsafe_code)]
    let component = unsafe { Component::deserialize_file(engine.wasmtime(), &file) };
    component.inspect_err(|error| tracing::warn!(file = %file.display(), %error, "compiled code does not load")).ok()
}

fn keep(cache: &CodeCache, key: &str, component: &Component) -> anyhow::Result<()> {
    let code = component.serialize().map_err(|error| anyhow::anyhow!("serialize: {error:#}"))?;
    Ok(cache.keep(key, &code)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiler(dir: &Path) -> Compiler {
        Compiler::new(Arc::new(Engine::new().unwrap()), dir.to_owned())
    }

    fn file(dir: &Path, bytes: &[u8]) -> ArtifactFile {
        let path = dir.join("guest.wasm");
        std::fs::write(&path, bytes).unwrap();
        ArtifactFile { path, digest: format!("sha256:{}", hex::encode(Sha256::digest(bytes))), ..Default::default() }
    }

    async fn load(bytes: &[u8]) -> Result<Arc<Artifact>, Error> {
        let dir = tempfile::tempdir().unwrap();
        compiler(dir.path()).load(&file(dir.path(), bytes)).await
    }

    async fn check(text: &str, expected: &[&str]) {
        let bytes = wat::parse_str(text).unwrap();
        let error = load(&bytes).await.err().expect("it does not load").to_string();
        for part in expected {
            assert!(error.contains(part), "{error:?} says {part:?}");
        }
    }

    const COMMAND: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;

    #[tokio::test]
    async fn what_is_not_wasm_is_told_apart() {
        for (bytes, expected) in [
            (&b""[..], "image is not WebAssembly: the file is empty"),
            (b"\x7fELF\x02\x01", "image is not WebAssembly: it is an ELF binary"),
            (b"#!/bin/sh\n", "image is not WebAssembly: it is a script"),
            (b"hello, world", r#"image is not WebAssembly: it starts with "hello, w" instead of "\0asm""#),
        ] {
            assert_eq!(load(bytes).await.err().expect("it does not load").to_string(), expected);
        }
    }

    #[tokio::test]
    async fn truncated_wasm_does_not_compile() {
        let bytes = wat::parse_str(COMMAND).unwrap();
        assert!(matches!(load(&bytes[..bytes.len() - 3]).await, Err(Error::Adapt(adapt::Error::Malformed(_)))));
    }

    #[tokio::test]
    async fn missing_imports_are_named() {
        check(
            r#"(module (import "env" "door" (func)) (memory (export "memory") 1) (func (export "_start")))"#,
            &["env"],
        )
        .await;
        check(
            r#"(component
                (import "nobody:home/door@0.1.0" (instance (export "knock" (func))))
                (instance $run (export "wasi:cli/run@0.2.0")))"#,
            &["nobody:home/door"],
        )
        .await;
    }

    #[tokio::test]
    async fn a_component_without_an_entry_says_what_it_exports() {
        check("(component)", &["nothing to run", "exports nothing"]).await;
        check(r#"(module (func (export "add")))"#, &["nothing to run"]).await;
    }

    #[tokio::test]
    async fn containers_of_an_image_share_its_code() {
        let dir = tempfile::tempdir().unwrap();
        let compiler = compiler(dir.path());
        let file = file(dir.path(), &wat::parse_str(COMMAND).unwrap());
        let (a, b) = tokio::join!(compiler.load(&file), compiler.load(&file));
        assert!(Arc::ptr_eq(&a.unwrap(), &b.unwrap()));
    }

    #[tokio::test]
    async fn the_cache_serves_when_the_image_is_gone_and_damage_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = wat::parse_str(COMMAND).unwrap();
        let file = file(dir.path(), &bytes);
        compiler(dir.path()).load(&file).await.unwrap();
        std::fs::remove_file(&file.path).unwrap();
        compiler(dir.path()).load(&file).await.expect("from the cache alone");

        let code = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path());
        let code = code.into_iter().find(|p| p.extension().is_some_and(|e| e == "cwasm")).unwrap();
        let whole = std::fs::read(&code).unwrap();
        for damaged in [&whole[..whole.len() / 2], b"not code at all"] {
            std::fs::write(&code, damaged).unwrap();
            assert!(matches!(compiler(dir.path()).load(&file).await, Err(Error::Read { .. })), "it wants to compile");
            std::fs::write(&file.path, &bytes).unwrap();
            compiler(dir.path()).load(&file).await.expect("compiled again");
            assert_eq!(std::fs::read(&code).unwrap().len(), whole.len(), "and cached again");
            std::fs::remove_file(&file.path).unwrap();
        }
    }
}
