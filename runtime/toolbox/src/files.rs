//! Tools over files and directories.

use std::fs::{self, Metadata};
use std::path::Path;

use crate::io::{Failure, Io, Options, base_name};
use crate::time;

type Ended = Result<i32, Failure>;

pub fn ls(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(arguments, "laA1dhFRtrS", "", &[("all", 'a')])?;
    let names = if options.operands.is_empty() { vec![".".to_owned()] } else { options.operands.clone() };
    let (mut files, mut dirs, mut code) = (Vec::new(), Vec::new(), 0);
    for name in names {
        match fs::symlink_metadata(io.path(&name)) {
            Ok(metadata) if metadata.is_dir() && !options.has('d') => dirs.push(name),
            Ok(_) => files.push(name),
            Err(error) => {
                io.complain(&format!("ls: {name}: {}", crate::io::reason(&error)));
                code = 1;
            }
        }
    }
    let titled = dirs.len() + files.len() > 1 || options.has('R');
    let entries: Vec<_> = files.iter().map(|name| (name.clone(), io.path(name))).collect();
    list(io, &options, entries)?;
    let mut first = files.is_empty();
    // Directories below, where they are asked for, come after their parent.
    dirs.reverse();
    while let Some(dir) = dirs.pop() {
        if titled {
            let gap = if std::mem::take(&mut first) { "" } else { "\n" };
            io.line(&format!("{gap}{dir}:"));
        }
        let path = io.path(&dir);
        let mut held: Vec<String> = match fs::read_dir(&path) {
            Ok(held) => held.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect(),
            Err(error) => {
                io.complain(&format!("ls: {dir}: {}", crate::io::reason(&error)));
                code = 1;
                continue;
            }
        };
        held.sort();
        held.retain(|name| options.has('a') || options.has('A') || !name.starts_with('.'));
        if options.has('R') {
            let below = held.iter().rev().filter(|name| path.join(name).is_dir());
            dirs.extend(below.map(|name| format!("{}/{name}", dir.trim_end_matches('/'))));
        }
        if options.has('a') {
            held.splice(0..0, [".".to_owned(), "..".to_owned()]);
        }
        let entries = held.into_iter().map(|name| (name.clone(), io.path(&format!("{dir}/{name}")))).collect();
        list(io, &options, entries)?;
    }
    Ok(code)
}

fn list(io: &mut Io<'_>, options: &Options, entries: Vec<(String, std::path::PathBuf)>) -> Result<(), Failure> {
    let mut rows: Vec<(String, std::path::PathBuf, Option<Metadata>)> = entries
        .into_iter()
        .map(|(name, path)| {
            let metadata = fs::symlink_metadata(&path).ok();
            (name, path, metadata)
        })
        .collect();
    let changed = |metadata: &Option<Metadata>| metadata.as_ref().and_then(|metadata| metadata.modified().ok());
    if options.has('t') {
        rows.sort_by_key(|(_, _, metadata)| std::cmp::Reverse(changed(metadata)));
    }
    if options.has('S') {
        rows.sort_by_key(|(_, _, metadata)| std::cmp::Reverse(metadata.as_ref().map_or(0, Metadata::len)));
    }
    if options.has('r') {
        rows.reverse();
    }
    let width = rows.iter().filter_map(|(_, _, metadata)| metadata.as_ref()).map(|it| it.len().to_string().len()).max();
    for (name, path, metadata) in rows {
        let is_dir = metadata.as_ref().is_some_and(Metadata::is_dir);
        let mark = if options.has('F') && is_dir { "/" } else { "" };
        match metadata.filter(|_| options.has('l')) {
            None => io.line(&format!("{name}{mark}")),
            Some(metadata) => {
                let kind = if is_dir {
                    'd'
                } else if metadata.is_symlink() {
                    'l'
                } else {
                    '-'
                };
                let mode = if metadata.permissions().readonly() { "r--r--r--" } else { "rw-r--r--" };
                let mode = if is_dir { "rwxr-xr-x" } else { mode };
                let when = metadata.modified().map(time::of_file).unwrap_or_default();
                let target = fs::read_link(&path).map(|to| format!(" -> {}", to.display())).unwrap_or_default();
                let (size, width) = (metadata.len(), width.unwrap_or(1));
                io.line(&format!("{kind}{mode} 1 root root {size:>width$} {when} {name}{mark}{target}"));
            }
        }
    }
    Ok(())
}

