//! Puts the cluster's certificate authority where pods find it: ConfigMap `kube-root-ca.crt` in every active namespace.
//!
//! Source of the behaviour: `k8s.io/kubernetes/pkg/controller/certificates/rootcacertpublisher`.

use std::collections::BTreeMap;

use async_trait::async_trait;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use wharf_client::{Action, Changed, Error, Informers, Lister, ObjectKey, Reconcile, Trigger};
use wharf_types::k8s::api::core::v1::{ConfigMap, Namespace};
use wharf_types::meta::ObjectMeta;

use crate::call::{self, During as _};
use crate::serviceaccount::is_active;

const NAME: &str = "kube-root-ca.crt";
const SELECTOR: &str = "metadata.name=kube-root-ca.crt";
const FILE: &str = "ca.crt";
const DESCRIPTION_KEY: &str = "kubernetes.io/description";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

pub struct RootCa {
    client: Client,
    namespaces: Lister<Namespace>,
    config_maps: Lister<ConfigMap>,
    ca_pem: watch::Receiver<String>,
}

impl RootCa {
    pub fn new(informers: &Informers, ca_pem: watch::Receiver<String>) -> Self {
        Self {
            client: informers.client().clone(),
            namespaces: informers.of(),
            config_maps: informers.selected(SELECTOR),
            ca_pem,
        }
    }
}

fn bundle(ca_pem: &str) -> BTreeMap<String, String> {
    [(FILE.to_owned(), ca_pem.to_owned())].into()
}

#[async_trait]
impl Reconcile for RootCa {
    fn name(&self) -> &'static str {
        "root-ca-publisher"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let map_wakes = |changed: &Changed<ConfigMap>| {
            let ours = (&*changed.key.name == NAME).then(|| ObjectKey::cluster(&changed.key.namespace));
            ours.into_iter().collect()
        };
        let namespaces = self.namespaces.clone();
        let all = move || namespaces.list().iter().map(|namespace| ObjectKey::cluster(&namespace.name_any())).collect();
        vec![
            Trigger::primary(&self.namespaces),
            Trigger::mapped(&self.config_maps, map_wakes),
            Trigger::told(self.ca_pem.clone(), all),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        if !self.namespaces.get(key).is_some_and(|namespace| is_active(&namespace)) {
            return Ok(Action::done());
        }
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), &key.name);
        let present = self.config_maps.get(&ObjectKey::new(&key.name, NAME));
        let bundle = bundle(&self.ca_pem.borrow());
        let Some(wanted) = wanted(present.as_deref(), &bundle) else { return Ok(Action::done()) };
        let written = match present {
            Some(_) => api.replace(NAME, &PostParams::default(), &wanted).await,
            None => api.create(&PostParams::default(), &wanted).await,
        };
        match written {
            Err(error) if call::is_already_exists(&error) || call::is_namespace_terminating(&error) => {}
            result => drop(result.during("publish the certificate authority in namespace", key)?),
        }
        Ok(Action::done())
    }
}

/// The ConfigMap to write, if what is there is not right.
fn wanted(present: Option<&ConfigMap>, bundle: &BTreeMap<String, String>) -> Option<ConfigMap> {
    let mut wanted = present.cloned().unwrap_or_else(|| ConfigMap {
        metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
        ..ConfigMap::default()
    });
    let annotations = wanted.metadata.annotations.get_or_insert_default();
    annotations.insert(DESCRIPTION_KEY.to_owned(), DESCRIPTION.to_owned());
    wanted.data = Some(bundle.clone());
    (present != Some(&wanted)).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_written_once_and_put_right_when_changed() {
        let bundle = bundle("PEM");
        let first = wanted(None, &bundle).expect("nothing is there");
        assert_eq!(first.data.as_ref(), Some(&bundle));
        assert_eq!(wanted(Some(&first), &bundle), None);
        let tampered = ConfigMap { data: None, ..first.clone() };
        assert_eq!(wanted(Some(&tampered), &bundle), Some(first));
    }
}
