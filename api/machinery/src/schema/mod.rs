//! The schemas of Kubernetes' own types, from k8s-openapi, in two forms: whole ([`definitions`], to publish) and as a graph
//! of fields without words ([`types`], to walk a document by type).
//!
//! The graph is small and kept for the life of the process; the definitions are megabytes and are made anew at each call.
//! Absent on purpose: custom resources, whose schemas are in their definitions and not here.

pub mod go;
mod kinds;

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use k8s_openapi::schemars::generate::SchemaSettings;
use serde_json::Value;
use wharf_types::Gvk;

use crate::apply::schema::Named;

/// Where a `$ref` points before it is rewritten for the document it ends up in.
pub const REF_PREFIX: &str = "#/definitions/";

/// How the groups of Wharf's own kinds end.
const OWN_GROUPS: &str = ".wharf.dev";

/// What a field or a list item holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    Scalar,
    /// An object of this schema type.
    Named(Box<str>),
    List(Box<Shape>),
    /// A map from strings.
    Map(Box<Shape>),
    /// Anything at all: `FieldsV1`, `RawExtension`, `JSON`.
    Any,
}

/// Types by name, and for each its fields.
#[derive(Debug)]
pub struct Types {
    by_name: HashMap<Box<str>, HashMap<Box<str>, Shape>>,
}

impl Types {
    pub fn knows(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The shape of a field, if the type is known and has it.
    pub fn field(&self, owner: &str, field: &str) -> Option<&Shape> {
        self.by_name.get(owner)?.get(field)
    }
}

/// What is made of the definitions, once.
pub(crate) struct Built {
    types: Types,
    /// The same types as server-side apply sees them.
    pub(crate) merge: Named,
}

pub(crate) fn built() -> &'static Built {
    static BUILT: LazyLock<Built> = LazyLock::new(|| {
        let definitions = definitions();
        let by_name = definitions
            .iter()
            .map(|(name, schema)| {
                let fields = schema["properties"].as_object().into_iter().flatten();
                (
                    name.as_str().into(),
                    fields.map(|(field, schema)| (field.as_str().into(), shape(schema, &definitions))).collect(),
                )
            })
            .collect();
        Built { types: Types { by_name }, merge: Named::of(&definitions) }
    });
    &BUILT
}

/// The graph of all built-in types.
pub fn types() -> &'static Types {
    &built().types
}

/// Every built-in schema by its type name; references start with [`REF_PREFIX`].
pub fn definitions() -> BTreeMap<String, Value> {
    let settings = SchemaSettings::default().with(|settings| {
        settings.definitions_path = "/definitions".into();
        settings.meta_schema = None;
        settings.transforms = Vec::new();
    });
    let mut generator = settings.into_generator();
    kinds::define_all(&mut generator);
    generator.take_definitions(false).into_iter().collect()
}

fn shape(schema: &Value, definitions: &BTreeMap<String, Value>) -> Shape {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.strip_prefix(REF_PREFIX).unwrap_or(reference);
        let target = definitions.get(name).unwrap_or(&Value::Null);
        // References to types without fields are to scalars (Time, Quantity) or to free-form JSON.
        return match (target["properties"].is_object(), target["type"].as_str()) {
            (true, _) => Shape::Named(name.into()),
            (false, Some("object") | None) if target.get("x-kubernetes-int-or-string").is_none() => Shape::Any,
            (false, _) => Shape::Scalar,
        };
    }
    match schema["type"].as_str() {
        Some("array") => Shape::List(Box::new(shape(&schema["items"], definitions))),
        Some("object") => match schema.get("additionalProperties") {
            Some(items) => Shape::Map(Box::new(shape(items, definitions))),
            None => Shape::Any,
        },
        _ => Shape::Scalar,
    }
}

/// The schema type of a built-in kind: `apps/v1 Deployment` is `io.k8s.api.apps.v1.Deployment`.
pub fn type_name(gvk: &Gvk) -> String {
    let Gvk { group, version, kind } = gvk;
    match group.as_ref() {
        "" => format!("io.k8s.api.core.{version}.{kind}"),
        "apiextensions.k8s.io" => format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{version}.{kind}"),
        "apiregistration.k8s.io" => format!("io.k8s.kube-aggregator.pkg.apis.apiregistration.{version}.{kind}"),
        "internal.apiserver.k8s.io" => format!("io.k8s.api.apiserverinternal.{version}.{kind}"),
        group if group.ends_with(OWN_GROUPS) => {
            format!("dev.wharf.{}.{version}.{kind}", group.trim_end_matches(OWN_GROUPS))
        }
        group => format!("io.k8s.api.{}.{version}.{kind}", group.split('.').next().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_names_follow_the_go_packages() {
        let check = |group: &'static str, version: &'static str, kind: &'static str, name: &str| {
            let gvk = Gvk { group: group.into(), version: version.into(), kind: kind.into() };
            assert_eq!(type_name(&gvk), name);
            assert!(types().knows(name), "{name}");
        };
        check("admission.wharf.dev", "v1alpha1", "AdmissionPlugin", "dev.wharf.admission.v1alpha1.AdmissionPlugin");
        check("", "v1", "Pod", "io.k8s.api.core.v1.Pod");
        check("apps", "v1", "Deployment", "io.k8s.api.apps.v1.Deployment");
        check("rbac.authorization.k8s.io", "v1", "Role", "io.k8s.api.rbac.v1.Role");
        check("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema", "io.k8s.api.flowcontrol.v1.FlowSchema");
        check(
            "apiextensions.k8s.io",
            "v1",
            "CustomResourceDefinition",
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
        );
    }

    #[test]
    fn shapes_are_found_along_a_path() {
        let pod_spec = "io.k8s.api.core.v1.PodSpec";
        let container = Shape::Named("io.k8s.api.core.v1.Container".into());
        assert_eq!(types().field(pod_spec, "containers"), Some(&Shape::List(Box::new(container))));
        assert_eq!(types().field(pod_spec, "nodeSelector"), Some(&Shape::Map(Box::new(Shape::Scalar))));
        assert_eq!(types().field(pod_spec, "overhead"), Some(&Shape::Map(Box::new(Shape::Scalar))));
        assert_eq!(
            types().field("io.k8s.apimachinery.pkg.apis.meta.v1.ManagedFieldsEntry", "fieldsV1"),
            Some(&Shape::Any)
        );
        assert_eq!(types().field(pod_spec, "nonsense"), None);
    }
}
