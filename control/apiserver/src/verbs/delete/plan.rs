//! What a DELETE does to the stored object: pure, so that its rules can be read and tested alone.
//!
//! Source: `rest.BeforeDelete`, `deletionFinalizersForGarbageCollection`, `pkg/registry/core/namespace/storage`.

use jiff::{SignedDuration, Timestamp};
use wharf_registry::meta::{FOREGROUND_FINALIZER, ORPHAN_FINALIZER};
use wharf_registry::{Graceful, Kind};
use wharf_types::k8s::api::core::v1::Namespace;
use wharf_types::meta::{DeleteOptions, ObjectMeta, Time};
use wharf_types::{AnyObject, BoxObject};

use crate::verbs::write::{spec_finalizers, whole_seconds};

/// What a DELETE does to the stored object.
#[derive(Debug)]
pub enum Plan {
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
pub fn plan(kind: &dyn Kind, old: &dyn AnyObject, options: &DeleteOptions, now: Timestamp) -> Plan {
    let mut object = old.clone_box();
    if let Some(namespace) = object.downcast_mut::<Namespace>() {
        if namespace.metadata.deletion_timestamp.is_none() {
            namespace.metadata.deletion_timestamp = Some(Time(whole_seconds(now)));
            namespace.status.get_or_insert_default().phase = Some("Terminating".to_owned());
            collect_garbage(kind, object.meta_mut(), options);
            return Plan::Mark { object, then_remove: false };
        }
        if !spec_finalizers(namespace).is_empty() {
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
