//! A cluster of a few objects, and writes to it.

use std::sync::Arc;

use async_trait::async_trait;
use wharf_auth::{Attributes as Asked, Decision, User};
use wharf_registry::{Row, Subresource, Table, builtin};
use wharf_types::{ApiError, BoxObject, Gvr, KubeObject};

use crate::{Attributes, Notes, Operation, Plugin, Reader};

#[derive(Default)]
pub struct Cluster {
    objects: Vec<(Gvr, BoxObject)>,
    /// Each as `jane verb group/resource[/subresource] name`.
    rights: Vec<String>,
}

impl Cluster {
    #[must_use]
    pub fn with(mut self, resource: &str, object: impl KubeObject) -> Self {
        self.objects.push((row(resource).gvr.clone(), Box::new(object)));
        self
    }

    /// Allows what reads as `jane approve certificates.k8s.io/signers example.com/a`.
    #[must_use]
    pub fn allowing(mut self, right: &str) -> Self {
        self.rights.push(right.to_owned());
        self
    }
}

#[async_trait]
impl Reader for Cluster {
    fn get(&self, gvr: &Gvr, namespace: Option<&str>, name: &str) -> Option<BoxObject> {
        let held = |object: &BoxObject| object.name() == name && object.namespace() == namespace;
        self.objects.iter().find(|(of, object)| of == gvr && held(object)).map(|(_, object)| object.clone_box())
    }

    fn list(&self, gvr: &Gvr, namespace: Option<&str>) -> Vec<BoxObject> {
        let held = |object: &BoxObject| namespace.is_none() || object.namespace() == namespace;
        self.objects
            .iter()
            .filter(|(of, object)| of == gvr && held(object))
            .map(|(_, object)| object.clone_box())
            .collect()
    }

    async fn authorize(&self, user: &User, asked: &Asked) -> Decision {
        let Asked { verb, group, resource, subresource, name, .. } = asked;
        let resource = if subresource.is_empty() { resource.clone() } else { format!("{resource}/{subresource}") };
        let right = format!("{} {verb} {group}/{resource} {name}", user.name);
        if self.rights.contains(&right) { Decision::Allow } else { Decision::NoOpinion(String::new()) }
    }
}

pub fn row(resource: &str) -> Arc<Row> {
    let rows = Table::new(builtin::rows()).all();
    rows.into_iter().find(|row| row.gvr.resource == resource).expect("a built-in resource")
}

/// A write of `object` by an ordinary user.
pub fn write(operation: Operation, resource: &str, object: impl KubeObject) -> Attributes {
    let row = row(resource);
    let object: BoxObject = Box::new(object);
    let namespace = row.namespaced().then(|| object.namespace().unwrap_or("default").to_owned());
    Attributes {
        operation,
        row,
        subresource: None,
        namespace,
        name: object.name().to_owned(),
        object: Some(object),
        old: None,
        user: User::new("jane", &[]),
        dry_run: false,
    }
}

impl Attributes {
    #[must_use]
    pub fn by(mut self, user: User) -> Self {
        self.user = user;
        self
    }

    #[must_use]
    pub fn through(mut self, subresource: Subresource) -> Self {
        self.subresource = Some(subresource);
        self
    }

    #[must_use]
    pub fn replacing(mut self, old: impl KubeObject) -> Self {
        self.old = Some(Box::new(old));
        self
    }

    /// As a delete of the object.
    #[must_use]
    pub fn deleting(mut self) -> Self {
        self.operation = Operation::Delete;
        self.old = self.object.take();
        self
    }
}

/// Runs both sides of a plugin, as the chain would.
pub async fn run(plugin: &dyn Plugin, write: &mut Attributes, cluster: &Cluster) -> Result<(), ApiError> {
    let mut notes = Notes::default();
    if !plugin.handles(write.operation) {
        return Ok(());
    }
    plugin.admit(write, cluster, &mut notes).await?;
    plugin.validate(write, cluster, &mut notes).await
}

pub fn json<K: KubeObject>(value: serde_json::Value) -> K {
    serde_json::from_value(value).expect("an object of the kind")
}