pub fn mkdir(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(arguments, "pv", "m", &[("parents", 'p')])?;
    every(io, "mkdir", &options.operands, |path| match options.has('p') {
        true => fs::create_dir_all(path),
        false => fs::create_dir(path),
    })
}

pub fn rmdir(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(arguments, "", "", &[])?;
    every(io, "rmdir", &options.operands, |path| fs::remove_dir(path))
}

pub fn rm(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(arguments, "rRfiv", "", &[("recursive", 'r'), ("force", 'f')])?;
    let deep = options.has('r') || options.has('R');
    if options.operands.is_empty() && options.has('f') {
        return Ok(0);
    }
    every(io, "rm", &options.operands, |path| {
        let removed = match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_dir() && deep => fs::remove_dir_all(path),
            Ok(metadata) if metadata.is_dir() => Err(std::io::ErrorKind::IsADirectory.into()),
            Ok(_) => fs::remove_file(path),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if options.has('f') && error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    })
}

pub fn touch(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(arguments, "cam", "", &[])?;
    every(io, "touch", &options.operands, |path| {
        if !path.exists() && options.has('c') {
            return Ok(());
        }
        let file = fs::File::options().create(true).append(true).open(path)?;
        file.set_modified(std::time::SystemTime::now())
    })
}

/// Does one thing to each; what fails is told of and the rest still happens.
fn every(io: &mut Io<'_>, tool: &str, names: &[String], mut each: impl FnMut(&Path) -> std::io::Result<()>) -> Ended {
    if names.is_empty() {
        return Err(Failure::usage("missing operand"));
    }
    let mut code = 0;
    for name in names {
        if let Err(error) = each(&io.path(name)) {
            io.complain(&format!("{tool}: {name}: {}", crate::io::reason(&error)));
            code = 1;
        }
    }
    Ok(code)
}

pub fn cp(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(arguments, "rRafpv", "", &[("recursive", 'r')])?;
    let deep = ['r', 'R', 'a'].iter().any(|letter| options.has(*letter));
    to_place(io, &options, |from, to| {
        if from.is_dir() && !deep {
            return Err(std::io::Error::other("omitting directory"));
        }
        copy(from, to)
    })
}

pub fn mv(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(arguments, "fv", "", &[])?;
    to_place(io, &options, |from, to| match fs::rename(from, to) {
        // From one volume to another.
        Err(_) if from.exists() && !to.starts_with(from) => {
            copy(from, to)?;
            if from.is_dir() { fs::remove_dir_all(from) } else { fs::remove_file(from) }
        }
        renamed => renamed,
    })
}

/// The last operand is where to, or the directory to go into.
fn to_place(io: &mut Io<'_>, options: &Options, mut carry: impl FnMut(&Path, &Path) -> std::io::Result<()>) -> Ended {
    let Some((last, sources @ [_, ..])) = options.operands.split_last() else {
        return Err(Failure::usage("missing operand"));
    };
    let to = io.path(last);
    if sources.len() > 1 && !to.is_dir() {
        return Err(Failure::of(format!("{last}: Not a directory")));
    }
    let mut code = 0;
    for source in sources {
        let place = if to.is_dir() { to.join(base_name(source)) } else { to.clone() };
        if let Err(error) = carry(&io.path(source), &place) {
            io.complain(&format!("{source}: {}", crate::io::reason(&error)));
            code = 1;
        }
    }
    Ok(code)
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    if !from.is_dir() {
        // Not `fs::copy`, which would copy permissions that WASI has none of.
        let (mut from, mut to) = (fs::File::open(from)?, fs::File::create(to)?);
        return std::io::copy(&mut from, &mut to).map(drop);
    }
    if to.starts_with(from) {
        return Err(std::io::Error::other("cannot copy a directory into itself"));
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Sizes in KiB of what is below.
pub fn du(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(arguments, "skh", "", &[])?;
    let names = if options.operands.is_empty() { vec![".".to_owned()] } else { options.operands.clone() };
    fn below(path: &Path, see: &mut dyn FnMut(&Path, u64)) -> u64 {
        let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
        if !metadata.is_dir() {
            return metadata.len().div_ceil(1024);
        }
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let total = entries.map(|entry| below(&entry.path(), see)).sum();
        see(path, total);
        total
    }
    for name in names {
        let path = io.path(&name);
        let mut lines = Vec::new();
        let total = below(&path, &mut |dir, size| lines.push(format!("{size}\t{}", dir.display())));
        match options.has('s') || !path.is_dir() {
            true => io.line(&format!("{total}\t{name}")),
            false => lines.iter().for_each(|line| io.line(line)),
        }
    }
    Ok(0)
}
