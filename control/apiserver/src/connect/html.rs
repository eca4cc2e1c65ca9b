//! Finds the links of an HTML page as it streams by.
//!
//! Only start tags that carry addresses are written anew; all else passes as it is. Source: `atomsToAttrs` in
//! `k8s.io/apimachinery/pkg/util/proxy/transport.go`. Absent on purpose: addresses inside styles and scripts.

use std::io::{self, Write};

use flate2::write::{GzDecoder, ZlibDecoder};

/// Longest tag that is looked into; a longer one passes as it is.
const TAG_MAX: usize = 64 * 1024;

/// Elements and their attributes that hold addresses.
const ADDRESSES: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];
/// Elements whose content is text up to their end tag.
const RAW: &[&str] = &["script", "style", "textarea", "title"];

/// Takes a page out of its content encoding.
pub enum Unpack {
    Plain,
    Gzip(GzDecoder<Vec<u8>>),
    Deflate(ZlibDecoder<Vec<u8>>),
}

impl Unpack {
    /// None for an encoding that is not known, whose page passes as it is.
    pub fn of(encoding: &str) -> Option<Self> {
        match encoding {
            "" | "identity" => Some(Unpack::Plain),
            "gzip" => Some(Unpack::Gzip(GzDecoder::new(Vec::new()))),
            "deflate" => Some(Unpack::Deflate(ZlibDecoder::new(Vec::new()))),
            _ => None,
        }
    }

    pub fn push(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Unpack::Plain => Ok(bytes.to_vec()),
            Unpack::Gzip(decoder) => {
                decoder.write_all(bytes)?;
                decoder.flush()?;
                Ok(std::mem::take(decoder.get_mut()))
            }
            Unpack::Deflate(decoder) => {
                decoder.write_all(bytes)?;
                decoder.flush()?;
                Ok(std::mem::take(decoder.get_mut()))
            }
        }
    }
}

type Mend = Box<dyn Fn(&str) -> String + Send>;

/// Mends the links of what is pushed through it.
pub struct Urls {
    mend: Mend,
    /// What has come and cannot be judged yet.
    held: Vec<u8>,
    /// The element whose raw text goes by.
    raw: Option<&'static str>,
}

impl Urls {
    pub fn new(mend: impl Fn(&str) -> String + Send + 'static) -> Self {
        Self { mend: Box::new(mend), held: Vec::new(), raw: None }
    }

    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        let held = std::mem::take(&mut self.held);
        let (mut out, mut rest) = (Vec::with_capacity(held.len()), &held[..]);
        while let Some(start) = rest.iter().position(|byte| *byte == b'<') {
            out.extend_from_slice(&rest[..start]);
            rest = &rest[start..];
            let Some(length) = tag_length(rest).or((rest.len() > TAG_MAX).then_some(1)) else { break };
            let (tag, after) = rest.split_at(length);
            self.tag(&mut out, tag);
            rest = after;
        }
        if rest.first() == Some(&b'<') {
            self.held = rest.to_vec();
        } else {
            out.extend_from_slice(rest);
        }
        out
    }

    /// What is left when the page is over.
    pub fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    fn tag(&mut self, out: &mut Vec<u8>, tag: &[u8]) {
        let Some(text) = std::str::from_utf8(tag).ok() else { return out.extend_from_slice(tag) };
        let name = text[1..].trim_start_matches('/');
        let name: String =
            name.chars().take_while(|c| c.is_ascii_alphanumeric()).collect::<String>().to_ascii_lowercase();
        if let Some(raw) = self.raw {
            if text.starts_with("</") && name == raw {
                self.raw = None;
            }
            return out.extend_from_slice(tag);
        }
        let opens = text[1..].starts_with(|c: char| c.is_ascii_alphabetic());
        let known = ADDRESSES.iter().find(|(element, _)| *element == name).filter(|_| opens);
        match known {
            Some((_, attributes)) => out.extend_from_slice(mended(text, attributes, &self.mend).as_bytes()),
            None => out.extend_from_slice(tag),
        }
        if opens && !text.ends_with("/>") {
            self.raw = RAW.iter().find(|element| **element == name).copied();
        }
    }
}

