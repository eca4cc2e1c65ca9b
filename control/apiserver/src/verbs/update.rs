//! UPDATE: PUT of a whole object, on the resource or one of its subresources of the same kind.

use bytes::Bytes;
use http::StatusCode;
use wharf_cache::Entry;
use wharf_types::ApiError;
use wharf_types::meta::ObjectMeta;

use crate::body;
use crate::call::Call;
use crate::managed::{Made, Owners};
use crate::options::WriteOptions;
use crate::reply::Reply;
use crate::verbs::write::{self, Plan, Rules, Written};

pub async fn update(call: &mut Call, rules: Rules, bytes: Bytes) -> Result<Reply, ApiError> {
    let options = WriteOptions::parse(&call.query, "UpdateOptions")?;
    let body::Decoded { object: (mut object, sent), strict } = body::object(&bytes, &call.headers, &call.row)?;
    drop(bytes);
    let warnings = body::judge(strict, options.validation, &call.row.gvk)?;
    check_name(call, object.meta_mut())?;
    call.row.kind.default(&mut *object);
    let may_create = call.row.kind.allow_create_on_update();
    let plan = Plan { rules, dry_run: options.dry_run, whole: true, may_create };
    let mut make =
        |_: &Call, _: Option<&Entry>| Ok(Made { object: object.clone_box(), owners: Owners::Sent(sent.clone()) });
    let written = write::update(call, plan, &mut make).await?;
    call.warn(warnings);
    Ok(reply(written))
}

pub fn reply(written: Written) -> Reply {
    let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    Reply::Object { code, bytes: written.bytes }
}

/// An object is what its path says. A namespace that it leaves out is that of the path.
pub fn check_name(call: &Call, meta: &mut ObjectMeta) -> Result<(), ApiError> {
    let name = &call.name;
    match meta.name.as_deref().unwrap_or_default() {
        "" => {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name} based on URL) was undeterminable: name must be provided"
            )));
        }
        own if own != name => {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({own}) does not match the name on the URL ({name})"
            )));
        }
        _ => {}
    }
    let own = meta.namespace.as_deref().unwrap_or_default();
    match &call.namespace {
        Some(namespace) if !own.is_empty() && own != namespace => Err(ApiError::bad_request(format!(
            "the namespace of the object ({own}) does not match the namespace on the request ({namespace})"
        ))),
        namespace => {
            meta.namespace = namespace.clone();
            Ok(())
        }
    }
}
