//! The toolbox: programs for `exec` in containers that have none but their own.
//!
//! One component that is every tool by its name (`runtime/toolbox`), in a file that lies beside the binary. It runs in the
//! container's place as the image's component would: with its environment, files, addresses and limits. Read when the first tool
//! is asked for. Absent on purpose: images of tools; whoever wants other programs brings an image.

use std::path::PathBuf;

use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use crate::image::ArtifactFile;

/// What the toolbox answers to. A test holds it against what the component says of itself.
pub const TOOLS: &[&str] = &[
    "[",
    "ash",
    "base64",
    "basename",
    "cat",
    "chmod",
    "cp",
    "cut",
    "date",
    "dirname",
    "du",
    "echo",
    "env",
    "false",
    "find",
    "grep",
    "head",
    "hostname",
    "id",
    "ln",
    "ls",
    "md5sum",
    "mkdir",
    "mv",
    "nc",
    "nslookup",
    "printenv",
    "printf",
    "ps",
    "pwd",
    "readlink",
    "rm",
    "rmdir",
    "sed",
    "seq",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "tail",
    "tar",
    "tee",
    "test",
    "touch",
    "tr",
    "true",
    "uname",
    "uniq",
    "wc",
    "wget",
    "which",
    "whoami",
    "xargs",
];

/// What a command line runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The image's component.
    Own,
    Tool,
    /// There is nothing of that name.
    Nothing,
}

/// Pure: `word` is what the command line begins with, `own` what the container's own does. An image's program is found by its
/// name even where a tool has the same; a command component answers to any other name too, as an entrypoint would.
pub fn choose(word: &str, own: &str, is_command: bool, has_toolbox: bool) -> Program {
    let name = |path: &str| -> String {
        let name = path.rsplit('/').next().unwrap_or(path);
        name.strip_suffix(".wasm").unwrap_or(name).to_owned()
    };
    let tool = has_toolbox && TOOLS.contains(&name(word).as_str()) && name(word) != name(own);
    match (tool, is_command) {
        (true, _) => Program::Tool,
        (false, true) => Program::Own,
        (false, false) => Program::Nothing,
    }
}

#[derive(Debug, Default)]
pub struct Toolbox {
    path: Option<PathBuf>,
    file: OnceCell<ArtifactFile>,
}

impl Toolbox {
    /// Without a path there are no tools.
    pub fn new(path: Option<PathBuf>) -> Self {
        Self { path, file: OnceCell::new() }
    }

    pub fn is_there(&self) -> bool {
        self.path.is_some()
    }

    /// The component's file, as the compiler takes it.
    pub async fn file(&self) -> std::io::Result<ArtifactFile> {
        let path = self.path.clone().ok_or(std::io::ErrorKind::NotFound)?;
        let read = async {
            let bytes = tokio::fs::read(&path).await?;
            let digest = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
            Ok(ArtifactFile { path, digest, ..ArtifactFile::default() })
        };
        self.file.get_or_try_init(|| read).await.cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_runs_where_the_image_is_not_named_so() {
        let check = |word: &str, own: &str, is_command: bool, expected: Program| {
            assert_eq!(choose(word, own, is_command, true), expected, "{word} in {own}");
        };
        check("ls", "hello.wasm", true, Program::Tool);
        check("/bin/sh", "hello.wasm", true, Program::Tool);
        check("cat", "cat.wasm", true, Program::Own);
        check("cat", "/usr/bin/cat", true, Program::Own);
        check("hello", "hello.wasm", true, Program::Own);
        check("anything", "hello.wasm", true, Program::Own);
        check("ls", "hello-http.wasm", false, Program::Tool);
        check("anything", "hello-http.wasm", false, Program::Nothing);
        assert_eq!(choose("ls", "hello.wasm", true, false), Program::Own);
        assert_eq!(choose("ls", "hello-http.wasm", false, false), Program::Nothing);
    }
}
