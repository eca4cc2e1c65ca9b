use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;

/// Evaluates with `self` bound to JSON of no type; errors are shown as `error: …`.
fn run(source: &str, object: &Json) -> String {
    let program = match Program::compile(source) {
        Ok(program) => program,
        Err(error) => return format!("no program: {error}"),
    };
    let variables = Variables::default().json("self", object);
    match program.evaluate(&variables, &mut Budget::validation()) {
        Ok(value) => value.to_json().map_or_else(|error| format!("error: {error}"), |json| json.to_string()),
        Err(error) => format!("error: {error}"),
    }
}

#[track_caller]
fn check(source: &str, expected: &str) {
    let object = json!({
        "name": "web", "replicas": 3, "ratio": 0.5, "tags": ["a", "b", "c"], "empty": [], "none": null,
        "labels": {"app": "x", "tier": "y"}, "items": [{"k": 1, "v": "one"}, {"k": 2, "v": "two"}],
    });
    assert_eq!(run(source, &object), expected, "{source}");
}

#[test]
fn operators_follow_cel() {
    check("1 + 2 * 3 == 7", "true");
    check("self.replicas >= 3 && self.replicas < 4u && self.replicas < 3.5", "true");
    check("-self.replicas", "-3");
    check("7 % 4 + 7 / 2", "6");
    check("9223372036854775807 + 1", "error: integer overflow");
    check("1 / 0", "error: division by zero");
    check("'a' + 'b' + self.name", "\"abweb\"");
    check("[1] + [2] == [1, 2] && {'a': 1}['a'] == 1", "true");
    check("'b' in self.tags && 'app' in self.labels && !('zzz' in self.labels)", "true");
    check("self.tags[1]", "\"b\"");
    check("self.tags[9]", "error: index out of bounds: 9");
    check("self.missing", "error: no such key: missing");
    check("self.labels['zone']", "error: no such key: zone");
    check("1 < 'a'", "error: no such overload");
    check("self.replicas ? 1 : 2", "error: no such overload");
    check("stranger", "error: undeclared reference to 'stranger' (in container '')");
}

#[test]
fn errors_do_not_matter_where_the_other_side_decides() {
    check("self.missing == 1 || true", "true");
    check("true || self.missing == 1", "true");
    check("self.missing == 1 && false", "false");
    check("self.missing == 1 || false", "error: no such key: missing");
    check("['x', 1].exists(x, x == 1 || x.foo)", "true");
    check("[{'a': 1}, {'b': 2}].all(x, x.a == 1)", "error: no such key: a");
    check("[{'b': 2}, {'a': 2}].all(x, x.a == 1)", "false");
}

