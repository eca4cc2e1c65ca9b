//! Makes a component of a core module.
//!
//! WASI 0.1 is adapted to 0.2 with Wasmtime's adapter, except for `proc_exit`: the adapter knows success and failure only, so
//! that import is pointed at `wasi:cli/exit.exit-with-code` and exit codes stay what they are. A module with `_start` becomes a
//! command, any other a reactor, whose exports are those of the world that its tool chain embedded.
//! Absent on purpose: `wasi_unstable` (the snapshot before 0.1), which no current tool chain makes.

use std::ops::Range;

use wasi_preview1_component_adapter_provider as adapter;
use wasmparser::Payload;
use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::Resolve;

/// Part of the compile cache's key: counts up when a module is made into something else than before.
pub const VERSION: u32 = 1;

/// The version that the adapter imports.
const EXIT: &str = "wasi:cli/exit@0.2.12";

const EXIT_WIT: &str = "
    package wasi:cli@0.2.12;
    interface exit { exit-with-code: func(status-code: u8); }
    world exits { import exit; }
";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("WebAssembly is malformed: {0}")]
    Malformed(#[from] wasmparser::BinaryReaderError),
    #[error("module cannot be made a component: {0}")]
    Encode(String),
}

/// The component that the host runs in a core module's place.
pub fn componentize(module: &[u8]) -> Result<Vec<u8>, Error> {
    // The encoder trusts its input and panics on what is malformed.
    wasmparser::Validator::new().validate_all(module)?;
    let facts = Facts::of(module)?;
    let adapter = match facts.has_start {
        true => adapter::WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
        false => adapter::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
    };
    encode(keep_exit_codes(module, &facts), adapter)
        .map_err(|error| Error::Encode(format!("{error:#}").replace('\n', " ")))
}

fn encode(module: anyhow::Result<Vec<u8>>, adapter: &[u8]) -> anyhow::Result<Vec<u8>> {
    let encoder = ComponentEncoder::default().module(&module?)?.validate(true);
    encoder.adapter(adapter::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, adapter)?.encode()
}

/// What of a module matters here.
#[derive(Debug, Default)]
struct Facts {
    has_start: bool,
    /// The import section with its header, and where its content begins.
    imports: Option<(Range<usize>, usize)>,
}

impl Facts {
    fn of(module: &[u8]) -> wasmparser::Result<Facts> {
        let mut facts = Facts::default();
        let mut section_start = 0;
        for payload in wasmparser::Parser::new(0).parse_all(module) {
            let payload = payload?;
            match &payload {
                Payload::Version { range, .. } => section_start = range.end,
                Payload::ImportSection(imports) => {
                    let content = imports.range();
                    facts.imports = Some((section_start..content.end, content.start));
                }
                Payload::ExportSection(exports) => {
                    for export in exports.clone() {
                        facts.has_start |= export?.name == "_start";
                    }
                }
                _ => {}
            }
            if let Some((_, content)) = payload.as_section() {
                section_start = content.end;
            }
        }
        Ok(facts)
    }
}

/// Points the import of `proc_exit` at the function of 0.2 that takes a code: the two have the same core type.
fn keep_exit_codes(module: &[u8], facts: &Facts) -> anyhow::Result<Vec<u8>> {
    let from = import(adapter::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, "proc_exit");
    let Some((section, content)) = &facts.imports else { return Ok(module.to_vec()) };
    let old = &module[*content..section.end];
    let Some(at) = old.windows(from.len()).position(|window| window == from) else { return Ok(module.to_vec()) };
    let new = [&old[..at], &import(EXIT, "exit-with-code"), &old[at + from.len()..]].concat();
    let mut changed = module[..section.start].to_vec();
    changed.push(module[section.start]);
    leb128(&mut changed, new.len());
    changed.extend_from_slice(&new);
    changed.extend_from_slice(&module[section.end..]);
    let mut resolve = Resolve::default();
    let package = resolve.push_str("exit.wit", EXIT_WIT)?;
    let world = resolve.select_world(&[package], Some("exits"))?;
    wit_component::embed_component_metadata(&mut changed, &resolve, world, StringEncoding::UTF8)?;
    Ok(changed)
}

/// The names of an import as the binary format has them, and the byte that says that it is a function.
fn import(module: &str, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for text in [module, name] {
        leb128(&mut bytes, text.len());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes.push(0);
    bytes
}

fn leb128(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of what the component of a module imports or exports.
    fn check(text: &str, expected: &[&str]) {
        let component = componentize(&wat::parse_str(text).unwrap()).unwrap();
        wasmparser::Validator::new().validate_all(&component).unwrap();
        for name in expected {
            assert!(component.windows(name.len()).any(|window| window == name.as_bytes()), "{name} in {text}");
        }
    }

    #[test]
    fn a_module_with_a_start_is_a_command_and_exits_with_its_code() {
        check(
            r#"(module
                (import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))
                (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
                (memory (export "memory") 1)
                (func (export "_start")))"#,
            &["wasi:cli/run@", EXIT, "exit-with-code"],
        );
        check(r#"(module (memory (export "memory") 1) (func (export "_start")))"#, &["wasi:cli/run@"]);
    }

    #[test]
    fn what_the_host_lacks_is_named() {
        let module = r#"(module (import "env" "knock" (func)) (memory (export "memory") 1) (func (export "_start")))"#;
        let error = componentize(&wat::parse_str(module).unwrap()).unwrap_err().to_string();
        assert!(error.contains("`env`"), "{error}");
    }

    #[test]
    fn lengths_are_encoded_as_the_format_wants() {
        for (value, expected) in [(0, &[0][..]), (127, &[127]), (128, &[0x80, 1]), (300, &[0xac, 2])] {
            let mut bytes = Vec::new();
            leb128(&mut bytes, value);
            assert_eq!(bytes, expected);
        }
    }
}
