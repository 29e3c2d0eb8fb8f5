//! From the bytes that a source holds to one plain wasm component with a digest: joining, unpacking, bounding.

use std::{
    fmt,
    io::{self, Read},
    str::FromStr,
};

use sha2::{Digest as _, Sha256};

use dask_wasm_operator_core::{plugin::Program, spec::COMPONENT_BYTES};

/// SHA-256 of a plain, unpacked component.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    pub(crate) fn finish(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = ArtifactError;

    /// Reads 64 hexadecimal digits, with or without `sha256:` before them.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || ArtifactError::DigestSyntax { text: text.chars().take(80).collect() };
        let digits = text.strip_prefix("sha256:").unwrap_or(text).as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(malformed());
        }
        let mut digest = [0; 32];
        for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = str::from_utf8(pair).map_err(|_| malformed())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| malformed())?;
        }
        Ok(Self(digest))
    }
}

/// A plain component and its digest, by which its compiled form is kept. What is inside is not looked at yet.
#[derive(Debug)]
pub(crate) struct Artifact {
    pub(crate) wasm: Vec<u8>,
    pub(crate) digest: Digest,
}

impl Artifact {
    /// Joins and unpacks the parts, and checks that they are WebAssembly and have the digest.
    pub(crate) fn read(parts: &[&[u8]], limit: u64, expected: Option<Digest>) -> Result<Self, ArtifactError> {
        let wasm = joined(parts, limit)?;
        // Before the digest: what is no code may be a file that is nobody's business, and its digest lets one guess at it.
        if !wasm.starts_with(b"\0asm") {
            return Err(ArtifactError::NotWasm { looks_like: looks_like(&wasm) });
        }
        let digest = Digest::of(&wasm);
        match expected {
            Some(expected) if expected != digest => Err(ArtifactError::Digest { expected, found: digest }),
            _ => Ok(Self { wasm, digest }),
        }
    }
}

/// The digest of a program, whether it is a plugin or not: that of its component, joined and unpacked.
///
/// # Errors
/// When it can't be unpacked, or is larger than a component may be.
pub fn digest(program: &Program) -> Result<Digest, ArtifactError> {
    joined(&program.parts(), COMPONENT_BYTES).map(|bytes| Digest::of(&bytes))
}

/// Joins the parts in their order and unpacks gzip and zstd, told by their first bytes, so that a wrong ending of a key does no
/// harm.
fn joined(parts: &[&[u8]], limit: u64) -> Result<Vec<u8>, ArtifactError> {
    let packed = parts.concat();
    match packed.get(..4) {
        Some([0x1f, 0x8b, ..]) => unpack("gzip", flate2::read::MultiGzDecoder::new(&packed[..]), limit),
        Some([0x28, 0xb5, 0x2f, 0xfd]) => unpack_zstd(&packed, limit),
        _ if packed.len() as u64 > limit => Err(ArtifactError::TooLarge { limit }),
        _ => Ok(packed),
    }
}

/// What bytes that are no WebAssembly may be, without a word of them: they may be of a file that nobody is to read.
fn looks_like(bytes: &[u8]) -> &'static str {
    match bytes {
        [] => "it is empty",
        [b'<', ..] => "it looks like HTML or XML, as of a page that was downloaded in its place",
        _ if str::from_utf8(bytes).is_ok_and(|text| !text.contains('\0')) => "it looks like text",
        _ => "it has other first bytes",
    }
}

/// A frame may ask the decoder for a window as large as it likes; the content can't be larger than `limit`, so a larger window
/// is of no use to an honest one (1 KiB is the format's least).
fn unpack_zstd(packed: &[u8], limit: u64) -> Result<Vec<u8>, ArtifactError> {
    let window = limit.next_power_of_two().max(1 << 10);
    let decoder = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(packed, window)
        .map_err(|source| ArtifactError::Unpack { format: "zstd", source: io::Error::other(source.to_string()) })?;
    unpack("zstd", decoder, limit)
}

fn unpack(format: &'static str, decoder: impl Read, limit: u64) -> Result<Vec<u8>, ArtifactError> {
    let mut wasm = Vec::new();
    decoder.take(limit + 1).read_to_end(&mut wasm).map_err(|source| ArtifactError::Unpack { format, source })?;
    if wasm.len() as u64 > limit { Err(ArtifactError::TooLarge { limit }) } else { Ok(wasm) }
}

