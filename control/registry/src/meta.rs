//! What holds for every object's `metadata`.
//!
//! Source: `k8s.io/apimachinery/pkg/api/validation/objectmeta.go`, and the finalizer check that
//! `pkg/apis/core/validation` adds. The verbs call this for every kind; a strategy brings only its check of names.
//! Absent on purpose: checks of `managedFields`, which belong to server-side apply.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;
use wharf_machinery::{names, selector};
use wharf_types::field::{Error, Errors, Path};
use wharf_types::meta::{ObjectMeta, OwnerReference};

use crate::checks::{immutable, json, non_negative};

/// The most bytes that all annotations of an object may have together, keys and values.
pub const ANNOTATIONS_MAX: usize = 256 * 1024;

/// Finalizers that need no domain before their name.
const STANDARD_FINALIZERS: &[&str] = &["kubernetes", ORPHAN_FINALIZER, FOREGROUND_FINALIZER];
pub const ORPHAN_FINALIZER: &str = "orphan";
pub const FOREGROUND_FINALIZER: &str = "foregroundDeletion";

/// Checks the metadata of an object to be created, whose name has been generated if it was asked to be.
pub fn validate(meta: &ObjectMeta, namespaced: bool, name_check: impl Fn(&str) -> Vec<String>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if let Some(prefix) = meta.generate_name.as_deref().filter(|prefix| !prefix.is_empty()) {
        let path = path.child("generateName");
        errors.extend(name_check(&as_if_completed(prefix)).into_iter().map(|why| Error::invalid(&path, prefix, why)));
    }
    match meta.name.as_deref().unwrap_or_default() {
        "" => errors.push(Error::required(&path.child("name"), "name or generateName is required")),
        name => {
            errors.extend(name_check(name).into_iter().map(|why| Error::invalid(&path.child("name"), name, why)));
        }
    }
    errors.extend(validate_namespace(meta.namespace.as_deref().unwrap_or_default(), namespaced, path));
    errors.extend(non_negative(meta.generation.unwrap_or_default(), &path.child("generation")));
    errors.extend(selector::validate_labels(meta.labels.as_ref(), &path.child("labels")));
    errors.extend(validate_annotations(meta, &path.child("annotations")));
    errors.extend(validate_owners(meta, &path.child("ownerReferences")));
    errors.extend(validate_finalizers(meta, &path.child("finalizers")));
    errors
}

/// Checks the metadata of an update against what is stored. `new` must carry the resource version it is meant for.
pub fn validate_update(new: &ObjectMeta, old: &ObjectMeta, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if old.deletion_timestamp.is_some() {
        errors.extend(no_new_finalizers(new, old, &path.child("finalizers")));
    }
    if new.resource_version.as_deref().unwrap_or_default().is_empty() {
        errors.push(Error::invalid(&path.child("resourceVersion"), "", "must be specified for an update"));
    }
    if new.generation.unwrap_or_default() < old.generation.unwrap_or_default() {
        let generation = new.generation.unwrap_or_default();
        errors.push(Error::invalid(&path.child("generation"), generation, "must not be decremented"));
    }
    errors.extend(fixed(&new.name, &old.name, &path.child("name")));
    errors.extend(fixed(&new.namespace, &old.namespace, &path.child("namespace")));
    errors.extend(fixed(&new.uid, &old.uid, &path.child("uid")));
    errors.extend(fixed(&new.creation_timestamp, &old.creation_timestamp, &path.child("creationTimestamp")));
    errors.extend(fixed(&new.deletion_timestamp, &old.deletion_timestamp, &path.child("deletionTimestamp")));
    let (grace, old_grace) = (&new.deletion_grace_period_seconds, &old.deletion_grace_period_seconds);
    errors.extend(fixed(grace, old_grace, &path.child("deletionGracePeriodSeconds")));
    errors.extend(selector::validate_labels(new.labels.as_ref(), &path.child("labels")));
    errors.extend(validate_annotations(new, &path.child("annotations")));
    errors.extend(validate_owners(new, &path.child("ownerReferences")));
    errors.extend(validate_finalizers(new, &path.child("finalizers")));
    errors
}

