//! What the shell does itself, because a tool could not do it to the shell.

use super::{CANNOT, NOT_FOUND, Shell, parse};
use crate::io::{Failure, Io, base_name, shown};

impl Shell {
    /// None for what is no part of the shell.
    pub(super) fn built_in(
        &mut self,
        io: &mut Io<'_>,
        name: &str,
        arguments: &[String],
    ) -> Result<Option<i32>, Failure> {
        let number = |otherwise: i32| arguments.first().and_then(|text| text.parse().ok()).unwrap_or(otherwise);
        Ok(Some(match name {
            ":" => 0,
            "exit" => {
                self.over = Some(number(self.last) & 0xff);
                self.over.unwrap_or_default()
            }
            "break" | "continue" => {
                self.leaves = Some((name == "break", number(1).max(1) as usize));
                0
            }
            "cd" => {
                let home = io.env.get("HOME").cloned().unwrap_or_else(|| "/".to_owned());
                let path = io.path(arguments.first().unwrap_or(&home));
                if !path.is_dir() {
                    io.complain(&format!("sh: cd: can't cd to {}", path.display()));
                    return Ok(Some(CANNOT));
                }
                io.env.insert("PWD".to_owned(), shown(&path));
                io.cwd = path;
                0
            }
            // All variables are in the environment here.
            "export" | "readonly" | "local" => {
                for (name, value) in arguments.iter().filter_map(|word| word.split_once('=')) {
                    io.env.insert(name.to_owned(), value.to_owned());
                }
                0
            }
            "unset" => {
                arguments.iter().for_each(|name| drop(io.env.remove(name)));
                0
            }
            "set" => {
                for word in arguments {
                    match word.as_str() {
                        word if word.starts_with('-') && word.contains('e') => self.strict = true,
                        word if word.starts_with('+') && word.contains('e') => self.strict = false,
                        _ => {}
                    }
                }
                0
            }
            "shift" => {
                let count = (number(1).max(0) as usize).min(self.parameters.len().saturating_sub(1));
                self.parameters.drain(1..1 + count);
                0
            }
            "eval" => {
                let list = parse::parse(&arguments.join(" "))?;
                self.list(io, &list)?;
                self.last
            }
            "exec" => {
                let Some((name, arguments)) = arguments.split_first() else { return Ok(Some(0)) };
                let code = crate::run(io, base_name(name), arguments);
                self.over = Some(code);
                code
            }
            "." | "source" => {
                let file = arguments.first().ok_or_else(|| Failure::usage("filename argument required"))?;
                let script = String::from_utf8_lossy(&io.read_all(file)?).into_owned();
                let list = parse::parse(&script)?;
                self.list(io, &list)?;
                self.last
            }
            "read" => {
                let mut line = String::new();
                let count = io.stdin.read_line(&mut line)?;
                let names = arguments.iter().filter(|word| !word.starts_with('-'));
                let mut rest = line.trim();
                let names: Vec<&String> = names.collect();
                for (at, name) in names.iter().enumerate() {
                    let (word, others) = match rest.split_once(char::is_whitespace) {
                        Some((word, others)) if at + 1 < names.len() => (word, others.trim_start()),
                        _ => (rest, ""),
                    };
                    io.env.insert((*name).clone(), word.to_owned());
                    rest = others;
                }
                i32::from(count == 0)
            }
            "command" | "type" | "which" => match arguments {
                [flag, name] if flag == "-v" || flag == "-V" => self.known(io, name),
                [name] if !name.starts_with('-') => self.known(io, name),
                [name, rest @ ..] => crate::run(io, base_name(name), rest),
                [] => 0,
            },
            _ => return Ok(None),
        }))
    }

    fn known(&self, io: &mut Io<'_>, name: &str) -> i32 {
        match crate::find(base_name(name)) {
            Some(_) => {
                io.line(name);
                0
            }
            None => NOT_FOUND,
        }
    }
}
