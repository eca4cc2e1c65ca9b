//! Tools that tell of the container, and those that decide.

use std::io::Write;
use std::path::PathBuf;

use crate::io::{Failure, Io, Options, base_name, shown};

type Ended = Result<i32, Failure>;

pub fn yes(_: &mut Io<'_>, _: &[String]) -> Ended {
    Ok(0)
}

pub fn no(_: &mut Io<'_>, _: &[String]) -> Ended {
    Ok(1)
}

pub fn echo(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let (mut newline, mut escapes, mut words) = (true, false, arguments);
    while let Some((first, rest)) = words.split_first() {
        match first.as_str() {
            "-n" => newline = false,
            "-e" => escapes = true,
            "-ne" | "-en" => (newline, escapes) = (false, true),
            _ => break,
        }
        words = rest;
    }
    let text = words.join(" ");
    let text = if escapes { unescape(&text) } else { text };
    io.stdout.write_all(text.as_bytes())?;
    if newline {
        io.stdout.write_all(b"\n")?;
    }
    Ok(0)
}

/// `\n`, `\t` and their like.
fn unescape(text: &str) -> String {
    let (mut out, mut letters) = (String::new(), text.chars());
    while let Some(letter) = letters.next() {
        match (letter, if letter == '\\' { letters.next() } else { None }) {
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some('t')) => out.push('\t'),
            ('\\', Some('r')) => out.push('\r'),
            ('\\', Some('0')) => out.push('\0'),
            ('\\', Some('\\')) => out.push('\\'),
            ('\\', Some(other)) => out.extend(['\\', other]),
            (letter, _) => out.push(letter),
        }
    }
    out
}

/// `%s`, `%d` and `%%`; the format is used again until the arguments are gone.
pub fn printf(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let (format, mut words) = arguments.split_first().ok_or_else(|| Failure::usage("usage: printf FORMAT [ARG]..."))?;
    let format = unescape(format);
    loop {
        let (mut letters, mut taken) = (format.chars(), 0);
        while let Some(letter) = letters.next() {
            match (letter, if letter == '%' { letters.next() } else { None }) {
                ('%', Some('%')) => write!(io.stdout, "%")?,
                ('%', Some('s' | 'd' | 'i')) => {
                    let word = words.first().map_or("", String::as_str);
                    write!(io.stdout, "{word}")?;
                    words = words.get(1..).unwrap_or_default();
                    taken += 1;
                }
                ('%', other) => {
                    return Err(Failure::of(format!(
                        "%{}: invalid format",
                        other.map(String::from).unwrap_or_default()
                    )));
                }
                (letter, _) => write!(io.stdout, "{letter}")?,
            }
        }
        if words.is_empty() || taken == 0 {
            return Ok(0);
        }
    }
}

pub fn pwd(io: &mut Io<'_>, _: &[String]) -> Ended {
    let cwd = shown(&io.cwd);
    io.line(&cwd);
    Ok(0)
}

pub fn printenv(io: &mut Io<'_>, names: &[String]) -> Ended {
    if names.is_empty() {
        return show_env(io);
    }
    let mut code = 0;
    for name in names {
        match io.env.get(name).cloned() {
            Some(value) => io.line(&value),
            None => code = 1,
        }
    }
    Ok(code)
}

fn show_env(io: &mut Io<'_>) -> Ended {
    let lines: Vec<String> = io.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    lines.iter().for_each(|line| io.line(line));
    Ok(0)
}

/// `env [-i] [-u NAME] [NAME=VALUE]... [TOOL [ARG]...]`
pub fn env(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let held = io.env.clone();
    let mut words = arguments;
    while let Some((first, rest)) = words.split_first() {
        match (first.as_str(), first.split_once('=')) {
            ("-i" | "-", _) => io.env.clear(),
            ("-u", _) => drop(rest.first().and_then(|name| io.env.remove(name))),
            (_, Some((name, value))) => drop(io.env.insert(name.to_owned(), value.to_owned())),
            _ => break,
        }
        words = if first == "-u" { rest.get(1..).unwrap_or_default() } else { rest };
    }
    let code = match words.split_first() {
        None => show_env(io),
        Some((tool, arguments)) => Ok(crate::run(io, base_name(tool), arguments)),
    };
    io.env = held;
    code
}

pub fn hostname(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(arguments, "fsi", "", &[])?;
    let name = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let name = if name.trim().is_empty() { io.env.get("HOSTNAME").cloned().unwrap_or_default() } else { name };
    let name = name.trim();
    if options.has('i') {
        for address in crate::net::addresses(name)? {
            io.line(&address.to_string());
        }
        return Ok(0);
    }
    io.line(name);
    Ok(0)
}

/// There are no users in a Wasm container.
pub fn id(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(arguments, "ugGn", "", &[])?;
    let (user, name) = ("0", "root");
    let short = options.has('u') || options.has('g') || options.has('G');
    io.line(match (short, options.has('n')) {
        (true, true) => name,
        (true, false) => user,
        _ => "uid=0(root) gid=0(root) groups=0(root)",
    });
    Ok(0)
}

