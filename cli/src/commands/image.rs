//! `wharf image`: the images of this machine.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use comfy_table::Table;
use wharf_oci::import;
use wharf_oci::store::{self, Store};

use crate::data::{Data, DataDir};

#[derive(Subcommand)]
pub enum Image {
    /// Make an image of a Wasm file
    Import(Import),
    /// List images
    Ls(Ls),
    /// Remove a reference, and what no other needs
    Rm(Rm),
}

#[derive(Args)]
pub struct Import {
    /// A core module or a component
    file: PathBuf,
    /// The reference that pods name it by, e.g. `hello:v1`; may be given more than once
    #[arg(short, long = "tag", required = true)]
    tags: Vec<String>,
    #[command(flatten)]
    data: Data,
}

#[derive(Args)]
pub struct Ls {
    #[command(flatten)]
    data: Data,
}

#[derive(Args)]
pub struct Rm {
    /// As `ls` shows it, or a short form of it
    reference: String,
    #[command(flatten)]
    data: Data,
}

impl Image {
    pub async fn run(self) -> Result<()> {
        match self {
            Image::Import(import) => import.run().await,
            Image::Ls(ls) => ls.run(),
            Image::Rm(rm) => rm.run(),
        }
    }
}

/// The store belongs to the node while one runs.
enum Owner {
    Us(std::sync::Arc<Store>),
    Node,
}

fn open(data: &DataDir) -> Result<Owner> {
    match Store::open(&data.images()?) {
        Ok(store) => Ok(Owner::Us(store)),
        Err(store::Error::InUse(_)) => Ok(Owner::Node),
        Err(error) => Err(error).context("open the image store"),
    }
}

impl Import {
    /// Into the store itself, or through the embedded registry of the node that holds it.
    async fn run(self) -> Result<()> {
        let data = self.data.open()?;
        let module = std::fs::read(&self.file).with_context(|| format!("read {}", self.file.display()))?;
        let tags: Vec<&str> = self.tags.iter().map(String::as_str).collect();
        let now = jiff::Timestamp::now();
        let id = match open(&data)? {
            Owner::Us(store) => import::import(&store, &module, &tags, now).map(|image| image.id),
            Owner::Node => import::push(&data.registry()?, module, &tags, now).await.map(|id| id.to_string()),
        };
        let id = id.with_context(|| format!("import {}", self.file.display()))?;
        println!("{id} {}", tags.join(" "));
        Ok(())
    }
}

impl Ls {
    fn run(self) -> Result<()> {
        let images = store::peek(&self.data.open()?.images()?).context("read the image store")?;
        let mut table = Table::new();
        table.load_preset(comfy_table::presets::NOTHING).set_header(["REFERENCE", "ID", "SIZE"]);
        for image in images {
            let id: String = image.id.chars().take("sha256:".len() + 12).collect();
            let size = format!("{:.1} kB", image.size_bytes as f64 / 1000.0);
            for tag in image.tags.iter().chain(image.digests.iter().filter(|_| image.tags.is_empty())) {
                table.add_row([tag, &id, &size]);
            }
        }
        println!("{table}");
        Ok(())
    }
}

impl Rm {
    fn run(self) -> Result<()> {
        let Owner::Us(store) = open(&self.data.open()?)? else {
            bail!("remove {}: a node runs on this data directory; stop it first", self.reference);
        };
        let removed = store.remove(&self.reference).with_context(|| format!("remove {}", self.reference))?;
        ensure!(removed, "no image is called {}", self.reference);
        Ok(())
    }
}
