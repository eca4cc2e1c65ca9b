//! Writes the roles and bindings that every cluster starts with, as far as they are not there.
//!
//! Through the API, as `system:apiserver`. Once, at start: what an administrator takes away afterwards stays away until the next.
//! Source: `pkg/registry/rbac/rest/storage_rbac.go`.

use std::fmt::Debug;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{Api, DeleteParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wharf_auth::rbac::bootstrap::{Reconciled, Step, policy};
use wharf_auth::{MASTERS, User};

use crate::bootstrap::{ATTEMPTS, Error, IDENTITY, met_another};
use crate::server::ApiServer;

/// Objects that are looked at, and written, at the same time: the store commits them in few groups.
const AT_ONCE: usize = 64;

/// Creates and completes what the table says.
pub async fn ensure(server: &Arc<ApiServer>) -> Result<(), Error> {
    let client = Client::new(server.service_for(User::new(IDENTITY, &[MASTERS])), "default");
    let all = policy();
    let roles = settle_all(all.cluster_roles, |_| Api::all(client.clone()));
    let local = settle_all(all.roles, |role| Api::namespaced(client.clone(), &role.namespace().unwrap_or_default()));
    tokio::try_join!(roles, local)?;
    let bindings = settle_all(all.cluster_role_bindings, |_| Api::all(client.clone()));
    let local =
        settle_all(all.role_bindings, |held| Api::namespaced(client.clone(), &held.namespace().unwrap_or_default()));
    tokio::try_join!(bindings, local).map(drop)
}

async fn settle_all<K>(wanted: Vec<K>, api: impl Fn(&K) -> Api<K>) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Reconciled + Serialize + DeserializeOwned + Clone + Debug,
{
    let work = wanted.iter().map(|wanted| settle(api(wanted), wanted));
    stream::iter(work).buffer_unordered(AT_ONCE).try_collect().await
}

async fn settle<K>(api: Api<K>, wanted: &K) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Reconciled + Serialize + DeserializeOwned + Clone + Debug,
{
    let name = wanted.name_any();
    let failed = |operation| {
        let (kind, name) = (K::kind(&()).into_owned(), name.clone());
        move |source: kube::Error| Error { operation, kind, name, source: Box::new(source) }
    };
    let mut attempt = 1;
    loop {
        let held = api.get_opt(&name).await.map_err(failed("get"))?;
        let write = match wanted.step(held.as_ref()) {
            Step::Nothing => return Ok(()),
            Step::Create(object) => api.create(&PostParams::default(), &object).await.map_err(failed("create")),
            Step::Update(object) => api.replace(&name, &PostParams::default(), &object).await.map_err(failed("update")),
            Step::Recreate(object) => {
                api.delete(&name, &DeleteParams::default()).await.map_err(failed("delete"))?;
                api.create(&PostParams::default(), &object).await.map_err(failed("create"))
            }
        };
        match write {
            Ok(_) => return Ok(()),
            Err(error) if attempt < ATTEMPTS && met_another(&error) => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}
