//! The lines of a stream of bytes, of which each is an event. Pure.

use bytes::{Bytes, BytesMut};

/// The longest line: ten times what etcd stores of an object. What sends a longer one sends no events.
pub(super) const LONGEST: usize = 16 << 20;

/// Bytes that came, and are not a whole line yet.
#[derive(Debug, Default)]
pub(super) struct Lines {
    buffer: BytesMut,
    /// How much of it is known to hold no end of a line, so that no byte is looked at twice.
    searched: usize,
}

/// A line is longer than [`LONGEST`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Lines {
    /// Takes what came, in whatever pieces.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line that is not blank.
    ///
    /// # Errors
    /// When none came for too long.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, TooLong> {
        loop {
            let rest = self.buffer.get(self.searched..).unwrap_or_default();
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                self.searched = self.buffer.len();
                return if self.searched > LONGEST { Err(TooLong) } else { Ok(None) };
            };
            let line = self.buffer.split_to(self.searched + end + 1).freeze();
            self.searched = 0;
            if self.buffer.is_empty() {
                // One long line must not keep its memory for as long as the watch lasts.
                self.buffer = BytesMut::new();
            }
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
    }

    /// What is left when nothing more comes: a line whose end is missing.
    pub(super) fn rest(self) -> Option<Bytes> {
        Some(self.buffer.freeze()).filter(|rest| !rest.trim_ascii().is_empty())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(pieces: &[&[u8]]) -> (Vec<Bytes>, Option<Bytes>) {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for piece in pieces {
            lines.push(piece);
            while let Some(line) = lines.next().unwrap() {
                found.push(line);
            }
        }
        (found, lines.rest())
    }

    #[test]
    fn blank_lines_are_none_and_the_rest_is_told_apart() {
        let (lines, rest) = all(&[b"a\n\n \r\n\xc3", b"\xa4\r\nb"]);
        assert_eq!(lines, [&b"a\n"[..], b"\xc3\xa4\r\n"]);
        assert_eq!(rest.unwrap(), &b"b"[..]);
        assert_eq!(all(&[b"a\n", b" \n", b" "]).1, None);
    }

    #[test]
    fn a_line_without_end_is_given_up_and_memory_with_it() {
        let mut lines = Lines::default();
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..16 {
            lines.push(&piece);
            assert_eq!(lines.next(), Ok(None));
        }
        lines.push(b"x");
        assert_eq!(lines.next(), Err(TooLong));
    }

    proptest! {
        #[test]
        fn lines_are_the_same_however_they_are_cut(bytes in prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200), cuts in prop::collection::vec(1_usize..9, 1..40)) {
            let (mut pieces, mut left, mut cuts) = (Vec::new(), &bytes[..], cuts.into_iter().cycle());
            while !left.is_empty() {
                let (piece, rest) = left.split_at(cuts.next().unwrap_or(1).min(left.len()));
                pieces.push(piece);
                left = rest;
            }
            prop_assert_eq!(all(&pieces), all(&[&bytes]));
        }
    }
}
