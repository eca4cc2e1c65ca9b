//! Frames that go out together.

use bytes::{Bytes, BytesMut};

/// A single frame is not copied.
#[derive(Default)]
pub struct Piece {
    first: Option<Bytes>,
    all: BytesMut,
    pub length: usize,
}

impl Piece {
    pub fn extend(&mut self, frame: Option<Bytes>) {
        let Some(frame) = frame else { return };
        self.length += frame.len();
        match self.first.take() {
            None if self.all.is_empty() => self.first = Some(frame),
            first => {
                first.iter().for_each(|first| self.all.extend_from_slice(first));
                self.all.extend_from_slice(&frame);
            }
        }
    }

    pub fn whole(self) -> Option<Bytes> {
        self.first.or_else(|| (!self.all.is_empty()).then(|| self.all.freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_keep_their_order_and_one_alone_its_bytes() {
        let piece = |frames: &[&Bytes]| {
            let mut piece = Piece::default();
            frames.iter().for_each(|frame| piece.extend(Some((*frame).clone())));
            piece.extend(None);
            (piece.length, piece.whole())
        };
        let (one, two) = (Bytes::from_static(b"one\n"), Bytes::from_static(b"two\n"));
        assert_eq!(piece(&[]), (0, None));
        assert_eq!(piece(&[&one]).1.map(|whole| whole.as_ptr()), Some(one.as_ptr()));
        assert_eq!(piece(&[&one, &two, &one]), (12, Some("one\ntwo\none\n".into())));
    }
}
