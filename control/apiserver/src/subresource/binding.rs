//! `pods/binding`, and `bindings`, which names the pod in the body: a scheduler's word on where a pod runs.
//!
//! Source: `pkg/registry/core/pod/storage/storage.go` (`BindingREST`, `LegacyBindingREST`). A pod is bound once.

use bytes::Bytes;
use http::StatusCode;
use jiff::Timestamp;
use wharf_admission::Operation;
use wharf_types::field::{Error, Path};
use wharf_types::k8s::api::core::v1::{Binding, Pod, PodCondition, PodStatus};
use wharf_types::meta::{Status, Time};
use wharf_types::{ApiError, Gvk, Gvr};

use crate::body;
use crate::call::Call;
use crate::options::WriteOptions;
use crate::reply::Reply;
use crate::subresource::condition;
use crate::verbs::create::settle_namespace;
use crate::verbs::write::{self, whole_seconds};

pub async fn create(call: &mut Call, bytes: Bytes) -> Result<Reply, ApiError> {
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let body::Decoded { object: mut binding, strict } =
        body::typed::<Binding>(&bytes, &call.headers, &Gvk::of::<Binding>())?;
    call.warn(body::judge(strict, options.validation, &Gvk::of::<Binding>())?);
    settle_namespace(call.namespace.as_deref(), &mut binding.metadata)?;
    let named = binding.metadata.name.clone().unwrap_or_default();
    if call.subresource.is_none() {
        call.name.clone_from(&named);
    }
    if named != call.name {
        return Err(ApiError::bad_request("name in URL does not match name in Binding object"));
    }
    let mut write = call.attributes(Operation::Create, Some(Box::new(binding)), None, options.dry_run);
    call.admit(&mut write).await?;
    let admitted = write.object.as_deref().and_then(|object| object.downcast_ref::<Binding>());
    let binding = admitted.cloned().ok_or_else(|| ApiError::internal("an admission plugin took the binding away"))?;
    validate(&binding)?;
    if named.is_empty() {
        return Err(ApiError::bad_request("Name parameter required."));
    }
    call.validate(&write).await?;
    let (now, name) = (whole_seconds(call.now), call.name.clone());
    let mut turned = None;
    if call.subresource.is_none() {
        turned = call.toward(&pods(), &name);
    }
    write::change(turned.as_mut().unwrap_or(call), options.dry_run, &mut |object| {
        let pod = object.downcast_mut::<Pod>().ok_or_else(|| ApiError::internal("only a pod is bound"))?;
        bind(pod, &binding, now).map_err(|why| ApiError::conflict(&subject(), &name, why))
    })
    .await?;
    let status = Status { status: Some("Success".to_owned()), code: Some(201), ..Status::default() };
    Ok(Reply::plain(StatusCode::CREATED, &status))
}

pub fn pods() -> Gvr {
    Gvr { group: "".into(), version: "v1".into(), resource: "pods".into() }
}

fn subject() -> Gvr {
    Gvr { group: "".into(), version: "v1".into(), resource: "pods/binding".into() }
}

fn validate(binding: &Binding) -> Result<(), ApiError> {
    let path = Path::new("target");
    let mut errors = Vec::new();
    let kind = binding.target.kind.as_deref().unwrap_or_default();
    if !matches!(kind, "" | "Node") {
        errors.push(Error::not_supported(&path.child("kind"), kind, &["Node", "<empty>"]));
    }
    if binding.target.name.as_deref().unwrap_or_default().is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    }
    let name = binding.metadata.name.as_deref().unwrap_or_default();
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(&Gvk::of::<Binding>(), name, &errors)) }
}

/// Puts the pod where the binding says, or tells why not.
fn bind(pod: &mut Pod, binding: &Binding, now: Timestamp) -> Result<(), String> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let (asked, held) = (&binding.metadata, &pod.metadata);
    if let Some(uid) = asked.uid.as_deref().filter(|uid| !uid.is_empty() && Some(*uid) != held.uid.as_deref()) {
        let held = held.uid.as_deref().unwrap_or_default();
        return Err(format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {held}"));
    }
    if held.deletion_timestamp.is_some() {
        return Err(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let spec = pod.spec.get_or_insert_default();
    if let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) {
        return Err(format!("pod {name} is already assigned to node {node:?}"));
    }
    if spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()) {
        return Err(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    spec.node_name = binding.target.name.clone();
    for (key, value) in asked.annotations.iter().flatten() {
        pod.metadata.annotations.get_or_insert_default().insert(key.clone(), value.clone());
    }
    for (key, value) in asked.labels.iter().flatten() {
        pod.metadata.labels.get_or_insert_default().insert(key.clone(), value.clone());
    }
    let generation = pod.metadata.generation;
    set_scheduled(pod.status.get_or_insert_default(), now, generation);
    Ok(())
}

fn set_scheduled(status: &mut PodStatus, now: Timestamp, generation: Option<i64>) {
    let condition = PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(Time(now)),
        observed_generation: generation,
        ..PodCondition::default()
    };
    condition::set(status, condition);
}
