//! The smallest strategic merge patch that turns the API's status into ours.
//!
//! Conditions merge by type, so a condition that another client writes at the same time is not lost; other fields are
//! replaced. The patch names the pod's UID, so it never lands on a pod of the same name that came later.

use k8s_openapi::api::core::v1::PodStatus;
use serde_json::{Map, Value, json};

/// Lists that merge by a key: those of upstream's `patchMergeKey` that the node writes.
const MERGED: &[(&str, &str)] = &[("conditions", "type"), ("podIPs", "ip"), ("hostIPs", "ip")];

/// None when there is nothing to write.
pub fn diff(uid: &str, old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let (old, new) = (fields(old), fields(new));
    let mut changed = Map::new();
    for (key, value) in &new {
        let held = old.get(key);
        if held == Some(value) {
            continue;
        }
        let value = match MERGED.iter().find(|(list, _)| list == key) {
            Some((_, merge_key)) => merge_list(held, value, merge_key),
            None => value.clone(),
        };
        changed.insert(key.clone(), value);
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        changed.insert(key.clone(), Value::Null);
    }
    (!changed.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": changed}))
}

fn fields(status: &PodStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

/// New and changed entries, and a directive for each that goes.
fn merge_list(old: Option<&Value>, new: &Value, key: &str) -> Value {
    let entries = |list: Option<&Value>| list.and_then(Value::as_array).cloned().unwrap_or_default();
    let (old, new) = (entries(old), entries(Some(new)));
    let same_key = |a: &Value, b: &Value| a.get(key) == b.get(key);
    let mut patch: Vec<Value> = new
        .iter()
        .filter(|entry| !old.contains(entry))
        .map(|entry| match old.iter().find(|held| same_key(held, entry)) {
            Some(held) => with_nulls(held, entry),
            None => entry.clone(),
        })
        .collect();
    let gone = old.iter().filter(|held| !new.iter().any(|entry| same_key(held, entry)));
    patch.extend(gone.map(|held| json!({"$patch": "delete", key: held.get(key)})));
    Value::Array(patch)
}

/// The entry, with a null for each field that it lost.
fn with_nulls(held: &Value, entry: &Value) -> Value {
    let mut entry = entry.clone();
    if let (Some(held), Some(fields)) = (held.as_object(), entry.as_object_mut()) {
        for key in held.keys() {
            fields.entry(key.clone()).or_insert(Value::Null);
        }
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(old: Value, new: Value, expected: Value) {
        let parse = |value| serde_json::from_value::<PodStatus>(value).unwrap();
        let patch = diff("u", &parse(old), &parse(new)).map_or(Value::Null, |patch| {
            assert_eq!(patch["metadata"]["uid"], "u");
            patch["status"].clone()
        });
        assert_eq!(patch, expected);
    }

    #[test]
    fn only_what_changed_is_sent() {
        check(json!({"phase": "Running"}), json!({"phase": "Running"}), Value::Null);
        check(
            json!({"phase": "Pending", "podIP": "1"}),
            json!({"phase": "Running", "podIP": "1"}),
            json!({"phase": "Running"}),
        );
        check(json!({"reason": "x"}), json!({}), json!({"reason": null}));
    }

    #[test]
    fn conditions_merge_by_type_and_addresses_by_ip() {
        check(
            json!({"conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "False", "reason": "r"}]}),
            json!({"conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "True"}]}),
            json!({"conditions": [{"type": "B", "status": "True", "reason": null}]}),
        );
        check(
            json!({"podIPs": [{"ip": "1"}]}),
            json!({"podIPs": [{"ip": "2"}]}),
            json!({"podIPs": [{"ip": "2"}, {"$patch": "delete", "ip": "1"}]}),
        );
    }
}
