//! The signature header of callbacks. A header is verified only if it has the HMAC of the message.

use billing_service::service::signature::{Signature, sign};
use chrono::DateTime;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

const SECRET: &str = "a secret of the fuzz targets";
/// The clock of the server, in seconds since 1970.
const NOW: i64 = 1_700_000_000;

/// The input is the header, a line break, and the message.
pub fn run(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (header, message) = data.split_at(at);
    let Ok(header) = std::str::from_utf8(header) else { return };
    let now = DateTime::from_timestamp(NOW, 0).expect("a time");
    let signed = sign(SECRET, now, message);
    let parsed = Signature::parse(&signed, now).expect("the form of a signature");
    parsed.verify([SECRET], message).expect("the signature of the message");
    assert!(parsed.verify([""], message).is_err(), "an empty secret matches");
    let Ok(parsed) = Signature::parse(header, now) else { return };
    if parsed.verify(["another secret", SECRET], message).is_ok() {
        assert!(has_hmac(header, message), "{header:?} was verified");
    }
}

/// Whether a part of the header is the HMAC of its time and the message.
fn has_hmac(header: &str, message: &[u8]) -> bool {
    let parts = || header.split(',').filter_map(|part| part.trim().split_once('='));
    let time = parts().find(|(name, _)| *name == "t").map_or("", |(_, time)| time);
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("a key of any length");
    mac.update(&[time.as_bytes(), b".", message].concat());
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    parts().any(|(name, value)| name == "v1" && value.eq_ignore_ascii_case(&hex))
}
