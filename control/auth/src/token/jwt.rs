//! Signing and verifying: ES256, nothing else.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{decode, encode};

const ALGORITHM: &str = "ES256";

#[derive(Debug, thiserror::Error)]
#[error("use the service account key: {0}")]
pub struct KeyError(String);

/// The key that tokens are signed with.
pub struct Key {
    pair: EcdsaKeyPair,
    /// The hash of the public key, as upstream names keys.
    id: String,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
}

impl Key {
    /// From PEM: the private key as PKCS #8, the public one as SPKI.
    pub fn new(private_pem: &str, public_pem: &str) -> Result<Self, KeyError> {
        let failed = |error: &dyn std::fmt::Display| KeyError(error.to_string());
        let private = PrivatePkcs8KeyDer::from_pem_slice(private_pem.as_bytes()).map_err(|error| failed(&error))?;
        let public = SubjectPublicKeyInfoDer::from_pem_slice(public_pem.as_bytes()).map_err(|error| failed(&error))?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, private.secret_pkcs8_der())
            .map_err(|error| failed(&error))?;
        Ok(Self { pair, id: encode(&Sha256::digest(&public)) })
    }

    pub fn sign(&self, claims: &impl Serialize) -> Result<String, KeyError> {
        let header = Header { alg: ALGORITHM.to_owned(), kid: self.id.clone() };
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = signature.map_err(|error| KeyError(error.to_string()))?;
        Ok(format!("{signed}.{}", encode(signature.as_ref())))
    }

    /// The claims of a token that this key has signed.
    pub fn verify<C: DeserializeOwned>(&self, token: &str) -> Option<C> {
        let (signed, signature) = token.rsplit_once('.')?;
        let header: Header = serde_json::from_slice(&decode(signed.split_once('.')?.0)?).ok()?;
        let known = header.alg == ALGORITHM && (header.kid.is_empty() || header.kid == self.id);
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref());
        if !known || public.verify(signed.as_bytes(), &decode(signature)?).is_err() {
            return None;
        }
        claims(token)
    }

    /// `/openid/v1/jwks`
    pub fn public_set(&self) -> Value {
        // An uncompressed point: 4, x, y.
        let point = self.pair.public_key().as_ref();
        let (x, y) = point[1..].split_at(point.len() / 2);
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": ALGORITHM, "x": encode(x), "y": encode(y),
        }]})
    }
}

/// What a token says, whoever has signed it.
pub fn claims<C: DeserializeOwned>(token: &str) -> Option<C> {
    let mut parts = token.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    serde_json::from_slice(&decode(claims)?).ok()
}

/// Structs with string keys.
fn part(value: &impl Serialize) -> String {
    encode(&serde_json::to_vec(value).expect("claims serialise to JSON"))
}