/// How long the tag or comment at the start is; none if its end has not come.
fn tag_length(bytes: &[u8]) -> Option<usize> {
    if b"<!--".starts_with(&bytes[..bytes.len().min(4)]) {
        let end = bytes.get(4..)?.windows(3).position(|window| window == b"-->")?;
        return Some(4 + end + 3);
    }
    match bytes.get(1)? {
        b'a'..=b'z' | b'A'..=b'Z' | b'/' | b'!' | b'?' => {}
        // A `<` that begins no tag.
        _ => return Some(1),
    }
    let mut quote = None;
    for (index, byte) in bytes.iter().enumerate().skip(1) {
        match (quote, byte) {
            (None, b'>') => return Some(index + 1),
            (None, b'"' | b'\'') if bytes[index - 1] == b'=' => quote = Some(*byte),
            (Some(open), byte) if open == *byte => quote = None,
            _ => {}
        }
    }
    None
}

/// The tag with the values of these attributes mended.
fn mended(tag: &str, attributes: &[&str], mend: &Mend) -> String {
    let (mut out, mut rest) = (String::with_capacity(tag.len() + 64), tag);
    while let Some(equals) = rest.find('=') {
        let (before, after) = rest.split_at(equals + 1);
        let name =
            before[..equals].trim_end().rsplit(|c: char| c.is_ascii_whitespace() || c == '"' || c == '\'' || c == '/');
        let name = name.into_iter().next().unwrap_or_default().to_ascii_lowercase();
        out.push_str(before);
        let value = after.trim_start();
        let (quote, value) = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => (Some(quote), &value[1..]),
            _ => (None, value),
        };
        let end = match quote {
            Some(quote) => value.find(quote),
            None => value.find(|c: char| c.is_ascii_whitespace() || c == '>'),
        };
        let (value, after) = value.split_at(end.unwrap_or(value.len()));
        let link = unescaped(value);
        let shown = if attributes.contains(&name.as_str()) { escaped(&mend(&link)) } else { value.to_owned() };
        let quote = quote.unwrap_or('"');
        out.extend([quote.to_string(), shown, quote.to_string()]);
        rest = after.strip_prefix(quote).unwrap_or(after);
    }
    out + rest
}

fn unescaped(text: &str) -> String {
    text.replace("&#34;", "\"")
        .replace("&quot;", "\"")
        .replace("&#39;", "'")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('\'', "&#39;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same whether the page comes whole or byte by byte.
    fn check(page: &str, expected: &str) {
        for size in [page.len().max(1), 1] {
            let mut urls = Urls::new(|link| format!("/p{link}"));
            let mut out: Vec<u8> = page.as_bytes().chunks(size).flat_map(|chunk| urls.push(chunk)).collect();
            out.extend(urls.finish());
            assert_eq!(String::from_utf8(out).unwrap(), expected, "in pieces of {size}");
        }
    }

    #[test]
    fn links_are_found_where_they_stand() {
        check(r#"<a href="/x">test</a>"#, r#"<a href="/p/x">test</a>"#);
        check(r#"<IMG alt='a > b' SRC='/i.png'/>"#, r#"<IMG alt='a > b' SRC='/p/i.png'/>"#);
        check("<a href=/x class=y>", r#"<a href="/p/x" class="y">"#);
        check(r#"<a href="/x?a=1&amp;b=2">"#, r#"<a href="/p/x?a=1&amp;b=2">"#);
    }

    #[test]
    fn all_else_passes_as_it_is() {
        for page in [
            "no tags, 1 < 2",
            r#"<p class="/x">"#,
            r#"<!-- <a href="/x"> --><b>"#,
            r#"<style>a[href="/x"] > b {}</style>"#,
            "<a name",
            "",
        ] {
            check(page, page);
        }
        check(r#"<script src="/s.js">"<a href='/x'>"</script>"#, r#"<script src="/p/s.js">"<a href='/x'>"</script>"#);
    }

    #[test]
    fn pages_come_out_of_their_encoding() {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(b"hello").unwrap();
        let packed = packer.finish().unwrap();
        let mut unpack = Unpack::of("gzip").unwrap();
        let plain: Vec<u8> = packed.chunks(3).flat_map(|chunk| unpack.push(chunk).unwrap()).collect();
        assert_eq!(plain, b"hello");
        assert!(Unpack::of("br").is_none());
    }
}
