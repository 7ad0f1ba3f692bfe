//! Previews: a change that a call would make, told without making it.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use super::ids::UserId;

/// A change that was not made, for want of the consent of its caller. It has the contents of the audit event that the
/// change would leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    pub rpc: Cow<'static, str>,
    /// `None` if the change belongs to no user, such as a quota of an API key.
    pub user: Option<UserId>,
    /// The state before the change as a JSON object; `None` if there is none.
    pub before: Option<String>,
    /// The state after it; `None` if there will be none.
    pub after: Option<String>,
    pub reason: String,
    /// A text of the rows that the preview shows beside the change. It is no part of the event.
    pub beside: Option<String>,
}

impl Preview {
    /// The fingerprint of the change. Two changes with other states, of another user, for another reason or beside
    /// other rows have another one.
    pub fn fingerprint(&self) -> Fingerprint {
        let user = self.user.as_ref().map(UserId::as_str);
        let parts = [Some(&*self.rpc), user, self.before.as_deref(), self.after.as_deref(), Some(&*self.reason)];
        let parts = parts.into_iter().chain([self.beside.as_deref()]);
        let mut hash = Sha256::new();
        for part in parts {
            // Lengths keep two neighbours apart, and an absent part from an empty one.
            hash.update([u8::from(part.is_some())]);
            hash.update(part.unwrap_or_default().len().to_be_bytes());
            hash.update(part.unwrap_or_default());
        }
        Fingerprint(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// The fingerprint of a change. A caller who has seen a preview sends it with the consent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// The fingerprint that a caller sent. One of another form is that of no change.
    pub fn sent(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_a_change_is_in_its_fingerprint() {
        let change = Preview {
            rpc: "AdjustBalance".into(),
            user: Some(UserId::from_stored("u")),
            before: Some("ab".into()),
            after: Some("c".into()),
            reason: "why".into(),
            beside: None,
        };
        let others = [
            Preview { rpc: "RefundCharge".into(), ..change.clone() },
            Preview { user: None, ..change.clone() },
            Preview { before: Some("a".into()), after: Some("bc".into()), ..change.clone() },
            Preview { after: None, ..change.clone() },
            Preview { after: Some(String::new()), ..change.clone() },
            Preview { reason: "because".into(), ..change.clone() },
            Preview { beside: Some("d".into()), ..change.clone() },
        ];
        assert_eq!(change.fingerprint(), change.clone().fingerprint());
        assert_eq!(change.fingerprint(), Fingerprint::sent(change.fingerprint().as_str()));
        for (index, other) in others.iter().enumerate() {
            assert_ne!(change.fingerprint(), other.fingerprint());
            assert!(others[..index].iter().all(|earlier| earlier.fingerprint() != other.fingerprint()));
        }
    }
}
