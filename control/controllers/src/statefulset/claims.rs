//! The claims of a StatefulSet's pods, and who owns them.
//!
//! A claim outlives its pod. Whether it outlives the set, or a scale-down, is said by its owners, whom the garbage collector
//! follows: the set's reference lets it go with the set, the pod's with the pod that is scaled away.
//! A claim that another controls, or that is owned by a former set or pod of the name, is left as it is.
//! Source: `stateful_set_utils.go` (`isClaimOwnerUpToDate`, `updateClaimOwnerRefForSetAndPod`), `stateful_pod_control.go`.

use std::sync::Arc;

use kube::Resource;
use wharf_types::k8s::api::apps::v1::StatefulSet;
use wharf_types::k8s::api::core::v1::{PersistentVolumeClaim, Pod};
use wharf_types::meta::OwnerReference;

use super::identity;
use crate::owners;

/// What is to be done about the claims of one pod.
#[derive(Debug, Default)]
pub struct Claims {
    /// To be made, with their owners.
    pub create: Vec<PersistentVolumeClaim>,
    /// To be written with other owners.
    pub update: Vec<PersistentVolumeClaim>,
    /// There, but about to go: the pod must wait for a new one.
    pub leaving: Option<String>,
    /// Controlled by somebody else, against the set's policy.
    pub conflicts: Vec<String>,
}

impl Claims {
    pub fn is_empty(&self) -> bool {
        self.create.is_empty() && self.update.is_empty() && self.leaving.is_none()
    }
}

/// When claims go by themselves.
#[derive(Clone, Copy)]
struct Retention {
    with_set: bool,
    with_scale: bool,
}

impl Retention {
    fn of(set: &StatefulSet) -> Self {
        let policy = set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
        let deletes = |choice: Option<&String>| choice.is_some_and(|choice| choice == "Delete");
        Self {
            with_set: deletes(policy.and_then(|policy| policy.when_deleted.as_ref())),
            with_scale: deletes(policy.and_then(|policy| policy.when_scaled.as_ref())),
        }
    }
}

pub fn templates(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    set.spec.as_ref().and_then(|spec| spec.volume_claim_templates.as_deref()).unwrap_or_default()
}

pub fn name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    format!("{}-{}", owners::name(template), identity::pod_name(set, ordinal))
}

