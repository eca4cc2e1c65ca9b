//! Which tokens a node may ask for: of pods that run on it, for audiences that those pods name.
//!
//! An audience is named by a projected volume, or by the CSI driver of a volume. Others an administrator allows by RBAC: verb
//! `request-serviceaccounts-token-audience` on a resource of the audience's name.

use wharf_auth::{Attributes as Asked, Decision};
use wharf_registry::Subresource;
use wharf_types::k8s::api::authentication::v1::TokenRequest;
use wharf_types::k8s::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use wharf_types::k8s::api::storage::v1::CSIDriver;
use wharf_types::{ApiError, Gvr, KubeObject};

use super::super::{core_v1, gvr};
use super::{PODS, node_name};
use crate::{Attributes, Operation, Reader};

const CLAIMS: Gvr = core_v1("persistentvolumeclaims");
const VOLUMES: Gvr = core_v1("persistentvolumes");
const DRIVERS: Gvr = gvr("storage.k8s.io", "v1", "csidrivers");
const REQUEST_AUDIENCE: &str = "request-serviceaccounts-token-audience";

pub async fn check(node: &str, write: &Attributes, cluster: &dyn Reader) -> Result<(), ApiError> {
    if write.subresource != Some(Subresource::Token) || write.operation != Operation::Create {
        return Ok(());
    }
    let Some(spec) = write.new_as::<TokenRequest>().and_then(|request| request.spec.as_ref()) else { return Ok(()) };
    let bound = spec.bound_object_ref.as_ref();
    let bound =
        bound.filter(|bound| bound.kind.as_deref() == Some("Pod") && bound.api_version.as_deref() == Some("v1"));
    let Some((bound, name)) =
        bound.and_then(|bound| Some((bound, bound.name.as_deref().filter(|name| !name.is_empty())?)))
    else {
        return Err(write.forbidden("node requested token not bound to a pod"));
    };
    let Some(uid) = bound.uid.as_deref().filter(|uid| !uid.is_empty()) else {
        return Err(write.forbidden("node requested token with a pod binding without a uid"));
    };
    let namespace = write.namespace.as_deref();
    let Some(pod) = get::<Pod>(cluster, &PODS, namespace, name) else { return Err(ApiError::not_found(&PODS, name)) };
    if pod.metadata.uid.as_deref() != Some(uid) {
        return Err(write.forbidden(format_args!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        )));
    }
    if node_name(&pod) != node {
        return Err(write.forbidden("node requested token bound to a pod scheduled on a different node"));
    }
    let audience = match spec.audiences.as_deref().unwrap_or_default() {
        [] => "",
        [audience] => audience,
        _ => return Err(write.forbidden("node may only request 0 or 1 audiences")),
    };
    if names_audience(&pod, audience, cluster) || allowed_anyway(write, audience, cluster).await {
        return Ok(());
    }
    let user = &write.user.name;
    Err(write.forbidden(format_args!(
        "audience {audience:?} not found in pod spec volume, {user} is not authorized to request tokens for this audience"
    )))
}

fn names_audience(pod: &Pod, audience: &str, cluster: &dyn Reader) -> bool {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    volumes.iter().any(|volume| {
        let projections = volume.projected.iter().flat_map(|source| source.sources.iter().flatten());
        let mut tokens = projections.filter_map(|projection| projection.service_account_token.as_ref());
        tokens.any(|token| token.audience.as_deref().unwrap_or_default() == audience)
            || driver(pod, volume, cluster).is_some_and(|driver| driver_asks(&driver, audience, cluster))
    })
}

/// The CSI driver behind a volume, directly or by way of a claim.
fn driver(pod: &Pod, volume: &Volume, cluster: &dyn Reader) -> Option<String> {
    if let Some(source) = &volume.csi {
        return Some(source.driver.clone());
    }
    let claim = match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => source.claim_name.clone(),
        (None, Some(_)) => format!("{}-{}", pod.metadata.name.as_deref()?, volume.name),
        (None, None) => return None,
    };
    let claim: PersistentVolumeClaim = get(cluster, &CLAIMS, pod.metadata.namespace.as_deref(), &claim)?;
    let bound: PersistentVolume = get(cluster, &VOLUMES, None, claim.spec?.volume_name.as_deref()?)?;
    Some(bound.spec?.csi?.driver)
}

fn driver_asks(name: &str, audience: &str, cluster: &dyn Reader) -> bool {
    let driver: Option<CSIDriver> = get(cluster, &DRIVERS, None, name);
    let requests = driver.and_then(|driver| driver.spec.token_requests).unwrap_or_default();
    requests.iter().any(|request| request.audience == audience)
}

