//! The documents that every client understands: `/api`, `/apis` and those below.

use base64::Engine;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use wharf_registry::{Row, Subresource};
use wharf_types::meta::APIResource;
use wharf_types::{GroupVersion, Gvk};

use super::{Group, Version, kind, subresources, verbs};

/// `/api`; `address` is where the client has reached the server.
pub fn core(groups: &[Group], address: &str) -> Value {
    let core = groups.iter().filter(|group| group.name.is_empty());
    let versions: Vec<&str> =
        core.flat_map(|group| &group.versions).map(|version| version.group_version.version.as_ref()).collect();
    let servers = json!([{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]);
    json!({"kind": "APIVersions", "versions": versions, "serverAddressByClientCIDRs": servers})
}

/// `/apis`
pub fn list(groups: &[Group]) -> Value {
    let groups: Vec<Value> = groups.iter().filter(|group| !group.name.is_empty()).map(body).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`
pub fn group(group: &Group) -> Value {
    let mut document = body(group);
    document["kind"] = json!("APIGroup");
    document["apiVersion"] = json!("v1");
    document
}

fn body(group: &Group) -> Value {
    let shown = |version: &Version| {
        let GroupVersion { version: name, .. } = &version.group_version;
        json!({"groupVersion": version.group_version.to_string(), "version": name})
    };
    let versions: Vec<Value> = group.versions.iter().map(shown).collect();
    json!({"name": group.name, "preferredVersion": versions.first(), "versions": versions})
}

/// `/api/v1`, `/apis/GROUP/VERSION`
pub fn resources(version: &Version) -> Value {
    let resources: Vec<APIResource> = version.rows.iter().flat_map(|row| entries(row)).collect();
    let mut document = json!({
        "kind": "APIResourceList",
        "groupVersion": version.group_version.to_string(),
        "resources": resources,
    });
    if !version.group_version.group.is_empty() {
        document["apiVersion"] = json!("v1");
    }
    document
}

fn entries(row: &Row) -> Vec<APIResource> {
    let unless_empty = |list: &Vec<String>| Some(list.clone()).filter(|list| !list.is_empty());
    let main = APIResource {
        name: row.gvr.resource.to_string(),
        singular_name: row.singular.clone(),
        namespaced: row.namespaced(),
        kind: row.gvk.kind.to_string(),
        verbs: owned(&verbs(row, None)),
        short_names: unless_empty(&row.short_names),
        categories: unless_empty(&row.categories),
        storage_version_hash: (!row.is_virtual()).then(|| storage_version_hash(&row.stored_gvk())),
        ..APIResource::default()
    };
    let below = subresources(row).into_iter().map(|subresource| below(row, subresource));
    std::iter::once(main).chain(below).collect()
}

fn below(row: &Row, which: Subresource) -> APIResource {
    let gvk = kind(row, which);
    // Group and version are named where they are not the list's.
    let foreign = gvk.group_version() != row.gvr.group_version();
    APIResource {
        name: format!("{}/{}", row.gvr.resource, which.name()),
        namespaced: row.namespaced(),
        group: foreign.then(|| gvk.group.to_string()),
        version: foreign.then(|| gvk.version.to_string()),
        kind: gvk.kind.to_string(),
        verbs: owned(&verbs(row, Some(which))),
        ..APIResource::default()
    }
}

fn owned(list: &[&str]) -> Vec<String> {
    list.iter().map(|item| (*item).to_owned()).collect()
}

/// Source: `k8s.io/apiserver/pkg/endpoints/discovery.StorageVersionHash`.
fn storage_version_hash(gvk: &Gvk) -> String {
    const HASH_BYTES: usize = 8;
    let digest = Sha256::digest(format!("{}/{}/{}", gvk.group, gvk.version, gvk.kind));
    base64::engine::general_purpose::STANDARD.encode(&digest[..HASH_BYTES])
}

#[cfg(test)]
mod tests {
    use super::super::groups;
    use super::*;
    use std::sync::Arc;

    fn built_in() -> Vec<Group> {
        let rows: Vec<Arc<Row>> = wharf_registry::builtin::rows().into_iter().map(Arc::new).collect();
        groups(&rows)
    }

    fn check(group: &str, resource: &str, expected: Value) {
        let groups = built_in();
        let group = groups.iter().find(|held| held.name == group).expect("group");
        let document = resources(&group.versions[0]);
        let found = document["resources"].as_array().expect("list").iter().find(|entry| entry["name"] == resource);
        assert_eq!(found, Some(&expected));
    }

    #[test]
    fn resources_read_as_kube_apiserver_tells_them() {
        check(
            "",
            "pods",
            json!({
                "name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod",
                "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
                "shortNames": ["po"], "categories": ["all"], "storageVersionHash": "xPOwRZ+Yhw8=",
            }),
        );
        check(
            "",
            "pods/eviction",
            json!({
                "name": "pods/eviction", "singularName": "", "namespaced": true, "group": "policy", "version": "v1",
                "kind": "Eviction", "verbs": ["create"],
            }),
        );
        check(
            "",
            "pods/log",
            json!({
                "name": "pods/log", "singularName": "", "namespaced": true, "kind": "Pod", "verbs": ["get"],
            }),
        );
        check(
            "apps",
            "deployments/scale",
            json!({
                "name": "deployments/scale", "singularName": "", "namespaced": true, "group": "autoscaling", "version": "v1",
                "kind": "Scale", "verbs": ["get", "patch", "update"],
            }),
        );
        check(
            "",
            "namespaces",
            json!({
                "name": "namespaces", "singularName": "namespace", "namespaced": false, "kind": "Namespace",
                "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
                "shortNames": ["ns"], "storageVersionHash": "Q3oi5N2YM8M=",
            }),
        );
    }
}
