//! Values sealed under a key that a plugin guards (KMS v2).
//!
//! The plugin seals one seed; values get keys of their own from it, so it is asked when the seed changes and when a seed is
//! met for the first time, not for each value. Source: `kmsv2/envelope.go`, and `kmsv2PluginProbe` of `encryptionconfig`.
//! Invariants: a new key id of the plugin brings a new seed; what is sealed under another id is stale; while the plugin is
//! away, known seeds open for ever and the current one seals for [`COAST`]. The clock comes in as an argument.
//! Absent on purpose: KMS v1, which upstream has turned off.

pub mod client;
mod object;
mod seed;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use lru::LruCache;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::Notify;
use wharf_store::sealed::{Provider, Random};

use self::client::{Client, DecryptRequest, StatusResponse};
use self::object::{EncryptedObject, SourceType, shown, validate_key_id};
use self::seed::{SEED_LEN, Seed};
use crate::server::Clock;

/// How long the current seed seals after the plugin was last well.
const COAST: SignedDuration = SignedDuration::from_mins(3);
/// How often the plugin is asked how it is, and how soon again when it is not well. Source: `kmsv2PluginHealthzPositiveTTL`,
/// `kmsPluginHealthzNegativeTTL`.
const ASK_EVERY: Duration = Duration::from_secs(60);
const ASK_AGAIN: Duration = Duration::from_secs(3);
/// How soon again when it is not there yet at a start.
const PRIME_AGAIN: Duration = Duration::from_secs(1);
/// Most seeds that are kept open; more are in use only where many servers have written and nothing was written anew.
const SEEDS_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
const VERSIONS: [&str; 2] = ["v2", "v2beta1"];

pub struct Kms {
    name: String,
    prefix: String,
    client: Client,
    random: Random,
    clock: Clock,
    /// What seals.
    current: ArcSwapOption<Current>,
    seeds: Mutex<LruCache<[u8; 32], Arc<Seed>>>,
    /// What the last question came to.
    health: Mutex<Result<(), String>>,
}

struct Current {
    seed: Arc<Seed>,
    /// Without data.
    object: EncryptedObject,
    expires: Timestamp,
}

