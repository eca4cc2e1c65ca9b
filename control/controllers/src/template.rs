//! Hashes of pod templates, and which objects are the same but for empty fields.
//!
//! A hash only names things: what belongs to which template is decided by comparing. So it need not equal upstream's, which
//! hashes a Go dump; it must be stable, and it looks the same.

use serde::Serialize;
use serde_json::Value;
use wharf_types::k8s::api::core::v1::PodTemplateSpec;

/// Letters and digits that spell no words. Source: `k8s.io/apimachinery/pkg/util/rand`.
const SAFE_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
pub const FNV_BASIS: u32 = 0x811c_9dc5;
pub const FNV_PRIME: u32 = 0x0100_0193;

/// Short and stable: FNV-1a of the template's JSON and of how often that collided.
pub fn hash(template: &PodTemplateSpec, collision_count: Option<i32>) -> String {
    let json = serde_json::to_vec(template).expect("Kubernetes structs serialise to JSON");
    let count = collision_count.map(i32::to_le_bytes);
    let bytes = json.iter().chain(count.iter().flatten());
    safe(bytes.fold(FNV_BASIS, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(FNV_PRIME)))
}

/// A hash as it stands in names. Source: `rand.SafeEncodeString`.
pub fn safe(hash: u32) -> String {
    let safe = |digit: u8| char::from(SAFE_ALPHABET[usize::from(digit) % SAFE_ALPHABET.len()]);
    hash.to_string().bytes().map(safe).collect()
}

/// As JSON without what is empty or null: equal for objects that differ only in how they say nothing.
pub fn normal(object: &impl Serialize) -> Value {
    fn prune(value: Value) -> Option<Value> {
        match value {
            Value::Null => None,
            Value::Object(fields) => {
                let fields = fields.into_iter().filter_map(|(key, value)| Some((key, prune(value)?)));
                Some(Value::Object(fields.collect()))
                    .filter(|object| object.as_object().is_some_and(|map| !map.is_empty()))
            }
            Value::Array(items) if items.is_empty() => None,
            other => Some(other),
        }
    }
    prune(serde_json::to_value(object).unwrap_or_default()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_types::k8s::api::core::v1::{Container, PodSpec};

    fn template(image: &str) -> PodTemplateSpec {
        let container = Container { name: "c".to_owned(), image: Some(image.to_owned()), ..Container::default() };
        PodTemplateSpec { metadata: None, spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }) }
    }

    #[test]
    fn hashes_are_stable_safe_and_differ() {
        let first = hash(&template("a"), None);
        assert_eq!(first, hash(&template("a"), None));
        assert!(first.len() <= 10 && first.bytes().all(|byte| SAFE_ALPHABET.contains(&byte)), "{first}");
        assert_ne!(first, hash(&template("b"), None));
        assert_ne!(first, hash(&template("a"), Some(1)));
    }
}
