//! One object at one revision, laid out so that GET, LIST and most watch frames are slices of one buffer.

use std::ops::Range;

use bytes::Bytes;
use wharf_store::{Key, Revision};

use crate::seam::{EventType, Index, Indexed};
use crate::splice;

/// One object at one revision.
#[derive(Debug)]
pub struct Entry {
    /// The store key.
    pub key: Key,
    pub revision: Revision,
    /// The JSON that a GET returns: the stored value with `metadata.resourceVersion` spliced in.
    pub bytes: Bytes,
    pub indexed: Indexed,
    /// The watch frame that `bytes` is a slice of, and its type: the one that most watchers of this change will want.
    frame: Bytes,
    kind: EventType,
    /// Where in `bytes` the revision's digits stand.
    digits: Option<Range<u32>>,
}

const FRAME_TAIL: &[u8] = b"}\n";

const fn frame_head(kind: EventType) -> &'static [u8] {
    match kind {
        EventType::Added => br#"{"type":"ADDED","object":"#,
        EventType::Modified => br#"{"type":"MODIFIED","object":"#,
        EventType::Deleted => br#"{"type":"DELETED","object":"#,
    }
}

impl Entry {
    /// From a stored value. `kind` is what the commit most likely is to a watcher.
    pub fn new(key: Key, revision: Revision, stored: &[u8], index: &dyn Index, kind: EventType) -> Self {
        let indexed = index.index(stored);
        let layout = Layout::new(kind, stored.len() + splice::ADDED_MAX);
        layout.finish(key, revision, indexed, |out| splice::write(out, stored, revision))
    }

    /// The same object under another revision.
    pub(crate) fn at(&self, revision: Revision, kind: EventType) -> Self {
        let layout = Layout::new(kind, self.bytes.len() + splice::ADDED_MAX);
        layout.finish(self.key.clone(), revision, self.indexed.clone(), |out| {
            let Some(digits) = &self.digits else {
                out.extend_from_slice(&self.bytes);
                return None;
            };
            out.extend_from_slice(&self.bytes[..digits.start as usize]);
            let start = out.len();
            splice::write_number(out, revision.0);
            let written = start..out.len();
            out.extend_from_slice(&self.bytes[digits.end as usize..]);
            Some(written)
        })
    }

    /// The same object in another version, whose bytes these are, with what selectors look at in that version.
    pub fn shown_as(&self, bytes: &[u8], indexed: Indexed, kind: EventType) -> Self {
        let layout = Layout::new(kind, bytes.len());
        layout.finish(self.key.clone(), self.revision, indexed, |out| {
            out.extend_from_slice(bytes);
            None
        })
    }

    /// The ready-made frame, if it is of this type.
    pub(crate) fn frame(&self, kind: EventType) -> Option<Bytes> {
        (self.kind == kind).then(|| self.frame.clone())
    }

    pub(crate) fn encode_frame(&self, kind: EventType) -> Bytes {
        let (head, body) = (frame_head(kind), &self.bytes);
        let mut out = Vec::with_capacity(head.len() + body.len() + FRAME_TAIL.len());
        out.extend_from_slice(head);
        out.extend_from_slice(body);
        out.extend_from_slice(FRAME_TAIL);
        out.into()
    }

    pub(crate) fn weight(&self) -> usize {
        self.frame.len() + self.key.len()
    }
}

/// A frame under construction.
struct Layout {
    kind: EventType,
    out: Vec<u8>,
}

impl Layout {
    fn new(kind: EventType, body: usize) -> Self {
        let head = frame_head(kind);
        let mut out = Vec::with_capacity(head.len() + body + FRAME_TAIL.len());
        out.extend_from_slice(head);
        Self { kind, out }
    }

    fn finish(
        self,
        key: Key,
        revision: Revision,
        indexed: Indexed,
        write: impl FnOnce(&mut Vec<u8>) -> Option<Range<usize>>,
    ) -> Entry {
        let Self { kind, mut out } = self;
        let start = out.len();
        let digits = write(&mut out).map(|digits| (digits.start - start) as u32..(digits.end - start) as u32);
        let end = out.len();
        out.extend_from_slice(FRAME_TAIL);
        out.shrink_to_fit();
        let frame = Bytes::from(out);
        Entry { key, revision, bytes: frame.slice(start..end), indexed, frame, kind, digits }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl Index for Nothing {
        fn index(&self, _: &[u8]) -> Indexed {
            Indexed::default()
        }
    }

    #[test]
    fn a_frame_and_the_object_share_their_bytes() {
        let entry = Entry::new(
            "/registry/pods/a".into(),
            Revision(9),
            br#"{"metadata":{"name":"a"}}"#,
            &Nothing,
            EventType::Added,
        );
        assert_eq!(entry.bytes, r#"{"metadata":{"resourceVersion":"9","name":"a"}}"#);
        let frame = entry.frame(EventType::Added).unwrap();
        assert_eq!(
            frame,
            format!("{{\"type\":\"ADDED\",\"object\":{}}}\n", std::str::from_utf8(&entry.bytes).unwrap())
        );
        assert_eq!(frame.as_ptr() as usize + frame_head(EventType::Added).len(), entry.bytes.as_ptr() as usize);
        assert_eq!(entry.encode_frame(EventType::Added), frame);
    }

    #[test]
    fn an_object_can_be_moved_to_another_revision() {
        let entry = Entry::new(
            "/registry/pods/a".into(),
            Revision(9),
            br#"{"metadata":{"name":"a"}}"#,
            &Nothing,
            EventType::Added,
        );
        let moved = entry.at(Revision(1234), EventType::Deleted);
        assert_eq!(moved.bytes, r#"{"metadata":{"resourceVersion":"1234","name":"a"}}"#);
        assert_eq!(moved.at(Revision(9), EventType::Added).bytes, entry.bytes);
    }
}
