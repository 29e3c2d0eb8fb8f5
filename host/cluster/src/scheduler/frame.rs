//! Dask's messages as bytes, without I/O.
//!
//! ```text
//! u64 L                 bytes that follow in one piece: the two fields below and at least the first frames
//! u64 n                 number of frames
//! u64 length[0..n]
//! frame[0] … frame[n-1]
//! ```
//!
//! Numbers are little-endian. The first frame is one msgpack value; the others carry pickled or otherwise serialised objects
//! that the first refers to. They are skipped, never looked into.

use std::ops::Range;

use thiserror::Error;

/// The most frames that are taken in a message. Answers to what we ask have one.
pub(super) const MAX_FRAMES: u64 = 4096;

/// Size of a number on the wire, in bytes.
pub(super) const NUMBER: usize = size_of::<u64>();

/// Why bytes are not a message.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum FrameError {
    /// They begin as those of something well known do.
    #[error("it speaks {0}, not Dask's protocol")]
    OtherProtocol(&'static str),
    /// Nothing that long is taken.
    #[error("it announces a message of {announced} bytes, and at most {longest} are taken")]
    TooLong {
        /// In bytes.
        announced: u64,
        /// In bytes.
        longest: usize,
    },
    /// No frame at all, or too many.
    #[error("it announces a message of {0} frames, and 1 to {MAX_FRAMES} are taken")]
    Frames(u64),
    /// The frames do not fit into the message, or do not fill it.
    #[error("it announces a message whose frames have another length than the whole")]
    Contradiction,
}

/// How far a message is received.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// At least so many bytes are still to come, and none of them belongs to the next message.
    Missing(usize),
    /// All is there; the first frame lies here.
    Complete(Range<usize>),
}

/// A message of one frame.
pub(super) fn encode(frame: &[u8]) -> Vec<u8> {
    let numbers = [2 * NUMBER as u64 + frame.len() as u64, 1, frame.len() as u64];
    let mut message: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    message.extend_from_slice(frame);
    message
}

/// Looks at the beginning of a message, however much of it is there.
///
/// # Errors
/// When it can't become a message that is taken: of at most `longest` bytes.
pub(super) fn decode(received: &[u8], longest: usize) -> Result<Progress, FrameError> {
    let size = |announced| match usize::try_from(announced) {
        Ok(size) if size <= longest => Ok(size),
        Ok(_) | Err(_) => Err(FrameError::TooLong { announced, longest }),
    };
    let Some(length) = number(received, 0) else {
        return Ok(Progress::Missing(NUMBER - received.len()));
    };
    let piece = match size(length) {
        Ok(size) => NUMBER + size,
        Err(error) => return Err(other_protocol(received).map_or(error, FrameError::OtherProtocol)),
    };
    if received.len() < piece {
        return Ok(Progress::Missing(piece - received.len()));
    }
    let count = number(&received[..piece], NUMBER).ok_or(FrameError::Contradiction)?;
    if count == 0 || count > MAX_FRAMES {
        return Err(FrameError::Frames(count));
    }
    let first = 2 * NUMBER + NUMBER * size(count)?;
    let lengths = received[..piece].get(2 * NUMBER..first).ok_or(FrameError::Contradiction)?;
    let mut frames = lengths.chunks_exact(NUMBER).filter_map(|bytes| number(bytes, 0));
    let first_length = frames.next().unwrap_or(0);
    let total = frames.try_fold(first_length, u64::checked_add).unwrap_or(u64::MAX);
    let end = first + size(total)?;
    if end < piece {
        return Err(FrameError::Contradiction);
    }
    if received.len() < end {
        return Ok(Progress::Missing(end - received.len()));
    }
    Ok(Progress::Complete(first..first + size(first_length)?))
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + NUMBER)?.try_into().ok().map(u64::from_le_bytes)
}

