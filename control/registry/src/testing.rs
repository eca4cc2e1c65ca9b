//! How the tests of a kind touch it: objects from YAML, errors and cells as text.

use serde_json::Value;
use wharf_types::field::Errors;

use crate::Strategy;

/// Reads an object and gives it its defaults.
#[track_caller]
pub fn object<S: Strategy>(strategy: &S, yaml: &str) -> S::Object {
    let mut value: Value = serde_yaml::from_str(yaml).expect("YAML");
    // The envelope is the same in every test.
    let envelope = value.as_object_mut().expect("a map");
    let gvk = wharf_types::Gvk::of::<S::Object>();
    envelope.insert("apiVersion".into(), gvk.group_version().to_string().into());
    envelope.insert("kind".into(), gvk.kind.into());
    let mut object: S::Object = serde_json::from_value(value).expect("an object");
    strategy.default(&mut object);
    object
}

/// Defaults, then validates; every error is listed whole, in order.
#[track_caller]
pub fn check<S: Strategy>(strategy: &S, yaml: &str, expected: &[&str]) {
    let errors = strategy.validate(&object(strategy, yaml));
    assert_eq!(lines(&errors), expected);
}

/// What only a new object is told.
#[track_caller]
pub fn check_new<S: Strategy>(strategy: &S, yaml: &str, expected: &[&str]) {
    let errors = strategy.validate_new(&object(strategy, yaml));
    assert_eq!(lines(&errors), expected);
}

/// As [`check`], where each expectation is how the error begins.
#[track_caller]
pub fn check_starts<S: Strategy>(strategy: &S, yaml: &str, expected: &[&str]) {
    let errors = lines(&strategy.validate(&object(strategy, yaml)));
    let all_begin = errors.iter().zip(expected).all(|(error, start)| error.starts_with(start));
    assert!(errors.len() == expected.len() && all_begin, "{errors:#?}\nexpected {expected:#?}");
}

/// What an update is told, prepared as the verbs do it.
#[track_caller]
pub fn check_update<S: Strategy>(strategy: &S, old: &str, new: &str, expected: &[&str]) {
    let (old, mut new) = (object(strategy, old), object(strategy, new));
    strategy.prepare_for_update(&mut new, &old);
    assert_eq!(lines(&strategy.validate_update(&new, &old)), expected);
}

/// What a new object looks like once defaults and the strategy have had their say.
#[track_caller]
pub fn created<S: Strategy>(strategy: &S, yaml: &str, expected: &str) {
    let mut object = object(strategy, yaml);
    strategy.prepare_for_create(&mut object);
    let mut json = serde_json::to_value(&object).expect("JSON");
    let envelope = json.as_object_mut().expect("a map");
    envelope.remove("apiVersion");
    envelope.remove("kind");
    assert_eq!(json, serde_json::from_str::<Value>(expected).expect("JSON"), "{json:#}");
}

/// Cells at [`NOW`], joined by ` | `.
#[track_caller]
pub fn check_cells<S: Strategy>(strategy: &S, yaml: &str, expected: &str) {
    let object = object(strategy, yaml);
    let stored = serde_json::to_vec(&object).expect("JSON");
    let cells = strategy.stored_cells(&stored, NOW.parse().expect("a time")).expect("a stored object");
    assert_eq!(cells.len(), strategy.columns().len(), "one cell for each column");
    let shown: Vec<String> =
        cells.iter().map(|cell| cell.as_str().map_or_else(|| cell.to_string(), ToOwned::to_owned)).collect();
    assert_eq!(shown.join(" | "), expected);
}

/// The time of every test here.
pub const NOW: &str = "2024-05-01T12:00:00Z";

fn lines(errors: &Errors) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}
