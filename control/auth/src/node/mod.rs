//! What a node may do: its own Node and Lease, the pods bound to it, and what those refer to.
//!
//! Source: `plugin/pkg/auth/authorizer/node`, with `AuthorizeNodeWithSelectors`. Invariants: an object is a node's to read as
//! long as a pod bound to it refers to it. What depends on the object that is written is NodeRestriction's to judge.

mod graph;

use async_trait::async_trait;
use parking_lot::RwLock;
use wharf_types::Gvr;
use wharf_types::k8s::api::rbac::v1::PolicyRule;

use crate::rbac::{bootstrap, rule};
use crate::view::{View, gvr};
use crate::{Attributes, Authorizer, Decision, NODE_USER_PREFIX, NODES, User};
use graph::{Graph, Kind, Vertex};

const PODS: Gvr = gvr("", "v1", "pods");
const VOLUMES: Gvr = gvr("", "v1", "persistentvolumes");
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// The role whose rules nodes have, apart from what is told here.
const ROLE: &str = "system:node";

/// The node's name, if the user is one.
pub fn name_of(user: &User) -> Option<&str> {
    user.name.strip_prefix(NODE_USER_PREFIX).filter(|_| user.in_group(NODES))
}

pub struct NodeAuthorizer {
    graph: RwLock<Graph>,
    /// For what is not divided among nodes.
    rules: Vec<PolicyRule>,
}

impl Default for NodeAuthorizer {
    fn default() -> Self {
        let roles = bootstrap::policy().cluster_roles.into_iter();
        let role = roles.filter(|role| role.metadata.name.as_deref() == Some(ROLE));
        Self { graph: RwLock::default(), rules: role.flat_map(|role| role.rules).flatten().collect() }
    }
}

#[async_trait]
impl Authorizer for NodeAuthorizer {
    async fn authorize(&self, user: &User, attributes: &Attributes) -> Decision {
        match name_of(user) {
            None => Decision::NoOpinion(String::new()),
            Some("") => Decision::NoOpinion(format!("unknown node for user {:?}", user.name)),
            Some(node) => match self.judge(node, attributes) {
                Ok(()) => Decision::Allow(String::new()),
                Err(why) => Decision::NoOpinion(why),
            },
        }
    }
}

impl NodeAuthorizer {
    fn judge(&self, node: &str, asked: &Attributes) -> Result<(), String> {
        let resource = if asked.resource_request { asked.resource.as_str() } else { "" };
        match (asked.group.as_str(), resource) {
            ("", "secrets") => self.read(node, Kind::Secret, asked),
            ("", "configmaps") => self.read(node, Kind::ConfigMap, asked),
            ("", "persistentvolumeclaims") if asked.subresource == "status" => {
                if !matches!(asked.verb.as_str(), "get" | "update" | "patch") {
                    return Err("can only get/update/patch this type".to_owned());
                }
                self.reach(node, Kind::Claim, asked)
            }
            ("", "persistentvolumeclaims") => self.get(node, Kind::Claim, asked),
            ("", "persistentvolumes") => self.get(node, Kind::Volume, asked),
            ("resource.k8s.io", "resourceclaims") => self.get(node, Kind::ResourceClaim, asked),
            ("", "serviceaccounts") => self.service_account(node, asked),
            ("coordination.k8s.io", "leases") => lease(node, asked),
            ("storage.k8s.io", "csinodes") => csi_node(node, asked),
            ("resource.k8s.io", "resourceslices") => resource_slice(node, asked),
            ("", "nodes") => own_node(node, asked),
            ("", "pods") => self.pod(node, asked),
            _ if self.rules.iter().any(|rule| rule::allows(rule, asked)) => Ok(()),
            _ => Err(String::new()),
        }
    }

    fn read(&self, node: &str, kind: Kind, asked: &Attributes) -> Result<(), String> {
        match asked.verb.as_str() {
            "get" | "list" | "watch" => {}
            _ => return Err("can only read resources of this type".to_owned()),
        }
        if !asked.subresource.is_empty() {
            return Err("cannot read subresource".to_owned());
        }
        if asked.namespace.is_empty() {
            return Err("can only read namespaced object of this type".to_owned());
        }
        self.reach(node, kind, asked)
    }

