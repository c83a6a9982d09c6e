//! The secret of a trace. Its hash stands in the object, where anyone may read it who may read PacketTraces; agents give
//! records to whoever knows the secret itself.

use std::fmt;

use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};

/// Bytes of a secret.
const LENGTH: usize = 32;

/// Known to the client that made the trace. Never printed, logged or written.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; LENGTH]);

impl Secret {
    /// A new one.
    ///
    /// # Errors
    /// The kernel gives no random bytes.
    pub fn new() -> Result<Self, &'static str> {
        let mut bytes = [0; LENGTH];
        SystemRandom::new().fill(&mut bytes).map_err(|_| "the kernel gives no random bytes")?;
        Ok(Self(bytes))
    }

    /// As a request carries it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Of this secret.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(..)")
    }
}

/// SHA-256 of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    fn of(secret: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, secret).as_ref());
        Self(hash)
    }

    /// From the object's hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 || !digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(hash))
    }

    /// Whether these bytes are the secret. Hashes are compared, so that the time this takes tells nothing of the secret.
    #[must_use]
    pub fn is_of(&self, secret: &[u8]) -> bool {
        Self::of(secret) == *self
    }
}

/// Lower-case hexadecimal.
impl fmt::Display for SecretHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_itself_fits_its_hash_and_it_is_never_printed() {
        let (secret, other) = (Secret::new().unwrap(), Secret::new().unwrap());
        let hash = SecretHash::parse(&secret.hash().to_string()).unwrap();
        assert!(hash.is_of(secret.bytes()));
        assert!(!hash.is_of(other.bytes()));
        assert!(!hash.is_of(hash.to_string().as_bytes()), "the hash is public");
        assert!(!hash.is_of(&[]));
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }

    #[test]
    fn a_hash_is_64_lower_case_digits() {
        // Of "abc", FIPS 180-2, B.1.
        let hash = SecretHash::of(b"abc").to_string();
        assert_eq!(hash, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(SecretHash::parse(&hash).is_some());
        for wrong in ["", "ba", &hash.to_uppercase(), &hash[1..], &format!("{hash}0"), &"é".repeat(32)] {
            assert_eq!(SecretHash::parse(wrong), None, "{wrong}");
        }
    }
}
