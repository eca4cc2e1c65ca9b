//! An issuer's public keys, and the signatures that they verify.
//!
//! Source: RFC 7517 and 7518; the algorithms are those that upstream allows (`oidc.allowedSigningAlgs`). A key verifies what
//! fits its type only, so a token cannot choose what its signature means: there is no `none` and no shared secret.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, EcdsaVerificationAlgorithm,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// Most keys of one issuer.
const KEYS_MAX: usize = 128;

/// How a signature is made.
enum Algorithm {
    Rsa(&'static RsaParameters),
    /// With the curve's name, and the bytes of a coordinate.
    Ecdsa(&'static EcdsaVerificationAlgorithm, &'static str, usize),
}

/// All of them, in upstream's order.
pub const ALGORITHMS: [&str; 9] = ["ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"];

fn algorithm(name: &str) -> Option<Algorithm> {
    Some(match name {
        "ES256" => Algorithm::Ecdsa(&ECDSA_P256_SHA256_FIXED, "P-256", 32),
        "ES384" => Algorithm::Ecdsa(&ECDSA_P384_SHA384_FIXED, "P-384", 48),
        "ES512" => Algorithm::Ecdsa(&ECDSA_P521_SHA512_FIXED, "P-521", 66),
        "PS256" => Algorithm::Rsa(&RSA_PSS_2048_8192_SHA256),
        "PS384" => Algorithm::Rsa(&RSA_PSS_2048_8192_SHA384),
        "PS512" => Algorithm::Rsa(&RSA_PSS_2048_8192_SHA512),
        "RS256" => Algorithm::Rsa(&RSA_PKCS1_2048_8192_SHA256),
        "RS384" => Algorithm::Rsa(&RSA_PKCS1_2048_8192_SHA384),
        "RS512" => Algorithm::Rsa(&RSA_PKCS1_2048_8192_SHA512),
        _ => return None,
    })
}

/// `{"keys": […]}`
#[derive(Debug, Default, Deserialize)]
pub struct KeySet {
    keys: Vec<Key>,
}

/// Keys of other types are kept, and verify nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Key {
    kty: String,
    kid: String,
    /// Of RSA.
    n: String,
    e: String,
    /// Of elliptic curves.
    crv: String,
    x: String,
    y: String,
}

impl KeySet {
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let mut set: Self = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        set.keys.truncate(KEYS_MAX);
        Ok(set)
    }

    /// True where a key of this id has signed; any key, if the token names none.
    pub fn verify(&self, name: &str, id: &str, signed: &[u8], signature: &[u8]) -> bool {
        let Some(algorithm) = algorithm(name) else { return false };
        let mut named = self.keys.iter().filter(|key| id.is_empty() || key.kid == id);
        named.any(|key| key.verify(&algorithm, signed, signature).is_some())
    }
}

impl Key {
    fn verify(&self, algorithm: &Algorithm, signed: &[u8], signature: &[u8]) -> Option<()> {
        match algorithm {
            Algorithm::Rsa(parameters) if self.kty == "RSA" => {
                let (n, e) = (number(&self.n)?, number(&self.e)?);
                RsaPublicKeyComponents { n, e }.verify(parameters, signed, signature).ok()
            }
            Algorithm::Ecdsa(parameters, curve, size) if self.kty == "EC" && self.crv == *curve => {
                // An uncompressed point: 4, x, y.
                let mut point = vec![4];
                for coordinate in [&self.x, &self.y] {
                    let bytes = number(coordinate)?;
                    point.resize(point.len() + size.checked_sub(bytes.len())?, 0);
                    point.extend(bytes);
                }
                UnparsedPublicKey::new(*parameters, point).verify(signed, signature).ok()
            }
            _ => None,
        }
    }
}

/// A number of Base64urlUInt, without the zeros in front that some write.
fn number(text: &str) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    Some(bytes[zeros..].to_vec())
}
