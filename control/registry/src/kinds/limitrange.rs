//! LimitRanges: bounds and defaults for what the objects of a namespace ask for.
//!
//! The admission plugin `LimitRanger` applies them. Source: `ValidateLimitRange`.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::{LimitRange, LimitRangeItem};
use wharf_types::k8s::apimachinery::pkg::api::resource::Quantity;

use super::{created, name};
use crate::checks;
use crate::quantity::{self, SYNTAX};
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct LimitRanges;

type Amounts = BTreeMap<String, Quantity>;

impl Strategy for LimitRanges {
    type Object = LimitRange;

    fn default(&self, range: &mut LimitRange) {
        for item in range.spec.iter_mut().flat_map(|spec| &mut spec.limits).filter(|item| item.type_ == "Container") {
            default_item(item);
        }
    }

    fn validate(&self, range: &LimitRange) -> Errors {
        let path = Path::new("spec").child("limits");
        let (mut errors, mut seen) = (Vec::new(), BTreeSet::new());
        for (index, item) in range.spec.iter().flat_map(|spec| &spec.limits).enumerate() {
            let path = path.index(index);
            errors.extend(validate_type(&item.type_, &path.child("type")));
            if !seen.insert(&item.type_) {
                errors.push(Error::duplicate(&path.child("type"), &item.type_));
            }
            errors.extend(validate_item(item, &path));
        }
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, Column::new("Created At", "date", AGE.description)];
        COLUMNS
    }

    fn cells(&self, range: &LimitRange, now: Timestamp) -> Vec<Value> {
        let at = range.metadata.creation_timestamp.as_ref().map(|time| Value::from(time.0.to_string()));
        vec![name(&range.metadata), at.unwrap_or_else(|| created(&range.metadata, now))]
    }
}

/// Each default comes from the next tighter bound: limit from maximum, request from limit, then from minimum.
fn default_item(item: &mut LimitRangeItem) {
    let fill = |into: &mut Option<Amounts>, from: &Option<Amounts>| {
        for (name, amount) in from.iter().flatten() {
            into.get_or_insert_default().entry(name.clone()).or_insert_with(|| amount.clone());
        }
    };
    fill(&mut item.default, &item.max);
    fill(&mut item.default_request, &item.default.clone());
    fill(&mut item.default_request, &item.min);
}

fn validate_type(kind: &str, path: &Path) -> Errors {
    match kind {
        "Pod" | "Container" | "PersistentVolumeClaim" => Vec::new(),
        other => {
            let mut errors = checks::qualified_name(other, path);
            if !other.contains('/') {
                errors.push(Error::invalid(path, other, "must be a standard limit type or fully qualified"));
            }
            errors
        }
    }
}

fn validate_item(item: &LimitRangeItem, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let maps = [
        ("max", &item.max),
        ("min", &item.min),
        ("default", &item.default),
        ("defaultRequest", &item.default_request),
        ("maxLimitRequestRatio", &item.max_limit_request_ratio),
    ];
    let mut names = BTreeSet::new();
    for (field, amounts) in maps {
        for (name, amount) in amounts.iter().flatten() {
            names.insert(name);
            let path = path.child(field).key(name);
            errors.extend(checks::qualified_name(name, &path));
            if quantity::amount(amount).is_none() {
                errors.push(Error::invalid(&path, &amount.0, SYNTAX));
            }
        }
    }
    if item.type_ == "Pod" {
        for (field, amounts) in [("default", &item.default), ("defaultRequest", &item.default_request)] {
            if amounts.as_ref().is_some_and(|amounts| !amounts.is_empty()) {
                errors.push(Error::forbidden(&path.child(field), "may not be specified when `type` is 'Pod'"));
            }
        }
    }
    for name in names {
        errors.extend(validate_order(item, name, path));
    }
    errors
}

/// min ≤ default request ≤ default ≤ max
fn validate_order(item: &LimitRangeItem, name: &str, path: &Path) -> Errors {
    let get = |amounts: &Option<Amounts>| amounts.as_ref().and_then(|amounts| amounts.get(name)).cloned();
    let (min, max) = (("min", get(&item.min)), ("max", get(&item.max)));
    let (default, request) = (("default", get(&item.default)), ("defaultRequest", get(&item.default_request)));
    // The field that the error is about, and the pair that must be in order.
    let pairs = [
        ("min", "min value", &min, "max value", &max),
        ("defaultRequest", "default request value", &request, "max value", &max),
        ("defaultRequest", "min value", &min, "default request value", &request),
        ("default", "min value", &min, "default value", &default),
        ("default", "default value", &default, "max value", &max),
        ("defaultRequest", "default request value", &request, "default limit value", &default),
    ];
    let mut errors = Vec::new();
    for (field, low_name, (_, low), high_name, (_, high)) in pairs {
        let (Some(low), Some(high)) = (low, high) else { continue };
        if quantity::compare(low, high) == Some(std::cmp::Ordering::Greater) {
            let why = format!("{low_name} {} is greater than {high_name} {}", low.0, high.0);
            let value = [&min, &request, &default].into_iter().find(|(own, _)| *own == field);
            let value = value.and_then(|(_, value)| value.as_ref()).map_or("", |value| value.0.as_str());
            errors.push(Error::invalid(&path.child(field).key(name), value, why));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, object};

    #[test]
    fn defaults_come_from_the_bounds() {
        let range = object(&LimitRanges, "{spec: {limits: [{type: Container, max: {cpu: '2'}, min: {memory: 1Mi}}]}}");
        let item = &range.spec.unwrap().limits[0];
        assert_eq!(item.default.as_ref().unwrap()["cpu"].0, "2");
        assert_eq!(item.default_request.as_ref().unwrap()["cpu"].0, "2");
        assert_eq!(item.default_request.as_ref().unwrap()["memory"].0, "1Mi");
    }

    #[test]
    fn bounds_are_in_order() {
        check(
            &LimitRanges,
            "{spec: {limits: [{type: Pod, min: {cpu: 2}, max: {cpu: 1000m}}]}}",
            &["spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1000m"],
        );
        check(
            &LimitRanges,
            "{spec: {limits: [{type: Pod}, {type: Pod}, {type: Odd}]}}",
            &[
                "spec.limits[1].type: Duplicate value: \"Pod\"",
                "spec.limits[2].type: Invalid value: \"Odd\": must be a standard limit type or fully qualified",
            ],
        );
    }
}
