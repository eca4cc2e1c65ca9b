use serde_json::{Value, json};
use wharf_types::field::Path;

use super::*;
use crate::cel::Budget;

fn schema(yaml: &str) -> Schema {
    Schema::new(&serde_yaml::from_str::<Value>(yaml).unwrap())
}

fn value(yaml: &str) -> Value {
    serde_yaml::from_str(yaml).unwrap()
}

const CRON: &str = "
type: object
properties:
  spec:
    type: object
    required: [cron]
    properties:
      cron: {type: string, pattern: '^[0-9*]+$', maxLength: 5}
      image: {type: string, default: web, enum: [web, job]}
      replicas: {type: integer, minimum: 1, maximum: 10, default: 1, format: int32}
      ratio: {type: number, exclusiveMinimum: true, minimum: 0, multipleOf: 0.5}
      port: {x-kubernetes-int-or-string: true}
      note: {type: string, nullable: true}
      when: {type: string, format: date-time}
      tags: {type: array, maxItems: 2, items: {type: string}, x-kubernetes-list-type: set}
      ports:
        type: array
        x-kubernetes-list-type: map
        x-kubernetes-list-map-keys: [name]
        items: {type: object, required: [name], properties: {name: {type: string}, number: {type: integer, maximum: 9, default: 1}}}
      labels: {type: object, maxProperties: 2, additionalProperties: {type: string}}
      anything: {type: object, x-kubernetes-preserve-unknown-fields: true, properties: {known: {type: integer}}}
      choice: {type: object, properties: {a: {type: string}, b: {type: string}}, oneOf: [{required: [a]}, {required: [b]}]}
      pod: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}
";

#[track_caller]
fn check(object: &str, old: Option<&str>, expected: &[&str]) {
    let schema = schema(CRON);
    let (object, old) = (value(object), old.map(value));
    let mut errors = schema.validate(&object, old.as_ref());
    errors.extend(schema.validate_lists(&object, &Path::root()));
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors, expected, "{object}");
}

#[test]
fn values_are_refused_in_upstreams_words() {
    check("{spec: {cron: '*', port: 80, note: null, when: '2024-01-01T00:00:00Z'}}", None, &[]);
    check("{spec: {}}", None, &["spec.cron: Required value"]);
    check(
        "{spec: {cron: 5}}",
        None,
        &["spec.cron: Invalid value: \"integer\": spec.cron in body must be of type string: \"integer\""],
    );
    check(
        "{spec: {cron: 'x'}}",
        None,
        &["spec.cron: Invalid value: \"x\": spec.cron in body should match '^[0-9*]+$'"],
    );
    check("{spec: {cron: '123456'}}", None, &["spec.cron: Too long: may not be more than 5 bytes"]);
    check(
        "{spec: {cron: '*', image: x}}",
        None,
        &["spec.image: Unsupported value: \"x\": supported values: \"web\", \"job\""],
    );
    check(
        "{spec: {cron: '*', replicas: 11, ratio: 0}}",
        None,
        &[
            "spec.ratio: Invalid value: 0: spec.ratio in body should be greater than 0",
            "spec.replicas: Invalid value: 11: spec.replicas in body should be less than or equal to 10",
        ],
    );
    check(
        "{spec: {cron: '*', ratio: 0.7}}",
        None,
        &["spec.ratio: Invalid value: 0.7: spec.ratio in body should be a multiple of 0.5"],
    );
    check(
        "{spec: {cron: '*', port: 1.5}}",
        None,
        &["spec.port: Invalid value: \"number\": spec.port in body must be of type integer,string: \"number\""],
    );
    check(
        "{spec: {cron: '*', when: tomorrow}}",
        None,
        &["spec.when: Invalid value: \"tomorrow\": spec.when in body must be of type date-time: \"tomorrow\""],
    );
    check("{spec: {cron: '*', tags: [a, b, c]}}", None, &["spec.tags: Too many: 3: must have at most 2 items"]);
    check("{spec: {cron: '*', tags: [a, a]}}", None, &["spec.tags[1]: Duplicate value: \"a\""]);
    check(
        "{spec: {cron: '*', ports: [{name: a}, {name: a}]}}",
        None,
        &["spec.ports[1]: Duplicate value: {\"name\":\"a\"}"],
    );
    check(
        "{spec: {cron: '*', labels: {a: 1}}}",
        None,
        &["spec.labels.a: Invalid value: \"integer\": spec.labels.a in body must be of type string: \"integer\""],
    );
    check(
        "{spec: {cron: '*', choice: {a: x, b: y}}}",
        None,
        &[
            "<nil>: Invalid value: \"\": \"spec.choice\" must validate one and only one schema (oneOf). Found 2 valid alternatives",
        ],
    );
    check(
        "{spec: {cron: null}}",
        None,
        &["spec.cron: Invalid value: \"null\": spec.cron in body must be of type string: \"null\""],
    );
}

