//! Which plugins are loaded, and calls to them.
//!
//! A plugin's code is held under its name for the image that its spec names, so a change of anything else counts at once, and is
//! shared by plugins of the same digest. What was loaded goes on until something better is.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use wharf_types::k8s::api::core::v1::Secret;

use super::bindings::Request;
use super::code::Code;
use super::engine::Engine;
use super::guest::Guest;
use super::request::Answer;
use super::{Hook, Metrics, Phase};

/// Compilations at once: each uses every core.
const COMPILATIONS_MAX: usize = 1;
/// Calls at once, over all plugins; the others wait, within their own time.
pub const CALLS_MAX: usize = 128;

/// Whether an image that is here already will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pull {
    Always,
    IfNotPresent,
}

/// What a reference stands for.
#[derive(Clone, Debug)]
pub struct Component {
    /// Of the image, as users know it.
    pub digest: String,
    pub bytes: Vec<u8>,
}

/// Where components come from, and where their code is kept.
#[async_trait]
pub trait Components: Send + Sync + 'static {
    /// `secrets` may hold credentials for the image's registry. The error is for the plugin's owner.
    async fn resolve(&self, reference: &str, pull: Pull, secrets: &[Secret]) -> Result<Component, String>;

    /// The file with the code that was kept under this key, whole and unchanged. Nobody else can write to it.
    fn compiled(&self, _key: &str) -> Option<PathBuf> {
        None
    }

    /// Keeps code for the next start. The error is the disk's, and costs no more than another compilation.
    fn keep_compiled(&self, _key: &str, _code: &[u8]) -> std::io::Result<()> {
        Ok(())
    }
}

/// How far loading came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Pull,
    Compile,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LoadError {
    pub stage: Stage,
    pub message: String,
    /// The digest that does not compile.
    pub digest: Option<String>,
}

/// What is loaded of a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    pub digest: String,
    pub hooks: Vec<Phase>,
}

/// What is known of one plugin.
struct Held {
    image: String,
    code: Option<Arc<Code>>,
    /// Why there is none, or none that is newer.
    trouble: Option<String>,
}

pub struct Host {
    components: Option<Arc<dyn Components>>,
    /// Made for the first plugin: a cluster without any pays nothing.
    engine: OnceLock<Result<Arc<Engine>, String>>,
    held: RwLock<HashMap<String, Held>>,
    compiled: Mutex<HashMap<String, Weak<Code>>>,
    compilations: Semaphore,
    calls: Semaphore,
    pub metrics: Metrics,
}

impl Default for Host {
    /// Without anywhere to load from.
    fn default() -> Self {
        Self::new(None)
    }
}

impl Host {
    pub fn new(components: Option<Arc<dyn Components>>) -> Self {
        Self {
            components,
            engine: OnceLock::new(),
            held: RwLock::default(),
            compiled: Mutex::default(),
            compilations: Semaphore::new(COMPILATIONS_MAX),
            calls: Semaphore::new(CALLS_MAX),
            metrics: Metrics::default(),
        }
    }

    fn engine(&self) -> Result<Arc<Engine>, String> {
        let made = self.engine.get_or_init(|| Engine::new().map(Arc::new).map_err(|error| format!("{error:#}")));
        made.clone().map_err(|why| format!("the WebAssembly engine does not start: {why}"))
    }

    /// Makes the image that a plugin names ready to be called. What cannot be loaded leaves in place what was there before.
    /// `secrets` may hold credentials for its registry.
    pub async fn load(&self, plugin: &str, image: &str, pull: Pull, secrets: &[Secret]) -> Result<Loaded, LoadError> {
        let result = self.prepare(image, pull, secrets).await;
        let mut held = self.held.write();
        let before = held.remove(plugin).filter(|before| before.image == image).and_then(|before| before.code);
        let (code, trouble) = match &result {
            Ok(code) => (Some(code.clone()), None),
            Err(error) => (before, Some(error.message.clone())),
        };
        held.insert(plugin.to_owned(), Held { image: image.to_owned(), code, trouble });
        result.map(|code| code.loaded())
    }