#[test]
fn macros_go_over_lists_and_maps() {
    check("has(self.name) && !has(self.nope) && has(self.labels.app)", "true");
    check("self.items.all(i, i.k > 0) && self.items.exists(i, i.v == 'two')", "true");
    check("self.items.exists_one(i, i.k == 1)", "true");
    check("self.items.map(i, i.v)", "[\"one\",\"two\"]");
    check("self.items.map(i, i.k > 1, i.v)", "[\"two\"]");
    check("self.items.filter(i, i.k > 1).size()", "1");
    check("self.labels.all(k, self.labels[k].size() == 1)", "true");
    check("[[1, 2], [3]].map(x, x.map(y, y * 2))", "[[2,4],[6]]");
    check("self.tags.all(i, v, i < 3 && v != '')", "true");
    check("self.tags.transformList(i, v, i > 0, v + string(i))", "[\"b1\",\"c2\"]");
    check("self.labels.transformMap(k, v, k + v)", r#"{"app":"appx","tier":"tiery"}"#);
}

#[test]
fn optionals_carry_what_may_be_absent() {
    check("self.?missing.hasValue()", "false");
    check("self.?labels.?app.orValue('none')", "\"x\"");
    check("self.?labels.zone.orValue('none')", "\"none\"");
    check("self.tags[?7].orValue('z')", "\"z\"");
    check("self.?name.optMap(n, n + '!').value()", "\"web!\"");
    check("optional.ofNonZeroValue('').or(optional.of('a')).value()", "\"a\"");
    check("[?self.?missing, 1]", "[1]");
    check("{?'a': self.?missing, 'b': 1}", r#"{"b":1}"#);
    check("optional.none().value()", "error: optional.none() dereference");
}

#[test]
fn libraries_of_kubernetes_are_there() {
    check("'héllo'.size() == 5 && 'abc'.contains('b') && 'abc'.startsWith('a') && 'abc'.endsWith('c')", "true");
    check("'abc'.matches('^[a-c]+$') && 'ab12'.find('[0-9]+') == '12'", "true");
    check("'a,b'.split(',') == ['a', 'b'] && 'Ab'.lowerAscii() == 'ab' && ' x '.trim() == 'x'", "true");
    check("['a', 'b'].join('-')", "\"a-b\"");
    check("[3, 1, 2].sum() == 6 && [1, 2].isSorted() && [1, 3].max() == 3", "true");
    check("sets.contains([1, 2], [1]) && sets.equivalent([1], [1, 1])", "true");
    check("quantity('1Gi').isGreaterThan(quantity('500Mi')) && isQuantity('5')", "true");
    check("url('https://a.b:80/c').getHost()", "\"a.b:80\"");
    check("ip('10.0.0.1').family() == 4 && cidr('10.0.0.0/8').containsIP('10.1.1.1') && isIP('::1')", "true");
    check("semver('1.2.3').isLessThan(semver('1.3.0')) && math.greatest(1, 3) == 3", "true");
    check("!format.dns1123Label().validate('web').hasValue()", "true");
    check("duration('1h') > duration('59m') && timestamp('2024-01-01T00:00:00Z').getFullYear() == 2024", "true");
    check("timestamp('2024-01-01T00:00:00Z') + duration('24h') == timestamp('2024-01-02T00:00:00Z')", "true");
    check("'%s is %d'.format(['x', 3])", "\"x is 3\"");
    check("type(1) == int && type('a') != int && string(1.5) == '1.5' && int('4') == 4", "true");
    check("base64.encode(b'hi')", "\"aGk=\"");
    check("'abc'.charAt()", "error: no such overload");
}

#[test]
fn types_say_how_json_is_read() {
    let spec = Type::object(
        "spec",
        [
            ("since", Type::Timestamp),
            ("wait", Type::Duration),
            ("data", Type::Bytes(None)),
            ("ratio", Type::Double),
            ("a-b.c/d", Type::Int),
            ("namespace", Type::STRING),
            ("a__b", Type::STRING),
            ("set", Type::List(Type::STRING.into(), types::ListKind::Set, None)),
        ],
    );
    let object = json!({
        "since": "2024-01-01T00:00:00Z", "wait": "90s", "data": "aGVsbG8=", "ratio": 1, "a-b.c/d": 4, "namespace": "x",
        "a__b": "u", "set": ["a", "b"], "hidden": 1,
    });
    let check = |source: &str, expected: Result<bool, &str>| {
        let program = Program::compile(source).unwrap();
        let variables = Variables::default().typed("self", &object, &spec);
        let got = program.is_true(&variables, &mut Budget::validation()).map_err(|error| error.to_string());
        assert_eq!(got, expected.map_err(ToOwned::to_owned), "{source}");
    };
    check("self.since < timestamp('2025-01-01T00:00:00Z')", Ok(true));
    check("self.wait == duration('1m30s') && size(self.data) == 5 && self.ratio / 2.0 == 0.5", Ok(true));
    check(
        "self.a__dash__b__dot__c__slash__d == 4 && self.__namespace__ == 'x' && self.a__underscores__b == 'u'",
        Ok(true),
    );
    check("self.set == ['b', 'a'] && (self.set + ['a', 'c']).size() == 3", Ok(true));
    check("has(self.hidden)", Ok(false));
    check("self.hidden == 1", Err("no such key: hidden"));
    for name in ["a", "a_b", "a__b", "a-b.c/d", "namespace", "___"] {
        assert_eq!(unescape(&escape(name).unwrap()), name);
    }
    assert_eq!(escape("1a"), None);
    assert_eq!(escape("a b"), None);
}

#[test]
fn callers_bring_objects_of_their_own() {
    struct Lazy<'c>(&'c AtomicUsize);
    impl<'a> Object<'a> for Lazy<'_> {
        fn type_name(&self) -> &str {
            "variables"
        }
        fn get(&self, field: &str) -> Option<Result<Value<'a>, Error>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            (field == "limit").then_some(Ok(Value::Int(5)))
        }
        fn call(&self, method: &str, arguments: &[Value<'a>]) -> Result<Value<'a>, Error> {
            Ok(Value::from(format!("{method}/{}", arguments.len())))
        }
    }
    let asked = AtomicUsize::new(0);
    let program = Program::compile("variables.limit == 5 && variables.check('a', 1) == 'check/2'").unwrap();
    let variables = Variables::default().object("variables", Lazy(&asked));
    assert_eq!(program.is_true(&variables, &mut Budget::admission()), Ok(true));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert!(program.uses("variables") && !program.uses("object"));
}

#[test]
fn evaluation_is_paid_for() {
    let many: Vec<u64> = (0..2000).collect();
    let object = json!(many);
    let program = Program::compile("self.all(x, self.all(y, x + y >= 0))").unwrap();
    let recovers = Program::compile("self.all(x, self.all(y, true)) || true").unwrap();
    let variables = Variables::default().json("self", &object);
    let mut budget = Budget::validation();
    assert_eq!(program.evaluate(&variables, &mut budget), Err(Error::CallCost));
    assert_eq!(budget.left() / 1000, (VALIDATION_MAX - CALL_MAX - 1) / 1000);
    let mut budget = Budget::new(1000, CALL_MAX);
    assert_eq!(program.evaluate(&variables, &mut budget), Err(Error::Exhausted));
    assert_eq!(program.evaluate(&variables, &mut budget), Err(Error::Exhausted));
    // An error that is a cost is not overcome by the other side.
    assert_eq!(recovers.evaluate(&variables, &mut Budget::validation()), Err(Error::CallCost));
}

#[test]
fn what_cannot_be_parsed_is_refused() {
    let refused = |source: &str| Program::compile(source).err().map(|error| error.0).unwrap_or_default();
    assert!(refused("self.").starts_with("ERROR: <input>:1:"), "{}", refused("self."));
    assert!(refused("1 +").contains("ERROR"));
    assert!(refused("'a'.matches('(')").contains("invalid matches argument"));
    assert!(refused(&"(".repeat(5000)).contains("recursion limit"));
    assert!(refused(&format!("1{}", "+1".repeat(5000))).contains("recursion limit"));
    assert!(refused(&format!("x{}", ".a".repeat(8000))).contains("recursion limit"));
    assert!(refused(&"1".repeat(SOURCE_MAX + 1)).contains("exceeds limit"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Anything made of CEL's own letters is parsed or refused, and evaluated or refused.
    #[test]
    fn no_expression_breaks_the_evaluator(source in r#"([a-c]|self|\.|\(|\)|\[|\]|\{|\}|,|:|\?|'|"|&&|\|\||!|-|\+|[0-9]|u| |all|map|size|x|matches|has|in){0,24}"#) {
        let _ = run(&source, &json!({"a": [1, "b", null], "c": {"x": 1.5}}));
    }
}

#[track_caller]
fn check_types(source: &str, expected: std::result::Result<&str, &str>) {
    let fields = [
        ("name", Type::String(Some(10))),
        ("size", Type::Int),
        ("ratio", Type::Double),
        ("tags", Type::List(Type::STRING.into(), types::ListKind::Atomic, Some(5))),
        ("free", Type::list(Type::STRING)),
        ("labels", Type::map(Type::STRING)),
        ("since", Type::Timestamp),
        ("any", Type::Dyn),
    ];
    let env = Env::default().variable("self", Type::object("object", fields));
    match (env.compile(source), expected) {
        (Ok(program), Ok(ty)) => assert_eq!(program.output().to_string(), ty, "{source}"),
        (Err(error), Err(why)) => assert!(error.0.contains(why), "{source}: {error}"),
        (Ok(program), Err(_)) => panic!("{source} is a {}", program.output()),
        (Err(error), Ok(_)) => panic!("{source}: {error}"),
    }
}

#[test]
fn types_are_checked_before_anything_runs() {
    check_types("self.size > 1 && self.name == 'a' && has(self.any)", Ok("bool"));
    check_types("self.nope == 1", Err("ERROR: <input>:1:5: undefined field 'nope'\n | self.nope == 1\n | ....^"));
    check_types("stranger", Err("undeclared reference to 'stranger' (in container '')"));
    check_types("self.size + 'a'", Err("found no matching overload for '_+_' applied to '(int, string)'"));
    check_types("self.size == 'a'", Err("found no matching overload for '_==_' applied to '(int, string)'"));
    check_types("self.name.frobnicate()", Err("undeclared reference to 'frobnicate'"));
    check_types("self.size.startsWith('a')", Err("found no matching overload for 'startsWith'"));
    check_types("self.tags.all(t, t.startsWith('a'))", Ok("bool"));
    check_types("self.tags.map(t, t.size())", Ok("list(int)"));
    check_types("self.tags.filter(t, t != '')", Ok("list(string)"));
    check_types("self.tags.map(t, t.nope)", Err("type 'string' does not support field selection"));
    check_types("self.labels.all(k, self.labels[k] != '')", Ok("bool"));
    check_types("self.labels.transformMap(k, v, v.size())", Ok("map(string, int)"));
    check_types("self.?name.orValue('x')", Ok("string"));
    check_types("self.tags[?0].optMap(t, t.size()).orValue(0)", Ok("int"));
    check_types("quantity('1').isLessThan(quantity('2')) && ip(self.name).family() == 4", Ok("bool"));
    check_types("self.since < timestamp('2024-01-01T00:00:00Z') + duration('1h')", Ok("bool"));
    check_types("sets.contains(self.tags, ['a']) && self.any.whatever(1).x", Ok("bool"));
    check_types("self.size > self.ratio && self.size in [1, 2] && 'a' in self.labels", Ok("bool"));
    check_types("self.size ? 1 : 2", Err("found no matching overload for '_?_:_'"));
    check_types("type(self.size) == int && self.any == null", Ok("bool"));
}

#[test]
fn costs_are_known_before_anything_runs() {
    let cost = |source: &str| {
        let list = |max| Type::List(Type::STRING.into(), types::ListKind::Atomic, max);
        let fields = [("few", list(Some(10))), ("many", list(None))];
        let env = Env::default().variable("self", Type::object("object", fields));
        env.compile(source).unwrap().cost_max()
    };
    assert!(cost("self.few.all(a, a == 'x')") < 1000);
    assert!(cost("self.few.all(a, self.few.all(b, a == b))") < 100_000_000);
    assert!(cost("self.many.all(a, self.many.all(b, a == b))") > 1_000_000_000);
    assert!(cost("self.few.size() > 1") < 10);
}
