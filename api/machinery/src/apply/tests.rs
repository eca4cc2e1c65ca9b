//! Merges and ownership, after structured-merge-diff's own suites.

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::tree::Value;

const NOW: &str = "2026-01-01T00:00:00Z";

fn deployment() -> Root {
    Root::built_in("io.k8s.api.apps.v1.Deployment")
}

/// An object whose managed fields are kept beside it, written by several hands.
struct State {
    root: Root,
    filter: Filter,
    live: Option<Json>,
    managed: Option<String>,
}

impl State {
    fn new(root: Root) -> Self {
        Self { root, filter: Filter::Reset(Set::of(&[&["status"]])), live: None, managed: None }
    }

    fn tracked<T>(&self, work: impl FnOnce(Tracker<'_>) -> T) -> T {
        let (api_version, kind) = ("apps/v1", "Deployment");
        let knows = |version: &str| version == api_version;
        let now = NOW.parse().expect("a time");
        work(Tracker { root: &self.root, api_version, kind, subresource: "", filter: &self.filter, knows: &knows, now })
    }

    fn apply(&mut self, manager: &str, yaml: &str, force: bool) -> Result<(), String> {
        let config = object(yaml);
        let live = self.live.clone();
        let applied = self.tracked(|tracker| {
            let live = live.as_ref().map(Value::from);
            let held = self.managed.as_deref().map(str::as_bytes);
            let applied = tracker.apply(live.as_ref(), held, &Value::from(&config), manager, force);
            applied.map(|applied| (applied.object.into_json(), applied.managed)).map_err(|error| error.message)
        })?;
        (self.live, self.managed) = (Some(applied.0), applied.1);
        Ok(())
    }

    fn update(&mut self, manager: &str, yaml: &str) {
        let new = object(yaml);
        let managed = self.tracked(|tracker| match &self.live {
            None => tracker.create(&Value::from(&new), Sent::Nothing, manager).expect("a create"),
            Some(live) => {
                let held = self.managed.as_deref().map(str::as_bytes);
                let changed = tracker.update(&Value::from(live), &Value::from(&new), held, Sent::Nothing, manager);
                changed.expect("an update").unwrap_or_else(|| self.managed.clone())
            }
        });
        (self.live, self.managed) = (Some(new), managed);
    }

    /// `manager operation: paths`, a line each.
    #[track_caller]
    fn owned(&self, expected: &[&str]) {
        let managers = Managers::parse(self.managed.as_deref().unwrap_or("[]").as_bytes()).expect("managed fields");
        let shown: Vec<String> = managers
            .0
            .iter()
            .map(|(id, held)| {
                let paths: Vec<String> = held.fields.paths().iter().map(ToString::to_string).collect();
                format!("{} {}: {}", id.manager, id.operation.name(), paths.join(" "))
            })
            .collect();
        assert_eq!(shown, expected);
    }

    #[track_caller]
    fn is(&self, yaml: &str) {
        assert_eq!(self.live, Some(object(yaml)));
    }
}

fn object(yaml: &str) -> Json {
    let mut json: Json = serde_yaml::from_str(yaml).expect("YAML");
    json["apiVersion"] = json!("apps/v1");
    json["kind"] = json!("Deployment");
    json
}

#[test]
fn field_sets_are_written_as_upstream_writes_them() {
    let json = object(
        "{metadata: {name: web, labels: {app: web}, finalizers: ['x.io/a<b']}, spec: {replicas: 1, template: {spec: {nodeSelector: {a: b}, containers: [{name: main, args: [x], ports: [{containerPort: 80}]}]}}}}",
    );
    let set = fields(&Value::from(&json), &deployment()).unwrap();
    let mut text = String::new();
    set.write(&mut text);
    assert_eq!(
        text,
        concat!(
            r#"{"f:apiVersion":{},"f:kind":{},"f:metadata":{"f:finalizers":{"v:\"x.io/a\\u003cb\"":{}},"f:labels":{"f:app":{}},"f:name":{}},"#,
            r#""f:spec":{"f:replicas":{},"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"main\"}":{".":{},"f:args":{},"f:name":{},"#,
            r#""f:ports":{"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{}}}}},"f:nodeSelector":{}}}}}"#
        )
    );
    assert_eq!(Set::read(&Value::parse(text.as_bytes()).unwrap()), Ok(set));
}

#[test]
fn a_create_owns_its_fields_as_an_update() {
    let mut state = State::new(deployment());
    state.update(
        "kubectl",
        "{metadata: {name: web, labels: {app: web}}, spec: {replicas: 1, strategy: {type: Recreate}, template: {spec: {containers: [{name: main, resources: {}}]}}}, status: {replicas: 1}}",
    );
    // Structs that Go never leaves out have no entry of their own; the items of a list and maps do.
    assert_eq!(
        state.managed.as_deref().unwrap(),
        concat!(
            r#"[{"apiVersion":"apps/v1","fieldsType":"FieldsV1","fieldsV1":{"f:metadata":{"f:labels":{".":{},"f:app":{}}},"#,
            r#""f:spec":{"f:replicas":{},"f:strategy":{"f:type":{}},"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"main\"}":{".":{},"f:name":{},"f:resources":{}}}}}}},"#,
            r#""manager":"kubectl","operation":"Update","time":"2026-01-01T00:00:00Z"}]"#
        )
    );
}

#[test]
fn an_update_takes_what_it_changes() {
    let mut state = State::new(deployment());
    state.apply("a", "{metadata: {name: web}, spec: {replicas: 1, paused: true}}", false).unwrap();
    state.update("b", "{metadata: {name: web}, spec: {replicas: 2, paused: true}}");
    state.owned(&["a Apply: .spec.paused", "b Update: .spec.replicas"]);
    state.update("b", "{metadata: {name: web}, spec: {replicas: 2}}");
    state.owned(&["b Update: .spec.replicas"]);
}

#[test]
fn an_apply_meets_conflicts_and_force_ends_them() {
    let mut state = State::new(deployment());
    state.update("scaler", "{metadata: {name: web}, spec: {replicas: 3}}");
    let why = state.apply("a", "{metadata: {name: web}, spec: {replicas: 1}}", false).unwrap_err();
    assert_eq!(why, r#"Apply failed with 1 conflict: conflict with "scaler" using apps/v1: .spec.replicas"#);
    state.apply("a", "{metadata: {name: web}, spec: {replicas: 1}}", true).unwrap();
    state.owned(&["a Apply: .spec.replicas"]);
    let why = state.apply("b", "{metadata: {name: web}, spec: {replicas: 2, paused: true}}", false).unwrap_err();
    assert_eq!(why, r#"Apply failed with 1 conflict: conflict with "a": .spec.replicas"#);
    // The same value is shared.
    state.apply("b", "{metadata: {name: web}, spec: {replicas: 1}}", false).unwrap();
    state.owned(&["a Apply: .spec.replicas", "b Apply: .spec.replicas"]);
}

#[test]
fn several_conflicts_are_listed_by_manager() {
    let mut state = State::new(deployment());
    state.apply("a", "{metadata: {name: web, labels: {x: '1', y: '1'}}}", false).unwrap();
    state.apply("b", "{metadata: {name: web}, spec: {replicas: 1}}", false).unwrap();
    let config = "{metadata: {name: web, labels: {x: '2', y: '2'}}, spec: {replicas: 2}}";
    let why = state.apply("c", config, false).unwrap_err();
    assert_eq!(
        why,
        "Apply failed with 3 conflicts: conflicts with \"a\":\n- .metadata.labels.x\n- .metadata.labels.y\nconflicts with \"b\":\n- .spec.replicas"
    );
}

#[test]
fn what_nobody_applies_any_more_goes() {
    let mut state = State::new(deployment());
    state.apply("a", "{metadata: {name: web, labels: {x: '1', y: '1'}}, spec: {replicas: 1}}", false).unwrap();
    state.apply("b", "{metadata: {name: web, labels: {y: '1'}}}", false).unwrap();
    state.apply("a", "{metadata: {name: web}}", false).unwrap();
    state.is("{metadata: {name: web, labels: {y: '1'}}}");
    state.owned(&["b Apply: .metadata.labels.y"]);
}

#[test]
fn list_items_are_merged_by_key() {
    let pod = |containers: &str| {
        format!("{{metadata: {{name: web}}, spec: {{template: {{spec: {{containers: {containers}}}}}}}}}")
    };
    let mut state = State::new(deployment());
    state.apply("a", &pod("[{name: one, image: a}, {name: two, image: a}]"), false).unwrap();
    state.apply("b", &pod("[{name: three, image: b}, {name: two, tty: true}]"), false).unwrap();
    state.is(&pod("[{name: one, image: a}, {name: three, image: b}, {name: two, image: a, tty: true}]"));
    state.apply("a", &pod("[{name: two, image: c}]"), false).unwrap();
    state.is(&pod("[{name: three, image: b}, {name: two, image: c, tty: true}]"));
    state.apply("b", &pod("[{name: three, image: b}]"), false).unwrap();
    state.is(&pod("[{name: three, image: b}, {name: two, image: c}]"));
}

#[test]
fn ports_are_told_apart_by_protocol_with_a_default() {
    let pod = |ports: &str| {
        format!(
            "{{metadata: {{name: web}}, spec: {{template: {{spec: {{containers: [{{name: c, ports: {ports}}}]}}}}}}}}"
        )
    };
    let mut state = State::new(deployment());
    state.apply("a", &pod("[{containerPort: 53}, {containerPort: 53, protocol: UDP}]"), false).unwrap();
    state.apply("b", &pod("[{containerPort: 53, protocol: TCP, name: dns}]"), false).unwrap();
    state.is(&pod("[{containerPort: 53, protocol: TCP, name: dns}, {containerPort: 53, protocol: UDP}]"));
}

#[test]
fn sets_and_atomic_lists() {
    let mut state = State::new(deployment());
    state.apply("a", "{metadata: {name: web, finalizers: [x.io/a, x.io/b]}}", false).unwrap();
    state.apply("b", "{metadata: {name: web, finalizers: [x.io/c, x.io/b]}}", false).unwrap();
    state.apply("a", "{metadata: {name: web, finalizers: [x.io/b]}}", false).unwrap();
    state.is("{metadata: {name: web, finalizers: [x.io/c, x.io/b]}}");
    let duplicate = state.apply("a", "{metadata: {name: web, finalizers: [x.io/b, x.io/b]}}", false).unwrap_err();
    assert!(duplicate.contains(r#".metadata.finalizers: duplicate entries for key [="x.io/b"]"#), "{duplicate}");
}

#[test]
fn an_object_that_was_not_tracked_is_owned_by_the_past() {
    let mut state = State::new(deployment());
    state.live = Some(object("{metadata: {name: web, uid: '1'}, spec: {replicas: 1, paused: true}}"));
    state.apply("a", "{metadata: {name: web}, spec: {replicas: 1}}", false).unwrap();
    state.owned(&["a Apply: .spec.replicas", "before-first-apply Update: .spec.paused .spec.replicas"]);
}

#[test]
fn kubectl_takes_over_from_client_side_apply() {
    let last =
        r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"paused":true,"replicas":3}}"#;
    let live = |replicas: u8| {
        format!(
            "{{metadata: {{name: web, annotations: {{{LAST_APPLIED}: '{last}'}}}}, spec: {{replicas: {replicas}, paused: true}}}}"
        )
    };
    let mut state = State::new(deployment());
    state.update("kubectl-client-side-apply", &live(3));
    let config = "{metadata: {name: web}, spec: {replicas: 5, paused: true}}";
    state.apply("other", config, false).unwrap_err();
    state.apply("kubectl", config, false).unwrap();
    let live = state.live.clone().unwrap();
    assert_eq!(live["spec"]["replicas"], 5);
    let refreshed: Json =
        serde_json::from_str(live["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap()).unwrap();
    assert_eq!(refreshed["spec"], json!({"replicas": 5, "paused": true}));
}

#[test]
fn a_configuration_is_refused_in_upstreams_words() {
    let mut state = State::new(deployment());
    let mut check = |yaml: &str, expected: &str| assert_eq!(state.apply("a", yaml, false).unwrap_err(), expected);
    check(
        "{metadata: {name: web, namespace: d}, spec: {nonsense: 1}}",
        "failed to create typed patch object (d/web; apps/v1, Kind=Deployment): .spec.nonsense: field not declared in schema",
    );
    check("{metadata: {name: web, managedFields: []}}", "metadata.managedFields must be nil");
    check(
        "{metadata: {name: web}, spec: {template: {spec: {containers: [{image: x}]}}}}",
        "failed to create typed patch object (/web; apps/v1, Kind=Deployment): .spec.template.spec.containers: element 0: associative list with keys has an element that omits key field \"name\" (and doesn't have default value)",
    );
}

#[test]
fn old_updaters_are_put_down_to_the_past() {
    let mut state = State::new(deployment());
    let labels = |count: usize| {
        let all: Vec<String> = (0..count).map(|n| format!("l{n}: x")).collect();
        format!("{{metadata: {{name: web, labels: {{{}}}}}}}", all.join(", "))
    };
    for n in 1..=14 {
        state.update(&format!("m{n:02}"), &labels(n));
    }
    let managers = Managers::parse(state.managed.as_deref().unwrap().as_bytes()).unwrap();
    assert_eq!(managers.0.len(), UPDATE_MANAGERS_MAX);
    assert!(managers.0.contains_key(&Id::update("ancient-changes", "apps/v1", "")));
}

#[test]
fn a_schema_that_changes_changes_who_owns() {
    let schema = |atomic: bool| {
        let kind = if atomic { "atomic" } else { "granular" };
        Root::custom(
            &json!({"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-map-type": kind,
                "properties": {"a": {"type": "string"}, "b": {"type": "string"}}}}}),
            false,
        )
    };
    let mut state = State::new(schema(false));
    state.apply("one", "{metadata: {name: x}, spec: {a: '1', b: '1'}}", false).unwrap();
    state.root = schema(true);
    state.apply("two", "{metadata: {name: x}}", false).unwrap();
    state.owned(&["one Apply: .spec"]);
    state.root = schema(false);
    state.apply("two", "{metadata: {name: x}, spec: {a: '1'}}", false).unwrap();
    state.owned(&["one Apply: .spec .spec.a .spec.b", "two Apply: .spec.a"]);
}

/// Anything that a client may send.
fn any_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i32>().prop_map(Json::from),
        "[a-c]{0,2}".prop_map(Json::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            prop::collection::btree_map("(name|ports|containerPort|protocol|f:[a-c]|k:\\{\"a\":1\\}|\\.)", inner, 0..4)
                .prop_map(|map| Json::Object(map.into_iter().collect())),
        ]
    })
}

