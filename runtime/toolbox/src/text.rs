//! Tools over lines of text.

use std::collections::VecDeque;
use std::io::{BufRead, Read, Seek, Write};

use regex_lite::Regex;

use crate::io::{Failure, Io, Options};
use crate::pattern::{self, Kind};

type Ended = Result<i32, Failure>;

/// Runs `each` on all inputs; one that cannot be read is told of, and the others still are.
fn each(io: &mut Io<'_>, tool: &str, names: &[String], mut each: impl FnMut(&mut Io<'_>, &str) -> Ended) -> Ended {
    let mut code = 0;
    for name in names {
        match each(io, name) {
            Ok(ended) => code = code.max(ended),
            Err(Failure::Said(ended, text)) => {
                io.complain(&format!("{tool}: {text}"));
                code = code.max(ended);
            }
            Err(closed) => return Err(closed),
        }
    }
    Ok(code)
}

pub fn cat(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(arguments, "u", "", &[])?;
    each(io, "cat", &options.inputs(), |io, name| io.copy_out(name).map(|()| 0))
}

pub fn tee(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(arguments, "a", "", &[("append", 'a')])?;
    let mut files = Vec::new();
    for name in &options.operands {
        let mut file = std::fs::File::options();
        file.write(true).create(true).append(options.has('a')).truncate(!options.has('a'));
        files.push(file.open(io.path(name)).map_err(|error| Failure::at(name, &error))?);
    }
    let mut block = vec![0; 64 << 10];
    loop {
        let count = io.stdin.read(&mut block)?;
        if count == 0 {
            return Ok(0);
        }
        for file in &mut files {
            file.write_all(&block[..count])?;
        }
        io.stdout.write_all(&block[..count])?;
    }
}

/// How many: `10`, `+3`; bytes where `-c` said so.
struct Count {
    bytes: bool,
    /// From there on, counted from 1.
    from: bool,
    number: usize,
}

fn count(options: &Options, tool: &str) -> Result<Count, Failure> {
    let (bytes, text) = match (options.value('c'), options.value('n')) {
        (Some(text), _) => (true, text),
        (None, Some(text)) => (false, text),
        (None, None) => (false, "10"),
    };
    let from = text.starts_with('+');
    let number = text.trim_start_matches(['+', '-']).parse();
    let number = number.map_err(|_| Failure::of(format!("invalid number {text:?} for {tool}")))?;
    Ok(Count { bytes, from, number })
}

/// `-5` means `-n 5`.
fn old_count(arguments: &[String]) -> Vec<String> {
    let number = |word: &String| {
        let digits =
            word.strip_prefix('-').filter(|rest| !rest.is_empty() && rest.bytes().all(|it| it.is_ascii_digit()));
        digits.map(|digits| format!("-n{digits}"))
    };
    arguments.iter().map(|word| number(word).unwrap_or_else(|| word.clone())).collect()
}

pub fn head(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(&old_count(arguments), "q", "nc", &[])?;
    let Count { bytes, number, .. } = count(&options, "head")?;
    let inputs = options.inputs();
    let titled = inputs.len() > 1 && !options.has('q');
    let mut first = true;
    each(io, "head", &inputs, |io, name| {
        let mut out = Vec::new();
        let mut from = io.open(name)?;
        if bytes {
            (&mut from).take(number as u64).read_to_end(&mut out)?;
        } else {
            for _ in 0..number {
                if from.read_until(b'\n', &mut out)? == 0 {
                    break;
                }
            }
        }
        drop(from);
        title(io, name, titled, &mut first)?;
        io.stdout.write_all(&out)?;
        Ok(0)
    })
}

fn title(io: &mut Io<'_>, name: &str, titled: bool, first: &mut bool) -> Result<(), Failure> {
    if titled {
        let gap = if std::mem::take(first) { "" } else { "\n" };
        writeln!(io.stdout, "{gap}==> {name} <==")?;
    }
    Ok(())
}

/// How often a file that is followed is looked at.
const FOLLOW_PAUSE: std::time::Duration = std::time::Duration::from_millis(250);

pub fn tail(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(&old_count(arguments), "qfF", "ncs", &[("follow", 'f')])?;
    // What is added meanwhile may be shown twice, and is never lost.
    let lengths: Vec<u64> = options.operands.iter().map(|name| length(io, name)).collect();
    let code = ends(io, &options)?;
    if !options.has('f') && !options.has('F') || options.operands.is_empty() {
        return Ok(code);
    }
    follow(io, &options.operands, lengths)
}

