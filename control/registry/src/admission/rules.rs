//! Rules: which requests a webhook or policy is about, and the selectors that narrow them.

use std::collections::BTreeSet;

use wharf_machinery::selector;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::admissionregistration::v1::{MatchResources, NamedRuleWithOperations, RuleWithOperations};
use wharf_types::meta;

use super::{MATCH_POLICIES, repeated, required};
use crate::checks;

const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
/// A policy that changes objects has nothing to change in a DELETE.
pub const MUTATING_OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "UPDATE"];
const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];

/// A rule of a webhook or of a policy.
pub struct Rule<'a> {
    pub groups: &'a [String],
    pub versions: &'a [String],
    pub resources: &'a [String],
    pub operations: &'a [String],
    pub scope: Option<&'a str>,
}

fn list(values: &Option<Vec<String>>) -> &[String] {
    values.as_deref().unwrap_or_default()
}

impl<'a> From<&'a RuleWithOperations> for Rule<'a> {
    fn from(rule: &'a RuleWithOperations) -> Self {
        Self {
            groups: list(&rule.api_groups),
            versions: list(&rule.api_versions),
            resources: list(&rule.resources),
            operations: list(&rule.operations),
            scope: rule.scope.as_deref(),
        }
    }
}

impl<'a> From<&'a NamedRuleWithOperations> for Rule<'a> {
    fn from(rule: &'a NamedRuleWithOperations) -> Self {
        Self {
            groups: list(&rule.api_groups),
            versions: list(&rule.api_versions),
            resources: list(&rule.resources),
            operations: list(&rule.operations),
            scope: rule.scope.as_deref(),
        }
    }
}

/// `*` is the scope of a rule that does not say.
pub fn default_scope(scope: &mut Option<String>) {
    scope.get_or_insert_with(|| "*".to_owned());
}

pub fn default_match(resources: &mut MatchResources) {
    resources.match_policy.get_or_insert_with(|| "Equivalent".to_owned());
    resources.namespace_selector.get_or_insert_default();
    resources.object_selector.get_or_insert_default();
    let rules = resources.resource_rules.iter_mut().chain(&mut resources.exclude_resource_rules).flatten();
    rules.for_each(|rule| default_scope(&mut rule.scope));
}

pub fn validate_rule(rule: &Rule<'_>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let operations = path.child("operations");
    if rule.operations.is_empty() {
        errors.push(Error::required(&operations, ""));
    }
    errors.extend(alone(rule.operations, &operations, "operations"));
    for (index, operation) in rule.operations.iter().enumerate() {
        errors.extend(checks::one_of(operation, OPERATIONS, &operations.index(index)));
    }
    for (field, values, what) in
        [("apiGroups", rule.groups, "API groups"), ("apiVersions", rule.versions, "API versions")]
    {
        let path = path.child(field);
        if values.is_empty() {
            errors.push(Error::required(&path, ""));
        }
        errors.extend(alone(values, &path, what));
    }
    let versions = path.child("apiVersions");
    let empty = rule.versions.iter().enumerate().filter(|(_, version)| version.is_empty());
    errors.extend(empty.map(|(index, _)| Error::required(&versions.index(index), "")));
    errors.extend(validate_resources(rule.resources, &path.child("resources")));
    errors.extend(rule.scope.map(|scope| checks::one_of(scope, SCOPES, &path.child("scope"))).unwrap_or_default());
    errors
}

/// `*` says all: nothing may stand beside it.
fn alone(values: &[String], path: &Path, what: &str) -> Option<Error> {
    let crowded = values.len() > 1 && values.iter().any(|value| value == "*");
    let why = || format!("if '*' is present, must not specify other {what}");
    crowded.then(|| Error::invalid(path, checks::json(values), why()))
}

fn validate_resources(resources: &[String], path: &Path) -> Errors {
    let mut errors = Vec::new();
    if resources.is_empty() {
        errors.push(Error::required(path, ""));
    }
    let (mut all_of, mut all_with) = (BTreeSet::new(), BTreeSet::new());
    let (mut double, mut single, mut plain) = (false, false, false);
    for (index, text) in resources.iter().enumerate() {
        let path = path.index(index);
        if text.is_empty() {
            errors.push(Error::required(&path, ""));
            continue;
        }
        double |= text == "*/*";
        single |= text == "*";
        let Some((resource, subresource)) = text.split_once('/') else {
            plain = text != "*";
            continue;
        };
        let mut refuse = |pattern: String| {
            let why = format!("if '{pattern}' is present, must not specify {text}");
            errors.push(Error::invalid(&path, text, why));
        };
        if all_of.contains(resource) {
            refuse(format!("{resource}/*"));
        }
        if all_with.contains(subresource) {
            refuse(format!("*/{subresource}"));
        }
        if subresource == "*" {
            all_of.insert(resource);
        }
        if resource == "*" {
            all_with.insert(subresource);
        }
    }
    if resources.len() > 1 && double {
        let why = "if '*/*' is present, must not specify other resources";
        errors.push(Error::invalid(path, checks::json(resources), why));
    }
    if single && plain {
        let why = "if '*' is present, must not specify other resources without subresources";
        errors.push(Error::invalid(path, checks::json(resources), why));
    }
    errors
}

pub fn validate_match(resources: &MatchResources, path: &Path) -> Errors {
    let mut errors = required(resources.match_policy.as_deref(), MATCH_POLICIES, &path.child("matchPolicy"));
    errors.extend(validate_selector(resources.namespace_selector.as_ref(), &path.child("namespaceSelector")));
    errors.extend(validate_selector(resources.object_selector.as_ref(), &path.child("objectSelector")));
    let lists =
        [("resourceRules", &resources.resource_rules), ("excludeResourceRules", &resources.exclude_resource_rules)];
    for (field, rules) in lists {
        for (index, rule) in rules.iter().flatten().enumerate() {
            errors.extend(validate_named(rule, &path.child(field).index(index)));
        }
    }
    errors
}

fn validate_selector(selector: Option<&meta::LabelSelector>, path: &Path) -> Errors {
    selector.map_or_else(|| vec![Error::required(path, "")], |selector| selector::validate(selector, path))
}

fn validate_named(rule: &NamedRuleWithOperations, path: &Path) -> Errors {
    let names = path.child("resourceNames");
    let given = rule.resource_names.as_deref().unwrap_or_default();
    let mut errors = Vec::new();
    for (index, name) in given.iter().enumerate() {
        errors.extend(path_segment(name, &names.index(index)));
    }
    errors.extend(repeated(given.iter().map(String::as_str), &names, None));
    errors.extend(validate_rule(&rule.into(), path));
    errors
}

/// A name that fits a path.
pub fn path_segment(name: &str, path: &Path) -> Errors {
    let mut messages = Vec::new();
    if matches!(name, "." | "..") {
        messages.push(format!("may not be '{name}'"));
    }
    messages
        .extend(["/", "%"].iter().filter(|part| name.contains(**part)).map(|part| format!("may not contain '{part}'")));
    checks::invalid(messages, path, name)
}

/// Refuses operations that a mutating policy cannot be about.
pub fn validate_mutable(resources: &MatchResources, path: &Path) -> Errors {
    let path = path.child("resourceRules").child("operations");
    let rules = resources.resource_rules.iter().flatten();
    let operations = rules.flat_map(|rule| rule.operations.iter().flatten());
    operations.flat_map(|operation| checks::one_of(operation, MUTATING_OPERATIONS, &path)).collect()
}
