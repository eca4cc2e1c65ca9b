//! Objects in protobuf. What was read is written, and what was written reads the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_machinery::protobuf;
use wharf_types::Gvk;

fuzz_target!(|input: &[u8]| {
    let assumed = Gvk { group: "".into(), version: "v1".into(), kind: "Pod".into() };
    let _ = protobuf::type_meta(input);
    for message in ["io.k8s.api.core.v1.Pod", "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"] {
        let _ = protobuf::decode(input, message);
    }
    let Ok(object) = protobuf::decode_object(input, &assumed) else { return };
    let Ok(written) = protobuf::encode_object(object.into_json().to_string().as_bytes()) else { return };
    let again = protobuf::decode_object(&written, &assumed).expect("what was written is read");
    assert_eq!(protobuf::encode_object(again.into_json().to_string().as_bytes()).expect("it is written again"), written);
});
