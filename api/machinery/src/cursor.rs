//! A cursor over JSON text: values are found and stepped over without being read.
//!
//! For those who want a few fields of an object, or each field once, and no tree of it. Strings come as they stand, and are
//! unescaped only where somebody asks. Invariants: no byte is read twice, nothing is allocated, broken text gives an error and never
//! a panic. Absent on purpose: a check of what is stepped over, beyond its strings and brackets.

use std::borrow::Cow;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the JSON text is broken at byte {at}")]
pub struct Malformed {
    pub at: usize,
}

#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    json: &'a [u8],
    at: usize,
}

/// What stands between two quotes.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    raw: &'a [u8],
    escaped: bool,
    at: usize,
}

impl<'a> Text<'a> {
    /// The text as it stands.
    pub fn raw(self) -> &'a [u8] {
        self.raw
    }

    /// Where the first quote stands.
    pub fn start(self) -> usize {
        self.at - 1
    }

    /// The text that is meant.
    pub fn read(self) -> Result<Cow<'a, [u8]>, Malformed> {
        if !self.escaped {
            return Ok(Cow::Borrowed(self.raw));
        }
        let quoted = [b"\"", self.raw, b"\""].concat();
        let text: String = serde_json::from_slice(&quoted).map_err(|_| Malformed { at: self.at })?;
        Ok(Cow::Owned(text.into_bytes()))
    }
}

impl<'a> Cursor<'a> {
    pub fn new(json: &'a [u8]) -> Self {
        Self::starting_at(json, 0)
    }

    /// A cursor that begins after this many bytes.
    pub fn starting_at(json: &'a [u8], at: usize) -> Self {
        Self { json, at }
    }

    /// How many bytes are behind the cursor.
    pub fn at(&self) -> usize {
        self.at
    }

    fn broken<T>(&self) -> Result<T, Malformed> {
        Err(Malformed { at: self.at })
    }

    /// The next byte that is no white space.
    #[inline]
    pub fn peek(&mut self) -> Result<u8, Malformed> {
        loop {
            match self.json.get(self.at) {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                Some(byte) => return Ok(*byte),
                None => return self.broken(),
            }
        }
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.peek()? != byte {
            return self.broken();
        }
        self.at += 1;
        Ok(())
    }

    /// Steps into an object.
    pub fn enter_object(&mut self) -> Result<(), Malformed> {
        self.expect(b'{')
    }

    /// Steps into a list.
    pub fn enter_list(&mut self) -> Result<(), Malformed> {
        self.expect(b'[')
    }

    /// The next key of the object that was stepped into; none at its end. `first` is true before the first.
    #[inline]
    pub fn key(&mut self, first: &mut bool) -> Result<Option<Text<'a>>, Malformed> {
        if !self.more(first, b'}')? {
            return Ok(None);
        }
        let key = self.string()?;
        self.expect(b':')?;
        Ok(Some(key))
    }

    /// True where the list that was stepped into has another item; else the cursor is behind the list.
    #[inline]
    pub fn item(&mut self, first: &mut bool) -> Result<bool, Malformed> {
        self.more(first, b']')
    }

    #[inline]
    fn more(&mut self, first: &mut bool, end: u8) -> Result<bool, Malformed> {
        let next = self.peek()?;
        if next == end {
            self.at += 1;
            return Ok(false);
        }
        if !std::mem::replace(first, false) {
            self.expect(b',')?;
        }
        Ok(true)
    }

    #[inline]
    pub fn string(&mut self) -> Result<Text<'a>, Malformed> {
        self.expect(b'"')?;
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at = quote_or_backslash(self.json, self.at).ok_or(Malformed { at: self.json.len() })?;
            if self.json[self.at] == b'"' {
                break;
            }
            escaped = true;
            self.at += 2;
        }
        let raw = &self.json[start..self.at];
        self.at += 1;
        Ok(Text { raw, escaped, at: start })
    }

    /// Steps over a number or a word (`true`, `null`), and returns it.
    #[inline]
    pub fn word(&mut self) -> Result<&'a [u8], Malformed> {
        self.peek()?;
        let rest = &self.json[self.at..];
        let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b':' | b'"' | b' ' | b'\t' | b'\n' | b'\r');
        let word = &rest[..rest.iter().position(ends).unwrap_or(rest.len())];
        if word.is_empty() {
            return self.broken();
        }
        self.at += word.len();
        Ok(word)
    }

    /// Steps over a value of any kind, and returns its text.
    pub fn value(&mut self) -> Result<&'a [u8], Malformed> {
        let first = self.peek()?;
        let start = self.at;
        match first {
            b'"' => self.string().map(|_| ())?,
            b'{' | b'[' => self.step_over_nested()?,
            _ => self.word().map(|_| ())?,
        }
        Ok(&self.json[start..self.at])
    }

    fn step_over_nested(&mut self) -> Result<(), Malformed> {
        let mut depth = 0_usize;
        loop {
            match self.json.get(self.at) {
                Some(b'"') => {
                    self.string()?;
                    continue;
                }
                Some(b'{' | b'[') => depth += 1,
                Some(b'}' | b']') => depth -= 1,
                Some(_) => {}
                None => return self.broken(),
            }
            self.at += 1;
            if depth == 0 {
                return Ok(());
            }
        }
    }
}

