//! `tar`, as kubectl's `cp` speaks it: archives on standard output and input, or in files.
//!
//! Symbolic and hard links are made when everything else is there, so that nothing is written through one of the same archive. WASI has
//! no modes and no owners: what is packed says the usual ones, what is unpacked gets none. Absent on purpose: which files are one
//! (WASI does not tell), so hard links are packed as files of their own.

use std::fs;
use std::io::{Read, Write};
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use ::tar::{Archive, Builder, EntryType, Header};

use crate::io::{Failure, Io, shown};
use crate::{links, time};

type Ended = Result<i32, Failure>;

const FILE_MODE: u32 = 0o644;
const READ_ONLY_MODE: u32 = 0o444;
const DIR_MODE: u32 = 0o755;

#[derive(Default)]
struct Asked {
    deed: Option<char>,
    /// `-` is standard input or output.
    file: Option<String>,
    /// Where names count from.
    dir: PathBuf,
    verbose: bool,
    /// What a symbolic link leads to is packed in its place.
    follow: bool,
    strip: usize,
    names: Vec<String>,
}

pub fn tar(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let asked = asked(io, arguments)?;
    match asked.deed {
        Some('c') => create(io, &asked),
        Some('x') => extract(io, &asked),
        Some('t') => list(io, &asked),
        _ => Err(Failure::usage("one of c, x, t is needed")),
    }
}

/// Letters stand in the first word, with or without a dash; those that take a value take the next words in their order.
fn asked(io: &Io<'_>, arguments: &[String]) -> Result<Asked, Failure> {
    let mut asked = Asked { dir: io.path("."), ..Asked::default() };
    let mut words = arguments.iter().enumerate().peekable();
    let missing = |letter: char| Failure::usage(format!("option requires an argument: {letter}"));
    while let Some((at, word)) = words.next() {
        if let Some(name) = word.strip_prefix("--") {
            match name.split_once('=').unwrap_or((name, "")) {
                ("strip-components", number) => asked.strip = number.parse().unwrap_or(0),
                ("directory", dir) => asked.dir = io.path(dir),
                // There are no owners and few permissions to keep.
                ("dereference", _) => asked.follow = true,
                ("no-same-permissions" | "no-same-owner" | "no-overwrite-dir" | "numeric-owner", _) => {}
                (other, _) => return Err(Failure::usage(format!("unrecognized option: {other}"))),
            }
            continue;
        }
        let letters = match word.strip_prefix('-') {
            Some(letters) if !letters.is_empty() => letters,
            None if at == 0 => word.as_str(),
            _ => {
                asked.names.push(word.clone());
                continue;
            }
        };
        for letter in letters.chars() {
            match letter {
                'c' | 'x' | 't' => asked.deed = Some(letter),
                'v' => asked.verbose = true,
                'h' => asked.follow = true,
                'm' | 'p' | 'o' => {}
                'f' => asked.file = Some(words.next().ok_or_else(|| missing('f'))?.1.clone()),
                'C' => asked.dir = io.path(words.next().ok_or_else(|| missing('C'))?.1),
                'z' | 'j' | 'J' => return Err(Failure::of("compressed archives are not known here")),
                other => return Err(Failure::usage(format!("unrecognized option: {other}"))),
            }
        }
    }
    Ok(asked)
}

fn create(io: &mut Io<'_>, asked: &Asked) -> Ended {
    if asked.names.is_empty() {
        return Err(Failure::of("empty archive"));
    }
    let mut code = 0;
    let mut complaints = Vec::new();
    {
        let path = asked.file.as_deref().filter(|file| *file != "-").map(|file| io.path(file));
        let out: Box<dyn Write + '_> = match &path {
            Some(path) => Box::new(fs::File::create(path).map_err(|error| Failure::at(&shown(path), &error))?),
            None => Box::new(&mut *io.stdout),
        };
        let mut archive = Builder::new(out);
        let mut say = |text: String, bad: bool| {
            complaints.push(text);
            code = if bad { 1 } else { code };
        };
        for name in &asked.names {
            let path = asked.dir.join(name);
            if name.starts_with('/') {
                say("tar: removing leading '/' from member names".to_owned(), false);
            }
            let inside: PathBuf = Path::new(name)
                .components()
                .filter(|part| matches!(part, Component::Normal(_) | Component::CurDir))
                .collect();
            let inside = if inside.as_os_str().is_empty() { PathBuf::from(".") } else { inside };
            add(&mut archive, (&path, &inside), asked.follow, &mut say)?;
        }
        archive.finish()?;
        archive.into_inner()?.flush()?;
    }
    complaints.iter().for_each(|text| io.complain(text));
    Ok(code)
}

fn add(
    archive: &mut Builder<Box<dyn Write + '_>>,
    (path, inside): (&Path, &Path),
    follow: bool,
    say: &mut dyn FnMut(String, bool),
) -> Result<(), Failure> {
    let wrong = |error: &std::io::Error| format!("tar: {}: {}", path.display(), crate::io::reason(error));
    let metadata = match if follow { fs::metadata(path) } else { fs::symlink_metadata(path) } {
        Ok(metadata) => metadata,
        Err(error) => {
            say(wrong(&error), true);
            return Ok(());
        }
    };
    let mut header = Header::new_gnu();
    // Nobody owns anything here.
    header.set_uid(0);
    header.set_gid(0);
    let changed = metadata.modified().ok().and_then(|when| when.duration_since(SystemTime::UNIX_EPOCH).ok());
    header.set_mtime(changed.map_or(0, |since| since.as_secs()));
    if metadata.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        let to = fs::read_link(path)?;
        archive.append_link(&mut header, inside, to)?;
    } else if metadata.is_dir() {
        header.set_entry_type(EntryType::Directory);
        header.set_mode(DIR_MODE);
        header.set_size(0);
        archive.append_data(&mut header, format!("{}/", inside.display()), std::io::empty())?;
        let mut below: Vec<_> = fs::read_dir(path)?.flatten().map(|entry| entry.file_name()).collect();
        below.sort();
        for name in below {
            add(archive, (&path.join(&name), &inside.join(&name)), follow, say)?;
        }
    } else {
        let file = match fs::File::open(path) {
            Ok(file) => file,
            Err(error) => {
                say(wrong(&error), true);
                return Ok(());
            }
        };
        header.set_mode(if metadata.permissions().readonly() { READ_ONLY_MODE } else { FILE_MODE });
        // A file that grows or shrinks meanwhile keeps its place in the archive.
        let size = metadata.len();
        header.set_size(size);
        archive.append_data(&mut header, inside, file.chain(std::io::repeat(0)).take(size))?;
    }
    Ok(())
}

