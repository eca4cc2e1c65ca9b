//! The order of groups, and of versions within them.
//!
//! Source: `DefaultGenericAPIServicePriorities` in `pkg/controlplane/apiserver`, `SortedByGroupAndVersion` in kube-aggregator. The
//! numbers are what the APIService of each version says; a version that is not here is of a custom resource.

use std::cmp::{Ordering, Reverse};

/// The group that tells of the others comes first, and has no APIService.
pub const OWN_GROUP: &str = "apiregistration.k8s.io";
/// Of the group and the version of a custom resource.
const CUSTOM: (i32, i32) = (1000, 100);

#[rustfmt::skip]
const PRIORITIES: &[(&str, &str, i32, i32)] = &[
    ("",                             "v1",      18_000, 1),
    ("apps",                         "v1",      17_800, 15),
    ("events.k8s.io",                "v1",      17_750, 15),
    ("authentication.k8s.io",        "v1",      17_700, 15),
    ("authorization.k8s.io",         "v1",      17_600, 15),
    ("autoscaling",                  "v1",      17_500, 15),
    ("autoscaling",                  "v2",      17_500, 30),
    ("batch",                        "v1",      17_400, 15),
    ("certificates.k8s.io",          "v1",      17_300, 15),
    ("networking.k8s.io",            "v1",      17_200, 15),
    ("policy",                       "v1",      17_100, 15),
    ("rbac.authorization.k8s.io",    "v1",      17_000, 15),
    ("storage.k8s.io",               "v1",      16_800, 15),
    ("apiextensions.k8s.io",         "v1",      16_700, 15),
    ("admissionregistration.k8s.io", "v1",      16_700, 15),
    ("scheduling.k8s.io",            "v1",      16_600, 15),
    ("coordination.k8s.io",          "v1",      16_500, 15),
    ("node.k8s.io",                  "v1",      16_300, 15),
    ("discovery.k8s.io",             "v1",      16_200, 15),
    ("flowcontrol.apiserver.k8s.io", "v1",      16_100, 21),
    ("resource.k8s.io",              "v1",      15_900, 20),
    // Ours: behind all of upstream's.
    ("admission.wharf.dev",          "v1alpha1", 10_000, 1),
];

/// Of a version's group, and of the version in it.
pub fn of(group: &str, version: &str) -> (i32, i32) {
    let known = PRIORITIES.iter().find(|(known, of, ..)| *known == group && *of == version);
    known.map_or(CUSTOM, |(_, _, group, version)| (*group, *version))
}

/// Of a group that this server serves.
pub fn of_group(group: &str) -> i32 {
    let known = PRIORITIES.iter().find(|(known, ..)| *known == group);
    match group {
        OWN_GROUP => i32::MAX,
        _ => known.map_or(CUSTOM.0, |(_, _, priority, _)| *priority),
    }
}

/// The higher priority first, then `v2` before `v1` before `v1beta1` before anything else.
pub fn by_version((a, priority_a): (&str, i32), (b, priority_b): (&str, i32)) -> Ordering {
    priority_b.cmp(&priority_a).then_with(|| by_preference(a, b))
}

/// Source: `k8s.io/apimachinery/pkg/version.CompareKubeAwareVersionStrings`.
fn by_preference(a: &str, b: &str) -> Ordering {
    let key = |text: &str| -> Option<(u8, u32, u32)> {
        let rest = text.strip_prefix('v')?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (major, rest) = (rest[..end].parse().ok()?, &rest[end..]);
        let stable = |stage: u8, minor: &str| Some((stage, major, minor.parse().ok()?));
        match (rest, rest.strip_prefix("beta"), rest.strip_prefix("alpha")) {
            ("", ..) => Some((2, major, 0)),
            (_, Some(minor), _) => stable(1, minor),
            (_, _, Some(minor)) => stable(0, minor),
            _ => None,
        }
    };
    Reverse(key(a)).cmp(&Reverse(key(b))).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_stand_in_order_of_preference() {
        let mut versions = ["foo10", "v1alpha1", "v1", "v11alpha2", "v2", "v10beta3", "v3beta1", "foo1", "v1beta10"];
        versions.sort_by(|a, b| by_preference(a, b));
        assert_eq!(versions, ["v2", "v1", "v10beta3", "v3beta1", "v1beta10", "v11alpha2", "v1alpha1", "foo1", "foo10"]);
        assert_eq!(by_version(("v1", 30), ("v2", 15)), Ordering::Less);
    }

    #[test]
    fn every_built_in_version_has_a_place() {
        for row in wharf_registry::builtin::rows().iter().filter(|row| row.gvr.group != OWN_GROUP) {
            let (group, version) = (row.gvr.group.as_ref(), row.gvr.version.as_ref());
            assert!(PRIORITIES.iter().any(|(known, of, ..)| *known == group && *of == version), "{group}/{version}");
        }
    }
}