#[test]
fn what_was_wrong_before_is_not_held_against_an_update() {
    let old = "{spec: {cron: 'bad', replicas: 99, ports: [{name: a, number: 50}]}}";
    check("{spec: {cron: 'bad', replicas: 99, image: job, ports: [{name: b}, {name: a, number: 50}]}}", Some(old), &[]);
    check(
        "{spec: {cron: 'bad', replicas: 98}}",
        Some(old),
        &["spec.replicas: Invalid value: 98: spec.replicas in body should be less than or equal to 10"],
    );
}

#[test]
fn unknown_fields_go_and_are_told() {
    let mut object = value(
        "{apiVersion: a/v1, kind: C, metadata: {name: n, x: y}, extra: 1, spec: {cron: '*', what: 1, ports: [{name: a, z: 1}], labels: {any: x}, anything: {x: {y: 1}, known: 1}, pod: {kind: Pod, spec: {a: 1}}}}",
    );
    let mut unknown = Vec::new();
    schema(CRON).prune(&mut object, &mut |path| unknown.push(path));
    assert_eq!(unknown, ["extra", "spec.ports[0].z", "spec.what"]);
    assert_eq!(object["spec"]["anything"], json!({"x": {"y": 1}, "known": 1}));
    assert_eq!(object["metadata"], json!({"name": "n", "x": "y"}));
    assert_eq!(object["spec"]["pod"], json!({"kind": "Pod", "spec": {"a": 1}}));
}

#[test]
fn what_is_missing_gets_its_default() {
    let schema = schema(CRON);
    let mut object = value("{spec: {cron: '*', image: null, replicas: null, note: null, ports: [{name: a}]}}");
    schema.prune_nulls(&mut object);
    schema.default_object(&mut object);
    let expected =
        json!({"cron": "*", "image": "web", "replicas": 1, "note": null, "ports": [{"name": "a", "number": 1}]});
    assert_eq!(object["spec"], expected);
    let once = object.clone();
    schema.default_object(&mut object);
    assert_eq!(object, once);
    let mut nulls = value("{spec: {cron: null}}");
    schema.prune_nulls(&mut nulls);
    assert_eq!(nulls, json!({"spec": {}}));
}

#[track_caller]
fn check_rules(rules: &str, object: &str, old: Option<&str>, expected: &[&str]) {
    let schema = schema(&format!(
        "{{type: object, properties: {{spec: {{type: object, x-kubernetes-validations: {rules}, properties: {{size: {{type: integer}}, max: {{type: integer}}, name: {{type: string}}, list: {{type: array, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [k], items: {{type: object, properties: {{k: {{type: string}}, v: {{type: integer, x-kubernetes-validations: [{{rule: self >= oldSelf, message: must grow}}]}}}}}}}}}}}}}}}}"
    ));
    let rules = RuleSet::new(&schema).unwrap();
    let (object, old) = (value(object), old.map(value));
    let errors = rules.validate(&schema, &object, old.as_ref(), &mut Budget::validation());
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors, expected);
}

