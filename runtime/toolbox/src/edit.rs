//! `sed`: the part of it that people type at a prompt.
//!
//! Commands `s`, `p`, `d`, `q`, `=` and `y`, each with no, one or two addresses and perhaps `!`; several by `;`, newline or `-e`. Absent
//! on purpose: blocks, branches, the hold space.

use std::io::{BufRead, Write};

use regex_lite::{Captures, Regex};

use crate::io::{Failure, Io, Options};
use crate::pattern::{self, Kind};

enum Address {
    Line(usize),
    Last,
    Matches(Regex),
}

enum Deed {
    Substitute { what: Regex, with: String, every: bool, print: bool },
    Change(Vec<(char, char)>),
    Print,
    Number,
    Delete,
    Quit,
}

struct Command {
    from: Option<Address>,
    to: Option<Address>,
    not: bool,
    deed: Deed,
    /// Between its two addresses.
    inside: bool,
}

pub fn sed(io: &mut Io<'_>, arguments: &[String]) -> Result<i32, Failure> {
    let options = Options::parse(arguments, "nErsi", "e", &[("quiet", 'n'), ("silent", 'n'), ("in-place", 'i')])?;
    let mut inputs = options.operands.clone();
    let mut script = options.values('e').collect::<Vec<_>>().join("\n");
    if script.is_empty() {
        if inputs.is_empty() {
            return Err(Failure::usage("usage: sed [-n] [-E] [-i] SCRIPT [FILE]..."));
        }
        script = inputs.remove(0);
    }
    let kind = Kind { extended: options.has('E') || options.has('r'), ..Kind::default() };
    let mut commands = Parser { rest: &script, kind }.commands()?;
    if options.has('i') {
        for name in &inputs {
            let text = io.read_all(name)?;
            let mut out = Vec::new();
            run(&mut commands, &mut &text[..], &mut out, options.has('n'))?;
            std::fs::write(io.path(name), out).map_err(|error| Failure::at(name, &error))?;
        }
        return Ok(0);
    }
    let inputs = if inputs.is_empty() { vec!["-".to_owned()] } else { inputs };
    let mut out = std::mem::replace(&mut io.stdout, Box::new(std::io::sink()));
    let mut ended = Ok(0);
    for name in &inputs {
        let done = io.open(name).and_then(|mut from| run(&mut commands, &mut from, &mut out, options.has('n')));
        match done {
            Ok(true) => {}
            Ok(false) => break,
            Err(failure) => {
                ended = Err(failure);
                break;
            }
        }
    }
    io.stdout = out;
    ended
}

