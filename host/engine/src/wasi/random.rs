//! Random numbers that are none: a sequence that its seed decides.

use sha2::{Digest as _, Sha256};

/// SHA-256 of seed and counter, block by block: no pattern that a hash table could suffer from, and nothing that a plugin could
/// learn about the host. Not for secrets, of which a plugin has none.
pub(crate) struct Random {
    seed: Sha256,
    counter: u64,
}

impl Random {
    pub(crate) fn new(seed: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        for part in seed {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self { seed: hasher, counter: 0 }
    }

    pub(super) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length.next_multiple_of(32));
        while bytes.len() < length {
            bytes.extend(self.block());
        }
        bytes.truncate(length);
        bytes
    }

    pub(super) fn next(&mut self) -> u64 {
        let mut number = [0; 8];
        number.copy_from_slice(&self.block()[..8]);
        u64::from_le_bytes(number)
    }

    fn block(&mut self) -> [u8; 32] {
        self.counter += 1;
        self.seed.clone().chain_update(self.counter.to_le_bytes()).finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_decides_the_sequence() {
        let sequence = |seed: &[&[u8]]| {
            let mut random = Random::new(seed);
            (random.bytes(100), random.next(), random.next())
        };
        let first = sequence(&[b"plugin", b"subject"]);
        assert_eq!(first, sequence(&[b"plugin", b"subject"]));
        assert_ne!(first, sequence(&[b"plugin", b"another"]));
        assert_ne!(first, sequence(&[b"plugins", b"ubject"]));
        assert_ne!(first.1, first.2);
        assert_eq!(first.0.len(), 100);
    }
}
