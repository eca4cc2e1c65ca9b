//! What validating and mutating policies, and their bindings, have in common.

use wharf_machinery::{cel, names, selector};
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::admissionregistration::v1::{MatchResources, ParamKind, ParamRef, Variable};

use super::expression::{self, Returns, Scope};
use super::{FAILURE_POLICIES, required, rules};
use crate::checks;

const NOT_FOUND_ACTIONS: &[&str] = &["Deny", "Allow"];

pub fn default(failure_policy: &mut Option<String>, constraints: Option<&mut MatchResources>) {
    failure_policy.get_or_insert_with(|| "Fail".to_owned());
    if let Some(constraints) = constraints {
        rules::default_match(constraints);
    }
}

/// What stands at the head of either policy's spec.
pub fn validate_head(
    failure_policy: Option<&str>,
    params: Option<&ParamKind>,
    constraints: Option<&MatchResources>,
    path: &Path,
) -> Errors {
    let mut errors = required(failure_policy, FAILURE_POLICIES, &path.child("failurePolicy"));
    errors.extend(params.map(|kind| validate_param_kind(kind, &path.child("paramKind"))).unwrap_or_default());
    let path = path.child("matchConstraints");
    let Some(constraints) = constraints else {
        errors.push(Error::required(&path, ""));
        return errors;
    };
    errors.extend(rules::validate_match(constraints, &path));
    if constraints.resource_rules.as_ref().is_none_or(Vec::is_empty) {
        errors.push(Error::required(&path.child("resourceRules"), ""));
    }
    errors
}

fn validate_param_kind(kind: &ParamKind, path: &Path) -> Errors {
    let (version_path, kind_path) = (path.child("apiVersion"), path.child("kind"));
    let version = kind.api_version.as_deref().unwrap_or_default();
    let mut errors = match version.matches('/').count() {
        _ if version.is_empty() => vec![Error::required(&version_path, "")],
        0 | 1 => validate_group_version(version, &version_path),
        _ => {
            let why = format!("unexpected GroupVersion string: {version}");
            vec![Error::invalid(&version_path, version, why)]
        }
    };
    let kind = kind.kind.as_deref().unwrap_or_default();
    let messages = names::dns1035_label(&kind.to_lowercase());
    if kind.is_empty() {
        errors.push(Error::required(&kind_path, ""));
    } else if !messages.is_empty() {
        let why = format!("may have mixed case, but should otherwise match: {}", messages.join(","));
        errors.push(Error::invalid(&kind_path, kind, why));
    }
    errors
}

fn validate_group_version(text: &str, path: &Path) -> Errors {
    let (group, version) = text.split_once('/').unwrap_or(("", text));
    let mut errors = Vec::new();
    let mut refuse = |value: &str, messages: Vec<String>| {
        if !messages.is_empty() {
            errors.push(Error::invalid(path, value, messages.join(",")));
        }
    };
    if !group.is_empty() {
        refuse(group, names::dns1123_subdomain(group));
    }
    if version.is_empty() {
        refuse(text, vec!["version must be specified".to_owned()]);
    } else {
        refuse(version, names::dns1035_label(version));
    }
    errors
}

/// Variables see those that stand before them. Returns the scope of what follows.
pub fn validate_variables(variables: &[Variable], scope: &mut Scope, path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (index, variable) in variables.iter().enumerate() {
        let path = path.index(index);
        let (name, name_path) = (variable.name.as_str(), path.child("name"));
        if name.trim().is_empty() {
            errors.push(Error::required(&name_path, "name is not specified"));
        } else if !is_identifier(name) {
            errors.push(Error::invalid(&name_path, name, "name is not a valid CEL identifier"));
        }
        let path = path.child("expression");
        if variable.expression.trim().is_empty() {
            errors.push(Error::required(&path, "expression is not specified"));
        } else {
            errors.extend(expression::check(&variable.expression, scope, Returns::Anything, &path));
        }
        scope.variables.insert(name.to_owned());
    }
    errors
}

fn is_identifier(name: &str) -> bool {
    let start = name.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic());
    start && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric()) && !cel::is_reserved(name)
}

pub fn validate_binding(
    policy: &str,
    params: Option<&ParamRef>,
    resources: Option<&MatchResources>,
    path: &Path,
) -> Errors {
    let policy_path = path.child("policyName");
    let mut errors = match policy {
        "" => vec![Error::required(&policy_path, "")],
        name => checks::dns1123_subdomain(name, &policy_path),
    };
    errors.extend(params.map(|params| validate_param_ref(params, &path.child("paramRef"))).unwrap_or_default());
    let match_path = path.child("matchResources");
    errors.extend(resources.map(|resources| rules::validate_match(resources, &match_path)).unwrap_or_default());
    errors
}

fn validate_param_ref(params: &ParamRef, path: &Path) -> Errors {
    const EXCLUSIVE: &str = "name and selector are mutually exclusive";
    let (name, selector) = (params.name.as_deref().unwrap_or_default(), params.selector.as_ref());
    let mut errors = Vec::new();
    if !name.is_empty() {
        errors.extend(rules::path_segment(name, &path.child("name")));
        if selector.is_some() {
            errors.push(Error::forbidden(&path.child("name"), EXCLUSIVE));
        }
    }
    if let Some(selector) = selector {
        errors.extend(selector::validate(selector, &path.child("selector")));
        if !name.is_empty() {
            errors.push(Error::forbidden(&path.child("selector"), EXCLUSIVE));
        }
    }
    if name.is_empty() && selector.is_none() {
        errors.push(Error::required(path, "one of name or selector must be specified"));
    }
    let action = params.parameter_not_found_action.as_deref().filter(|action| !action.is_empty());
    errors.extend(required(action, NOT_FOUND_ACTIONS, &path.child("parameterNotFoundAction")));
    errors
}

/// The cell of the column `ParamKind`.
pub fn param_kind_cell(kind: Option<&ParamKind>) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    kind.map_or_else(|| UNSET.to_owned(), |kind| format!("{}/{}", text(&kind.api_version), text(&kind.kind)))
}

/// The cell of the column `ParamRef`.
pub fn param_ref_cell(params: Option<&ParamRef>) -> String {
    let Some(params) = params else { return UNSET.to_owned() };
    match (params.name.as_deref().unwrap_or_default(), &params.selector) {
        ("", None) => UNSET.to_owned(),
        // Upstream prints the Go struct here; this is the selector in its usual form.
        ("", Some(selector)) => selector::LabelSelector::from_meta(selector).to_string(),
        (name, _) => format!("{}/{name}", params.namespace.as_deref().filter(|ns| !ns.is_empty()).unwrap_or("*")),
    }
}

const UNSET: &str = "<unset>";
