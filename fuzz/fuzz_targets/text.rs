//! The small languages: JSON paths, schedules, names, certificate requests.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_machinery::{cron, csr, jsonpath, names};

fuzz_target!(|text: &str| {
    if let Ok(path) = jsonpath::JsonPath::parse(text) {
        let object = serde_json::json!({"a": [{"b": 1}, {"b": 2}], "c": {"d": "e"}});
        path.find(&object);
        path.fields();
    }
    let _ = cron::Schedule::parse(text, |_| Ok(()));
    for check in [names::dns1123_label, names::dns1123_subdomain, names::dns1035_label, names::label_value] {
        check(text);
    }
    names::qualified_name(text);
    csr::blocks(text.as_bytes());
    if let Ok(request) = csr::parse(text.as_bytes()) {
        let _ = csr::check_signature(&request);
    }
    let _ = csr::validate_certificates(text.as_bytes());
});