/// What is usually found behind a wrong port.
fn other_protocol(received: &[u8]) -> Option<&'static str> {
    match received {
        [b'H', b'T', b'T', b'P', b'/', ..] => Some("HTTP"),
        // A record of type alert or handshake, of any version.
        [0x15 | 0x16, 0x03, ..] => Some("TLS"),
        [b'S', b'S', b'H', b'-', ..] => Some("SSH"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use dask_wasm_operator_test_properties::cases;
    use proptest::prelude::*;

    use super::{super::answer::LONG, *};

    fn decode(received: &[u8]) -> Result<Progress, FrameError> {
        super::decode(received, LONG)
    }

    fn too_long(announced: u64) -> FrameError {
        FrameError::TooLong { announced, longest: LONG }
    }

    /// A message whose announced piece covers the first `covered` frames.
    fn message(frames: &[Vec<u8>], covered: usize) -> Vec<u8> {
        let held: usize = frames[..covered].iter().map(Vec::len).sum();
        let mut numbers = vec![(NUMBER * (1 + frames.len()) + held) as u64, frames.len() as u64];
        numbers.extend(frames.iter().map(|frame| frame.len() as u64));
        numbers.iter().flat_map(|number| number.to_le_bytes()).chain(frames.concat()).collect()
    }

    fn numbers(numbers: &[u64]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    #[test]
    fn what_is_no_message_is_refused_with_its_reason() {
        for (received, error) in [
            (b"HTTP/1.1 400 Bad Request".to_vec(), FrameError::OtherProtocol("HTTP")),
            (b"\x15\x03\x03\x00\x02\x02\x32\x00".to_vec(), FrameError::OtherProtocol("TLS")),
            (b"SSH-2.0-OpenSSH".to_vec(), FrameError::OtherProtocol("SSH")),
            (numbers(&[1 << 30]), too_long(1 << 30)),
            (numbers(&[u64::MAX]), too_long(u64::MAX)),
            (numbers(&[0]), FrameError::Contradiction),
            (numbers(&[8, 0]), FrameError::Frames(0)),
            (numbers(&[16, MAX_FRAMES + 1, 0]), FrameError::Frames(MAX_FRAMES + 1)),
            (numbers(&[16, u64::MAX, 0]), FrameError::Frames(u64::MAX)),
            (numbers(&[16, 2, 0]), FrameError::Contradiction),
            (numbers(&[24, 2, u64::MAX, 2]), too_long(u64::MAX)),
            (numbers(&[24, 2, 1 << 29, 1 << 29]), too_long(1 << 30)),
            (numbers(&[24, 1, 0, 0]), FrameError::Contradiction),
        ] {
            assert_eq!(decode(&received), Err(error), "{received:?}");
        }
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn a_frame_survives(frame: Vec<u8>) {
            let message = encode(&frame);
            let Ok(Progress::Complete(range)) = decode(&message) else {
                return Err(TestCaseError::fail("not complete"));
            };
            prop_assert_eq!(&message[range], &frame[..]);
        }

        #[test]
        fn every_beginning_asks_for_no_more_than_is_left(
            frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 1..6),
            covered in 0..6_usize,
        ) {
            let message = message(&frames, covered.min(frames.len()));
            for end in 0..message.len() {
                let Ok(Progress::Missing(count)) = decode(&message[..end]) else {
                    return Err(TestCaseError::fail(format!("{end} of {} bytes", message.len())));
                };
                prop_assert!(count > 0 && end + count <= message.len());
            }
            let first = message.len() - frames.concat().len();
            prop_assert_eq!(decode(&message), Ok(Progress::Complete(first..first + frames[0].len())));
        }

        #[test]
        fn no_bytes_harm(lie: [u8; 8], at in 0..4_usize, frame in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut received = encode(&frame);
            received.resize(received.len().max(40), 0);
            received[NUMBER * at..NUMBER * (at + 1)].copy_from_slice(&lie);
            if let Ok(Progress::Complete(range)) = decode(&received) {
                prop_assert!(range.end <= received.len());
            }
        }
    }
}
