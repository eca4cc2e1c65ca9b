//! Namespaces: where names live. One that is deleted stays `Terminating` until its content is gone and its finalizers,
//! in `spec`, have been taken off through the `finalize` subresource; that dance is the verbs' own.

use jiff::Timestamp;
use serde_json::Value;
use wharf_machinery::names;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::{Namespace, NamespaceStatus};

use super::{created, name};
use crate::checks;
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct Namespaces;

/// The label by which selectors find a namespace by its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
const FINALIZER: &str = "kubernetes";

impl Strategy for Namespaces {
    type Object = Namespace;

    fn default(&self, namespace: &mut Namespace) {
        label(namespace);
    }

    fn prepare_for_create(&self, namespace: &mut Namespace) {
        // A generated name is known only now.
        label(namespace);
        namespace.status = Some(NamespaceStatus { phase: Some("Active".to_owned()), conditions: None });
        let finalizers = namespace.spec.get_or_insert_default().finalizers.get_or_insert_default();
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
        }
    }

    fn prepare_for_update(&self, namespace: &mut Namespace, old: &Namespace) {
        namespace.spec.clone_from(&old.spec);
        namespace.status.clone_from(&old.status);
    }

    fn prepare_for_status_update(&self, namespace: &mut Namespace, old: &Namespace) {
        namespace.spec.clone_from(&old.spec);
    }

    fn validate(&self, namespace: &Namespace) -> Errors {
        let path = Path::new("spec").child("finalizers");
        let finalizers = namespace.spec.iter().flat_map(|spec| spec.finalizers.iter().flatten());
        finalizers
            .flat_map(|finalizer| {
                let mut errors = checks::qualified_name(finalizer, &path);
                if !finalizer.contains('/') && finalizer != FINALIZER && finalizer != "orphan" {
                    let why = "name is neither a standard finalizer name nor is it fully qualified";
                    errors.push(Error::invalid(&path, finalizer, why));
                }
                errors
            })
            .collect()
    }

    fn validate_status_update(&self, namespace: &Namespace, _old: &Namespace) -> Errors {
        let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
        let path = Path::new("status").child("Phase");
        match namespace.metadata.deletion_timestamp {
            None if phase != "Active" => {
                vec![Error::invalid(&path, phase, "may only be 'Active' if `deletionTimestamp` is empty")]
            }
            Some(_) if phase != "Terminating" => {
                vec![Error::invalid(&path, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")]
            }
            _ => Vec::new(),
        }
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_label(name)
    }

    fn fields(&self, namespace: &Namespace) -> Vec<(&'static str, String)> {
        vec![("status.phase", phase(namespace))]
    }

    fn field_names(&self) -> &'static [&'static str] {
        &["status.phase"]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, Column::new("Status", "string", "The status of the namespace"), AGE];
        COLUMNS
    }

    fn cells(&self, namespace: &Namespace, now: Timestamp) -> Vec<Value> {
        vec![name(&namespace.metadata), phase(namespace).into(), created(&namespace.metadata, now)]
    }
}

fn label(namespace: &mut Namespace) {
    if let Some(name) = namespace.metadata.name.clone().filter(|name| !name.is_empty()) {
        namespace.metadata.labels.get_or_insert_default().insert(NAME_LABEL.to_owned(), name);
    }
}

fn phase(namespace: &Namespace) -> String {
    namespace.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, check};

    #[test]
    fn a_new_namespace_is_active_labelled_and_held() {
        testing::created(
            &Namespaces,
            "{metadata: {name: a}}",
            r#"{"metadata":{"name":"a","labels":{"kubernetes.io/metadata.name":"a"}},"spec":{"finalizers":["kubernetes"]},"status":{"phase":"Active"}}"#,
        );
    }

    #[test]
    fn finalizers_are_qualified() {
        check(&Namespaces, "{metadata: {name: a}, spec: {finalizers: [kubernetes, a.b/c]}}", &[]);
        check(
            &Namespaces,
            "{metadata: {name: a}, spec: {finalizers: [mine]}}",
            &[
                "spec.finalizers: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified",
            ],
        );
    }
}
