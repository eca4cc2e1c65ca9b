//! Bodies in JSON and YAML. What was read and is written as JSON reads the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_machinery::body::{EncodingKind, decode};

fuzz_target!(|input: &[u8]| {
    for encoding in [EncodingKind::Json, EncodingKind::Yaml] {
        let Ok(read) = decode(input, encoding) else { continue };
        let written = serde_json::to_vec(&read.value).expect("a document is written");
        let again = decode(&written, EncodingKind::Json).expect("what was written is read");
        assert!(again.duplicates.is_empty());
        assert_eq!(serde_json::to_vec(&again.value).expect("a document is written"), written);
    }
});
