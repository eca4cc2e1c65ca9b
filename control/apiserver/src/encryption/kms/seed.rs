//! A seed, and the key of its own that each value gets from it.
//!
//! Source: `aes_extended_nonce.go`: 32 random bytes stand before each value; HKDF-SHA256 (expand only) makes of them and the
//! seed a key of AES-256-GCM, which binds the value to its place in the store.

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use wharf_store::sealed::{AesGcm, Provider, Random};

use super::object::SourceType;

pub const SEED_LEN: usize = 32;
const INFO_LEN: usize = 32;
const KEY_LEN: usize = 32;

/// What a plugin has opened for us.
pub enum Seed {
    Seed { seed: Vec<u8>, random: Random },
    Key(Box<AesGcm>),
}

/// For HKDF, which asks how much is wanted.
struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        KEY_LEN
    }
}

impl Seed {
    pub fn new(kind: SourceType, bytes: Vec<u8>, random: Random) -> Result<Self, String> {
        match kind {
            SourceType::Seed if bytes.len() < SEED_LEN => {
                Err(format!("invalid seed length {} used for key generation", bytes.len()))
            }
            SourceType::Seed => Ok(Seed::Seed { seed: bytes, random }),
            SourceType::Key => Ok(Seed::Key(Box::new(AesGcm::new("", &bytes, random)?))),
        }
    }

    pub async fn seal(&self, at: &str, plain: &[u8]) -> Result<Vec<u8>, String> {
        let Seed::Seed { seed, random } = self else { return Err("such a key only reads".to_owned()) };
        let mut info = [0; INFO_LEN];
        random(&mut info);
        let text = derived(seed, &info, random)?.seal(at, plain).await?;
        Ok([&info[..], &text].concat())
    }

    pub async fn open(&self, at: &str, sealed: &[u8]) -> Result<Vec<u8>, String> {
        let (seed, random) = match self {
            Seed::Key(key) => return Ok(key.open(at, sealed).await?.0),
            Seed::Seed { seed, random } => (seed, random),
        };
        let Some((info, text)) = sealed.split_first_chunk::<INFO_LEN>() else {
            return Err("the stored data was shorter than the required size".to_owned());
        };
        Ok(derived(seed, info, random)?.open(at, text).await?.0)
    }
}

fn derived(seed: &[u8], info: &[u8], random: &Random) -> Result<AesGcm, String> {
    let mut key = [0; KEY_LEN];
    let failed = "failed to KDF expand seed with info";
    let info = [info];
    let made = Prk::new_less_safe(HKDF_SHA256, seed).expand(&info, Length).and_then(|okm| okm.fill(&mut key));
    made.map_err(|_| failed.to_owned())?;
    Ok(AesGcm::new("", &key, random.clone())?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn random() -> Random {
        Arc::new(|buffer: &mut [u8]| buffer.fill(9))
    }

    #[test]
    fn keys_are_derived_as_rfc_5869_says() {
        // Test case 1, with its PRK as the seed; the first 32 of its 42 bytes.
        let seed = hex::decode("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5").unwrap();
        let info = hex::decode("f0f1f2f3f4f5f6f7f8f9").unwrap();
        let mut key = [0; 32];
        let info = [&info[..]];
        Prk::new_less_safe(HKDF_SHA256, &seed).expand(&info, Length).unwrap().fill(&mut key).unwrap();
        assert_eq!(hex::encode(key), "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf");
    }

    #[tokio::test]
    async fn a_value_opens_with_its_seed_at_its_place() {
        let seed = Seed::new(SourceType::Seed, vec![1; 32], random()).unwrap();
        let other = Seed::new(SourceType::Seed, vec![2; 32], random()).unwrap();
        let sealed = seed.seal("/a", b"hunter2").await.unwrap();
        assert_eq!(sealed[..32], [9; 32]);
        assert_eq!(seed.open("/a", &sealed).await.unwrap(), b"hunter2");
        assert!(seed.open("/b", &sealed).await.is_err());
        assert!(other.open("/a", &sealed).await.is_err());
        assert!(seed.open("/a", &sealed[..31]).await.is_err_and(|why| why.contains("shorter")));
        assert!(Seed::new(SourceType::Seed, vec![1; 31], random()).is_err());
    }
}
