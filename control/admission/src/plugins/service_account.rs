//! Gives each pod a service account, and refuses pods whose account is not there.
//!
//! Source: `plugin/pkg/admission/serviceaccount`. Absent until there are tokens to mount: the projected token volume.

use std::time::Duration;

use async_trait::async_trait;
use wharf_types::k8s::api::core::v1::{Pod, ServiceAccount};
use wharf_types::{ApiError, Gvr};

use super::MIRROR_ANNOTATION;
use crate::{Attributes, Notes, Operation, Plugin, Reader};

const DEFAULT: &str = "default";
/// The `default` account of a new namespace is made by a controller: a pod that comes at once is given this long (upstream:
/// ten attempts, up to 100 ms apart).
const DEFAULT_ATTEMPTS: u32 = 10;
const DEFAULT_PAUSE: Duration = Duration::from_millis(100);
const SERVICE_ACCOUNTS: Gvr = Gvr {
    group: std::borrow::Cow::Borrowed(""),
    version: std::borrow::Cow::Borrowed("v1"),
    resource: std::borrow::Cow::Borrowed("serviceaccounts"),
};

pub struct ServiceAccountPlugin;

#[async_trait]
impl Plugin for ServiceAccountPlugin {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, write: &mut Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        if !write.is("", "pods") {
            return Ok(());
        }
        let Some(pod) = write.new_as_mut::<Pod>() else { return Ok(()) };
        if is_mirror(pod) {
            return Ok(());
        }
        let Some(spec) = pod.spec.as_mut() else { return Ok(()) };
        let named = spec.service_account_name.take().filter(|name| !name.is_empty());
        let name = named.unwrap_or_else(|| DEFAULT.to_owned());
        spec.service_account_name = Some(name.clone());
        spec.service_account = Some(name.clone());
        let account = find(write, cluster, &name).await?;
        if let Some(spec) = write.new_as_mut::<Pod>().and_then(|pod| pod.spec.as_mut())
            && spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty)
        {
            spec.image_pull_secrets = account.image_pull_secrets.filter(|secrets| !secrets.is_empty());
        }
        Ok(())
    }

    async fn validate(&self, write: &Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        if !write.is("", "pods") {
            return Ok(());
        }
        let Some(pod) = write.new_as::<Pod>() else { return Ok(()) };
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or_default();
        match (is_mirror(pod), account) {
            (true, "") => Ok(()),
            (true, _) => Err(write.forbidden("a mirror pod may not reference service accounts")),
            // Another plugin may have exchanged it.
            (false, name) => find(write, cluster, name).await.map(drop),
        }
    }
}

fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(MIRROR_ANNOTATION))
}

async fn find(write: &Attributes, cluster: &dyn Reader, name: &str) -> Result<ServiceAccount, ApiError> {
    let namespace = write.namespace.as_deref().unwrap_or_default();
    let attempts = if name == DEFAULT { DEFAULT_ATTEMPTS } else { 1 };
    for attempt in 0..attempts {
        if attempt > 0 {
            tokio::time::sleep(DEFAULT_PAUSE).await;
        }
        let found = cluster.get(&SERVICE_ACCOUNTS, Some(namespace), name);
        if let Some(account) = found.as_ref().and_then(|object| object.downcast_ref::<ServiceAccount>()) {
            return Ok(account.clone());
        }
    }
    let missing = format!("serviceaccount {name:?} not found");
    Err(write.forbidden(format_args!("error looking up service account {namespace}/{name}: {missing}")))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Cluster, json, run, write};
    use super::*;
    use serde_json::{Value, json};

    fn cluster() -> Cluster {
        let account = |name: &str, secrets: Value| -> ServiceAccount {
            json(json!({"metadata": {"name": name, "namespace": "default"}, "imagePullSecrets": secrets}))
        };
        Cluster::default()
            .with("serviceaccounts", account("default", json!([])))
            .with("serviceaccounts", account("builder", json!([{"name": "registry"}])))
    }

    /// `expected` is the account and the pull secrets of the pod, or the refusal.
    async fn check(metadata: Value, spec: Value, expected: Result<(&str, usize), &str>) {
        let mut write = write(Operation::Create, "pods", json::<Pod>(json!({"metadata": metadata, "spec": spec})));
        let verdict = run(&ServiceAccountPlugin, &mut write, &cluster()).await;
        let spec = write.new_as::<Pod>().and_then(|pod| pod.spec.clone()).expect("spec");
        assert_eq!(spec.service_account, spec.service_account_name);
        let secrets = spec.image_pull_secrets.unwrap_or_default().len();
        let got = verdict.map(|()| (spec.service_account_name.unwrap_or_default(), secrets));
        let expected = expected.map(|(name, secrets)| (name.to_owned(), secrets)).map_err(str::to_owned);
        assert_eq!(got.map_err(|error| error.message), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn every_pod_has_an_account_that_is_there() {
        let web = || json!({"name": "web", "namespace": "default"});
        check(web(), json!({"containers": []}), Ok(("default", 0))).await;
        check(web(), json!({"containers": [], "serviceAccountName": "builder"}), Ok(("builder", 1))).await;
        let own = json!({"containers": [], "serviceAccountName": "builder", "imagePullSecrets": [{"name": "a"}, {"name": "b"}]});
        check(web(), own, Ok(("builder", 2))).await;
        let missing = r#"pods "web" is forbidden: error looking up service account default/ghost: serviceaccount "ghost" not found"#;
        check(web(), json!({"containers": [], "serviceAccountName": "ghost"}), Err(missing)).await;
        let young = r#"pods "web-" is forbidden: error looking up service account new/default: serviceaccount "default" not found"#;
        check(json!({"generateName": "web-", "namespace": "new"}), json!({"containers": []}), Err(young)).await;
    }

    #[tokio::test]
    async fn mirror_pods_have_none() {
        let mirror = json!({"name": "web", "namespace": "default", "annotations": {MIRROR_ANNOTATION: "x"}});
        check(mirror.clone(), json!({"containers": []}), Ok(("", 0))).await;
        let refused = r#"pods "web" is forbidden: a mirror pod may not reference service accounts"#;
        let spec = json!({"containers": [], "serviceAccountName": "default", "serviceAccount": "default"});
        check(mirror, spec, Err(refused)).await;
    }
}
