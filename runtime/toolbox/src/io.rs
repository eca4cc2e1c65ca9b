//! What a tool reads, writes and is told: streams, the working directory, the environment.

use std::collections::BTreeMap;
use std::io::{BufRead, Read, Write};
use std::path::{Component, Path, PathBuf};

/// Why a tool ends before its work is done.
pub enum Failure {
    /// Nobody reads its output any more.
    Closed,
    /// Exit code and words.
    Said(i32, String),
}

impl Failure {
    pub fn of(text: impl Into<String>) -> Self {
        Failure::Said(1, text.into())
    }

    /// What was typed cannot be meant.
    pub fn usage(text: impl Into<String>) -> Self {
        Failure::Said(2, text.into())
    }

    /// `cat: /x: No such file or directory`
    pub fn at(path: &str, error: &std::io::Error) -> Self {
        Failure::of(format!("{path}: {}", reason(error)))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::Closed,
            _ => Failure::of(reason(&error)),
        }
    }
}

/// In the words that a Unix program has for it.
pub fn reason(error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::NotFound => "No such file or directory".to_owned(),
        // WASI says both of these of a path that leads out of what is opened.
        ErrorKind::PermissionDenied => "Permission denied".to_owned(),
        ErrorKind::AlreadyExists => "File exists".to_owned(),
        ErrorKind::IsADirectory => "Is a directory".to_owned(),
        ErrorKind::NotADirectory => "Not a directory".to_owned(),
        ErrorKind::DirectoryNotEmpty => "Directory not empty".to_owned(),
        ErrorKind::ReadOnlyFilesystem => "Read-only file system".to_owned(),
        ErrorKind::CrossesDevices => "Invalid cross-device link".to_owned(),
        ErrorKind::Unsupported => "Operation not supported".to_owned(),
        _ => error.to_string(),
    }
}

pub struct Io<'a> {
    pub stdin: Box<dyn BufRead + 'a>,
    pub stdout: Box<dyn Write + 'a>,
    pub stderr: Box<dyn Write + 'a>,
    pub cwd: PathBuf,
    pub env: BTreeMap<String, String>,
}

impl Io<'_> {
    pub fn of_process() -> Self {
        let env: BTreeMap<String, String> = std::env::vars().collect();
        let cwd = wasip2::cli::environment::initial_cwd().filter(|cwd| cwd.starts_with('/'));
        Self {
            stdin: Box::new(std::io::BufReader::new(std::io::stdin())),
            stdout: Box::new(std::io::BufWriter::new(Flushing(std::io::stdout()))),
            stderr: Box::new(std::io::stderr()),
            cwd: cwd.unwrap_or_else(|| "/".to_owned()).into(),
            env,
        }
    }

    /// The path from the root, without `.` and `..`: what is opened has names from there alone.
    pub fn path(&self, name: &str) -> PathBuf {
        let mut path = PathBuf::from("/");
        for part in self.cwd.join(name).components() {
            match part {
                Component::ParentDir => drop(path.pop()),
                Component::Normal(name) => path.push(name),
                _ => {}
            }
        }
        path
    }

    pub fn line(&mut self, text: &str) {
        // An output that is gone is noticed by whoever flushes.
        let _ = writeln!(self.stdout, "{text}");
    }

    pub fn complain(&mut self, text: &str) {
        let _ = self.stdout.flush();
        let _ = writeln!(self.stderr, "{text}");
    }

    /// What a name on the command line stands for: a file, or with `-` the standard input.
    pub fn open(&mut self, name: &str) -> Result<Box<dyn BufRead + '_>, Failure> {
        if name == "-" {
            return Ok(Box::new(&mut *self.stdin));
        }
        let path = self.path(name);
        if path.is_dir() {
            return Err(Failure::of(format!("{name}: Is a directory")));
        }
        let file = std::fs::File::open(path).map_err(|error| Failure::at(name, &error))?;
        Ok(Box::new(std::io::BufReader::new(file)))
    }

    pub fn read_all(&mut self, name: &str) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        self.open(name)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    pub fn copy_out(&mut self, from: &str) -> Result<(), Failure> {
        // Both ends belong to `self`.
        let mut out = std::mem::replace(&mut self.stdout, Box::new(std::io::sink()));
        let copied = self.open(from).and_then(|mut from| Ok(std::io::copy(&mut from, &mut out)?));
        self.stdout = out;
        copied.map(drop)
    }
}

impl Drop for Io<'_> {
    fn drop(&mut self) {
        let _ = self.stdout.flush();
    }
}

/// Standard output is line-buffered by the library; flushing with the outer buffer makes what was said come out at its end.
struct Flushing(std::io::Stdout);

impl Write for Flushing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.0.write(bytes)?;
        self.0.flush()?;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

pub fn base_name(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() {
        if path.is_empty() { "" } else { "/" }
    } else {
        trimmed.rsplit('/').next().unwrap_or(trimmed)
    }
}

pub fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Options that stand before the first operand: single letters, with or without a value.
pub struct Options {
    /// Letters in the order they were given, each with its value.
    given: Vec<(char, String)>,
    pub operands: Vec<String>,
}

impl Options {
    /// `with_value` are the letters that take one; `plain` those that take none. A long option is known by `--name` in `long`, and
    /// counts as the letter beside it.
    pub fn parse(arguments: &[String], plain: &str, with_value: &str, long: &[(&str, char)]) -> Result<Self, Failure> {
        let mut given = Vec::new();
        let mut words = arguments.iter();
        let mut operands = Vec::new();
        while let Some(word) = words.next() {
            if word == "--" {
                operands.extend(words.by_ref().cloned());
            } else if let Some(name) = word.strip_prefix("--") {
                let (name, value) = name.split_once('=').map_or((name, None), |(name, value)| (name, Some(value)));
                let letter = long.iter().find(|(known, _)| *known == name).map(|(_, letter)| *letter);
                let letter = letter.ok_or_else(|| Failure::usage(format!("unrecognized option: {name}")))?;
                let value = match value {
                    Some(value) => value.to_owned(),
                    None if with_value.contains(letter) => words.next().cloned().unwrap_or_default(),
                    None => String::new(),
                };
                given.push((letter, value));
            } else if word.len() > 1 && word.starts_with('-') {
                for (at, letter) in word[1..].char_indices() {
                    if with_value.contains(letter) {
                        let rest = &word[1 + at + letter.len_utf8()..];
                        let missing = || Failure::usage(format!("option requires an argument: {letter}"));
                        let value = if rest.is_empty() { words.next().cloned() } else { Some(rest.to_owned()) };
                        given.push((letter, value.ok_or_else(missing)?));
                        break;
                    }
                    if !plain.contains(letter) {
                        return Err(Failure::usage(format!("unrecognized option: {letter}")));
                    }
                    given.push((letter, String::new()));
                }
            } else {
                operands.push(word.clone());
            }
        }
        Ok(Self { given, operands })
    }

    pub fn has(&self, letter: char) -> bool {
        self.given.iter().any(|(given, _)| *given == letter)
    }

    /// The last one counts.
    pub fn value(&self, letter: char) -> Option<&str> {
        self.given.iter().rev().find(|(given, _)| *given == letter).map(|(_, value)| value.as_str())
    }

    /// All of them, in their order.
    pub fn values(&self, letter: char) -> impl Iterator<Item = &str> {
        self.given.iter().filter(move |(given, _)| *given == letter).map(|(_, value)| value.as_str())
    }

    /// The operands, or standard input where there are none.
    pub fn inputs(&self) -> Vec<String> {
        if self.operands.is_empty() { vec!["-".to_owned()] } else { self.operands.clone() }
    }
}
