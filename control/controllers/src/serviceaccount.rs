//! Gives every active namespace its `default` ServiceAccount.
//!
//! Source of the behaviour: `k8s.io/kubernetes/pkg/controller/serviceaccount`.

use async_trait::async_trait;
use kube::api::PostParams;
use kube::{Api, Client};
use wharf_client::{Action, Changed, Error, Informers, Lister, ObjectKey, Reconcile, Trigger};
use wharf_types::k8s::api::core::v1::{Namespace, ServiceAccount};
use wharf_types::meta::ObjectMeta;

use crate::call::{self, During as _};

const NAME: &str = "default";

pub struct ServiceAccounts {
    client: Client,
    namespaces: Lister<Namespace>,
    accounts: Lister<ServiceAccount>,
}

impl ServiceAccounts {
    pub fn new(informers: &Informers) -> Self {
        Self { client: informers.client().clone(), namespaces: informers.of(), accounts: informers.of() }
    }
}

#[async_trait]
impl Reconcile for ServiceAccounts {
    fn name(&self) -> &'static str {
        "serviceaccount"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let account_wakes = |changed: &Changed<ServiceAccount>| {
            let lost = changed.new.is_none() && &*changed.key.name == NAME;
            lost.then(|| ObjectKey::cluster(&changed.key.namespace)).into_iter().collect()
        };
        vec![Trigger::primary(&self.namespaces), Trigger::mapped(&self.accounts, account_wakes)]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let wanted = self.namespaces.get(key).is_some_and(|namespace| is_active(&namespace));
        if !wanted || self.accounts.get(&ObjectKey::new(&key.name, NAME)).is_some() {
            return Ok(Action::done());
        }
        let account = ServiceAccount {
            metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
            ..ServiceAccount::default()
        };
        let api = Api::<ServiceAccount>::namespaced(self.client.clone(), &key.name);
        match api.create(&PostParams::default(), &account).await {
            Err(error) if call::is_already_exists(&error) || call::is_namespace_terminating(&error) => {}
            result => drop(result.during("create the default service account of namespace", key)?),
        }
        Ok(Action::done())
    }
}

/// Objects can be created in it.
pub fn is_active(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
    namespace.metadata.deletion_timestamp.is_none() && phase != Some("Terminating")
}
