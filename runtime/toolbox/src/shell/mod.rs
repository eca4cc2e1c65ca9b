//! `sh`: enough of POSIX's shell for what people type after `kubectl exec … -- sh -c`.
//!
//! Commands are tools of this component and are called, not started: a pipe's parts run one after the other, with what is between
//! them held in memory, and `&` waits. Absent on purpose: functions, here-documents, arithmetic, job control, and
//! other programs, which WASI cannot start.

mod builtin;
mod expand;
mod parse;
mod tokens;

use std::cell::RefCell;
use std::io::{BufRead, Cursor, Write};
use std::rc::Rc;

use parse::{Command, List, Part, Redirect, To, What, When, Word};

use crate::io::{Failure, Io, base_name, shown};
pub use expand::fits;

type Ended = Result<i32, Failure>;

/// What may stand between two commands of a pipe, or in a substitution.
const HELD_MAX: usize = 64 << 20;
const NOT_FOUND: i32 = 127;
const CANNOT: i32 = 2;

struct Shell {
    /// `$0`, `$1`, …
    parameters: Vec<String>,
    last: i32,
    /// `set -e`
    strict: bool,
    /// Whether the command at hand has run others for their output.
    substituted: bool,
    /// Set by `exit`.
    over: Option<i32>,
    /// Set by `break` (true) and `continue`: how many loops it leaves.
    leaves: Option<(bool, usize)>,
}

pub fn main(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let mut shell = Shell {
        parameters: vec!["sh".to_owned()],
        last: 0,
        strict: false,
        substituted: false,
        over: None,
        leaves: None,
    };
    let mut words = arguments.iter();
    let mut script = None;
    while let Some(word) = words.next() {
        match word.strip_prefix('-').filter(|letters| !letters.is_empty()) {
            Some(letters) => {
                shell.strict |= letters.contains('e');
                if letters.contains('c') {
                    script = Some(words.next().cloned().ok_or_else(|| Failure::usage("-c requires an argument"))?);
                    shell.parameters = words.by_ref().cloned().collect();
                    if shell.parameters.is_empty() {
                        shell.parameters.push("sh".to_owned());
                    }
                }
            }
            None => {
                script = Some(String::from_utf8_lossy(&io.read_all(word)?).into_owned());
                shell.parameters = std::iter::once(word).chain(words.by_ref()).cloned().collect();
            }
        }
    }
    match script {
        Some(script) => {
            let list = parse::parse(&script)?;
            shell.list(io, &list)?;
        }
        None => shell.read_input(io)?,
    }
    Ok(shell.over.unwrap_or(shell.last))
}

impl Shell {
    /// A line at a time, as someone types them.
    fn read_input(&mut self, io: &mut Io<'_>) -> Result<(), Failure> {
        use std::io::IsTerminal;
        let prompts = std::io::stdin().is_terminal();
        let mut script = String::new();
        while self.over.is_none() {
            if prompts {
                let prompt = if script.is_empty() { format!("{} # ", shown(&io.cwd)) } else { "> ".to_owned() };
                io.stdout.write_all(prompt.as_bytes())?;
            }
            io.stdout.flush()?;
            let ended = io.stdin.read_line(&mut script)? == 0;
            match parse::parse(&script) {
                Ok(list) => {
                    self.list(io, &list)?;
                    script.clear();
                }
                // It may go on in the next line.
                Err(Failure::Said(_, why)) if !ended && why.contains("end of file") => continue,
                Err(Failure::Said(code, why)) => {
                    io.complain(&format!("sh: {why}"));
                    self.last = code;
                    script.clear();
                }
                Err(closed) => return Err(closed),
            }
            if ended {
                break;
            }
        }
        Ok(())
    }

