//! A cluster of a few objects, and writes to it.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use wharf_auth::{Attributes as Asked, Decision, User};
use wharf_registry::{Row, Subresource, Table, builtin};
use wharf_types::k8s::api::core::v1::Namespace;
use wharf_types::{AnyObject, ApiError, BoxObject, Gvr, KubeObject};

use crate::{Attributes, Notes, Operation, Plugin, Reader};

#[derive(Default)]
pub struct Cluster {
    objects: Mutex<Vec<(Gvr, BoxObject)>>,
    /// Each as `jane verb group/resource[/subresource] name`.
    rights: Vec<String>,
}

impl Cluster {
    #[must_use]
    pub fn with(self, resource: &str, object: impl KubeObject) -> Self {
        self.objects.lock().push((row(resource).gvr.clone(), Box::new(object)));
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
        let objects = self.objects.lock();
        objects.iter().find(|(of, object)| of == gvr && held(object)).map(|(_, object)| object.clone_box())
    }

    fn list(&self, gvr: &Gvr, namespace: Option<&str>) -> Vec<BoxObject> {
        let held = |object: &BoxObject| namespace.is_none() || object.namespace() == namespace;
        let objects = self.objects.lock();
        objects.iter().filter(|(of, object)| of == gvr && held(object)).map(|(_, object)| object.clone_box()).collect()
    }

    fn field(&self, gvr: &Gvr, namespace: Option<&str>, name: &str, field: &str) -> Option<String> {
        field_of(&*self.get(gvr, namespace, name)?, field)
    }

    fn revision(&self, gvr: &Gvr) -> u64 {
        self.objects.lock().iter().filter(|(of, _)| of == gvr).count() as u64
    }

    async fn authorize(&self, user: &User, asked: &Asked) -> Decision {
        let Asked { verb, group, resource, subresource, name, .. } = asked;
        let resource = if subresource.is_empty() { resource.clone() } else { format!("{resource}/{subresource}") };
        let right = format!("{} {verb} {group}/{resource} {name}", user.name);
        if self.rights.contains(&right) { Decision::Allow(String::new()) } else { Decision::NoOpinion(String::new()) }
    }

    async fn create_namespace(&self, name: &str) -> Result<(), ApiError> {
        let namespace = json::<Namespace>(serde_json::json!({"metadata": {"name": name}}));
        self.objects.lock().push((row("namespaces").gvr.clone(), Box::new(namespace)));
        Ok(())
    }

    async fn replace_status(&self, gvr: &Gvr, mut object: BoxObject) -> Result<(), ApiError> {
        let mut objects = self.objects.lock();
        let same = |held: &BoxObject| held.name() == object.name() && held.namespace() == object.namespace();
        let found = objects.iter_mut().find(|(of, held)| of == gvr && same(held));
        let Some((_, held)) = found else { return Err(ApiError::not_found(gvr, object.name())) };
        if held.meta().resource_version != object.meta().resource_version {
            return Err(ApiError::modified(gvr, object.name()));
        }
        let version: u64 = held.meta().resource_version.as_deref().unwrap_or("0").parse().expect("a version");
        object.meta_mut().resource_version = Some((version + 1).to_string());
        *held = object;
        Ok(())
    }
}

/// A cluster that holds objects of one resource, which need not be served.
pub struct Classes(Gvr, Vec<BoxObject>);

impl Classes {
    pub fn of<K: KubeObject>(gvr: &Gvr, objects: impl IntoIterator<Item = K>) -> Self {
        Self(gvr.clone(), objects.into_iter().map(|object| Box::new(object) as BoxObject).collect())
    }
}

/// A field of the object's JSON, empty where it is not there.
fn field_of(object: &dyn AnyObject, field: &str) -> Option<String> {
    let object: serde_json::Value = serde_json::from_slice(&object.to_vec()).expect("an object is JSON");
    let value = object.pointer(&format!("/{}", field.replace('.', "/")));
    Some(value.and_then(serde_json::Value::as_str).unwrap_or_default().to_owned())
}

#[async_trait]
impl Reader for Classes {
    fn field(&self, gvr: &Gvr, namespace: Option<&str>, name: &str, field: &str) -> Option<String> {
        field_of(&*self.get(gvr, namespace, name)?, field)
    }

    fn revision(&self, _gvr: &Gvr) -> u64 {
        0
    }

    async fn authorize(&self, _user: &User, _asked: &Asked) -> Decision {
        Decision::NoOpinion(String::new())
    }

    fn get(&self, gvr: &Gvr, _namespace: Option<&str>, name: &str) -> Option<BoxObject> {
        self.list(gvr, None).into_iter().find(|object| object.name() == name)
    }

    fn list(&self, gvr: &Gvr, _namespace: Option<&str>) -> Vec<BoxObject> {
        self.1.iter().filter(|_| *gvr == self.0).map(|object| object.clone_box()).collect()
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
        options: None,
        reinvocation: Default::default(),
        managed: Default::default(),
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
    run_with(plugin, write, cluster).await
}

/// The same over any cluster.
pub async fn run_with(plugin: &dyn Plugin, write: &mut Attributes, cluster: &dyn Reader) -> Result<(), ApiError> {
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
