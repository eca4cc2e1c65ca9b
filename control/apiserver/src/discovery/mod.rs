//! What the server serves, told from the resource table: the legacy documents and the aggregated one.
//!
//! Built for each request: it takes microseconds, and a custom resource shows at once. What can be done to a resource is what
//! [`route::verbs`] serves; typed in by hand are only priorities and what subresources take and give.
//! Source: `k8s.io/apiserver/pkg/endpoints/discovery` (and `/aggregated`), `pkg/controlplane/instance.go` for the order.

pub mod aggregated;
pub mod legacy;
pub mod order;
pub mod priority;
pub mod remote;

use std::cmp::Reverse;
use std::sync::Arc;

use wharf_registry::{Row, Subresource};
use wharf_types::{GroupVersion, Gvk};

use crate::request::Verb;
use crate::route;

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
    groups.sort_by_key(|group| (!group.name.is_empty(), Reverse(priority::of_group(&group.name)), group.name.clone()));
    for Group { name, versions } in &mut groups {
        versions.sort_by(|a, b| priority::by_version(ranked(name, a), ranked(name, b)));
        for version in versions {
            version.rows.sort_by(|a, b| a.gvr.resource.cmp(&b.gvr.resource));
        }
    }
    groups
}

/// A version with its priority in the group.
fn ranked<'a>(group: &str, version: &'a Version) -> (&'a str, i32) {
    let name = &*version.group_version.version;
    (name, priority::of(group, name).1)
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
    fn groups_stand_in_upstreams_order() {
        let rows: Vec<Arc<Row>> = wharf_registry::builtin::rows().into_iter().map(Arc::new).collect();
        let names: Vec<String> = groups(&rows).into_iter().map(|group| group.name).collect();
        assert_eq!(names[..4], ["", "apiregistration.k8s.io", "apps", "events.k8s.io"]);
        assert_eq!(names[names.len() - 2..], ["resource.k8s.io", "admission.wharf.dev"]);
    }
}
