//! One device of a ResourceSlice.
//!
//! Source: `validateDevice` and what it calls.

use std::collections::BTreeSet;

use serde_json::Value;
use wharf_machinery::names;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::resource::v1::{
    CapacityRequestPolicy, CapacityRequestPolicyRange, Device, DeviceAttribute, DeviceCapacity, DeviceTaint,
};
use wharf_types::k8s::apimachinery::pkg::api::resource::Quantity;

use super::slice::validate_counters;
use super::{each, each_once, validate_qualified};
use crate::checks;
use crate::podspec::scheduling;
use crate::quantity::{Amount, amount};

pub const TAINT_EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];
const TAINTS_MAX: usize = 16;
/// Attributes and capacities together.
const PROPERTIES_MAX: usize = 32;
const CONSUMPTIONS_MAX: usize = 2;
const VALUE_MAX: usize = 64;
const OPTIONS_MAX: usize = 10;
const BINDING_CONDITIONS_MAX: usize = 4;
const PLACES: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";

pub fn validate_device(device: &Device, per_device: bool, path: &Path) -> Errors {
    let mut errors = checks::dns1123_label(&device.name, &path.child("name"));
    let (attributes, capacity) = (device.attributes.iter().flatten(), device.capacity.iter().flatten());
    let properties = attributes.clone().count() + capacity.clone().count();
    if properties > PROPERTIES_MAX {
        let why = format!("the total number of attributes and capacities must not exceed {PROPERTIES_MAX}");
        errors.push(Error::invalid(path, properties, why));
    }
    for (name, attribute) in attributes {
        let path = path.child("attributes").key(name);
        errors.extend(validate_qualified(name, &path));
        errors.extend(validate_attribute(attribute, &path));
    }
    let shared = device.allow_multiple_allocations == Some(true);
    for (name, capacity) in capacity {
        let path = path.child("capacity").key(name);
        errors.extend(validate_qualified(name, &path));
        errors.extend(validate_capacity(capacity, shared, &path.child("requestPolicy")));
    }
    let taints = device.taints.as_deref().unwrap_or_default();
    errors.extend(each(taints, TAINTS_MAX, &path.child("taints"), validate_taint));
    let consumes = device.consumes_counters.as_deref().unwrap_or_default();
    let at = path.child("consumesCounters");
    errors.extend(each_once(
        consumes,
        CONSUMPTIONS_MAX,
        &at,
        |consumed| consumed.counter_set.clone(),
        |consumed, path| {
            let at = path.child("counterSet");
            let mut errors = match consumed.counter_set.as_str() {
                "" => vec![Error::required(&at, "")],
                set => checks::dns1123_label(set, &at),
            };
            errors.extend(validate_counters(&consumed.counters, &path.child("counters")));
            errors
        },
    ));
    errors.extend(validate_place(device, per_device, path));
    let (conditions, failures) = (device.binding_conditions.as_ref(), device.binding_failure_conditions.as_ref());
    errors.extend(validate_binding(conditions, failures, path));
    errors
}

/// A device says where it is if its slice says so, and only then.
fn validate_place(device: &Device, per_device: bool, path: &Path) -> Errors {
    if !per_device {
        let any = device.node_name.is_some() || device.node_selector.is_some() || device.all_nodes.is_some();
        let why = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
        return if any { vec![Error::invalid(path, Value::Null, why)] } else { Vec::new() };
    }
    let (mut errors, mut set) = (Vec::new(), Vec::new());
    match device.node_name.as_deref() {
        None => {}
        Some("") => errors.push(Error::invalid(&path.child("nodeName"), "", "must not be empty")),
        Some(node) => {
            set.push("`nodeName`");
            errors.extend(checks::dns1123_subdomain(node, &path.child("nodeName")));
        }
    }
    if let Some(selector) = &device.node_selector {
        set.push("`nodeSelector`");
        errors.extend(scheduling::node_selector(selector, &path.child("nodeSelector")));
    }
    match device.all_nodes {
        None => {}
        Some(true) => set.push("`allNodes`"),
        Some(false) => {
            errors.push(Error::invalid(&path.child("allNodes"), false, "must be either unset or set to true"));
        }
    }
    match set.as_slice() {
        [] => errors.push(Error::required(path, PLACES)),
        [_] => {}
        several => errors.push(Error::invalid(path, format!("{{{}}}", several.join(", ")), PLACES)),
    }
    errors
}

fn validate_attribute(attribute: &DeviceAttribute, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let too_long = |text: &String| text.len() > VALUE_MAX;
    if attribute.string.as_ref().is_some_and(too_long) {
        errors.push(Error::too_long(&path.child("string"), VALUE_MAX));
    }
    if let Some(version) = &attribute.version {
        let at = path.child("version");
        if !is_semantic(version) {
            errors.push(Error::invalid(&at, version, "must be a string compatible with semver.org spec 2.0.0"));
        }
        if too_long(version) {
            errors.push(Error::too_long(&at, VALUE_MAX));
        }
    }
    match checks::json(attribute).as_object().map_or(0, serde_json::Map::len) {
        0 => errors.push(Error::invalid(path, "", "exactly one value must be specified")),
        1 => {}
        _ => errors.push(Error::invalid(path, checks::json(attribute), "exactly one value must be specified")),
    }
    errors
}

