//! DELETE of one object: at once, after a grace period, or when its finalizers are gone.
//!
//! [`plan`] decides on the stored object; the rest carries it out. Source: `Store.Delete` upstream.

mod plan;

use bytes::Bytes;
use http::StatusCode;
use wharf_admission::Operation;
use wharf_machinery::apply::text;
use wharf_registry::Row;
use wharf_types::meta::{DeleteOptions, ObjectMeta, Status, StatusDetails};
use wharf_types::{AnyObject, ApiError, Gvk, Gvr};

use crate::body;
use crate::call::Call;
use crate::managed;
use crate::options;
use crate::reply::Reply;
use crate::verbs::write::{self, TRIES};
use plan::{Plan, plan};

/// Resources whose DELETE answers with the object that is gone, where others answer with a Status: upstream's
/// `ReturnDeletedObject`.
const RETURN_DELETED: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "persistentvolumeclaims",
            "persistentvolumes",
            "pods",
            "podtemplates",
            "resourcequotas",
            "serviceaccounts",
            "services",
        ],
    ),
    (
        "resource.k8s.io",
        &[
            "deviceclasses",
            "devicetaintrules",
            "resourceclaims",
            "resourceclaimtemplates",
            "resourcepoolstatusrequests",
            "resourceslices",
        ],
    ),
    ("storage.k8s.io", &["csidrivers", "csinodes", "storageclasses", "volumeattachments", "volumeattributesclasses"]),
];

/// What came of a DELETE.
pub enum Outcome {
    /// The object is gone; this was its last state.
    Gone(Bytes),
    /// The object stays for now; this is its state.
    Stays(Bytes),
}

pub async fn delete(call: &mut Call, bytes: Bytes) -> Result<Reply, ApiError> {
    let options = read_options(call, &bytes)?;
    if let Some(why) = call.row.kind.refuse_delete(&call.name) {
        return Err(ApiError::forbidden(call.gvr(), &call.name, why));
    }
    let outcome = delete_object(call, &options).await?;
    reply(call, &options, outcome)
}

/// The options in the body, or else in the query.
pub fn read_options(call: &Call, bytes: &[u8]) -> Result<DeleteOptions, ApiError> {
    let options = if bytes.is_empty() {
        options::delete_options(&call.query)?
    } else {
        // Upstream takes `DeleteOptions` of whatever API group the client was generated for.
        let mut kind = Gvk { group: "".into(), version: "v1".into(), kind: "DeleteOptions".into() };
        if let Some(sent) = TypeOnly::read(bytes, body::is_protobuf(&call.headers))
            && sent.kind.as_deref().unwrap_or("DeleteOptions") == "DeleteOptions"
            && let Some(api_version) = sent.api_version
        {
            let sent = wharf_types::GroupVersion::parse(&api_version);
            (kind.group, kind.version) = (sent.group, sent.version);
        }
        body::typed(bytes, &call.headers, &kind)?.object
    };
    options::validate_delete(&options)?;
    Ok(options)
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct TypeOnly {
    api_version: Option<String>,
    kind: Option<String>,
}

impl TypeOnly {
    fn read(bytes: &[u8], is_protobuf: bool) -> Option<Self> {
        if !is_protobuf {
            return serde_json::from_slice(bytes).ok();
        }
        let (api_version, kind) = wharf_machinery::protobuf::type_meta(bytes).ok()?;
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Some(Self { api_version: given(api_version), kind: given(kind) })
    }
}

pub fn is_dry_run(options: &DeleteOptions) -> bool {
    options.dry_run.as_ref().is_some_and(|values| !values.is_empty())
}

pub async fn delete_object(call: &mut Call, options: &DeleteOptions) -> Result<Outcome, ApiError> {
    let dry_run = is_dry_run(options);
    for _ in 0..TRIES {
        let entry = call.existing().await?;
        let old = call.decode(&entry)?;
        check_preconditions(&call.row, old.meta(), options)?;
        let mut write = call.attributes(Operation::Delete, None, Some(old), dry_run);
        write.options = serde_json::to_value(options).ok();
        write.managed.old = managed::stored(&entry);
        // An object of a collection is not asked for by its name.
        write.name.clone_from(&call.asked_name);
        call.admit(&mut write).await?;
        call.validate(&write).await?;
        let Some(old) = write.old else { return Err(ApiError::internal("the object to delete is gone")) };
        let (mut object, then_remove) = match plan(&*call.row.kind, &*old, options, call.now) {
            Plan::Keep => return Ok(Outcome::Stays(entry.bytes.clone())),
            Plan::Remove if dry_run => return Ok(Outcome::Gone(entry.bytes.clone())),
            Plan::Remove => match write::remove(call, &entry, &*old).await? {
                Some(bytes) => return Ok(Outcome::Gone(bytes)),
                None => continue,
            },
            Plan::Mark { object, then_remove } => (object, then_remove),
        };
        if dry_run {
            let bytes = Bytes::from(managed::encode(&*object, text::managed(&entry.bytes)));
            return Ok(if then_remove { Outcome::Gone(bytes) } else { Outcome::Stays(bytes) });
        }
        if object.same(&*old) {
            return Ok(Outcome::Stays(entry.bytes.clone()));
        }
        let Some(written) = write::put(call, &entry, &mut *object).await? else { continue };
        if !then_remove {
            return Ok(Outcome::Stays(written.bytes));
        }
        return remove_marked(call, &*object, written.bytes).await;
    }
    Err(ApiError::modified(call.gvr(), &call.name))
}

/// The second half of a graceful deletion without grace. Whoever else removes the object meanwhile is welcome to.
async fn remove_marked(call: &Call, object: &dyn AnyObject, last: Bytes) -> Result<Outcome, ApiError> {
    for _ in 0..TRIES {
        let Some(entry) = call.current().await? else { return Ok(Outcome::Gone(last)) };
        let current = call.decode(&entry)?;
        if current.meta().uid != object.meta().uid {
            return Ok(Outcome::Gone(last));
        }
        if current.meta().finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty()) {
            return Ok(Outcome::Stays(entry.bytes.clone()));
        }
        match write::remove(call, &entry, &*current).await {
            Ok(Some(bytes)) => return Ok(Outcome::Gone(bytes)),
            Ok(None) => {}
            Err(error) if error.is_not_found() => return Ok(Outcome::Gone(last)),
            Err(error) => return Err(error),
        }
    }
    Err(ApiError::modified(call.gvr(), &call.name))
}

