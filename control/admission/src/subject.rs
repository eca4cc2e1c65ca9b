//! A write as webhooks and policies see it: names, and JSON, in the version that they ask for.
//!
//! What is written is a typed object; it becomes JSON at most once for each version, when the first hook that is about the write
//! asks, and only then are its managed fields read. A change to the JSON is read back through the row's kind. Nothing here knows
//! a kind but those of subresources. Source: `VersionedAttributes` in `k8s.io/apiserver/pkg/admission`.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};
use wharf_registry::{ConvertError, Row, Subresource, between};
use wharf_types::k8s::api::authentication::v1::TokenRequest;
use wharf_types::k8s::api::core::v1::Binding;
use wharf_types::k8s::api::policy::v1::Eviction;
use wharf_types::{AnyObject, ApiError, BoxObject, Gvk, Gvr};

use crate::connect::ConnectOptions;
use crate::{Attributes, Operation};

/// Configures admission: neither a webhook nor a policy is asked about these, lest nobody could mend them.
/// Source: `IsExemptAdmissionConfigurationResource`.
const CONFIGURATION: &[&str] = &["admission.wharf.dev", "admissionregistration.k8s.io"];
/// Groups whose kinds are questions, which no policy is asked about; webhooks are. Source: `pkg/kubeapiserver/admission/exclusion`.
const QUESTIONS: &[&str] = &["authentication.k8s.io", "authorization.k8s.io"];

impl Operation {
    /// As rules and reviews spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

impl Attributes {
    /// True where neither webhooks nor policies have a say.
    pub(crate) fn configures_admission(&self) -> bool {
        CONFIGURATION.contains(&&*self.row.gvr.group)
    }

    /// True where policies have no say.
    pub(crate) fn is_beyond_policies(&self) -> bool {
        self.configures_admission() || QUESTIONS.contains(&&*self.row.gvr.group)
    }

    pub(crate) fn is_namespace(&self) -> bool {
        self.row.gvr.group.is_empty() && self.row.gvr.resource == "namespaces"
    }

    /// The namespace that a review names; a namespace itself is in its own.
    pub(crate) fn in_namespace(&self) -> Option<&str> {
        match &self.namespace {
            Some(namespace) => Some(namespace),
            None if self.is_namespace() => Some(self.object_name()).filter(|name| !name.is_empty()),
            None => None,
        }
    }

    /// The name in the path, or else in the object.
    pub(crate) fn object_name(&self) -> &str {
        match self.name.as_str() {
            "" => self.object.as_deref().map_or("", |object| object.name()),
            name => name,
        }
    }

    pub(crate) fn subresource_name(&self) -> &'static str {
        self.subresource.map_or("", Subresource::name)
    }

    /// The kind of what is written; none where it is the row's own.
    fn own_kind(&self) -> Option<Gvk> {
        let (group, version, kind): (&'static str, &'static str, &'static str) = match self.subresource? {
            Subresource::Scale => ("autoscaling", "v1", "Scale"),
            Subresource::Binding => ("", "v1", "Binding"),
            Subresource::Eviction => ("policy", "v1", "Eviction"),
            Subresource::Token => ("authentication.k8s.io", "v1", "TokenRequest"),
            part => ("", "v1", ConnectOptions::kind_of(&self.row.gvr, part)?),
        };
        Some(Gvk { group: group.into(), version: version.into(), kind: kind.into() })
    }
}

/// What is written, as JSON.
#[derive(Default)]
pub struct Subject {
    views: Mutex<Vec<Arc<View>>>,
}

/// A write in one version.
pub struct View {
    pub row: Arc<Row>,
    pub kind: Gvk,
    pub object: Option<Value>,
    pub old: Option<Value>,
    /// The request of a review but for its uid and its objects; also the variable `request` of expressions.
    pub request: Value,
}

impl Subject {
    /// The write in the version of a row that shows the same objects.
    pub async fn view(&self, write: &Attributes, row: &Arc<Row>) -> Result<Arc<View>, ConvertError> {
        if let Some(known) = self.views.lock().iter().find(|view| view.row.gvr == row.gvr) {
            return Ok(known.clone());
        }
        let object = shown(write, row, write.object.as_deref(), write.managed.new.as_ref()).await?;
        let old = shown(write, row, write.old.as_deref(), write.managed.old.as_ref()).await?;
        let own = write.own_kind();
        let kind = own.clone().unwrap_or_else(|| row.gvk.clone());
        let asked = own.unwrap_or_else(|| write.row.gvk.clone());
        let request = request(write, (&kind, &row.gvr), &asked);
        let view = Arc::new(View { row: row.clone(), kind, object, old, request });
        self.views.lock().push(view.clone());
        Ok(view)
    }

