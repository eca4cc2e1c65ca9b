//! `cargo xtask up`: a release build of the binary, the examples' images, and a cluster in the foreground.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::tools::{self, run};
use crate::{fetch, guests};

/// The examples' images: a guest and the reference its manifest names.
pub const EXAMPLES: [(&str, &str); 5] = [
    ("admission-policy", "admission-policy:v1"),
    ("hello-http", "hello-http:v1"),
    ("job-primes", "job-primes:v1"),
    ("counter-store", "counter-store:v1"),
    ("counter-web", "counter-web:v1"),
];

#[derive(Args)]
pub struct Up {
    /// Build without optimisations
    #[arg(long)]
    debug: bool,
    /// Where the cluster keeps its state
    #[arg(long, default_value = ".wharf")]
    data: PathBuf,
    /// More arguments for `wharf up`
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl Up {
    pub fn run(self) -> Result<()> {
        let binary = build_binary(!self.debug)?;
        guests::build()?;
        guests::place_toolbox(&binary)?;
        let data = if self.data.is_absolute() { self.data.clone() } else { tools::root().join(&self.data) };
        for (guest, reference) in EXAMPLES {
            let file = guests::dir().join(format!("{guest}.wasm"));
            run(Command::new(&binary)
                .args(["image", "import"])
                .arg(&file)
                .args(["-t", reference, "--data"])
                .arg(&data))
            .with_context(|| format!("import {reference}"))?;
        }
        let kubectl = fetch::kubectl()?;
        eprintln!("kubectl: {}", kubectl.display());
        run(Command::new(&binary).arg("up").arg("--data").arg(&data).args(&self.arguments))
    }
}

/// Builds `wharf` and returns its path. It is built together with what runs it, the tests or the measurements: alone its
/// dependencies would have other features and be compiled a second time, and what is measured would not be what users start.
pub fn build_binary(release: bool) -> Result<PathBuf> {
    let selection: &[&str] = if release {
        &["--release", "--package", "wharf", "--package", "wharf-test-bench"]
    } else {
        &["--workspace", "--bins", "--tests"]
    };
    run(tools::cargo().args(["build", "--locked"]).args(selection))?;
    Ok(tools::target().join(if release { "release" } else { "debug" }).join("wharf"))
}