/// False where the script has said that it is enough.
fn run(commands: &mut [Command], from: &mut dyn BufRead, out: &mut dyn Write, quiet: bool) -> Result<bool, Failure> {
    let (mut number, mut line) = (0, Vec::new());
    from.read_until(b'\n', &mut line)?;
    while !line.is_empty() {
        let mut next = Vec::new();
        from.read_until(b'\n', &mut next)?;
        number += 1;
        let ends = line.last() == Some(&b'\n');
        let mut text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
        let (mut deleted, mut enough) = (false, false);
        for command in &mut *commands {
            if command.concerns(number, &text, next.is_empty()) == command.not {
                continue;
            }
            match &command.deed {
                Deed::Substitute { what, with, every, print } => {
                    let changed = match every {
                        true => what.replace_all(&text, |found: &Captures<'_>| filled(with, found)),
                        false => what.replace(&text, |found: &Captures<'_>| filled(with, found)),
                    };
                    let hit = what.is_match(&text);
                    text = changed.into_owned();
                    if hit && *print {
                        writeln!(out, "{text}")?;
                    }
                }
                Deed::Change(pairs) => {
                    let other = |letter| pairs.iter().find(|(from, _)| *from == letter).map_or(letter, |(_, to)| *to);
                    text = text.chars().map(other).collect();
                }
                Deed::Print => writeln!(out, "{text}")?,
                Deed::Number => writeln!(out, "{number}")?,
                Deed::Delete => deleted = true,
                Deed::Quit => enough = true,
            }
            if deleted || enough {
                break;
            }
        }
        if !deleted && !quiet {
            write!(out, "{text}{}", if ends { "\n" } else { "" })?;
        }
        if enough {
            return Ok(false);
        }
        line = next;
    }
    Ok(true)
}

/// `&` is what was found, `\1` its first group.
fn filled(with: &str, found: &Captures<'_>) -> String {
    let group = |at: usize| found.get(at).map_or("", |part| part.as_str());
    let (mut out, mut letters) = (String::new(), with.chars());
    while let Some(letter) = letters.next() {
        match letter {
            '&' => out.push_str(group(0)),
            '\\' => match letters.next() {
                Some(digit @ '0'..='9') => out.push_str(group(digit as usize - '0' as usize)),
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            other => out.push(other),
        }
    }
    out
}

impl Command {
    fn concerns(&mut self, number: usize, text: &str, is_last: bool) -> bool {
        let at = |address: &Address| match address {
            Address::Line(line) => *line == number,
            Address::Last => is_last,
            Address::Matches(pattern) => pattern.is_match(text),
        };
        match (&self.from, &self.to) {
            (None, _) => true,
            (Some(from), None) => at(from),
            (Some(_), Some(to)) if self.inside => {
                self.inside = !(at(to) || matches!(to, Address::Line(line) if *line <= number));
                true
            }
            (Some(from), Some(to)) => {
                let begins = at(from);
                self.inside = begins && !matches!(to, Address::Line(line) if *line <= number);
                begins
            }
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
    kind: Kind,
}

impl Parser<'_> {
    fn commands(&mut self) -> Result<Vec<Command>, Failure> {
        let mut commands = Vec::new();
        loop {
            self.rest = self.rest.trim_start_matches([' ', '\t', '\n', ';']);
            if self.rest.is_empty() {
                return Ok(commands);
            }
            let from = self.address()?;
            let to = match self.take(',') {
                true => Some(self.address()?.ok_or_else(|| Failure::usage("unexpected ','"))?),
                false => None,
            };
            self.rest = self.rest.trim_start();
            let not = self.take('!');
            let deed = self.deed()?;
            self.rest = self.rest.trim_start_matches([' ', '\t']);
            if !self.rest.is_empty() && !self.rest.starts_with([';', '\n']) {
                return Err(Failure::usage("extra characters after command"));
            }
            commands.push(Command { from, to, not, deed, inside: false });
        }
    }

    fn take(&mut self, letter: char) -> bool {
        let rest = self.rest.strip_prefix(letter);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn next(&mut self) -> Option<char> {
        let letter = self.rest.chars().next()?;
        self.rest = &self.rest[letter.len_utf8()..];
        Some(letter)
    }

    fn address(&mut self) -> Result<Option<Address>, Failure> {
        if self.take('$') {
            return Ok(Some(Address::Last));
        }
        if self.take('/') {
            let text = self.until('/')?;
            return Ok(Some(Address::Matches(pattern::compile(&text, self.kind)?)));
        }
        let digits = self.rest.len() - self.rest.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
        let (number, rest) = self.rest.split_at(digits);
        self.rest = rest;
        Ok(number.parse().ok().map(Address::Line))
    }

    /// Up to the delimiter, which with a `\` before it stands for itself.
    fn until(&mut self, delimiter: char) -> Result<String, Failure> {
        let mut out = String::new();
        while let Some(letter) = self.next() {
            match letter {
                letter if letter == delimiter => return Ok(out),
                '\\' if self.rest.starts_with(delimiter) => out.extend(self.next()),
                '\\' => {
                    out.push('\\');
                    out.extend(self.next());
                }
                other => out.push(other),
            }
        }
        Err(Failure::usage("unterminated command"))
    }

    fn deed(&mut self) -> Result<Deed, Failure> {
        Ok(match self.next().ok_or_else(|| Failure::usage("missing command"))? {
            'p' => Deed::Print,
            'd' => Deed::Delete,
            'q' => Deed::Quit,
            '=' => Deed::Number,
            's' => {
                let delimiter = self.next().ok_or_else(|| Failure::usage("unterminated `s' command"))?;
                let (what, with) = (self.until(delimiter)?, self.until(delimiter)?);
                let (mut every, mut print, mut kind) = (false, false, self.kind);
                loop {
                    match self.rest.chars().next() {
                        Some('g') => every = true,
                        Some('p') => print = true,
                        Some('i' | 'I') => kind.fold = true,
                        _ => break,
                    }
                    self.next();
                }
                Deed::Substitute { what: pattern::compile(&what, kind)?, with, every, print }
            }
            'y' => {
                let delimiter = self.next().ok_or_else(|| Failure::usage("unterminated `y' command"))?;
                let (from, to) = (self.until(delimiter)?, self.until(delimiter)?);
                if from.chars().count() != to.chars().count() {
                    return Err(Failure::usage("strings for `y' command are different lengths"));
                }
                Deed::Change(from.chars().zip(to.chars()).collect())
            }
            other => return Err(Failure::usage(format!("unknown command: `{other}'"))),
        })
    }
}
