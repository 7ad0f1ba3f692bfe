//! An identity provider: issues tokens, and serves its public keys.

use std::{
    io::Write,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair},
};
use axum::{Router, routing::get};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::net::TcpListener;

pub const ISSUER: &str = "https://login.example.com";
pub const AUDIENCE: &str = "billing";

/// Length of the PKCS #8 header of an RSA key of 2,048 bits. The signing library needs the key without it.
const PKCS8_BEFORE_RSA_2048: usize = 26;

/// A key of the issuer.
#[derive(Clone)]
pub struct SigningKey {
    pub id: String,
    pub algorithm: Algorithm,
    key: EncodingKey,
}

impl SigningKey {
    pub fn new(id: &str, algorithm: Algorithm) -> Self {
        let random = SystemRandom::new();
        let key = match algorithm {
            Algorithm::RS256 => {
                let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
                let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
                EncodingKey::from_rsa_der(&der.as_ref()[PKCS8_BEFORE_RSA_2048..])
            }
            Algorithm::ES256 => {
                let pair = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
                EncodingKey::from_ec_der(pair.as_ref())
            }
            Algorithm::EdDSA => EncodingKey::from_ed_der(Ed25519KeyPair::generate_pkcs8v1(&random).unwrap().as_ref()),
            other => panic!("no test needs {other:?}"),
        };
        Self { id: id.into(), algorithm, key }
    }

    /// The public half, as a JWK.
    pub fn public(&self) -> Jwk {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.id.clone());
        jwk
    }

    pub fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.id.clone()), ..Header::new(self.algorithm) };
        encode(&header, claims, &self.key).unwrap()
    }
}

/// The claims of a valid token of a user.
pub fn claims(user: &str) -> Value {
    json!({"sub": user, "iss": ISSUER, "aud": AUDIENCE, "exp": now() + 600, "nbf": now() - 1})
}

/// `claims` with one claim replaced, or removed if the value is null.
pub fn with(claims: &Value, name: &str, value: Value) -> Value {
    let mut claims = claims.clone();
    match value {
        Value::Null => claims.as_object_mut().unwrap().remove(name),
        value => claims.as_object_mut().unwrap().insert(name.into(), value),
    };
    claims
}

pub fn now() -> i64 {
    chrono::Utc::now().timestamp()
}

pub fn set(keys: &[SigningKey]) -> String {
    json!({"keys": keys.iter().map(SigningKey::public).collect::<Vec<_>>()}).to_string()
}

/// A file with the keys.
pub fn file(keys: &[SigningKey]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(set(keys).as_bytes()).unwrap();
    file
}

/// An HTTP server with the keys.
pub struct KeyServer {
    pub addr: SocketAddr,
    pub set: Arc<Mutex<String>>,
    pub reads: Arc<AtomicUsize>,
}

impl KeyServer {
    pub async fn start(keys: &[SigningKey]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (set, reads) = (Arc::new(Mutex::new(set(keys))), Arc::<AtomicUsize>::default());
        let (content, counted) = (set.clone(), reads.clone());
        let app = Router::new().route(
            "/keys",
            get(async move || {
                counted.fetch_add(1, SeqCst);
                content.lock().unwrap().clone()
            }),
        );
        let limits = billing_service::server::ListenerLimits::default();
        tokio::spawn(billing_service::server::serve(listener, app, limits, Default::default()));
        Self { addr, set, reads }
    }

    pub fn url(&self) -> String {
        format!("http://{}/keys", self.addr)
    }
}
