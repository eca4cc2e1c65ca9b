//! The names that a definition asks for.

use wharf_machinery::names::dns1035_label;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinitionNames;

/// Checks the shape of names; those of a status may be missing.
pub fn validate(names: &CustomResourceDefinitionNames, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let mut label = |path: &Path, name: &str, mixed: bool| {
        if name.is_empty() {
            return;
        }
        let found = dns1035_label(&if mixed { name.to_lowercase() } else { name.to_owned() });
        if !found.is_empty() {
            let prefix = if mixed { "may have mixed case, but should otherwise match: " } else { "" };
            errors.push(Error::invalid(path, name, format!("{prefix}{}", found.join(","))));
        }
    };
    let list_kind = names.list_kind.as_deref().unwrap_or_default();
    label(&path.child("plural"), &names.plural, false);
    label(&path.child("singular"), names.singular.as_deref().unwrap_or_default(), false);
    label(&path.child("kind"), &names.kind, true);
    label(&path.child("listKind"), list_kind, true);
    for (index, name) in names.short_names.iter().flatten().enumerate() {
        label(&path.child("shortNames").index(index), name, false);
    }
    if !names.kind.is_empty() && names.kind == list_kind {
        let why = "kind and listKind may not be the same";
        errors.push(Error::invalid(&path.child("listKind"), list_kind, why));
    }
    for (index, name) in names.categories.iter().flatten().enumerate() {
        let found = dns1035_label(name);
        if !found.is_empty() {
            errors.push(Error::invalid(&path.child("categories").index(index), name, found.join(",")));
        }
    }
    errors
}

/// Names that a definition must ask for.
pub fn required(names: &CustomResourceDefinitionNames, path: &Path) -> Errors {
    let held = [
        ("plural", names.plural.as_str()),
        ("singular", names.singular.as_deref().unwrap_or_default()),
        ("kind", names.kind.as_str()),
        ("listKind", names.list_kind.as_deref().unwrap_or_default()),
    ];
    held.into_iter()
        .filter(|(_, name)| name.is_empty())
        .map(|(field, _)| Error::required(&path.child(field), ""))
        .collect()
}
