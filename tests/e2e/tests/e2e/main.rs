//! The real binary, driven by kubectl and kube-rs as a user would. Each test has a cluster of its own.

mod access;
mod admission;
mod bad_input;
mod certificates;
mod chart;
mod clients;
mod controllers;
mod crash;
mod definitions;
mod encryption;
mod foreign;
mod images;
mod kubectl;
mod network;
mod pods;
mod secrecy;
mod streams;
mod tokens;
mod tools;
mod top;
mod walkthrough;

/// A file of `examples/`.
fn example(path: &str) -> String {
    format!("{}/../../examples/{path}", env!("CARGO_MANIFEST_DIR"))
}

/// A file that no `mod` names is compiled by nothing, and its tests run nowhere.
#[test]
fn every_file_is_a_module() {
    let here = format!("{}/tests/e2e", env!("CARGO_MANIFEST_DIR"));
    for file in std::fs::read_dir(here).expect("the suite's files") {
        let name = file.expect("a file").file_name().into_string().expect("UTF-8");
        let Some(name) = name.strip_suffix(".rs").filter(|name| !["main", "lib"].contains(name)) else { continue };
        let declaration = format!("\nmod {name};");
        assert!(include_str!("main.rs").contains(&declaration), "{name}.rs is no module of the suite");
    }
}
