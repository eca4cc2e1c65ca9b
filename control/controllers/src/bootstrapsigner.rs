//! Signs ConfigMap `cluster-info` with each bootstrap token, so that who has one can tell that it is the cluster's.
//!
//! A signature is a JWS (RFC 7515, appendix F: the content is left out) under `jws-kubeconfig-<id>`.
//! Source of the behaviour: `k8s.io/kubernetes/pkg/controller/bootstrap/bootstrapsigner.go`, `k8s.io/cluster-bootstrap/token/jws`.

use std::collections::BTreeMap;

use async_trait::async_trait;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;
use wharf_client::{Action, Changed, Clock, Error, Informers, Lister, ObjectKey, Reconcile, Trigger};
use wharf_machinery::bootstrap_token;
use wharf_types::k8s::api::core::v1::{ConfigMap, Secret};

use crate::call::{self, During as _};

const NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";
const SELECTOR: &str = "metadata.namespace=kube-public,metadata.name=cluster-info";
/// Secrets that are bootstrap tokens, as the one who deletes them selects them too.
pub const TOKENS: &str = "type=bootstrap.kubernetes.io/token";
const CONTENT: &str = "kubeconfig";
const SIGNATURE_PREFIX: &str = "jws-kubeconfig-";

pub struct BootstrapSigner {
    client: Client,
    config_maps: Lister<ConfigMap>,
    secrets: Lister<Secret>,
    clock: Clock,
}

impl BootstrapSigner {
    pub fn new(informers: &Informers, clock: Clock) -> Self {
        let client = informers.client().clone();
        Self { client, config_maps: informers.selected(SELECTOR), secrets: informers.selected(TOKENS), clock }
    }
}

#[async_trait]
impl Reconcile for BootstrapSigner {
    fn name(&self) -> &'static str {
        "bootstrap-signer"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let signed = || ObjectKey::new(NAMESPACE, NAME);
        let map_wakes = move |changed: &Changed<ConfigMap>| {
            let ours = changed.key == signed();
            ours.then(signed).into_iter().collect()
        };
        let secret_wakes = move |changed: &Changed<Secret>| {
            let tokens = [&changed.old, &changed.new].into_iter().flatten().any(|secret| is_token(secret));
            tokens.then(signed).into_iter().collect()
        };
        vec![Trigger::mapped(&self.config_maps, map_wakes), Trigger::mapped(&self.secrets, secret_wakes)]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(map) = self.config_maps.get(key) else { return Ok(Action::done()) };
        let now = self.clock.now();
        let secrets = self.secrets.list_in(bootstrap_token::NAMESPACE);
        let tokens = secrets.iter().filter_map(|secret| bootstrap_token::signs(secret, now)).collect();
        let Some(signed) = signed(&map, &tokens) else { return Ok(Action::done()) };
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), &key.namespace);
        match api.replace(&key.name, &PostParams::default(), &signed).await {
            // What came in between wakes this again.
            Err(error) if call::is_conflict(&error) || call::is_not_found(&error) => {}
            result => drop(result.during("sign", key)?),
        }
        Ok(Action::done())
    }
}

/// In the namespace of such tokens.
pub fn is_token(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some(bootstrap_token::SECRET_TYPE)
        && secret.metadata.namespace.as_deref() == Some(bootstrap_token::NAMESPACE)
}

/// The map with the signatures of these tokens and no others; none if it has those, or nothing to sign.
fn signed(map: &ConfigMap, tokens: &BTreeMap<&str, &str>) -> Option<ConfigMap> {
    let held = map.data.as_ref()?;
    let content = held.get(CONTENT)?;
    let mut data = held.clone();
    data.retain(|key, _| !key.starts_with(SIGNATURE_PREFIX));
    data.extend(tokens.iter().map(|(id, token)| (format!("{SIGNATURE_PREFIX}{id}"), signature(content, id, token))));
    (data != *held).then(|| ConfigMap { data: Some(data), ..map.clone() })
}

/// `header..signature`, by HS256.
fn signature(content: &str, id: &str, token: &str) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let header = encode(json!({"alg": "HS256", "kid": id}).to_string().as_bytes());
    let key = hmac::Key::new(hmac::HMAC_SHA256, token.as_bytes());
    let tag = hmac::sign(&key, format!("{header}.{}", encode(content.as_bytes())).as_bytes());
    format!("{header}..{}", encode(tag.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the tests of `k8s.io/cluster-bootstrap/token/jws`.
    #[test]
    fn signatures_are_upstream_s() {
        let expected = "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8";
        assert_eq!(
            signature(
                "Hello from the other side. I must have called a thousand times.",
                "joshua",
                "my voice is my passcode"
            ),
            expected
        );
    }

    fn map(data: &[(&str, &str)]) -> ConfigMap {
        let data = data.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        ConfigMap { data: Some(data), ..ConfigMap::default() }
    }

    fn keys(map: Option<ConfigMap>) -> String {
        map.map_or_else(|| "-".to_owned(), |map| map.data.unwrap_or_default().into_keys().collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn there_is_a_signature_for_each_token_and_no_other() {
        let tokens = BTreeMap::from([("abcdef", "0123456789abcdef")]);
        let first = signed(&map(&[(CONTENT, "x"), ("other", "y")]), &tokens);
        assert_eq!(keys(first.clone()), "jws-kubeconfig-abcdef kubeconfig other");
        let first = first.expect("it was signed");
        assert_eq!(keys(signed(&first, &tokens)), "-");
        assert_eq!(keys(signed(&first, &BTreeMap::new())), "kubeconfig other");
        assert_eq!(keys(signed(&map(&[("other", "y")]), &tokens)), "-");
    }
}
