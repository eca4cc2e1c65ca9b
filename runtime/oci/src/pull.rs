//! Brings images into the store: from any OCI registry, or from the embedded one without copying.
//!
//! A pull resolves the manifest, fetches what is not there yet, checks every byte against its digest, makes sure that the
//! result is WebAssembly, and only then gives it the name. Equal pulls that overlap are one pull. Plain HTTP is spoken to
//! loopback addresses and to registries that the operator lists. Each pull has its own client, so credentials of one pod
//! never serve another. Absent on purpose: retries, which the node does with ImagePullBackOff.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt, Shared, WeakShared};
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use wharf_cri::{ImageStatus, ImageUsage, Images, RegistryAuth};

use crate::binary::{Binary, HEADER_BYTES};
use crate::digest::Digest;
use crate::import::MODULE_MAX_BYTES;
use crate::manifest::{
    self, CONFIG_MAX_BYTES, Compression, Descriptor, Document, Layout, MANIFEST_MAX_BYTES, RunConfig,
};
use crate::reference::Reference;
use crate::store::{self, Image, Pin, Store};
use crate::unpack;

/// Pulls under way at once.
pub const PULLS_MAX: usize = 5;
/// Longest wait for a manifest, and for the next bytes of a blob.
pub const PROGRESS_DEADLINE: Duration = Duration::from_secs(60);
const CONNECT_DEADLINE: Duration = Duration::from_secs(20);
/// Most layers of a Linux-style image.
pub const LAYERS_MAX: usize = 128;

/// What a puller needs to know of its surroundings.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Registries (`host` or `host:port`) that are spoken to over plain HTTP.
    pub insecure_registries: Vec<String>,
    /// Names under which the embedded registry can be reached (`localhost:5000`, `127.0.0.1:5000`).
    pub embedded_registries: Vec<String>,
}

/// The image service of the Runtime contract.
pub struct Puller {
    store: Arc<Store>,
    config: Config,
    slots: Arc<Semaphore>,
    flights: Mutex<HashMap<FlightKey, WeakShared<Flight>>>,
}

/// One pull, whoever waits for it. Credentials are part of the key, so nobody rides on another's.
type FlightKey = (String, [String; 3]);
type Flight = BoxFuture<'static, Result<ImageStatus, Failure>>;

/// Why a pull failed, in words for the pod's owner.
#[derive(Clone, Debug)]
enum Failure {
    Pull(String),
    Inspect(String),
}

impl Failure {
    fn pull(error: impl std::error::Error) -> Self {
        Self::Pull(chain(&error))
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        Self::pull(error)
    }
}

impl From<manifest::Error> for Failure {
    fn from(error: manifest::Error) -> Self {
        match error {
            manifest::Error::NotWasm(_) => Self::Inspect(chain(&error)),
            other => Self::pull(other),
        }
    }
}

impl From<OciDistributionError> for Failure {
    fn from(error: OciDistributionError) -> Self {
        use OciDistributionError as E;
        let words = match &error {
            E::ImageManifestNotFoundError(_) => "not found".to_owned(),
            E::UnauthorizedError { .. } | E::AuthenticationFailure(_) => DENIED.to_owned(),
            E::RegistryError { envelope, .. } => match envelope.errors.first() {
                Some(first) => match first.code {
                    OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound => {
                        format!("not found: {}", first.message)
                    }
                    OciErrorCode::Unauthorized | OciErrorCode::Denied => format!("{DENIED}: {}", first.message),
                    _ => chain(&error),
                },
                None => chain(&error),
            },
            E::ServerError { code: 404, .. } => "not found".to_owned(),
            E::ServerError { code: 401 | 403, .. } => DENIED.to_owned(),
            _ => chain(&error),
        };
        Self::Pull(words)
    }
}

const DENIED: &str = "pull access denied, repository does not exist or may require authorization";

/// An error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !words.contains(&more) {
            words.push_str(": ");
            words.push_str(&more);
        }
        cause = error.source();
    }
    words
}

impl Puller {
    pub fn new(store: Arc<Store>, config: Config) -> Self {
        Self { store, config, slots: Arc::new(Semaphore::new(PULLS_MAX)), flights: Mutex::default() }
    }

