//! Server-side apply. An apply that succeeded changes nothing the second time, and the managed fields it leaves can be read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_fuzz::documents;
use wharf_machinery::apply::{Filter, Managers, Root, Tracker};
use wharf_machinery::tree::Value;

fuzz_target!(|input: &[u8]| {
    let Some((live, config)) = documents(input) else { return };
    let _ = Managers::parse(input);
    let custom = Root::custom(&live, false);
    let roots = [
        ("v1", "Pod", Root::built_in("io.k8s.api.core.v1.Pod")),
        ("example.com/v1", "Sample", Root::deduced()),
        ("example.com/v1", "Sample", custom),
    ];
    for (api_version, kind, root) in &roots {
        let knows = |version: &str| version == *api_version;
        let now = jiff::Timestamp::UNIX_EPOCH;
        let filter = Filter::none();
        let tracker = Tracker { root, api_version, kind, subresource: "", filter: &filter, knows: &knows, now };
        let (live, config) = (Value::from(&live), Value::from(&config));
        let Ok(first) = tracker.apply(Some(&live), None, &config, "fuzz", true) else { continue };
        let managed = first.managed.as_deref().map(str::as_bytes);
        if let Some(managed) = managed {
            Managers::parse(managed).expect("managed fields are read");
        }
        let again = tracker.apply(Some(&first.object), managed, &config, "fuzz", false);
        let again = again.unwrap_or_else(|error| panic!("the same apply is refused: {}", error.message));
        assert_eq!(again.object.into_json(), first.object.clone().into_json());
    }
});
