//! `cargo xtask fuzz`: every target of `fuzz/` for a bounded time, with libFuzzer, on the toolchain that is there.
//!
//! What is found lies in `target/fuzz/artifacts`; what was learned, in `target/fuzz/corpus`, for the next run. Deliberately
//! absent: the address sanitizer, which needs a nightly toolchain and finds little in code without `unsafe`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::fetch;
use crate::tools::{self, run};

/// What makes LLVM count which edges a run takes, and what it compares.
const COVERAGE: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
/// Longest input, in bytes.
const INPUT_MAX: usize = 16 * 1024;
/// A single input that takes longer is a finding.
const INPUT_TIME_MAX_S: u32 = 20;
/// A target that holds more memory is a finding.
const MEMORY_MAX_MIB: u32 = 2048;

#[derive(Args)]
pub struct Fuzz {
    /// Only this target, a file of fuzz/fuzz_targets
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// The same seed takes the same way through the same build; none: another way each time
    #[arg(long)]
    seed: Option<u32>,
}

impl Fuzz {
    pub fn run(self) -> Result<()> {
        let fuzz = tools::root().join("fuzz");
        let out = tools::target().join("fuzz");
        let mut targets = targets(&fuzz.join("fuzz_targets"))?;
        if let Some(wanted) = &self.target {
            targets.retain(|target| target == wanted);
            ensure!(!targets.is_empty(), "fuzz/fuzz_targets has no {wanted}.rs");
        }
        fetch::cpp()?;
        let host = tools::host()?;
        let mut cargo = tools::cargo();
        cargo.args(["build", "--locked", "--target", &host, "--manifest-path"]).arg(fuzz.join("Cargo.toml"));
        cargo.env("CARGO_TARGET_DIR", &out).env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\x1f"));
        run(&mut cargo)?;
        for target in targets {
            let (corpus, artifacts) = (out.join("corpus").join(&target), out.join("artifacts").join(&target));
            for folder in [&corpus, &artifacts] {
                std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
            }
            let mut libfuzzer = Command::new(out.join(&host).join("debug").join(&target));
            libfuzzer.args([
                format!("-max_total_time={}", self.seconds),
                format!("-timeout={INPUT_TIME_MAX_S}"),
                format!("-rss_limit_mb={MEMORY_MAX_MIB}"),
                format!("-max_len={INPUT_MAX}"),
                format!("-artifact_prefix={}/", artifacts.display()),
                "-print_final_stats=1".to_owned(),
                "-verbosity=0".to_owned(),
            ]);
            libfuzzer.args(self.seed.map(|seed| format!("-seed={seed}")));
            eprintln!("fuzz {target} for {} s", self.seconds);
            run(libfuzzer.arg(corpus).arg(fuzz.join("seeds").join(&target)))
                .with_context(|| format!("{target}: the input that broke it is in {}", artifacts.display()))?;
        }
        Ok(())
    }
}

/// The names of the targets, in their order.
fn targets(folder: &Path) -> Result<Vec<String>> {
    let files = std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let mut names: Vec<String> =
        files.filter_map(|file| Some(file.ok()?.path().file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    Ok(names)
}
