//! Sessions of browsers. A session is in its cookie alone, sealed, so that any server with the same key knows it and
//! no database does. It holds the token of the user, which every request verifies again: a session ends when its
//! token does. The seal also binds the forms of a page to the session.

mod seal;

use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use self::seal::Seal;

/// Browsers keep cookies of 4,096 bytes, with their name and attributes.
const MAX_COOKIE: usize = 3_900;
/// The longest token of a session, in bytes.
pub const MAX_TOKEN: usize = 2_800;
const VERSION: u8 = 1;
/// A session is sealed again when its last seal is older than this part of the idle time.
const RENEWALS: i32 = 10;

/// A session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    nonce: [u8; 16],
    begun: DateTime<Utc>,
    seen: DateTime<Utc>,
    /// `None` before the sign-in, and where a gateway or nobody names the user.
    pub token: Option<Arc<str>>,
}

/// Seals and opens sessions.
pub struct Sessions {
    seal: Seal,
    form_key: [u8; 32],
    idle: TimeDelta,
    max_age: TimeDelta,
}

impl Sessions {
    /// Without a key, each process has sessions of its own. Sessions of another purpose are unknown.
    ///
    /// # Errors
    /// A time that is out of range, or a key that is not usable.
    pub fn new(key: Option<&str>, purpose: &str, idle: Duration, max_age: Duration) -> anyhow::Result<Self> {
        let key = match key {
            Some(key) => key.as_bytes().to_vec(),
            None => seal::random::<32>()?.to_vec(),
        };
        Ok(Self {
            seal: Seal::new(&derived(&key, "session", purpose)?)?,
            form_key: derived(&key, "form", purpose)?,
            idle: TimeDelta::from_std(idle)?,
            max_age: TimeDelta::from_std(max_age)?,
        })
    }

    /// A new session, with the token of its user.
    ///
    /// # Errors
    /// The machine has no random numbers.
    pub fn begin(&self, now: DateTime<Utc>, token: Option<Arc<str>>) -> anyhow::Result<Session> {
        Ok(Session { nonce: seal::random()?, begun: now, seen: now, token })
    }

    /// The session of a cookie; `None` for one that has ended or was not sealed by this key.
    pub fn open(&self, cookie: &str, now: DateTime<Utc>) -> Option<Session> {
        if cookie.len() > MAX_COOKIE {
            return None;
        }
        let session = Session::read(&self.seal.open(BASE64_URL_SAFE_NO_PAD.decode(cookie).ok()?)?)?;
        let is_live = now < session.seen + self.idle && now < session.begun + self.max_age;
        is_live.then_some(session)
    }

    /// The cookie of a session that is used now.
    ///
    /// # Errors
    /// The token is too long.
    pub fn cookie(&self, session: &Session, now: DateTime<Utc>) -> anyhow::Result<String> {
        let sealed = self.seal.seal(Session { seen: now, ..session.clone() }.written())?;
        let cookie = BASE64_URL_SAFE_NO_PAD.encode(sealed);
        anyhow::ensure!(cookie.len() <= MAX_COOKIE, "the token is too long for a session");
        Ok(cookie)
    }

    /// Whether the cookie of a session is due for a new time of use.
    pub fn is_due(&self, session: &Session, now: DateTime<Utc>) -> bool {
        now >= session.seen + self.idle / RENEWALS
    }

    /// The seconds for which a browser keeps the cookie of a session.
    pub fn seconds_left(&self, session: &Session, now: DateTime<Utc>) -> i64 {
        (session.begun + self.max_age - now).min(self.idle).num_seconds().max(0)
    }

    /// The proof of a form: it was made in this session, for this user. Forms that concern no account have no user.
    pub fn form_token(&self, session: &Session, user: &str) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(mac(&self.form_key, &[&session.nonce, user.as_bytes()]))
    }

    /// Compares in constant time.
    pub fn is_form_token(&self, session: &Session, user: &str, given: &str) -> bool {
        self.form_token(session, user).as_bytes().ct_eq(given.as_bytes()).into()
    }
}

