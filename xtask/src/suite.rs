//! `cargo xtask test` and `cargo xtask bench`.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::tools::{self, run};
use crate::{cluster, fetch, go, guests};

#[derive(Args)]
pub struct Test {
    /// Arguments for the test runner, e.g. a filter
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl Test {
    pub fn run(self) -> Result<()> {
        guests::build()?;
        let kubectl = fetch::kubectl()?;
        // The tests run the real binary; cargo builds it for no test but those of its own package.
        let binary = cluster::build_binary(false)?;
        let nextest = tools::which("cargo-nextest").is_some();
        let mut cargo = tools::cargo();
        cargo.args(if nextest { &["nextest", "run"][..] } else { &["test"][..] });
        cargo.args(["--workspace", "--locked"]).args(&self.arguments);
        cargo.env("WHARF_PYTHON", fetch::python()?).env("WHARF_NODE_MODULES", fetch::node_modules()?);
        cargo.env("WHARF_GO_CLIENT", go::client()?).env("WHARF_HELM", fetch::helm()?);
        run(cargo.env("WHARF_GUESTS", guests::dir()).env("WHARF_KUBECTL", kubectl).env("WHARF_BINARY", binary))
    }
}

#[derive(Args)]
pub struct Bench {
    /// Only the measurements whose name contains this
    filter: Option<String>,
}

impl Bench {
    pub fn run(self) -> Result<()> {
        guests::build()?;
        let binary = cluster::build_binary(true)?;
        let mut bench = Command::new(binary.with_file_name("wharf-test-bench"));
        bench.args(self.filter);
        bench.env("WHARF_KUBECTL", fetch::kubectl()?).env("WHARF_WASMTIME", fetch::wasmtime()?);
        run(bench.env("WHARF_GUESTS", guests::dir()).env("WHARF_BINARY", binary))
    }
}

/// The test that guards the table writes it when asked.
pub fn protobuf_table() -> Result<()> {
    let mut cargo = tools::cargo();
    cargo.args(["test", "--package", "wharf-machinery", "--test", "protobuf_table"]);
    run(cargo.env("WHARF_WRITE", "1"))
}
