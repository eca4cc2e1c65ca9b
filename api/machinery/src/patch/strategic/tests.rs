use proptest::prelude::*;
use proptest::strategy::Strategy as Generator;
use serde_json::json;

use super::*;

const DEPLOYMENT: &str = "io.k8s.api.apps.v1.Deployment";
const POD: &str = "io.k8s.api.core.v1.Pod";

fn check(type_name: &str, original: Value, patch: Value, expected: Value) {
    let mut patched = original;
    strategic(&mut patched, &patch, type_name).unwrap_or_else(|error| panic!("{patch}: {error}"));
    assert_eq!(patched, expected, "{patch}");
    let mut again = patched.clone();
    strategic(&mut again, &patch, type_name).unwrap();
    assert_eq!(again, patched, "not idempotent: {patch}");
}

fn refused(type_name: &str, original: Value, patch: Value) -> Error {
    strategic(&mut original.clone(), &patch, type_name).expect_err("refused")
}

fn pod(spec: Value) -> Value {
    json!({"spec": spec})
}

#[test]
fn containers_merge_by_name_and_new_ones_come_first() {
    check(
        POD,
        pod(json!({"containers": [{"name": "a", "image": "a:1", "args": ["x", "y"]}, {"name": "b"}]})),
        pod(json!({"containers": [{"name": "a", "image": "a:2", "args": ["z"]}, {"name": "c", "tty": null}]})),
        pod(json!({"containers": [{"name": "a", "image": "a:2", "args": ["z"]}, {"name": "c"}, {"name": "b"}]})),
    );
}

#[test]
fn lists_without_a_strategy_are_replaced() {
    check(
        POD,
        pod(json!({"tolerations": [{"key": "a"}, {"key": "b"}]})),
        pod(json!({"tolerations": [{"key": "c"}]})),
        pod(json!({"tolerations": [{"key": "c"}]})),
    );
}