/// Why the bytes of a plugin can't be taken.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// More bytes than a component may have, packed or unpacked.
    #[error(
        "the component is larger than {limit} bytes unpacked; build it for size (opt-level \"s\", strip, wasm-opt)"
    )]
    TooLarge {
        /// Bytes.
        limit: u64,
    },
    /// The packed bytes are damaged.
    #[error(
        "the bytes begin like {format} but can't be unpacked: the upload is cut short, or parts are joined in a wrong order"
    )]
    Unpack {
        /// `gzip` or `zstd`.
        format: &'static str,
        /// What the decoder says.
        source: io::Error,
    },
    /// Something else than WebAssembly.
    #[error("this is not WebAssembly: {looks_like}; give the .wasm file itself, or packed by gzip or zstd")]
    NotWasm {
        /// What it may be.
        looks_like: &'static str,
    },
    /// The bytes are not those that the DaskPlugin promises.
    #[error(
        "the component has the digest {found}, but spec.source.sha256 is {expected}; set it to the digest of the unpacked .wasm file, or restore the file"
    )]
    Digest {
        /// From the DaskPlugin.
        expected: Digest,
        /// Of the bytes.
        found: Digest,
    },
    /// Something else stands where a digest should.
    #[error("spec.source.sha256 is {text:?}; it must be 64 hexadecimal digits, as `sha256sum plugin.wasm` prints them")]
    DigestSyntax {
        /// What stands there.
        text: String,
    },
}

impl ArtifactError {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "ComponentTooLarge",
            Self::Unpack { .. } => "UnpackFailed",
            Self::NotWasm { .. } => "NotWasm",
            Self::Digest { .. } => "DigestMismatch",
            Self::DigestSyntax { .. } => "DigestInvalid",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    const LIMIT: u64 = 1 << 20;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn plain_gzip_and_zstd_give_the_same_component() {
        let wasm = b"\0asm and so on".repeat(100);
        let zstd = compress_to_vec(&wasm[..], CompressionLevel::Fastest);
        for packed in [wasm.clone(), gzip(&wasm), zstd] {
            let artifact = Artifact::read(&[&packed], LIMIT, None).unwrap();
            assert_eq!(artifact.wasm, wasm);
            assert_eq!(artifact.digest, Digest::of(&wasm));
        }
    }

    #[test]
    fn parts_are_joined_before_they_are_unpacked() {
        let wasm = b"\0asm and so on".repeat(100);
        let packed = gzip(&wasm);
        let (head, tail) = packed.split_at(packed.len() / 2);
        assert_eq!(Artifact::read(&[head, tail], LIMIT, None).unwrap().wasm, wasm);
        assert_eq!(Artifact::read(&[tail, head], LIMIT, None).unwrap_err().kind(), "NotWasm");
        assert_eq!(Artifact::read(&[head], LIMIT, None).unwrap_err().kind(), "UnpackFailed");
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let bomb = vec![0; 64 << 20];
        let zstd = compress_to_vec(&bomb[..], CompressionLevel::Fastest);
        for packed in [bomb.clone(), gzip(&bomb), zstd] {
            assert_eq!(Artifact::read(&[&packed], LIMIT, None).unwrap_err().kind(), "ComponentTooLarge");
        }
    }

    #[test]
    fn a_zstd_frame_that_asks_for_a_huge_window_is_refused() {
        // Frame header: no content size, window descriptor 0xa0 = 2^30 bytes.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa0, 0x01, 0x00, 0x00];
        assert_eq!(Artifact::read(&[&frame], LIMIT, None).unwrap_err().kind(), "UnpackFailed");
    }

    #[test]
    fn a_digest_that_differs_is_refused_with_both() {
        assert_eq!(Digest::of(b"abc").to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let (expected, found) = (Digest::of(b"\0asm a"), Digest::of(b"\0asm b"));
        let parsed = format!("sha256:{expected}").parse().unwrap();
        assert!(Artifact::read(&[b"\0asm a"], LIMIT, Some(parsed)).is_ok());
        let error = Artifact::read(&[b"\0asm b"], LIMIT, Some(expected)).unwrap_err().to_string();
        assert!(error.contains(&expected.to_string()) && error.contains(&found.to_string()), "{error}");
    }

    #[test]
    fn of_what_is_no_code_neither_content_nor_digest_is_told() {
        let secret = b"eyJhbGciOiJSUzI1NiIs";
        let expected = Some(Digest::of(b"\0asm"));
        for (bytes, says) in [
            (&b""[..], "it is empty"),
            (b"<html>404</html>", "HTML"),
            (secret, "text"),
            (b"\xff\xfe", "other first bytes"),
            (b"\0asn", "other first bytes"),
        ] {
            for packed in [bytes.to_vec(), gzip(bytes)] {
                let error = Artifact::read(&[&packed], LIMIT, expected).unwrap_err();
                assert_eq!(error.kind(), "NotWasm");
                let message = error.to_string();
                assert!(message.contains(says) && !message.contains("eyJ") && !message.contains("404"), "{message}");
                assert!(!message.contains(&Digest::of(bytes).to_string()), "{message}");
            }
        }
    }

    #[test]
    fn a_digest_must_be_64_hexadecimal_digits() {
        for text in ["", "abc", "sha512:ba78", &"g".repeat(64), &"é".repeat(32), &"+1".repeat(32)] {
            assert_eq!(text.parse::<Digest>().unwrap_err().kind(), "DigestInvalid", "{text}");
        }
    }
}
