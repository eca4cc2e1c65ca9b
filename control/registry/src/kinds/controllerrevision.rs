//! ControllerRevisions: what StatefulSets and DaemonSets have been before. Their content is the controller's own.
//!
//! Source: `ValidateControllerRevision`, `pkg/registry/apps/controllerrevision`.

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::GroupVersion;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::apps::v1::ControllerRevision;

use super::{NONE, created, name};
use crate::checks;
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct ControllerRevisions;

impl Strategy for ControllerRevisions {
    type Object = ControllerRevision;

    fn validate(&self, revision: &ControllerRevision) -> Errors {
        let mut errors = Vec::new();
        if revision.data.as_ref().is_none_or(|data| data.0.is_null()) {
            errors.push(Error::required(&Path::new("data"), "data is mandatory"));
        }
        errors.extend(checks::non_negative(revision.revision, &Path::new("revision")));
        errors
    }

    fn validate_update(&self, new: &ControllerRevision, old: &ControllerRevision) -> Errors {
        checks::immutable(&new.data, &old.data, &Path::new("data"))
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new("Controller", "string", "Controller of the object"),
            Column::new("Revision", "string", "revision indicates the revision of the state represented by Data."),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, revision: &ControllerRevision, now: Timestamp) -> Vec<Value> {
        let meta = &revision.metadata;
        vec![name(meta), controller(revision).into(), revision.revision.into(), created(meta, now)]
    }
}

/// `statefulset.apps/web`
fn controller(revision: &ControllerRevision) -> String {
    let mut owners = revision.metadata.owner_references.iter().flatten();
    let Some(owner) = owners.find(|owner| owner.controller == Some(true)) else { return NONE.to_owned() };
    let kind = owner.kind.to_lowercase();
    match &*GroupVersion::parse(&owner.api_version).group {
        "" => format!("{kind}/{}", owner.name),
        group => format!("{kind}.{group}/{}", owner.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, check_update};

    const REVISION: &str = "{metadata: {name: web-1, ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: web, uid: u, controller: true}]}, revision: 2, data: {spec: {}}}";

    #[test]
    fn a_revision_has_data_that_never_changes() {
        check(&ControllerRevisions, REVISION, &[]);
        check(
            &ControllerRevisions,
            "{revision: -1}",
            &[
                "data: Required value: data is mandatory",
                "revision: Invalid value: -1: must be greater than or equal to 0",
            ],
        );
        check_update(&ControllerRevisions, REVISION, &REVISION.replace("revision: 2", "revision: 3"), &[]);
        check_update(
            &ControllerRevisions,
            REVISION,
            &REVISION.replace("spec: {}", "spec: 1"),
            &["data: Invalid value: {\"spec\":1}: field is immutable"],
        );
    }

    #[test]
    fn cells_name_the_controller() {
        check_cells(&ControllerRevisions, REVISION, "web-1 | statefulset.apps/web | 2 | <unknown>");
    }
}
