//! DELETE of one object: at once, after a grace period, or when its finalizers are gone.
//!
//! [`plan`] decides on the stored object; the rest carries it out. Source: `Store.Delete` upstream, `rest.BeforeDelete`,
//! and for namespaces `pkg/registry/core/namespace/storage`.

use bytes::Bytes;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use wharf_admission::Operation;
use wharf_machinery::apply::text;
use wharf_registry::meta::{FOREGROUND_FINALIZER, ORPHAN_FINALIZER};
use wharf_registry::{Graceful, Kind, Row};
use wharf_types::k8s::api::core::v1::Namespace;
use wharf_types::meta::{DeleteOptions, ObjectMeta, Status, StatusDetails, Time};
use wharf_types::{AnyObject, ApiError, BoxObject, Gvk, Gvr};

use crate::body;
use crate::call::Call;
use crate::managed;
use crate::options;
use crate::reply::Reply;
use crate::verbs::write::{self, TRIES, whole_seconds};

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

/// What a DELETE does to the stored object.
#[derive(Debug)]
enum Plan {
    /// Nothing: it is being deleted already, or waits for others.
    Keep,
    Remove,
    /// It is written as this; and removed right after, where nothing holds it.
    Mark {
        object: BoxObject,
        then_remove: bool,
    },
}

/// How much time an object gets.
enum Grace {
    /// The kind knows no grace, or the time is up.
    None,
    /// A deletion with at least as little time is under way.
    Pending,
    Seconds(i64),
}

/// Pure: same object, options and time, same plan.
fn plan(kind: &dyn Kind, old: &dyn AnyObject, options: &DeleteOptions, now: Timestamp) -> Plan {
    let mut object = old.clone_box();
    if let Some(namespace) = object.downcast_mut::<Namespace>() {
        if namespace.metadata.deletion_timestamp.is_none() {
            namespace.metadata.deletion_timestamp = Some(Time(whole_seconds(now)));
            namespace.status.get_or_insert_default().phase = Some("Terminating".to_owned());
            collect_garbage(kind, object.meta_mut(), options);
            return Plan::Mark { object, then_remove: false };
        }
        if !write::spec_finalizers(namespace).is_empty() {
            return Plan::Keep;
        }
    }
    let grace = grace(kind, &mut *object, options, now);
    if matches!(grace, Grace::Pending) {
        return Plan::Keep;
    }
    collect_garbage(kind, object.meta_mut(), options);
    let waits = object.meta().finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty());
    match grace {
        Grace::Seconds(seconds) => Plan::Mark { object, then_remove: seconds == 0 && !waits },
        _ if waits => {
            mark(object.meta_mut(), now);
            Plan::Mark { object, then_remove: false }
        }
        _ => Plan::Remove,
    }
}

fn grace(kind: &dyn Kind, object: &mut dyn AnyObject, options: &DeleteOptions, now: Timestamp) -> Grace {
    // Less than nothing means as little as may be.
    let asked = options.grace_period_seconds.map(|seconds| if seconds < 0 { 1 } else { seconds });
    let after = |from: Timestamp, seconds: i64| from.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(from);
    if let Some(Time(until)) = object.meta().deletion_timestamp {
        let held = object.meta().deletion_grace_period_seconds.unwrap_or_default();
        return match asked {
            _ if held == 0 => Grace::None,
            // A deletion under way can only be hastened.
            Some(seconds) if seconds < held => {
                let meta = object.meta_mut();
                meta.deletion_timestamp = Some(Time(after(after(until, -held), seconds)));
                meta.deletion_grace_period_seconds = Some(seconds);
                Grace::Seconds(seconds)
            }
            _ => Grace::Pending,
        };
    }
    let options = DeleteOptions { grace_period_seconds: asked, ..options.clone() };
    match kind.delete(object, &options) {
        Graceful::Immediate => Grace::None,
        Graceful::After { seconds } => {
            let meta = object.meta_mut();
            meta.deletion_timestamp = Some(Time(after(whole_seconds(now), seconds)));
            meta.deletion_grace_period_seconds = Some(seconds);
            bump(meta);
            Grace::Seconds(seconds)
        }
    }
}

/// A deletion is a change that controllers of the object must see.
fn bump(meta: &mut ObjectMeta) {
    if let Some(generation) = meta.generation.as_mut().filter(|generation| **generation > 0) {
        *generation += 1;
    }
}

/// Marks an object of a kind without grace that has to wait for its finalizers.
fn mark(meta: &mut ObjectMeta, now: Timestamp) {
    if meta.deletion_grace_period_seconds.is_none() {
        bump(meta);
    }
    let now = whole_seconds(now);
    if meta.deletion_timestamp.as_ref().is_none_or(|until| until.0 > now) {
        meta.deletion_timestamp = Some(Time(now));
    }
    meta.deletion_grace_period_seconds = Some(0);
}

