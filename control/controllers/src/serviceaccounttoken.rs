//! Fills secrets of type `kubernetes.io/service-account-token` for the account that they name, and removes them with it.
//!
//! Source of the behaviour: `k8s.io/kubernetes/pkg/controller/serviceaccount/tokens_controller.go`. No token is made unasked.
//! Weaker than upstream in one thing: when such a secret goes, every account of the namespace that lists it forgets it, not
//! only the one whose token it held.

use std::fmt::{Debug, Formatter};
use std::sync::Arc;

use async_trait::async_trait;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use wharf_client::{Action, Changed, Error, Index, Informers, Lister, ObjectKey, Reconcile, Trigger};
use wharf_types::k8s::ByteString;
use wharf_types::k8s::api::core::v1::{Secret, ServiceAccount};

use crate::call::{self, During as _, gone_is_fine};

pub const SECRET_TYPE: &str = "kubernetes.io/service-account-token";
/// Secrets of that type, as all who are about tokens select them.
pub const TOKENS: &str = "type=kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
const TOKEN: &str = "token";
const NAMESPACE: &str = "namespace";
const AUTHORITY: &str = "ca.crt";

/// Makes the token of an account that a secret is to hold.
#[derive(Clone)]
pub struct TokenSigner(Arc<Sign>);

type Sign = dyn Fn(&ServiceAccount, &Secret) -> Result<String, String> + Send + Sync;

impl TokenSigner {
    pub fn new(sign: impl Fn(&ServiceAccount, &Secret) -> Result<String, String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(sign))
    }
}

impl Debug for TokenSigner {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        out.write_str("TokenSigner")
    }
}

pub struct ServiceAccountTokens {
    client: Client,
    secrets: Lister<Secret>,
    /// Token secrets by `namespace/account`.
    by_account: Index<Secret>,
    accounts: Lister<ServiceAccount>,
    /// Accounts by `namespace/secret`, for each that they list.
    by_secret: Index<ServiceAccount>,
    signer: TokenSigner,
    ca_pem: Option<watch::Receiver<String>>,
}

impl ServiceAccountTokens {
    pub fn new(informers: &Informers, signer: TokenSigner, ca_pem: Option<watch::Receiver<String>>) -> Self {
        let (secrets, accounts) = (informers.selected::<Secret>(TOKENS), informers.of::<ServiceAccount>());
        let by_account = secrets.index(|secret: &Secret| {
            let namespace = secret.metadata.namespace.as_deref().unwrap_or_default();
            account_name(secret).map(|name| format!("{namespace}/{name}")).into_iter().collect()
        });
        let by_secret = accounts.index(|account: &ServiceAccount| {
            let namespace = account.metadata.namespace.as_deref().unwrap_or_default();
            let names = account.secrets.iter().flatten().filter_map(|secret| secret.name.as_deref());
            names.map(|name| format!("{namespace}/{name}")).collect()
        });
        Self { client: informers.client().clone(), secrets, by_account, accounts, by_secret, signer, ca_pem }
    }

    /// The account that a secret names, if it is there; asked of the API before it is taken for gone.
    async fn account(&self, secret: &Secret, key: &ObjectKey) -> Result<Option<Arc<ServiceAccount>>, Error> {
        let Some(name) = account_name(secret) else { return Ok(None) };
        if let Some(held) = self.accounts.get(&ObjectKey::new(&key.namespace, name)).filter(|held| meant(secret, held))
        {
            return Ok(Some(held));
        }
        let found = Api::<ServiceAccount>::namespaced(self.client.clone(), &key.namespace).get_opt(name).await;
        let found = found.during("look up the service account of secret", key)?;
        Ok(found.filter(|found| meant(secret, found)).map(Arc::new))
    }

    async fn fill(&self, secret: &Secret, account: &ServiceAccount, key: &ObjectKey) -> Result<(), Error> {
        let ca_pem = self.ca_pem.as_ref().map(|ca_pem| ca_pem.borrow().clone());
        let Some(filled) = filled(secret, account, ca_pem.as_deref(), &self.signer)? else { return Ok(()) };
        let api = Api::<Secret>::namespaced(self.client.clone(), &key.namespace);
        match api.replace(&key.name, &PostParams::default(), &filled).await {
            // What came in between wakes this again.
            Err(error) if call::is_conflict(&error) || call::is_not_found(&error) => {}
            result => drop(result.during("write the token into secret", key)?),
        }
        Ok(())
    }