pub fn whoami(io: &mut Io<'_>, _: &[String]) -> Ended {
    io.line("root");
    Ok(0)
}

pub fn uname(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(arguments, "asnrvm", "", &[("all", 'a')])?;
    let host = io.env.get("HOSTNAME").cloned().unwrap_or_default();
    let all = options.has('a');
    let parts = [('s', "WASI"), ('n', host.as_str()), ('r', "0.2"), ('m', "wasm32")];
    let chosen: Vec<&str> =
        parts.iter().filter(|(letter, _)| all || options.has(*letter)).map(|(_, word)| *word).collect();
    io.line(&if chosen.is_empty() { "WASI".to_owned() } else { chosen.join(" ") });
    Ok(0)
}

/// The container's own program, which is its one process: tools are components of their own, which start no others.
pub fn ps(io: &mut Io<'_>, _: &[String]) -> Ended {
    let line = std::fs::read(COMMAND_LINE).unwrap_or_default();
    let words: Vec<_> =
        line.split(|byte| *byte == 0).map(String::from_utf8_lossy).filter(|word| !word.is_empty()).collect();
    io.line("PID   USER     COMMAND");
    if !words.is_empty() {
        io.line(&format!("{:>5} {:<8} {}", 1, "root", words.join(" ")));
    }
    Ok(0)
}

/// Where the host says what the container's program was started as, as Linux does.
const COMMAND_LINE: &str = "/proc/1/cmdline";

pub fn which(io: &mut Io<'_>, names: &[String]) -> Ended {
    let mut code = 0;
    for name in names {
        match crate::find(base_name(name)) {
            Some(_) => io.line(&format!("/bin/{}", base_name(name))),
            None => code = 1,
        }
    }
    Ok(code)
}

pub fn basename(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let [path, suffix @ ..] = arguments else { return Err(Failure::usage("missing operand")) };
    let name = base_name(path);
    let cut = suffix.first().and_then(|suffix| name.strip_suffix(suffix.as_str())).filter(|rest| !rest.is_empty());
    io.line(cut.unwrap_or(name));
    Ok(0)
}

pub fn dirname(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let [path] = arguments else { return Err(Failure::usage("missing operand")) };
    let trimmed = path.trim_end_matches('/');
    let parent = match trimmed.rsplit_once('/') {
        Some(("", _)) => "/",
        Some((parent, _)) => parent,
        None if path.starts_with('/') => "/",
        None => ".",
    };
    io.line(parent);
    Ok(0)
}

/// POSIX's `test`, by the number of arguments. 0 is true, 1 false, 2 nonsense.
pub fn test(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let words: Vec<&str> = arguments.iter().map(String::as_str).filter(|word| *word != "]").collect();
    let holds = any(io, &words)?;
    Ok(i32::from(!holds))
}

/// `-o` binds weakest, then `-a`, then `!`.
fn any(io: &Io<'_>, words: &[&str]) -> Result<bool, Failure> {
    match words.iter().position(|word| *word == "-o").filter(|at| words.len() > 3 && *at > 0) {
        Some(at) => Ok(all(io, &words[..at])? || any(io, &words[at + 1..])?),
        None => all(io, words),
    }
}

fn all(io: &Io<'_>, words: &[&str]) -> Result<bool, Failure> {
    match words.iter().position(|word| *word == "-a").filter(|at| words.len() > 3 && *at > 0) {
        Some(at) => Ok(one(io, &words[..at])? && all(io, &words[at + 1..])?),
        None => one(io, words),
    }
}

fn one(io: &Io<'_>, words: &[&str]) -> Result<bool, Failure> {
    let path = |name: &str| -> PathBuf { io.path(name) };
    let number =
        |text: &str| text.trim().parse::<i64>().map_err(|_| Failure::usage(format!("invalid number {text:?}")));
    Ok(match words {
        [] => false,
        ["!", rest @ ..] => !one(io, rest)?,
        [word] => !word.is_empty(),
        ["-n", text] => !text.is_empty(),
        ["-z", text] => text.is_empty(),
        ["-e", name] => std::fs::symlink_metadata(path(name)).is_ok(),
        ["-f", name] => path(name).is_file(),
        ["-d", name] => path(name).is_dir(),
        ["-s", name] => std::fs::metadata(path(name)).is_ok_and(|metadata| metadata.len() > 0),
        ["-L" | "-h", name] => std::fs::symlink_metadata(path(name)).is_ok_and(|metadata| metadata.is_symlink()),
        // There are no permissions to ask for but those that opening meets.
        ["-r" | "-w" | "-x", name] => path(name).exists(),
        [a, "=" | "==", b] => a == b,
        [a, "!=", b] => a != b,
        [a, "-eq", b] => number(a)? == number(b)?,
        [a, "-ne", b] => number(a)? != number(b)?,
        [a, "-lt", b] => number(a)? < number(b)?,
        [a, "-le", b] => number(a)? <= number(b)?,
        [a, "-gt", b] => number(a)? > number(b)?,
        [a, "-ge", b] => number(a)? >= number(b)?,
        [other, ..] => return Err(Failure::usage(format!("{other}: unknown operand"))),
    })
}
