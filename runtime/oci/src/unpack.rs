//! Finds a Wasm binary in the tar layers of a Linux-style image.
//!
//! Nothing is unpacked to disk: the one file that the entrypoint names is read. Layers are searched from the last to the
//! first, so a later layer's file hides an earlier one's. Absent on purpose: whiteouts and links, which no Wasm image has.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Component, Path};

use flate2::read::MultiGzDecoder;

use crate::import::MODULE_MAX_BYTES;
use crate::manifest::Compression;

/// Most bytes of one layer that are looked at, decompressed.
pub const UNPACKED_MAX_BYTES: u64 = 4 << 30;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read layer")]
    Io(#[from] io::Error),
    #[error("the image has no file {0:?}, which its entrypoint names")]
    NotFound(String),
    #[error("the file {0:?} is larger than {MODULE_MAX_BYTES} bytes")]
    TooLarge(String),
}

/// Reads the file at `path` out of the layers, given from the first to the last. Blocks.
pub fn find(layers: &[(&Path, Compression)], path: &str) -> Result<Vec<u8>, Error> {
    for (layer, compression) in layers.iter().rev() {
        let file = BufReader::new(File::open(layer)?);
        let found = match compression {
            Compression::None => find_in(file, path)?,
            Compression::Gzip => find_in(MultiGzDecoder::new(file), path)?,
        };
        if let Some(bytes) = found {
            return Ok(bytes);
        }
    }
    Err(Error::NotFound(path.to_owned()))
}

fn find_in(tar: impl Read, path: &str) -> Result<Option<Vec<u8>>, Error> {
    let mut archive = tar::Archive::new(tar.take(UNPACKED_MAX_BYTES));
    for entry in archive.entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() || !same_path(&entry.path()?, Path::new(path)) {
            continue;
        }
        if entry.size() > MODULE_MAX_BYTES {
            return Err(Error::TooLarge(path.to_owned()));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        return Ok(Some(bytes));
    }
    Ok(None)
}

/// `./app.wasm`, `/app.wasm` and `app.wasm` are one file.
fn same_path(a: &Path, b: &Path) -> bool {
    let normal = |component: &Component<'_>| matches!(component, Component::Normal(_) | Component::ParentDir);
    a.components().filter(normal).eq(b.components().filter(normal))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn layer(files: &[(&str, &[u8])], gzip: bool) -> tempfile::NamedTempFile {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, path, *content).unwrap();
        }
        let bytes = tar.into_inner().unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        if gzip {
            let mut encoder = flate2::write::GzEncoder::new(&mut file, flate2::Compression::fast());
            encoder.write_all(&bytes).unwrap();
            encoder.finish().unwrap();
        } else {
            file.write_all(&bytes).unwrap();
        }
        file
    }

    #[test]
    fn the_last_layer_that_has_the_file_wins() {
        let below = layer(&[("app.wasm", b"old"), ("only/below.wasm", b"below")], true);
        let above = layer(&[("./app.wasm", b"new")], false);
        let layers = [(below.path(), Compression::Gzip), (above.path(), Compression::None)];
        assert_eq!(find(&layers, "/app.wasm").unwrap(), b"new");
        assert_eq!(find(&layers, "only/below.wasm").unwrap(), b"below");
        assert!(matches!(find(&layers, "/none"), Err(Error::NotFound(_))));
    }

    #[test]
    fn a_damaged_layer_is_an_error_and_no_panic() {
        let mut torn = layer(&[("app.wasm", &[7; 4000])], true);
        torn.as_file_mut().set_len(60).unwrap();
        assert!(matches!(find(&[(torn.path(), Compression::Gzip)], "app.wasm"), Err(Error::Io(_))));
    }
}