    fn flight(&self, reference: &Reference, auth: Option<RegistryAuth>) -> (FlightKey, Shared<Flight>) {
        let auth = auth.unwrap_or_default();
        let credentials = [auth.username.clone(), auth.password.clone(), auth.identity_token.clone()];
        let key = (reference.to_string(), credentials);
        let mut flights = self.flights.lock();
        flights.retain(|_, flight| flight.upgrade().is_some());
        if let Some(flight) = flights.get(&key).and_then(WeakShared::upgrade) {
            return (key, flight);
        }
        let pull = Pull {
            store: self.store.clone(),
            reference: reference.clone(),
            source: self.source(reference, &auth),
            pins: Vec::new(),
        };
        let slots = self.slots.clone();
        let flight = async move {
            let _slot = slots.acquire_owned().await.map_err(Failure::pull)?;
            pull.run().await
        }
        .boxed()
        .shared();
        if let Some(weak) = flight.downgrade() {
            flights.insert(key.clone(), weak);
        }
        (key, flight)
    }

    fn source(&self, reference: &Reference, auth: &RegistryAuth) -> Source {
        if let Some(manifest) = self.embedded(reference) {
            return Source::Embedded { manifest: Some(manifest) };
        }
        if self.config.embedded_registries.contains(&reference.registry) {
            return Source::Embedded { manifest: None };
        }
        let plain = is_loopback(&reference.registry) || self.config.insecure_registries.contains(&reference.registry);
        let client = oci_client::Client::new(ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            connect_timeout: Some(CONNECT_DEADLINE),
            read_timeout: Some(PROGRESS_DEADLINE),
            user_agent: concat!("wharf/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        });
        Source::Remote { client: Box::new(client), auth: credentials(auth) }
    }

    /// The manifest that the embedded registry has for a reference: under its own name, or under the whole name of any
    /// registry's image (`localhost:5000/docker.io/library/hello` stands for `hello`, which is how an import arrives).
    fn embedded(&self, reference: &Reference) -> Option<Digest> {
        let own = self.config.embedded_registries.contains(&reference.registry);
        own.then(|| self.lookup(&reference.repository, reference)).flatten().or_else(|| self.imported(reference))
    }

    fn imported(&self, reference: &Reference) -> Option<Digest> {
        // A name with a port is no repository's, so nothing is found there.
        self.lookup(&reference.name(), reference)
    }

    fn lookup(&self, repository: &str, reference: &Reference) -> Option<Digest> {
        self.store
            .repository(repository, |repository| match (&reference.digest, &reference.tag) {
                (Some(digest), _) => repository.manifests.contains_key(digest).then(|| digest.clone()),
                (None, Some(tag)) => repository.tags.get(tag).cloned(),
                (None, None) => None,
            })
            .flatten()
    }

    /// True where the local image is not what was last imported under its name.
    fn outdated(&self, reference: &Reference) -> bool {
        self.imported(reference).is_some_and(|manifest| self.store.manifest_of(reference) != Some(manifest))
    }
}

fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => registry.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn credentials(auth: &RegistryAuth) -> oci_client::secrets::RegistryAuth {
    use oci_client::secrets::RegistryAuth as Auth;
    if !auth.identity_token.is_empty() {
        Auth::Bearer(auth.identity_token.clone())
    } else if !auth.username.is_empty() {
        Auth::Basic(auth.username.clone(), auth.password.clone())
    } else {
        Auth::Anonymous
    }
}

#[async_trait]
impl Images for Puller {
    async fn pull(&self, reference: &str, auth: Option<RegistryAuth>) -> wharf_cri::Result<ImageStatus> {
        let reference = parse(reference)?;
        let (key, flight) = self.flight(&reference, auth);
        let result = flight.await;
        self.flights.lock().remove(&key);
        result.map_err(|failure| match failure {
            Failure::Pull(why) => wharf_cri::Error::ImagePull(format!("failed to pull image \"{reference}\": {why}")),
            Failure::Inspect(why) => {
                wharf_cri::Error::ImageInspect(format!("image \"{reference}\" cannot be run: {why}"))
            }
        })
    }

    async fn image(&self, reference: &str) -> wharf_cri::Result<Option<ImageStatus>> {
        if let Ok(id) = reference.parse::<Digest>() {
            return Ok(self.store.by_id(&id).map(|image| self.store.status(&image)));
        }
        if self.outdated(&parse(reference)?) {
            return self.pull(reference, None).await.map(Some);
        }
        Ok(self.store.resolve(reference).map(|image| self.store.status(&image)))
    }

    async fn images(&self) -> wharf_cri::Result<Vec<ImageStatus>> {
        Ok(self.store.images())
    }

    async fn remove(&self, reference: &str) -> wharf_cri::Result<()> {
        let (store, reference) = (self.store.clone(), reference.to_owned());
        blocking("remove image", move || store.remove(&reference).map(drop)).await
    }

    async fn usage(&self) -> wharf_cri::Result<ImageUsage> {
        let store = self.store.clone();
        let (used_bytes, images) = blocking("measure images", move || store.usage()).await?;
        Ok(ImageUsage { root: self.store.root().to_owned(), used_bytes, images })
    }
}

fn parse(reference: &str) -> wharf_cri::Result<Reference> {
    reference.parse().map_err(|error: crate::reference::ParseError| wharf_cri::Error::Invalid(error.to_string()))
}

async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> store::Result<T> + Send + 'static,
) -> wharf_cri::Result<T> {
    let fail = |source: Box<dyn std::error::Error + Send + Sync>| wharf_cri::Error::Internal { operation, source };
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| fail(error.into())),
        Err(error) => Err(fail(error.into())),
    }
}

