//! `pods/eviction`: a DELETE that asks the pod's disruption budget first.
//!
//! Source: `pkg/registry/core/pod/storage/eviction.go`. What a budget says is in [`budget`]; here it is asked, and the pod is
//! marked and deleted. Invariants: a pod that was let go because it is not ready is deleted only as it was when it was looked
//! at; a budget is spent before the pod goes, and its controller gives back what was spent for nothing.

mod budget;

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use wharf_admission::{Operation, Reader};
use wharf_cache::Entry;
use wharf_types::k8s::api::core::v1::{Pod, PodCondition};
use wharf_types::k8s::api::policy::v1::{Eviction, PodDisruptionBudget};
use wharf_types::meta::{DeleteOptions, Preconditions, Status, Time};
use wharf_types::{ApiError, Gvk, Gvr};

use crate::body;
use crate::call::{Call, Cluster};
use crate::options::{WriteOptions, validate_delete};
use crate::reply::Reply;
use crate::subresource::condition;
use crate::verbs::create::settle_namespace;
use crate::verbs::write::{self, TRIES, whole_seconds};
use crate::verbs::{delete, delete::is_dry_run};
use budget::Ask;

const BUDGETS: Gvr = Gvr {
    group: std::borrow::Cow::Borrowed("policy"),
    version: std::borrow::Cow::Borrowed("v1"),
    resource: std::borrow::Cow::Borrowed("poddisruptionbudgets"),
};

pub async fn create(call: &mut Call, bytes: Bytes) -> Result<Reply, ApiError> {
    let write_options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let body::Decoded { object: mut eviction, strict } =
        body::typed::<Eviction>(&bytes, &call.headers, &Gvk::of::<Eviction>())?;
    call.warn(body::judge(strict, write_options.validation, &Gvk::of::<Eviction>())?);
    settle_namespace(call.namespace.as_deref(), &mut eviction.metadata)?;
    if eviction.metadata.name.as_deref() != Some(call.name.as_str()) {
        return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
    }
    call.existing().await?;
    let mut options = eviction.delete_options.clone().unwrap_or_default();
    validate_delete(&options)?;
    if write_options.dry_run {
        options.dry_run = Some(vec!["All".to_owned()]);
    }
    let mut write = call.attributes(Operation::Create, Some(Box::new(eviction)), None, is_dry_run(&options));
    call.admit(&mut write).await?;
    call.validate(&write).await?;
    let status = evict(call, options).await?;
    Ok(Reply::plain(StatusCode::CREATED, &status))
}

/// Evicts the pod of the call.
async fn evict(call: &mut Call, options: DeleteOptions) -> Result<Status, ApiError> {
    let pinned = options.preconditions.as_ref().is_some_and(|given| given.resource_version.is_some());
    for _ in 0..TRIES {
        let (pod, entry) = current(call).await?;
        let Ask::Nobody { same_version } = budget::ask(&pod) else {
            return evict_within_budget(call, &pod, &entry, options, pinned).await;
        };
        let options = if same_version && !pinned { at_version(&options, &entry) } else { options.clone() };
        match mark_and_delete(call, options).await {
            Err(error) if error.is_conflict() && !pinned => {}
            result => return result.map(|()| success()),
        }
    }
    Err(ApiError::modified(call.gvr(), &call.name))
}

async fn evict_within_budget(
    call: &mut Call,
    pod: &Pod,
    entry: &Entry,
    options: DeleteOptions,
    pinned: bool,
) -> Result<Status, ApiError> {
    let mut budgets = budgets(call, pod);
    let Some(budget) = budgets.pop() else { return mark_and_delete(call, options).await.map(|()| success()) };
    if !budgets.is_empty() {
        // Upstream answers 201 with this in the body.
        let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
            .to_owned();
        let status = Some("Failure".to_owned());
        return Ok(Status { status, message: Some(why), code: Some(500), ..Status::default() });
    }
    let name = budget.metadata.name.clone().unwrap_or_default();
    if !budget::is_free(&budget, pod) {
        spend(call, &name, is_dry_run(&options)).await?;
        return mark_and_delete(call, options).await.map(|()| success());
    }
    match mark_and_delete(call, at_version(&options, entry)).await {
        // It may have become ready: the budget must be asked after all.
        Err(error) if error.is_conflict() && !pinned => Err(budget::not_counted(&name)),
        result => result.map(|()| success()),
    }
}

fn success() -> Status {
    Status { status: Some("Success".to_owned()), code: Some(201), ..Status::default() }
}

async fn current(call: &Call) -> Result<(Pod, Arc<Entry>), ApiError> {
    let entry = call.existing().await?;
    let object = call.decode(&entry)?;
    let pod = object.downcast_ref::<Pod>().ok_or_else(|| ApiError::internal("only a pod is evicted"))?;
    Ok((pod.clone(), entry))
}

fn at_version(options: &DeleteOptions, entry: &Entry) -> DeleteOptions {
    let given = options.preconditions.clone().unwrap_or_default();
    let preconditions = Preconditions { resource_version: Some(entry.revision.to_string()), ..given };
    DeleteOptions { preconditions: Some(preconditions), ..options.clone() }
}

/// The budgets that cover the pod, of those in its namespace.
fn budgets(call: &Call, pod: &Pod) -> Vec<PodDisruptionBudget> {
    let all = Cluster(&call.server).list(&BUDGETS, call.namespace.as_deref());
    let budgets = all.iter().filter_map(|object| object.downcast_ref::<PodDisruptionBudget>());
    budgets.filter(|budget| budget::covers(budget, pod)).cloned().collect()
}

/// Takes one disruption from the budget, on its latest state.
async fn spend(call: &Call, name: &str, dry_run: bool) -> Result<(), ApiError> {
    let missing = || ApiError::not_found(&BUDGETS, name);
    let mut toward = call.toward(&BUDGETS, name).ok_or_else(missing)?;
    let (pod, now) = (call.name.clone(), call.now);
    write::change(&mut toward, dry_run, &mut |object| {
        let budget = object.downcast_mut().ok_or_else(|| ApiError::internal("only a budget is spent"))?;
        budget::take(budget, &pod, now)
    })
    .await
    .map(drop)
}

/// Writes down why the pod goes, for those who watch it, and deletes it.
async fn mark_and_delete(call: &mut Call, mut options: DeleteOptions) -> Result<(), ApiError> {
    if !is_dry_run(&options) {
        let (now, row) = (whole_seconds(call.now), call.row.clone());
        let written = write::change(call, false, &mut |object| {
            delete::check_preconditions(&row, object.meta(), &options)?;
            let pod = object.downcast_mut::<Pod>().ok_or_else(|| ApiError::internal("only a pod is evicted"))?;
            mark(pod, Time(now));
            Ok(())
        })
        .await?;
        // The version that was asked for is now the one with the mark.
        if let Some(version) = options.preconditions.as_mut().and_then(|given| given.resource_version.as_mut()) {
            let object = call.row.kind.decode_stored(&written.bytes).map_err(ApiError::internal)?;
            *version = object.meta().resource_version.clone().unwrap_or_default();
        }
    }
    delete::delete_object(call, &options).await.map(drop)
}

fn mark(pod: &mut Pod, now: Time) {
    let condition = PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some("EvictionByEvictionAPI".to_owned()),
        message: Some("Eviction API: evicting".to_owned()),
        observed_generation: pod.metadata.generation,
        last_transition_time: Some(now),
        ..PodCondition::default()
    };
    condition::set(pod.status.get_or_insert_default(), condition);
}
