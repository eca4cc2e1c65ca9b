//! An APIService for each version of a group that this server answers for itself.
//!
//! Source: `pkg/controlplane/apiserver/aggregator.go`, `k8s.io/kube-aggregator/pkg/controllers/autoregister`,
//! `pkg/controlplane/controller/crdregistration`. A label tells who keeps one: those of built-in versions are settled once, when
//! the server starts, and then are whoever's who changes them; those of custom resources follow their definitions.
//! One without the label is somebody's own and is left alone; that of metrics begins so.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::try_join_all;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, PostParams, Preconditions};
use wharf_types::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use wharf_types::k8s::kube_aggregator::pkg::apis::apiregistration::v1::{APIService, APIServiceSpec};
use wharf_types::meta::ObjectMeta;

use super::{Error, met_another};
use crate::aggregate::metrics;
use crate::discovery::priority::{self, OWN_GROUP};
use crate::server::ApiServer;

const LABEL: &str = "kube-aggregator.kubernetes.io/automanaged";
const ON_START: &str = "onstart";
const ALWAYS: &str = "true";
/// Settles those of built-in versions, and of custom resources as they are now.
pub(super) async fn ensure(server: &Arc<ApiServer>, client: &Client) -> Result<(), Error> {
    let mut wanted = custom(server, client).await?;
    for row in wharf_registry::builtin::rows().iter().filter(|row| row.gvr.group != OWN_GROUP) {
        let service = service(&row.gvr.group, &row.gvr.version, ON_START);
        wanted.insert(service.metadata.name.clone().unwrap_or_default(), service);
    }
    let metrics = metrics::service();
    wanted.insert(metrics.metadata.name.clone().unwrap_or_default(), metrics);
    settle(client, &wanted, |_| true).await
}

/// Settles those of custom resources.
pub(super) async fn follow(server: &Arc<ApiServer>, client: &Client) -> Result<(), Error> {
    let wanted = custom(server, client).await?;
    settle(client, &wanted, |mark| mark == ALWAYS).await
}

/// Those that custom resources ask for, by name.
async fn custom(server: &Arc<ApiServer>, client: &Client) -> Result<BTreeMap<String, APIService>, Error> {
    if !serves_definitions(server) {
        return Ok(BTreeMap::new());
    }
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definitions =
        api.list(&ListParams::default()).await.map_err(Error::of::<CustomResourceDefinition>("list", ""))?;
    let versions = definitions.items.iter().flat_map(|definition| {
        let served = definition.spec.versions.iter().filter(|version| version.served);
        served.map(|version| service(&definition.spec.group, &version.name, ALWAYS))
    });
    Ok(versions.map(|service| (service.metadata.name.clone().unwrap_or_default(), service)).collect())
}

pub(super) fn serves_definitions(server: &ApiServer) -> bool {
    server.table.find("apiextensions.k8s.io", "v1", "customresourcedefinitions").is_some()
}

fn service(group: &str, version: &str, mark: &str) -> APIService {
    let (group_priority_minimum, version_priority) = priority::of(group, version);
    APIService {
        metadata: ObjectMeta {
            name: Some(format!("{version}.{group}")),
            labels: Some([(LABEL.to_owned(), mark.to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(APIServiceSpec {
            group: Some(group.to_owned()).filter(|group| !group.is_empty()),
            version: Some(version.to_owned()),
            group_priority_minimum,
            version_priority,
            ..APIServiceSpec::default()
        }),
        status: None,
    }
}

fn mark(service: &APIService) -> Option<&str> {
    service.metadata.labels.as_ref()?.get(LABEL).map(String::as_str)
}

/// Makes what is wanted; of what is there and is kept by the server under one of the marks, puts right what differs and
/// takes away what is not wanted.
async fn settle(
    client: &Client,
    wanted: &BTreeMap<String, APIService>,
    mine: impl Fn(&str) -> bool,
) -> Result<(), Error> {
    let api: Api<APIService> = Api::all(client.clone());
    let held = api.list(&ListParams::default()).await.map_err(Error::of::<APIService>("list", ""))?.items;
    let held: BTreeMap<String, APIService> =
        held.into_iter().map(|service| (service.metadata.name.clone().unwrap_or_default(), service)).collect();
    // At once, so that the store commits them together.
    try_join_all(wanted.iter().map(|(name, service)| write(&api, name, service, held.get(name)))).await?;
    for (name, service) in
        held.iter().filter(|(name, service)| !wanted.contains_key(*name) && mark(service).is_some_and(&mine))
    {
        let only = Preconditions { uid: service.metadata.uid.clone(), resource_version: None };
        match api.delete(name, &DeleteParams::default().preconditions(only)).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            result => drop(result.map_err(Error::of::<APIService>("delete", name))?),
        }
    }
    Ok(())
}

async fn write(api: &Api<APIService>, name: &str, wanted: &APIService, held: Option<&APIService>) -> Result<(), Error> {
    let params = PostParams::default();
    let written = match held.map(|held| corrected(held, wanted)) {
        None => api.create(&params, wanted).await.map_err(Error::of::<APIService>("create", name)),
        Some(None) => return Ok(()),
        Some(Some(next)) => api.replace(name, &params, &next).await.map_err(Error::of::<APIService>("update", name)),
    };
    match written {
        // Whoever was faster wakes us again, or has a right to it.
        Err(error) if !met_another(&error) => Err(error),
        _ => Ok(()),
    }
}

/// What is to be written in place of what is there, if anything.
fn corrected(held: &APIService, wanted: &APIService) -> Option<APIService> {
    mark(held)?;
    if held.spec == wanted.spec && mark(held) == mark(wanted) {
        return None;
    }
    let mut next = held.clone();
    next.spec.clone_from(&wanted.spec);
    next.metadata.labels.get_or_insert_default().extend(wanted.metadata.labels.clone().unwrap_or_default());
    Some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_in_upstreams_order() {
        let shown = |group: &str, version: &str| {
            let service = service(group, version, ON_START);
            let spec = service.spec.unwrap_or_default();
            (service.metadata.name.unwrap_or_default(), spec.group_priority_minimum, spec.version_priority)
        };
        assert_eq!(shown("", "v1"), ("v1.".to_owned(), 18_000, 1));
        assert_eq!(shown("apps", "v1"), ("v1.apps".to_owned(), 17_800, 15));
        assert_eq!(shown("example.com", "v1beta1"), ("v1beta1.example.com".to_owned(), 1000, 100));
    }

    #[test]
    fn what_is_somebodys_own_is_left_alone() {
        let wanted = service("apps", "v1", ON_START);
        let mut held = wanted.clone();
        assert_eq!(corrected(&held, &wanted), None);
        held.spec.get_or_insert_default().group_priority_minimum = 1;
        assert_eq!(corrected(&held, &wanted).and_then(|next| next.spec), wanted.spec);
        held.metadata.labels = None;
        assert_eq!(corrected(&held, &wanted), None);
    }
}