/// A deployment with any of a few fields.
fn any_deployment() -> impl Strategy<Value = String> {
    let container = ("[a-c]", "[xy]", 0..3u8, any::<bool>()).prop_map(|(name, image, port, tty)| {
        format!("{{name: {name}, image: {image}, tty: {tty}, ports: [{{containerPort: {}}}]}}", 80 + port)
    });
    let containers = prop::collection::vec(container, 0..3).prop_map(|mut items| {
        items.sort();
        items.dedup_by(|a, b| a[..8] == b[..8]);
        items.join(", ")
    });
    let labels = prop::collection::btree_map("[a-c]", "[xy]", 0..3)
        .prop_map(|labels| labels.iter().map(|(key, value)| format!("{key}: {value}")).collect::<Vec<_>>().join(", "));
    (labels, 0..3u8, containers).prop_map(|(labels, replicas, containers)| {
        format!("{{metadata: {{name: web, labels: {{{labels}}}}}, spec: {{replicas: {replicas}, template: {{spec: {{containers: [{containers}]}}}}}}}}")
    })
}

proptest! {
    #[test]
    fn no_input_panics(live in any_json(), config in any_json(), managed in any_json()) {
        let root = deployment();
        let mut live = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": live.clone(), "spec": {"template": {"spec": {"containers": live}}}});
        let config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": config.clone(), "spec": {"template": {"spec": {"containers": [config]}}}});
        let state = State::new(root);
        let text = managed.to_string();
        let _ = Set::read(&Value::from(&managed));
        let _ = Sent::read(&Value::from(&managed));
        state.tracked(|tracker| {
            let _ = tracker.apply(Some(&Value::from(&live)), Some(text.as_bytes()), &Value::from(&config), "a", true);
            let _ = tracker.update(&Value::from(&live), &Value::from(&config), Some(text.as_bytes()), Sent::Nothing, "a");
        });
        live["status"] = managed;
        let _ = fields(&Value::from(&live), &Root::deduced());
    }

    #[test]
    fn an_apply_is_idempotent(first in any_deployment(), second in any_deployment()) {
        let mut state = State::new(deployment());
        state.apply("a", &first, false).unwrap();
        state.apply("b", &second, true).unwrap();
        let (live, managed) = (state.live.clone(), state.managed.clone());
        state.apply("b", &second, false).unwrap();
        prop_assert_eq!(&state.live, &live);
        prop_assert_eq!(&state.managed, &managed);
    }

    #[test]
    fn what_is_compared_adds_up(old in any_deployment(), new in any_deployment()) {
        let root = deployment();
        let (old, new) = (object(&old), object(&new));
        let changes = compare(&Value::from(&old), &Value::from(&new), root.get()).unwrap();
        let before = fields(&Value::from(&old), &root).unwrap();
        let after = fields(&Value::from(&new), &root).unwrap();
        for path in changes.modified.paths() {
            prop_assert!(before.has(&path.0) && after.has(&path.0), "{}", path);
        }
        prop_assert!(before.intersection(&changes.added).difference(&after).is_empty());
        prop_assert_eq!(old == new, changes.is_empty());
    }
}
