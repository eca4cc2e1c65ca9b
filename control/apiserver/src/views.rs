//! Keeps authorizers' and authenticators' views of stored objects current, from the watch cache.

use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use wharf_auth::token::Marks;
use wharf_auth::{Lookup, MASTERS, User, View};
use wharf_cache::{Collection, Event, Observer, Snapshot};
use wharf_registry::Row;
use wharf_types::Gvr;

use crate::bootstrap::IDENTITY;
use crate::server::ApiServer;

/// Shows the collection to each view that wants to see it, now and from now on.
pub fn attach(views: &[Arc<dyn View>], row: &Row, collection: &Collection) {
    for view in views.iter().filter(|view| view.resources().contains(&row.gvr)) {
        collection.observe(Arc::new(Feed { view: view.clone(), resource: row.gvr.clone() }));
    }
}

struct Feed {
    view: Arc<dyn View>,
    resource: Gvr,
}

impl Observer for Feed {
    fn loaded(&self, objects: &Snapshot) {
        self.view.replace(&self.resource, &mut objects.range("", None).map(|entry| &entry.bytes[..]));
    }

    fn changed(&self, event: &Event) {
        if event.deleted {
            self.view.remove(&self.resource, &event.new.bytes);
        } else {
            self.view.put(&self.resource, &event.new.bytes);
        }
    }
}

/// A look at stored objects for what is made before the server is. Finds nothing until [`Stored::set`].
#[derive(Default)]
pub struct Stored(OnceLock<Weak<ApiServer>>);

impl Stored {
    /// Says which server it is that is looked into. The first call counts.
    pub fn set(&self, server: &Arc<ApiServer>) {
        self.0.get_or_init(|| Arc::downgrade(server));
    }
}

impl Lookup for Stored {
    fn get(&self, resource: &Gvr, namespace: Option<&str>, name: &str) -> Option<Bytes> {
        let server = self.0.get()?.upgrade()?;
        let row = server.table.find(&resource.group, &resource.version, &resource.resource)?;
        Some(server.collection(&row)?.get(&row.key(namespace, name))?.bytes.clone())
    }
}

impl Marks for Stored {
    fn label(&self, namespace: &str, name: &str, uid: &str, label: &'static str, value: String) {
        let Some(server) = self.0.get().and_then(Weak::upgrade) else { return };
        let client = Client::new(server.service_for(User::new(IDENTITY, &[MASTERS])), "default");
        let (secrets, name) = (Api::<Secret>::namespaced(client, namespace), name.to_owned());
        let patch = json!({"metadata": {"uid": uid, "labels": {label: value}}});
        tokio::spawn(async move {
            if let Err(error) = secrets.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
                tracing::error!(%error, secret = name, label, "label the secret of a legacy token");
            }
        });
    }
}