#[test]
fn lists_merge_inside_merged_list_items() {
    check(
        DEPLOYMENT,
        json!({"spec": {"template": pod(json!({"containers": [
            {"name": "web", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
             "ports": [{"containerPort": 80, "name": "http"}]}]}))}}),
        json!({"spec": {"template": pod(json!({"containers": [
            {"name": "web", "env": [{"name": "B", "value": "3"}], "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}))}}),
        json!({"spec": {"template": pod(json!({"containers": [
            {"name": "web", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "3"}],
             "ports": [{"containerPort": 80, "name": "http", "protocol": "TCP"}]}]}))}}),
    );
}

#[test]
fn a_directive_deletes_or_replaces_items() {
    let original = || pod(json!({"containers": [{"name": "a"}, {"name": "b"}]}));
    check(
        POD,
        original(),
        pod(json!({"containers": [{"name": "a", "$patch": "delete"}, {"name": "zz", "$patch": "delete"}]})),
        pod(json!({"containers": [{"name": "b"}]})),
    );
    check(
        POD,
        original(),
        pod(json!({"containers": [{"name": "c"}, {"$patch": "replace"}]})),
        pod(json!({"containers": [{"name": "c"}]})),
    );
    check(POD, original(), pod(json!({"$patch": "replace", "nodeName": "n"})), pod(json!({"nodeName": "n"})));
    check(POD, original(), json!({"spec": {"$patch": "delete"}}), json!({"spec": {}}));
}

#[test]
fn retain_keys_drops_the_others() {
    check(
        DEPLOYMENT,
        json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
        json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
        json!({"spec": {"strategy": {"type": "Recreate"}}}),
    );
    check(
        POD,
        pod(json!({"volumes": [{"name": "v", "emptyDir": {}}, {"name": "w"}]})),
        pod(json!({"volumes": [{"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}]})),
        pod(json!({"volumes": [{"name": "v", "configMap": {"name": "c"}}, {"name": "w"}]})),
    );
    let stray = pod(json!({"volumes": [{"name": "v", "$retainKeys": ["name"], "configMap": {}}]}));
    let original = pod(json!({"volumes": [{"name": "v"}]}));
    assert_eq!(refused(POD, original, stray), Error::Malformed("invalid patch format of retainKeys".into()));
}

#[test]
fn finalizers_merge_and_are_deleted_by_value() {
    let with = |finalizers: Value| json!({"metadata": {"finalizers": finalizers}});
    check(POD, with(json!(["a", "b"])), with(json!(["b", "c"])), with(json!(["a", "b", "c"])));
    let mut patched = with(json!(["a", "b"]));
    strategic(&mut patched, &json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}), POD).unwrap();
    assert_eq!(patched, with(json!(["b"])));
    check(
        POD,
        with(json!(["a", "b", "c"])),
        json!({"metadata": {"$setElementOrder/finalizers": ["c", "b"], "$deleteFromPrimitiveList/finalizers": ["a"]}}),
        with(json!(["c", "b"])),
    );
}

#[test]
fn element_order_sorts_and_keeps_the_servers_items_in_place() {
    let named = |names: &[&str]| names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>();
    check(
        POD,
        pod(json!({"containers": named(&["a", "injected", "b"])})),
        pod(
            json!({"$setElementOrder/containers": named(&["b", "a", "c"]), "containers": [{"name": "c", "image": "i"}]}),
        ),
        pod(json!({"containers": [{"name": "injected"}, {"name": "b"}, {"name": "a"}, {"name": "c", "image": "i"}]})),
    );
    check(
        POD,
        pod(json!({"containers": named(&["a", "b"])})),
        pod(json!({"$setElementOrder/containers": named(&["b"]), "containers": [{"name": "a", "$patch": "delete"}]})),
        pod(json!({"containers": named(&["b"])})),
    );
    let disorder = pod(json!({"$setElementOrder/containers": named(&["a", "b"]), "containers": named(&["b", "a"])}));
    assert!(matches!(refused(POD, pod(json!({"containers": named(&["a"])})), disorder), Error::Schema(_)));
}

#[test]
fn a_label_is_removed_with_null_and_unknown_fields_are_named() {
    check(
        POD,
        json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
        json!({"metadata": {"labels": {"a": null, "c": "3"}}}),
        json!({"metadata": {"labels": {"b": "2", "c": "3"}}}),
    );
    let error = refused(POD, pod(json!({"bogus": {"a": 1}})), pod(json!({"bogus": {"b": 1}})));
    assert_eq!(error.to_string(), "unable to find api field in struct PodSpec for the json field \"bogus\"");
}

#[test]
fn broken_patches_are_refused() {
    let original = || pod(json!({"containers": [{"name": "a"}], "nodeName": "n"}));
    for patch in [
        json!([]),
        pod(json!({"containers": [{"image": "x"}]})),
        pod(json!({"containers": ["x"]})),
        pod(json!({"containers": [["x"]]})),
        pod(json!({"$patch": "nonsense"})),
        pod(json!({"$retainKeys": "x"})),
        pod(json!({"$setElementOrder/containers": "x"})),
        pod(json!({"$setElementOrder/containers": [{"image": "x"}]})),
        pod(json!({"$setElementOrder/nodeName": []})),
        pod(json!({"$deleteFromPrimitiveList/containers": 1})),
        pod(json!({"containers": [{"name": "a", "$patch": "merge"}]})),
    ] {
        refused(POD, original(), patch);
    }
}

/// A patch or a document that looks like part of a Pod, with directives thrown in.
fn any_value() -> impl Generator<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..3i64).prop_map(Value::from),
        prop_oneof![Just("a"), Just("b"), Just("delete"), Just("replace")].prop_map(Value::from),
    ];
    let key = prop_oneof![
        Just("spec"),
        Just("metadata"),
        Just("containers"),
        Just("name"),
        Just("env"),
        Just("finalizers"),
        Just("volumes"),
        Just("$patch"),
        Just("$retainKeys"),
        Just("$setElementOrder/containers"),
        Just("$deleteFromPrimitiveList/finalizers"),
    ];
    leaf.prop_recursive(6, 48, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(key.clone(), inner, 0..5).prop_map(|map| map
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect::<Map<_, _>>()
                .into()),
        ]
    })
}

proptest! {
    #[test]
    fn no_patch_panics_or_leaves_directives_behind(original in any_value(), patch in any_value()) {
        fn has_directive(value: &Value) -> bool {
            match value {
                Value::Object(map) => map.iter().any(|(key, value)| key.starts_with('$') || has_directive(value)),
                Value::Array(list) => list.iter().any(has_directive),
                _ => false,
            }
        }
        let original = clean(original).unwrap_or_default();
        let mut patched = original.clone();
        if strategic(&mut patched, &patch, POD).is_ok() && !has_directive(&original) {
            prop_assert!(!has_directive(&patched), "{patched}");
        }
    }

    #[test]
    fn an_empty_patch_changes_nothing(original in any_value()) {
        prop_assume!(original.is_object());
        let mut patched = original.clone();
        strategic(&mut patched, &json!({}), POD).unwrap();
        prop_assert_eq!(patched, original);
    }
}
