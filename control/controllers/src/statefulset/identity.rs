//! Who the pods of a StatefulSet are: name, ordinal, labels, hostname and the volumes that go by the ordinal.
//!
//! Source: `pkg/controller/statefulset/stateful_set_utils.go`.

use std::ops::Range;

use wharf_types::k8s::api::apps::v1::StatefulSet;
use wharf_types::k8s::api::core::v1::{PersistentVolumeClaimVolumeSource, Pod, PodSpec, PodTemplateSpec, Volume};

use super::claims;
use crate::history::REVISION_LABEL;
use crate::{owners, pods};

pub const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
pub const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// A template and the name of its revision.
#[derive(Clone, Debug)]
pub struct Version {
    pub name: String,
    pub template: PodTemplateSpec,
}

pub fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", owners::name(set))
}

/// The ordinal of a pod that is named as one of the set's.
pub fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let (parent, digits) = owners::name(pod).rsplit_once('-')?;
    let ordinal = digits.parse().ok().filter(|ordinal: &i32| ordinal.to_string() == digits)?;
    (parent == owners::name(set)).then_some(ordinal)
}

/// The ordinals that the set wants.
pub fn wanted(set: &StatefulSet) -> Range<i32> {
    let spec = set.spec.as_ref();
    let start = spec.and_then(|spec| spec.ordinals.as_ref()).and_then(|ordinals| ordinals.start).unwrap_or(0);
    let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1).max(0);
    start..start.saturating_add(replicas)
}

pub fn revision_of(pod: &Pod) -> &str {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(REVISION_LABEL)).map_or("", String::as_str)
}

/// The pod of an ordinal, with a version's template.
pub fn new_pod(set: &StatefulSet, version: &Version, ordinal: i32) -> Pod {
    let mut pod = pods::from_template(&version.template, set);
    let name = pod_name(set, ordinal);
    pod.metadata.name = Some(name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(REVISION_LABEL.to_owned(), version.name.clone());
    let service = set.spec.as_ref().and_then(|spec| spec.service_name.clone());
    let spec = pod.spec.get_or_insert_default();
    // Fixed for good, so they are not mended later.
    spec.hostname = Some(name);
    spec.subdomain = service.filter(|service| !service.is_empty());
    mend(set, &mut pod, ordinal);
    pod
}

/// Whether labels and volumes are those of the ordinal.
pub fn is_itself(set: &StatefulSet, pod: &Pod, ordinal: i32) -> bool {
    let named = pod.metadata.labels.as_ref().and_then(|labels| labels.get(NAME_LABEL));
    named == Some(&pod_name(set, ordinal)) && has_claims(set, pod, ordinal)
}

fn has_claims(set: &StatefulSet, pod: &Pod, ordinal: i32) -> bool {
    let volumes = || pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    claims::templates(set).iter().all(|template| {
        let name = claims::name(set, template, ordinal);
        volumes().any(|volume| {
            Some(&volume.name) == template.metadata.name.as_ref()
                && volume.persistent_volume_claim.as_ref().is_some_and(|claim| claim.claim_name == name)
        })
    })
}

/// Gives a pod the labels and volumes of its ordinal. A volume of the pod's own gives way to a claim of its name.
pub fn mend(set: &StatefulSet, pod: &mut Pod, ordinal: i32) {
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(NAME_LABEL.to_owned(), pod_name(set, ordinal));
    labels.insert(INDEX_LABEL.to_owned(), ordinal.to_string());
    let templates = claims::templates(set);
    if templates.is_empty() {
        return;
    }
    let claimed = templates.iter().map(|template| Volume {
        name: template.metadata.name.clone().unwrap_or_default(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claims::name(set, template, ordinal),
            read_only: None,
        }),
        ..Volume::default()
    });
    let mut volumes: Vec<Volume> = claimed.collect();
    let spec: &mut PodSpec = pod.spec.get_or_insert_default();
    let own = spec.volumes.take().unwrap_or_default();
    let is_claimed = |volume: &Volume| templates.iter().any(|it| it.metadata.name.as_ref() == Some(&volume.name));
    volumes.extend(own.into_iter().filter(|volume| !is_claimed(volume)));
    spec.volumes = Some(volumes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::fixtures::template;
    use crate::pods::fixtures::ready;
    use crate::statefulset::fixtures::set;

    fn check_ordinal(pod: &str, expected: Option<i32>) {
        assert_eq!(ordinal(&set(3).0, &ready(pod, 0).0), expected, "{pod}");
    }

    #[test]
    fn a_pods_ordinal_stands_in_its_name() {
        check_ordinal("web-0", Some(0));
        check_ordinal("web-12", Some(12));
        check_ordinal("web-01", None);
        check_ordinal("web-", None);
        check_ordinal("web-a-1", None);
        check_ordinal("db-1", None);
        check_ordinal("web-99999999999", None);
    }

    #[test]
    fn ordinals_may_start_anywhere() {
        assert_eq!(wanted(&set(3).0), 0..3);
        assert_eq!(wanted(&set(3).start(5).0), 5..8);
        assert_eq!(wanted(&set(3).start(i32::MAX).0), i32::MAX..i32::MAX);
    }

    #[test]
    fn a_new_pod_is_somebody() {
        let set = set(3).claim("data").0;
        let version = Version { name: "web-abc".to_owned(), template: template("v1") };
        let pod = new_pod(&set, &version, 2);
        assert_eq!(pod.metadata.name.as_deref(), Some("web-2"));
        assert_eq!(pod.metadata.generate_name.as_deref(), Some("web-"));
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(
            labels.join(" "),
            "app=web apps.kubernetes.io/pod-index=2 controller-revision-hash=web-abc statefulset.kubernetes.io/pod-name=web-2"
        );
        let spec = pod.spec.as_ref().expect("has one");
        assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("web-2"), Some("svc")));
        let volume = &spec.volumes.as_ref().expect("some")[0];
        let claim = volume.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.as_str());
        assert_eq!((volume.name.as_str(), claim), ("data", Some("data-web-2")));
        assert!(is_itself(&set, &pod, 2));
        assert_eq!(revision_of(&pod), "web-abc");
    }

    #[test]
    fn a_claim_takes_the_place_of_a_volume_of_its_name() {
        let set = set(1).claim("data").0;
        let mut pod = ready("web-0", 0).0;
        let volumes = ["data", "tmp"].map(|name| Volume { name: name.to_owned(), ..Volume::default() });
        pod.spec.get_or_insert_default().volumes = Some(volumes.to_vec());
        assert!(!is_itself(&set, &pod, 0));
        mend(&set, &mut pod, 0);
        assert!(is_itself(&set, &pod, 0));
        let names: Vec<String> =
            pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).map(|it| it.name.clone()).collect();
        assert_eq!(names, ["data", "tmp"]);
    }
}