    fn get(&self, node: &str, kind: Kind, asked: &Attributes) -> Result<(), String> {
        if asked.verb != "get" {
            return Err("can only get individual resources of this type".to_owned());
        }
        if !asked.subresource.is_empty() {
            return Err("cannot get subresource".to_owned());
        }
        self.reach(node, kind, asked)
    }

    fn reach(&self, node: &str, kind: Kind, asked: &Attributes) -> Result<(), String> {
        if asked.name.is_empty() {
            return Err("No Object name found".to_owned());
        }
        let namespace = if kind == Kind::Volume { "" } else { &asked.namespace };
        match self.graph.read().reaches(node, &Vertex::new(kind, namespace, &asked.name)) {
            true => Ok(()),
            false => Err(format!("no relationship found between node '{node}' and this object")),
        }
    }

    fn service_account(&self, node: &str, asked: &Attributes) -> Result<(), String> {
        match (asked.verb.as_str(), asked.subresource.as_str()) {
            ("get", "") | ("create", "token") => self.reach(node, Kind::ServiceAccount, asked),
            ("create", _) | (_, "token") => Err("can only create tokens for individual service accounts".to_owned()),
            _ => Err("can only get individual resources of this type".to_owned()),
        }
    }

    fn pod(&self, node: &str, asked: &Attributes) -> Result<(), String> {
        match (asked.subresource.as_str(), asked.verb.as_str()) {
            ("", "get") => self.get(node, Kind::Pod, asked),
            ("", "list" | "watch") => {
                let own = asked.field_selector.iter().any(|requirement| {
                    requirement.key == "spec.nodeName" && requirement.operator == "In" && requirement.values == [node]
                });
                // One pod by its name is as narrow.
                if own || !asked.name.is_empty() && self.reach(node, Kind::Pod, asked).is_ok() {
                    return Ok(());
                }
                Err("can only list/watch pods with spec.nodeName field selector".to_owned())
            }
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            _ => Err(String::new()),
        }
    }
}

fn own_node(node: &str, asked: &Attributes) -> Result<(), String> {
    match (asked.subresource.as_str(), asked.verb.as_str()) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
        ("", "get" | "list" | "watch") => match asked.name.as_str() {
            name if name == node => Ok(()),
            "" => Err(format!("node '{node}' cannot read all nodes, only its own Node object")),
            name => Err(format!("node '{node}' cannot read '{name}', only its own Node object")),
        },
        _ => Err(String::new()),
    }
}

