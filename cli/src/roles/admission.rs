//! What admission plugins are told: the file behind `--admission-control-config-file`.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use wharf_admission::{Chain, Configuration};

/// Gives each plugin its part of the file. Files that it names are found relative to it.
pub fn configured(chain: Chain, file: Option<&Path>) -> Result<Chain> {
    let base = file.and_then(Path::parent).unwrap_or(Path::new(""));
    let load = |name: &str| std::fs::read_to_string(base.join(name)).map_err(|error| format!("open {name}: {error}"));
    let parts = match file {
        None => Configuration::default(),
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("unable to read admission control configuration from {file:?}"))?;
            Configuration::parse(&text, &load).map_err(|why| anyhow!("{} is refused: {why}", file.display()))?
        }
    };
    chain.configured(&parts, &load).context("start the admission plugins")
}