#[test]
fn rules_are_checked_where_they_stand() {
    check_rules("[{rule: self.size <= self.max}]", "{spec: {size: 1, max: 2}}", None, &[]);
    check_rules(
        "[{rule: self.size <= self.max}]",
        "{spec: {size: 3, max: 2}}",
        None,
        &["spec: Invalid value: \"object\": failed rule: self.size <= self.max"],
    );
    check_rules(
        "[{rule: self.size <= self.max, message: too big, fieldPath: .size, reason: FieldValueForbidden}]",
        "{spec: {size: 3, max: 2}}",
        None,
        &["spec.size: Forbidden: too big"],
    );
    check_rules(
        "[{rule: self.size <= self.max, messageExpression: '\"size \" + string(self.size)'}]",
        "{spec: {size: 3, max: 2}}",
        None,
        &["spec: Invalid value: \"object\": size 3"],
    );
    check_rules(
        "[{rule: self.name == 'x'}]",
        "{spec: {}}",
        None,
        &["spec: Invalid value: \"object\": no such key: name evaluating rule: self.name == 'x'"],
    );
    check_rules("[{rule: self.name == oldSelf.name, message: fixed}]", "{spec: {name: b}}", None, &[]);
    check_rules(
        "[{rule: self.name == oldSelf.name, message: fixed}]",
        "{spec: {name: b}}",
        Some("{spec: {name: a}}"),
        &["spec: Invalid value: \"object\": fixed"],
    );
    check_rules(
        "[{rule: '!oldSelf.hasValue() || self.name == oldSelf.value().name', optionalOldSelf: true, message: fixed}]",
        "{spec: {name: b}}",
        Some("{spec: {name: a}}"),
        &["spec: Invalid value: \"object\": fixed"],
    );
    check_rules(
        "[{rule: 'true'}]",
        "{spec: {list: [{k: b, v: 1}, {k: a, v: 1}]}}",
        Some("{spec: {list: [{k: a, v: 2}]}}"),
        &["spec.list[1].v: Invalid value: \"integer\": must grow"],
    );
    // What has not changed is let through.
    let same = "{spec: {size: 3, max: 2}}";
    check_rules("[{rule: self.size <= self.max}]", same, Some(same), &[]);
}

#[track_caller]
fn check_structural(schema: &str, expected: &[&str]) {
    let errors: Vec<String> = invariants(&value(schema), &Path::new("s")).iter().map(ToString::to_string).collect();
    assert_eq!(errors, expected, "{schema}");
}

#[test]
fn what_is_not_structural_is_told() {
    check_structural(CRON, &[]);
    check_structural(
        "{properties: {a: {}}}",
        &[
            "s.properties[a].type: Required value: must not be empty for specified object fields",
            "s.type: Required value: must not be empty at the root",
        ],
    );
    check_structural(
        "{type: object, properties: {a: {type: array}}}",
        &["s.properties[a].items: Required value: must be specified"],
    );
    check_structural(
        "{type: object, anyOf: [{properties: {a: {minimum: 1}}}]}",
        &["s.properties[a]: Required value: because it is defined in s.anyOf[0].properties[a]"],
    );
    check_structural(
        "{type: object, properties: {a: {type: string, not: {type: integer}}}}",
        &["s.properties[a].not.type: Forbidden: must be empty to be structural"],
    );
    check_structural(
        "{type: object, properties: {a: {x-kubernetes-int-or-string: true, anyOf: [{type: integer}, {type: string}]}}}",
        &[],
    );
    check_structural(
        "{type: object, properties: {metadata: {type: object, properties: {labels: {type: object}}}}}",
        &[
            "s.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
        ],
    );
}

#[test]
fn formats_are_looked_at_where_upstream_does() {
    for (format, good, bad) in [
        ("ipv4", "10.0.0.1", "10.0.0"),
        ("ipv6", "::1", "x"),
        ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
        ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123"),
        ("email", "a@b.c", "ab"),
        ("uri", "https://a.b/c", "a b"),
        ("byte", "aGk=", "!"),
        ("date", "2024-02-29", "2023-02-29"),
        ("date-time", "2024-01-01T10:00:00.5+02:00", "2024-01-01"),
        ("duration", "1h30m", "soon"),
        ("hostname", "a.example.com", "-a"),
        ("mac", "01:02:03:04:05:06", "01"),
        ("isbn10", "0306406152", "0306406153"),
        ("isbn13", "9780306406157", "9780306406158"),
        ("creditcard", "4111111111111111", "4111"),
        ("hexcolor", "#fff", "#ggg"),
    ] {
        assert!(formats::is_valid(format, good), "{format} {good}");
        assert!(!formats::is_valid(format, bad), "{format} {bad}");
    }
    assert!(formats::is_valid("nobody-knows", "x"));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    /// Patterns of strangers neither hang nor break anything: they match in linear time, or are too large to be used.
    #[test]
    fn hostile_patterns_are_harmless(pattern in r#"(\(a\+\)\+|a\*|\(|\)|\[a-z\]|\{[0-9]{1,4}\}|\||\\w|\.|\^|\$|\?){0,12}"#) {
        let schema = Schema::new(&json!({"type": "string", "pattern": pattern}));
        let text = format!("{}!", "a".repeat(2000));
        let _ = schema.validate(&Value::String(text), None);
    }
}
