//! Makes an image of a bare `.wasm` file: the CNCF Wasm artifact that a push of it would have made.
//!
//! [`import`] writes into a store that this process owns; [`push`] hands the image to a running node through its embedded
//! registry, under the whole name (`docker.io/library/hello`), which [`crate::Puller`] knows to look for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use wharf_cri::ImageStatus;

use crate::binary::{self, Binary};
use crate::digest::Digest;
use crate::manifest::{self, Descriptor, Document, RunConfig};
use crate::reference::{self, Reference};
use crate::store::{self, Image, Store};

/// Largest Wasm binary, imported or pulled, in bytes.
pub const MODULE_MAX_BYTES: u64 = 1 << 30;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Reference(#[from] reference::ParseError),
    #[error("no tag to import as")]
    NoTag,
    #[error("{0} names a digest; an import needs a tag")]
    NamesDigest(String),
    #[error(transparent)]
    Binary(#[from] binary::Error),
    #[error("the binary is larger than {MODULE_MAX_BYTES} bytes")]
    TooLarge,
    #[error("store image")]
    Store(#[from] store::Error),
    #[error("push image to {registry}")]
    Push {
        registry: String,
        #[source]
        source: OciDistributionError,
    },
}

/// A Wasm binary as the artifact's three blobs.
#[derive(Debug)]
pub struct Artifact {
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    pub document: Document,
}

impl Artifact {
    /// Describes `module`; `created` becomes part of the config and so of the image's id.
    pub fn of(module: &[u8], created: Timestamp) -> Result<Self, Error> {
        if module.len() as u64 > MODULE_MAX_BYTES {
            return Err(Error::TooLarge);
        }
        let os = Binary::detect(module)?.os();
        let layer = Digest::of(module);
        let config = manifest::wasm_config(created, os, &layer).to_string().into_bytes();
        let document = Document {
            schema_version: 2,
            media_type: Some(manifest::OCI_MANIFEST.to_owned()),
            artifact_type: None,
            config: Some(descriptor(manifest::WASM_CONFIG, Digest::of(&config), config.len())),
            layers: vec![descriptor(manifest::WASM_LAYER, layer, module.len())],
            manifests: Vec::new(),
            subject: None,
            annotations: BTreeMap::new(),
        };
        let manifest = serde_json::to_vec(&document).expect("a document of strings serialises to JSON");
        Ok(Self { manifest, config, document })
    }
}

fn descriptor(media_type: &str, digest: Digest, size: usize) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size: size as u64,
        artifact_type: None,
        annotations: BTreeMap::new(),
        platform: None,
    }
}

/// Stores a core module or a component under one or more names. Blocks while it writes.
pub fn import(store: &Arc<Store>, module: &[u8], tags: &[&str], created: Timestamp) -> Result<ImageStatus, Error> {
    let references = parse_tags(tags)?;
    let artifact = Artifact::of(module, created)?;
    let blobs = [module, &artifact.config, &artifact.manifest];
    let _pins: Vec<_> = blobs.iter().map(|bytes| store.pin(&Digest::of(bytes))).collect();
    let digests = blobs.iter().map(|bytes| store.blobs().put(bytes)).collect::<Result<Vec<_>, _>>()?;
    let [module_digest, config, manifest] = digests.as_slice() else { unreachable!("three blobs went in") };
    let image = Image {
        id: config.clone(),
        module: module_digest.clone(),
        run: RunConfig::default(),
        size_bytes: blobs.iter().map(|bytes| bytes.len() as u64).sum(),
        blobs: digests.iter().cloned().collect::<BTreeSet<_>>(),
    };
    for reference in &references {
        store.commit(reference, manifest, image.clone())?;
    }
    Ok(store.status(&image))
}

fn parse_tags(tags: &[&str]) -> Result<Vec<Reference>, Error> {
    let references = tags.iter().map(|tag| tag.parse::<Reference>()).collect::<Result<Vec<_>, _>>()?;
    match references.iter().find(|reference| reference.digest.is_some()) {
        Some(reference) => Err(Error::NamesDigest(reference.to_string())),
        None if references.is_empty() => Err(Error::NoTag),
        None => Ok(references),
    }
}

/// Hands a core module or a component to the node whose embedded registry listens at `registry` (`127.0.0.1:5000`), by plain
/// HTTP. Returns the image's id.
pub async fn push(registry: &str, module: Vec<u8>, tags: &[&str], created: Timestamp) -> Result<Digest, Error> {
    let references = parse_tags(tags)?;
    let artifact = Artifact::of(&module, created)?;
    let id = Digest::of(&artifact.config);
    let layer = [ImageLayer::new(module, manifest::WASM_LAYER.to_owned(), None)];
    let config = Config::new(artifact.config, manifest::WASM_CONFIG.to_owned(), None);
    let client = oci_client::Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() });
    for reference in references {
        let repository = repository_of(&reference, registry);
        let tag = reference.tag.unwrap_or_default();
        let target = oci_client::Reference::with_tag(registry.to_owned(), repository, tag);
        let pushed = client.push(&target, &layer, config.clone(), &RegistryAuth::Anonymous, None).await;
        pushed.map_err(|source| Error::Push { registry: registry.to_owned(), source })?;
    }
    Ok(id)
}

/// Where in the embedded registry an image of this name is: by its own name if it is that registry's, else by the whole one.
/// A port cannot be part of a repository's name, so a name with one is taken for the registry's own.
fn repository_of(reference: &Reference, registry: &str) -> String {
    if reference.registry == registry || reference.registry.contains(':') {
        reference.repository.clone()
    } else {
        reference.name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_follows_the_cncf_layout() {
        let artifact = Artifact::of(b"\0asm\x0d\0\x01\0", Timestamp::UNIX_EPOCH).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&artifact.config).unwrap();
        assert_eq!(config["os"], "wasip2");
        assert_eq!(config["architecture"], "wasm");
        assert_eq!(config["layerDigests"][0], artifact.document.layers[0].digest.as_str());
        assert_eq!(artifact.document.layers[0].media_type, "application/wasm");
    }

    #[test]
    fn what_is_not_wasm_or_has_no_good_name_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let wasm = b"\0asm\x01\0\0\0";
        let check = |bytes: &[u8], tags: &[&str], words: &str| {
            let error = import(&store, bytes, tags, Timestamp::UNIX_EPOCH).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        check(b"\x7fELF", &["a:1"], "ELF");
        check(b"", &["a:1"], "empty");
        check(wasm, &[], "no tag");
        check(wasm, &["Bad Name"], "couldn't parse image name");
        check(wasm, &[&format!("a@{}", Digest::of(wasm))], "names a digest");
        assert!(store.images().is_empty());
        assert!(store.blobs().all().unwrap().is_empty());
    }
}
