//! `find`: what lies below a directory, by name and kind.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::io::{Failure, Io, base_name};

enum Test {
    Name { pattern: String, fold: bool },
    Path(String),
    Kind(char),
    Empty,
    Not(Box<Test>),
}

enum Deed {
    Print,
    PrintNul,
    Delete,
    /// A tool and its arguments; `{}` is the path.
    Call(Vec<String>),
}

struct Asked {
    tests: Vec<Test>,
    deeds: Vec<Deed>,
    min: usize,
    max: usize,
}

pub fn find(io: &mut Io<'_>, arguments: &[String]) -> Result<i32, Failure> {
    let starts = arguments.iter().take_while(|word| !word.starts_with(['-', '!'])).count();
    let (starts, words) = arguments.split_at(starts);
    let asked = asked(words)?;
    let mut found = Vec::new();
    let (mut code, here) = (0, [".".to_owned()]);
    for start in if starts.is_empty() { &here[..] } else { starts } {
        if let Err(error) = fs::symlink_metadata(io.path(start)) {
            io.complain(&format!("find: {start}: {}", crate::io::reason(&error)));
            code = 1;
            continue;
        }
        below(io, &asked, start, 0, &mut found);
    }
    for name in found {
        for deed in &asked.deeds {
            let ended = act(io, deed, &name)?;
            code = code.max(ended);
        }
    }
    Ok(code)
}

fn asked(words: &[String]) -> Result<Asked, Failure> {
    let mut asked = Asked { tests: Vec::new(), deeds: Vec::new(), min: 0, max: usize::MAX };
    let (mut words, mut not) = (words.iter(), false);
    while let Some(word) = words.next() {
        let mut value = || words.next().cloned().ok_or_else(|| Failure::of(format!("missing argument to {word}")));
        let number = |text: String| text.parse::<usize>().map_err(|_| Failure::of(format!("invalid number '{text}'")));
        let test = match word.as_str() {
            "!" | "-not" => {
                not = true;
                continue;
            }
            "-name" => Test::Name { pattern: value()?, fold: false },
            "-iname" => Test::Name { pattern: value()?.to_lowercase(), fold: true },
            "-path" | "-wholename" => Test::Path(value()?),
            "-type" => Test::Kind(value()?.chars().next().unwrap_or('f')),
            "-empty" => Test::Empty,
            other => {
                match other {
                    "-maxdepth" => asked.max = number(value()?)?,
                    "-mindepth" => asked.min = number(value()?)?,
                    "-print" => asked.deeds.push(Deed::Print),
                    "-print0" => asked.deeds.push(Deed::PrintNul),
                    "-delete" => asked.deeds.push(Deed::Delete),
                    "-a" => {}
                    "-exec" => {
                        let parts: Vec<String> =
                            words.by_ref().take_while(|part| *part != ";" && *part != "+").cloned().collect();
                        if parts.is_empty() {
                            return Err(Failure::of("missing argument to -exec"));
                        }
                        asked.deeds.push(Deed::Call(parts));
                    }
                    _ => return Err(Failure::of(format!("unrecognized: {other}"))),
                }
                continue;
            }
        };
        asked.tests.push(if std::mem::take(&mut not) { Test::Not(Box::new(test)) } else { test });
    }
    if asked.deeds.is_empty() {
        asked.deeds.push(Deed::Print);
    }
    Ok(asked)
}

/// In the order of the names; what is in a directory comes after it, unless all of it goes.
fn below(io: &Io<'_>, asked: &Asked, name: &str, depth: usize, found: &mut Vec<String>) {
    let path = io.path(name);
    let Ok(metadata) = fs::symlink_metadata(&path) else { return };
    let wanted = depth >= asked.min && asked.tests.iter().all(|test| holds(test, name, &path, &metadata));
    let goes = asked.deeds.iter().any(|deed| matches!(deed, Deed::Delete));
    if wanted && !goes {
        found.push(name.to_owned());
    }
    if metadata.is_dir() && depth < asked.max {
        let held = fs::read_dir(&path).into_iter().flatten().flatten();
        let mut names: Vec<String> = held.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        for inner in names {
            below(io, asked, &format!("{}/{inner}", name.trim_end_matches('/')), depth + 1, found);
        }
    }
    if wanted && goes {
        found.push(name.to_owned());
    }
}

fn holds(test: &Test, name: &str, path: &Path, metadata: &fs::Metadata) -> bool {
    match test {
        Test::Not(test) => !holds(test, name, path, metadata),
        Test::Name { pattern, fold: false } => fits(pattern, base_name(name)),
        Test::Name { pattern, fold: true } => fits(pattern, &base_name(name).to_lowercase()),
        Test::Path(pattern) => fits(pattern, name),
        Test::Kind('d') => metadata.is_dir(),
        Test::Kind('l') => metadata.is_symlink(),
        Test::Kind(_) => metadata.is_file(),
        Test::Empty if metadata.is_dir() => fs::read_dir(path).is_ok_and(|mut held| held.next().is_none()),
        Test::Empty => metadata.len() == 0,
    }
}

/// `*` and `?`.
fn fits(pattern: &str, text: &str) -> bool {
    crate::shell::fits(pattern.as_bytes(), text.as_bytes())
}

fn act(io: &mut Io<'_>, deed: &Deed, name: &str) -> Result<i32, Failure> {
    match deed {
        Deed::Print => io.line(name),
        Deed::PrintNul => write!(io.stdout, "{name}\0")?,
        Deed::Delete => {
            let path = io.path(name);
            let gone = if path.is_dir() && !path.is_symlink() { fs::remove_dir(&path) } else { fs::remove_file(&path) };
            if let Err(error) = gone {
                io.complain(&format!("find: {name}: {}", crate::io::reason(&error)));
                return Ok(1);
            }
        }
        Deed::Call(parts) => {
            let words: Vec<String> = parts.iter().map(|part| part.replace("{}", name)).collect();
            return Ok(crate::run(io, base_name(&words[0]), &words[1..]).min(1));
        }
    }
    Ok(0)
}
