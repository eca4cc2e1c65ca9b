//! A list in JSON as a body of known length, of which no more than a chunk exists at a time.
//!
//! A list of any size costs its client's pace one buffer that stays in the processor's cache, instead of one as large as the list.
//! The items are the cache's own bytes; nothing is read or encoded.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::vec;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use wharf_cache::Entry;

/// How much is written at a time: four TLS records.
const CHUNK_BYTES: usize = 64 << 10;
const TAIL: &[u8] = b"]}";

pub struct ListBody {
    head: Vec<u8>,
    /// What each object starts with, and an item of a typed list does not repeat.
    own: Vec<u8>,
    entries: vec::IntoIter<Arc<Entry>>,
    first: bool,
    left: u64,
}

impl ListBody {
    /// `head` is everything up to the first item; `own` how objects of the list's kind begin.
    pub fn new(head: Vec<u8>, own: String, entries: Vec<Arc<Entry>>) -> Self {
        let own = own.into_bytes();
        let items: usize =
            entries.iter().map(|entry| item(&own, &entry.bytes).iter().map(|part| part.len()).sum::<usize>()).sum();
        let left = (head.len() + items + entries.len().saturating_sub(1) + TAIL.len()) as u64;
        Self { head, own, entries: entries.into_iter(), first: true, left }
    }

    /// How long all of it is.
    pub fn length(&self) -> u64 {
        self.left
    }

    /// All of it at once, for what needs the whole.
    pub fn now(mut self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.left as usize);
        while self.left > 0 {
            let chunk = self.chunk();
            out.extend_from_slice(&chunk);
        }
        out
    }

    fn chunk(&mut self) -> Vec<u8> {
        let mut chunk = std::mem::take(&mut self.head);
        chunk.reserve(CHUNK_BYTES.min(self.left as usize));
        while chunk.len() < CHUNK_BYTES {
            let Some(entry) = self.entries.next() else {
                chunk.extend_from_slice(TAIL);
                break;
            };
            if !std::mem::take(&mut self.first) {
                chunk.push(b',');
            }
            item(&self.own, &entry.bytes).into_iter().for_each(|part| chunk.extend_from_slice(part));
        }
        self.left = self.left.saturating_sub(chunk.len() as u64);
        chunk
    }
}

/// An object without its type.
pub fn item<'a>(own: &[u8], object: &'a [u8]) -> [&'a [u8]; 2] {
    match object.strip_prefix(own) {
        Some(rest) => [b"{", rest],
        None => [b"", object],
    }
}

impl Body for ListBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(Frame::data(self.chunk().into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use wharf_cache::{EventType, Index, Indexed};
    use wharf_store::Revision;

    use super::*;

    struct Nothing;

    impl Index for Nothing {
        fn index(&self, _: &[u8]) -> Indexed {
            Indexed::default()
        }
    }

    fn entry(name: &str, filler: usize) -> Arc<Entry> {
        let stored =
            format!(r#"{{"apiVersion":"v1","kind":"A","metadata":{{"name":"{name}"}},"x":"{}"}}"#, "y".repeat(filler));
        let key = format!("/registry/a/{name}");
        Arc::new(Entry::new(key.as_str().into(), Revision(7), stored.as_bytes(), &Nothing, EventType::Added))
    }

    async fn check(entries: Vec<Arc<Entry>>) -> usize {
        let items = entries.len();
        let body = ListBody::new(
            br#"{"kind":"AList","items":["#.to_vec(),
            r#"{"apiVersion":"v1","kind":"A","#.to_owned(),
            entries,
        );
        let length = body.length();
        let mut chunks = 0;
        let mut whole = Vec::new();
        let mut body = std::pin::pin!(body);
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame;
            chunks += 1;
            whole.extend_from_slice(&frame.into_data().expect("data"));
        }
        assert_eq!(whole.len() as u64, length);
        let list: serde_json::Value = serde_json::from_slice(&whole).expect("JSON");
        assert_eq!(list["items"].as_array().map(Vec::len), Some(items));
        assert!(list["items"].as_array().into_iter().flatten().all(|item| item["kind"].is_null()));
        chunks
    }

    #[tokio::test]
    async fn a_list_is_as_long_as_it_says_however_it_is_cut() {
        assert_eq!(check(Vec::new()).await, 1);
        assert_eq!(check(vec![entry("a", 1)]).await, 1);
        assert_eq!(check(vec![entry("a", 3 * CHUNK_BYTES), entry("b", 1)]).await, 2);
        let many: Vec<_> = (0..500).map(|number| entry(&format!("n{number}"), 1000)).collect();
        assert!(check(many).await > 5);
    }

    #[tokio::test]
    async fn a_list_may_end_where_a_chunk_does() {
        for filler in CHUNK_BYTES - 120..CHUNK_BYTES {
            check(vec![entry("a", filler)]).await;
        }
    }
}