/// The claim that a template makes for an ordinal.
fn from_template(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> PersistentVolumeClaim {
    let mut claim = template.clone();
    claim.metadata.name = Some(name(set, template, ordinal));
    claim.metadata.namespace = set.metadata.namespace.clone();
    let selected = set.spec.iter().flat_map(|spec| spec.selector.match_labels.iter().flatten());
    let selected: Vec<_> = selected.map(|(key, value)| (key.clone(), value.clone())).collect();
    if !selected.is_empty() {
        claim.metadata.labels.get_or_insert_default().extend(selected);
    }
    claim
}

/// All that the claims of `pod` need: to be there, if `create`, and to have the right owners.
pub fn due(
    set: &StatefulSet,
    pod: &Pod,
    ordinal: i32,
    create: bool,
    there: impl Fn(&str) -> Option<Arc<PersistentVolumeClaim>>,
) -> Claims {
    let mut claims = Claims::default();
    for template in templates(set) {
        let name = name(set, template, ordinal);
        let Some(claim) = there(&name) else {
            if create {
                let mut claim = from_template(set, template, ordinal);
                claim.metadata.owner_references = owners_due(set, pod, ordinal, &claim);
                claims.create.push(claim);
            }
            continue;
        };
        if create && claim.metadata.deletion_timestamp.is_some() {
            claims.leaving = Some(name.clone());
        }
        if has_unexpected_controller(set, pod, &claim) {
            claims.conflicts.push(name);
        }
        if let Some(owners) = owners_due(set, pod, ordinal, &claim) {
            let mut claim = PersistentVolumeClaim::clone(&claim);
            claim.metadata.owner_references = Some(owners).filter(|owners| !owners.is_empty());
            claims.update.push(claim);
        }
    }
    claims
}

/// A claim belongs to a former pod of the name and goes with it: nothing must be built on it.
pub fn is_stale(
    set: &StatefulSet,
    pod: &Pod,
    ordinal: i32,
    there: impl Fn(&str) -> Option<Arc<PersistentVolumeClaim>>,
) -> bool {
    Retention::of(set).with_scale
        && templates(set).iter().any(|template| {
            there(&name(set, template, ordinal)).is_some_and(|claim| is_of_a_former(pod, references(&claim)))
        })
}

fn references(claim: &PersistentVolumeClaim) -> &[OwnerReference] {
    claim.metadata.owner_references.as_deref().unwrap_or_default()
}

fn refers_to<O: Resource<DynamicType = ()>>(reference: &OwnerReference, owner: &O) -> bool {
    reference.api_version == O::api_version(&())
        && reference.kind == O::kind(&())
        && Some(&reference.name) == owner.meta().name.as_ref()
}

fn is_uid_of(reference: &OwnerReference, owner: &impl Resource) -> bool {
    owner.meta().uid.as_ref() == Some(&reference.uid)
}

/// Refers to the name of `owner`, but to one that was before it.
fn is_of_a_former<O: Resource<DynamicType = ()>>(owner: &O, references: &[OwnerReference]) -> bool {
    references.iter().find(|it| refers_to(it, owner)).is_some_and(|it| !is_uid_of(it, owner))
}

fn is_owned_by(owner: &impl Resource, references: &[OwnerReference]) -> bool {
    references.iter().any(|it| is_uid_of(it, owner))
}

/// Only a policy that deletes minds other controllers.
fn has_unexpected_controller(set: &StatefulSet, pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let Retention { with_set, with_scale } = Retention::of(set);
    (with_set || with_scale)
        && references(claim).iter().any(|it| match (refers_to(it, set), refers_to(it, pod)) {
            (true, _) => !is_uid_of(it, set),
            (_, true) => !is_uid_of(it, pod),
            _ => it.controller == Some(true),
        })
}

/// The owners that the claim should have, unless it has them, or must be left alone.
fn owners_due(
    set: &StatefulSet,
    pod: &Pod,
    ordinal: i32,
    claim: &PersistentVolumeClaim,
) -> Option<Vec<OwnerReference>> {
    let held = references(claim);
    if is_of_a_former(set, held) || is_of_a_former(pod, held) {
        return None;
    }
    let ours = |it: &&OwnerReference| refers_to(it, set) || refers_to(it, pod);
    let others: Vec<OwnerReference> = held.iter().filter(|it| !ours(it)).cloned().collect();
    let (of_set, of_pod) = (is_owned_by(set, held), is_owned_by(pod, held));
    if has_unexpected_controller(set, pod, claim) {
        return (of_set || of_pod).then_some(others);
    }
    let Retention { with_set, with_scale } = Retention::of(set);
    let scaled_away = !identity::wanted(set).contains(&ordinal);
    let (by_set, by_pod) = (with_set && !(with_scale && scaled_away), with_scale && scaled_away);
    let half_owned = held.iter().any(|it| (is_uid_of(it, set) || is_uid_of(it, pod)) && it.controller != Some(true));
    if (of_set, of_pod) == (by_set, by_pod) && !half_owned {
        return None;
    }
    let by_set = by_set.then(|| owners::controller_ref(set));
    let by_pod = by_pod.then(|| owners::controller_ref(pod));
    Some(others.into_iter().chain(by_set).chain(by_pod).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::fixtures::ready;
    use crate::statefulset::fixtures::{SetBuilder, set};

    fn reference(kind: &str, name: &str, uid: &str) -> OwnerReference {
        let api_version = if kind == "Pod" { "v1" } else { "apps/v1" };
        OwnerReference {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }

    fn of_set() -> OwnerReference {
        reference("StatefulSet", "web", "uid-web")
    }

    fn of_pod(ordinal: i32) -> OwnerReference {
        reference("Pod", &format!("web-{ordinal}"), &format!("uid-web-{ordinal}"))
    }

    /// The owners that the claim of `ordinal` gets in a set of two; `-` if it stays as it is.
    fn check(set: SetBuilder, ordinal: i32, held: &[OwnerReference], expected: &str) {
        let set = set.claim("data").0;
        let pod = ready(&format!("web-{ordinal}"), 9).0;
        let mut claim = from_template(&set, &templates(&set)[0], ordinal);
        claim.metadata.owner_references = Some(held.to_vec());
        let owners = owners_due(&set, &pod, ordinal, &claim);
        let shown = |owners: Vec<OwnerReference>| owners.iter().map(|it| it.kind.clone()).collect::<Vec<_>>().join(" ");
        assert_eq!(owners.map_or_else(|| "-".to_owned(), shown), expected, "{ordinal} {held:?}");
    }

    #[test]
    fn owners_follow_the_retention_policy() {
        for (deleted, scaled, kept, condemned) in [
            ("Retain", "Retain", "-", "-"),
            ("Delete", "Retain", "StatefulSet", "StatefulSet"),
            ("Retain", "Delete", "-", "Pod"),
            ("Delete", "Delete", "StatefulSet", "Pod"),
        ] {
            check(set(2).retention(deleted, scaled), 0, &[], kept);
            check(set(2).retention(deleted, scaled), 2, &[], condemned);
        }
    }

    #[test]
    fn owners_change_with_policy_and_scale() {
        check(set(2).retention("Retain", "Retain"), 0, &[of_set()], "");
        check(set(2).retention("Delete", "Delete"), 2, &[of_set()], "Pod");
        check(set(2).retention("Delete", "Delete"), 0, &[of_pod(0)], "StatefulSet");
        check(set(2).retention("Delete", "Retain"), 0, &[of_set()], "-");
        let weak = OwnerReference { controller: None, ..of_set() };
        check(set(2).retention("Delete", "Retain"), 0, &[weak], "StatefulSet");
    }

    #[test]
    fn claims_of_others_and_of_the_past_are_left_alone() {
        let other = reference("Backup", "b", "uid-b");
        check(set(2).retention("Delete", "Delete"), 0, std::slice::from_ref(&other), "-");
        check(set(2).retention("Delete", "Delete"), 0, &[other.clone(), of_set()], "Backup");
        check(set(2).retention("Retain", "Retain"), 0, &[other, of_set()], "Backup");
        check(set(2).retention("Delete", "Delete"), 0, &[reference("StatefulSet", "web", "former")], "-");
        check(set(2).retention("Delete", "Delete"), 2, &[reference("Pod", "web-2", "former")], "-");
    }

    #[test]
    fn a_claim_has_the_labels_of_its_template_and_of_the_selector() {
        let set = set(1).claim("data").0;
        let claims = due(&set, &ready("web-0", 0).0, 0, true, |_| None);
        let claim = &claims.create[0];
        assert_eq!(claim.metadata.name.as_deref(), Some("data-web-0"));
        let labels = claim.metadata.labels.clone().unwrap_or_default();
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(labels.join(" "), "app=web tier=store");
        assert_eq!(claim.metadata.annotations.as_ref().map(|it| it["note"].as_str()), Some("kept"));
    }

    #[test]
    fn a_claim_of_a_former_pod_is_stale_if_scaling_deletes() {
        let claim = |set: &StatefulSet| {
            let mut claim = from_template(set, &templates(set)[0], 0);
            claim.metadata.owner_references = Some(vec![reference("Pod", "web-0", "former")]);
            Some(Arc::new(claim))
        };
        let mut pod = ready("web-0", 0).0;
        pod.metadata.uid = None;
        let deleting = set(1).claim("data").retention("Retain", "Delete").0;
        assert!(is_stale(&deleting, &pod, 0, |_| claim(&deleting)));
        let keeping = set(1).claim("data").0;
        assert!(!is_stale(&keeping, &pod, 0, |_| claim(&keeping)));
    }
}