    /// Takes changed JSON for the new object, with its defaults; true if it differs from what was shown.
    pub async fn replace(&self, write: &mut Attributes, view: &View, mut json: Value) -> Result<bool, ApiError> {
        let Some(held) = write.object.as_deref() else {
            return Err(ApiError::internal("there is no object to change"));
        };
        let managed = json.get_mut("metadata").and_then(Value::as_object_mut).and_then(|it| it.remove("managedFields"));
        let managed = managed.filter(|managed| managed.as_array().is_none_or(|entries| !entries.is_empty()));
        let shown = view.object.as_ref().and_then(|object| object["metadata"].get("managedFields"));
        let same_managed = managed.as_ref() == shown;
        let object = decode(write, &view.row, held, &json).await?;
        let changed = !same_managed || !object.same(held);
        if !same_managed {
            write.managed.new = managed.map(|managed| Bytes::from(managed.to_string()));
        }
        write.object = Some(object);
        self.views.lock().clear();
        Ok(changed)
    }
}

impl View {
    /// The type by which apply configurations of this version are merged.
    pub fn merge_root(&self) -> wharf_machinery::apply::Root {
        if self.kind == self.row.gvk {
            self.row.kind.merge_root()
        } else {
            wharf_machinery::apply::Root::built_in(&wharf_machinery::schema::type_name(&self.kind))
        }
    }
}

fn request(write: &Attributes, (kind, gvr): (&Gvk, &Gvr), asked: &Gvk) -> Value {
    let user = &write.user;
    let show_kind = |kind: &Gvk| json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
    let show = |gvr: &Gvr| json!({"group": gvr.group, "version": gvr.version, "resource": gvr.resource});
    let mut request = json!({
        "uid": "",
        "kind": show_kind(kind),
        "resource": show(gvr),
        "requestKind": show_kind(asked),
        "requestResource": show(&write.row.gvr),
        "operation": write.operation.as_str(),
        "userInfo": {"username": user.name},
        "dryRun": write.dry_run,
        "options": write.options,
    });
    let subresource = write.subresource_name();
    let texts = [
        ("subResource", subresource),
        ("requestSubResource", subresource),
        ("name", write.object_name()),
        ("namespace", write.in_namespace().unwrap_or_default()),
    ];
    for (field, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        request[field] = json!(text);
    }
    let info = &mut request["userInfo"];
    if !user.uid.is_empty() {
        info["uid"] = json!(user.uid);
    }
    if !user.groups.is_empty() {
        info["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    request
}

async fn shown(
    write: &Attributes,
    row: &Row,
    object: Option<&dyn AnyObject>,
    managed: Option<&Bytes>,
) -> Result<Option<Value>, ConvertError> {
    let Some(object) = object else { return Ok(None) };
    // A scale is of its own kind outside, and the whole object inside.
    if let Some(scale) = scale_of(write, object) {
        return Ok(Some(show_scale(object, scale)));
    }
    let mut bytes = Bytes::from(object.to_vec());
    let is_own = write.own_kind().is_none();
    if is_own && row.gvr != write.row.gvr {
        bytes = between(&write.row, row, bytes).await?;
    }
    let mut json: Value = serde_json::from_slice(&bytes).map_err(|error| ConvertError(error.to_string()))?;
    let managed = managed.filter(|_| is_own).and_then(|managed| serde_json::from_slice::<Value>(managed).ok());
    if let (Some(managed), Some(metadata)) = (managed, json.get_mut("metadata").and_then(Value::as_object_mut)) {
        metadata.insert("managedFields".to_owned(), managed);
    }
    Ok(Some(json))
}

fn scale_of(write: &Attributes, object: &dyn AnyObject) -> Option<wharf_registry::Scale> {
    (write.subresource == Some(Subresource::Scale)).then(|| write.row.kind.scale(object)).flatten()
}

fn show_scale(object: &dyn AnyObject, scale: wharf_registry::Scale) -> Value {
    let meta = object.meta();
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": meta.name, "namespace": meta.namespace, "uid": meta.uid,
            "resourceVersion": meta.resource_version, "creationTimestamp": meta.creation_timestamp,
        },
        "spec": {"replicas": scale.spec_replicas},
        "status": {"replicas": scale.status_replicas, "selector": scale.selector},
    })
}

