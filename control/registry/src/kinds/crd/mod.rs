//! `apiextensions.k8s.io/v1 CustomResourceDefinition`.
//!
//! Source: `apiextensions-apiserver/pkg/{apis/apiextensions/v1/defaults.go,registry/customresourcedefinition/strategy.go}`. Deletion
//! leaves the finalizer to the cleanup that runs in the API server, which also writes names, conditions and what is served.

mod columns;
mod names;
mod schema;
mod spec;

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceConversion, CustomResourceDefinition, CustomResourceDefinitionCondition,
};
use wharf_types::meta::{DeleteOptions, Time};

use crate::checks::json;
use crate::strategy::{Column, Graceful, NAME, Strategy};

/// Holds a definition until its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

pub struct CustomResourceDefinitions;

impl Strategy for CustomResourceDefinitions {
    type Object = CustomResourceDefinition;

    fn default(&self, crd: &mut CustomResourceDefinition) {
        let names = &mut crd.spec.names;
        if names.singular.as_deref().unwrap_or_default().is_empty() {
            names.singular = Some(names.kind.to_lowercase());
        }
        if names.list_kind.as_deref().unwrap_or_default().is_empty() && !names.kind.is_empty() {
            names.list_kind = Some(format!("{}List", names.kind));
        }
        let none = || CustomResourceConversion { strategy: "None".to_owned(), webhook: None };
        let conversion = crd.spec.conversion.get_or_insert_with(none);
        let client = conversion.webhook.as_mut().and_then(|webhook| webhook.client_config.as_mut());
        if let Some(service) = client.and_then(|client| client.service.as_mut()) {
            service.port.get_or_insert(443);
        }
    }

    fn prepare_for_create(&self, crd: &mut CustomResourceDefinition) {
        crd.metadata.generation = Some(1);
        crd.status = None;
        note_stored_version(crd);
    }

    fn prepare_for_update(&self, crd: &mut CustomResourceDefinition, old: &CustomResourceDefinition) {
        crd.status = old.status.clone();
        if crd.spec != old.spec {
            crd.metadata.generation = Some(old.metadata.generation.unwrap_or_default() + 1);
        }
        note_stored_version(crd);
    }

    /// Metadata changes, too: upstream puts the new metadata in place of itself.
    fn prepare_for_status_update(&self, crd: &mut CustomResourceDefinition, old: &CustomResourceDefinition) {
        crd.spec = old.spec.clone();
    }

    fn validate(&self, crd: &CustomResourceDefinition) -> Errors {
        let mut errors = Vec::new();
        let wanted = format!("{}.{}", crd.spec.names.plural, crd.spec.group);
        let name = crd.metadata.name.as_deref().unwrap_or_default();
        if !name.is_empty() && name != wanted {
            let why = "must be spec.names.plural+\".\"+spec.group";
            errors.push(Error::invalid(&Path::new("metadata").child("name"), name, why));
        }
        errors.extend(spec::validate(&crd.spec, &Path::new("spec")));
        errors.extend(api_approved(crd));
        errors
    }

    fn validate_update(&self, crd: &CustomResourceDefinition, old: &CustomResourceDefinition) -> Errors {
        let mut errors = spec::validate_update(&crd.spec, &old.spec, is_established(old), &Path::new("spec"));
        errors.extend(stored_versions(crd));
        errors
    }

    fn validate_status_update(&self, crd: &CustomResourceDefinition, _: &CustomResourceDefinition) -> Errors {
        let mut errors = stored_versions(crd);
        let path = Path::new("status").child("acceptedNames");
        let accepted = crd.status.as_ref().and_then(|status| status.accepted_names.as_ref());
        errors.extend(accepted.into_iter().flat_map(|accepted| names::validate(accepted, &path)));
        errors
    }

