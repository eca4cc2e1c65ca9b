//! `scale`: the `autoscaling/v1 Scale` view of whatever has replicas.

use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;
use wharf_cache::Entry;
use wharf_registry::Row;
use wharf_types::field::{Error, Path};
use wharf_types::k8s::api::autoscaling::v1::{Scale, ScaleSpec, ScaleStatus};
use wharf_types::meta::ObjectMeta;
use wharf_types::{AnyObject, ApiError, BoxObject, Gvk};

use crate::body;
use crate::call::{Call, decode_stored};
use crate::options::WriteOptions;
use crate::reply::Reply;
use crate::verbs::patch::Patch;
use crate::verbs::update;
use crate::verbs::write::{self, Plan, Rules, Written};

fn kind() -> Gvk {
    Gvk { group: "autoscaling".into(), version: "v1".into(), kind: "Scale".into() }
}

pub async fn get(call: &Call) -> Result<Reply, ApiError> {
    let entry = call.existing().await?;
    let object = call.decode(&entry)?;
    Ok(Reply::plain(StatusCode::OK, &view(&call.row, &*object)?))
}

pub async fn update(call: &mut Call, bytes: Bytes) -> Result<Reply, ApiError> {
    let options = WriteOptions::parse(&call.query, "UpdateOptions")?;
    let body::Decoded { object: mut scale, strict } = body::typed::<Scale>(&bytes, &call.headers, &kind())?;
    call.warn(body::judge(strict, options.validation, &kind())?);
    update::check_name(call, &mut scale.metadata)?;
    validate(&scale)?;
    let row = call.row.clone();
    let not_found = call.not_found();
    let plan = Plan { rules: Rules::Main, dry_run: options.dry_run, whole: true };
    let written =
        write::update(call, plan, &mut |entry| scaled(&row, entry.ok_or_else(|| not_found.clone())?, &scale)).await?;
    answer(call, &written)
}

pub async fn patch(call: &mut Call, bytes: Bytes) -> Result<Reply, ApiError> {
    let options = WriteOptions::parse(&call.query, "PatchOptions")?;
    let patch = Patch::read(&bytes, &call.headers)?;
    let row = call.row.clone();
    let not_found = call.not_found();
    let mut make = |entry: Option<&Entry>| {
        let entry = entry.ok_or_else(|| not_found.clone())?;
        let current = view(&row, &*decode_stored(&row, entry)?)?;
        let mut document: Value = serde_json::to_value(&current).map_err(ApiError::internal)?;
        patch.apply(&mut document, &kind())?;
        let scale: Scale = serde_json::from_value(document).map_err(|error| {
            let errors = [Error::invalid(&Path::new("patch"), "", error.to_string())];
            ApiError::invalid(&kind(), current.metadata.name.as_deref().unwrap_or_default(), &errors)
        })?;
        patch.judge(Vec::new(), options.validation)?;
        validate(&scale)?;
        scaled(&row, entry, &scale)
    };
    let plan = Plan { rules: Rules::Main, dry_run: options.dry_run, whole: false };
    let written = write::update(call, plan, &mut make).await?;
    answer(call, &written)
}

fn answer(call: &Call, written: &Written) -> Result<Reply, ApiError> {
    let object = call.row.kind.decode_stored(&written.bytes).map_err(ApiError::internal)?;
    Ok(Reply::plain(StatusCode::OK, &view(&call.row, &*object)?))
}

fn view(row: &Row, object: &dyn AnyObject) -> Result<Scale, ApiError> {
    let scale = row.kind.scale(object).ok_or_else(ApiError::no_such_path)?;
    let meta = object.meta();
    Ok(Scale {
        metadata: ObjectMeta {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            creation_timestamp: meta.creation_timestamp.clone(),
            ..ObjectMeta::default()
        },
        spec: Some(ScaleSpec { replicas: Some(scale.spec_replicas) }),
        status: Some(ScaleStatus { replicas: scale.status_replicas, selector: Some(scale.selector) }),
    })
}

fn validate(scale: &Scale) -> Result<(), ApiError> {
    let replicas = replicas(scale);
    if replicas >= 0 {
        return Ok(());
    }
    let path = Path::new("spec").child("replicas");
    let errors = [Error::invalid(&path, replicas, "must be greater than or equal to 0")];
    Err(ApiError::invalid(&kind(), scale.metadata.name.as_deref().unwrap_or_default(), &errors))
}

fn replicas(scale: &Scale) -> i32 {
    scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default()
}

/// The stored object with the Scale's replicas, meant for the version and uid that the Scale names.
fn scaled(row: &Row, entry: &Entry, scale: &Scale) -> Result<BoxObject, ApiError> {
    let mut object = decode_stored(row, entry)?;
    row.kind.set_scale(&mut *object, replicas(scale));
    let meta = object.meta_mut();
    meta.resource_version = scale.metadata.resource_version.clone();
    if let Some(uid) = scale.metadata.uid.clone().filter(|uid| !uid.is_empty()) {
        meta.uid = Some(uid);
    }
    Ok(object)
}
