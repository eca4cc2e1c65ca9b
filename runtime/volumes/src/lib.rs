//! Volumes as directories on the node; one file per kind.
//!
//! A [`Volume`] is made before its pod's containers are and goes with the pod. Kinds whose content comes from the API
//! (configMap, secret, downwardAPI, projected) are written by [`writer`], which swaps a whole new version in with one
//! rename, so that a guest never sees half of an update. [`Objects`] watches exactly the ConfigMaps and Secrets that the
//! node's pods name.
//!
//! Invariants: nothing is written outside the pod's directory; a sub-path never leaves its volume ([`subpath`]); content
//! of secrets is never logged. Absent on purpose: mounts (engines preopen or bind what [`Volume::path`] names), memory-backed
//! emptyDir (a limit is recorded, the medium is not), and persistent claims.

pub mod config_map;
pub mod downward_api;
pub mod empty_dir;
pub mod fields;
pub mod host_path;
pub mod objects;
pub mod ownership;
pub mod projected;
pub mod resources;
pub mod secret;
pub mod subpath;
pub mod tokens;
pub mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Container, KeyToPath, Pod, Volume as Spec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

pub use objects::{ObjectKind, ObjectRef, Objects, Source};
pub use tokens::Tokens;

/// Longest that one volume waits for the objects it needs.
pub const OBJECT_WAIT: std::time::Duration = std::time::Duration::from_secs(10);
/// Upstream's `DefaultMode` for files from the API.
pub const DEFAULT_FILE_MODE: i32 = 0o644;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// In upstream's words: `configmap "x" not found`.
    #[error("{kind} {name:?} not found")]
    NotFound { kind: &'static str, name: String },
    #[error("{kind} references non-existent {kind} key: {key}")]
    NoSuchKey { kind: &'static str, key: String },
    #[error("failed to sync {kind} cache: timed out waiting for {name:?}")]
    NotSynced { kind: &'static str, name: String },
    #[error("{0} volumes are not supported by this node")]
    Unsupported(&'static str),
    #[error("invalid path: {0}")]
    InvalidPath(String),
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Token(String),
    #[error("hostPath type check failed: {0}")]
    HostPath(String),
    #[error("{operation} {}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { operation, path, source }
    }
}

/// What a volume may look at while it is set up.
#[derive(Clone, Copy)]
pub struct Setup<'a> {
    pub pod: &'a Pod,
    pub objects: &'a dyn Source,
    pub tokens: &'a Tokens,
    pub now: jiff::Timestamp,
    /// What a container without a limit may use: `resourceFieldRef` falls back to it.
    pub allocatable: &'a BTreeMap<String, Quantity>,
}

/// One volume of one pod.
#[async_trait]
pub trait Volume: Send + Sync {
    /// What containers mount: a directory, or a file for a `hostPath` that is one.
    fn path(&self) -> &Path;

    /// Makes the volume or brings it up to date. Idempotent.
    async fn set_up(&self, setup: Setup<'_>) -> Result<(), Error>;

    /// Containers may not write to it, whatever their mounts say.
    fn read_only(&self) -> bool {
        false
    }

    /// The objects of the pod's namespace whose change must bring another [`Volume::set_up`].
    fn references(&self) -> Vec<ObjectRef> {
        Vec::new()
    }

    /// True where the content follows the pod's own metadata.
    fn follows_pod(&self) -> bool {
        false
    }

    /// Bytes that the volume may hold, if it has a limit.
    fn size_limit_bytes(&self) -> Option<u64> {
        None
    }
}

/// The directory of one pod: `<node data>/pods/<uid>`.
pub fn pod_dir(node_data: &Path, uid: &str) -> PathBuf {
    node_data.join("pods").join(uid)
}

/// Chooses the kind. `node_data` is the node's directory.
pub fn build(spec: &Spec, namespace: &str, uid: &str, node_data: &Path) -> Result<Box<dyn Volume>, Error> {
    let dir =
        |plugin: &str| pod_dir(node_data, uid).join("volumes").join(format!("kubernetes.io~{plugin}")).join(&spec.name);
    if let Some(source) = &spec.empty_dir {
        return Ok(Box::new(empty_dir::EmptyDir::new(dir("empty-dir"), source)?));
    }
    if let Some(source) = &spec.config_map {
        return Ok(Box::new(config_map::ConfigMapVolume::new(dir("configmap"), namespace, source)));
    }
    if let Some(source) = &spec.secret {
        return Ok(Box::new(secret::SecretVolume::new(dir("secret"), namespace, source)));
    }
    if let Some(source) = &spec.downward_api {
        return Ok(Box::new(downward_api::DownwardApi::new(dir("downward-api"), source)));
    }
    if let Some(source) = &spec.projected {
        return Ok(Box::new(projected::Projected::new(dir("projected"), namespace, source)?));
    }
    if let Some(source) = &spec.host_path {
        return Ok(Box::new(host_path::HostPath::new(source)));
    }
    match kind_name(spec) {
        // No source at all means an emptyDir.
        None => Ok(Box::new(empty_dir::EmptyDir::new(dir("empty-dir"), &Default::default())?)),
        Some(kind) => Err(Error::Unsupported(kind)),
    }
}

fn kind_name(spec: &Spec) -> Option<&'static str> {
    [
        (spec.persistent_volume_claim.is_some(), "persistentVolumeClaim"),
        (spec.csi.is_some(), "csi"),
        (spec.ephemeral.is_some(), "ephemeral"),
        (spec.image.is_some(), "image"),
        (spec.nfs.is_some(), "nfs"),
        (spec.iscsi.is_some(), "iscsi"),
        (spec.fc.is_some(), "fc"),
        (spec.flex_volume.is_some(), "flexVolume"),
        (spec.cephfs.is_some(), "cephfs"),
        (spec.rbd.is_some(), "rbd"),
        (spec.git_repo.is_some(), "gitRepo"),
        (spec.glusterfs.is_some(), "glusterfs"),
        (spec.cinder.is_some(), "cinder"),
        (spec.azure_disk.is_some(), "azureDisk"),
        (spec.azure_file.is_some(), "azureFile"),
        (spec.aws_elastic_block_store.is_some(), "awsElasticBlockStore"),
        (spec.gce_persistent_disk.is_some(), "gcePersistentDisk"),
        (spec.vsphere_volume.is_some(), "vsphereVolume"),
        (spec.portworx_volume.is_some(), "portworxVolume"),
        (spec.scale_io.is_some(), "scaleIO"),
        (spec.storageos.is_some(), "storageos"),
        (spec.quobyte.is_some(), "quobyte"),
        (spec.flocker.is_some(), "flocker"),
        (spec.photon_persistent_disk.is_some(), "photonPersistentDisk"),
    ]
    .into_iter()
    .find_map(|(present, name)| present.then_some(name))
}

/// Every container of a pod, init ones first.
pub fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.as_ref();
    spec.and_then(|spec| spec.init_containers.as_ref())
        .into_iter()
        .flatten()
        .chain(spec.into_iter().flat_map(|spec| &spec.containers))
}

