use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

const POD: &str = "io.k8s.api.core.v1.Pod";

/// What comes back from the wire is what went in.
#[track_caller]
fn check(object: Value) {
    let bytes = encode_object(object.to_string().as_bytes()).unwrap();
    let kind = Gvk { group: "".into(), version: "v1".into(), kind: "Nothing".into() };
    assert_eq!(decode_object(&bytes, &kind).unwrap().into_json(), object);
}

fn written(value: &Value, type_name: &str) -> Result<Vec<u8>, Error> {
    encode(value.to_string().as_bytes(), type_name)
}

/// What a message becomes that is written here byte by byte, as upstream would.
#[track_caller]
fn check_bytes(type_name: &str, bytes: &[u8], expected: Result<Value, &str>) {
    match (decode(bytes, type_name), expected) {
        (Ok(value), Ok(expected)) => assert_eq!(value.into_json(), expected),
        (Err(error), Err(message)) => assert_eq!(error.to_string(), message),
        (got, expected) => panic!("{got:?}, expected {expected:?}"),
    }
}

#[test]
fn objects_survive_the_wire() {
    check(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "a", "generation": 3, "creationTimestamp": "2024-05-01T12:00:00Z", "labels": {"app": "", "b": "c"},
            "managedFields": [{"manager": "m", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:x": {}}}}],
            "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "n", "uid": "u", "controller": false}],
        },
        "spec": {
            "containers": [{
                "name": "c", "command": ["", "x"], "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}},
                "livenessProbe": {"httpGet": {"port": "web", "path": "/"}, "periodSeconds": 10},
                "readinessProbe": {"tcpSocket": {"port": 80}, "terminationGracePeriodSeconds": 0},
                "env": [
                    {"name": "A", "value": "b"},
                    {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": false}}},
                    {"name": "R", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "0"}}},
                ],
                "securityContext": {"runAsUser": 0, "privileged": false},
            }],
            "ephemeralContainers": [{"name": "e", "image": "i", "targetContainerName": "c"}],
            "volumes": [
                {"name": "e", "emptyDir": {}},
                {"name": "s", "secret": {"secretName": "s", "defaultMode": 420}},
                {"name": "m", "configMap": {"name": "m", "items": [{"key": "k", "path": "p", "mode": 0}]}},
                {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}, {"configMap": {"name": "x"}}]}},
            ],
            "terminationGracePeriodSeconds": 0, "securityContext": {"supplementalGroups": [0, 1, -2]},
            "tolerations": [{"key": "k", "operator": "Exists", "tolerationSeconds": -1}],
        },
        "status": {"podIPs": [{"ip": "10.0.0.1"}], "hostIP": "10.0.0.2", "phase": "Running"},
    }));
    check(json!({
        "apiVersion": "apps/v1", "kind": "DeploymentList", "metadata": {"resourceVersion": "7", "continue": "c"},
        "items": [{"metadata": {"name": "a"}, "spec": {
            "replicas": 0, "selector": {"matchLabels": {"a": "b"}},
            "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}}, "template": {"metadata": {}},
        }, "status": {}}],
    }));
    check(json!({"apiVersion": "v1", "kind": "Secret", "data": {"a": "AAEC/w==", "empty": ""}, "type": "Opaque"}));
    check(json!({"apiVersion": "v1", "kind": "Service", "spec": {
        "clusterIP": "None", "clusterIPs": ["None"], "externalIPs": ["1.2.3.4"], "allocateLoadBalancerNodePorts": false,
        "ports": [{"port": 80, "targetPort": "web", "appProtocol": ""}], "selector": {"a": ""},
    }}));
    check(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "spec": {"storageClassName": ""}}));
    check(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": {
        "acquireTime": "2024-05-01T12:00:00.000001Z", "renewTime": "1969-12-31T23:59:59.500000Z",
    }}));
    check(json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": {
        "user": {"username": "u", "groups": ["g"], "extra": {"k": ["v", "w"], "none": []}},
    }}));
    check(json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "spec": {"versions": [
        {"name": "v1", "served": true, "storage": false, "schema": {"openAPIV3Schema": {
            "type": "object", "$ref": "r", "x-kubernetes-preserve-unknown-fields": false, "maximum": 1.5,
            "default": {"a": [1, null]}, "enum": ["a", 1], "additionalProperties": false,
            "items": {"type": "string"}, "properties": {"p": {"type": "string", "minLength": 0}},
        }}},
    ]}}));
    check(json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}));
    check(json!({"apiVersion": "apps/v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "dryRun": ["All"]}));
}

#[test]
fn text_is_read_as_it_is_meant_and_not_as_it_stands() {
    let json = r#" { "kind" : "ConfigMap", "data" : {"a\u00e9" : "line\nend", "" : "" , "null": null}, "apiVersion" : "v1" ,
        "nonsense": [1, {"metadata": "}"}], "metadata" : {"generation": 3.0, "labels": null} } "#;
    let kind = Gvk { group: "".into(), version: "v1".into(), kind: "Nothing".into() };
    let bytes = encode_object(json.as_bytes()).unwrap();
    let read = decode_object(&bytes, &kind).unwrap().into_json();
    let expected = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generation": 3},
        "data": {"aé": "line\nend", "": "", "null": ""}});
    assert_eq!(read, expected);
}

