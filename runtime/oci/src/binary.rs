//! Tells a Wasm core module from a component, and both from anything else, by the first eight bytes.

/// Bytes that [`Binary::detect`] needs.
pub const HEADER_BYTES: usize = 8;

const MAGIC: &[u8; 4] = b"\0asm";

/// The two kinds of Wasm binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    Module,
    Component,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("not a WebAssembly binary: it starts with {0}")]
    Foreign(String),
    #[error("a WebAssembly binary of an unknown version ({version}) and layer ({layer})")]
    Version { version: u16, layer: u16 },
}

impl Binary {
    /// Reads the preamble of a file.
    pub fn detect(head: &[u8]) -> Result<Self, Error> {
        match head.get(..HEADER_BYTES) {
            Some([b'\0', b'a', b's', b'm', v0, v1, l0, l1]) => {
                match (u16::from_le_bytes([*v0, *v1]), u16::from_le_bytes([*l0, *l1])) {
                    (1, 0) => Ok(Self::Module),
                    (0x0d, 1) => Ok(Self::Component),
                    (version, layer) => Err(Error::Version { version, layer }),
                }
            }
            _ => Err(Error::Foreign(describe(head))),
        }
    }

    /// The `os` of an artifact's config: what the guest expects of its host.
    pub fn os(self) -> &'static str {
        match self {
            Self::Module => "wasip1",
            Self::Component => "wasip2",
        }
    }
}

fn describe(head: &[u8]) -> String {
    match head {
        [] => "nothing, it is empty".to_owned(),
        [0x7f, b'E', b'L', b'F', ..] => "an ELF header (a Linux executable)".to_owned(),
        [b'#', b'!', ..] => "#! (a script)".to_owned(),
        [0x1f, 0x8b, ..] => "a gzip header".to_owned(),
        head if head.starts_with(MAGIC) => "the WebAssembly magic and is then cut short".to_owned(),
        head => format!("0x{}", hex::encode(&head[..head.len().min(4)])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_told_apart() {
        assert_eq!(Binary::detect(b"\0asm\x01\0\0\0rest"), Ok(Binary::Module));
        assert_eq!(Binary::detect(b"\0asm\x0d\0\x01\0rest"), Ok(Binary::Component));
        assert_eq!(Binary::detect(b"\0asm\x02\0\0\0"), Err(Error::Version { version: 2, layer: 0 }));
        for (head, words) in [
            (&b""[..], "empty"),
            (b"\x7fELF....", "ELF"),
            (b"#!/bin/sh", "script"),
            (b"\0asm\x01", "cut short"),
            (b"PK", "0x504b"),
        ] {
            assert!(Binary::detect(head).unwrap_err().to_string().contains(words), "{words}");
        }
    }
}