fn length(io: &Io<'_>, name: &str) -> u64 {
    std::fs::metadata(io.path(name)).map_or(0, |metadata| metadata.len())
}

/// Shows what is added, for ever: whoever has read enough ends it. A file that has become shorter is new.
fn follow(io: &mut Io<'_>, names: &[String], mut shown: Vec<u64>) -> Ended {
    loop {
        io.stdout.flush()?;
        std::thread::sleep(FOLLOW_PAUSE);
        for (name, shown) in names.iter().zip(&mut shown) {
            let length = length(io, name);
            if length < *shown {
                *shown = 0;
            }
            if length == *shown {
                continue;
            }
            let mut file = std::fs::File::open(io.path(name)).map_err(|error| Failure::at(name, &error))?;
            file.seek(std::io::SeekFrom::Start(*shown))?;
            *shown += std::io::copy(&mut file.take(length - *shown), &mut io.stdout)?;
        }
    }
}

fn ends(io: &mut Io<'_>, options: &Options) -> Ended {
    let Count { bytes, from, number } = count(options, "tail")?;
    let inputs = options.inputs();
    let titled = inputs.len() > 1 && !options.has('q');
    let mut first = true;
    each(io, "tail", &inputs, |io, name| {
        title(io, name, titled, &mut first)?;
        if from && bytes {
            let mut skipped = number.saturating_sub(1) as u64;
            let mut out = std::mem::replace(&mut io.stdout, Box::new(std::io::sink()));
            let copied = io.open(name).and_then(|mut from| {
                skipped -= std::io::copy(&mut (&mut from).take(skipped), &mut std::io::sink())?;
                Ok(if skipped == 0 { std::io::copy(&mut from, &mut out)? } else { 0 })
            });
            io.stdout = out;
            return copied.map(|_| 0);
        }
        let mut kept: VecDeque<Vec<u8>> = VecDeque::new();
        if bytes {
            let all = io.read_all(name)?;
            kept.push_back(all[all.len().saturating_sub(number)..].to_vec());
        } else {
            let mut from_file = io.open(name)?;
            let mut at = 0;
            loop {
                let mut line = Vec::new();
                if from_file.read_until(b'\n', &mut line)? == 0 {
                    break;
                }
                at += 1;
                match from {
                    true if at < number => continue,
                    false if number == 0 => continue,
                    false if kept.len() == number => drop(kept.pop_front()),
                    _ => {}
                }
                kept.push_back(line);
            }
        }
        for line in kept {
            io.stdout.write_all(&line)?;
        }
        Ok(0)
    })
}

pub fn wc(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(arguments, "lwcm", "", &[])?;
    let some = ['l', 'w', 'c', 'm'].iter().any(|letter| options.has(*letter));
    let wanted = |letter: char| !some || options.has(letter);
    let (with_lines, with_words, with_bytes) = (wanted('l'), wanted('w'), wanted('c') || options.has('m'));
    let row = |counts: [usize; 3], name: &str| {
        let chosen = counts.iter().zip([with_lines, with_words, with_bytes]).filter(|(_, wanted)| *wanted);
        let mut words: Vec<String> = chosen.map(|(count, _)| count.to_string()).collect();
        words.extend(Some(name.to_owned()).filter(|name| name != "-"));
        words.join(" ")
    };
    let (inputs, mut total) = (options.inputs(), [0; 3]);
    let code = each(io, "wc", &inputs, |io, name| {
        let bytes = io.read_all(name)?;
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
        let words = bytes.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).count();
        let counts = [lines, words, bytes.len()];
        total.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
        io.line(&row(counts, name));
        Ok(0)
    })?;
    if inputs.len() > 1 {
        io.line(&row(total, "total"));
    }
    Ok(code)
}