fn lease(node: &str, asked: &Attributes) -> Result<(), String> {
    if !matches!(asked.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a node lease".to_owned());
    }
    if asked.namespace != LEASE_NAMESPACE {
        return Err(format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace"));
    }
    if asked.verb != "create" && asked.name != node {
        return Err("can only access node lease with the same name as the requesting node".to_owned());
    }
    Ok(())
}

fn csi_node(node: &str, asked: &Attributes) -> Result<(), String> {
    if !matches!(asked.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a CSINode".to_owned());
    }
    if !asked.subresource.is_empty() {
        return Err("cannot authorize CSINode subresources".to_owned());
    }
    if asked.verb != "create" && asked.name != node {
        return Err("can only access CSINode with the same name as the requesting node".to_owned());
    }
    Ok(())
}

fn resource_slice(node: &str, asked: &Attributes) -> Result<(), String> {
    if !asked.subresource.is_empty() {
        return Err("cannot authorize ResourceSlice subresources".to_owned());
    }
    let own = asked.field_selector.iter().any(|requirement| {
        requirement.key == "spec.nodeName" && requirement.operator == "In" && requirement.values == [node]
    });
    match asked.verb.as_str() {
        // Admission looks at the slice itself.
        "get" | "create" | "update" | "patch" | "delete" => Ok(()),
        "watch" | "list" | "deletecollection" if own => Ok(()),
        "watch" | "list" | "deletecollection" => {
            Err("can only list/watch/deletecollection resourceslices with nodeName field selector".to_owned())
        }
        _ => Err("only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection".to_owned()),
    }
}

impl View for NodeAuthorizer {
    fn resources(&self) -> Vec<Gvr> {
        vec![PODS, VOLUMES]
    }

    fn replace(&self, resource: &Gvr, objects: &mut dyn Iterator<Item = &[u8]>) {
        let mut graph = self.graph.write();
        if *resource == PODS {
            graph.clear_pods();
            objects.for_each(|object| graph.set_pod(object));
        } else {
            graph.clear_volumes();
            objects.for_each(|object| graph.set_volume(object));
        }
    }

    fn put(&self, resource: &Gvr, object: &[u8]) {
        let mut graph = self.graph.write();
        if *resource == PODS { graph.set_pod(object) } else { graph.set_volume(object) }
    }

    fn remove(&self, resource: &Gvr, object: &[u8]) {
        let mut graph = self.graph.write();
        if *resource == PODS { graph.remove_pod(object) } else { graph.remove_volume(object) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, node: &str) -> Value {
        json!({"metadata": {"namespace": "a", "name": name, "uid": name}, "spec": {
            "nodeName": node, "serviceAccountName": "bot", "imagePullSecrets": [{"name": "pull"}],
            "containers": [{
                "env": [{"name": "secretName", "value": "not-a-reference", "valueFrom": {"secretKeyRef": {"name": "env"}}}],
                "envFrom": [{"configMapRef": {"name": "all"}}],
            }],
            "volumes": [
                {"name": "v", "secret": {"secretName": "files"}},
                {"name": "w", "projected": {"sources": [{"secret": {"name": "part"}}, {"configMap": {"name": "part"}}]}},
                {"name": "x", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "y", "ephemeral": {}},
            ],
        }})
    }

    fn graph() -> NodeAuthorizer {
        let nodes = NodeAuthorizer::default();
        nodes.put(&PODS, pod("one", "n1").to_string().as_bytes());
        nodes.put(&PODS, pod("two", "n2").to_string().as_bytes());
        let volume = json!({"metadata": {"name": "pv"}, "spec": {
            "claimRef": {"namespace": "a", "name": "data"},
            "csi": {"nodePublishSecretRef": {"namespace": "vault", "name": "mount"}, "controllerExpandSecretRef": {"namespace": "vault", "name": "expand"}},
        }});
        nodes.put(&VOLUMES, volume.to_string().as_bytes());
        nodes
    }

    /// `request` is `verb resource[/subresource] namespace/name`, with `-` for what is empty.
    #[track_caller]
    fn check(nodes: &NodeAuthorizer, node: &str, request: &str, expected: Result<(), &str>) {
        let [verb, resource, at] = request.split(' ').collect::<Vec<_>>()[..] else { panic!("{request}") };
        let (namespace, name) = at.split_once('/').expect("NAMESPACE/NAME");
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let unless = |text: &str| if text == "-" { String::new() } else { text.to_owned() };
        let asked = Attributes {
            verb: verb.to_owned(),
            resource_request: true,
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            group: if resource == "leases" { "coordination.k8s.io".to_owned() } else { String::new() },
            namespace: unless(namespace),
            name: unless(name),
            ..Attributes::default()
        };
        assert_eq!(nodes.judge(node, &asked), expected.map_err(str::to_owned), "{node} {request}");
    }

    const STRANGER: Result<(), &str> = Err("no relationship found between node 'n1' and this object");

    #[test]
    fn a_node_reads_what_its_pods_refer_to() {
        let nodes = graph();
        for name in ["pull", "env", "files", "part"] {
            check(&nodes, "n1", &format!("get secrets a/{name}"), Ok(()));
            check(&nodes, "n1", &format!("watch secrets a/{name}"), Ok(()));
            check(&nodes, "n1", &format!("get secrets b/{name}"), STRANGER);
        }
        check(&nodes, "n1", "get secrets vault/mount", Ok(()));
        check(&nodes, "n1", "get secrets vault/expand", STRANGER);
        check(&nodes, "n1", "get secrets a/not-a-reference", STRANGER);
        check(&nodes, "n1", "get configmaps a/all", Ok(()));
        check(&nodes, "n1", "get persistentvolumeclaims a/data", Ok(()));
        check(&nodes, "n1", "get persistentvolumeclaims a/one-y", Ok(()));
        check(&nodes, "n1", "get persistentvolumes -/pv", Ok(()));
        check(&nodes, "n1", "create serviceaccounts/token a/bot", Ok(()));
        check(&nodes, "n1", "create serviceaccounts/token a/other", STRANGER);
        check(&nodes, "n1", "get pods a/one", Ok(()));
        check(&nodes, "n1", "get pods a/two", STRANGER);
        check(&nodes, "n1", "list secrets a/-", Err("No Object name found"));
        check(&nodes, "n1", "update secrets a/files", Err("can only read resources of this type"));
    }

    #[test]
    fn what_no_pod_needs_any_more_is_closed_again() {
        let nodes = graph();
        let mut third = pod("three", "n1");
        third["spec"]["volumes"] = json!([]);
        nodes.put(&PODS, third.to_string().as_bytes());
        nodes.remove(&PODS, pod("one", "n1").to_string().as_bytes());
        check(&nodes, "n1", "get secrets a/files", STRANGER);
        check(&nodes, "n1", "get persistentvolumes -/pv", STRANGER);
        check(&nodes, "n1", "get secrets a/env", Ok(()));
        nodes.remove(&PODS, third.to_string().as_bytes());
        check(&nodes, "n1", "get secrets a/env", STRANGER);
        check(&nodes, "n2", "get secrets a/env", Ok(()));
        nodes.replace(&PODS, &mut std::iter::empty());
        check(&nodes, "n2", "get secrets a/env", Err("no relationship found between node 'n2' and this object"));
    }

    #[test]
    fn a_mirror_pod_opens_nothing() {
        let nodes = NodeAuthorizer::default();
        let mut mirror = pod("mirror", "n1");
        mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        nodes.put(&PODS, mirror.to_string().as_bytes());
        check(&nodes, "n1", "get secrets a/files", STRANGER);
        check(&nodes, "n1", "get pods a/mirror", Ok(()));
    }

    #[test]
    fn a_node_reads_and_keeps_itself_only() {
        let nodes = graph();
        check(&nodes, "n1", "get nodes -/n1", Ok(()));
        check(&nodes, "n1", "get nodes -/n2", Err("node 'n1' cannot read 'n2', only its own Node object"));
        check(&nodes, "n1", "list nodes -/-", Err("node 'n1' cannot read all nodes, only its own Node object"));
        check(&nodes, "n1", "list pods -/-", Err("can only list/watch pods with spec.nodeName field selector"));
        check(&nodes, "n1", "update leases kube-node-lease/n1", Ok(()));
        check(
            &nodes,
            "n1",
            "update leases kube-node-lease/n2",
            Err("can only access node lease with the same name as the requesting node"),
        );
        check(&nodes, "n1", "create pods/binding a/one", Err(""));
        check(&nodes, "n1", "list services -/-", Ok(()));
        check(&nodes, "n1", "create events a/-", Ok(()));
        check(&nodes, "n1", "delete namespaces -/a", Err(""));
    }

    #[tokio::test]
    async fn others_are_none_of_its_business() {
        let nodes = graph();
        let asked = Attributes {
            verb: "get".into(),
            resource_request: true,
            resource: "services".into(),
            ..Attributes::default()
        };
        for user in [User::new("jane", &[NODES]), User::new("system:node:n1", &[])] {
            assert_eq!(nodes.authorize(&user, &asked).await, Decision::NoOpinion(String::new()));
        }
        let nameless = User::new("system:node:", &[NODES]);
        let why = "unknown node for user \"system:node:\"".to_owned();
        assert_eq!(nodes.authorize(&nameless, &asked).await, Decision::NoOpinion(why));
    }
}
