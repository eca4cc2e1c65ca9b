//! Debian packages, for machines where a tool's own channel can be reached by no other way.
//!
//! Packages of a newer suite are unpacked into the cache and never installed, so suites do not mix on the system.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::tools::{self, output, run};

/// Signs every Debian suite.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const LOCK: &str = "DPkg::Lock::Timeout=300";

/// Installs packages of the system's own suite.
pub fn install(packages: &[&str]) -> Result<()> {
    run(sudo("apt-get").args(["update", "-qq"]))?;
    run(sudo("apt-get").args(["install", "-y", "-qq", "--no-install-recommends", "-o", LOCK]).args(packages))
        .with_context(|| format!("install {}", packages.join(", ")))
}

fn sudo(program: &str) -> Command {
    let root = output(Command::new("id").arg("-u")).is_ok_and(|uid| uid == "0");
    let mut command = if root { Command::new(program) } else { Command::new("sudo") };
    if !root {
        command.arg(program);
    }
    command
}

/// Downloads one package of Debian `suite` and unpacks it below `into`.
pub fn unpack(suite: &str, package: &str, into: &Path) -> Result<()> {
    let work = tempdir(package)?;
    for dir in ["lists/partial", "cache/archives/partial"] {
        std::fs::create_dir_all(work.join(dir)).context("create apt's folders")?;
    }
    let source = format!("deb [signed-by={KEYRING}] {} {suite} main\n", mirror()?);
    std::fs::write(work.join("sources.list"), source).context("write sources.list")?;
    let options = [
        format!("Dir::Etc::sourcelist={}", work.join("sources.list").display()),
        "Dir::Etc::sourceparts=-".to_owned(),
        format!("Dir::State::lists={}", work.join("lists").display()),
        format!("Dir::Cache={}", work.join("cache").display()),
    ];
    let apt = || {
        let mut command = Command::new("apt-get");
        command.current_dir(&work).arg("-qq");
        options.iter().for_each(|option| {
            command.args(["-o", option]);
        });
        command
    };
    run(apt().arg("update"))?;
    run(apt().args(["download", &format!("{package}/{suite}")]))?;
    let deb = std::fs::read_dir(&work)
        .context("list downloads")?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt downloaded nothing for {package}"))?;
    std::fs::create_dir_all(into).with_context(|| format!("create {}", into.display()))?;
    run(Command::new("dpkg").arg("-x").arg(&deb).arg(into))?;
    std::fs::remove_dir_all(&work).context("remove apt's folders")
}

/// Where this system gets Debian's packages from.
fn mirror() -> Result<String> {
    let format = "$(ORIGIN) $(CODENAME) $(REPO_URI)";
    let targets = output(Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]))?;
    let uris = targets.lines().filter_map(|line| line.strip_prefix("Debian ")).filter_map(|line| line.split_once(' '));
    let mut plain = uris.filter(|(codename, _)| !codename.contains('-')).map(|(_, uri)| uri.to_owned());
    plain.next_back().context("apt has no Debian source; install the tool that is missing by hand")
}

fn tempdir(name: &str) -> Result<PathBuf> {
    let dir = std::env::temp_dir().join(format!("wharf-fetch-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    Ok(dir)
}

/// kubectl: the one on `PATH`, else Debian's, unpacked into the cache.
pub fn kubectl() -> Result<PathBuf> {
    if let Some(path) = tools::which("kubectl") {
        return Ok(path);
    }
    let dir = tools::cache()?.join("kubectl");
    let path = dir.join("usr/bin/kubectl");
    if !path.is_file() {
        unpack("trixie", "kubectl", &dir)?;
    }
    Ok(path)
}

/// Releases of the official clients that the tests run.
const PYTHON_CLIENT: &str = "kubernetes==37.0.2";
const JAVASCRIPT_CLIENT: &str = "@kubernetes/client-node@1.4.0";

/// A Python that has the official client, in the cache.
pub fn python() -> Result<PathBuf> {
    let dir = tools::cache()?.join(PYTHON_CLIENT);
    let python = dir.join("bin/python");
    if !dir.join("done").is_file() {
        if tools::which("python3").is_none() || run(Command::new("python3").args(["-c", "import ensurepip"])).is_err() {
            install(&["python3", "python3-venv"])?;
        }
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&dir))?;
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", PYTHON_CLIENT]))?;
        std::fs::write(dir.join("done"), "").context("mark the Python client as whole")?;
    }
    Ok(python)
}

/// Where Node.js finds the official client, in the cache.
pub fn node_modules() -> Result<PathBuf> {
    let dir = tools::cache()?.join(JAVASCRIPT_CLIENT.replace('/', "-"));
    if !dir.join("done").is_file() {
        if tools::which("npm").is_none() {
            install(&["nodejs", "npm"])?;
        }
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(&dir).arg(JAVASCRIPT_CLIENT);
        run(&mut npm)?;
        std::fs::write(dir.join("done"), "").context("mark the JavaScript client as whole")?;
    }
    Ok(dir.join("node_modules"))
}

/// A C++ compiler: libFuzzer is built from source.
pub fn cpp() -> Result<()> {
    if tools::which("c++").is_some() { Ok(()) } else { install(&["g++"]) }
}

/// The peer of the HTTP measurement, of the same release as the engine.
const WASMTIME_VERSION: &str = "48.0.8";

/// wasmtime's command line, built into the cache.
pub fn wasmtime() -> Result<PathBuf> {
    let root = tools::cache()?.join("tools");
    let path = root.join("bin/wasmtime");
    if !path.is_file() {
        eprintln!("building wasmtime {WASMTIME_VERSION} to measure against; this takes some minutes, once");
        let features = "serve,run,cranelift,component-model,component-model-async,pooling-allocator,parallel-compilation,wasi-http";
        let mut cargo = tools::cargo();
        cargo.args([
            "install",
            "wasmtime-cli",
            "--version",
            WASMTIME_VERSION,
            "--locked",
            "--quiet",
            "--no-default-features",
        ]);
        run(cargo.args(["--features", features, "--root"]).arg(&root))?;
    }
    Ok(path)
}
