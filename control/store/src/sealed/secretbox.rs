//! NaCl's secretbox: XSalsa20 and Poly1305.
//!
//! Source of the layout: `k8s.io/apiserver/pkg/storage/value/encrypt/secretbox`. It notices every change, and does not bind a
//! value to its store key.

use async_trait::async_trait;
use crypto_secretbox::aead::{Aead, KeyInit};
use crypto_secretbox::{Key, Nonce, XSalsa20Poly1305};

use super::{Provider, Random};

const KEY_LEN: usize = 32;
const NONCE_LEN: usize = 24;

pub struct SecretBox {
    prefix: String,
    cipher: XSalsa20Poly1305,
    random: Random,
}

impl SecretBox {
    /// `secret` has 32 bytes.
    pub fn new(name: &str, secret: &[u8], random: Random) -> Result<Self, &'static str> {
        if secret.len() != KEY_LEN {
            return Err("a secretbox key has 32 bytes");
        }
        let cipher = XSalsa20Poly1305::new(Key::from_slice(secret));
        Ok(Self { prefix: format!("k8s:enc:secretbox:v1:{name}:"), cipher, random })
    }
}

#[async_trait]
impl Provider for SecretBox {
    fn prefix(&self) -> &str {
        &self.prefix
    }

    async fn seal(&self, _: &str, plain: &[u8]) -> Result<Vec<u8>, String> {
        let mut nonce = [0; NONCE_LEN];
        (self.random)(&mut nonce);
        let text = self.cipher.encrypt(Nonce::from_slice(&nonce), plain);
        Ok([&nonce[..], &text.map_err(|_| "secretbox cannot seal it".to_owned())?].concat())
    }

    async fn open(&self, _: &str, sealed: &[u8]) -> Result<(Vec<u8>, bool), String> {
        let Some((nonce, text)) = sealed.split_first_chunk::<NONCE_LEN>() else {
            return Err("the stored data was shorter than the required size".to_owned());
        };
        let plain = self.cipher.decrypt(Nonce::from_slice(nonce), text);
        Ok((plain.map_err(|_| "message authentication failed".to_owned())?, false))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
    }

    /// The test vector of NaCl itself (`tests/secretbox.c`).
    #[tokio::test]
    async fn it_is_nacls_secretbox() {
        let key = hex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389");
        let nonce = hex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37");
        let plain = hex(
            "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffce5ecbaaf33bd751a1ac728d45e6c61296cdc3c01\
             233561f41db66cce314adb310e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde048977eb48f59ffd\
             4924ca1c60902e52f0a089bc76897040e082f937763848645e0705",
        );
        let text = hex(
            "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186ac0dfc17c\
             98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae90224368517acfea\
             bd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74e355a5",
        );
        let given = nonce.clone();
        let random: Random = Arc::new(move |buffer: &mut [u8]| buffer.copy_from_slice(&given));
        let held = SecretBox::new("k", &key, random).expect("a key of 32 bytes");
        let sealed = held.seal("/anywhere", &plain).await.expect("sealed");
        assert_eq!(sealed, [nonce, text].concat());
        assert_eq!(held.open("/elsewhere", &sealed).await, Ok((plain, false)));
        let mut broken = sealed;
        broken[40] ^= 1;
        assert_eq!(held.open("", &broken).await, Err("message authentication failed".to_owned()));
        assert!(held.open("", &[0; 23]).await.is_err_and(|why| why.contains("shorter")));
        assert!(SecretBox::new("k", &key[1..], Arc::new(|_| {})).is_err());
    }
}
