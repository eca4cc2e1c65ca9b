//! Bodies as upstream would have kept them.
//!
//! kube-apiserver reads a body into Go structs and writes them out again, and on the way a `hostNetwork: false`, an `args: []`
//! or a `value: ""` is lost, and `cpu: 0.5` becomes `cpu: 500m`. Clients in Go lose them in the same way, so a server that
//! kept them would see a change (and a forbidden one, in a pod) whenever such a client wrote back what it had read.
//! Fields that are pointers in Go keep their zero; the tables here know which. Whatever stands in a map of strings stays.

use std::borrow::Cow;

use serde_json::{Map, Value};
use wharf_machinery::quantity::{ParseError, Quantity};

/// Fields that hold keys of the user's own: what is in them is left as it is.
const MAPS: &[&str] = &[
    "annotations",
    "attachmentMetadata",
    "binaryData",
    "data",
    "deprecatedTopology",
    "fieldsV1",
    "labels",
    "matchLabels",
    "nodeSelector",
    "options",
    "parameters",
    "stringData",
    "userAnnotations",
    "volumeAttributes",
];

/// Fields that hold amounts under the names of resources.
const AMOUNTS: &[&str] = &[
    "allocatable",
    "allocatedResources",
    "capacity",
    "default",
    "defaultRequest",
    "hard",
    "limits",
    "max",
    "maxLimitRequestRatio",
    "min",
    "overhead",
    "podFixed",
    "requests",
    "used",
];

/// Fields that hold one amount.
const AMOUNT: &[&str] = &["averageValue", "capacity", "divisor", "maximumVolumeSize", "sizeLimit", "tolerance"];

/// Where `value` holds an amount: an autoscaler's metric.
const AMOUNT_UNDER: &[&str] = &["current", "target"];

/// Strings that are pointers in Go, where empty is not absent.
const KEPT_STRINGS: &[&str] = &[
    "apiGroup",
    "appProtocol",
    "holderIdentity",
    "hostname",
    "hostnameOverride",
    "ingressClassName",
    "loadBalancerClass",
    "localhostProfile",
    "nodeName",
    "preferredHolder",
    "runtimeClassName",
    "scope",
    "selectPolicy",
    "service",
    "storageClassName",
    "strategy",
    "timeZone",
    "type",
    "unhealthyPodEvictionPolicy",
    "volumeAttributesClassName",
    "zone",
];

/// Booleans that are no pointers in Go, where false is absent.
const DROPPED_FALSE: &[&str] = &[
    "chapAuthDiscovery",
    "chapAuthSession",
    "globalDefault",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "paused",
    "publishNotReadyAddresses",
    "readOnly",
    "sslEnabled",
    "stdin",
    "stdinOnce",
    "tty",
    "unschedulable",
];

/// Sources whose `readOnly` is a pointer.
const OPTIONAL_READ_ONLY: &[&str] = &["azureDisk", "csi"];

/// Numbers that are no pointers in Go, where zero is absent.
const DROPPED_ZERO: &[&str] = &[
    "active",
    "availableReplicas",
    "currentReplicas",
    "failed",
    "fullyLabeledReplicas",
    "generation",
    "healthCheckNodePort",
    "hostPort",
    "initialDelaySeconds",
    "minReadySeconds",
    "nodePort",
    "number",
    "numberAvailable",
    "numberUnavailable",
    "observedGeneration",
    "readyReplicas",
    "signal",
    "succeeded",
    "unavailableReplicas",
    "updatedNumberScheduled",
    "updatedReplicas",
];

/// The body without what would be lost, and with amounts in their canonical form; borrowed if it is that already.
pub fn normalize(value: &Value) -> Result<Cow<'_, Value>, ParseError> {
    if is_normal(value, "")? {
        return Ok(Cow::Borrowed(value));
    }
    let mut value = value.clone();
    fix(&mut value, "")?;
    Ok(Cow::Owned(value))
}

/// What becomes of a field.
enum Fate {
    Keep,
    /// Kept, and what is in it looked at in turn.
    Enter,
    Drop,
    Write(Value),
}