async fn allowed_anyway(write: &Attributes, audience: &str, cluster: &dyn Reader) -> bool {
    let asked = Asked {
        verb: REQUEST_AUDIENCE.to_owned(),
        resource_request: true,
        version: "v1".to_owned(),
        resource: audience.to_owned(),
        namespace: write.namespace.clone().unwrap_or_default(),
        name: write.name.clone(),
        ..Asked::default()
    };
    matches!(cluster.authorize(&write.user, &asked).await, Decision::Allow(_))
}

fn get<K: KubeObject + Clone + 'static>(
    cluster: &dyn Reader,
    of: &Gvr,
    namespace: Option<&str>,
    name: &str,
) -> Option<K> {
    cluster.get(of, namespace, name)?.downcast_ref::<K>().cloned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use wharf_auth::{NODES, User};

    use super::super::super::testing::{Cluster, json, run, write};
    use super::super::NodeRestriction;
    use super::*;

    fn cluster() -> Cluster {
        let pod = |name: &str, node: &str| -> Pod {
            json(
                json!({"metadata": {"name": name, "namespace": "default", "uid": name}, "spec": {"nodeName": node, "containers": [], "volumes": [
                    {"name": "api", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
                    {"name": "vault", "projected": {"sources": [{"serviceAccountToken": {"path": "token", "audience": "vault"}}]}},
                    {"name": "inline", "csi": {"driver": "one"}},
                    {"name": "claimed", "persistentVolumeClaim": {"claimName": "data"}},
                ]}}),
            )
        };
        let driver = |name: &str, audience: &str| -> CSIDriver {
            json(json!({"metadata": {"name": name}, "spec": {"tokenRequests": [{"audience": audience}]}}))
        };
        let claim = json!({"metadata": {"name": "data", "namespace": "default"}, "spec": {"volumeName": "pv"}});
        let volume = json!({"metadata": {"name": "pv"}, "spec": {"csi": {"driver": "two", "volumeHandle": "h"}}});
        Cluster::default()
            .with("pods", pod("web", "n1"))
            .with("pods", pod("other", "n2"))
            .with("csidrivers", driver("one", "inline"))
            .with("csidrivers", driver("two", "claimed"))
            .with("persistentvolumeclaims", json::<PersistentVolumeClaim>(claim))
            .with("persistentvolumes", json::<PersistentVolume>(volume))
            .allowing("system:node:n1 request-serviceaccounts-token-audience /registry bot")
    }

    /// `expected` is the refusal without what all of them begin with.
    async fn check(bound: Value, audiences: Value, expected: Result<(), &str>) {
        let request = json!({"metadata": {"name": "bot", "namespace": "default"}, "spec": {"audiences": audiences, "boundObjectRef": bound}});
        let asked = write(Operation::Create, "serviceaccounts", json::<TokenRequest>(request));
        let mut asked = asked.through(Subresource::Token).by(User::new("system:node:n1", &[NODES]));
        let got = run(&NodeRestriction, &mut asked, &cluster()).await.map_err(|error| error.message);
        let got = got.map_err(|message| message.replace("serviceaccounts \"bot\" is forbidden: ", ""));
        assert_eq!(got, expected.map_err(str::to_owned));
    }

    fn to(pod: &str, uid: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid})
    }

    #[tokio::test]
    async fn a_node_asks_for_tokens_of_its_own_pods() {
        check(to("web", "web"), json!([]), Ok(())).await;
        let elsewhere = "node requested token bound to a pod scheduled on a different node";
        check(to("other", "other"), json!([]), Err(elsewhere)).await;
        check(json!(null), json!([]), Err("node requested token not bound to a pod")).await;
        let unsure = "node requested token with a pod binding without a uid";
        check(to("web", ""), json!([]), Err(unsure)).await;
        let old = "the UID in the bound object reference (old) does not match the UID in record. The object might have been deleted and then recreated";
        check(to("web", "old"), json!([]), Err(old)).await;
        check(to("ghost", "1"), json!([]), Err("pods \"ghost\" not found")).await;
    }

    #[tokio::test]
    async fn a_node_asks_for_audiences_that_the_pod_names_or_that_it_is_allowed() {
        for audience in ["vault", "inline", "claimed", "registry"] {
            check(to("web", "web"), json!([audience]), Ok(())).await;
        }
        let strange = "audience \"bank\" not found in pod spec volume, system:node:n1 is not authorized to request tokens for this audience";
        check(to("web", "web"), json!(["bank"]), Err(strange)).await;
        check(to("web", "web"), json!(["vault", "inline"]), Err("node may only request 0 or 1 audiences")).await;
    }
}
