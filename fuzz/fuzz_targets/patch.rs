//! Patches of the three older kinds. A merge patch is idempotent.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_fuzz::documents;
use wharf_machinery::patch;

fuzz_target!(|input: &[u8]| {
    let Some((object, change)) = documents(input) else { return };
    let mut merged = object.clone();
    if patch::merge(&mut merged, &change).is_ok() {
        let mut again = merged.clone();
        patch::merge(&mut again, &change).expect("it merges again");
        assert_eq!(again, merged);
    }
    let _ = patch::json(&mut object.clone(), &change);
    for kind in ["io.k8s.api.core.v1.Pod", "io.k8s.api.apps.v1.Deployment", "io.k8s.api.core.v1.Service"] {
        let _ = patch::strategic(&mut object.clone(), &change, kind);
    }
});
