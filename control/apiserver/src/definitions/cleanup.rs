//! The end of a definition: its objects go first, then its finalizer.
//!
//! Source: `controller/finalizer/crd_finalizer.go`. Runs in a task of its own for each definition, since objects may have
//! finalizers that take their time; it waits on a watch, and starts again when the definition changes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use wharf_cache::{Collection, Filter, Start};
use wharf_registry::{Row, definitions as rules};
use wharf_types::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

use super::plan::cleaned_up;
use crate::server::ApiServer;
use crate::verbs::write::whole_seconds;

/// How often the end is written again because somebody else wrote first.
const TRIES: usize = 20;

/// How often the whole is tried, and the pause between.
const ROUNDS: usize = 100;
const PAUSE: Duration = Duration::from_secs(5);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Begins the end of a definition. Doing it twice does no harm: what is gone is gone.
pub fn start(
    server: &Arc<ApiServer>,
    client: &Client,
    api: &Api<CustomResourceDefinition>,
    crd: CustomResourceDefinition,
    rows: Vec<Arc<Row>>,
) {
    if !server.definitions.begin_cleanup(&crd) {
        return;
    }
    let (server, client, api) = (server.clone(), client.clone(), api.clone());
    tokio::spawn(async move {
        for _ in 0..ROUNDS {
            match finish(&server, &client, &api, &crd, &rows).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::warn!(
                        name = crd.name_any(),
                        error = &*error,
                        "clean up after a custom resource definition"
                    );
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        server.definitions.end_cleanup(&crd);
    });
}

async fn finish(
    server: &ApiServer,
    client: &Client,
    api: &Api<CustomResourceDefinition>,
    crd: &CustomResourceDefinition,
    rows: &[Arc<Row>],
) -> Result<(), Failure> {
    if let Some(row) = rows.first()
        && let Some(collection) = server.collection(row)
    {
        delete_all(client, row, &collection).await?;
        emptied(&collection).await?;
    }
    let now = whole_seconds((server.clock)());
    for _ in 0..TRIES {
        let Some(mut held) = api.get_opt(&crd.name_any()).await? else { return Ok(()) };
        if held.metadata.uid != crd.metadata.uid {
            return Ok(());
        }
        rules::set_condition(&mut held, cleaned_up(), now);
        let written = match api.replace_status(&crd.name_any(), &PostParams::default(), &held).await {
            Err(kube::Error::Api(status)) if status.code == 409 => continue,
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            result => result?,
        };
        let mut last = written;
        last.finalizers_mut().retain(|finalizer| finalizer != rules::CLEANUP);
        match api.replace(&crd.name_any(), &PostParams::default(), &last).await {
            Err(kube::Error::Api(status)) if status.code == 409 => continue,
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            result => return result.map(drop).map_err(Into::into),
        }
    }
    Err("other writers kept coming first".into())
}

/// Deletes every object, a namespace at a time.
async fn delete_all(client: &Client, row: &Row, collection: &Collection) -> Result<(), Failure> {
    let root = format!("/apis/{}/{}", row.gvr.group, row.gvr.version);
    let prefix = row.prefix();
    let paths: BTreeSet<String> = if row.namespaced() {
        let snapshot = collection.snapshot();
        let namespaces = snapshot.range("", None).filter_map(|entry| {
            let below = entry.key.strip_prefix(prefix.as_str())?;
            Some(below.split_once('/')?.0.to_owned())
        });
        namespaces.map(|namespace| format!("{root}/namespaces/{namespace}/{}", row.gvr.resource)).collect()
    } else {
        [format!("{root}/{}", row.gvr.resource)].into()
    };
    for path in paths {
        let request = Request::builder().method(Method::DELETE).uri(path).body(Vec::new())?;
        client.request_text(request).await?;
    }
    Ok(())
}

/// Returns when the collection is empty, or served no more.
async fn emptied(collection: &Arc<Collection>) -> Result<(), Failure> {
    let mut watch = collection.watch(Start::Now, Filter::default())?;
    while !collection.is_empty() {
        if watch.next().await.transpose()?.is_none() {
            return Ok(());
        }
    }
    Ok(())
}