/// Absent and empty are the same here, as they are upstream.
fn fixed<T: Serialize>(new: &Option<T>, old: &Option<T>, path: &Path) -> Errors {
    let value = |field: &Option<T>| match json(field) {
        Value::String(text) if text.is_empty() => Value::Null,
        value => value,
    };
    immutable(&value(new), &value(old), path)
}

/// A prefix that ends with a dash is fine, since a generated name goes on after it.
fn as_if_completed(prefix: &str) -> String {
    match prefix.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => format!("{rest}a"),
        _ => prefix.to_owned(),
    }
}

fn validate_namespace(namespace: &str, namespaced: bool, path: &Path) -> Errors {
    let path = path.child("namespace");
    match (namespaced, namespace) {
        (true, "") => vec![Error::required(&path, "")],
        (true, name) => names::dns1123_label(name).into_iter().map(|why| Error::invalid(&path, name, why)).collect(),
        (false, "") => Vec::new(),
        (false, _) => vec![Error::forbidden(&path, "not allowed on this type")],
    }
}

/// Checks the annotations of an object or of a pod template: their keys, and their size together.
pub fn validate_annotations(meta: &ObjectMeta, path: &Path) -> Errors {
    annotations(meta.annotations.iter().flatten().map(|(key, value)| (key.as_str(), value.as_str())), path)
}

/// Checks annotations by key, and their size together.
fn annotations<'a>(all: impl Iterator<Item = (&'a str, &'a str)>, path: &Path) -> Errors {
    let (mut errors, mut bytes) = (Vec::new(), 0);
    for (key, value) in all {
        // The case of a key does not matter here.
        errors.extend(names::qualified_name(&key.to_lowercase()).into_iter().map(|why| Error::invalid(path, key, why)));
        bytes += key.len() + value.len();
    }
    if bytes > ANNOTATIONS_MAX {
        errors.push(Error::too_long(path, ANNOTATIONS_MAX));
    }
    errors
}

fn validate_owners(meta: &ObjectMeta, path: &Path) -> Errors {
    let owners = meta.owner_references.as_deref().unwrap_or_default();
    let mut errors = Vec::new();
    let mut controller: Option<String> = None;
    for owner in owners {
        errors.extend(validate_owner(owner, path));
        if owner.controller != Some(true) {
            continue;
        }
        let name = format!("{}/{}", owner.kind, owner.name);
        match &controller {
            None => controller = Some(name),
            Some(first) => errors.push(Error::invalid(
                path,
                json(&owners),
                format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"),
            )),
        }
    }
    errors
}

fn validate_owner(owner: &OwnerReference, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let version = owner.api_version.rsplit('/').next().unwrap_or_default();
    if version.is_empty() {
        errors.push(Error::invalid(&path.child("apiVersion"), &owner.api_version, "version must not be empty"));
    }
    for (field, value) in [("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)] {
        if value.is_empty() {
            errors.push(Error::invalid(&path.child(field), value, format!("{field} must not be empty")));
        }
    }
    if owner.kind == "Event" && owner.api_version == "v1" {
        errors.push(Error::invalid(path, json(owner), "/v1, Kind=Event is disallowed from being an owner"));
    }
    errors
}

const NOT_QUALIFIED: &str = "name is neither a standard finalizer name nor is it fully qualified";

/// Takes out what is asked of built-in kinds only: finalizers of custom resources and their definitions need no domain.
pub fn relax(errors: &mut Errors) {
    errors.retain(|error| error.detail != NOT_QUALIFIED);
}

fn validate_finalizers(meta: &ObjectMeta, path: &Path) -> Errors {
    let finalizers = meta.finalizers.as_deref().unwrap_or_default();
    let mut errors = Vec::new();
    for finalizer in finalizers {
        errors.extend(names::qualified_name(finalizer).into_iter().map(|why| Error::invalid(path, finalizer, why)));
    }
    let has = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
    if has(ORPHAN_FINALIZER) && has(FOREGROUND_FINALIZER) {
        let why = format!("finalizer {ORPHAN_FINALIZER} and {FOREGROUND_FINALIZER} cannot be both set");
        errors.push(Error::invalid(path, json(&finalizers), why));
    }
    for (index, finalizer) in finalizers.iter().enumerate() {
        if !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer.as_str()) {
            errors.push(Error::invalid(&path.index(index), finalizer, NOT_QUALIFIED));
        }
    }
    errors
}