    /// Of formats that nobody looks at, unless the definition has had them before.
    fn warnings(&self, crd: &CustomResourceDefinition, old: Option<&CustomResourceDefinition>) -> Vec<String> {
        let held: BTreeSet<String> = old.into_iter().flat_map(formats).collect();
        let new = formats(crd).into_iter().filter(|format| !held.contains(format));
        new.map(|format| format!("unrecognized format {format:?}")).collect()
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, Column::new("Created At", "date", crate::strategy::AGE.description)];
        COLUMNS
    }

    fn cells(&self, crd: &CustomResourceDefinition, _: Timestamp) -> Vec<Value> {
        let created = crd.metadata.creation_timestamp.as_ref().map(|time| time.0.to_string());
        vec![crd.metadata.name.clone().unwrap_or_default().into(), created.into()]
    }

    /// What is deleted stays until its objects are gone.
    fn delete(&self, crd: &mut CustomResourceDefinition, _: &DeleteOptions) -> Graceful {
        let finalizers = crd.metadata.finalizers.get_or_insert_default();
        if !finalizers.iter().any(|finalizer| finalizer == CLEANUP) {
            finalizers.push(CLEANUP.to_owned());
        }
        Graceful::Immediate
    }
}

/// The formats that the definition's schemas name in vain.
fn formats(crd: &CustomResourceDefinition) -> Vec<String> {
    crd.spec
        .versions
        .iter()
        .filter_map(crate::custom::schema_of)
        .flat_map(|schema| schema::unknown_formats(&schema))
        .collect()
}

/// The version that is stored from now on joins those that may be found in the store.
fn note_stored_version(crd: &mut CustomResourceDefinition) {
    let Some(stored) = crd.spec.versions.iter().find(|version| version.storage).map(|version| version.name.clone())
    else {
        return;
    };
    let held = crd.status.get_or_insert_default().stored_versions.get_or_insert_default();
    if !held.contains(&stored) {
        held.push(stored);
    }
}

fn stored_versions(crd: &CustomResourceDefinition) -> Errors {
    let held = crd.status.as_ref().and_then(|status| status.stored_versions.as_deref()).unwrap_or_default();
    let path = Path::new("status").child("storedVersions");
    let mut errors: Errors = held
        .iter()
        .enumerate()
        .filter(|(_, name)| crd.spec.versions.iter().all(|version| version.name != **name))
        .map(|(index, name)| {
            let why = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            Error::invalid(&path.index(index), name, why)
        })
        .collect();
    let stored = crd.spec.versions.iter().find(|version| version.storage);
    if let Some(stored) = stored.filter(|stored| !held.contains(&stored.name)) {
        let why = format!("must have the storage version {}", stored.name);
        errors.push(Error::invalid(&path, json(&held), why));
    }
    errors
}

/// Groups of the project's own need a word that they are approved.
fn api_approved(crd: &CustomResourceDefinition) -> Errors {
    let group = crd.spec.group.as_str();
    if !is_protected(group) {
        return Vec::new();
    }
    let path = Path::new("metadata").child("annotations").key("api-approved.kubernetes.io");
    let annotations = crd.metadata.annotations.as_ref();
    match annotations.and_then(|held| held.get("api-approved.kubernetes.io")).map(String::as_str) {
        None | Some("") => vec![Error::required(
            &path,
            "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111",
        )],
        Some(text) if text.starts_with("unapproved") || text.contains("://") => Vec::new(),
        Some(text) => vec![Error::invalid(
            &path,
            text,
            "protected groups must have approval annotation \"api-approved.kubernetes.io\" with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111",
        )],
    }
}

/// `k8s.io` and `kubernetes.io` and what is below them.
pub fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"].iter().any(|own| group == *own || group.ends_with(&format!(".{own}")))
}

/// True where the definition has such a condition.
pub fn has_condition(crd: &CustomResourceDefinition, kind: &str) -> bool {
    let conditions = crd.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

fn is_established(crd: &CustomResourceDefinition) -> bool {
    has_condition(crd, "Established")
}

/// Sets a condition; its time is that of the last change of its status.
pub fn set_condition(
    crd: &mut CustomResourceDefinition,
    mut wanted: CustomResourceDefinitionCondition,
    now: Timestamp,
) {
    let conditions = crd.status.get_or_insert_default().conditions.get_or_insert_default();
    wanted.last_transition_time = Some(Time(now));
    match conditions.iter_mut().find(|held| held.type_ == wanted.type_) {
        Some(held) => {
            if held.status == wanted.status {
                wanted.last_transition_time = held.last_transition_time.clone();
            }
            *held = wanted;
        }
        None => conditions.push(wanted),
    }
}
