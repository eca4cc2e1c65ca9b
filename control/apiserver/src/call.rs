//! One request that has been let in and routed: what every verb works on.

use std::sync::Arc;

use async_trait::async_trait;
use http::{HeaderMap, Response};
use jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use wharf_admission::{Attributes, Managed, Notes, Operation, Reader};
use wharf_auth::{Decision, User};
use wharf_cache::{Collection, Entry, Error as CacheError};
use wharf_machinery::apply::text;
use wharf_registry::{Asked, Row, Subresource};
use wharf_store::{Change, Precondition};
use wharf_types::k8s::api::core::v1::Namespace;
use wharf_types::meta::ObjectMeta;
use wharf_types::{ApiError, BoxObject, Gvr};

use crate::audit::Annotations;
use crate::bootstrap;
use crate::escalation;
use crate::managed;
use crate::options;
use crate::query::Query;
use crate::reply::Body;
use crate::server::ApiServer;
use crate::verbs::list::cache_error;
use crate::verbs::write;
use crate::versions;

pub struct Call {
    pub server: Arc<ApiServer>,
    pub user: User,
    pub row: Arc<Row>,
    pub collection: Arc<Collection>,
    pub subresource: Option<Subresource>,
    /// None for cluster-scoped resources, and across all namespaces.
    pub namespace: Option<String>,
    /// Empty where the request names no object.
    pub name: String,
    /// The name in the request's path, which a create has not.
    pub asked_name: String,
    pub query: Query,
    pub headers: HeaderMap,
    /// When the request began: one time for everything it writes.
    pub now: Timestamp,
    pub notes: Notes,
}

impl Call {
    pub fn gvr(&self) -> &Gvr {
        &self.row.gvr
    }

    pub fn key(&self) -> String {
        self.row.key(self.namespace.as_deref(), &self.name)
    }

    pub fn not_found(&self) -> ApiError {
        ApiError::not_found(self.gvr(), &self.name)
    }

    /// What the cache holds under the call's name, in the row's version.
    pub async fn current(&self) -> Result<Option<Arc<Entry>>, ApiError> {
        match self.collection.read(&self.key()).await.map_err(cache_error)? {
            Some(entry) => versions::served(&self.row, entry).await.map(Some),
            None => Ok(None),
        }
    }

    pub async fn existing(&self) -> Result<Arc<Entry>, ApiError> {
        self.current().await?.ok_or_else(|| self.not_found())
    }

    /// The same request about one object of the collection, with notes of its own.
    pub fn about(&self, namespace: Option<&str>, name: &str) -> Self {
        Self {
            server: self.server.clone(),
            user: self.user.clone(),
            row: self.row.clone(),
            collection: self.collection.clone(),
            subresource: self.subresource,
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
            asked_name: self.asked_name.clone(),
            query: self.query.clone(),
            headers: self.headers.clone(),
            now: self.now,
            notes: Notes::default(),
        }
    }

