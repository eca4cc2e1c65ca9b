//! AES in the two modes that upstream offers: `aesgcm` and `aescbc`.
//!
//! Source of the layout: `k8s.io/apiserver/pkg/storage/value/encrypt/aes`. GCM binds a value to its store key and notices
//! every change; CBC does neither and is there to read what others have written.

use async_trait::async_trait;
use aws_lc_rs::aead::{AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, AES_CBC_IV_LEN, DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey,
    PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;

use super::{Provider, Random};

/// Bytes of a secret, and what it makes.
const BITS: &str = "an AES key has 16, 24 or 32 bytes";

pub struct AesGcm {
    prefix: String,
    key: LessSafeKey,
    random: Random,
}

impl AesGcm {
    /// `secret` has 16, 24 or 32 bytes.
    pub fn new(name: &str, secret: &[u8], random: Random) -> Result<Self, &'static str> {
        let algorithm = match secret.len() {
            16 => &AES_128_GCM,
            24 => &AES_192_GCM,
            32 => &AES_256_GCM,
            _ => return Err(BITS),
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, secret).map_err(|_| BITS)?);
        Ok(Self { prefix: format!("k8s:enc:aesgcm:v1:{name}:"), key, random })
    }
}

#[async_trait]
impl Provider for AesGcm {
    fn prefix(&self) -> &str {
        &self.prefix
    }

    async fn seal(&self, at: &str, plain: &[u8]) -> Result<Vec<u8>, String> {
        let mut nonce = [0; NONCE_LEN];
        (self.random)(&mut nonce);
        let mut text = plain.to_vec();
        let sealed =
            self.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(at.as_bytes()), &mut text);
        sealed.map_err(|_| "AES-GCM cannot seal it".to_owned())?;
        Ok([&nonce[..], &text].concat())
    }

    async fn open(&self, at: &str, sealed: &[u8]) -> Result<(Vec<u8>, bool), String> {
        let Some((nonce, text)) = sealed.split_first_chunk::<NONCE_LEN>() else {
            return Err("the stored data was shorter than the required size".to_owned());
        };
        let mut text = text.to_vec();
        let opened = self.key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(at.as_bytes()), &mut text);
        let length = opened.map_err(|_| "message authentication failed".to_owned())?.len();
        text.truncate(length);
        Ok((text, false))
    }
}

pub struct AesCbc {
    prefix: String,
    seal: PaddedBlockEncryptingKey,
    open: PaddedBlockDecryptingKey,
    random: Random,
}

impl AesCbc {
    /// `secret` has 16, 24 or 32 bytes.
    pub fn new(name: &str, secret: &[u8], random: Random) -> Result<Self, &'static str> {
        let algorithm = match secret.len() {
            16 => &AES_128,
            24 => &AES_192,
            32 => &AES_256,
            _ => return Err(BITS),
        };
        let key = || UnboundCipherKey::new(algorithm, secret).map_err(|_| BITS);
        let seal = PaddedBlockEncryptingKey::cbc_pkcs7(key()?).map_err(|_| BITS)?;
        let open = PaddedBlockDecryptingKey::cbc_pkcs7(key()?).map_err(|_| BITS)?;
        Ok(Self { prefix: format!("k8s:enc:aescbc:v1:{name}:"), seal, open, random })
    }
}

#[async_trait]
impl Provider for AesCbc {
    fn prefix(&self) -> &str {
        &self.prefix
    }

    async fn seal(&self, _: &str, plain: &[u8]) -> Result<Vec<u8>, String> {
        let mut iv = [0; AES_CBC_IV_LEN];
        (self.random)(&mut iv);
        let mut text = plain.to_vec();
        let context = EncryptionContext::Iv128(FixedLength::from(iv));
        self.seal.less_safe_encrypt(&mut text, context).map_err(|_| "AES-CBC cannot seal it".to_owned())?;
        Ok([&iv[..], &text].concat())
    }

    async fn open(&self, _: &str, sealed: &[u8]) -> Result<(Vec<u8>, bool), String> {
        let Some((iv, text)) = sealed.split_first_chunk::<AES_CBC_IV_LEN>() else {
            return Err("the stored data was shorter than the required size".to_owned());
        };
        let mut text = text.to_vec();
        let opened = self.open.decrypt(&mut text, DecryptionContext::Iv128(FixedLength::from(*iv)));
        let length = opened.map_err(|_| "invalid padding on input".to_owned())?.len();
        text.truncate(length);
        Ok((text, false))
    }
}
