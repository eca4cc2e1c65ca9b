//! Bodies as upstream would have kept them.
//!
//! kube-apiserver reads a body into Go structs and writes them out again, and on the way a `hostNetwork: false`, an `args: []`
//! or a `value: ""` is lost, and `cpu: 0.5` becomes `cpu: 500m`. Clients in Go lose them in the same way, so a server that
//! kept them would see a change (and a forbidden one, in a pod) whenever such a client wrote back what it had read.
//! Fields that are pointers in Go keep their zero; the tables here know which. Whatever stands in a map of strings stays.

use wharf_machinery::quantity::{ParseError, Quantity};
use wharf_machinery::tree::{Map, Value};

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
    "consumedCapacity",
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
    "clusterScope",
    "globalDefault",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "insecureSkipTLSVerify",
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

/// Makes of a body what upstream would have kept of it: what would be lost becomes null, which every kind reads as absent
/// (so that fields that a kind does not have are still seen), and amounts take their canonical form.
pub fn normalize(body: &mut Value<'_>) -> Result<(), ParseError> {
    fix(body, "")
}

/// What becomes of a field.
enum Fate {
    Keep,
    /// Kept, and what is in it looked at in turn.
    Enter,
    Drop,
    /// Put into canonical form: one amount, or several by name.
    Amount,
    Amounts,
}

fn fix(value: &mut Value<'_>, under: &str) -> Result<(), ParseError> {
    match value {
        Value::Map(fields) => {
            for (name, value) in fields.iter_mut() {
                match fate(name, value, under) {
                    Fate::Keep => {}
                    Fate::Enter => fix(value, name)?,
                    Fate::Drop => *value = Value::Null,
                    Fate::Amount => make_canonical(value)?,
                    Fate::Amounts => {
                        let amounts = value.as_map_mut().into_iter().flat_map(Map::iter_mut);
                        amounts.map(|(_, amount)| amount).try_for_each(make_canonical)?;
                    }
                }
            }
            Ok(())
        }
        Value::List(items) => items.iter_mut().try_for_each(|item| fix(item, under)),
        _ => Ok(()),
    }
}

/// Decides on one field of an object that stands under the field `under`.
fn fate(field: &str, value: &Value<'_>, under: &str) -> Fate {
    // A RuntimeClass has its amounts one level further down.
    let amounts = AMOUNTS.contains(&field) && !(field == "overhead" && value.get("podFixed").is_some());
    match value {
        Value::List(items) if items.is_empty() => Fate::Drop,
        Value::List(_) => Fate::Enter,
        Value::Map(fields) if fields.is_empty() && (amounts || MAPS.contains(&field)) => Fate::Drop,
        Value::Map(_) if MAPS.contains(&field) => Fate::Keep,
        Value::Map(fields) if field == "selector" && is_map_of_strings(fields) => Fate::Keep,
        Value::Map(_) if amounts => Fate::Amounts,
        Value::Map(_) => Fate::Enter,
        _ if AMOUNT.contains(&field) || field == "value" && AMOUNT_UNDER.contains(&under) => Fate::Amount,
        Value::String(text) if text.is_empty() && !KEPT_STRINGS.contains(&field) => Fate::Drop,
        Value::Bool(false) if field == "readOnly" && OPTIONAL_READ_ONLY.contains(&under) => Fate::Keep,
        Value::Bool(false) if DROPPED_FALSE.contains(&field) => Fate::Drop,
        Value::Number(number) if number.as_i64() == Some(0) => {
            let in_status = field == "replicas" && under == "status";
            if in_status || DROPPED_ZERO.contains(&field) { Fate::Drop } else { Fate::Keep }
        }
        _ => Fate::Keep,
    }
}

/// A Service's selector, unlike that of a Deployment.
fn is_map_of_strings(fields: &Map<'_>) -> bool {
    fields.iter().all(|(_, value)| value.as_str().is_some())
}

/// Writes an amount in its canonical form. What is no amount stays.
fn make_canonical(value: &mut Value<'_>) -> Result<(), ParseError> {
    let amount: Quantity = match value {
        Value::String(text) => text.parse()?,
        Value::Number(number) => number.to_string().parse()?,
        _ => return Ok(()),
    };
    let written = amount.to_string();
    if value.as_str() != Some(&written) {
        *value = Value::String(written.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::Value as Json;

    use super::*;

    fn parse(yaml: &str) -> Json {
        serde_yaml::from_str(yaml).unwrap()
    }

    /// The document without its nulls.
    fn normal(given: &Json) -> Result<Json, ParseError> {
        let mut document = Value::from(given);
        normalize(&mut document)?;
        let mut json = document.into_json();
        drop_nulls(&mut json);
        Ok(json)
    }

    fn drop_nulls(json: &mut Json) {
        match json {
            Json::Object(fields) => {
                fields.retain(|_, value| !value.is_null());
                fields.values_mut().for_each(drop_nulls);
            }
            Json::Array(items) => items.iter_mut().for_each(drop_nulls),
            _ => {}
        }
    }

    #[track_caller]
    fn check(given: &str, expected: &str) {
        let once = normal(&parse(given)).unwrap();
        assert_eq!(once, parse(expected));
        assert_eq!(normal(&once).unwrap(), once, "once is enough");
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
        let bad = parse("{resources: {limits: {cpu: much}}}");
        assert!(normal(&bad).unwrap_err().to_string().starts_with("quantities must match the regular expression"));
    }
}