/// The text of one field of an object; none where it has no such field.
pub fn field<'a>(object: &'a [u8], name: &str) -> Result<Option<&'a [u8]>, Malformed> {
    let mut cursor = Cursor::new(object);
    cursor.enter_object()?;
    let mut first = true;
    while let Some(key) = cursor.key(&mut first)? {
        let value = cursor.value()?;
        if *key.read()? == *name.as_bytes() {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// Where the first quote or backslash stands, from `at` on: eight bytes at a time.
#[inline]
fn quote_or_backslash(json: &[u8], mut at: usize) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    /// The high bit of each byte that is zero; above the lowest of them there may be others.
    const fn zeros(word: u64) -> u64 {
        word.wrapping_sub(ONES) & !word & HIGHS
    }
    while let Some(chunk) = json.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        let found = zeros(word ^ (ONES * b'"' as u64)) | zeros(word ^ (ONES * b'\\' as u64));
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    let rest = json.get(at..)?.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
    Some(at + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a walk through an object finds: its keys, and the text of their values.
    fn walk(json: &str) -> Result<Vec<(String, String)>, Malformed> {
        let mut cursor = Cursor::new(json.as_bytes());
        let (mut found, mut first) = (Vec::new(), true);
        cursor.enter_object()?;
        while let Some(key) = cursor.key(&mut first)? {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            found.push((text(&key.read()?), text(cursor.value()?)));
        }
        Ok(found)
    }

    #[track_caller]
    fn check(json: &str, expected: &[(&str, &str)]) {
        let expected = expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        assert_eq!(walk(json), Ok(expected), "{json}");
    }

    #[test]
    fn values_are_stepped_over_whatever_they_hold() {
        check("{}", &[]);
        check(r#"{"a":1,"b":"x","c":true}"#, &[("a", "1"), ("b", r#""x""#), ("c", "true")]);
        check(r#" { "a" : [ 1 , { } ] , "b" : null } "#, &[("a", "[ 1 , { } ]"), ("b", "null")]);
        check(
            r#"{"n":{"q":"\"}]\\","l":[[{}]]},"":"a longer text than eight bytes, \" and more"}"#,
            &[("n", r#"{"q":"\"}]\\","l":[[{}]]}"#), ("", r#""a longer text than eight bytes, \" and more""#)],
        );
        check(r#"{"h\u00e9":-1.5e3}"#, &[("hé", "-1.5e3")]);
    }

    #[test]
    fn broken_text_is_told() {
        for json in ["", "[", "{", r#"{"a"#, r#"{"a"}"#, r#"{"a":"#, r#"{"a":}"#, r#"{"a":{"#, r#"{"a":1 "b":2}"#] {
            assert!(walk(json).is_err(), "{json}");
        }
        assert!(walk(r#"{"a":"\"#).is_err() && walk(r#"{"\x":1}"#).is_err());
    }

    #[test]
    fn one_field_is_found() {
        let object = br#"{"kind":"A","metadata":{"name":"a"},"x":{"metadata":1}}"#;
        assert_eq!(field(object, "metadata"), Ok(Some(&br#"{"name":"a"}"#[..])));
        assert_eq!(field(object, "spec"), Ok(None));
        assert!(field(b"[]", "spec").is_err());
    }
}
