//! What stands behind `k8s:enc:kms:v2:<name>:` in the store.
//!
//! Source: `k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2`: `v2/api.proto`, and the checks of `envelope.go`.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use wharf_machinery::names;

/// Longest annotations all together, key id and sealed seed, in bytes.
const ANNOTATIONS_MAX: usize = 32 << 10;
const KEY_ID_MAX: usize = 1 << 10;
const SOURCE_MAX: usize = 1 << 10;

/// A sealed value with what it takes to open it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EncryptedObject {
    #[prost(bytes = "vec", tag = "1")]
    pub data: Vec<u8>,
    #[prost(string, tag = "2")]
    pub key_id: String,
    /// The seed, as the plugin has sealed it.
    #[prost(bytes = "vec", tag = "3")]
    pub source: Vec<u8>,
    #[prost(btree_map = "string, bytes", tag = "4")]
    pub annotations: BTreeMap<String, Vec<u8>>,
    #[prost(enumeration = "SourceType", tag = "5")]
    pub source_type: i32,
}

/// What a plugin has sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum SourceType {
    /// A key that values are sealed with. Only read: Kubernetes up to 1.28 wrote it.
    Key = 0,
    /// A seed that each value's key is derived from.
    Seed = 1,
}

impl EncryptedObject {
    pub fn validate(&self) -> Result<(), String> {
        if SourceType::try_from(self.source_type).is_err() {
            return Err(format!("unknown encryptedDEKSourceType: {}", self.source_type));
        }
        if self.data.is_empty() {
            return Err("encrypted data is empty".to_owned());
        }
        self.validate_source()
    }

    /// All but the data.
    pub fn validate_source(&self) -> Result<(), String> {
        let size = self.source.len();
        let source = match size {
            0 => Err("encrypted DEK source is empty".to_owned()),
            1..=SOURCE_MAX => Ok(()),
            _ => Err(format!("encrypted DEK source is {size} bytes, which exceeds the max size of {SOURCE_MAX}")),
        };
        source.map_err(|why| format!("failed to validate encrypted DEK source: {why}"))?;
        validate_key_id(&self.key_id).map_err(|why| format!("failed to validate key id: {why}"))?;
        self.validate_annotations().map_err(|why| format!("failed to validate annotations: {why}"))
    }

    fn validate_annotations(&self) -> Result<(), String> {
        for name in self.annotations.keys() {
            let wrong = names::dns1123_subdomain(name);
            if let Some(why) = wrong.first() {
                return Err(format!("annotations: Invalid value: {name:?}: {why}"));
            }
            if name.split('.').filter(|label| !label.is_empty()).count() < 2 {
                let why = "should be a domain with at least two segments separated by dots";
                return Err(format!("annotations: Invalid value: {name:?}: {why}"));
            }
        }
        let size: usize = self.annotations.iter().map(|(name, value)| name.len() + value.len()).sum();
        match size > ANNOTATIONS_MAX {
            true => {
                Err(format!("total size of annotations is {size}, which exceeds the max size of {ANNOTATIONS_MAX}"))
            }
            false => Ok(()),
        }
    }

    /// The same for all values of one seed. Everything that went to the plugin is in it.
    pub fn seed_id(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        add(&self.source_type.to_be_bytes());
        add(&self.source);
        add(self.key_id.as_bytes());
        for (name, value) in &self.annotations {
            add(name.as_bytes());
            add(value);
        }
        hash.finalize().into()
    }
}

pub fn validate_key_id(id: &str) -> Result<(), String> {
    match id.len() {
        0 => Err("keyID is empty".to_owned()),
        1..=KEY_ID_MAX => Ok(()),
        size => Err(format!("keyID is {size} bytes, which exceeds the max size of {KEY_ID_MAX}")),
    }
}

/// Key ids are shown as their hash, if at all.
pub fn shown(id: &str) -> String {
    if id.is_empty() { String::new() } else { format!("sha256:{}", hex::encode(Sha256::digest(id))) }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    fn object() -> EncryptedObject {
        EncryptedObject {
            data: vec![1],
            key_id: "k".to_owned(),
            source: vec![2],
            annotations: BTreeMap::from([("a.b".to_owned(), vec![3])]),
            source_type: SourceType::Seed.into(),
        }
    }

    fn check(change: impl FnOnce(&mut EncryptedObject), expected: &str) {
        let mut object = object();
        change(&mut object);
        assert_eq!(object.validate().err().unwrap_or_default(), expected);
    }

    #[test]
    fn an_object_is_written_as_upstream_writes_it() {
        let bytes = [10, 1, 1, 18, 1, b'k', 26, 1, 2, 34, 8, 10, 3, b'a', b'.', b'b', 18, 1, 3, 40, 1];
        assert_eq!(object().encode_to_vec(), bytes);
        assert_eq!(EncryptedObject::decode(&bytes[..]), Ok(object()));
    }

    #[test]
    fn what_a_plugin_may_give_is_limited() {
        check(|_| {}, "");
        check(|it| it.data.clear(), "encrypted data is empty");
        check(|it| it.source_type = 7, "unknown encryptedDEKSourceType: 7");
        check(|it| it.source.clear(), "failed to validate encrypted DEK source: encrypted DEK source is empty");
        check(|it| it.key_id.clear(), "failed to validate key id: keyID is empty");
        check(
            |it| it.key_id = "k".repeat(1025),
            "failed to validate key id: keyID is 1025 bytes, which exceeds the max size of 1024",
        );
        check(
            |it| drop(it.annotations.insert("a.c".to_owned(), vec![0; 32 << 10])),
            "failed to validate annotations: total size of annotations is 32775, which exceeds the max size of 32768",
        );
        check(
            |it| drop(it.annotations.insert("a".to_owned(), vec![])),
            "failed to validate annotations: annotations: Invalid value: \"a\": should be a domain with at least two segments separated by dots",
        );
    }
}