    /// What a strategy may write down of the request.
    pub fn asked(&self) -> Asked<'_> {
        let User { name, uid, groups, extra, .. } = &self.user;
        Asked { user: name, uid, groups, extra, now: write::whole_seconds(self.now) }
    }

    /// The same request turned to an object of another resource, in the same namespace if that has any; none where nothing
    /// serves the resource.
    pub fn toward(&self, gvr: &Gvr, name: &str) -> Option<Self> {
        let row = self.server.table.find(&gvr.group, &gvr.version, &gvr.resource)?;
        let collection = self.server.collection(&row)?;
        let namespace = self.namespace.as_deref().filter(|_| row.namespaced());
        Some(Self { row, collection, subresource: None, ..self.about(namespace, name) })
    }

    /// Hands what plugins have noted for the audit log to whoever keeps that.
    pub fn annotate(&mut self, response: &mut Response<Body>) {
        if !self.notes.audit_annotations.is_empty() {
            response.extensions_mut().insert(Annotations(std::mem::take(&mut self.notes.audit_annotations)));
        }
    }

    pub fn warn(&mut self, warnings: impl IntoIterator<Item = String>) {
        self.notes.warnings.extend(warnings);
    }

    /// Reads an entry that is in the row's version.
    pub fn decode(&self, entry: &Entry) -> Result<BoxObject, ApiError> {
        decode_stored(&self.row, entry)
    }

    /// Runs the mutating plugins; the object gets its defaults again where one may have changed it. Then nobody may grant more
    /// than they have.
    pub async fn admit(&mut self, write: &mut Attributes) -> Result<(), ApiError> {
        let server = self.server.clone();
        if !server.admission.handles(write.operation) {
            return escalation::check(self, write).await;
        }
        server.admission.admit(write, &Cluster(&server), &mut self.notes).await?;
        // A subresource's own object (`Binding`, `Eviction`) has no defaults.
        if let Some(object) = write.object.as_deref_mut().filter(|_| has_own_kind(write.subresource)) {
            self.row.kind.default(object);
        }
        escalation::check(self, write).await
    }

    /// As [`Call::admit`], for a write whose managed fields travel beside it: what a plugin makes of them counts if it is valid.
    pub async fn admit_with(&mut self, write: &mut Attributes) -> Result<(), ApiError> {
        let before = write.managed.new.clone();
        self.admit(write).await?;
        if let Err(why) = managed::settle(write, before) {
            self.warn([format!(
                ".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating admission controller; please fix your requests: {why}"
            )]);
        }
        Ok(())
    }

    /// May the user create the object, which an update or apply of it comes to where there is none?
    pub async fn authorize_create(&self) -> Result<(), ApiError> {
        let gvr = self.gvr();
        let attributes = wharf_auth::Attributes {
            verb: "create".to_owned(),
            resource_request: true,
            group: gvr.group.to_string(),
            version: gvr.version.to_string(),
            resource: gvr.resource.to_string(),
            namespace: self.namespace.clone().unwrap_or_default(),
            name: self.name.clone(),
            ..wharf_auth::Attributes::default()
        };
        match self.server.authorizer.authorize(&self.user, &attributes).await {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(_) | Decision::NoOpinion(_) | Decision::Failed { .. } => {
                Err(ApiError::forbidden(gvr, &self.name, attributes.refusal(&self.user)))
            }
        }
    }

    /// Runs the validating plugins on a write that is otherwise ready.
    pub async fn validate(&mut self, write: &Attributes) -> Result<(), ApiError> {
        let server = self.server.clone();
        if !server.admission.handles(write.operation) {
            return Ok(());
        }
        server.admission.validate(write, &Cluster(&server), &mut self.notes).await
    }

    pub fn attributes(
        &self,
        operation: Operation,
        object: Option<BoxObject>,
        old: Option<BoxObject>,
        dry_run: bool,
    ) -> Attributes {
        Attributes {
            operation,
            row: self.row.clone(),
            subresource: self.subresource,
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            object,
            old,
            user: self.user.clone(),
            dry_run,
            options: options::admitted(&self.query, operation),
            reinvocation: Default::default(),
            managed: Managed::default(),
        }
    }
}

/// True where what is written is an object of the row's kind.
fn has_own_kind(subresource: Option<Subresource>) -> bool {
    use Subresource::{Attach, Binding, Eviction, Exec, PortForward, Proxy, Token};
    !matches!(subresource, Some(Binding | Eviction | Token | Exec | Attach | PortForward | Proxy))
}

/// Reads an entry that is in the row's version, without managed fields. Failing means that the store's content is not ours.
pub fn decode_stored(row: &Row, entry: &Entry) -> Result<BoxObject, ApiError> {
    let mut object = row.kind.decode_stored(&entry.bytes).map_err(|error| {
        tracing::error!(key = %entry.key, %error, "a stored object cannot be read");
        ApiError::internal(format!("read stored object {}: {error}", entry.key))
    })?;
    object.meta_mut().managed_fields = None;
    Ok(object)
}

