//! Builds the Wasm guests and collects them in `target/guests/<name>.wasm`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::tools::{self, run};
use crate::wasm_target::{TRIPLE, Toolchain};

/// Workspaces of guests, below the checkout.
const WORKSPACES: [&str; 3] = ["examples", "tests/guests", "runtime/toolbox"];
/// What the node looks for beside the binary.
const TOOLBOX: &str = "toolbox.wasm";

/// Where the guests end up. A `_` that cargo puts in a library's file name is a `-` again.
pub fn dir() -> PathBuf {
    tools::root().join("target/guests")
}

pub fn build() -> Result<Vec<PathBuf>> {
    let toolchain = Toolchain::find()?;
    let out = dir();
    std::fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
    let mut guests = Vec::new();
    for workspace in WORKSPACES {
        let target = tools::root().join("target/guests-build").join(workspace.replace('/', "-"));
        let mut cargo = tools::cargo();
        toolchain.apply(&mut cargo)?;
        cargo.current_dir(tools::root().join(workspace)).env_remove("RUSTC_BOOTSTRAP");
        run(cargo
            .args(["build", "--quiet", "--locked", "--release", "--target", TRIPLE, "--target-dir"])
            .arg(&target))?;
        let built = target.join(TRIPLE).join("release");
        for entry in std::fs::read_dir(&built).with_context(|| format!("list {}", built.display()))? {
            let path = entry.context("list guests")?.path();
            if path.extension().is_none_or(|extension| extension != "wasm") {
                continue;
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy().replace('_', "-");
            let to = out.join(name);
            std::fs::copy(&path, &to).with_context(|| format!("copy {}", path.display()))?;
            guests.push(to);
        }
    }
    guests.sort();
    Ok(guests)
}

/// Puts the toolbox beside the binary, where a node looks for it.
pub fn place_toolbox(binary: &Path) -> Result<()> {
    let (from, to) = (dir().join(TOOLBOX), binary.with_file_name(TOOLBOX));
    std::fs::copy(&from, &to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(())
}
