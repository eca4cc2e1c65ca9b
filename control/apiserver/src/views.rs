//! Keeps authorizers' and authenticators' views of stored objects current, from the watch cache.

use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use wharf_auth::{Lookup, View};
use wharf_cache::{Collection, Event, Observer, Snapshot};
use wharf_registry::Row;
use wharf_types::Gvr;

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
