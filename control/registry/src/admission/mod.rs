//! What the kinds of `admissionregistration.k8s.io` have in common: rules, selectors, endpoints and CEL expressions.
//!
//! Source: `pkg/apis/admissionregistration/validation` and its `v1/defaults.go`. Names of supported values are listed in the
//! order in which upstream sorts them.

pub mod endpoint;
pub mod expression;
pub mod policy;
pub mod rules;
pub mod webhook;

use wharf_types::field::{Error, Errors, Path};

use crate::checks;

pub const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];
pub const MATCH_POLICIES: &[&str] = &["Equivalent", "Exact"];
pub const REINVOCATION_POLICIES: &[&str] = &["IfNeeded", "Never"];

/// A value that a default should have filled in, and that is one of a few.
pub fn required(value: Option<&str>, supported: &[&str], path: &Path) -> Errors {
    match value {
        None => vec![Error::required(path, "")],
        Some(value) => checks::one_of(value, supported, path),
    }
}

/// Each item that stands twice, as an error about its second place.
pub fn repeated<'a>(values: impl IntoIterator<Item = &'a str>, path: &Path, field: Option<&str>) -> Errors {
    let mut seen = std::collections::BTreeSet::new();
    let at = |index| field.map_or_else(|| path.index(index), |field| path.index(index).child(field));
    let numbered = values.into_iter().enumerate();
    numbered
        .filter(|(_, value)| !value.is_empty() && !seen.insert(*value))
        .map(|(index, value)| Error::duplicate(&at(index), value))
        .collect()
}
