//! `pods/eviction`: a DELETE that asks first.
//!
//! Source: `pkg/registry/core/pod/storage/eviction.go`. Disruption budgets are not served yet, so nobody is asked: an
//! eviction is a deletion with the options that it carries.

use bytes::Bytes;
use http::StatusCode;
use wharf_admission::Operation;
use wharf_types::k8s::api::policy::v1::Eviction;
use wharf_types::meta::Status;
use wharf_types::{ApiError, Gvk};

use crate::body;
use crate::call::Call;
use crate::options::{WriteOptions, validate_delete};
use crate::reply::Reply;
use crate::verbs::create::settle_namespace;
use crate::verbs::delete;

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
    let dry_run = options.dry_run.as_ref().is_some_and(|values| !values.is_empty());
    let mut write = call.attributes(Operation::Create, Some(Box::new(eviction)), None, dry_run);
    call.admit(&mut write).await?;
    call.validate(&write).await?;
    delete::delete_object(call, &options).await?;
    let status = Status { status: Some("Success".to_owned()), ..Status::default() };
    Ok(Reply::plain(StatusCode::CREATED, &status))
}
