//! Verifies the tokens of users.

use std::sync::Arc;

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, errors::ErrorKind};
use serde_json::{Map, Value};

use super::{
    jwks::{Found, KeySource},
    refusals::{Reason, Refused},
};
use crate::{
    biz::values::{error::Error, ids::UserId},
    config::{JwtAlgorithm, JwtConfig},
};

/// Largest token in bytes.
const MAX_TOKEN: usize = 8 * 1024;
/// The scope that allows reads alone.
const READ: &str = "billing:read";
/// The scope that allows reads of any account.
const SUPPORT: &str = "billing:support";

/// The content of a valid token.
#[derive(Debug)]
pub struct Claims {
    pub user: String,
    /// Whether the token allows reads alone.
    pub is_read_only: bool,
    /// Whether the token allows reads of any account.
    pub reads_any: bool,
}

/// Verifies tokens by the configured algorithms and keys.
pub struct Verifier {
    /// The accepted algorithms, each with its rules. The header of a token never chooses others.
    accepted: Vec<(Algorithm, Validation)>,
    secret: Option<DecodingKey>,
    keys: Option<Arc<KeySource>>,
    user_claim: String,
}

impl Verifier {
    /// # Errors
    /// The secret is not usable.
    pub fn new(config: &JwtConfig, keys: Option<Arc<KeySource>>) -> anyhow::Result<Self> {
        let validation = |algorithm| {
            let mut validation = Validation::new(algorithm);
            validation.set_required_spec_claims(&["exp", "iss", "aud"]);
            validation.set_issuer(&[&config.issuer]);
            validation.set_audience(&[&config.audience]);
            validation.validate_nbf = true;
            validation.leeway = config.leeway.as_secs();
            (algorithm, validation)
        };
        let secret = config.secret.as_ref().map(|secret| DecodingKey::from_secret(secret.reveal().as_bytes()));
        Ok(Self {
            accepted: config.algorithms.iter().copied().map(Algorithm::from).map(validation).collect(),
            secret: secret.transpose()?,
            keys,
            user_claim: config.user_claim.clone(),
        })
    }

    /// # Errors
    /// The token is not valid, or the keys of the issuer are not available.
    pub async fn verify(&self, token: &[u8]) -> Result<Claims, Refused> {
        if token.len() > MAX_TOKEN {
            return Err(invalid(format!("the token is longer than {MAX_TOKEN} bytes")));
        }
        let header = decode_header(token).map_err(|_| invalid("the token is not valid"))?;
        let accepted = self.accepted.iter().find(|(algorithm, _)| *algorithm == header.alg);
        let (algorithm, validation) = accepted.ok_or_else(|| invalid("the algorithm of the token is not accepted"))?;
        let key = self.key(*algorithm, header.kid.as_deref()).await?;
        let claims = decode::<Map<String, Value>>(token, &key, validation).map_err(|error| refused(error.kind()))?;
        self.claims(&claims.claims)
    }

    /// The key is chosen by the algorithm first: a public key never verifies an HMAC.
    async fn key(&self, algorithm: Algorithm, id: Option<&str>) -> Result<DecodingKey, Refused> {
        if algorithm == Algorithm::HS256 {
            return self.secret.clone().ok_or_else(|| invalid("the algorithm of the token is not accepted"));
        }
        let found = match &self.keys {
            Some(keys) => keys.find(id, algorithm.family()).await,
            None => Found::Unknown,
        };
        match found {
            Found::Key(key) => Ok(key),
            Found::Unknown => Err(invalid("the issuer has no such key")),
            Found::Unavailable => Err(Refused {
                reason: Reason::Unavailable,
                error: Error::Overloaded("the keys of the issuer are not available; retry later".into()),
            }),
        }
    }

    fn claims(&self, claims: &Map<String, Value>) -> Result<Claims, Refused> {
        let user = match claims.get(&self.user_claim) {
            Some(Value::String(user)) => user.clone(),
            Some(Value::Number(number)) if number.is_u64() => number.to_string(),
            _ => return Err(invalid(format!("the token has no claim {} with an account", self.user_claim))),
        };
        if UserId::parse(&self.user_claim, &user).is_err() {
            return Err(invalid(format!("the claim {} of the token is no valid account", self.user_claim)));
        }
        let scope = scope(claims.get("scope")).ok_or_else(|| invalid("the claim scope of the token is no text"))?;
        let has = |wanted| scope.split_ascii_whitespace().any(|word| word == wanted);
        let reads_any = has(SUPPORT);
        Ok(Claims { user, is_read_only: reads_any || has(READ), reads_any })
    }
}

/// The words of the scope: one text, or a list of texts. A scope of another form must not widen the token.
fn scope(claim: Option<&Value>) -> Option<String> {
    match claim {
        None => Some(String::new()),
        Some(Value::String(words)) => Some(words.clone()),
        Some(Value::Array(words)) => {
            words.iter().map(Value::as_str).collect::<Option<Vec<_>>>().map(|words| words.join(" "))
        }
        Some(_) => None,
    }
}

fn invalid(why: impl Into<String>) -> Refused {
    Refused::unauthenticated(Reason::Invalid, why)
}

fn refused(kind: &ErrorKind) -> Refused {
    match kind {
        ErrorKind::ExpiredSignature => Refused::unauthenticated(Reason::Expired, "the token has expired"),
        ErrorKind::ImmatureSignature => Refused::unauthenticated(Reason::Expired, "the token is not valid yet"),
        ErrorKind::InvalidAudience | ErrorKind::InvalidIssuer => {
            Refused::unauthenticated(Reason::Audience, "the token is for another audience or from another issuer")
        }
        ErrorKind::MissingRequiredClaim(claim) => invalid(format!("the token has no claim {claim}")),
        _ => invalid("the token is not valid"),
    }
}

impl From<JwtAlgorithm> for Algorithm {
    fn from(algorithm: JwtAlgorithm) -> Self {
        match algorithm {
            JwtAlgorithm::Rs256 => Self::RS256,
            JwtAlgorithm::Es256 => Self::ES256,
            JwtAlgorithm::EdDsa => Self::EdDSA,
            JwtAlgorithm::Hs256 => Self::HS256,
        }
    }
}
