//! IngressClasses: which controller serves an Ingress, and with what parameters.
//!
//! Source: `ValidateIngressClass` of `pkg/apis/networking/validation`, `pkg/apis/networking/v1/defaults.go`.

use jiff::Timestamp;
use serde_json::Value;
use wharf_machinery::names;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::networking::v1::{IngressClass, IngressClassParametersReference};

use super::{NONE, created, name};
use crate::checks;
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct IngressClasses;

const CONTROLLER_MAX: usize = 250;
const SCOPES: &[&str] = &["Cluster", "Namespace"];

impl Strategy for IngressClasses {
    type Object = IngressClass;

    fn default(&self, class: &mut IngressClass) {
        if let Some(parameters) = &mut class.spec.get_or_insert_default().parameters {
            parameters.scope.get_or_insert_with(|| "Cluster".to_owned());
        }
    }

    fn prepare_for_create(&self, class: &mut IngressClass) {
        class.metadata.generation = Some(1);
    }

    fn prepare_for_update(&self, class: &mut IngressClass, old: &IngressClass) {
        let changed = class.spec != old.spec;
        super::generation(&mut class.metadata, &old.metadata, changed);
    }

    fn validate(&self, class: &IngressClass) -> Errors {
        let Some(spec) = &class.spec else { return Vec::new() };
        let path = Path::new("spec");
        let (controller, at) = (spec.controller.as_deref().unwrap_or_default(), path.child("controller"));
        let mut errors = Vec::new();
        if controller.len() > CONTROLLER_MAX {
            errors.push(Error::too_long(&at, CONTROLLER_MAX));
        }
        errors.extend(checks::domain_prefixed_path(controller, &at));
        if let Some(parameters) = &spec.parameters {
            errors.extend(validate_parameters(parameters, &path.child("parameters")));
        }
        errors
    }

    fn validate_update(&self, new: &IngressClass, old: &IngressClass) -> Errors {
        let controller = |class: &IngressClass| class.spec.as_ref().and_then(|spec| spec.controller.clone());
        checks::immutable(&controller(new), &controller(old), &Path::new("spec").child("controller"))
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new("Controller", "string", "Controller that is responsible for handling this class"),
            Column::new("Parameters", "string", "A reference to a resource with additional parameters"),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, class: &IngressClass, now: Timestamp) -> Vec<Value> {
        let spec = class.spec.clone().unwrap_or_default();
        let parameters = spec.parameters.map(|parameters| {
            let group = parameters.api_group.map(|group| format!(".{group}")).unwrap_or_default();
            format!("{}{group}/{}", parameters.kind, parameters.name)
        });
        vec![
            name(&class.metadata),
            spec.controller.unwrap_or_default().into(),
            parameters.unwrap_or_else(|| NONE.to_owned()).into(),
            created(&class.metadata, now),
        ]
    }
}

fn validate_parameters(parameters: &IngressClassParametersReference, path: &Path) -> Errors {
    let group = parameters.api_group.as_deref();
    let mut errors = validate_reference(group, &parameters.kind, &parameters.name, path);
    let at = path.child("namespace");
    match (parameters.scope.as_deref(), &parameters.namespace) {
        (None, _) => errors.push(Error::required(&path.child("scope"), "")),
        (Some("Namespace"), None) => errors.push(Error::required(&at, "`parameters.scope` is set to 'Namespace'")),
        (Some("Namespace"), Some(namespace)) => errors.extend(checks::dns1123_label(namespace, &at)),
        (Some("Cluster"), Some(_)) => errors.push(Error::forbidden(&at, "`parameters.scope` is set to 'Cluster'")),
        (Some(scope), _) => errors.extend(checks::one_of(scope, SCOPES, &path.child("scope"))),
    }
    errors
}

/// An object of another kind, of a class's parameters or an Ingress's backend.
pub fn validate_reference(group: Option<&str>, kind: &str, name: &str, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if let Some(group) = group {
        errors.extend(checks::dns1123_subdomain(group, &path.child("apiGroup")));
    }
    for (field, value) in [("kind", kind), ("name", name)] {
        let path = path.child(field);
        match value {
            "" => errors.push(Error::required(&path, format!("{field} is required"))),
            value => errors.extend(checks::invalid(names::path_segment(value), &path, value)),
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, check_update};

    const CLASS: &str =
        "{metadata: {name: c}, spec: {controller: a.b/c, parameters: {apiGroup: x.y, kind: K, name: p}}}";

    #[test]
    fn a_class_names_its_controller() {
        check(&IngressClasses, CLASS, &[]);
        check(
            &IngressClasses,
            "{spec: {controller: abc}}",
            &["spec.controller: Invalid value: \"abc\": must be a domain-prefixed path (such as \"acme.io/foo\")"],
        );
        check(&IngressClasses, "{}", &["spec.controller: Required value"]);
        check_update(
            &IngressClasses,
            CLASS,
            &CLASS.replace("a.b/c", "a.b/d"),
            &["spec.controller: Invalid value: \"a.b/d\": field is immutable"],
        );
    }

    #[test]
    fn parameters_are_of_the_cluster_or_of_a_namespace() {
        let scoped = |more: &str| CLASS.replace("name: p", &format!("name: p, {more}"));
        check(&IngressClasses, &scoped("scope: Namespace, namespace: ns"), &[]);
        for (more, why) in [
            ("scope: Namespace", "namespace: Required value: `parameters.scope` is set to 'Namespace'"),
            ("namespace: ns", "namespace: Forbidden: `parameters.scope` is set to 'Cluster'"),
            ("scope: World", "scope: Unsupported value: \"World\": supported values: \"Cluster\", \"Namespace\""),
        ] {
            check(&IngressClasses, &scoped(more), &[&format!("spec.parameters.{why}")]);
        }
    }

    #[test]
    fn cells_show_the_parameters() {
        check_cells(&IngressClasses, CLASS, "c | a.b/c | K.x.y/p | <unknown>");
        check_cells(
            &IngressClasses,
            "{metadata: {name: c}, spec: {controller: a.b/c}}",
            "c | a.b/c | <none> | <unknown>",
        );
    }
}
