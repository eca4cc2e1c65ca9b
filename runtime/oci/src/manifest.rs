//! Reads manifests and configs, and decides where in an image its Wasm is.
//!
//! Three layouts run: the CNCF Wasm artifact (a layer that is the binary itself), its older cousins with other media types,
//! and a Linux-style image whose layer is a tar with the binary at the entrypoint. Anything else is refused with a
//! sentence that names what was found. Pure: no I/O.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::Digest;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// What a pull accepts.
pub const ACCEPTED: [&str; 4] = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX];

pub const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
pub const WASM_LAYER: &str = "application/wasm";
const WASM_LAYERS: [&str; 3] =
    [WASM_LAYER, "application/vnd.wasm.content.layer.v1+wasm", "application/vnd.module.wasm.content.layer.v1+wasm"];
const IMAGE_CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

/// Largest manifest, in bytes.
pub const MANIFEST_MAX_BYTES: usize = 4 << 20;
/// Largest config, in bytes.
pub const CONFIG_MAX_BYTES: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("malformed manifest: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("malformed manifest: {0}")]
    Incomplete(&'static str),
    #[error("malformed image config: {0}")]
    Config(#[source] serde_json::Error),
    /// A good image of something else.
    #[error("not a WebAssembly image: {0}")]
    NotWasm(String),
}

/// A pointer to a blob or to another manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
}

impl Platform {
    fn is_wasm(&self) -> bool {
        self.os.starts_with("wasi") || self.architecture.starts_with("wasm")
    }
}

/// An image manifest or an index, with the fields that matter here.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Descriptor>,
    /// Of an index.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub manifests: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Document {
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let document: Self = serde_json::from_slice(bytes)?;
        match document.schema_version {
            2 => Ok(document),
            _ => Err(Error::Incomplete("schemaVersion is not 2")),
        }
    }

    pub fn is_index(&self) -> bool {
        match self.media_type.as_deref() {
            Some(media_type) => media_type == OCI_INDEX || media_type == DOCKER_INDEX,
            None => self.config.is_none(),
        }
    }

    /// Every blob and manifest that this one needs.
    pub fn children(&self) -> impl Iterator<Item = &Descriptor> {
        self.config.iter().chain(&self.layers).chain(&self.manifests)
    }

    /// Of an index: the manifest to run.
    pub fn choose(&self) -> Result<&Descriptor, Error> {
        let wasm = |child: &&Descriptor| child.platform.as_ref().is_some_and(Platform::is_wasm);
        if let Some(child) = self.manifests.iter().find(wasm) {
            return Ok(child);
        }
        match self.manifests.as_slice() {
            [only] if only.platform.is_none() => Ok(only),
            many => {
                let platform = |child: &Descriptor| {
                    child
                        .platform
                        .as_ref()
                        .map_or_else(|| "no platform".to_owned(), |p| format!("{}/{}", p.os, p.architecture))
                };
                let found: Vec<String> = many.iter().map(platform).collect();
                Err(Error::NotWasm(format!("its index has no wasi/wasm platform, only [{}]", found.join(", "))))
            }
        }
    }

    /// Of an image manifest: how its Wasm is packed.
    pub fn layout(&self) -> Result<Layout<'_>, Error> {
        let config = self.config.as_ref().ok_or(Error::Incomplete("there is no config"))?;
        if let Some(layer) = self.layers.iter().find(|layer| WASM_LAYERS.contains(&layer.media_type.as_str())) {
            return Ok(Layout::Binary { config, layer });
        }
        if IMAGE_CONFIGS.contains(&config.media_type.as_str()) {
            return Ok(Layout::Tar { config, layers: &self.layers });
        }
        let layers: Vec<&str> = self.layers.iter().map(|layer| layer.media_type.as_str()).collect();
        Err(Error::NotWasm(format!("its config is {} and its layers are [{}]", config.media_type, layers.join(", "))))
    }
}

/// How an image manifest packs its Wasm.
#[derive(Debug, PartialEq)]
pub enum Layout<'a> {
    /// The layer is the binary.
    Binary { config: &'a Descriptor, layer: &'a Descriptor },
    /// The binary is a file in one of these tars, where the config's entrypoint says.
    Tar { config: &'a Descriptor, layers: &'a [Descriptor] },
}

/// How a layer's tar is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
}

impl Compression {
    pub fn of(media_type: &str) -> Result<Self, Error> {
        match media_type {
            tar if tar.ends_with("tar+gzip") || tar.ends_with("tar.gzip") => Ok(Self::Gzip),
            tar if tar.ends_with(".tar") => Ok(Self::None),
            other => Err(Error::NotWasm(format!("a layer is {other}, which cannot be unpacked"))),
        }
    }
}

/// What an image's config says about running it; empty for artifacts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunConfig {
    #[serde(default)]
    pub entrypoint: Vec<String>,
    #[serde(default)]
    pub cmd: Vec<String>,
    #[serde(default)]
    pub env: Vec<(String, String)>,
    #[serde(default)]
    pub working_dir: String,
}