impl Session {
    fn written(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend(self.nonce);
        bytes.extend(self.begun.timestamp().to_be_bytes());
        bytes.extend(self.seen.timestamp().to_be_bytes());
        bytes.extend(self.token.as_deref().unwrap_or_default().as_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (&version, rest) = bytes.split_first()?;
        let (nonce, rest) = rest.split_first_chunk::<16>()?;
        let (begun, rest) = rest.split_first_chunk::<8>()?;
        let (seen, token) = rest.split_first_chunk::<8>()?;
        let token = Some(str::from_utf8(token).ok()?).filter(|token| !token.is_empty());
        (version == VERSION).then_some(())?;
        Some(Self {
            nonce: *nonce,
            begun: DateTime::from_timestamp_secs(i64::from_be_bytes(*begun))?,
            seen: DateTime::from_timestamp_secs(i64::from_be_bytes(*seen))?,
            token: token.map(Arc::from),
        })
    }
}

fn derived(key: &[u8], part: &str, purpose: &str) -> anyhow::Result<[u8; 32]> {
    anyhow::ensure!(!key.is_empty(), "the key of sessions is empty");
    Ok(mac(key, &[b"billing console ", part.as_bytes(), b" ", purpose.as_bytes()]))
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    // HMAC takes a key of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; 32] };
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "a key of at least thirty-two characters";

    fn sessions(key: Option<&str>) -> Sessions {
        Sessions::new(key, "users", Duration::from_secs(60), Duration::from_secs(600)).unwrap()
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_secs(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn a_session_is_known_to_every_process_with_its_key_and_to_no_other() {
        let session = sessions(Some(KEY)).begin(at(0), Some("a.b.c".into())).unwrap();
        let cookie = sessions(Some(KEY)).cookie(&session, at(0)).unwrap();
        assert_eq!(sessions(Some(KEY)).open(&cookie, at(1)), Some(session));
        assert_eq!(sessions(Some("another key of at least thirty-two characters")).open(&cookie, at(1)), None);
        assert_eq!(sessions(None).open(&cookie, at(1)), None);
        let operators =
            Sessions::new(Some(KEY), "operators", Duration::from_secs(60), Duration::from_secs(600)).unwrap();
        assert_eq!(operators.open(&cookie, at(1)), None);
        assert!(!cookie.contains("a.b.c") && !BASE64_URL_SAFE_NO_PAD.decode(&cookie).unwrap().ends_with(b"a.b.c"));
    }

    #[test]
    fn a_changed_cookie_is_no_session() {
        let sessions = sessions(Some(KEY));
        let cookie = sessions.cookie(&sessions.begin(at(0), None).unwrap(), at(0)).unwrap();
        for index in 0..cookie.len() {
            let mut changed = cookie.clone().into_bytes();
            changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
            assert_eq!(sessions.open(str::from_utf8(&changed).unwrap(), at(1)), None, "{index}");
        }
        for other in ["", "x", "!!", &"A".repeat(5_000)] {
            assert_eq!(sessions.open(other, at(1)), None, "{other}");
        }
    }

    #[test]
    fn a_session_ends_when_it_is_idle_and_when_it_is_old() {
        let sessions = sessions(Some(KEY));
        let session = sessions.begin(at(0), None).unwrap();
        let is_live = |seen, now| sessions.open(&sessions.cookie(&session, at(seen)).unwrap(), at(now)).is_some();
        assert!(is_live(0, 59) && !is_live(0, 60));
        assert!(is_live(590, 599) && !is_live(590, 600));
        assert!(!sessions.is_due(&session, at(5)) && sessions.is_due(&session, at(6)));
    }

    #[test]
    fn a_form_belongs_to_its_session_and_its_user() {
        let sessions = sessions(Some(KEY));
        let (one, other) = (sessions.begin(at(0), None).unwrap(), sessions.begin(at(0), None).unwrap());
        let token = sessions.form_token(&one, "alice");
        assert!(sessions.is_form_token(&one, "alice", &token));
        for (session, user, given) in
            [(&one, "bob", &*token), (&one, "", &token), (&other, "alice", &token), (&one, "alice", "")]
        {
            assert!(!sessions.is_form_token(session, user, given), "{user} {given}");
        }
    }

    #[test]
    fn the_longest_token_fits_a_cookie() {
        let sessions = sessions(Some(KEY));
        let longest = sessions.begin(at(0), Some("x".repeat(MAX_TOKEN).into())).unwrap();
        assert!(sessions.cookie(&longest, at(0)).unwrap().len() <= MAX_COOKIE);
    }
}