/// The ConfigMaps and Secrets that a pod names: volumes, environment and pull secrets.
pub fn references(pod: &Pod) -> std::collections::BTreeSet<ObjectRef> {
    let mut found = std::collections::BTreeSet::new();
    let Some(spec) = &pod.spec else { return found };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let config_map = |name: &str| ObjectRef::new(ObjectKind::ConfigMap, namespace, name);
    let secret = |name: &str| ObjectRef::new(ObjectKind::Secret, namespace, name);
    for volume in spec.volumes.iter().flatten() {
        if let Ok(volume) = build(volume, namespace, "", Path::new("")) {
            found.extend(volume.references());
        }
    }
    for container in containers(pod) {
        for source in container.env_from.iter().flatten() {
            found.extend(source.config_map_ref.iter().map(|reference| config_map(&reference.name)));
            found.extend(source.secret_ref.iter().map(|reference| secret(&reference.name)));
        }
        for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            found.extend(source.config_map_key_ref.iter().map(|reference| config_map(&reference.name)));
            found.extend(source.secret_key_ref.iter().map(|reference| secret(&reference.name)));
        }
    }
    found.extend(spec.image_pull_secrets.iter().flatten().map(|reference| secret(&reference.name)));
    found.retain(|reference| !reference.name.is_empty());
    found
}

/// Picks `items` out of an object's keys, or all of them. `kind` is for the message.
pub(crate) fn pick(
    kind: &'static str,
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&Vec<KeyToPath>>,
    default_mode: i32,
    optional: bool,
) -> Result<writer::Payload, Error> {
    let file = |data: &[u8], mode: i32| writer::File::new(data.to_vec(), mode);
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return Ok(data.iter().map(|(key, data)| (key.clone(), file(data, default_mode))).collect());
    };
    let mut payload = writer::Payload::new();
    for item in items {
        match data.get(&item.key) {
            Some(data) => {
                payload.insert(item.path.clone(), file(data, item.mode.unwrap_or(default_mode)));
            }
            None if optional => {}
            None => return Err(Error::NoSuchKey { kind, key: item.key.clone() }),
        }
    }
    Ok(payload)
}