    /// Forgets a plugin that is no more.
    pub fn unload(&self, plugin: &str) {
        self.held.write().remove(plugin);
    }

    /// What is called for a plugin now, if anything.
    pub fn loaded(&self, plugin: &str, image: &str) -> Option<Loaded> {
        self.code(plugin, image).ok().map(|code| code.loaded())
    }

    /// The code of a plugin; the error says why it is not ready.
    pub fn code(&self, plugin: &str, image: &str) -> Result<Arc<Code>, String> {
        let held = self.held.read();
        let own = held.get(plugin).filter(|held| held.image == image);
        if let Some(code) = own.and_then(|held| held.code.as_ref()) {
            return Ok(code.clone());
        }
        // Another plugin may have loaded it.
        if let Some(code) = held.values().filter(|held| held.image == image).find_map(|held| held.code.as_ref()) {
            return Ok(code.clone());
        }
        Err(match own.and_then(|held| held.trouble.as_ref()) {
            Some(why) => why.clone(),
            None => format!("image {image:?} is not loaded yet"),
        })
    }

    async fn prepare(&self, image: &str, pull: Pull, secrets: &[Secret]) -> Result<Arc<Code>, LoadError> {
        let failed = |stage, message, digest| LoadError { stage, message, digest };
        let Some(components) = &self.components else {
            let why = "this API server has nowhere to load images from".to_owned();
            return Err(failed(Stage::Pull, why, None));
        };
        let component = components.resolve(image, pull, secrets).await.map_err(|why| failed(Stage::Pull, why, None))?;
        let digest = component.digest.clone();
        self.compile(components, component).await.map_err(|why| {
            failed(Stage::Compile, format!("image {image:?} is no admission plugin: {why}"), Some(digest))
        })
    }

    async fn compile(
        &self,
        components: &Arc<dyn Components>,
        Component { digest, bytes }: Component,
    ) -> Result<Arc<Code>, String> {
        let _one = self.compilations.acquire().await.map_err(|error| error.to_string())?;
        if let Some(code) = self.compiled.lock().get(&digest).and_then(Weak::upgrade) {
            return Ok(code);
        }
        let (engine, kept, named) = (self.engine()?, components.clone(), digest.clone());
        let compiling = tokio::task::spawn_blocking(move || Code::make(&engine, &*kept, named, &bytes));
        let code = Arc::new(compiling.await.map_err(|_| "the compiler crashed on it".to_owned())??);
        let mut compiled = self.compiled.lock();
        compiled.retain(|_, code| code.strong_count() > 0);
        compiled.insert(digest, Arc::downgrade(&code));
        Ok(code)
    }

    /// Calls a plugin, within its memory and what is left of its time, which began when the write came to it. The error says
    /// why there is no answer.
    pub async fn ask(
        &self,
        (code, phase): (&Code, Phase),
        hook: &Hook,
        request: Request,
        began: Instant,
    ) -> Result<Answer, String> {
        let (engine, deadline) = (self.engine()?, began + hook.timeout);
        let late = || format!("it did not answer within {}", shown(hook.timeout));
        // Held until the store has given its memory back.
        let place = tokio::time::timeout_at(deadline, self.calls.acquire()).await.map_err(|_| late())?;
        let _place = place.map_err(|error| error.to_string())?;
        let mut store = Guest::store(&engine, hook.memory_bytes);
        let _running = engine.enter();
        match tokio::time::timeout_at(deadline, code.call(phase, &mut store, request)).await {
            Ok(Ok(answer)) => {
                let words = store.data().words();
                if !words.is_empty() {
                    tracing::debug!(plugin = hook.name, words, "an admission plugin has written something");
                }
                Ok(answer)
            }
            Ok(Err(error)) => Err(store.data().explain(&error)),
            Err(_) => Err(late()),
        }
    }
}

/// `10 s`, `250 ms`
fn shown(time: Duration) -> String {
    if time.subsec_millis() == 0 { format!("{} s", time.as_secs()) } else { format!("{} ms", time.as_millis()) }
}