    async fn delete(&self, secret: &Secret, key: &ObjectKey) -> Result<(), Error> {
        let preconditions = Preconditions { uid: secret.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let api = Api::<Secret>::namespaced(self.client.clone(), &key.namespace);
        match api.delete(&key.name, &params).await {
            Err(error) if call::is_conflict(&error) => {}
            result => drop(gone_is_fine(result).during("delete the secret of a service account that is gone", key)?),
        }
        Ok(())
    }

    /// Takes a secret that is gone out of the lists of accounts.
    async fn unlist(&self, key: &ObjectKey) -> Result<(), Error> {
        let api = Api::<ServiceAccount>::namespaced(self.client.clone(), &key.namespace);
        for account in self.by_secret.get(&format!("{}/{}", key.namespace, key.name)) {
            let name = account.metadata.name.as_deref().unwrap_or_default();
            let mut next = ServiceAccount::clone(&account);
            if let Some(secrets) = next.secrets.as_mut() {
                secrets.retain(|secret| secret.name.as_deref() != Some(&*key.name));
            }
            let written = gone_is_fine(api.replace(name, &PostParams::default(), &next).await);
            written.during("take a secret out of a service account's list:", key)?;
        }
        Ok(())
    }
}

#[async_trait]
impl Reconcile for ServiceAccountTokens {
    fn name(&self) -> &'static str {
        "serviceaccount-token"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let secret_wakes = |changed: &Changed<Secret>| {
            let ours = [&changed.old, &changed.new].into_iter().flatten().any(|secret| is_token(secret));
            ours.then(|| changed.key.clone()).into_iter().collect()
        };
        let by_account = self.by_account.clone();
        let account_wakes = move |changed: &Changed<ServiceAccount>| {
            let uid =
                |account: &Option<Arc<ServiceAccount>>| account.as_ref().and_then(|held| held.metadata.uid.clone());
            let gone = changed.old.is_some() && uid(&changed.old) != uid(&changed.new);
            let orphans = if gone { by_account.get(&changed.key.to_string()) } else { Vec::new() };
            let key = |secret: &Arc<Secret>| {
                ObjectKey::new(&changed.key.namespace, secret.metadata.name.as_deref().unwrap_or_default())
            };
            orphans.iter().map(key).collect()
        };
        let mut triggers =
            vec![Trigger::mapped(&self.secrets, secret_wakes), Trigger::mapped(&self.accounts, account_wakes)];
        let secrets = self.secrets.clone();
        let key = |secret: &Arc<Secret>| ObjectKey::new(&secret.namespace().unwrap_or_default(), &secret.name_any());
        let all = move || secrets.list().iter().map(key).collect();
        triggers.extend(self.ca_pem.clone().map(|ca_pem| Trigger::told(ca_pem, all)));
        triggers
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(secret) = self.secrets.get(key).filter(|secret| is_token(secret)) else {
            self.unlist(key).await?;
            return Ok(Action::done());
        };
        match self.account(&secret, key).await? {
            Some(account) => self.fill(&secret, &account, key).await?,
            None => self.delete(&secret, key).await?,
        }
        Ok(Action::done())
    }
}

pub fn is_token(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some(SECRET_TYPE)
}

fn annotation<'a>(secret: &'a Secret, key: &str) -> Option<&'a str> {
    secret.metadata.annotations.as_ref()?.get(key).map(String::as_str).filter(|value| !value.is_empty())
}

/// The account whose token a secret is to hold.
pub fn account_name(secret: &Secret) -> Option<&str> {
    annotation(secret, ACCOUNT_NAME).filter(|_| is_token(secret))
}

/// The account is the one that the secret names: a secret may name its uid too.
pub fn meant(secret: &Secret, account: &ServiceAccount) -> bool {
    annotation(secret, ACCOUNT_UID).is_none_or(|uid| account.metadata.uid.as_deref() == Some(uid))
}

/// The secret with all it should hold; none if it holds that.
fn filled(
    secret: &Secret,
    account: &ServiceAccount,
    ca_pem: Option<&str>,
    signer: &TokenSigner,
) -> Result<Option<Secret>, Error> {
    let held = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|value| value.0.as_slice());
    let needs = |key: &str| held(key).unwrap_or_default().is_empty();
    let authority = ca_pem.filter(|pem| held(AUTHORITY) != Some(pem.as_bytes()));
    if authority.is_none() && !needs(NAMESPACE) && !needs(TOKEN) {
        return Ok(None);
    }
    let mut more: Vec<(&str, String)> = authority.map(|pem| (AUTHORITY, pem.to_owned())).into_iter().collect();
    if needs(NAMESPACE) {
        more.push((NAMESPACE, secret.metadata.namespace.clone().unwrap_or_default()));
    }
    if needs(TOKEN) {
        more.push((TOKEN, (signer.0)(account, secret)?));
    }
    let mut filled = secret.clone();
    let data = filled.data.get_or_insert_default();
    data.extend(more.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value.into_bytes()))));
    let annotations = filled.metadata.annotations.get_or_insert_default();
    annotations.insert(ACCOUNT_NAME.to_owned(), account.metadata.name.clone().unwrap_or_default());
    annotations.insert(ACCOUNT_UID.to_owned(), account.metadata.uid.clone().unwrap_or_default());
    Ok(Some(filled))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// What a secret with `data` holds after; `-` where it is left alone.
    #[track_caller]
    fn check(data: Value, expected: &str) {
        let secret = json!({"metadata": {"name": "s", "namespace": "a"}, "type": SECRET_TYPE, "data": data});
        let secret: Secret = serde_json::from_value(secret).expect("a secret");
        let account = json!({"metadata": {"name": "bot", "namespace": "a", "uid": "1"}});
        let account: ServiceAccount = serde_json::from_value(account).expect("an account");
        let signer =
            TokenSigner::new(|account, _| Ok(format!("token-of-{}", account.metadata.name.as_deref().unwrap_or("?"))));
        let filled = filled(&secret, &account, Some("PEM"), &signer).expect("it can be signed");
        let shown = filled.map_or_else(
            || "-".to_owned(),
            |filled| {
                assert_eq!(annotation(&filled, ACCOUNT_UID), Some("1"));
                let data = filled.data.into_iter().flatten();
                data.map(|(key, value)| format!("{key}={}", String::from_utf8_lossy(&value.0)))
                    .collect::<Vec<_>>()
                    .join(" ")
            },
        );
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_secret_gets_what_it_lacks_and_keeps_its_token() {
        check(json!({}), "ca.crt=PEM namespace=a token=token-of-bot");
        // Values in base64: `own`, `PEM`, `a`, `old`.
        check(json!({"token": "b3du"}), "ca.crt=PEM namespace=a token=own");
        check(json!({"token": "b3du", "ca.crt": "b2xk", "namespace": "YQ=="}), "ca.crt=PEM namespace=a token=own");
        check(json!({"token": "b3du", "ca.crt": "UEVN", "namespace": "YQ=="}), "-");
    }
}