fn is_normal(value: &Value, under: &str) -> Result<bool, ParseError> {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                let normal = match fate(field, value, under)? {
                    Fate::Keep => true,
                    Fate::Enter => is_normal(value, field)?,
                    Fate::Drop | Fate::Write(_) => false,
                };
                if !normal {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        Value::Array(items) => {
            for item in items {
                if !is_normal(item, under)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        _ => Ok(true),
    }
}

fn fix(value: &mut Value, under: &str) -> Result<(), ParseError> {
    match value {
        Value::Object(fields) => {
            let names: Vec<String> = fields.keys().cloned().collect();
            for name in names {
                match fate(&name, &fields[&name], under)? {
                    Fate::Keep => {}
                    Fate::Enter => fix(&mut fields[&name], &name)?,
                    Fate::Drop => {
                        fields.remove(&name);
                    }
                    Fate::Write(value) => {
                        fields.insert(name, value);
                    }
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                fix(item, under)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Decides on one field of an object that stands under the field `under`.
fn fate(field: &str, value: &Value, under: &str) -> Result<Fate, ParseError> {
    // A RuntimeClass has its amounts one level further down.
    let amounts = AMOUNTS.contains(&field) && !(field == "overhead" && value.get("podFixed").is_some());
    Ok(match value {
        Value::Array(items) if items.is_empty() => Fate::Drop,
        Value::Array(_) => Fate::Enter,
        Value::Object(fields) if fields.is_empty() && (amounts || MAPS.contains(&field)) => Fate::Drop,
        Value::Object(_) if MAPS.contains(&field) => Fate::Keep,
        Value::Object(fields) if field == "selector" && is_map_of_strings(fields) => Fate::Keep,
        Value::Object(fields) if amounts => canonical_amounts(fields)?.map_or(Fate::Keep, Fate::Write),
        Value::Object(_) => Fate::Enter,
        _ if AMOUNT.contains(&field) || field == "value" && AMOUNT_UNDER.contains(&under) => {
            canonical(value)?.map_or(Fate::Keep, Fate::Write)
        }
        Value::String(text) if text.is_empty() && !KEPT_STRINGS.contains(&field) => Fate::Drop,
        Value::Bool(false) if field == "readOnly" && OPTIONAL_READ_ONLY.contains(&under) => Fate::Keep,
        Value::Bool(false) if DROPPED_FALSE.contains(&field) => Fate::Drop,
        Value::Number(number) if number.as_i64() == Some(0) => {
            let in_status = field == "replicas" && under == "status";
            if in_status || DROPPED_ZERO.contains(&field) { Fate::Drop } else { Fate::Keep }
        }
        _ => Fate::Keep,
    })
}

/// A Service's selector, unlike that of a Deployment.
fn is_map_of_strings(fields: &Map<String, Value>) -> bool {
    fields.values().all(Value::is_string)
}

fn canonical_amounts(fields: &Map<String, Value>) -> Result<Option<Value>, ParseError> {
    let mut changed: Option<Map<String, Value>> = None;
    for (name, value) in fields {
        if let Some(value) = canonical(value)? {
            changed.get_or_insert_with(|| fields.clone()).insert(name.clone(), value);
        }
    }
    Ok(changed.map(Value::Object))
}

/// The canonical form of an amount; none if it has it, or is none.
fn canonical(value: &Value) -> Result<Option<Value>, ParseError> {
    let text = match value {
        Value::String(text) => Cow::Borrowed(text.as_str()),
        Value::Number(number) => Cow::Owned(number.to_string()),
        _ => return Ok(None),
    };
    let amount: Quantity = text.parse()?;
    let written = Value::from(amount.to_string());
    Ok((written != *value).then_some(written))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(given: &str, expected: &str) {
        let parse = |yaml: &str| -> Value { serde_yaml::from_str(yaml).unwrap() };
        let given = parse(given);
        let normal = normalize(&given).unwrap();
        assert_eq!(*normal, parse(expected));
        assert!(matches!(normalize(&normal), Ok(Cow::Borrowed(_))), "once is enough");
    }

    #[test]
    fn zeroes_of_plain_fields_are_lost() {
        check(
            "{spec: {hostNetwork: false, containers: [{name: a, args: [], env: [{name: A, value: ''}], tty: false}]}}",
            "{spec: {containers: [{name: a, env: [{name: A}]}]}}",
        );
        check(
            "{metadata: {labels: {}, namespace: ''}, status: {replicas: 0, readyReplicas: 0}}",
            "{metadata: {}, status: {}}",
        );
    }

    #[test]
    fn zeroes_that_mean_something_stay() {
        let kept = "{spec: {replicas: 0, storageClassName: '', automountServiceAccountToken: false, emptyDir: {}, csi: {readOnly: false}, command: ['']}}";
        check(kept, kept);
    }

    #[test]
    fn what_is_the_users_own_stays() {
        let kept = "{data: {value: ''}, metadata: {labels: {a: ''}}, spec: {selector: {b: ''}, nodeSelector: {c: ''}}}";
        check(kept, kept);
    }

    #[test]
    fn amounts_become_canonical() {
        check(
            "{resources: {limits: {cpu: 0.5, memory: 1024Mi}, requests: {cpu: 1000m}}}",
            "{resources: {limits: {cpu: 500m, memory: 1Gi}, requests: {cpu: '1'}}}",
        );
        check("{emptyDir: {sizeLimit: 2048Ki}}", "{emptyDir: {sizeLimit: 2Mi}}");
        let bad: Value = serde_yaml::from_str("{resources: {limits: {cpu: much}}}").unwrap();
        assert!(normalize(&bad).unwrap_err().to_string().starts_with("quantities must match the regular expression"));
    }
}
