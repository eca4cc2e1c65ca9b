//! Which resources the server has, and what can be done with them.

use kube::Client;
use kube::core::{ApiResource, DynamicResourceScope, Resource};
use kube::discovery::{ApiCapabilities, Discovery, Scope};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use wharf_types::meta::ObjectMeta;

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

/// The metadata of an object of any kind. The server sends no more than that.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Metadata {
    pub metadata: ObjectMeta,
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
