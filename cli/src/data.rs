//! Where a cluster keeps its state.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

/// The data directory, as every role and command takes it.
#[derive(Args, Clone, Debug)]
pub struct Data {
    /// Where the cluster keeps its state [default: $XDG_DATA_HOME/wharf]
    #[arg(long, env = "WHARF_DATA")]
    data: Option<PathBuf>,
}

/// The directory, made and private.
#[derive(Clone, Debug)]
pub struct DataDir(PathBuf);

impl Data {
    pub fn open(&self) -> Result<DataDir> {
        let path = match &self.data {
            Some(path) => std::path::absolute(path).with_context(|| format!("--data {}", path.display()))?,
            None => default_path()?,
        };
        make(&path)?;
        Ok(DataDir(path))
    }
}

fn default_path() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_DATA_HOME").filter(|path| !path.is_empty()) {
        Some(base) => PathBuf::from(base),
        None => PathBuf::from(std::env::var_os("HOME").context("neither --data nor HOME says where to keep state")?)
            .join(".local/share"),
    };
    Ok(base.join("wharf"))
}

fn make(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("create {}", path.display()))
}

impl DataDir {
    pub fn store(&self) -> PathBuf {
        self.0.join("store.redb")
    }

    pub fn pki(&self) -> PathBuf {
        self.0.join("pki")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.0.join("kubeconfig")
    }

    /// A node's own part.
    pub fn node(&self) -> Result<PathBuf> {
        let path = self.0.join("node");
        make(&path)?;
        Ok(path)
    }

    pub fn images(&self) -> Result<PathBuf> {
        Ok(self.node()?.join("images"))
    }

    /// Compiled code of a node's images, and of the admission plugins beside them.
    pub fn compiled(&self) -> Result<PathBuf> {
        let path = self.node()?.join("compiled");
        make(&path)?;
        Ok(path)
    }

    /// Images of admission plugins, where no node keeps them.
    pub fn plugins(&self) -> PathBuf {
        self.0.join("plugins")
    }

    /// Their compiled code.
    pub fn compiled_plugins(&self) -> Result<PathBuf> {
        let path = self.0.join("compiled");
        make(&path)?;
        Ok(path)
    }

    /// Where the embedded registry of the node that runs here listens.
    pub fn registry(&self) -> Result<String> {
        let path = self.registry_file()?;
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    pub fn note_registry(&self, address: SocketAddr) -> Result<()> {
        let path = self.registry_file()?;
        std::fs::write(&path, address.to_string()).with_context(|| format!("write {}", path.display()))
    }

    fn registry_file(&self) -> Result<PathBuf> {
        Ok(self.node()?.join("registry"))
    }
}