/// Where manifests and blobs come from.
enum Source {
    Remote {
        client: Box<oci_client::Client>,
        auth: oci_client::secrets::RegistryAuth,
    },
    /// The embedded registry, whose blobs are in the same store.
    Embedded {
        manifest: Option<Digest>,
    },
}

/// One pull under way.
struct Pull {
    store: Arc<Store>,
    reference: Reference,
    source: Source,
    /// Keep what has been fetched until it has a name.
    pins: Vec<Pin>,
}

impl Pull {
    async fn run(mut self) -> Result<ImageStatus, Failure> {
        let (named, bytes) = self.top_manifest().await?;
        let mut document = Document::parse(&bytes)?;
        let mut digest = named.clone();
        if document.is_index() {
            let child = document.choose()?.clone();
            let bytes = self.manifest(&child.digest).await?;
            (digest, document) = (child.digest, Document::parse(&bytes)?);
        }
        let image = match document.layout()? {
            Layout::Binary { config, layer } => {
                self.fetch(config, CONFIG_MAX_BYTES).await?;
                self.fetch(layer, MODULE_MAX_BYTES).await?;
                self.image(&digest, config, layer.digest.clone(), RunConfig::default())
            }
            Layout::Tar { config, layers } => {
                self.fetch(config, CONFIG_MAX_BYTES).await?;
                let run = RunConfig::of_image(
                    &self.store.blobs().read(&config.digest, CONFIG_MAX_BYTES)?,
                    &document.annotations,
                )?;
                let module = self.unpack(layers, &run).await?;
                self.image(&digest, config, module, run)
            }
        };
        self.check_binary(&image)?;
        let status = {
            let (store, reference, committed) = (self.store.clone(), self.reference.clone(), image.clone());
            let commit = tokio::task::spawn_blocking(move || store.commit(&reference, &named, committed));
            commit.await.map_err(Failure::pull)??;
            self.store.status(&image)
        };
        tracing::info!(reference = %self.reference, id = %image.id, bytes = image.size_bytes, "pulled image");
        Ok(status)
    }

    fn image(&self, manifest: &Digest, config: &Descriptor, module: Digest, run: RunConfig) -> Image {
        let blobs: BTreeSet<Digest> = [manifest.clone(), config.digest.clone(), module.clone()].into();
        let size_bytes = blobs.iter().filter_map(|digest| self.store.blobs().size(digest)).sum();
        Image { id: manifest::identity(manifest, config), module, run, size_bytes, blobs }
    }

    /// The manifest that the reference stands for, and its digest.
    async fn top_manifest(&mut self) -> Result<(Digest, Vec<u8>), Failure> {
        if let Source::Embedded { manifest } = &self.source {
            let digest = manifest.clone().ok_or_else(|| Failure::Pull("not found".to_owned()))?;
            let bytes = self.manifest(&digest).await?;
            return Ok((digest, bytes));
        }
        let bytes = self.remote_manifest(&self.reference).await?;
        let digest = Digest::of(&bytes);
        if let Some(expected) = &self.reference.digest
            && *expected != digest
        {
            return Err(store::Error::DigestMismatch { expected: expected.clone(), actual: digest }.into());
        }
        self.pin(&digest);
        self.store.blobs().put(&bytes)?;
        Ok((digest, bytes))
    }

    async fn manifest(&mut self, digest: &Digest) -> Result<Vec<u8>, Failure> {
        self.pin(digest);
        if self.store.blobs().size(digest).is_some() {
            return Ok(self.store.blobs().read(digest, MANIFEST_MAX_BYTES as u64)?);
        }
        let by_digest = Reference { digest: Some(digest.clone()), ..self.reference.clone() };
        let bytes = self.remote_manifest(&by_digest).await?;
        let actual = self.store.blobs().put(&bytes)?;
        if actual == *digest {
            Ok(bytes)
        } else {
            Err(store::Error::DigestMismatch { expected: digest.clone(), actual }.into())
        }
    }

