//! Template comparison, revisions, and the annotations that ReplicaSets carry for their Deployment.
//!
//! The hash only names ReplicaSets: which set belongs to which template is decided by comparing templates.

use std::collections::BTreeMap;

use wharf_types::k8s::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use wharf_types::k8s::api::core::v1::PodTemplateSpec;
use wharf_types::meta::ObjectMeta;

use crate::{owners, template};

pub const HASH_LABEL: &str = "pod-template-hash";
pub const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of a Deployment that its ReplicaSets do not get.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];
/// Source: `maxRevHistoryLengthInChars`.
const HISTORY_LIMIT_BYTES: usize = 2000;
const NAME_LIMIT_BYTES: usize = 253;

/// Equal but for the hash label, and for fields that are empty in one and absent in the other.
pub fn same_template(one: &PodTemplateSpec, other: &PodTemplateSpec) -> bool {
    let (one, other) = (without_hash(one), without_hash(other));
    one == other || template::normal(&one) == template::normal(&other)
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.remove(HASH_LABEL);
    }
    template
}

/// The revision that a ReplicaSet carries; 0 when it carries none that can be read.
pub fn revision_of(meta: &ObjectMeta) -> i64 {
    meta.annotations.as_ref().and_then(|annotations| annotations.get(REVISION)?.parse().ok()).unwrap_or(0)
}

/// The ReplicaSet for the Deployment's present template, with `replicas`.
pub fn new_set(deployment: &Deployment, revision: i64, replicas: i32, max_replicas: i32) -> Option<ReplicaSet> {
    let spec = deployment.spec.as_ref()?;
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let hash = template::hash(&spec.template, collisions);
    let mut pod = spec.template.clone();
    let labels = pod.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(set_name(owners::name(deployment), &hash)),
            namespace: deployment.metadata.namespace.clone(),
            owner_references: Some(vec![owners::controller_ref(deployment)]),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(pod),
        }),
        status: None,
    };
    annotate(deployment, &mut set, revision);
    set_replica_annotations(&mut set, spec.replicas.unwrap_or(1), max_replicas);
    Some(set)
}

fn set_name(deployment: &str, hash: &str) -> String {
    let room = NAME_LIMIT_BYTES - hash.len() - 1;
    format!("{}-{hash}", &deployment[..deployment.len().min(room)])
}

/// Copies the Deployment's annotations to the set and raises its revision. True if that changed anything.
pub fn annotate(deployment: &Deployment, set: &mut ReplicaSet, revision: i64) -> bool {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let before = annotations.clone();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    let old = annotations.get(REVISION).cloned();
    let old_number: i64 = old.as_deref().and_then(|old| old.parse().ok()).unwrap_or(0);
    if old_number < revision {
        annotations.insert(REVISION.to_owned(), revision.to_string());
        if let Some(old) = old {
            remember(annotations, &old);
        }
    }
    let changed = *annotations != before;
    if set.metadata.annotations.as_ref().is_some_and(BTreeMap::is_empty) {
        set.metadata.annotations = None;
    }
    changed
}

/// Appends a former revision, dropping the oldest ones when there are too many.
fn remember(annotations: &mut BTreeMap<String, String>, old: &str) {
    let history = annotations.entry(REVISION_HISTORY.to_owned()).or_default();
    let mut all: Vec<&str> = history.split(',').filter(|revision| !revision.is_empty()).chain([old]).collect();
    while all.len() > 1 && all.iter().map(|revision| revision.len() + 1).sum::<usize>() > HISTORY_LIMIT_BYTES {
        all.remove(0);
    }
    *history = all.join(",");
}

/// Notes for whom the set was scaled, so that scaling the Deployment can be told from a rollout. True if that changed anything.
pub fn set_replica_annotations(set: &mut ReplicaSet, desired: i32, max: i32) -> bool {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let mut changed = false;
    for (key, value) in [(DESIRED_REPLICAS, desired.to_string()), (MAX_REPLICAS, max.to_string())] {
        changed |= annotations.insert(key.to_owned(), value.clone()).as_ref() != Some(&value);
    }
    changed
}

/// A number that an annotation holds.
pub fn number(set: &ReplicaSet, key: &str) -> Option<i32> {
    set.metadata.annotations.as_ref()?.get(key)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_types::k8s::api::core::v1::{Container, PodSpec};

    fn template(image: &str) -> PodTemplateSpec {
        let container = Container { name: "c".to_owned(), image: Some(image.to_owned()), ..Container::default() };
        PodTemplateSpec { metadata: None, spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }) }
    }

    #[test]
    fn templates_compare_without_hash_and_empty_fields() {
        let mut labelled = template("a");
        let labels = [(HASH_LABEL.to_owned(), "x".to_owned())].into();
        labelled.metadata = Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() });
        assert!(same_template(&labelled, &template("a")));
        assert!(!same_template(&labelled, &template("b")));
    }

    #[test]
    fn former_revisions_are_remembered_up_to_a_limit() {
        let mut annotations = BTreeMap::new();
        (1..2000).for_each(|revision| remember(&mut annotations, &revision.to_string()));
        let history = &annotations[REVISION_HISTORY];
        assert!(history.len() <= HISTORY_LIMIT_BYTES && history.ends_with(",1998,1999"), "{history}");
    }

    #[test]
    fn long_names_leave_room_for_the_hash() {
        assert_eq!(set_name(&"d".repeat(253), "hash").len(), 253);
        assert_eq!(set_name("web", "hash"), "web-hash");
    }
}
