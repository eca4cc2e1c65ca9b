//! What a file comes to: `md5sum`, `sha256sum`, and `base64`.

use std::io::{Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::Md5;
use sha2::{Digest, Sha256};

use crate::io::{Failure, Io, Options};

type Ended = Result<i32, Failure>;

const BLOCK_BYTES: usize = 64 << 10;
/// Letters in a line of `base64`.
const LINE: usize = 76;

pub fn md5sum(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    sums::<Md5>(io, "md5sum", arguments)
}

pub fn sha256sum(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    sums::<Sha256>(io, "sha256sum", arguments)
}

/// `-c` reads sums and tells which hold.
fn sums<D: Digest>(io: &mut Io<'_>, tool: &str, arguments: &[String]) -> Ended {
    let options = Options::parse(arguments, "cbs", "", &[("check", 'c')])?;
    let mut code = 0;
    for name in options.inputs() {
        if !options.has('c') {
            match sum::<D>(io, &name) {
                Ok(sum) => io.line(&format!("{sum}  {name}")),
                Err(Failure::Said(_, why)) => {
                    io.complain(&format!("{tool}: {why}"));
                    code = 1;
                }
                Err(closed) => return Err(closed),
            }
            continue;
        }
        let list = io.read_all(&name)?;
        for line in String::from_utf8_lossy(&list).lines() {
            let Some((expected, file)) = line.split_once(char::is_whitespace) else { continue };
            let file = file.trim_start_matches([' ', '*']);
            let holds = sum::<D>(io, file).is_ok_and(|sum| sum == expected);
            code = if holds { code } else { 1 };
            io.line(&format!("{file}: {}", if holds { "OK" } else { "FAILED" }));
        }
    }
    Ok(code)
}

fn sum<D: Digest>(io: &mut Io<'_>, name: &str) -> Result<String, Failure> {
    let (mut from, mut digest, mut block) = (io.open(name)?, D::new(), vec![0; BLOCK_BYTES]);
    loop {
        let count = from.read(&mut block)?;
        if count == 0 {
            return Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        digest.update(&block[..count]);
    }
}

pub fn base64(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(arguments, "d", "w", &[("decode", 'd'), ("wrap", 'w')])?;
    let bytes = io.read_all(options.operands.first().map_or("-", String::as_str))?;
    if options.has('d') {
        let text: Vec<u8> = bytes.into_iter().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let bytes = STANDARD.decode(text).map_err(|_| Failure::of("invalid input"))?;
        io.stdout.write_all(&bytes)?;
        return Ok(0);
    }
    let width = match options.value('w').map(str::parse) {
        None => LINE,
        Some(Ok(0)) => usize::MAX,
        Some(Ok(width)) => width,
        Some(Err(_)) => return Err(Failure::usage("invalid wrap size")),
    };
    let text = STANDARD.encode(bytes);
    for line in text.as_bytes().chunks(width.min(text.len().max(1))) {
        io.stdout.write_all(line)?;
        if width != usize::MAX {
            io.stdout.write_all(b"\n")?;
        }
    }
    Ok(0)
}
