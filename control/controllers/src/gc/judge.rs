//! What becomes of an object, given what the server says about its owners. Pure.

use kube::api::PropagationPolicy;
use wharf_types::meta::{ObjectMeta, OwnerReference};

pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// It is there, or it cannot be said that it is not.
    Solid,
    Absent,
    /// It is being deleted in the foreground.
    WaitingForDependents,
}

#[derive(Debug, PartialEq)]
pub enum Verdict {
    Keep,
    /// Keep the object, with these owners only.
    DropOwners(Vec<OwnerReference>),
    Delete(PropagationPolicy),
}

/// Source: `attemptToDeleteItem`.
pub fn judge(meta: &ObjectMeta, owners: &[(OwnerReference, Owner)], has_dependents: bool) -> Verdict {
    let is = |state: Owner| owners.iter().any(|(_, owner)| *owner == state);
    if owners.is_empty() {
        return Verdict::Keep;
    }
    if is(Owner::Solid) {
        let solid: Vec<OwnerReference> =
            owners.iter().filter(|(_, owner)| *owner == Owner::Solid).map(|(reference, _)| reference.clone()).collect();
        return if solid.len() == owners.len() { Verdict::Keep } else { Verdict::DropOwners(solid) };
    }
    if is(Owner::WaitingForDependents) && has_dependents {
        // The owner waits for this object, so this object waits for its own dependents.
        return Verdict::Delete(PropagationPolicy::Foreground);
    }
    let finalizer = |name: &str| meta.finalizers.iter().flatten().any(|finalizer| finalizer == name);
    Verdict::Delete(if finalizer(ORPHAN) {
        PropagationPolicy::Orphan
    } else if finalizer(FOREGROUND) {
        PropagationPolicy::Foreground
    } else {
        PropagationPolicy::Background
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(owners: &[Owner], finalizer: Option<&str>, has_dependents: bool, expected: &str) {
        let reference = |number: usize| OwnerReference { uid: number.to_string(), ..OwnerReference::default() };
        let owners: Vec<_> = owners.iter().enumerate().map(|(number, owner)| (reference(number), *owner)).collect();
        let meta =
            ObjectMeta { finalizers: finalizer.map(|finalizer| vec![finalizer.to_owned()]), ..ObjectMeta::default() };
        let shown = match judge(&meta, &owners, has_dependents) {
            Verdict::Keep => "keep".to_owned(),
            Verdict::DropOwners(keep) => {
                format!("keep with {}", keep.iter().map(|owner| owner.uid.as_str()).collect::<Vec<_>>().join(","))
            }
            Verdict::Delete(policy) => format!("delete {policy:?}"),
        };
        assert_eq!(shown, expected);
    }

    #[test]
    fn an_object_lives_while_one_owner_does() {
        use Owner::{Absent, Solid, WaitingForDependents};
        check(&[], None, false, "keep");
        check(&[Solid], None, false, "keep");
        check(&[Solid, Absent], None, false, "keep with 0");
        check(&[Absent, Solid, WaitingForDependents], None, true, "keep with 1");
        check(&[Absent, Absent], None, true, "delete Background");
        check(&[WaitingForDependents], None, false, "delete Background");
    }

    #[test]
    fn deletion_follows_what_was_asked_and_who_waits() {
        check(&[Owner::WaitingForDependents], None, true, "delete Foreground");
        check(&[Owner::Absent], Some(ORPHAN), true, "delete Orphan");
        check(&[Owner::Absent], Some(FOREGROUND), true, "delete Foreground");
    }
}