    async fn remote_manifest(&self, reference: &Reference) -> Result<Vec<u8>, Failure> {
        let Source::Remote { client, auth } = &self.source else {
            return Err(Failure::Pull("a manifest is missing in the embedded registry".to_owned()));
        };
        let reference = to_client(reference);
        let pull = client.pull_manifest_raw(&reference, auth, &manifest::ACCEPTED);
        let (bytes, _) = timeout(PROGRESS_DEADLINE, pull)
            .await
            .map_err(|_| Failure::Pull("the registry did not answer in time".to_owned()))??;
        if bytes.len() > MANIFEST_MAX_BYTES {
            return Err(
                store::Error::TooLarge { what: "manifest".to_owned(), max_bytes: MANIFEST_MAX_BYTES as u64 }.into()
            );
        }
        Ok(bytes.to_vec())
    }

    fn pin(&mut self, digest: &Digest) {
        self.pins.push(self.store.pin(digest));
    }

    /// Makes sure that a blob is in the store.
    async fn fetch(&mut self, blob: &Descriptor, max_bytes: u64) -> Result<(), Failure> {
        if blob.size > max_bytes {
            return Err(store::Error::TooLarge { what: format!("blob {}", blob.digest), max_bytes }.into());
        }
        self.pin(&blob.digest);
        if self.store.blobs().size(&blob.digest).is_some() {
            return Ok(());
        }
        let Source::Remote { client, .. } = &self.source else {
            return Err(store::Error::MissingBlob(blob.digest.clone()).into());
        };
        let stalled = || Failure::Pull(format!("no progress for {} s", PROGRESS_DEADLINE.as_secs()));
        let reference = to_client(&self.reference);
        let opened = timeout(PROGRESS_DEADLINE, client.pull_blob_stream(&reference, blob.digest.as_str()));
        let mut stream = opened.await.map_err(|_| stalled())??.stream;
        let mut writer = self.store.blobs().writer(blob.size)?;
        while let Some(bytes) = timeout(PROGRESS_DEADLINE, stream.next()).await.map_err(|_| stalled())? {
            writer.write(&bytes.map_err(Failure::pull)?).await?;
        }
        if writer.written() != blob.size {
            return Err(Failure::Pull(format!(
                "blob {} ended after {} of {} bytes",
                blob.digest,
                writer.written(),
                blob.size
            )));
        }
        self.store.blobs().finish(writer, Some(&blob.digest)).await?;
        Ok(())
    }

    /// Fetches the layers of a Linux-style image and stores the binary that they hold.
    async fn unpack(&mut self, layers: &[Descriptor], run: &RunConfig) -> Result<Digest, Failure> {
        let path =
            run.binary_path().ok_or_else(|| Failure::Inspect("its config names no entrypoint".to_owned()))?.to_owned();
        if layers.len() > LAYERS_MAX {
            return Err(Failure::Inspect(format!("it has more than {LAYERS_MAX} layers")));
        }
        let mut files = Vec::with_capacity(layers.len());
        for layer in layers {
            let compression = Compression::of(&layer.media_type)?;
            self.fetch(layer, MODULE_MAX_BYTES).await?;
            files.push((self.store.blobs().path(&layer.digest), compression));
        }
        let store = self.store.clone();
        let found = tokio::task::spawn_blocking(move || {
            let files: Vec<_> = files.iter().map(|(path, compression)| (path.as_path(), *compression)).collect();
            let bytes = unpack::find(&files, &path).map_err(|error| Failure::Inspect(chain(&error)))?;
            let pin = store.pin(&Digest::of(&bytes));
            Ok::<_, Failure>((store.blobs().put(&bytes)?, pin))
        });
        let (digest, pin) = found.await.map_err(Failure::pull)??;
        self.pins.push(pin);
        Ok(digest)
    }

    fn check_binary(&self, image: &Image) -> Result<(), Failure> {
        use std::io::Read;
        let path = self.store.module_path(image);
        let mut head = Vec::with_capacity(HEADER_BYTES);
        let read = std::fs::File::open(&path).and_then(|file| file.take(HEADER_BYTES as u64).read_to_end(&mut head));
        read.map_err(Failure::pull)?;
        Binary::detect(&head).map(drop).map_err(|error| Failure::Inspect(error.to_string()))
    }
}

impl Drop for Pull {
    /// What a failed pull has fetched, and what only unpacking needed, goes.
    fn drop(&mut self) {
        if let Err(error) = self.store.release(std::mem::take(&mut self.pins)) {
            tracing::warn!(error = chain(&error), "cannot delete blobs of a pull");
        }
    }
}

fn to_client(reference: &Reference) -> oci_client::Reference {
    let Reference { registry, repository, tag, digest } = reference.clone();
    match (digest, tag) {
        (Some(digest), _) => oci_client::Reference::with_digest(registry, repository, digest.into()),
        (None, tag) => oci_client::Reference::with_tag(registry, repository, tag.unwrap_or_default()),
    }
}
