//! A write as webhooks and policies see it: names, and JSON.
//!
//! What is written is a typed object; it becomes JSON at most once, when the first hook asks, and a change to the JSON is
//! read back through the row's kind. Nothing here knows a kind but those of subresources.

use std::sync::OnceLock;

use serde_json::{Value, json};
use wharf_registry::Subresource;
use wharf_types::k8s::api::authentication::v1::TokenRequest;
use wharf_types::k8s::api::core::v1::Binding;
use wharf_types::k8s::api::policy::v1::Eviction;
use wharf_types::{AnyObject, ApiError, BoxObject, Gvk};

use crate::{Attributes, Operation};

/// Groups and resources that no webhook and no policy is asked about: those who configure admission, lest nobody could
/// mend them, and reviews, which answer and store nothing. Source: `pkg/kubeapiserver/admission/exclusion`.
const EXEMPT: &[(&str, &str)] = &[
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
];

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
    /// True where webhooks and policies have no say.
    pub(crate) fn is_exempt(&self) -> bool {
        let gvr = &self.row.gvr;
        EXEMPT.iter().any(|(group, resource)| *group == gvr.group && *resource == gvr.resource)
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
}

/// What is written, as JSON.
#[derive(Default)]
pub struct Subject {
    object: OnceLock<Option<Value>>,
    old: OnceLock<Option<Value>>,
}

impl Subject {
    pub fn object(&self, write: &Attributes) -> Option<&Value> {
        self.object.get_or_init(|| write.object.as_deref().map(|object| encode(write, object))).as_ref()
    }

    pub fn old(&self, write: &Attributes) -> Option<&Value> {
        self.old.get_or_init(|| write.old.as_deref().map(|object| encode(write, object))).as_ref()
    }

    /// The kind of what is written, which for a subresource may be its own.
    pub fn kind(&self, write: &Attributes) -> Gvk {
        let json = self.object(write).or_else(|| self.old(write));
        let text = |field: &str| json.and_then(|json| json[field].as_str());
        match (text("apiVersion"), text("kind")) {
            (Some(version), Some(kind)) => {
                let version = wharf_types::GroupVersion::parse(version);
                Gvk { group: version.group, version: version.version, kind: kind.to_owned().into() }
            }
            _ => write.row.gvk.clone(),
        }
    }

    /// The request of a review but for its uid and its objects; also the variable `request` of expressions.
    pub fn request(&self, write: &Attributes) -> Value {
        let (gvr, user) = (&write.row.gvr, &write.user);
        let kind = self.kind(write);
        let kind = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
        let resource = json!({"group": gvr.group, "version": gvr.version, "resource": gvr.resource});
        let mut request = json!({
            "uid": "",
            "kind": kind,
            "resource": resource,
            "requestKind": kind,
            "requestResource": resource,
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

    /// Takes changed JSON for the new object, with its defaults; true if it differs.
    pub fn replace(&mut self, write: &mut Attributes, json: &Value) -> Result<bool, ApiError> {
        let Some(held) = write.object.as_deref() else {
            return Err(ApiError::internal("there is no object to change"));
        };
        let object = decode(write, held, json)?;
        let changed = !object.same(held);
        write.object = Some(object);
        self.object = OnceLock::new();
        Ok(changed)
    }
}

/// A scale is of its own kind outside, and the whole object inside.
fn encode(write: &Attributes, object: &dyn AnyObject) -> Value {
    let meta = object.meta();
    match write.row.kind_of_scale(write.subresource, object) {
        Some(scale) => json!({
            "kind": "Scale", "apiVersion": "autoscaling/v1",
            "metadata": {
                "name": meta.name, "namespace": meta.namespace, "uid": meta.uid,
                "resourceVersion": meta.resource_version, "creationTimestamp": meta.creation_timestamp,
            },
            "spec": {"replicas": scale.spec_replicas},
            "status": {"replicas": scale.status_replicas, "selector": scale.selector},
        }),
        None => serde_json::from_slice(&object.to_vec()).unwrap_or_default(),
    }
}

fn decode(write: &Attributes, held: &dyn AnyObject, json: &Value) -> Result<BoxObject, ApiError> {
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
    let kind = &write.row.kind;
    if write.row.kind_of_scale(write.subresource, held).is_some() {
        let mut object = held.clone_box();
        let replicas = json["spec"]["replicas"].as_i64().unwrap_or_default();
        kind.set_scale(&mut *object, i32::try_from(replicas).map_err(ApiError::internal)?);
        return Ok(object);
    }
    let mut object = kind.decode(json, &mut |_| {}).map_err(ApiError::internal)?;
    kind.default(&mut *object);
    Ok(object)
}

/// The part of a [`Row`](wharf_registry::Row) that only scales need.
trait Scales {
    fn kind_of_scale(&self, subresource: Option<Subresource>, object: &dyn AnyObject) -> Option<wharf_registry::Scale>;
}

impl Scales for wharf_registry::Row {
    fn kind_of_scale(&self, subresource: Option<Subresource>, object: &dyn AnyObject) -> Option<wharf_registry::Scale> {
        (subresource == Some(Subresource::Scale)).then(|| self.kind.scale(object)).flatten()
    }
}
