//! Tools over lines and letters: `cut`, `seq`, `tr`, `uniq`, and `xargs`, which makes command lines of them.

use std::io::{Read, Write};

use crate::io::{Failure, Io, Options, base_name};

type Ended = Result<i32, Failure>;

pub fn seq(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let number = |text: &String| -> Result<i64, Failure> {
        text.parse().map_err(|_| Failure::of(format!("invalid number '{text}'")))
    };
    let numbers: Vec<i64> = arguments.iter().map(number).collect::<Result<_, _>>()?;
    let (first, step, last) = match numbers[..] {
        [last] => (1, 1, last),
        [first, last] => (first, 1, last),
        [first, step, last] => (first, step, last),
        _ => return Err(Failure::usage("usage: seq [FIRST [STEP]] LAST")),
    };
    if step == 0 {
        return Err(Failure::of("the step is 0"));
    }
    let mut at = first;
    while if step > 0 { at <= last } else { at >= last } {
        writeln!(io.stdout, "{at}")?;
        at = match at.checked_add(step) {
            Some(next) => next,
            None => break,
        };
    }
    Ok(0)
}

pub fn uniq(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(arguments, "cdui", "", &[])?;
    let text = io.read_all(options.operands.first().map_or("-", String::as_str))?;
    let text = String::from_utf8_lossy(&text);
    let fold = |line: &str| if options.has('i') { line.to_lowercase() } else { line.to_owned() };
    let mut runs: Vec<(usize, &str)> = Vec::new();
    for line in text.lines() {
        match runs.last_mut() {
            Some((count, held)) if fold(held) == fold(line) => *count += 1,
            _ => runs.push((1, line)),
        }
    }
    for (count, line) in runs {
        if options.has('d') && count == 1 || options.has('u') && count > 1 {
            continue;
        }
        match options.has('c') {
            true => writeln!(io.stdout, "{count:>7} {line}")?,
            false => writeln!(io.stdout, "{line}")?,
        }
    }
    Ok(0)
}

/// Ranges such as `1,3-5,7-`, counted from 1.
fn ranges(list: &str) -> Result<Vec<(usize, usize)>, Failure> {
    let wrong = || Failure::of(format!("invalid list '{list}'"));
    let number = |text: &str, otherwise: usize| match text {
        "" => Ok(otherwise),
        text => text.parse().map_err(|_| wrong()),
    };
    list.split(',')
        .map(|part| match part.split_once('-') {
            Some((from, to)) => Ok((number(from, 1)?, number(to, usize::MAX)?)),
            None => number(part, 0).map(|at| (at, at)),
        })
        .collect()
}

pub fn cut(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(arguments, "sn", "fcbd", &[("delimiter", 'd'), ("fields", 'f')])?;
    let delimiter = options.value('d').and_then(|text| text.chars().next()).unwrap_or('\t');
    let (by_field, list) = match (options.value('f'), options.value('c').or(options.value('b'))) {
        (Some(list), None) => (true, ranges(list)?),
        (None, Some(list)) => (false, ranges(list)?),
        _ => return Err(Failure::usage("one of -f, -c, -b is needed")),
    };
    let chosen = |at: usize| list.iter().any(|(from, to)| (*from..=*to).contains(&(at + 1)));
    for name in options.inputs() {
        let text = io.read_all(&name)?;
        for line in String::from_utf8_lossy(&text).lines() {
            if !by_field {
                let kept: String = line.chars().enumerate().filter(|(at, _)| chosen(*at)).map(|(_, it)| it).collect();
                io.line(&kept);
            } else if line.contains(delimiter) {
                let parts = line.split(delimiter).enumerate().filter(|(at, _)| chosen(*at)).map(|(_, part)| part);
                let kept = parts.collect::<Vec<_>>().join(&delimiter.to_string());
                io.line(&kept);
            } else if !options.has('s') {
                io.line(line);
            }
        }
    }
    Ok(0)
}

/// Whether a letter is of a class.
type IsOf = fn(&char) -> bool;