/// Leaves the garbage collector its orders, as finalizers.
fn collect_garbage(kind: &dyn Kind, meta: &mut ObjectMeta, options: &DeleteOptions) {
    let held = meta.finalizers.clone().unwrap_or_default();
    let has = |name: &str| held.iter().any(|finalizer| finalizer == name);
    let (orphan, foreground) = match (options.orphan_dependents, options.propagation_policy.as_deref()) {
        (Some(orphan), _) => (orphan, false),
        (None, Some("Orphan")) => (true, false),
        (None, Some("Foreground")) => (false, true),
        (None, Some(_)) => (false, false),
        (None, None) if has(ORPHAN_FINALIZER) => (true, false),
        (None, None) if has(FOREGROUND_FINALIZER) => (false, true),
        (None, None) => (kind.orphans_by_default(), false),
    };
    let mut wanted: Vec<String> = held
        .iter()
        .filter(|finalizer| ![ORPHAN_FINALIZER, FOREGROUND_FINALIZER].contains(&finalizer.as_str()))
        .cloned()
        .collect();
    wanted.extend(orphan.then(|| ORPHAN_FINALIZER.to_owned()));
    wanted.extend(foreground.then(|| FOREGROUND_FINALIZER.to_owned()));
    let same = wanted.len() == held.len() && wanted.iter().all(|finalizer| has(finalizer));
    if !same {
        meta.finalizers = Some(wanted).filter(|finalizers| !finalizers.is_empty());
    }
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2026-01-01T00:00:00Z";

    /// A plan as `keep`, `remove` or what the marked object's metadata has come to.
    fn check(resource: &str, object: Value, options: Value, expected: &str) {
        let rows = wharf_registry::builtin::rows();
        let row = rows.iter().find(|row| row.gvr.resource == resource).expect("a built-in resource");
        let old = row.kind.decode(&object, &mut |_| {}).expect("a sample object");
        let options: DeleteOptions = serde_json::from_value(options).expect("sample options");
        let shown = match plan(&*row.kind, &*old, &options, NOW.parse().expect("a time")) {
            Plan::Keep => "keep".to_owned(),
            Plan::Remove => "remove".to_owned(),
            Plan::Mark { object, then_remove } => {
                let meta = object.meta();
                let until = meta.deletion_timestamp.as_ref().map(|time| time.0.to_string()).unwrap_or_default();
                format!(
                    "mark until={} grace={:?} finalizers={:?}{}",
                    until.trim_start_matches("2026-01-01T"),
                    meta.deletion_grace_period_seconds,
                    meta.finalizers.clone().unwrap_or_default(),
                    if then_remove { " remove" } else { "" }
                )
            }
        };
        assert_eq!(shown, expected, "{object} {options:?}");
    }

    fn config(meta: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta})
    }

    #[test]
    fn an_object_that_nothing_holds_goes_at_once() {
        check("configmaps", config(json!({"name": "a"})), json!({}), "remove");
        check("configmaps", config(json!({"name": "a"})), json!({"propagationPolicy": "Background"}), "remove");
        check("configmaps", config(json!({"name": "a"})), json!({"gracePeriodSeconds": 30}), "remove");
    }

    #[test]
    fn finalizers_hold_an_object() {
        check(
            "configmaps",
            config(json!({"name": "a", "finalizers": ["x.io/f"]})),
            json!({}),
            "mark until=00:00:00Z grace=Some(0) finalizers=[\"x.io/f\"]",
        );
    }

    #[test]
    fn policies_become_finalizers() {
        check(
            "configmaps",
            config(json!({"name": "a"})),
            json!({"propagationPolicy": "Foreground"}),
            "mark until=00:00:00Z grace=Some(0) finalizers=[\"foregroundDeletion\"]",
        );
        check(
            "configmaps",
            config(json!({"name": "a"})),
            json!({"orphanDependents": true}),
            "mark until=00:00:00Z grace=Some(0) finalizers=[\"orphan\"]",
        );
        check(
            "configmaps",
            config(json!({"name": "a", "finalizers": ["orphan"]})),
            json!({"propagationPolicy": "Background"}),
            "remove",
        );
    }

    #[test]
    fn a_namespace_waits_for_its_content() {
        let namespace = |meta: Value| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": meta, "spec": {"finalizers": ["kubernetes"]}});
        check(
            "namespaces",
            namespace(json!({"name": "a"})),
            json!({}),
            "mark until=00:00:00Z grace=None finalizers=[]",
        );
        check("namespaces", namespace(json!({"name": "a", "deletionTimestamp": NOW})), json!({}), "keep");
        let empty = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "deletionTimestamp": NOW}, "spec": {}});
        check("namespaces", empty, json!({}), "remove");
    }

    #[test]
    fn a_deletion_under_way_can_only_be_hastened() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {
            "name": "a", "deletionTimestamp": "2026-01-01T00:00:30Z", "deletionGracePeriodSeconds": 30}, "spec": {"containers": []}});
        check("pods", pod.clone(), json!({"gracePeriodSeconds": 60}), "keep");
        check("pods", pod.clone(), json!({}), "keep");
        check(
            "pods",
            pod.clone(),
            json!({"gracePeriodSeconds": 5}),
            "mark until=00:00:05Z grace=Some(5) finalizers=[]",
        );
        check(
            "pods",
            pod.clone(),
            json!({"gracePeriodSeconds": -7}),
            "mark until=00:00:01Z grace=Some(1) finalizers=[]",
        );
        check("pods", pod, json!({"gracePeriodSeconds": 0}), "mark until=00:00:00Z grace=Some(0) finalizers=[] remove");
    }
}
