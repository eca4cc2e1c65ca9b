//! Tools over lines of text.

use std::collections::VecDeque;
use std::io::{BufRead, Read, Write};

use crate::io::{Failure, Io, Options};

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

pub fn tail(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(&old_count(arguments), "q", "nc", &[])?;
    let Count { bytes, from, number } = count(&options, "tail")?;
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
    let options = Options::parse(arguments, "rnu", "", &[])?;
    let mut text = Vec::new();
    let code = each(io, "sort", &options.inputs(), |io, name| {
        text.extend(io.read_all(name)?);
        if text.last().is_some_and(|last| *last != b'\n') {
            text.push(b'\n');
        }
        Ok(0)
    })?;
    let mut lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let number = |line: &[u8]| String::from_utf8_lossy(line).trim().parse::<f64>().unwrap_or(0.0);
    match options.has('n') {
        true => lines.sort_by(|a, b| number(a).total_cmp(&number(b)).then(a.cmp(b))),
        false => lines.sort(),
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

/// Finds fixed texts, and patterns of `^`, `$`, `.`, `*`, `[…]` and `\`.
pub fn grep(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(arguments, "ivclnqFEhHosw", "e", &[])?;
    let (pattern, inputs) = match options.value('e') {
        Some(pattern) => (pattern.to_owned(), options.operands.clone()),
        None => {
            let (pattern, rest) =
                options.operands.split_first().ok_or_else(|| Failure::usage("usage: grep PATTERN [FILE]..."))?;
            (pattern.clone(), rest.to_vec())
        }
    };
    let inputs = if inputs.is_empty() { vec!["-".to_owned()] } else { inputs };
    let fold = |text: &str| if options.has('i') { text.to_lowercase() } else { text.to_owned() };
    let patterns: Vec<Pattern> = match options.has('F') {
        true => pattern.lines().map(|line| Pattern::fixed(&fold(line))).collect(),
        false => fold(&pattern)
            .split(if options.has('E') { '|' } else { '\n' })
            .map(Pattern::parse)
            .collect::<Result<_, _>>()?,
    };
    let named = (inputs.len() > 1 || options.has('H')) && !options.has('h');
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
            let folded = fold(text);
            if patterns.iter().any(|pattern| pattern.matches(&folded)) == options.has('v') {
                continue;
            }
            found += 1;
            if options.has('q') || options.has('l') {
                break;
            }
            if !options.has('c') {
                let at = if options.has('n') { format!("{number}:") } else { String::new() };
                shown.push(format!("{prefix}{at}{text}"));
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

/// A basic regular expression, matched by trying.
struct Pattern {
    start: bool,
    end: bool,
    parts: Vec<(One, bool)>,
}

enum One {
    Any,
    Letter(char),
    /// Ranges, and whether what is in them must not be there.
    Set(Vec<(char, char)>, bool),
}

impl One {
    fn takes(&self, letter: char) -> bool {
        match self {
            One::Any => true,
            One::Letter(own) => *own == letter,
            One::Set(ranges, not) => ranges.iter().any(|(from, to)| (*from..=*to).contains(&letter)) != *not,
        }
    }
}

impl Pattern {
    fn fixed(text: &str) -> Self {
        Self { start: false, end: false, parts: text.chars().map(|letter| (One::Letter(letter), false)).collect() }
    }

    fn parse(text: &str) -> Result<Self, Failure> {
        let (start, text) = text.strip_prefix('^').map_or((false, text), |rest| (true, rest));
        let (end, text) = match text.strip_suffix('$') {
            Some(rest) if !rest.ends_with('\\') => (true, rest),
            _ => (false, text),
        };
        let mut parts: Vec<(One, bool)> = Vec::new();
        let mut letters = text.chars().peekable();
        while let Some(letter) = letters.next() {
            let one = match letter {
                '*' if !parts.is_empty() => {
                    if let Some((_, many)) = parts.last_mut() {
                        *many = true;
                    }
                    continue;
                }
                '.' => One::Any,
                '[' => {
                    let not = letters.next_if_eq(&'^').is_some();
                    let mut ranges = Vec::new();
                    loop {
                        let from = letters.next().ok_or_else(|| Failure::usage("unmatched ["))?;
                        if from == ']' && !ranges.is_empty() {
                            break;
                        }
                        let to = match letters.next_if_eq(&'-') {
                            Some(_) => letters.next().ok_or_else(|| Failure::usage("unmatched ["))?,
                            None => from,
                        };
                        ranges.push((from, to));
                    }
                    One::Set(ranges, not)
                }
                '\\' => One::Letter(letters.next().unwrap_or('\\')),
                other => One::Letter(other),
            };
            parts.push((one, false));
        }
        Ok(Self { start, end, parts })
    }

    fn matches(&self, text: &str) -> bool {
        let letters: Vec<char> = text.chars().collect();
        let last = if self.start { 0 } else { letters.len() };
        (0..=last).any(|at| self.from(&self.parts, &letters[at..]))
    }

    fn from(&self, parts: &[(One, bool)], letters: &[char]) -> bool {
        let Some(((one, many), rest)) = parts.split_first() else { return !self.end || letters.is_empty() };
        if !many {
            return letters.split_first().is_some_and(|(first, others)| one.takes(*first) && self.from(rest, others));
        }
        let longest = letters.iter().take_while(|letter| one.takes(**letter)).count();
        (0..=longest).rev().any(|count| self.from(rest, &letters[count..]))
    }
}
