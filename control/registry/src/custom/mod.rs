//! Custom resources: rows made of a CustomResourceDefinition.
//!
//! [`rows`] makes a row for each served version, over one storage prefix. [`Custom`] is the [`Kind`](crate::Kind) of a version: its
//! schema prunes, defaults and checks; [`versions`] shows what is stored in each version.
//! Source: `k8s.io/apiextensions-apiserver/pkg/{apiserver,registry/customresource}`.

mod kind;
mod object;
mod printer;
mod publish;
mod versions;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::Value;
use wharf_types::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionVersion,
};
use wharf_types::{Gvk, Gvr};

use crate::row::{Row, Scope, Subresource};

pub use kind::Custom;
pub use object::CustomObject;
pub use versions::{Converter, Family};

/// What a definition's rows need that it does not say itself.
pub struct Serving {
    /// Objects that were written after this revision are as the definition wants them; older ones are made so when read.
    pub settled: u64,
    /// Asks the webhook, where the definition has one.
    pub converter: Option<Arc<dyn Converter>>,
    /// Set once the definition is being deleted.
    pub closed: Arc<AtomicBool>,
}

/// The rows of a definition whose names are accepted: one for each served version.
pub fn rows(definition: &CustomResourceDefinition, serving: Serving) -> Vec<Row> {
    let spec = &definition.spec;
    let names = &spec.names;
    let preserve = spec.preserve_unknown_fields == Some(true);
    let kinds: Vec<(String, Arc<Custom>)> = spec
        .versions
        .iter()
        .map(|version| {
            let kind = Custom::new(gvk(definition, version), version, preserve, serving.closed.clone());
            (version.name.clone(), Arc::new(kind))
        })
        .collect();
    let stored = spec.versions.iter().find(|version| version.storage).map(|version| version.name.clone());
    let family = Arc::new(Family {
        group: spec.group.clone(),
        stored: stored.unwrap_or_default(),
        kinds: kinds.iter().cloned().collect(),
        settled: serving.settled,
        converter: serving.converter,
    });
    let served = spec.versions.iter().zip(kinds).zip(1u8..).filter(|((version, _), _)| version.served);
    let row = |((version, (_, kind)), slot): ((&CustomResourceDefinitionVersion, (String, Arc<Custom>)), u8)| Row {
        gvr: Gvr {
            group: spec.group.clone().into(),
            version: version.name.clone().into(),
            resource: names.plural.clone().into(),
        },
        gvk: gvk(definition, version),
        list_kind: names.list_kind.clone().unwrap_or_else(|| format!("{}List", names.kind)),
        singular: names.singular.clone().unwrap_or_else(|| names.kind.to_lowercase()),
        short_names: names.short_names.clone().unwrap_or_default(),
        categories: names.categories.clone().unwrap_or_default(),
        scope: if spec.scope == "Namespaced" { Scope::Namespaced } else { Scope::Cluster },
        storage: format!("{}/{}", spec.group, names.plural),
        subresources: subresources(version),
        convert: Some(Arc::new(family.version(slot, &version.name))),
        kind,
    };
    served.map(row).collect()
}

fn gvk(definition: &CustomResourceDefinition, version: &CustomResourceDefinitionVersion) -> Gvk {
    let spec = &definition.spec;
    Gvk { group: spec.group.clone().into(), version: version.name.clone().into(), kind: spec.names.kind.clone().into() }
}

fn subresources(version: &CustomResourceDefinitionVersion) -> Vec<Subresource> {
    let Some(named) = &version.subresources else { return Vec::new() };
    let scale = named.scale.as_ref().map(|_| Subresource::Scale);
    let status = named.status.as_ref().map(|_| Subresource::Status);
    scale.into_iter().chain(status).collect()
}

/// A version's schema as it was written.
pub fn schema_of(version: &CustomResourceDefinitionVersion) -> Option<Value> {
    let schema = version.schema.as_ref()?.open_api_v3_schema.as_ref()?;
    serde_json::to_value(schema).ok()
}