impl Kms {
    pub fn new(name: &str, socket: PathBuf, timeout: Duration, random: Random, clock: Clock) -> Self {
        Self {
            name: name.to_owned(),
            prefix: format!("k8s:enc:kms:v2:{name}:"),
            client: Client::new(socket, timeout),
            random,
            clock,
            current: ArcSwapOption::empty(),
            seeds: Mutex::new(LruCache::new(SEEDS_MAX)),
            health: Mutex::new(Err("the plugin has not been asked yet".to_owned())),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// How the plugin was when it was last asked.
    pub fn health(&self) -> Result<(), String> {
        self.health.lock().clone()
    }

    /// Asks the plugin for its key before anything is read, again for a while if it is not there yet.
    pub async fn prime(&self, limit: Duration) -> Result<(), String> {
        let until = tokio::time::Instant::now() + limit;
        loop {
            let asked = self.ask().await;
            if asked.is_ok() || tokio::time::Instant::now() >= until {
                return asked;
            }
            tokio::time::sleep(PRIME_AGAIN).await;
        }
    }

    /// Asks the plugin for ever, which also brings new seeds; tells `recovered` when it is well again.
    pub async fn run(&self, recovered: &Notify) {
        loop {
            let before = self.health();
            tokio::time::sleep(if before.is_ok() { ASK_EVERY } else { ASK_AGAIN }).await;
            match self.ask().await {
                Ok(()) if before.is_err() => {
                    tracing::info!(plugin = self.name, "the KMS plugin is well again");
                    recovered.notify_one();
                }
                Ok(()) => {}
                Err(error) => tracing::error!(plugin = self.name, error, "the KMS plugin is not well"),
            }
        }
    }

    /// Asks the plugin how it is; a new key id brings a new seed.
    pub async fn ask(&self) -> Result<(), String> {
        let name = &self.name;
        let answered = match self.client.status().await {
            Ok(status) => {
                let judged = self.judge(&status).await;
                judged.map_err(|why| format!("kmsv2 Provider {name} is not healthy, error: {why}"))
            }
            Err(why) => Err(format!(
                "failed to perform status section of the healthz check for KMS Provider {name}, error: {why}"
            )),
        };
        self.health.lock().clone_from(&answered);
        answered
    }

    async fn judge(&self, status: &StatusResponse) -> Result<(), String> {
        let mut errors = Vec::new();
        if status.healthz != "ok" {
            errors.push(format!("got unexpected healthz status: {}", status.healthz));
        }
        if !VERSIONS.contains(&status.version.as_str()) {
            errors.push(format!("expected KMSv2 API version {}, got {}", VERSIONS[0], status.version));
        }
        let rotated = match validate_key_id(&status.key_id) {
            Ok(()) => self.rotate(&status.key_id).await,
            Err(why) => Err(format!("got invalid KMSv2 KeyID hash {:?}: {why}", shown(&status.key_id))),
        };
        errors.extend(rotated.err());
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(format!("[{}]", errors.join(", "))),
        }
    }

    /// Goes on with the seed if it is of this key; else takes a new one, and goes on with the old if there is none to have.
    async fn rotate(&self, key_id: &str) -> Result<(), String> {
        let expires = (self.clock)() + COAST;
        let held = self.current.load_full();
        if let Some(held) = held.as_ref().filter(|held| held.object.key_id == key_id) {
            let Current { seed, object, .. } = &**held;
            self.current.store(Some(Arc::new(Current { seed: seed.clone(), object: object.clone(), expires })));
            return Ok(());
        }
        let uid = uuid::Uuid::new_v4().to_string();
        let failed = |why: &str, encrypted: &str| {
            let state = held.as_ref().map_or("", |held| held.object.key_id.as_str());
            format!(
                "failed to rotate DEK uid={uid:?}, {why}, statusKeyIDHash={:?}, encryptKeyIDHash={:?}, stateKeyIDHash={:?}",
                shown(key_id),
                shown(encrypted),
                shown(state)
            )
        };
        let (seed, object) = self.generate(uid.clone()).await.map_err(|why| failed(&format!("errGen={why}"), ""))?;
        if object.key_id != key_id {
            return Err(failed("the key IDs differ", &object.key_id));
        }
        self.seeds.lock().put(object.seed_id(), seed.clone());
        self.current.store(Some(Arc::new(Current { seed, object, expires })));
        tracing::info!(plugin = self.name, key_id_hash = shown(key_id), "values are sealed with a new seed");
        Ok(())
    }

    async fn generate(&self, uid: String) -> Result<(Arc<Seed>, EncryptedObject), String> {
        let mut bytes = vec![0; SEED_LEN];
        (self.random)(&mut bytes);
        let seed = Seed::new(SourceType::Seed, bytes.clone(), self.random.clone())?;
        let sealed = self.client.encrypt(bytes, uid).await;
        let sealed = sealed.map_err(|why| format!("failed to encrypt DEK, error: {why}"))?;
        let object = EncryptedObject {
            data: Vec::new(),
            key_id: sealed.key_id,
            source: sealed.ciphertext,
            annotations: sealed.annotations.into_iter().collect(),
            source_type: SourceType::Seed.into(),
        };
        object.validate_source()?;
        Ok((Arc::new(seed), object))
    }

    fn current(&self) -> Result<Arc<Current>, String> {
        self.current.load_full().ok_or_else(|| match self.health() {
            Err(why) => format!("got unexpected nil transformer: {why}"),
            Ok(()) => "got unexpected nil transformer".to_owned(),
        })
    }

    /// The seed of a value, from the plugin if it is met for the first time.
    async fn seed_of(&self, object: &EncryptedObject) -> Result<Arc<Seed>, String> {
        let id = object.seed_id();
        if let Some(known) = self.seeds.lock().get(&id) {
            return Ok(known.clone());
        }
        let request = DecryptRequest {
            ciphertext: object.source.clone(),
            uid: uuid::Uuid::new_v4().to_string(),
            key_id: object.key_id.clone(),
            annotations: object.annotations.clone().into_iter().collect(),
        };
        let opened = self.client.decrypt(request).await;
        let opened = opened.map_err(|why| format!("failed to decrypt DEK, error: {why}"))?;
        let kind = SourceType::try_from(object.source_type).map_err(|error| error.to_string())?;
        let seed = Arc::new(Seed::new(kind, opened, self.random.clone())?);
        self.seeds.lock().put(id, seed.clone());
        Ok(seed)
    }
}

#[async_trait]
impl Provider for Kms {
    fn prefix(&self) -> &str {
        &self.prefix
    }

    async fn seal(&self, at: &str, plain: &[u8]) -> Result<Vec<u8>, String> {
        let current = self.current()?;
        let now = (self.clock)();
        if now > current.expires {
            let seconds = |at: Timestamp| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            return Err(format!(
                "encryptedDEKSource with keyID hash {:?} expired at {} (current time is {})",
                shown(&current.object.key_id),
                seconds(current.expires),
                seconds(now)
            ));
        }
        let data = current.seed.seal(at, plain).await?;
        Ok(EncryptedObject { data, ..current.object.clone() }.encode_to_vec())
    }

    async fn open(&self, at: &str, sealed: &[u8]) -> Result<(Vec<u8>, bool), String> {
        let object = EncryptedObject::decode(sealed).map_err(|error| error.to_string())?;
        object.validate()?;
        let current = self.current()?;
        let plain = self.seed_of(&object).await?.open(at, &object.data).await?;
        let Current { object: ours, .. } = &*current;
        Ok((plain, object.key_id != ours.key_id || object.source_type != ours.source_type))
    }
}