    fn list(&mut self, io: &mut Io<'_>, list: &List) -> Result<(), Failure> {
        for (at, (when, pipeline)) in list.iter().enumerate() {
            let runs = match when {
                When::Always => true,
                When::Succeeded => self.last == 0,
                When::Failed => self.last != 0,
            };
            if !runs {
                continue;
            }
            self.pipeline(io, &pipeline.commands)?;
            if pipeline.not {
                self.last = i32::from(self.last == 0);
            }
            let decides = pipeline.not || list.get(at + 1).is_some_and(|(next, _)| *next != When::Always);
            if self.strict && self.last != 0 && !decides {
                self.over = Some(self.last);
            }
            if self.over.is_some() || self.leaves.is_some() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn pipeline(&mut self, io: &mut Io<'_>, commands: &[Command]) -> Result<(), Failure> {
        let Some((last, before)) = commands.split_last() else { return Ok(()) };
        if before.is_empty() {
            return self.command(io, last);
        }
        let mut held: Option<Vec<u8>> = None;
        for command in before {
            let given = held.take();
            let (out, ended) = self.captured(io, |shell, io| shell.fed(io, given, command));
            ended?;
            held = Some(out);
        }
        self.fed(io, held, last)
    }

    /// Runs a command with this as its standard input.
    fn fed(&mut self, io: &mut Io<'_>, input: Option<Vec<u8>>, command: &Command) -> Result<(), Failure> {
        let Some(input) = input else { return self.command(io, command) };
        let outer = std::mem::replace(&mut io.stdin, Box::new(Cursor::new(input)));
        let ended = self.command(io, command);
        io.stdin = outer;
        ended
    }

    /// What something writes to standard output.
    fn captured<'a>(
        &mut self,
        io: &mut Io<'a>,
        run: impl FnOnce(&mut Self, &mut Io<'a>) -> Result<(), Failure>,
    ) -> (Vec<u8>, Result<(), Failure>) {
        let held = Rc::new(RefCell::new(Held(Vec::new())));
        let outer = std::mem::replace(&mut io.stdout, Box::new(Shared(held.clone())));
        let ended = run(self, io);
        io.stdout = outer;
        let bytes = std::mem::take(&mut held.borrow_mut().0);
        (bytes, ended)
    }

    fn command(&mut self, io: &mut Io<'_>, command: &Command) -> Result<(), Failure> {
        if command.redirects.is_empty() {
            return self.what(io, &command.what);
        }
        // Each stream may be named by several descriptors.
        let nothing = || Box::new(std::io::empty());
        let (outer_in, outer_out, outer_err) = (
            std::mem::replace(&mut io.stdin, nothing()),
            std::mem::replace(&mut io.stdout, Box::new(std::io::sink())),
            std::mem::replace(&mut io.stderr, Box::new(std::io::sink())),
        );
        let outs = [Rc::new(RefCell::new(outer_out)), Rc::new(RefCell::new(outer_err))];
        let mut ends: [Rc<RefCell<Box<dyn Write + '_>>>; 2] = outs.clone();
        let mut input = Some(outer_in);
        let mut own_input: Option<Box<dyn BufRead>> = None;
        let mut failed = None;
        for redirect in &command.redirects {
            match self.redirected(io, redirect, &ends) {
                Ok(Opened::In(file)) => own_input = Some(file),
                Ok(Opened::Out(end)) => ends[usize::from(redirect.from == 2)] = end,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        io.stdout = Box::new(Shared(ends[0].clone()));
        io.stderr = Box::new(Shared(ends[1].clone()));
        let redirected_input = own_input.is_some();
        io.stdin = match own_input {
            Some(file) => file,
            None => input.take().unwrap_or_else(|| nothing()),
        };
        let ended = match failed {
            None => self.what(io, &command.what),
            Some(Failure::Said(_, why)) => {
                io.complain(&format!("sh: {why}"));
                self.last = 1;
                Ok(())
            }
            Some(closed) => Err(closed),
        };
        let _ = io.stdout.flush();
        let used = std::mem::replace(&mut io.stdin, nothing());
        io.stdin = if redirected_input { input.take().unwrap_or_else(|| nothing()) } else { used };
        io.stdout = Box::new(std::io::sink());
        io.stderr = Box::new(std::io::sink());
        drop(ends);
        let [out, err] = outs;
        // Nothing else holds them once the command is over.
        if let Ok(out) = Rc::try_unwrap(out) {
            io.stdout = out.into_inner();
        }
        if let Ok(err) = Rc::try_unwrap(err) {
            io.stderr = err.into_inner();
        }
        ended
    }

    fn redirected<'a>(
        &mut self,
        io: &mut Io<'a>,
        redirect: &Redirect,
        ends: &[Rc<RefCell<Box<dyn Write + 'a>>>; 2],
    ) -> Result<Opened<'a>, Failure> {
        let mut name = |word: &Word| -> Result<String, Failure> {
            let words = self.expanded(io, word)?;
            match words.as_slice() {
                [name] => Ok(name.clone()),
                _ => Err(Failure::of("ambiguous redirect")),
            }
        };
        let (name, append) = match &redirect.to {
            To::Same(1) => return Ok(Opened::Out(ends[0].clone())),
            To::Same(2) => return Ok(Opened::Out(ends[1].clone())),
            To::Same(other) => return Err(Failure::of(format!("{other}: Bad file descriptor"))),
            To::Read(word) => {
                let name = name(word)?;
                if name == "/dev/null" {
                    return Ok(Opened::In(Box::new(std::io::empty())));
                }
                let file = std::fs::File::open(io.path(&name)).map_err(|error| Failure::at(&name, &error))?;
                return Ok(Opened::In(Box::new(std::io::BufReader::new(file))));
            }
            To::Write(word) => (name(word)?, false),
            To::Append(word) => (name(word)?, true),
        };
        let end: Box<dyn Write + 'a> = match name.as_str() {
            "/dev/null" => Box::new(std::io::sink()),
            "/dev/stdout" => return Ok(Opened::Out(ends[0].clone())),
            "/dev/stderr" => return Ok(Opened::Out(ends[1].clone())),
            name => {
                let mut file = std::fs::File::options();
                file.write(true).create(true).append(append).truncate(!append);
                Box::new(file.open(io.path(name)).map_err(|error| Failure::at(name, &error))?)
            }
        };
        Ok(Opened::Out(Rc::new(RefCell::new(end))))
    }

    fn what(&mut self, io: &mut Io<'_>, what: &What) -> Result<(), Failure> {
        match what {
            What::Simple(words) => self.simple(io, words),
            What::Group { list, own: false } => self.list(io, list),
            What::Group { list, own: true } => {
                let (cwd, env) = (io.cwd.clone(), io.env.clone());
                let ended = self.list(io, list);
                (io.cwd, io.env) = (cwd, env);
                // `exit` leaves the parentheses alone.
                self.last = self.over.take().unwrap_or(self.last);
                ended
            }
            What::If { cases, otherwise } => {
                for (condition, body) in cases {
                    if self.holds(io, condition)? {
                        return self.list(io, body);
                    }
                }
                self.last = 0;
                otherwise.as_ref().map_or(Ok(()), |body| self.list(io, body))
            }
            What::While { condition, body, until } => {
                let mut last = 0;
                while self.over.is_none() && self.holds(io, condition)? != *until {
                    self.list(io, body)?;
                    last = self.last;
                    if self.is_left() {
                        break;
                    }
                }
                self.last = self.over.unwrap_or(last);
                Ok(())
            }
            What::For { name, words, body } => {
                let values = match words {
                    Some(words) => self.all_expanded(io, words)?,
                    None => self.parameters.get(1..).unwrap_or_default().to_vec(),
                };
                for value in values {
                    io.env.insert(name.clone(), value);
                    self.list(io, body)?;
                    if self.over.is_some() || self.is_left() {
                        break;
                    }
                }
                Ok(())
            }
        }
    }

    fn holds(&mut self, io: &mut Io<'_>, condition: &List) -> Result<bool, Failure> {
        let strict = std::mem::take(&mut self.strict);
        let ended = self.list(io, condition);
        self.strict = strict;
        ended.map(|()| self.last == 0 && self.over.is_none())
    }

    /// Whether `break` or `continue` was met, and ends the loop around it.
    fn is_left(&mut self) -> bool {
        match self.leaves.take() {
            None | Some((false, 0 | 1)) => false,
            Some((true, 0 | 1)) => true,
            Some((breaks, more)) => {
                self.leaves = Some((breaks, more - 1));
                true
            }
        }
    }

    fn simple(&mut self, io: &mut Io<'_>, words: &[Word]) -> Result<(), Failure> {
        let held = io.env.clone();
        let mut rest = words;
        self.substituted = false;
        while let Some((first, others)) = rest.split_first() {
            let Some((name, value)) = self.assignment(io, first)? else { break };
            io.env.insert(name, value);
            rest = others;
        }
        let words = self.all_expanded(io, rest)?;
        let Some((name, arguments)) = words.split_first() else {
            // A substitution tells how it ended where nothing else runs.
            self.last = if self.substituted { self.last } else { 0 };
            return Ok(());
        };
        let assigned = held != io.env;
        match self.built_in(io, name, arguments)? {
            Some(code) => self.last = code,
            None => self.last = crate::run(io, base_name(name), arguments),
        }
        // What stands before a command is for it alone.
        if assigned && !["export", "cd", "unset", "read", "set", "eval", "."].contains(&name.as_str()) {
            io.env = held;
        }
        Ok(())
    }

    fn assignment(&mut self, io: &mut Io<'_>, word: &Word) -> Result<Option<(String, String)>, Failure> {
        let Some(parse::Piece { what: Part::Text(text), quoted: false }) = word.0.first() else { return Ok(None) };
        let Some((name, first)) = text.split_once('=') else { return Ok(None) };
        let is_name = !name.is_empty()
            && !name.starts_with(|letter: char| letter.is_ascii_digit())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_name {
            return Ok(None);
        }
        let mut value = first.to_owned();
        for piece in &word.0[1..] {
            value += &self.text(io, &piece.what)?;
        }
        Ok(Some((name.to_owned(), value)))
    }
}

enum Opened<'a> {
    In(Box<dyn BufRead>),
    Out(Rc<RefCell<Box<dyn Write + 'a>>>),
}

/// An end that several descriptors name.
struct Shared<T>(Rc<RefCell<T>>);

impl<T: Write> Write for Shared<T> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.borrow_mut().flush()
    }
}

/// Bytes in memory, up to [`HELD_MAX`]: beyond it nobody reads.
struct Held(Vec<u8>);

impl Write for Held {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > HELD_MAX {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