#[test]
fn what_does_not_fit_its_type_is_named() {
    let refused = |json: &str| encode(json.as_bytes(), POD).unwrap_err().to_string();
    for (json, message) in [
        (r#"{"metadata":[]}"#, "proto: field Pod.metadata holds no valid object"),
        (r#"{"metadata":{"name":1}}"#, "proto: field ObjectMeta.name holds no valid text"),
        (r#"{"metadata":{"labels":[]}}"#, "proto: field ObjectMeta.labels holds no valid map"),
        (r#"{"metadata":{"finalizers":"x"}}"#, "proto: field ObjectMeta.finalizers holds no valid list"),
        (r#"{"metadata":{"generation":1.5}}"#, "proto: field ObjectMeta.generation holds no valid integer"),
        (
            r#"{"metadata":{"creationTimestamp":"then"}}"#,
            "proto: field ObjectMeta.creationTimestamp holds no valid time",
        ),
        (r#"{"spec":{"priority":4294967296}}"#, "proto: field PodSpec.priority holds no valid 32-bit integer"),
        (r#"{"spec":{"hostPID":"true"}}"#, "proto: field PodSpec.hostPID holds no valid boolean"),
        ("[]", "proto: field api.core.v1.Pod holds no valid object"),
        (r#"{"spec":"#, "proto: read an object's JSON"),
    ] {
        assert_eq!(refused(json), message, "{json}");
    }
}

#[test]
fn a_list_holds_its_items_in_order() {
    let long = "x".repeat(20_000);
    let items =
        [r#"{"kind":"Pod","metadata":{"name":"a"}}"#.to_owned(), format!(r#"{{"metadata":{{"name":"{long}"}}}}"#)];
    let bytes = |expected| {
        let items = items.iter().map(String::as_bytes);
        encode_list(("v1", "PodList"), br#"{"metadata":{"resourceVersion":"7"}}"#, items, expected).unwrap()
    };
    let kind = Gvk { group: "".into(), version: "v1".into(), kind: "Nothing".into() };
    let first = bytes(0);
    let read = decode_object(&first, &kind).unwrap().into_json();
    let expected = json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "7"},
        "items": [{"metadata": {"name": "a"}}, {"metadata": {"name": long}}]});
    assert_eq!(read, expected);
    for expected in [1, 1 << 8, 1 << 15, 1 << 22] {
        assert_eq!(bytes(expected), first, "expected {expected}");
    }
}

#[test]
fn zeros_that_go_always_writes_are_no_fields() {
    // An ObjectMeta with name "", generation 0, an empty time and labels {"a": ""}.
    let meta = b"\x0a\x00\x38\x00\x42\x00\x5a\x03\x0a\x01a";
    check_bytes("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", meta, Ok(json!({"labels": {"a": ""}})));
}

#[test]
fn unknown_fields_are_skipped_and_parts_merged() {
    // 100 as each of the wire types, metadata twice.
    let bytes = b"\xa0\x06\x01\xa1\x0612345678\xa2\x06\x01x\xa5\x061234\x0a\x03\x0a\x01a\x0a\x03\x1a\x01n";
    check_bytes(POD, bytes, Ok(json!({"metadata": {"name": "a", "namespace": "n"}})));
}

#[test]
fn a_map_takes_its_entries_as_they_come() {
    // Labels b, a, and b once more, in two parts of the metadata.
    let parts = b"\x0a\x10\x5a\x06\x0a\x01b\x12\x011\x5a\x06\x0a\x01a\x12\x012\x0a\x08\x5a\x06\x0a\x01b\x12\x013";
    check_bytes(POD, parts, Ok(json!({"metadata": {"labels": {"a": "2", "b": "3"}}})));
}

#[test]
fn broken_messages_are_refused() {
    check_bytes(POD, b"\x0a", Err("proto: unexpected EOF"));
    check_bytes(POD, b"\x0a\x05a", Err("proto: unexpected EOF"));
    check_bytes(POD, b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", Err("proto: unexpected EOF"));
    check_bytes(POD, b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", Err("proto: integer overflow"));
    check_bytes(POD, b"\x08\x01", Err("proto: wrong wireType = 0 for field Pod.metadata"));
    check_bytes(POD, b"\x00\x01", Err("proto: illegal tag 0"));
    check_bytes(POD, b"\x0b", Err("proto: illegal wireType 3"));
    check_bytes(POD, b"\x0a\x03\x0a\x01\xff", Err("proto: field ObjectMeta.name is no valid UTF-8"));
    let kind = Gvk { group: "".into(), version: "v1".into(), kind: "Pod".into() };
    assert!(matches!(decode_object(b"{}", &kind), Err(Error::Magic)));
    assert!(matches!(decode_object(b"k8s\0\x0a\x07\x0a\x02v1\x12\x01X", &kind), Err(Error::Kind { .. })));
    assert_eq!(decode_object(MAGIC, &kind).unwrap().into_json(), json!({"apiVersion": "v1", "kind": "Pod"}));
}

#[test]
fn deep_nesting_and_floods_are_refused() {
    let props = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
    let not = table::table().named(&props["io.k8s.".len()..]).unwrap().by_json("not").unwrap();
    let mut value = json!({});
    for _ in 0..NESTING_MAX - 2 {
        value = json!({"not": value});
    }
    assert_eq!(decode(&written(&value, props).unwrap(), props).unwrap().into_json(), value);
    for _ in 0..3 {
        value = json!({"not": value});
    }
    assert!(matches!(written(&value, props), Err(Error::Nesting)));
    let mut deep = Vec::new();
    for _ in 0..400 {
        let mut next = vec![((not.number << 3 | 2) & 0x7f) as u8 | 0x80, (not.number >> 4) as u8];
        let length = deep.len();
        next.extend([(length & 0x7f) as u8 | 0x80, (length >> 7) as u8]);
        next.append(&mut deep);
        deep = next;
    }
    assert!(matches!(decode(&deep, props), Err(Error::Nesting)));
    let flood = b"\x32\x00".repeat(VALUES_MAX + 1);
    assert!(matches!(decode(&flood, "io.k8s.api.core.v1.Container"), Err(Error::Values)));
}

#[test]
fn a_frame_has_its_length_and_the_object_whole() {
    let object = br#"{"apiVersion":"v1","kind":"X","metadata":{"name":"a"}}"#;
    let framed = frame("ADDED", object, Some(("v1", "ConfigMap"))).unwrap();
    let whole = encode_as(object, "v1", "ConfigMap").unwrap();
    let length = whole.len() as u8;
    let head = [b"\x00\x00\x00", &[length + 11][..], b"\x0a\x05ADDED\x12", &[length + 2], b"\x0a", &[length]].concat();
    assert_eq!(framed, [head, whole].concat());
}

/// Any value of a type, with a field or two of each kind.
fn sample(ty: &table::Type, depth: usize) -> Value {
    use table::{Kind, Label};
    let one = |kind: Kind| match kind {
        Kind::String => json!("s"),
        Kind::Bytes => json!("AQI="),
        Kind::Bool => json!(true),
        Kind::Int32 => json!(-7),
        Kind::Int64 => json!(1i64 << 40),
        Kind::Double => json!(0.25),
        Kind::Json => json!({"free": ["form", 1]}),
        Kind::Message(inner) => {
            let inner = table::table().at(inner);
            match inner.special {
                Some(special::Special::IntOrString) => json!("50%"),
                Some(special::Special::Quantity) => json!("1Gi"),
                Some(special::Special::Time) => json!("2024-05-01T12:00:00Z"),
                Some(special::Special::MicroTime) => json!("2024-05-01T12:00:00.000250Z"),
                Some(special::Special::Json) => json!({"any": null}),
                Some(special::Special::Items) => json!(["a", "b"]),
                Some(special::Special::SchemaOrArray | special::Special::SchemaOrNames) => json!({"type": "x"}),
                Some(special::Special::SchemaOrBool) => json!(true),
                None => sample(inner, depth + 1),
            }
        }
    };
    let mut object = Map::new();
    if depth > 8 {
        return Value::Object(object);
    }
    for field in &ty.fields {
        match field.label {
            Label::One => drop(object.insert(field.json.to_owned(), one(field.kind))),
            Label::Repeated => drop(object.insert(field.json.to_owned(), json!([one(field.kind)]))),
            Label::Map => drop(object.insert(field.json.to_owned(), json!({"k": one(field.kind)}))),
            Label::Inline => {
                let Value::Object(mut inner) = one(field.kind) else { unreachable!("an embedded type is a message") };
                object.append(&mut inner);
            }
        }
    }
    Value::Object(object)
}

#[test]
fn every_field_of_every_type_survives_the_wire() {
    for ty in table::table().types().iter().filter(|ty| ty.special.is_none() && !ty.name.contains("JSONSchemaProps")) {
        let value = sample(ty, 7);
        let bytes = written(&value, ty.name).unwrap_or_else(|error| panic!("{}: {error}", ty.name));
        assert_eq!(decode(&bytes, ty.name).unwrap().into_json(), value, "{}", ty.name);
    }
}

proptest! {
    #[test]
    fn no_bytes_are_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let kind = Gvk { group: "".into(), version: "v1".into(), kind: "Pod".into() };
        let _ = decode(&bytes, POD);
        let _ = decode_object(&[MAGIC, &bytes].concat(), &kind);
    }

    #[test]
    fn no_damage_is_too_odd(at in 0usize..4000, byte in any::<u8>()) {
        let pod = table::table().named("api.core.v1.Pod").unwrap();
        let mut bytes = written(&sample(pod, 4), POD).unwrap();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(value) = decode(&bytes, POD) {
            written(&value.into_json(), POD).expect("what was read can be written");
        }
    }
}
