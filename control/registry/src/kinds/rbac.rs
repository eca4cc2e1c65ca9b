//! What roles and bindings of both scopes share: rules, subjects and references to a role.
//!
//! Source: `pkg/apis/rbac/{validation,v1}`, `pkg/printers/internalversion`. That nobody grants more than they have is for the
//! API server to see to (`rbac` there): it needs an authorizer.

use jiff::Timestamp;
use serde_json::{Value, json};
use wharf_machinery::names;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::rbac::v1::{PolicyRule, RoleRef, Subject};
use wharf_types::meta::ObjectMeta;

use super::{created, name};
use crate::checks;
use crate::strategy::{AGE, Column, NAME};

pub const GROUP: &str = "rbac.authorization.k8s.io";

/// The columns of both kinds of role.
pub const ROLE_COLUMNS: &[Column] =
    &[NAME, Column { name: "Created At", kind: "date", format: "", description: AGE.description, priority: 0 }];

pub fn role_cells(meta: &ObjectMeta) -> Vec<Value> {
    let created = meta.creation_timestamp.as_ref().map(|time| time.0);
    vec![name(meta), created.unwrap_or(Timestamp::UNIX_EPOCH).strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into()]
}

/// The columns of both kinds of binding; `words` are what the kind says of itself.
pub const fn binding_columns(role: &'static str, of: [&'static str; 3]) -> [Column; 6] {
    let [users, groups, accounts] = of;
    [
        NAME,
        Column::new("Role", "string", role),
        AGE,
        Column::wide("Users", "string", users),
        Column::wide("Groups", "string", groups),
        Column::wide("ServiceAccounts", "string", accounts),
    ]
}

pub fn binding_cells(meta: &ObjectMeta, role: &RoleRef, subjects: Option<&Vec<Subject>>, now: Timestamp) -> Vec<Value> {
    let joined = |kind: &str, shown: &dyn Fn(&Subject) -> String| -> Value {
        let of_kind = subjects.into_iter().flatten().filter(|subject| subject.kind == kind);
        of_kind.map(shown).collect::<Vec<_>>().join(", ").into()
    };
    vec![
        name(meta),
        format!("{}/{}", role.kind, role.name).into(),
        created(meta, now),
        joined("User", &|subject| subject.name.clone()),
        joined("Group", &|subject| subject.name.clone()),
        joined("ServiceAccount", &|subject| {
            format!("{}/{}", subject.namespace.as_deref().unwrap_or_default(), subject.name)
        }),
    ]
}

/// Groups that are left out are those that a reference or subject of its kind can only have.
pub fn default_binding(role: &mut RoleRef, subjects: Option<&mut Vec<Subject>>) {
    if role.api_group.as_deref().unwrap_or_default().is_empty() {
        role.api_group = Some(GROUP.to_owned());
    }
    for subject in subjects.into_iter().flatten() {
        if subject.api_group.as_deref().unwrap_or_default().is_empty() {
            subject.api_group = matches!(subject.kind.as_str(), "User" | "Group").then(|| GROUP.to_owned());
        }
    }
}

/// A role's name may have what a segment of a path may have: `system:node` is one.
pub fn validate_name(name: &str) -> Vec<String> {
    names::path_segment(name)
}

pub fn validate_rules(rules: Option<&Vec<PolicyRule>>, namespaced: bool) -> Errors {
    let path = Path::new("rules");
    let rules = rules.into_iter().flatten().enumerate();
    rules.flat_map(|(index, rule)| validate_rule(rule, namespaced, &path.index(index))).collect()
}

fn validate_rule(rule: &PolicyRule, namespaced: bool, path: &Path) -> Errors {
    let count = |list: &Option<Vec<String>>| list.as_ref().map_or(0, Vec::len);
    let (groups, resources, names) = (count(&rule.api_groups), count(&rule.resources), count(&rule.resource_names));
    let mut errors = Vec::new();
    if rule.verbs.is_empty() {
        errors.push(Error::required(&path.child("verbs"), "verbs must contain at least one value"));
    }
    if let Some(urls) = rule.non_resource_urls.as_ref().filter(|urls| !urls.is_empty()) {
        let mut refuse = |why: &str| {
            errors.push(Error::invalid(&path.child("nonResourceURLs"), checks::json(urls), why));
        };
        if namespaced {
            refuse("namespaced rules cannot apply to non-resource URLs");
        }
        if groups > 0 || resources > 0 || names > 0 {
            refuse("rules cannot apply to both regular resources and non-resource URLs");
        }
        return errors;
    }
    let mut require = |field: &str, why: &str| errors.push(Error::required(&path.child(field), why));
    if groups == 0 {
        require("apiGroups", "resource rules must supply at least one api group");
    }
    if resources == 0 {
        require("resources", "resource rules must supply at least one resource");
    }
    if names > 0 && resources > 1 {
        require("resourceNames", "resource names cannot apply to multiple resources");
    }
    errors
}

pub fn validate_binding(role: &RoleRef, subjects: Option<&Vec<Subject>>, namespaced: bool) -> Errors {
    let path = Path::new("roleRef");
    let mut errors = checks::one_of(role.api_group.as_deref().unwrap_or_default(), &[GROUP], &path.child("apiGroup"));
    let kinds: &[&str] = if namespaced { &["ClusterRole", "Role"] } else { &["ClusterRole"] };
    errors.extend(checks::one_of(&role.kind, kinds, &path.child("kind")));
    if role.name.is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    } else {
        errors.extend(checks::invalid(validate_name(&role.name), &path.child("name"), &role.name));
    }
    let path = Path::new("subjects");
    for (index, subject) in subjects.into_iter().flatten().enumerate() {
        errors.extend(validate_subject(subject, namespaced, &path.index(index)));
    }
    errors
}

fn validate_subject(subject: &Subject, namespaced: bool, path: &Path) -> Errors {
    let group = subject.api_group.as_deref().unwrap_or_default();
    let mut errors = Vec::new();
    if subject.name.is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    }
    match subject.kind.as_str() {
        "ServiceAccount" => {
            if !subject.name.is_empty() {
                errors.extend(checks::dns1123_subdomain(&subject.name, &path.child("name")));
            }
            errors.extend(checks::one_of(group, &[""], &path.child("apiGroup")));
            if !namespaced && subject.namespace.as_deref().unwrap_or_default().is_empty() {
                errors.push(Error::required(&path.child("namespace"), ""));
            }
        }
        kind @ ("User" | "Group") => {
            if subject.name.is_empty() {
                let why = format!("{} name cannot be empty", kind.to_lowercase());
                errors.push(Error::invalid(&path.child("name"), &subject.name, why));
            }
            errors.extend(checks::one_of(group, &[GROUP], &path.child("apiGroup")));
        }
        kind => errors.extend(checks::one_of(kind, &["Group", "ServiceAccount", "User"], &path.child("kind"))),
    }
    errors
}

/// A binding grants one role for good: to change it, one makes another binding.
pub fn validate_role_ref_update(new: &RoleRef, old: &RoleRef) -> Errors {
    if new == old {
        return Vec::new();
    }
    // Upstream prints its internal struct, whose fields have no names in JSON.
    let shown = json!({"APIGroup": new.api_group, "Kind": new.kind, "Name": new.name});
    vec![Error::invalid(&Path::new("roleRef"), shown, "cannot change roleRef")]
}
