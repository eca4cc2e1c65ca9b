//! Which resources the server has, and what can be done with them.

use kube::Client;
use kube::core::{ApiResource, DynamicResourceScope, Resource};
use kube::discovery::{ApiCapabilities, Discovery, Scope};
use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;
use wharf_types::meta::{ObjectMeta, OwnerReference, Time};

#[derive(Clone, Debug)]
pub struct Found {
    pub resource: ApiResource,
    pub capabilities: ApiCapabilities,
}

impl Found {
    pub fn namespaced(&self) -> bool {
        self.capabilities.scope == Scope::Namespaced
    }

    pub fn can(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|verb| self.capabilities.supports_operation(verb))
    }
}

/// Every resource in its group's preferred version.
pub async fn all(client: &Client) -> Result<Vec<Found>, kube::Error> {
    let discovery = match Discovery::new(client.clone()).run_aggregated().await {
        Ok(discovery) => discovery,
        // A server that does not aggregate.
        Err(error) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "aggregated discovery");
            Discovery::new(client.clone()).run().await?
        }
    };
    let resources = discovery.groups().flat_map(|group| group.recommended_resources());
    Ok(resources.map(|(resource, capabilities)| Found { resource, capabilities }).collect())
}

/// The metadata of an object of any kind, as far as controllers go by it. The server sends no more than metadata.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Metadata {
    #[serde(deserialize_with = "essential")]
    pub metadata: ObjectMeta,
}

/// What is read of the metadata of every object that changes: neither labels and annotations nor who owns which field, which are most of it.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Essential {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    deletion_timestamp: Option<Time>,
    deletion_grace_period_seconds: Option<i64>,
    finalizers: Option<Vec<String>>,
    owner_references: Option<Vec<OwnerReference>>,
}

fn essential<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    let read = Essential::deserialize(from)?;
    Ok(ObjectMeta {
        name: read.name,
        namespace: read.namespace,
        uid: read.uid,
        resource_version: read.resource_version,
        deletion_timestamp: read.deletion_timestamp,
        deletion_grace_period_seconds: read.deletion_grace_period_seconds,
        finalizers: read.finalizers,
        owner_references: read.owner_references,
        ..ObjectMeta::default()
    })
}

impl Resource for Metadata {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&resource.kind)
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&resource.group)
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&resource.version)
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&resource.plural)
    }

    fn metadata_api() -> bool {
        true
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
