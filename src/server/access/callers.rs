//! The callers of the internal port, and their proofs: a bearer token, or a client certificate.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{Extensions, HeaderMap, HeaderName, header::AUTHORIZATION};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::refusals::{Reason, Refusals, Refused, UNKNOWN};
use crate::{
    biz::limits::bursts::Bursts,
    config::{CallerConfig, Role, Server},
    service::origin::{Caller, Forwarding, PeerCertificate, network},
};

/// The name of the caller whose token is one of `server.grpc.internal_tokens`.
const INTERNAL_TOKENS: &str = "internal_tokens";
/// The time in which the wrong tokens of an address come back.
const WRONG_TOKENS_PERIOD: Duration = Duration::from_secs(10);

/// The callers of `server.grpc.auth.callers` and of `server.grpc.internal_tokens`.
pub struct Callers {
    known: Vec<Known>,
    /// The wrong tokens of each address. Beyond them no token from it is looked at, so that an answer tells
    /// nothing about the token. Callers that were accepted from the address before go on.
    guesses: Bursts<IpAddr>,
    /// The proxies whose word about the address of a peer counts.
    forwarding: Forwarding,
    refusals: Arc<Refusals>,
    hasher: RandomState,
}

/// One caller.
struct Known {
    name: Arc<str>,
    roles: Vec<Role>,
    token_hashes: Vec<[u8; 32]>,
    certificates: Vec<String>,
    addresses: Addresses,
}

impl Callers {
    pub fn new(config: &Server, refusals: Arc<Refusals>) -> Self {
        let tokens = &config.grpc.internal_tokens;
        let legacy = (!tokens.is_empty()).then(|| Known {
            name: INTERNAL_TOKENS.into(),
            roles: vec![Role::Admin],
            token_hashes: tokens.iter().map(|token| Sha256::digest(token.reveal()).into()).collect(),
            certificates: Vec::new(),
            addresses: Addresses::default(),
        });
        let named = config.grpc.auth.callers.iter().map(Known::from);
        Self {
            known: legacy.into_iter().chain(named).collect(),
            guesses: Bursts::new(config.limits.wrong_tokens, WRONG_TOKENS_PERIOD),
            forwarding: Forwarding::new(&config.trusted_proxies),
            refusals,
            hasher: RandomState::new(),
        }
    }

    /// Whether no caller is configured. Then everyone may call everything.
    pub fn are_open(&self) -> bool {
        self.known.is_empty()
    }

    /// The caller of a request, if it has one of `roles`. Counts and logs a refusal.
    ///
    /// # Errors
    /// There is no valid proof, or the caller lacks the role.
    pub fn admit(&self, headers: &HeaderMap, extensions: &Extensions, roles: &[Role]) -> Result<Caller, Refused> {
        let address = self.forwarding.client_ip(headers, extensions);
        let note = |name: &str, refused: &Refused| self.refusals.note(name, refused.reason, address);
        let known = self.prove(headers, extensions, address).inspect_err(|refused| note(UNKNOWN, refused))?;
        known.admit(roles).inspect_err(|refused| note(&known.name, refused))
    }

    /// The caller that has the token in `header`, if it has one of `roles`.
    ///
    /// # Errors
    /// As [`Self::admit`].
    pub fn admit_token(
        &self,
        header: HeaderName,
        headers: &HeaderMap,
        extensions: &Extensions,
        roles: &[Role],
    ) -> Result<Caller, Refused> {
        let Some(token) = headers.get(&header) else {
            return Err(Refused::unauthenticated(Reason::Missing, format!("send the token of a caller in {header}")));
        };
        let address = self.forwarding.client_ip(headers, extensions);
        self.with_token(token.as_bytes(), address)?.admit(roles)
    }

    fn prove(&self, headers: &HeaderMap, extensions: &Extensions, address: Option<IpAddr>) -> Result<&Known, Refused> {
        if headers.contains_key(AUTHORIZATION) {
            let token = bearer(headers).ok_or_else(|| {
                Refused::unauthenticated(Reason::Invalid, "the header must be: authorization: Bearer <token>")
            })?;
            return self.with_token(token, address);
        }
        match extensions.get::<PeerCertificate>() {
            Some(certificate) => self.with_certificate(certificate).ok_or_else(|| {
                Refused::unauthenticated(Reason::Invalid, "no caller has a subject alternative name of the certificate")
            }),
            None => {
                let why = "send header authorization: Bearer <token>, or a client certificate";
                Err(Refused::unauthenticated(Reason::Missing, why))
            }
        }
    }

