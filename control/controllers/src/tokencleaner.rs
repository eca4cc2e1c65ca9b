//! Deletes bootstrap tokens when their time is over.
//!
//! Source of the behaviour: `k8s.io/kubernetes/pkg/controller/bootstrap/tokencleaner.go`.

use async_trait::async_trait;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client};
use wharf_client::{Action, Changed, Clock, Error, Informers, Lister, ObjectKey, Reconcile, Trigger};
use wharf_machinery::bootstrap_token;
use wharf_types::k8s::api::core::v1::Secret;

use crate::bootstrapsigner::{TOKENS, is_token};
use crate::call::{self, During as _, gone_is_fine};

pub struct TokenCleaner {
    client: Client,
    secrets: Lister<Secret>,
    clock: Clock,
}

impl TokenCleaner {
    pub fn new(informers: &Informers, clock: Clock) -> Self {
        Self { client: informers.client().clone(), secrets: informers.selected(TOKENS), clock }
    }
}

#[async_trait]
impl Reconcile for TokenCleaner {
    fn name(&self) -> &'static str {
        "token-cleaner"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let wakes = |changed: &Changed<Secret>| {
            let token = changed.new.as_ref().is_some_and(|secret| is_token(secret));
            token.then(|| changed.key.clone()).into_iter().collect()
        };
        vec![Trigger::mapped(&self.secrets, wakes)]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(secret) = self.secrets.get(key).filter(|secret| is_token(secret)) else { return Ok(Action::done()) };
        match bootstrap_token::left(&secret, self.clock.now()) {
            Ok(None) => return Ok(Action::done()),
            Ok(Some(left)) => return Ok(Action::requeue_after(left)),
            Err(bootstrap_token::Expired) => {}
        }
        let preconditions = Preconditions { uid: secret.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let api = Api::<Secret>::namespaced(self.client.clone(), &key.namespace);
        match api.delete(&key.name, &params).await {
            Err(error) if call::is_conflict(&error) => {}
            result => drop(gone_is_fine(result).during("delete expired bootstrap token", key)?),
        }
        Ok(Action::done())
    }
}
