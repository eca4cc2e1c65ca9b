//! Label and field selectors. A label selector means the same when it is written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_machinery::selector::{FieldSelector, LabelSelector};

fuzz_target!(|text: &str| {
    if let Ok(selector) = LabelSelector::parse(text) {
        let written = selector.to_string();
        let again = LabelSelector::parse(&written).expect("what was written is read");
        assert_eq!(again.to_string(), written);
        selector.matches(&Default::default());
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        selector.matches::<String>(&Default::default());
    }
});
