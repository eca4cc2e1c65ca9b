//! What words stand for: variables, the output of commands, and the files that patterns name.

use super::Shell;
use super::parse::{self, Part, Word};
use crate::io::{Failure, Io};

impl Shell {
    pub(super) fn all_expanded(&mut self, io: &mut Io<'_>, words: &[Word]) -> Result<Vec<String>, Failure> {
        let mut all = Vec::new();
        for word in words {
            all.extend(self.expanded(io, word)?);
        }
        Ok(all)
    }

    /// The words that a word becomes: what stands without quotes is split and stands for the files of such names.
    pub(super) fn expanded(&mut self, io: &mut Io<'_>, word: &Word) -> Result<Vec<String>, Failure> {
        // A word in the making, and whether it has quotes or a pattern in it.
        let mut made: Vec<(String, bool, bool)> = vec![(String::new(), false, false)];
        for piece in &word.0 {
            if let (Part::Variable(name, _), true) = (&piece.what, piece.quoted)
                && name == "@"
            {
                let parameters = self.parameters.get(1..).unwrap_or_default().to_vec();
                for (at, parameter) in parameters.iter().enumerate() {
                    if at > 0 {
                        made.push((String::new(), true, false));
                    }
                    if let Some(last) = made.last_mut() {
                        last.0 += parameter;
                        last.1 = true;
                    }
                }
                continue;
            }
            let text = self.text(io, &piece.what)?;
            let literal = matches!(piece.what, Part::Text(_));
            if piece.quoted || literal {
                if let Some(last) = made.last_mut() {
                    last.0 += &text;
                    last.1 |= piece.quoted;
                    last.2 |= !piece.quoted && text.contains(['*', '?']);
                }
                continue;
            }
            for (at, part) in text.split(char::is_whitespace).enumerate() {
                if at > 0 {
                    made.push((String::new(), false, false));
                }
                if let Some(last) = made.last_mut() {
                    last.0 += part;
                    last.2 |= part.contains(['*', '?']);
                }
            }
        }
        made.retain(|(text, quoted, _)| *quoted || !text.is_empty());
        Ok(made
            .into_iter()
            .flat_map(|(text, _, pattern)| {
                let found = if pattern { found(io, &text) } else { Vec::new() };
                if found.is_empty() { vec![text] } else { found }
            })
            .collect())
    }

    pub(super) fn text(&mut self, io: &mut Io<'_>, part: &Part) -> Result<String, Failure> {
        Ok(match part {
            Part::Text(text) => text.clone(),
            Part::Variable(name, otherwise) => {
                let rest = || self.parameters.get(1..).unwrap_or_default();
                let value = match name.as_str() {
                    "?" => Some(self.last.to_string()),
                    "$" => Some("1".to_owned()),
                    "#" => Some(rest().len().to_string()),
                    "@" | "*" => Some(rest().join(" ")),
                    name => match name.parse::<usize>() {
                        Ok(number) => self.parameters.get(number).cloned(),
                        Err(_) => io.env.get(name).cloned(),
                    },
                };
                match (value.filter(|value| !value.is_empty()), otherwise) {
                    (Some(value), _) => value,
                    (None, Some(word)) => self.expanded(io, word)?.join(" "),
                    (None, None) => String::new(),
                }
            }
            Part::Output(script) => {
                let list = parse::parse(script)?;
                let (cwd, env) = (io.cwd.clone(), io.env.clone());
                let (bytes, ended) = self.captured(io, |shell, io| shell.list(io, &list));
                (io.cwd, io.env) = (cwd, env);
                ended?;
                self.substituted = true;
                self.last = self.over.take().unwrap_or(self.last);
                String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned()
            }
        })
    }
}

/// Files that a pattern names, in order.
fn found(io: &Io<'_>, pattern: &str) -> Vec<String> {
    let (root, pattern) = pattern.strip_prefix('/').map_or(("", pattern), |rest| ("/", rest));
    let mut found = vec![root.to_owned()];
    for part in pattern.split('/') {
        let join = |dir: &str, name: &str| match dir {
            "" => name.to_owned(),
            dir if dir.ends_with('/') => format!("{dir}{name}"),
            dir => format!("{dir}/{name}"),
        };
        found = found
            .iter()
            .flat_map(|dir| {
                if !part.contains(['*', '?']) {
                    let path = join(dir, part);
                    return if io.path(&path).exists() { vec![path] } else { Vec::new() };
                }
                let entries = std::fs::read_dir(io.path(if dir.is_empty() { "." } else { dir }));
                let names = entries
                    .into_iter()
                    .flatten()
                    .flatten()
                    .map(|entry| entry.file_name().to_string_lossy().into_owned());
                let mut names: Vec<String> = names
                    .filter(|name| {
                        name.starts_with('.') == part.starts_with('.') && fits(part.as_bytes(), name.as_bytes())
                    })
                    .collect();
                names.sort();
                names.iter().map(|name| join(dir, name)).collect()
            })
            .collect();
    }
    found
}

/// `*` and `?` of file name patterns.
pub fn fits(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => fits(rest, name) || (!name.is_empty() && fits(pattern, &name[1..])),
        (Some((b'?', rest)), Some((_, others))) => fits(rest, others),
        (Some((letter, rest)), Some((own, others))) => letter == own && fits(rest, others),
        _ => false,
    }
}
