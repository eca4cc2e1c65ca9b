//! A Rust that compiles for `wasm32-wasip2`: found, else added, else made.
//!
//! In this order: the target of the installed toolchain; `rustup target add`; Debian's `rustc-web` with a standard library built
//! from `rust-web-src` and a newer suite's `wasi-libc`, linked by the linkers that the rustup toolchain ships. The last
//! is cached outside the checkout, by compiler version.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::fetch;
use crate::tools::{self, output, run};

pub const TRIPLE: &str = "wasm32-wasip2";

/// Debian's compiler; the one on `PATH` may be rustup's.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// What of wasi-libc a Rust program links.
const LIBC_FILES: [&str; 3] = ["libc.a", "crt1-command.o", "crt1-reactor.o"];

/// How to run cargo so that it compiles for [`TRIPLE`].
pub enum Toolchain {
    /// The rustup toolchain has the target.
    Native,
    /// Debian's compiler with a sysroot of our making.
    Made { sysroot: PathBuf, linker: PathBuf, lld: PathBuf },
}

impl Toolchain {
    pub fn find() -> Result<Self> {
        if has_target(Command::new("rustc"))? {
            return Ok(Toolchain::Native);
        }
        let added =
            Command::new("rustup").args(["target", "add", TRIPLE]).output().is_ok_and(|done| done.status.success());
        if added && has_target(Command::new("rustc"))? {
            return Ok(Toolchain::Native);
        }
        eprintln!("rustup has no {TRIPLE} to give: making one from Debian's sources");
        make()
    }

    /// Sets a cargo command up.
    pub fn apply(&self, command: &mut Command) -> Result<()> {
        // What configures the host's build has no say in a guest's.
        for name in [
            "RUSTFLAGS",
            "CARGO_TARGET_DIR",
            "CARGO_UNSTABLE_FEATURE_UNIFICATION",
            "CARGO_RESOLVER_FEATURE_UNIFICATION",
        ] {
            command.env_remove(name);
        }
        if let Toolchain::Made { sysroot, linker, lld } = self {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let paths = std::iter::once(lld.clone()).chain(std::env::split_paths(&path));
            command
                .env("RUSTC", DEBIAN_RUSTC)
                .env("CARGO_TARGET_WASM32_WASIP2_LINKER", linker)
                .env("CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS", format!("--sysroot {}", sysroot.display()))
                .env("PATH", std::env::join_paths(paths).context("put the linker on PATH")?);
        }
        Ok(())
    }
}

fn has_target(mut rustc: Command) -> Result<bool> {
    let dir = output(rustc.args(["--print", "target-libdir", "--target", TRIPLE]))?;
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(false) };
    Ok(entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-")))
}

fn make() -> Result<Toolchain> {
    let (linker, lld) = linkers()?;
    if !Path::new(DEBIAN_RUSTC).is_file() || !Path::new("/usr/lib/rustlib/src/rust/library").is_dir() {
        fetch::install(&["rustc-web", "rust-web-src"])?;
    }
    let version = output(Command::new(DEBIAN_RUSTC).arg("--version"))?;
    let version = version.split_whitespace().nth(1).context("rustc --version has no version")?.to_owned();
    let sysroot = tools::cache()?.join(format!("{TRIPLE}-{version}"));
    if !sysroot.join("complete").is_file() {
        build_sysroot(&sysroot)?;
        std::fs::write(sysroot.join("complete"), version).context("mark the sysroot complete")?;
    }
    Ok(Toolchain::Made { sysroot, linker, lld })
}

/// The component linker and the folder of the `wasm-ld` that it calls, from the toolchain that builds us.
fn linkers() -> Result<(PathBuf, PathBuf)> {
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let host = output(Command::new("rustc").args(["--print", "host-tuple"]))?;
    let bin = Path::new(&sysroot).join("lib/rustlib").join(host).join("bin");
    let linker = bin.join("wasm-component-ld");
    if !linker.is_file() {
        bail!("{} is missing: install a rustup toolchain, or run `rustup target add {TRIPLE}`", linker.display());
    }
    Ok((linker, bin.join("gcc-ld")))
}

/// Builds std once and lays it and wasi-libc out as a sysroot.
fn build_sysroot(sysroot: &Path) -> Result<()> {
    let lib = sysroot.join("lib/rustlib").join(TRIPLE).join("lib");
    if sysroot.exists() {
        std::fs::remove_dir_all(sysroot).context("remove a half-made sysroot")?;
    }
    std::fs::create_dir_all(lib.join("self-contained")).context("create the sysroot")?;

    let work = sysroot.join("build");
    std::fs::create_dir_all(work.join("src")).context("create the std build")?;
    std::fs::write(work.join("src/lib.rs"), "").context("write an empty crate")?;
    let manifest = "[package]\nname = \"empty\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[profile.release]\npanic = \"abort\"\n[workspace]\n";
    std::fs::write(work.join("Cargo.toml"), manifest).context("write an empty crate")?;
    let mut cargo = tools::cargo();
    cargo.current_dir(&work).env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
    for name in
        ["RUSTFLAGS", "CARGO_TARGET_DIR", "CARGO_UNSTABLE_FEATURE_UNIFICATION", "CARGO_RESOLVER_FEATURE_UNIFICATION"]
    {
        cargo.env_remove(name);
    }
    run(cargo.args(["build", "--quiet", "-Zbuild-std=std,panic_abort", "--release", "--target", TRIPLE]))?;

    let deps = work.join("target").join(TRIPLE).join("release/deps");
    for entry in std::fs::read_dir(&deps).with_context(|| format!("list {}", deps.display()))? {
        let path = entry.context("list std's libraries")?.path();
        let name = path.file_name().unwrap_or_default().to_owned();
        if path.extension().is_some_and(|extension| extension == "rlib")
            && !name.to_string_lossy().starts_with("libempty")
        {
            std::fs::copy(&path, lib.join(name)).with_context(|| format!("copy {}", path.display()))?;
        }
    }
    std::fs::remove_dir_all(&work).context("remove the std build")?;

    let libc = sysroot.join("wasi-libc");
    fetch::unpack("trixie", "wasi-libc", &libc)?;
    for file in LIBC_FILES {
        let from = libc.join("usr/lib").join(TRIPLE).join(file);
        std::fs::copy(&from, lib.join("self-contained").join(file))
            .with_context(|| format!("copy {}", from.display()))?;
    }
    Ok(())
}
