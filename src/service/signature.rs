//! Signatures of callbacks: `X-Billing-Signature: t=<unix seconds>,v1=<hex>`.
//!
//! v1 is an HMAC-SHA256 under a shared secret. Its input is the time as written in the header, a
//! full stop, and the bytes of the message as sent. Over REST the message is the body. Over gRPC
//! the message is the encoded message without its frame, and the header is metadata.

use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};

/// Name of the header, and key of the metadata.
pub const HEADER: &str = "x-billing-signature";
/// Largest difference between the time of a signature and the server's clock, in seconds. An older
/// signature may be a replay.
pub const TOLERANCE_SECONDS: u64 = 300;

/// Most signatures in one header. A sender that changes its secret signs with the new and the old
/// one.
const MAX_SIGNATURES: usize = 4;
/// Longest header in bytes. A header with [`MAX_SIGNATURES`] signatures is shorter.
const MAX_HEADER: usize = 1_024;
const DIGEST_BYTES: usize = 32;

/// The header value for a message that is signed at the time `at`.
pub fn sign(secret: &str, at: DateTime<Utc>, message: &[u8]) -> String {
    let time = at.timestamp().to_string();
    let digest = digest(secret.as_bytes(), time.as_bytes(), message);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={time},v1={hex}")
}

/// A parsed header.
#[derive(Debug)]
pub struct Signature<'h> {
    /// The time as written, because the HMAC covers the text.
    time: &'h str,
    digests: Vec<[u8; DIGEST_BYTES]>,
}

impl<'h> Signature<'h> {
    /// Parses a header, and compares its time with `now`. [`Self::verify`] checks the digests.
    ///
    /// # Errors
    /// The defect of the header, as a message for the caller.
    pub fn parse(header: &'h str, now: DateTime<Utc>) -> Result<Self, &'static str> {
        let signature = Self::parts(header).ok_or("the signature must be in the form t=...,v1=...")?;
        let seconds: i64 =
            signature.time.parse().map_err(|_| "the time of the signature must be a number of seconds since 1970")?;
        if now.timestamp().abs_diff(seconds) > TOLERANCE_SECONDS {
            return Err(
                "the time of the signature is more than 300 seconds from the server's; check the clock and sign again",
            );
        }
        Ok(signature)
    }

    /// The time and the digests. Parts of other kinds are ignored.
    fn parts(header: &'h str) -> Option<Self> {
        let (mut time, mut digests) = (None, Vec::new());
        if header.len() > MAX_HEADER {
            return None;
        }
        for part in header.split(',') {
            match part.trim().split_once('=')? {
                // With two times, the signed one is ambiguous.
                ("t", _) if time.is_some() => return None,
                ("t", value) => time = Some(value),
                ("v1", value) => digests.push(unhex(value)?),
                _ => {}
            }
        }
        let usable = (1..=MAX_SIGNATURES).contains(&digests.len());
        time.filter(|_| usable).map(|time| Self { time, digests })
    }

    /// Checks that the message was signed with one of the secrets, in constant time. An empty secret
    /// never matches.
    ///
    /// # Errors
    /// No digest matches; the text is a message for the caller.
    pub fn verify<'s>(&self, secrets: impl IntoIterator<Item = &'s str>, message: &[u8]) -> Result<(), &'static str> {
        let mut known = Choice::from(0);
        for secret in secrets.into_iter().filter(|secret| !secret.is_empty()) {
            let expected = digest(secret.as_bytes(), self.time.as_bytes(), message);
            for digest in &self.digests {
                known |= expected.ct_eq(digest);
            }
        }
        if known.into() { Ok(()) } else { Err("the signature does not match") }
    }
}

fn unhex(text: &str) -> Option<[u8; DIGEST_BYTES]> {
    let mut bytes = [0; DIGEST_BYTES];
    if text.len() != 2 * DIGEST_BYTES || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}

fn digest(secret: &[u8], time: &[u8], message: &[u8]) -> [u8; DIGEST_BYTES] {
    // An HMAC key may have any length, so the zero digest is never returned.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { return [0; DIGEST_BYTES] };
    mac.update(time);
    mac.update(b".");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "a secret of some length";

    fn verify<'s>(
        header: &str,
        secrets: impl IntoIterator<Item = &'s str>,
        now: DateTime<Utc>,
        message: &[u8],
    ) -> Result<(), &'static str> {
        Signature::parse(header, now)?.verify(secrets, message)
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    /// Made with `printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac 'a secret of some length'`.
    #[test]
    fn a_signature_is_the_hmac_that_openssl_makes() {
        let header = sign(SECRET, at(1_700_000_000), br#"{"a":1}"#);
        assert_eq!(header, "t=1700000000,v1=e09db3ce6e6e8f9b633a62851e5074a9e9148ac19b1c0e1a8f7c352380be630b");
    }

    #[test]
    fn a_message_that_is_signed_with_either_secret_is_verified() {
        let header = sign(SECRET, at(1_000), b"message");
        assert_eq!(verify(&header, [SECRET], at(1_000), b"message"), Ok(()));
        assert_eq!(verify(&header, ["another", SECRET], at(1_000), b"message"), Ok(()));
        assert_eq!(verify(&header.replace(",v1", ", v0=zz, v1"), [SECRET], at(1_000), b"message"), Ok(()));
        let both = format!("{header},{}", &sign("another", at(1_000), b"message")[7..]);
        assert_eq!(verify(&both, ["another"], at(1_000), b"message"), Ok(()));
    }

    #[test]
    fn any_other_message_secret_or_time_is_refused() {
        let header = sign(SECRET, at(1_000), b"message");
        let refused = "the signature does not match";
        assert_eq!(verify(&header, [SECRET], at(1_000), b"massage"), Err(refused));
        assert_eq!(verify(&header, ["another"], at(1_000), b"message"), Err(refused));
        assert_eq!(verify(&header, [], at(1_000), b"message"), Err(refused));
        assert_eq!(verify(&header.replace("t=1000", "t=1001"), [SECRET], at(1_000), b"message"), Err(refused));
    }

    #[test]
    fn an_empty_secret_verifies_nothing() {
        let header = sign("", at(1_000), b"message");
        assert!(verify(&header, [""], at(1_000), b"message").is_err());
    }

    #[test]
    fn a_signature_holds_for_five_minutes_on_either_side() {
        let header = sign(SECRET, at(10_000), b"message");
        for good in [9_700, 10_300] {
            assert_eq!(verify(&header, [SECRET], at(good), b"message"), Ok(()), "{good}");
        }
        for bad in [0, 9_699, 10_301] {
            assert!(verify(&header, [SECRET], at(bad), b"message").is_err(), "{bad}");
        }
    }

    #[test]
    fn a_malformed_header_is_refused() {
        let good = sign(SECRET, at(1_000), b"");
        let [time, v1] = good.split(',').collect::<Vec<_>>()[..] else { panic!("two parts") };
        let many = format!("{time}{}", format!(",{v1}").repeat(5));
        for bad in ["", "t=1000", v1, "t=,v1=", "t=1000,v1=12", &format!("{good},{time}"), &many, &v1[3..]] {
            assert!(verify(bad, [SECRET], at(1_000), b"").is_err(), "{bad}");
        }
        let overflow = good.replace("t=1000", "t=99999999999999999999");
        assert!(verify(&overflow, [SECRET], at(1_000), b"").is_err());
    }
}