/// The archive that is read.
fn opened<'a>(io: &'a mut Io<'_>, asked: &Asked) -> Result<Archive<Box<dyn Read + 'a>>, Failure> {
    let file = asked.file.clone().unwrap_or_else(|| "-".to_owned());
    let from: Box<dyn Read + 'a> = Box::new(io.open(&file)?);
    Ok(Archive::new(from))
}

fn is_wanted(path: &Path, names: &[String]) -> bool {
    names.is_empty() || names.iter().any(|name| path.starts_with(name.trim_end_matches('/')))
}

fn extract(io: &mut Io<'_>, asked: &Asked) -> Ended {
    let (mut complaints, mut told, mut code) = (Vec::new(), Vec::new(), 0);
    let mut links = Vec::new();
    let mut archive = opened(io, asked)?;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let named = entry.path()?.into_owned();
        if !is_wanted(&named, &asked.names) {
            continue;
        }
        // What would climb out of the directory has no place in it.
        if named.components().any(|part| part == Component::ParentDir) {
            complaints.push(format!("tar: {}: name contains '..'", named.display()));
            code = 1;
            continue;
        }
        let path = asked.place(&named);
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::Symlink | EntryType::Link) {
            let to = entry.link_name()?.map(|to| to.into_owned()).unwrap_or_default();
            links.push((kind, named.clone(), path, to));
        } else if let Err(error) = put(&mut entry, &path) {
            complaints.push(format!("tar: {}: {}", named.display(), crate::io::reason(&error)));
            code = 1;
        }
        if asked.verbose {
            told.push(named.display().to_string());
        }
    }
    drop(archive);
    for (kind, named, path, to) in links {
        if let Err(error) = link(asked, kind, &path, &to) {
            let to = to.display();
            complaints.push(format!("tar: {}: can't link to '{to}': {}", named.display(), crate::io::reason(&error)));
            code = 1;
        }
    }
    told.iter().for_each(|line| io.line(line));
    complaints.iter().for_each(|text| io.complain(text));
    Ok(code)
}

impl Asked {
    /// Where a member of the archive goes.
    fn place(&self, named: &Path) -> PathBuf {
        let parts = named.components().filter(|part| matches!(part, Component::Normal(_)));
        self.dir.join(parts.skip(self.strip).collect::<PathBuf>())
    }
}

fn link(asked: &Asked, kind: EntryType, path: &Path, to: &Path) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    if fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.is_dir()) {
        fs::remove_file(path)?;
    }
    match kind {
        // The other end is a member too.
        EntryType::Link => fs::hard_link(asked.place(to), path),
        _ => links::symlink(to, path),
    }
}

fn put(entry: &mut ::tar::Entry<'_, impl Read>, path: &Path) -> std::io::Result<()> {
    match entry.header().entry_type() {
        EntryType::Directory => fs::create_dir_all(path),
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            // A link in its place would lead elsewhere.
            if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink()) {
                fs::remove_file(path)?;
            }
            let mut file = fs::File::create(path)?;
            std::io::copy(entry, &mut file).map(drop)
        }
        _ => Err(std::io::Error::other("devices are not made here")),
    }
}

fn list(io: &mut Io<'_>, asked: &Asked) -> Ended {
    let mut lines = Vec::new();
    let mut archive = opened(io, asked)?;
    for entry in archive.entries()? {
        let entry = entry?;
        let path = entry.path()?;
        if is_wanted(&path, &asked.names) {
            lines.push(if asked.verbose { described(&entry)? } else { path.display().to_string() });
        }
    }
    drop(archive);
    lines.iter().for_each(|line| io.line(line));
    Ok(0)
}

/// `-rw-r--r-- 0/0 5 2026-01-01 00:00 name -> target`
fn described(entry: &::tar::Entry<'_, impl Read>) -> std::io::Result<String> {
    let header = entry.header();
    let kind = match header.entry_type() {
        EntryType::Directory => 'd',
        EntryType::Symlink => 'l',
        EntryType::Link => 'h',
        _ => '-',
    };
    let mode = header.mode()?;
    let letters = (0..9).rev().map(|bit| match (mode >> bit & 1, bit % 3) {
        (0, _) => '-',
        (_, 2) => 'r',
        (_, 1) => 'w',
        _ => 'x',
    });
    let (letters, size) = (letters.collect::<String>(), entry.size());
    let when = time::of_archive(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(header.mtime()?));
    let to = entry.link_name()?.map(|to| match kind {
        'h' => format!(" link to {}", to.display()),
        _ => format!(" -> {}", to.display()),
    });
    // Some archives say nothing of owners.
    let (uid, gid, path) = (header.uid().unwrap_or(0), header.gid().unwrap_or(0), entry.path()?);
    Ok(format!("{kind}{letters} {uid}/{gid} {size:>9} {when} {}{}", path.display(), to.unwrap_or_default()))
}