    fn with_token(&self, token: &[u8], address: Option<IpAddr>) -> Result<&Known, Refused> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        let known = self.known.iter().find(|known| known.has_token(&hash));
        let Some(address) = address else {
            return known.ok_or_else(wrong_token);
        };
        let (place, peer) = (self.hasher.hash_one(address), network(address));
        if self.guesses.are_used_up(&peer) && !known.is_some_and(|known| known.addresses.contain(place)) {
            let why = "too many wrong tokens came from this address; retry in some seconds";
            return Err(Refused::unauthenticated(Reason::Guesses, why));
        }
        match known {
            Some(known) => {
                known.addresses.add(place);
                Ok(known)
            }
            None => {
                self.guesses.count(&peer);
                Err(wrong_token())
            }
        }
    }

    fn with_certificate(&self, certificate: &PeerCertificate) -> Option<&Known> {
        self.known.iter().find(|known| known.certificates.iter().any(|name| certificate.names.contains(name)))
    }
}

fn wrong_token() -> Refused {
    Refused::unauthenticated(Reason::Invalid, "the token is not valid")
}

impl From<&CallerConfig> for Known {
    fn from(config: &CallerConfig) -> Self {
        Self {
            name: config.name.as_str().into(),
            roles: config.roles.clone(),
            token_hashes: config.token_sha256.clone(),
            certificates: config.certificate.clone(),
            addresses: Addresses::default(),
        }
    }
}

impl Known {
    /// Compares in constant time.
    fn has_token(&self, hash: &[u8; 32]) -> bool {
        self.token_hashes.iter().fold(Choice::from(0), |known, other| known | other.ct_eq(hash)).into()
    }

    /// The caller in the role admin, or else in the first of its roles, that is one of `roles`. Admin comes first, because
    /// other roles see less of what a caller with both may change.
    fn admit(&self, roles: &[Role]) -> Result<Caller, Refused> {
        let is_admin = self.roles.contains(&Role::Admin);
        let admin = [Role::Admin].into_iter().filter(|_| is_admin);
        let mut own = admin.chain(self.roles.iter().copied());
        match own.find(|role| roles.contains(role)) {
            Some(role) => Ok(Caller { name: self.name.clone(), role: role.name(), is_admin }),
            None if roles.is_empty() => Err(Refused::denied(Reason::Role, "no role may call this")),
            None => {
                let names: Vec<_> = roles.iter().map(|role| role.name()).collect();
                let why = format!("caller {} needs the role {}", self.name, names.join(" or "));
                Err(Refused::denied(Reason::Role, why))
            }
        }
    }
}

/// The token of the header `authorization`.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
}

/// The last addresses from which a caller was accepted, by their hashes.
#[derive(Default)]
struct Addresses {
    hashes: [AtomicU64; Self::MOST],
    next: AtomicUsize,
}

impl Addresses {
    const MOST: usize = 16;

    fn contain(&self, hash: u64) -> bool {
        self.hashes.iter().any(|known| known.load(Relaxed) == hash)
    }

    fn add(&self, hash: u64) {
        if !self.contain(hash)
            && let Some(oldest) = self.hashes.get(self.next.fetch_add(1, Relaxed) % Self::MOST)
        {
            oldest.store(hash, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_with_the_role_admin_acts_in_it_wherever_it_may() {
        let role = |own: &[Role], roles: &[Role]| {
            let known = Known {
                name: "ops".into(),
                roles: own.to_vec(),
                token_hashes: Vec::new(),
                certificates: Vec::new(),
                addresses: Addresses::default(),
            };
            known.admit(roles).map(|caller| (caller.role, caller.is_admin)).ok()
        };
        let (support, admin, gateway) = (Role::Support, Role::Admin, Role::Gateway);
        for own in [[support, admin], [admin, support]] {
            assert_eq!(role(&own, &[support, admin]), Some(("admin", true)));
            assert_eq!(role(&own, &[support]), Some(("support", true)));
            assert_eq!(role(&own, &[gateway]), None);
        }
        assert_eq!(role(&[gateway, support], &[support, admin]), Some(("support", false)));
    }
}