/// `1.2.3-alpha.1+build.7`
fn is_semantic(version: &str) -> bool {
    let word = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let number = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) && (part == "0" || !part.starts_with('0'))
    };
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let (rest, build) = version.split_once('+').map_or((version, None), |(rest, build)| (rest, Some(build)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
    core.split('.').count() == 3
        && core.split('.').all(number)
        && pre.is_none_or(|pre| pre.split('.').all(|part| word(part) && (number(part) || !digits(part))))
        && build.is_none_or(|build| build.split('.').all(word))
}

fn validate_capacity(capacity: &DeviceCapacity, shared: bool, path: &Path) -> Errors {
    let Some(policy) = &capacity.request_policy else { return Vec::new() };
    if !shared {
        return vec![Error::forbidden(path, "allowMultipleAllocations must be true")];
    }
    let values = policy.valid_values.as_deref().unwrap_or_default();
    if !values.is_empty() && policy.valid_range.is_some() {
        let why =
            "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
        return vec![Error::forbidden(path, why)];
    }
    validate_policy(policy, values, &capacity.value, path)
}

fn validate_policy(policy: &CapacityRequestPolicy, values: &[Quantity], whole: &Quantity, path: &Path) -> Errors {
    let missing =
        |what: &str| vec![Error::required(&path.child("default"), format!("required when {what} is defined"))];
    match (&policy.default, &policy.valid_range) {
        (None, _) if !values.is_empty() => missing("validValues"),
        (Some(default), _) if !values.is_empty() => validate_values(values, default, whole, &path.child("validValues")),
        (None, Some(_)) => missing("validRange"),
        (Some(default), Some(range)) => validate_range(range, default, whole, &path.child("validRange")),
        (_, None) => Vec::new(),
    }
}

fn parsed(quantity: &Quantity) -> Amount {
    amount(quantity).unwrap_or_default()
}

fn validate_values(values: &[Quantity], default: &Quantity, whole: &Quantity, path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (index, pair) in values.windows(2).enumerate() {
        if parsed(&pair[0]) > parsed(&pair[1]) {
            let why = "values must be sorted in ascending order";
            errors.push(Error::invalid(&path.index(index + 1), &pair[1].0, why));
        }
    }
    let key = |value: &Quantity| parsed(value).value().to_string();
    errors.extend(each_once(values, OPTIONS_MAX, path, key, |value, path| {
        if parsed(value) > parsed(whole) {
            let why = format!("option is larger than capacity value: {}", whole.0);
            return vec![Error::invalid(path, &value.0, why)];
        }
        Vec::new()
    }));
    if !values.iter().any(|value| parsed(value) == parsed(default)) {
        errors.push(Error::invalid(path, &default.0, "default value is not valid according to the requestPolicy"));
    }
    errors
}

fn validate_range(range: &CapacityRequestPolicyRange, default: &Quantity, whole: &Quantity, path: &Path) -> Errors {
    let (min, min_at, max_at) = (&range.min, path.child("min"), path.child("max"));
    let mut errors = Vec::new();
    let mut refuse = |wrong: bool, at: &Path, value: &Quantity, why: String| {
        if wrong {
            errors.push(Error::invalid(at, &value.0, why));
        }
    };
    let more = |a: &Quantity, b: &Quantity| parsed(a) > parsed(b);
    refuse(more(min, whole), &min_at, min, format!("min is larger than capacity value: {}", whole.0));
    refuse(more(min, default), &min_at, default, format!("default is less than min: {}", min.0));
    if let Some(max) = &range.max {
        refuse(more(min, max), &max_at, min, format!("min is larger than max: {}", max.0));
        refuse(more(max, whole), &max_at, max, format!("max is larger than capacity value: {}", whole.0));
        refuse(more(default, max), &max_at, default, format!("default is more than max: {}", max.0));
    }
    if let Some(step) = &range.step {
        let at = path.child("step");
        let one = parsed(min).value().saturating_add(parsed(step).value());
        let too_far = one > parsed(whole).value();
        refuse(too_far, &at, step, format!("one step {one} is larger than capacity value: {}", whole.0));
        for value in [Some(default), range.max.as_ref()].into_iter().flatten() {
            let (distance, step_value) = (parsed(value).value() - parsed(min).value(), parsed(step).value());
            let off = step_value == 0 || distance % step_value != 0;
            refuse(off, &at, value, format!("value is not a multiple of a given step ({}) from ({})", step.0, min.0));
        }
    }
    errors
}

fn validate_taint(taint: &DeviceTaint, path: &Path) -> Errors {
    let mut errors = checks::qualified_name(&taint.key, &path.child("key"));
    let value = taint.value.as_deref().unwrap_or_default();
    errors.extend(checks::invalid(names::label_value(value), &path.child("value"), value));
    errors.extend(checks::required_one_of(&taint.effect, TAINT_EFFECTS, &path.child("effect")));
    errors
}

/// Conditions that a device waits for, and those that say it waits in vain: both or none, and no two the same.
pub fn validate_binding(conditions: Option<&Vec<String>>, failures: Option<&Vec<String>>, path: &Path) -> Errors {
    let list = |list: Option<&Vec<String>>| list.cloned().unwrap_or_default();
    let (conditions, failures) = (list(conditions), list(failures));
    let (at, failures_at) = (path.child("bindingConditions"), path.child("bindingFailureConditions"));
    let mut errors = Vec::new();
    for (list, at) in [(&conditions, &at), (&failures, &failures_at)] {
        errors.extend(each_once(list, BINDING_CONDITIONS_MAX, at, String::clone, |name, path| {
            checks::qualified_name(name, path)
        }));
    }
    match (conditions.is_empty(), failures.is_empty()) {
        (true, false) => {
            errors.push(Error::invalid(
                &at,
                checks::json(&conditions),
                "bindingConditions are required to use bindingFailureConditions",
            ));
        }
        (false, true) => {
            errors.push(Error::invalid(
                &failures_at,
                checks::json(&failures),
                "bindingFailureConditions are required to use bindingConditions",
            ));
        }
        _ => {}
    }
    let known: BTreeSet<&String> = conditions.iter().collect();
    for (index, name) in failures.iter().enumerate().filter(|(_, name)| known.contains(name)) {
        errors.push(Error::invalid(
            &failures_at.index(index),
            name,
            "bindingFailureConditions must not overlap with bindingConditions",
        ));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(yaml: &str, expected: &[&str]) {
        let device: Device = serde_yaml::from_str(yaml).expect("a device");
        let errors = validate_device(&device, false, &Path::new("d"));
        assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn attributes_have_one_value() {
        check("{name: a, attributes: {x: {bool: true}, example.com/y: {version: 1.2.3-rc.1}}}", &[]);
        check(
            "{name: a, attributes: {x: {bool: true, int: 7}, y: {version: '01.2'}}}",
            &[
                "d.attributes[x]: Invalid value: {\"bool\":true,\"int\":7}: exactly one value must be specified",
                "d.attributes[y].version: Invalid value: \"01.2\": must be a string compatible with semver.org spec 2.0.0",
            ],
        );
    }

    #[test]
    fn versions_are_semantic() {
        for (version, good) in
            [("1.0.0", true), ("1.0", false), ("1.0.0-01", false), ("1.0.0-a.1+b", true), ("1.0.0-", false)]
        {
            assert_eq!(is_semantic(version), good, "{version}");
        }
    }

    #[test]
    fn shares_of_a_capacity_are_possible() {
        let device = |policy: &str| {
            format!(
                "{{name: a, allowMultipleAllocations: true, capacity: {{memory: {{value: 8Gi, requestPolicy: {policy}}}}}}}"
            )
        };
        check(&device("{default: 1Gi, validValues: [1Gi, 2Gi]}"), &[]);
        check(
            &device("{default: 3Gi, validValues: [2Gi, 1Gi, 9Gi]}"),
            &[
                "d.capacity[memory].requestPolicy.validValues[1]: Invalid value: \"1Gi\": values must be sorted in ascending order",
                "d.capacity[memory].requestPolicy.validValues[2]: Invalid value: \"9Gi\": option is larger than capacity value: 8Gi",
                "d.capacity[memory].requestPolicy.validValues: Invalid value: \"3Gi\": default value is not valid according to the requestPolicy",
            ],
        );
        check(
            &device("{default: 1Gi, validRange: {min: 2Gi, max: 9Gi}}"),
            &[
                "d.capacity[memory].requestPolicy.validRange.min: Invalid value: \"1Gi\": default is less than min: 2Gi",
                "d.capacity[memory].requestPolicy.validRange.max: Invalid value: \"9Gi\": max is larger than capacity value: 8Gi",
            ],
        );
        check(
            "{name: a, capacity: {memory: {value: 8Gi, requestPolicy: {default: 1Gi}}}}",
            &["d.capacity[memory].requestPolicy: Forbidden: allowMultipleAllocations must be true"],
        );
    }

    #[test]
    fn a_device_leaves_its_place_to_its_slice() {
        let why = "d: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
        check("{name: a, nodeName: n}", &[why]);
    }

    #[test]
    fn taints_have_a_key_and_an_effect() {
        check(
            "{name: a, taints: [{key: k, effect: NoSchedule}, {key: k, effect: Never}]}",
            &[
                "d.taints[1].effect: Unsupported value: \"Never\": supported values: \"NoExecute\", \"NoSchedule\", \"None\"",
            ],
        );
    }
}