/// The object must be the one, and as new as, the client believes.
pub fn check_preconditions(row: &Row, meta: &ObjectMeta, options: &DeleteOptions) -> Result<(), ApiError> {
    let Some(preconditions) = &options.preconditions else { return Ok(()) };
    // Upstream names the kind where a resource would stand.
    let gvk = &row.gvk;
    let name = meta.name.as_deref().unwrap_or_default();
    let subject = Gvr { group: gvk.group.clone(), version: gvk.version.clone(), resource: gvk.kind.clone() };
    let held = meta.uid.as_deref().unwrap_or_default();
    if let Some(uid) = preconditions.uid.as_deref().filter(|uid| *uid != held) {
        let why = format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({held}). The object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict(&subject, name, why));
    }
    let held = meta.resource_version.as_deref().unwrap_or_default();
    if let Some(version) = preconditions.resource_version.as_deref().filter(|version| *version != held) {
        let why = format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({held}). The object might have been modified"
        );
        return Err(ApiError::conflict(&subject, name, why));
    }
    Ok(())
}

fn reply(call: &Call, options: &DeleteOptions, outcome: Outcome) -> Result<Reply, ApiError> {
    match outcome {
        Outcome::Stays(bytes) => {
            let code = if options.orphan_dependents == Some(false) { StatusCode::ACCEPTED } else { StatusCode::OK };
            Ok(Reply::Object { code, bytes })
        }
        Outcome::Gone(bytes) if is_dry_run(options) || returns_deleted(call.gvr()) => {
            Ok(Reply::Object { code: StatusCode::OK, bytes })
        }
        Outcome::Gone(bytes) => {
            let object = call.row.kind.decode_stored(&bytes).map_err(ApiError::internal)?;
            let gvr = call.gvr();
            let details = StatusDetails {
                name: Some(call.name.clone()),
                group: Some(gvr.group.to_string()).filter(|group| !group.is_empty()),
                kind: Some(gvr.resource.to_string()),
                uid: object.meta().uid.clone(),
                ..StatusDetails::default()
            };
            let status = Status { status: Some("Success".to_owned()), details: Some(details), ..Status::default() };
            Ok(Reply::plain(StatusCode::OK, &status))
        }
    }
}

/// Whether a delete of such an object answers with the object rather than with a Status.
pub fn returns_deleted(gvr: &Gvr) -> bool {
    RETURN_DELETED.iter().any(|(group, resources)| *group == gvr.group && resources.contains(&gvr.resource.as_ref()))
}
