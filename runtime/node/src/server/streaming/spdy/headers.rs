//! Header blocks: names and values, compressed over the life of a connection.
//!
//! Source: SPDY/3 draft, 2.6.10. A reader must know the dictionary that every client uses; what is written here is plain zlib
//! without it, which every reader takes. Names are in lower case.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::Error;

pub type Headers = BTreeMap<String, String>;

/// Longest header block, unpacked.
const BLOCK_MAX: usize = 64 * 1024;
/// What a zlib stream with a dictionary begins with: two bytes of header and four of the dictionary's checksum.
const PREFACE: usize = 6;
const PRESET_DICTIONARY: u8 = 0x20;

/// The dictionary is these words, each after its length, and [`TAIL`].
const WORDS: &[&str] = &[
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept \
Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch\
charset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut out = Vec::new();
    for word in WORDS {
        out.put_u32(word.len() as u32);
        out.put_slice(word.as_bytes());
    }
    out.put_slice(TAIL.as_bytes());
    out
}

/// Reads the blocks of one connection, in order.
#[derive(Debug)]
pub struct Decoder {
    inflate: Decompress,
    /// None until the first block has said how the stream begins.
    begun: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { inflate: Decompress::new(false), begun: false }
    }
}

impl Decoder {
    pub fn read(&mut self, mut block: &[u8]) -> Result<Headers, Error> {
        if !self.begun {
            block = self.begin(block)?;
        }
        parse(&self.unpack(block)?)
    }

    /// Steps over the stream's head. The dictionary is fed as what the stream has said before: a stored block.
    fn begin<'a>(&mut self, block: &'a [u8]) -> Result<&'a [u8], Error> {
        let flags = *block.get(1).ok_or(Error::Headers("a header block is too short"))?;
        self.begun = true;
        if flags & PRESET_DICTIONARY == 0 {
            return Ok(&block[2..]);
        }
        let dictionary = dictionary();
        let length = dictionary.len() as u16;
        let mut stored = vec![0];
        stored.put_u16_le(length);
        stored.put_u16_le(!length);
        stored.put_slice(&dictionary);
        self.unpack(&stored)?;
        block.get(PREFACE..).ok_or(Error::Headers("a header block is too short"))
    }

    fn unpack(&mut self, mut packed: &[u8]) -> Result<Vec<u8>, Error> {
        let mut out = Vec::with_capacity(packed.len() * 4 + 256);
        loop {
            if out.len() > BLOCK_MAX {
                return Err(Error::Headers("a header block is too long"));
            }
            out.reserve(1024);
            let (before_in, before_out) = (self.inflate.total_in(), out.len());
            self.inflate
                .decompress_vec(packed, &mut out, FlushDecompress::Sync)
                .map_err(|_| Error::Headers("a header block cannot be unpacked"))?;
            let taken = (self.inflate.total_in() - before_in) as usize;
            packed = &packed[taken..];
            if packed.is_empty() && out.len() < out.capacity() || taken == 0 && out.len() == before_out {
                return Ok(out);
            }
        }
    }
}

fn parse(mut block: &[u8]) -> Result<Headers, Error> {
    fn take<'a>(block: &mut &'a [u8]) -> Result<&'a [u8], Error> {
        let short = Error::Headers("a header block ends too early");
        if block.len() < 4 {
            return Err(short);
        }
        let length = block.get_u32() as usize;
        if block.len() < length {
            return Err(short);
        }
        let (text, rest) = block.split_at(length);
        *block = rest;
        Ok(text)
    }
    if block.len() < 4 {
        return Err(Error::Headers("a header block ends too early"));
    }
    let (count, mut headers) = (block.get_u32(), Headers::new());
    for _ in 0..count {
        let name = String::from_utf8_lossy(take(&mut block)?).to_ascii_lowercase();
        let value = String::from_utf8_lossy(take(&mut block)?).into_owned();
        headers.insert(name, value);
    }
    Ok(headers)
}

/// Writes the blocks of one connection, in order.
#[derive(Debug)]
pub struct Encoder(Compress);

impl Default for Encoder {
    fn default() -> Self {
        Self(Compress::new(Compression::fast(), true))
    }
}

impl Encoder {
    pub fn write(&mut self, headers: &Headers) -> Result<Vec<u8>, Error> {
        let mut plain = Vec::new();
        plain.put_u32(headers.len() as u32);
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(text.len() as u32);
            plain.put_slice(text.as_bytes());
        }
        let (mut out, mut rest) = (Vec::with_capacity(plain.len() + 64), &plain[..]);
        loop {
            out.reserve(64);
            let before = self.0.total_in();
            self.0
                .compress_vec(rest, &mut out, FlushCompress::Sync)
                .map_err(|_| Error::Headers("a header block cannot be packed"))?;
            rest = &rest[(self.0.total_in() - before) as usize..];
            if rest.is_empty() && out.len() < out.capacity() {
                return Ok(out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn blocks_of_a_client_with_the_dictionary_are_read() {
        let mut decoder = Decoder::default();
        let first = hex("78f9e3c6a7c202a62346703a2b294a4dcc851625aca9a08006000000ffff");
        assert_eq!(decoder.read(&first).unwrap(), headers(&[("streamtype", "error")]));
        let second = hex("02651c0c295029930829b08b40899bc9c200000000ffff");
        assert_eq!(decoder.read(&second).unwrap(), headers(&[("port", "80"), ("streamtype", "data")]));
    }

    #[test]
    fn what_is_written_can_be_read() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        for sent in [headers(&[]), headers(&[("a", "b"), ("c", "")]), headers(&[("a", &"long".repeat(1000))])] {
            assert_eq!(decoder.read(&encoder.write(&sent).unwrap()).unwrap(), sent);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bytes in [&b""[..], b"x", &[0x78, 0xf9, 0, 0], &[0x78, 0x9c, 0xff, 0xff, 0xff]] {
            assert!(Decoder::default().read(bytes).is_err(), "{bytes:?}");
        }
        let mut encoder = Encoder::default();
        let bomb = headers(&[("a", &"x".repeat(2 * BLOCK_MAX))]);
        assert!(Decoder::default().read(&encoder.write(&bomb).unwrap()).is_err());
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }
}