pub fn sort(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(arguments, "rnuf", "kt", &[])?;
    let field: Option<usize> = options
        .value('k')
        .and_then(|key| key.split([',', '.']).next()?.trim_end_matches(char::is_alphabetic).parse().ok());
    let key = |line: &[u8]| -> String {
        let line = String::from_utf8_lossy(line).trim_end_matches('\n').to_owned();
        let Some(field) = field.filter(|field| *field > 0) else { return line };
        let part = match options.value('t').and_then(|text| text.chars().next()) {
            Some(delimiter) => line.split(delimiter).nth(field - 1).map(str::to_owned),
            None => line.split_whitespace().nth(field - 1).map(str::to_owned),
        };
        part.unwrap_or_default()
    };
    let numeric = options.has('n') || options.value('k').is_some_and(|key| key.contains('n'));
    let mut text = Vec::new();
    let code = each(io, "sort", &options.inputs(), |io, name| {
        text.extend(io.read_all(name)?);
        if text.last().is_some_and(|last| *last != b'\n') {
            text.push(b'\n');
        }
        Ok(0)
    })?;
    let mut lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let number = |text: &str| -> f64 {
        let text = text.trim_start();
        let digits = text.find(|it: char| !matches!(it, '0'..='9' | '-' | '.')).map_or(text, |end| &text[..end]);
        digits.parse().unwrap_or(0.0)
    };
    let fold = |text: String| if options.has('f') { text.to_lowercase() } else { text };
    match numeric {
        true => lines.sort_by(|a, b| number(&key(a)).total_cmp(&number(&key(b))).then(a.cmp(b))),
        false => lines.sort_by(|a, b| fold(key(a)).cmp(&fold(key(b))).then(a.cmp(b))),
    }
    if options.has('r') {
        lines.reverse();
    }
    if options.has('u') {
        lines.dedup();
    }
    for line in lines {
        io.stdout.write_all(line)?;
    }
    Ok(code)
}

/// Basic and extended expressions, and fixed texts.
pub fn grep(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(arguments, "ivclnqFEhHoswxrR", "e", &[])?;
    let mut inputs = options.operands.clone();
    let mut patterns: Vec<String> = options.values('e').map(str::to_owned).collect();
    if patterns.is_empty() {
        if inputs.is_empty() {
            return Err(Failure::usage("usage: grep PATTERN [FILE]..."));
        }
        patterns.push(inputs.remove(0));
    }
    let deep = options.has('r') || options.has('R');
    if deep {
        let here = if inputs.is_empty() { vec![".".to_owned()] } else { inputs };
        inputs = here.iter().flat_map(|name| files_below(io, name)).collect();
        if inputs.is_empty() {
            return Ok(1);
        }
    }
    let inputs = if inputs.is_empty() { vec!["-".to_owned()] } else { inputs };
    let kind = Kind {
        extended: options.has('E'),
        fixed: options.has('F'),
        fold: options.has('i'),
        words: options.has('w'),
        lines: options.has('x'),
    };
    let patterns: Vec<Regex> = patterns
        .iter()
        .flat_map(|text| text.split('\n'))
        .map(|text| pattern::compile(text, kind))
        .collect::<Result<_, _>>()?;
    let named = (inputs.len() > 1 || deep || options.has('H')) && !options.has('h');
    let mut any = false;
    let code = each(io, "grep", &inputs, |io, name| {
        let prefix = if named { format!("{name}:") } else { String::new() };
        let (mut found, mut number, mut shown) = (0, 0, Vec::new());
        let mut from = io.open(name)?;
        let mut line = Vec::new();
        loop {
            line.clear();
            if from.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            number += 1;
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end_matches('\n');
            if patterns.iter().any(|pattern| pattern.is_match(text)) == options.has('v') {
                continue;
            }
            found += 1;
            if options.has('q') || options.has('l') {
                break;
            }
            if !options.has('c') {
                let at = if options.has('n') { format!("{number}:") } else { String::new() };
                match options.has('o') {
                    true => shown.extend(
                        patterns
                            .iter()
                            .flat_map(|pattern| pattern.find_iter(text))
                            .map(|part| format!("{prefix}{at}{}", part.as_str())),
                    ),
                    false => shown.push(format!("{prefix}{at}{text}")),
                }
            }
        }
        drop(from);
        any |= found > 0;
        match (options.has('q'), options.has('l'), options.has('c')) {
            (true, ..) => {}
            (_, true, _) if found > 0 => io.line(name),
            (_, false, true) => io.line(&format!("{prefix}{found}")),
            _ => shown.iter().for_each(|line| io.line(line)),
        }
        Ok(0)
    })?;
    Ok(if code > 0 { 2 } else { i32::from(!any) })
}

/// All files below a directory, in the order of the names; a file alone is itself.
fn files_below(io: &Io<'_>, name: &str) -> Vec<String> {
    let path = io.path(name);
    if !path.is_dir() {
        return vec![name.to_owned()];
    }
    let held = std::fs::read_dir(&path).into_iter().flatten().flatten();
    let mut names: Vec<_> = held.filter(|entry| !entry.path().is_symlink()).map(|entry| entry.file_name()).collect();
    names.sort();
    let inner = names.iter().map(|inner| format!("{}/{}", name.trim_end_matches('/'), inner.to_string_lossy()));
    inner.flat_map(|inner| files_below(io, &inner)).collect()
}