/// Reads an object of the version of `row` as one of the write's.
async fn decode(write: &Attributes, row: &Row, held: &dyn AnyObject, json: &Value) -> Result<BoxObject, ApiError> {
    fn typed<K: wharf_types::KubeObject>(json: &Value) -> Result<BoxObject, ApiError> {
        Ok(Box::new(K::deserialize(json).map_err(ApiError::internal)?))
    }
    if held.downcast_ref::<Binding>().is_some() {
        return typed::<Binding>(json);
    }
    if held.downcast_ref::<Eviction>().is_some() {
        return typed::<Eviction>(json);
    }
    if held.downcast_ref::<TokenRequest>().is_some() {
        return typed::<TokenRequest>(json);
    }
    if held.downcast_ref::<ConnectOptions>().is_some() {
        return Ok(Box::new(ConnectOptions::of_json(json)));
    }
    let own = &write.row.kind;
    if scale_of(write, held).is_some() {
        let mut object = held.clone_box();
        let replicas = json["spec"]["replicas"].as_i64().unwrap_or_default();
        own.set_scale(&mut *object, i32::try_from(replicas).map_err(ApiError::internal)?);
        return Ok(object);
    }
    let mut object = row.kind.decode(json, &mut |_| {}).map_err(ApiError::internal)?;
    row.kind.default(&mut *object);
    if row.gvr == write.row.gvr {
        return Ok(object);
    }
    let bytes = between(row, &write.row, object.to_vec().into()).await.map_err(ApiError::internal)?;
    let mut object = own.decode_stored(&bytes).map_err(ApiError::internal)?;
    own.default(&mut *object);
    Ok(object)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use wharf_types::k8s::api::admissionregistration::v1::{
        MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
    };
    use wharf_types::k8s::api::core::v1::ConfigMap;
    use wharf_types::meta::ObjectMeta;

    use super::*;
    use crate::plugins::testing::{Cluster, json as read, write};
    use crate::{Chain, Notes};

    /// A ConfigMap that counts how often it is read as JSON.
    #[derive(Debug)]
    struct Counting(ConfigMap, Arc<AtomicUsize>);

    impl AnyObject for Counting {
        fn meta(&self) -> &ObjectMeta {
            &self.0.metadata
        }

        fn meta_mut(&mut self) -> &mut ObjectMeta {
            &mut self.0.metadata
        }

        fn encode(&self, out: &mut Vec<u8>) {
            self.1.fetch_add(1, Ordering::SeqCst);
            self.0.encode(out);
        }

        fn clone_box(&self) -> BoxObject {
            Box::new(Self(self.0.clone(), self.1.clone()))
        }

        fn same(&self, other: &dyn AnyObject) -> bool {
            other.downcast_ref::<Self>().is_some_and(|other| self.0 == other.0)
        }

        fn as_any(&self) -> &dyn std::any::Any {
            self
        }

        fn as_any_mut(&mut self) -> &mut dyn std::any::Any {
            self
        }
    }

    /// How often a write is read as JSON where a webhook and a policy are about this resource, and what comes of it.
    async fn check(resource: &str, reads: usize, expected: Result<(), &str>) {
        let rules = json!([{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": [resource]}]);
        let never = json!([{"name": "never", "expression": "!has(object.metadata.managedFields)"}]);
        let webhook: MutatingWebhookConfiguration = read(json!({"metadata": {"name": "w"}, "webhooks": [{
            "name": "w.example.com", "clientConfig": {}, "rules": rules, "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "matchConditions": never,
        }]}));
        let policy: ValidatingAdmissionPolicy = read(json!({"metadata": {"name": "p"}, "spec": {
            "matchConstraints": {"resourceRules": rules},
            "validations": [{"expression": "object.metadata.managedFields[0].manager == 'other'", "message": "mine"}],
        }}));
        let binding: ValidatingAdmissionPolicyBinding =
            read(json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"]}}));
        let cluster = Cluster::default()
            .with("mutatingwebhookconfigurations", webhook)
            .with("validatingadmissionpolicies", policy)
            .with("validatingadmissionpolicybindings", binding)
            .with(
                "namespaces",
                read::<wharf_types::k8s::api::core::v1::Namespace>(json!({"metadata": {"name": "default"}})),
            );
        let count = Arc::new(AtomicUsize::new(0));
        let map: ConfigMap = read(json!({"metadata": {"name": "m", "namespace": "default"}}));
        let mut write = write(Operation::Create, "configmaps", map.clone());
        write.object = Some(Box::new(Counting(map, count.clone())));
        write.managed.new = Some(Bytes::from_static(br#"[{"manager":"me"}]"#));
        let (chain, mut notes) = (Chain::built_in(), Notes::default());
        chain.admit(&mut write, &cluster, &mut notes).await.expect("nobody changes it");
        let verdict = chain.validate(&write, &cluster, &mut notes).await.map_err(|error| error.message);
        assert_eq!(count.load(Ordering::SeqCst), reads, "{resource}");
        let by = "configmaps \"m\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: ";
        assert_eq!(verdict, expected.map_err(|why| format!("{by}{why}")));
        assert_eq!(write.managed.new.as_deref(), Some(&br#"[{"manager":"me"}]"#[..]));
    }

    #[tokio::test]
    async fn a_write_that_nobody_is_about_is_never_read() {
        check("secrets", 0, Ok(())).await;
        check("configmaps", 2, Err("mine")).await;
    }
}
