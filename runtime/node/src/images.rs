//! Makes sure that a container's image is there, by its pull policy.
//!
//! Source: `k8s.io/kubernetes/pkg/kubelet/images/image_manager.go`. Pulls of one reference with the same credentials are
//! shared while they run, and all pulls together are bounded. Absent on purpose: back-off (the worker's), garbage
//! collection (the image store's).

use std::collections::HashMap;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use k8s_openapi::api::core::v1::{Container, Secret};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use wharf_cri::{ImageStatus, Images, RegistryAuth};

use crate::pull_secrets;

/// Pulls at the same time, over all pods.
pub const MAX_PARALLEL_PULLS: usize = 8;

/// An image that could not be had: the reason of a waiting container, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// `ErrImagePull`
    Pull(String),
    /// `ErrImageNeverPull`
    Never(String),
    /// `InvalidImageName`
    InvalidName(String),
    /// `ImageInspectError`
    Inspect(String),
}

/// What became of the image, for the events.
#[derive(Clone, Debug)]
pub enum Had {
    Present(ImageStatus),
    Pulled(ImageStatus),
}

impl Had {
    pub fn image(&self) -> &ImageStatus {
        match self {
            Had::Present(image) | Had::Pulled(image) => image,
        }
    }
}

type Key = (String, Vec<String>);
type Pull = BoxFuture<'static, Result<ImageStatus, String>>;

pub struct Puller {
    images: Arc<dyn Images>,
    slots: Arc<Semaphore>,
    /// Pulls that somebody waits for.
    running: Mutex<HashMap<Key, WeakShared<Pull>>>,
}

impl Puller {
    pub fn new(images: Arc<dyn Images>) -> Self {
        Self { images, slots: Arc::new(Semaphore::new(MAX_PARALLEL_PULLS)), running: Mutex::default() }
    }

    pub fn images(&self) -> &Arc<dyn Images> {
        &self.images
    }

    /// The image, if the policy is satisfied without a pull.
    pub async fn present(&self, container: &Container) -> Result<Option<Had>, Failure> {
        let reference = container.image.as_deref().unwrap_or_default();
        if reference.is_empty() || reference.contains(char::is_whitespace) {
            let text = format!(
                "Failed to apply default image tag \"{reference}\": couldn't parse image name \"{reference}\": invalid reference format"
            );
            return Err(Failure::InvalidName(text));
        }
        let policy = pull_policy(container);
        if policy == "Always" {
            return Ok(None);
        }
        let held = self.images.image(reference).await;
        let held = held.map_err(|error| {
            Failure::Inspect(format!("Failed to inspect image \"{reference}\": {}", crate::names::chain(&error)))
        })?;
        match held {
            Some(image) => Ok(Some(Had::Present(image))),
            None if policy == "Never" => {
                Err(Failure::Never(format!("Container image \"{reference}\" is not present with pull policy of Never")))
            }
            None => Ok(None),
        }
    }

    /// Pulls, with each matching credential in turn.
    pub async fn pull(&self, reference: &str, secrets: &[Arc<Secret>]) -> Result<Had, Failure> {
        let auths = pull_secrets::matching(secrets.iter().map(|secret| &**secret), reference);
        let pull = self.shared(reference, auths);
        pull.await.map(Had::Pulled).map_err(Failure::Pull)
    }

    /// Joins a pull under way, or begins one. It ends with its last waiter.
    fn shared(&self, reference: &str, auths: Vec<RegistryAuth>) -> Shared<Pull> {
        let identities =
            auths.iter().map(|auth| format!("{}\n{}\n{}", auth.username, auth.password, auth.identity_token)).collect();
        let key = (reference.to_owned(), identities);
        let mut running = self.running.lock();
        if let Some(pull) = running.get(&key).and_then(WeakShared::upgrade) {
            return pull;
        }
        let pull = try_each(self.images.clone(), self.slots.clone(), reference.to_owned(), auths).boxed().shared();
        running.retain(|_, pull| pull.upgrade().is_some());
        if let Some(weak) = pull.downgrade() {
            running.insert(key, weak);
        }
        pull
    }
}

async fn try_each(
    images: Arc<dyn Images>,
    slots: Arc<Semaphore>,
    reference: String,
    auths: Vec<RegistryAuth>,
) -> Result<ImageStatus, String> {
    let _slot = slots.acquire().await.map_err(|_| "the node is shutting down".to_owned())?;
    let mut failures = Vec::new();
    let attempts: Vec<Option<RegistryAuth>> =
        if auths.is_empty() { vec![None] } else { auths.into_iter().map(Some).collect() };
    for auth in attempts {
        match images.pull(&reference, auth).await {
            Ok(image) => return Ok(image),
            Err(error) => failures.push(crate::names::chain(&error)),
        }
    }
    failures.dedup();
    Err(failures.join(", "))
}

/// As admission defaults it: `Always` for `:latest` or no tag at all.
fn pull_policy(container: &Container) -> &str {
    let image = container.image.as_deref().unwrap_or_default();
    let named = image.rsplit('/').next().unwrap_or(image);
    let floating = !named.contains('@') && named.split_once(':').is_none_or(|(_, tag)| tag == "latest");
    container.image_pull_policy.as_deref().unwrap_or(if floating { "Always" } else { "IfNotPresent" })
}