/// The cluster as admission plugins see it.
pub struct Cluster<'a>(pub &'a ApiServer);

#[async_trait]
impl Reader for Cluster<'_> {
    fn get(&self, gvr: &Gvr, namespace: Option<&str>, name: &str) -> Option<BoxObject> {
        let row = self.0.table.find(&gvr.group, &gvr.version, &gvr.resource)?;
        let entry = self.0.collection(&row)?.get(&row.key(namespace, name))?;
        decode_stored(&row, &*versions::served_now(&row, entry)?).ok()
    }

    fn list(&self, gvr: &Gvr, namespace: Option<&str>) -> Vec<BoxObject> {
        let Some(row) = self.0.table.find(&gvr.group, &gvr.version, &gvr.resource) else { return Vec::new() };
        let prefix = match namespace {
            Some(namespace) if row.namespaced() => format!("{}{namespace}/", row.prefix()),
            _ => row.prefix(),
        };
        let Some(collection) = self.0.collection(&row) else { return Vec::new() };
        let snapshot = collection.snapshot();
        let served = |entry: &Arc<Entry>| versions::served_now(&row, entry.clone());
        snapshot.range(&prefix, None).filter_map(|entry| decode_stored(&row, &*served(entry)?).ok()).collect()
    }

    fn field(&self, gvr: &Gvr, namespace: Option<&str>, name: &str, field: &str) -> Option<String> {
        let row = self.0.table.find(&gvr.group, &gvr.version, &gvr.resource)?;
        let entry = self.0.collection(&row)?.get(&row.key(namespace, name))?;
        Some(entry.indexed.fields.get(field).cloned().unwrap_or_default())
    }

    fn row_of(&self, api_version: &str, kind: &str) -> Option<Arc<Row>> {
        self.0.table.find_kind(api_version, kind)
    }

    fn versions(&self, row: &Row) -> Arc<[Arc<Row>]> {
        self.0.table.versions(row)
    }

    fn revision(&self, gvr: &Gvr) -> u64 {
        self.0.collection_of(gvr).map_or(0, |collection| collection.last().0)
    }

    async fn authorize(&self, user: &User, attributes: &wharf_auth::Attributes) -> Decision {
        self.0.authorizer.authorize(user, attributes).await
    }

    /// Through the whole stack, so that the namespace is made as any other.
    async fn create_namespace(&self, name: &str) -> Result<(), ApiError> {
        let server = self.0.myself().ok_or_else(|| ApiError::unavailable("the server goes down"))?;
        let namespaces = Api::<Namespace>::all(bootstrap::client(&server));
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        match namespaces.create(&PostParams::default(), &namespace).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(kube::Error::Api(status)) => Err(ApiError::new(status.code, status.reason, status.message)),
            Err(error) => Err(ApiError::internal(error)),
        }
    }

    async fn replace_status(&self, gvr: &Gvr, mut object: BoxObject) -> Result<(), ApiError> {
        let row = self.0.table.find(&gvr.group, &gvr.version, &gvr.resource).ok_or_else(ApiError::no_such_path)?;
        let collection = self.0.collection(&row).ok_or_else(ApiError::no_such_path)?;
        let name = object.name().to_owned();
        let entry =
            collection.get(&row.key(object.namespace(), &name)).ok_or_else(|| ApiError::not_found(gvr, &name))?;
        if object.meta().resource_version.as_deref() != Some(entry.revision.to_string().as_str()) {
            return Err(ApiError::modified(gvr, &name));
        }
        let old = decode_stored(&row, &entry)?;
        row.kind.prepare_for_status_update(&mut *object, &*old);
        object.meta_mut().resource_version = None;
        let change = Change::Put(managed::encode(&*object, text::managed(&entry.bytes)).into());
        match self.0.cache.commit(&entry.key, Precondition::At(entry.revision), change).await {
            Ok(_) => Ok(()),
            Err(CacheError::Conflict { .. }) => Err(ApiError::modified(gvr, &name)),
            Err(error) => Err(cache_error(error)),
        }
    }
}