impl RunConfig {
    /// Reads a Linux-style image's config, and refuses it unless it claims to be Wasm: by platform, by the `compat`
    /// annotation, or by an entrypoint that ends in `.wasm`.
    pub fn of_image(config: &[u8], annotations: &BTreeMap<String, String>) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct File {
            #[serde(flatten)]
            platform: Platform,
            config: Option<Inner>,
        }
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "PascalCase", default)]
        struct Inner {
            entrypoint: Option<Vec<String>>,
            cmd: Option<Vec<String>>,
            env: Option<Vec<String>>,
            working_dir: Option<String>,
        }
        let file: File = serde_json::from_slice(config).map_err(Error::Config)?;
        let inner = file.config.unwrap_or_default();
        let env = inner.env.unwrap_or_default();
        let run = Self {
            entrypoint: inner.entrypoint.unwrap_or_default(),
            cmd: inner.cmd.unwrap_or_default(),
            env: env
                .iter()
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(k, v)| (k.into(), v.into()))
                .collect(),
            working_dir: inner.working_dir.unwrap_or_default(),
        };
        let claims = file.platform.is_wasm()
            || annotations.contains_key("module.wasm.image/variant")
            || run.binary_path().is_some_and(|path| path.ends_with(".wasm"));
        if !claims {
            let Platform { os, architecture } = file.platform;
            return Err(Error::NotWasm(format!("it is a {os}/{architecture} image")));
        }
        Ok(run)
    }

    /// Where in the image's file system the binary is.
    pub fn binary_path(&self) -> Option<&str> {
        self.entrypoint.first().or(self.cmd.first()).map(String::as_str)
    }
}

/// The config of a CNCF Wasm artifact. Source: the CNCF TAG Runtime's Wasm OCI artifact layout.
pub fn wasm_config(created: jiff::Timestamp, os: &str, layer: &Digest) -> Value {
    serde_json::json!({
        "created": created.to_string(),
        "architecture": "wasm",
        "os": os,
        "layerDigests": [layer],
    })
}

/// What identifies an image: its config where that says something, else its manifest (empty configs are shared by all).
pub fn identity(manifest: &Digest, config: &Descriptor) -> Digest {
    let telling = config.media_type == WASM_CONFIG || IMAGE_CONFIGS.contains(&config.media_type.as_str());
    if telling && config.size > 2 { config.digest.clone() } else { manifest.clone() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn descriptor(media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": Digest::of(media_type.as_bytes()), "size": 3})
    }

    fn document(value: Value) -> Document {
        Document::parse(value.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn wasm_artifacts_of_every_age_are_recognised() {
        for layer in WASM_LAYERS {
            for config in [WASM_CONFIG, "application/vnd.wasm.config.v1+json", "application/vnd.oci.empty.v1+json"] {
                let document =
                    document(json!({"schemaVersion": 2, "config": descriptor(config), "layers": [descriptor(layer)]}));
                assert!(
                    matches!(document.layout(), Ok(Layout::Binary { layer: found, .. }) if found.media_type == layer)
                );
            }
        }
    }

    #[test]
    fn an_index_yields_its_wasm_platform_or_says_what_it_has() {
        let child = |os: &str, architecture: &str| {
            let mut child = descriptor(OCI_MANIFEST);
            child["platform"] = json!({"os": os, "architecture": architecture});
            child
        };
        let both = document(
            json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child("linux", "amd64"), child("wasi", "wasm")]}),
        );
        assert_eq!(both.choose().unwrap().platform.as_ref().unwrap().os, "wasi");
        let linux =
            document(json!({"schemaVersion": 2, "manifests": [child("linux", "amd64"), child("linux", "arm64")]}));
        assert!(linux.is_index());
        assert!(linux.choose().unwrap_err().to_string().contains("linux/amd64, linux/arm64"));
    }

    #[test]
    fn foreign_artifacts_are_named() {
        let chart = document(json!({
            "schemaVersion": 2, "config": descriptor("application/vnd.cncf.helm.config.v1+json"),
            "layers": [descriptor("application/vnd.cncf.helm.chart.content.v1.tar+gzip")]
        }));
        assert!(chart.layout().unwrap_err().to_string().contains("helm.config"));
        assert!(Document::parse(br#"{"schemaVersion":1}"#).is_err());
        assert!(Document::parse(b"[]").is_err());
    }

    #[test]
    fn a_linux_config_is_refused_and_a_wasm_one_is_read() {
        let none = BTreeMap::new();
        let linux = br#"{"os":"linux","architecture":"amd64","config":{"Entrypoint":["/bin/sh"]}}"#;
        assert_eq!(
            RunConfig::of_image(linux, &none).unwrap_err().to_string(),
            "not a WebAssembly image: it is a linux/amd64 image"
        );
        let wasi = br#"{"os":"wasip1","architecture":"wasm","config":{"Entrypoint":["/app.wasm"],"Cmd":["x"],"Env":["A=b=c"],"WorkingDir":"/w"}}"#;
        let run = RunConfig::of_image(wasi, &none).unwrap();
        assert_eq!(run.binary_path(), Some("/app.wasm"));
        assert_eq!(run.env, [("A".to_owned(), "b=c".to_owned())]);
        assert_eq!(run.working_dir, "/w");
        let compat = BTreeMap::from([("module.wasm.image/variant".to_owned(), "compat".to_owned())]);
        assert!(RunConfig::of_image(linux, &compat).is_ok());
    }
}
