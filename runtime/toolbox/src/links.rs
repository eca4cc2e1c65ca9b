//! Links, and what is known of a file: `ln`, `readlink`, `stat`, `chmod`.
//!
//! WASI has no permissions and no owners, so `chmod` says so instead of pretending.

use std::fs;
use std::io::{Error, ErrorKind};
use std::path::Path;
use std::time::SystemTime;

use crate::io::{Failure, Io, Options, base_name};
use crate::time;

type Ended = Result<i32, Failure>;

/// Makes a symbolic link. WASI takes no target that begins at the root.
pub fn symlink(target: &Path, path: &Path) -> std::io::Result<()> {
    // The one call that is stable for every platform; WASI's directories and files have the same links.
    #[expect(deprecated, reason = "nothing else that is stable makes one here")]
    fs::soft_link(target, path)
}

pub fn ln(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(arguments, "sfnv", "", &[("symbolic", 's'), ("force", 'f')])?;
    let (sources, last) = match &options.operands[..] {
        [] => return Err(Failure::usage("missing operand")),
        [one] => (std::slice::from_ref(one), base_name(one).to_owned()),
        [sources @ .., last] => (sources, last.clone()),
    };
    let place = io.path(&last);
    let is_dir = place.is_dir() && !(options.has('n') && place.is_symlink());
    let mut code = 0;
    for source in sources {
        let path = if is_dir { place.join(base_name(source)) } else { place.clone() };
        if options.has('f') && fs::symlink_metadata(&path).is_ok_and(|metadata| !metadata.is_dir()) {
            fs::remove_file(&path).map_err(|error| Failure::at(&last, &error))?;
        }
        let made = match options.has('s') {
            true => symlink(Path::new(source), &path),
            false => fs::hard_link(io.path(source), &path),
        };
        if let Err(error) = made {
            io.complain(&format!("ln: {}: {}", path.display(), crate::io::reason(&error)));
            code = 1;
        }
    }
    Ok(code)
}

pub fn readlink(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(arguments, "fen", "", &[])?;
    let mut code = 0;
    for name in &options.operands {
        match fs::read_link(io.path(name)) {
            Ok(to) => io.line(&to.display().to_string()),
            Err(_) if options.has('f') => {
                let path = io.path(name);
                io.line(&path.display().to_string());
            }
            Err(_) => code = 1,
        }
    }
    Ok(code)
}

pub fn chmod(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(arguments, "Rvf", "", &[])?;
    let [_mode, names @ ..] = &options.operands[..] else { return Err(Failure::usage("missing operand")) };
    for name in names {
        let unsupported = Error::new(ErrorKind::Unsupported, "Operation not supported");
        let error = fs::symlink_metadata(io.path(name)).map_or_else(|error| error, |_| unsupported);
        io.complain(&format!("chmod: {name}: {}", crate::io::reason(&error)));
    }
    Ok(1)
}

/// `stat [-c FORMAT] FILE...` with `%n`, `%s`, `%F`, `%Y`, `%y` and `%N`.
pub fn stat(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(arguments, "Lt", "c", &[("format", 'c')])?;
    let mut code = 0;
    for name in &options.operands {
        let path = io.path(name);
        let metadata = if options.has('L') { fs::metadata(&path) } else { fs::symlink_metadata(&path) };
        let metadata = match metadata {
            Ok(metadata) => metadata,
            Err(error) => {
                io.complain(&format!("stat: {name}: {}", crate::io::reason(&error)));
                code = 1;
                continue;
            }
        };
        let kind = if metadata.is_dir() {
            "directory"
        } else if metadata.is_symlink() {
            "symbolic link"
        } else if metadata.len() == 0 {
            "regular empty file"
        } else {
            "regular file"
        };
        let changed = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let seconds = changed.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs().to_string();
        let target = fs::read_link(&path).map(|to| format!(" -> {}", to.display())).unwrap_or_default();
        let (size, shown) = (metadata.len().to_string(), time::exact(changed));
        let text = match options.value('c') {
            Some(format) => format
                .replace("%n", name)
                .replace("%N", &format!("{name}{target}"))
                .replace("%s", &size)
                .replace("%F", kind)
                .replace("%Y", &seconds)
                .replace("%y", &shown),
            None => format!("  File: {name}{target}\n  Size: {size}\t{kind}\nModify: {shown}"),
        };
        io.line(&text);
    }
    Ok(code)
}
