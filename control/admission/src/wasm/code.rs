//! A plugin's code: compiled or found on disk, linked, and called in an instance of its own.
//!
//! Compiled code is kept by the digest of the component, the engine's settings and the CPU's features, as a node keeps that of
//! containers: a server that starts maps it into memory and compiles nothing.

use std::hash::{Hash, Hasher};

use sha2::{Digest, Sha256};
use wasmtime::Store;
use wasmtime::component::{Component, InstancePre};

use super::Phase;
use super::bindings::{MUTATION, Request, VALIDATION, mutation, validation};
use super::engine::Engine;
use super::guest::Guest;
use super::host::{Components, Loaded};
use super::request::Answer;

/// Largest component, in bytes.
const COMPONENT_MAX_BYTES: usize = 64 << 20;
/// What the first bytes of a component are, and of a core module.
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
const MODULE: &[u8] = b"\0asm\x01\0\0\0";
/// Counts up when what is kept under a key changes in a way that nothing else in the key covers.
const CACHE_FORMAT: u32 = 1;

/// A component that is ready to be instantiated.
pub struct Code {
    digest: String,
    pre: InstancePre<Guest>,
    mutation: Option<mutation::GuestIndices>,
    validation: Option<validation::GuestIndices>,
}

impl Code {
    /// Of a component's bytes; `kept` has what was compiled before. The error is for the plugin's owner. Blocks.
    pub(super) fn make(engine: &Engine, kept: &dyn Components, digest: String, bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > COMPONENT_MAX_BYTES {
            return Err(format!("it is {} bytes long, and the limit is {COMPONENT_MAX_BYTES}", bytes.len()));
        }
        if bytes.starts_with(MODULE) {
            return Err("it is a core module, not a component".to_owned());
        }
        if !bytes.starts_with(COMPONENT) {
            return Err("it is not WebAssembly".to_owned());
        }
        let key = cache_key(engine, bytes);
        let component = match found(engine, kept, &key) {
            Some(component) => component,
            None => compile(engine, kept, &key, bytes)?,
        };
        Self::link(engine, digest, &component)
    }

    fn link(engine: &Engine, digest: String, component: &Component) -> Result<Self, String> {
        let exports = || {
            let names: Vec<String> =
                component.component_type().exports(&engine.wasmtime).map(|(name, _)| name.to_owned()).collect();
            if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
        };
        let pre =
            engine.linker.instantiate_pre(component).map_err(|error| format!("it asks for too much: {error:#}"))?;
        let mutation = mutation::GuestIndices::new(&pre);
        let validation = validation::GuestIndices::new(&pre);
        match (&mutation, &validation) {
            (Err(_), Err(_)) => Err(format!("it exports {}, and neither {MUTATION} nor {VALIDATION}", exports())),
            _ => Ok(Self { digest, pre, mutation: mutation.ok(), validation: validation.ok() }),
        }
    }

    pub fn has(&self, phase: Phase) -> bool {
        match phase {
            Phase::Mutating => self.mutation.is_some(),
            Phase::Validating => self.validation.is_some(),
        }
    }

    pub(super) fn loaded(&self) -> Loaded {
        let hooks = [Phase::Mutating, Phase::Validating].into_iter().filter(|phase| self.has(*phase)).collect();
        Loaded { digest: self.digest.clone(), hooks }
    }

    pub(super) async fn call(
        &self,
        phase: Phase,
        store: &mut Store<Guest>,
        request: Request,
    ) -> wasmtime::Result<Answer> {
        let instance = self.pre.instantiate_async(&mut *store).await?;
        Ok(match (phase, self.mutation.as_ref(), self.validation.as_ref()) {
            (Phase::Mutating, Some(indices), _) => {
                let guest = indices.load(&mut *store, &instance)?;
                guest.call_mutate(&mut *store, &request).await?.into()
            }
            (Phase::Validating, _, Some(indices)) => {
                let guest = indices.load(&mut *store, &instance)?;
                guest.call_validate(&mut *store, &request).await?.into()
            }
            (_, None, _) | (_, _, None) => Answer::default(),
        })
    }
}

/// The component that was compiled before under this key.
fn found(engine: &Engine, kept: &dyn Components, key: &str) -> Option<Component> {
    let file = kept.compiled(key)?;
    // SAFETY: mapping native code is sound if it is what this engine's compiler wrote. The file is whole, unchanged and out of
    // others' reach, as `Components::compiled` promises; its key covers the component, the compiler, its settings and the CPU;
    // Wasmtime itself refuses a file of another version or other settings.
    #[allow(unsafe_code)]
    let component = unsafe { Component::deserialize_file(&engine.wasmtime, &file) };
    component.inspect_err(|error| tracing::warn!(file = %file.display(), %error, "compiled code does not load")).ok()
}

fn compile(engine: &Engine, kept: &dyn Components, key: &str, bytes: &[u8]) -> Result<Component, String> {
    let component = Component::from_binary(&engine.wasmtime, bytes)
        .map_err(|error| format!("it does not compile: {}", error.root_cause()))?;
    let code = component.serialize().map_err(std::io::Error::other);
    if let Err(error) = code.and_then(|code| kept.keep_compiled(key, &code)) {
        // Only speed is lost: the next start compiles again.
        tracing::warn!(%error, "an admission plugin's compiled code could not be kept");
    }
    Ok(component)
}

/// Names what the compiled form depends on: the component, and all that goes into compiling it on this machine.
fn cache_key(engine: &Engine, bytes: &[u8]) -> String {
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
    ("admission", CACHE_FORMAT).hash(&mut sum);
    engine.wasmtime.precompile_compatibility_hash().hash(&mut sum);
    sum.0.update(Sha256::digest(bytes));
    hex::encode(sum.0.finalize())
}