fn no_new_finalizers(new: &ObjectMeta, old: &ObjectMeta, path: &Path) -> Errors {
    let old: BTreeSet<&String> = old.finalizers.iter().flatten().collect();
    let added: BTreeSet<&String> = new.finalizers.iter().flatten().filter(|name| !old.contains(name)).collect();
    if added.is_empty() {
        return Vec::new();
    }
    let listed: Vec<String> = added.iter().map(|name| format!("{name:?}")).collect();
    let why = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
        listed.join(", ")
    );
    vec![Error::forbidden(path, why)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(yaml: &str) -> ObjectMeta {
        serde_yaml::from_str(yaml).unwrap()
    }

    fn shown(errors: &Errors) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[track_caller]
    fn check(yaml: &str, expected: &[&str]) {
        let errors = validate(&meta(yaml), true, names::dns1123_subdomain, &Path::new("metadata"));
        let errors = shown(&errors);
        assert_eq!(errors.len(), expected.len(), "{errors:#?}");
        for (error, start) in errors.iter().zip(expected) {
            assert!(error.starts_with(start), "{error}\n{start}");
        }
    }

    #[track_caller]
    fn check_update(old: &str, new: &str, expected: &[&str]) {
        assert_eq!(shown(&validate_update(&meta(new), &meta(old), &Path::new("metadata"))), expected);
    }

    #[test]
    fn metadata_is_refused_in_upstreams_words() {
        check("{name: web, namespace: default, generateName: web-}", &[]);
        check("{namespace: default}", &["metadata.name: Required value: name or generateName is required"]);
        check(
            "{name: Web}",
            &[
                "metadata.name: Invalid value: \"Web\": a lowercase RFC 1123 subdomain",
                "metadata.namespace: Required value",
            ],
        );
        check(
            "{name: a, namespace: b, labels: {a b: x}}",
            &["metadata.labels: Invalid value: \"a b\": name part must consist of"],
        );
        check("{name: a, namespace: b, annotations: {A.example.com/Key: x}}", &[]);
        check(
            "{name: a, namespace: b, finalizers: [mine]}",
            &["metadata.finalizers[0]: Invalid value: \"mine\": name is neither a standard"],
        );
        check(
            "{name: a, namespace: b, finalizers: [orphan, foregroundDeletion]}",
            &[
                "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and foregroundDeletion cannot be both set",
            ],
        );
        check(
            "{name: a, namespace: b, ownerReferences: [{apiVersion: v1, kind: Pod, name: x, uid: ''}]}",
            &["metadata.ownerReferences.uid: Invalid value: \"\": uid must not be empty"],
        );
    }

    #[test]
    fn annotations_have_a_size_limit() {
        let big = "x".repeat(ANNOTATIONS_MAX);
        check(
            &format!("{{name: a, namespace: b, annotations: {{a: {big}}}}}"),
            &["metadata.annotations: Too long: may not be more than 262144 bytes"],
        );
    }

    #[test]
    fn updates_keep_what_the_server_owns() {
        let old = "{name: a, namespace: b, uid: '1', resourceVersion: '5', generation: 3}";
        check_update(old, old, &[]);
        check_update(
            old,
            "{name: a, namespace: b, uid: '2', resourceVersion: '5', generation: 3}",
            &["metadata.uid: Invalid value: \"2\": field is immutable"],
        );
        check_update(
            old,
            "{name: a, namespace: b, uid: '1', generation: 2}",
            &[
                "metadata.resourceVersion: Invalid value: \"\": must be specified for an update",
                "metadata.generation: Invalid value: 2: must not be decremented",
            ],
        );
        check_update(
            "{name: a, namespace: b, deletionTimestamp: '2024-01-01T00:00:00Z'}",
            "{name: a, namespace: b, resourceVersion: '1', deletionTimestamp: '2024-01-01T00:00:00Z', finalizers: [a.b/c]}",
            &[
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"a.b/c\"}",
            ],
        );
    }
}
