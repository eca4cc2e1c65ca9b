//! Structural schemas and objects of theirs. An object that was pruned and given its defaults needs neither again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_fuzz::documents;
use wharf_machinery::structural::{self, Schema};
use wharf_types::field::Path;

fuzz_target!(|input: &[u8]| {
    let Some((schema, mut object)) = documents(input) else { return };
    let path = Path::new("openAPIV3Schema");
    let _ = (structural::depth(&schema), structural::invariants(&schema, &path));
    let schema = Schema::new(&schema);
    let _ = schema.validate(&object, None);
    schema.prune(&mut object, &mut |_| {});
    let once = object.clone();
    schema.prune(&mut object, &mut |field| panic!("{field} was pruned twice"));
    assert_eq!(object, once);
    schema.default_object(&mut object);
    let _ = schema.validate(&object, Some(&once));
    let _ = schema.validate_lists(&object, &path);
});
