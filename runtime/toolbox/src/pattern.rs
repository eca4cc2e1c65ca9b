//! Regular expressions as `grep` and `sed` write them, over a library that knows the extended kind.

use regex_lite::{Regex, RegexBuilder};

use crate::io::Failure;

#[derive(Clone, Copy, Default)]
pub struct Kind {
    /// `-E`
    pub extended: bool,
    /// `-F`
    pub fixed: bool,
    pub fold: bool,
    /// `-w`
    pub words: bool,
    /// `-x`
    pub lines: bool,
}

pub fn compile(text: &str, kind: Kind) -> Result<Regex, Failure> {
    let mut pattern = match (kind.fixed, kind.extended) {
        (true, _) => regex_lite::escape(text),
        (_, true) => text.to_owned(),
        _ => extended(text),
    };
    if kind.words {
        pattern = format!(r"\b(?:{pattern})\b");
    }
    if kind.lines {
        pattern = format!("^(?:{pattern})$");
    }
    let built = RegexBuilder::new(&pattern).case_insensitive(kind.fold).build();
    built.map_err(|error| Failure::usage(format!("{text}: {error}")))
}

/// A basic expression as an extended one: `\(`, `\{`, `\|`, `\+` and `\?` mean something, and the same without `\` do not.
fn extended(basic: &str) -> String {
    let mut out = String::new();
    let mut letters = basic.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => match letters.next() {
                Some(special @ ('(' | ')' | '{' | '}' | '|' | '+' | '?')) => out.push(special),
                Some(other) => out.extend(['\\', other]),
                None => out.push_str(r"\\"),
            },
            '(' | ')' | '{' | '}' | '|' | '+' | '?' => out.extend(['\\', letter]),
            '*' if out.is_empty() || out == "^" => out.push_str(r"\*"),
            '[' => set(&mut letters, &mut out),
            other => out.push(other),
        }
    }
    out
}

/// What stands in brackets stands for itself, `\` too; a `]` right after the beginning is one of them.
fn set(letters: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String) {
    out.push('[');
    if letters.next_if_eq(&'^').is_some() {
        out.push('^');
    }
    let mut first = true;
    while let Some(letter) = letters.next() {
        match letter {
            ']' if !first => break,
            '[' if letters.peek() == Some(&':') => {
                out.push('[');
                for letter in letters.by_ref() {
                    out.push(letter);
                    if letter == ']' {
                        break;
                    }
                }
            }
            ']' | '[' | '\\' | '&' | '~' => out.extend(['\\', letter]),
            other => out.push(other),
        }
        first = false;
    }
    out.push(']');
}