/// The letters of a set: ranges, classes and escapes.
fn letters(text: &str) -> Vec<char> {
    let classes: [(&str, IsOf); 6] = [
        ("[:lower:]", char::is_ascii_lowercase),
        ("[:upper:]", char::is_ascii_uppercase),
        ("[:digit:]", char::is_ascii_digit),
        ("[:alpha:]", char::is_ascii_alphabetic),
        ("[:alnum:]", char::is_ascii_alphanumeric),
        ("[:space:]", char::is_ascii_whitespace),
    ];
    let (mut out, mut rest) = (Vec::new(), text);
    while let Some(letter) = rest.chars().next() {
        if let Some((name, has)) = classes.iter().find(|(name, _)| rest.starts_with(name)) {
            out.extend((0..128_u8).map(char::from).filter(has));
            rest = &rest[name.len()..];
            continue;
        }
        rest = &rest[letter.len_utf8()..];
        let letter = match letter {
            '\\' => {
                let escaped = rest.chars().next().unwrap_or('\\');
                rest = rest.get(escaped.len_utf8()..).unwrap_or_default();
                match escaped {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    '0' => '\0',
                    other => other,
                }
            }
            letter => letter,
        };
        match rest.strip_prefix('-').and_then(|after| after.chars().next()) {
            Some(last) if last >= letter => {
                out.extend(letter..=last);
                rest = &rest[1 + last.len_utf8()..];
            }
            _ => out.push(letter),
        }
    }
    out
}

pub fn tr(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(arguments, "dsc", "", &[])?;
    let (from, to) = match &options.operands[..] {
        [from] if options.has('d') || options.has('s') => (letters(from), Vec::new()),
        [from, to] => (letters(from), letters(to)),
        _ => return Err(Failure::usage("usage: tr [-d] [-s] [-c] SET [SET]")),
    };
    let mut text = Vec::new();
    io.stdin.read_to_end(&mut text)?;
    let (mut out, mut last) = (String::new(), None);
    for letter in String::from_utf8_lossy(&text).chars() {
        let place = match options.has('c') {
            true => (!from.contains(&letter)).then_some(usize::MAX),
            false => from.iter().position(|held| *held == letter),
        };
        let becomes = match place {
            Some(_) if options.has('d') => continue,
            Some(place) => to.get(place).or(to.last()).copied().unwrap_or(letter),
            None => letter,
        };
        if options.has('s') && place.is_some() && last == Some(becomes) {
            continue;
        }
        last = Some(becomes);
        out.push(becomes);
    }
    io.stdout.write_all(out.as_bytes())?;
    Ok(0)
}

/// `xargs [-0] [-r] [-n COUNT] [-I WORD] [TOOL [ARG]...]`: tools alone can be called.
pub fn xargs(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let (mut words, mut count, mut place, mut nul) = (arguments.iter(), usize::MAX, None, false);
    let mut command: Vec<String> = Vec::new();
    let missing = || Failure::usage("option requires an argument");
    while let Some(word) = words.next() {
        match word.as_str() {
            "-0" => nul = true,
            "-r" | "-t" => {}
            "-n" => {
                count =
                    words.next().and_then(|text| text.parse().ok()).filter(|count| *count > 0).ok_or_else(missing)?;
            }
            "-I" => place = Some(words.next().ok_or_else(missing)?.clone()),
            other if other.starts_with('-') => return Err(Failure::usage(format!("unrecognized option: {other}"))),
            _ => {
                command.push(word.clone());
                command.extend(words.by_ref().cloned());
            }
        }
    }
    let (tool, own) = command.split_first().map_or(("echo", &[][..]), |(tool, own)| (tool.as_str(), own));
    let mut text = Vec::new();
    io.stdin.read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let items: Vec<&str> = match (nul, &place) {
        (true, _) => text.split('\0').filter(|item| !item.is_empty()).collect(),
        (false, Some(_)) => text.lines().map(str::trim).filter(|item| !item.is_empty()).collect(),
        (false, None) => text.split_whitespace().collect(),
    };
    let mut code = 0;
    let mut call = |arguments: Vec<String>| {
        let ended = crate::run(io, base_name(tool), &arguments);
        code = if ended == 0 { code } else { 123 };
    };
    match &place {
        Some(word) => {
            items.iter().for_each(|item| call(own.iter().map(|part| part.replace(word.as_str(), item)).collect()))
        }
        None => items
            .chunks(count.min(items.len().max(1)))
            .for_each(|part| call(own.iter().cloned().chain(part.iter().map(|item| (*item).to_owned())).collect())),
    }
    Ok(code)
}
