//! What the server serves, told from the resource table: the legacy documents and the aggregated one.
//!
//! Built for each request: it takes microseconds, and a custom resource shows at once. What can be done to a resource is what
//! [`route::verbs`] serves; typed in by hand is only the order of groups and what subresources take and give.
//! Source: `k8s.io/apiserver/pkg/endpoints/discovery` (and `/aggregated`), `pkg/controlplane/instance.go` for the order.

pub mod aggregated;
pub mod legacy;
pub mod remote;

use std::cmp::{Ordering, Reverse};
use std::sync::Arc;

use wharf_registry::{Row, Subresource};
use wharf_types::{GroupVersion, Gvk};

use crate::request::Verb;
use crate::route;

/// Groups in upstream's order of priority. Groups that are not here, those of custom resources, follow by name.
const GROUP_ORDER: &[&str] = &[
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
];

/// One API group, with its versions in order of preference.
pub struct Group {
    pub name: String,
    pub versions: Vec<Version>,
}

pub struct Version {
    pub group_version: GroupVersion,
    pub rows: Vec<Arc<Row>>,
}

/// The groups of a table's rows, in order.
pub fn groups(rows: &[Arc<Row>]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for row in rows {
        let name = row.gvr.group.as_ref();
        let at = groups.iter().position(|group| group.name == name).unwrap_or_else(|| {
            groups.push(Group { name: name.to_owned(), versions: Vec::new() });
            groups.len() - 1
        });
        let versions = &mut groups[at].versions;
        match versions.iter_mut().find(|version| version.group_version.version == row.gvr.version) {
            Some(version) => version.rows.push(row.clone()),
            None => versions.push(Version { group_version: row.gvr.group_version(), rows: vec![row.clone()] }),
        }
    }
    let rank = |name: &str| GROUP_ORDER.iter().position(|known| *known == name).unwrap_or(GROUP_ORDER.len());
    groups.sort_by(|a, b| rank(&a.name).cmp(&rank(&b.name)).then_with(|| a.name.cmp(&b.name)));
    for group in &mut groups {
        group.versions.sort_by(|a, b| by_preference(&a.group_version.version, &b.group_version.version));
        for version in &mut group.versions {
            version.rows.sort_by(|a, b| a.gvr.resource.cmp(&b.gvr.resource));
        }
    }
    groups
}

/// `v2` before `v1` before `v1beta2` before `v1beta1` before `v1alpha1` before anything else.
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

/// What can be done to a resource, in the order of names.
pub fn verbs(row: &Row, subresource: Option<Subresource>) -> Vec<&'static str> {
    route::verbs(row, subresource).iter().copied().map(Verb::name).collect()
}

/// What is served below a resource, by name.
pub fn subresources(row: &Row) -> Vec<Subresource> {
    let mut served: Vec<Subresource> =
        row.subresources.iter().copied().filter(|which| !route::verbs(row, Some(*which)).is_empty()).collect();
    served.sort_by_key(|which| which.name());
    served
}

/// What a subresource's bodies are.
pub fn kind(row: &Row, subresource: Subresource) -> Gvk {
    let of = |group: &'static str, version: &'static str, kind: &'static str| Gvk {
        group: group.into(),
        version: version.into(),
        kind: kind.into(),
    };
    let options = |suffix: &str| Gvk { kind: format!("{}{suffix}", row.gvk.kind).into(), ..row.gvk.clone() };
    match subresource {
        Subresource::Status
        | Subresource::EphemeralContainers
        | Subresource::Resize
        | Subresource::Finalize
        | Subresource::Approval
        | Subresource::Log => row.gvk.clone(),
        Subresource::Scale => of("autoscaling", "v1", "Scale"),
        Subresource::Binding => of("", "v1", "Binding"),
        Subresource::Eviction => of("policy", "v1", "Eviction"),
        Subresource::Token => of("authentication.k8s.io", "v1", "TokenRequest"),
        Subresource::Exec => options("ExecOptions"),
        Subresource::Attach => options("AttachOptions"),
        Subresource::PortForward => options("PortForwardOptions"),
        Subresource::Proxy => options("ProxyOptions"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_stand_in_order_of_preference() {
        let mut versions = ["foo10", "v1alpha1", "v1", "v11alpha2", "v2", "v10beta3", "v3beta1", "foo1", "v1beta10"];
        versions.sort_by(|a, b| by_preference(a, b));
        assert_eq!(versions, ["v2", "v1", "v10beta3", "v3beta1", "v1beta10", "v11alpha2", "v1alpha1", "foo1", "foo10"]);
    }

    #[test]
    fn groups_stand_in_upstreams_order() {
        let rows: Vec<Arc<Row>> = wharf_registry::builtin::rows().into_iter().map(Arc::new).collect();
        let names: Vec<String> = groups(&rows).into_iter().map(|group| group.name).collect();
        let known: Vec<&str> =
            GROUP_ORDER.iter().copied().filter(|name| names.iter().any(|held| held == name)).collect();
        assert_eq!(names, known);
        assert_eq!(names[..2], ["", "apps"]);
    }
}
