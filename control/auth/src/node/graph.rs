//! Which objects the pods of a node refer to, kept as pods and volumes come and go.
//!
//! Source: `plugin/pkg/auth/authorizer/node/graph*.go`. A question costs a few lookups, however many pods there are.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Deserialize;
use serde_json::Value;

/// What may be reached from a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Pod,
    Secret,
    ConfigMap,
    ServiceAccount,
    Claim,
    Volume,
    ResourceClaim,
}

/// An object; volumes have no namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vertex {
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
}

impl Vertex {
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// A pod that is bound to a node.
struct Bound {
    node: String,
    uid: String,
    refers: BTreeSet<Vertex>,
}

/// A volume, the claim that has it, and the secrets it takes to mount it.
struct Volume {
    claim: Vertex,
    secrets: BTreeSet<Vertex>,
}

#[derive(Default)]
pub struct Graph {
    pods: HashMap<Vertex, Bound>,
    /// How many pods of each node refer to an object.
    referred: HashMap<Vertex, BTreeMap<String, usize>>,
    volumes: HashMap<String, Volume>,
    /// The volumes whose mounting takes a secret.
    mounts: HashMap<Vertex, BTreeSet<String>>,
}

/// Enough of a pod to see whether it has moved.
#[derive(Deserialize)]
struct Glance {
    metadata: Meta,
    #[serde(default)]
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    annotations: HashMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    node_name: String,
    #[serde(default)]
    ephemeral_containers: Vec<serde::de::IgnoredAny>,
}

impl Graph {
    pub fn clear_pods(&mut self) {
        self.pods.clear();
        self.referred.clear();
    }

    pub fn clear_volumes(&mut self) {
        self.volumes.clear();
        self.mounts.clear();
    }

    /// What a pod refers to is fixed once it is bound, but for its ephemeral containers and claims made for it.
    pub fn set_pod(&mut self, object: &[u8]) {
        let Ok(Glance { metadata, spec }) = serde_json::from_slice::<Glance>(object) else { return };
        if spec.node_name.is_empty() {
            return;
        }
        let key = Vertex::new(Kind::Pod, &metadata.namespace, &metadata.name);
        let claims_may_come = memchr(object, b"resourceClaim");
        let known = self.pods.get(&key).is_some_and(|held| held.node == spec.node_name && held.uid == metadata.uid);
        if known && spec.ephemeral_containers.is_empty() && !claims_may_come {
            return;
        }
        self.remove_pod(object);
        let mut refers = BTreeSet::from([key.clone()]);
        // A mirror pod is its node's own word: it opens nothing.
        if !metadata.annotations.contains_key("kubernetes.io/config.mirror")
            && let Ok(pod) = serde_json::from_slice::<Value>(object)
        {
            references(&pod, &metadata.namespace, &metadata.name, &mut refers);
        }
        for vertex in &refers {
            *self.referred.entry(vertex.clone()).or_default().entry(spec.node_name.clone()).or_default() += 1;
        }
        self.pods.insert(key, Bound { node: spec.node_name, uid: metadata.uid, refers });
    }

    pub fn remove_pod(&mut self, object: &[u8]) {
        let Ok(Glance { metadata, .. }) = serde_json::from_slice::<Glance>(object) else { return };
        let Some(held) = self.pods.remove(&Vertex::new(Kind::Pod, &metadata.namespace, &metadata.name)) else { return };
        for vertex in &held.refers {
            let Some(nodes) = self.referred.get_mut(vertex) else { continue };
            if let Some(count) = nodes.get_mut(&held.node) {
                *count -= 1;
                if *count == 0 {
                    nodes.remove(&held.node);
                }
            }
            if nodes.is_empty() {
                self.referred.remove(vertex);
            }
        }
    }

    pub fn set_volume(&mut self, object: &[u8]) {
        self.remove_volume(object);
        let Ok(volume) = serde_json::from_slice::<Value>(object) else { return };
        let text = |path: &str| volume.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let (namespace, claim) = (text("/spec/claimRef/namespace"), text("/spec/claimRef/name"));
        if claim.is_empty() {
            return;
        }
        let name = text("/metadata/name").to_owned();
        let mut secrets = BTreeSet::new();
        if let Some(Value::Object(spec)) = volume.get("spec") {
            for source in spec.values() {
                volume_secrets(source, namespace, &mut secrets);
            }
        }
        for secret in &secrets {
            self.mounts.entry(secret.clone()).or_default().insert(name.clone());
        }
        self.volumes.insert(name, Volume { claim: Vertex::new(Kind::Claim, namespace, claim), secrets });
    }

    pub fn remove_volume(&mut self, object: &[u8]) {
        let Ok(Glance { metadata, .. }) = serde_json::from_slice::<Glance>(object) else { return };
        let Some(held) = self.volumes.remove(&metadata.name) else { return };
        for secret in &held.secrets {
            if let Some(volumes) = self.mounts.get_mut(secret) {
                volumes.remove(&metadata.name);
            }
        }
        self.mounts.retain(|_, volumes| !volumes.is_empty());
    }

    /// True where a pod of the node leads to the object.
    pub fn reaches(&self, node: &str, vertex: &Vertex) -> bool {
        let refers = |vertex: &Vertex| self.referred.get(vertex).is_some_and(|nodes| nodes.contains_key(node));
        let through = |volume: &String| self.volumes.get(volume).is_some_and(|volume| refers(&volume.claim));
        match vertex.kind {
            Kind::Volume => through(&vertex.name),
            Kind::Secret => refers(vertex) || self.mounts.get(vertex).is_some_and(|all| all.iter().any(through)),
            _ => refers(vertex),
        }
    }
}

fn memchr(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}

/// Everything that the pod's spec names. Field names say what a reference is to, wherever it stands.
fn references(pod: &Value, namespace: &str, name: &str, out: &mut BTreeSet<Vertex>) {
    let Some(spec) = pod.get("spec") else { return };
    walk(spec, namespace, out);
    let mut add = |kind: Kind, name: &str| {
        if !name.is_empty() {
            out.insert(Vertex::new(kind, namespace, name));
        }
    };
    let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let list = |value: &Value, field: &str| value.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
    add(Kind::ServiceAccount, &text(spec, "serviceAccountName"));
    for secret in list(spec, "imagePullSecrets") {
        add(Kind::Secret, &text(&secret, "name"));
    }
    for volume in list(spec, "volumes") {
        if let Some(claim) = volume.get("persistentVolumeClaim") {
            add(Kind::Claim, &text(claim, "claimName"));
        }
        if volume.get("ephemeral").is_some() {
            add(Kind::Claim, &format!("{name}-{}", text(&volume, "name")));
        }
    }
    for claim in list(spec, "resourceClaims") {
        add(Kind::ResourceClaim, &text(&claim, "resourceClaimName"));
    }
    for made in pod.get("status").map(|status| list(status, "resourceClaimStatuses")).unwrap_or_default() {
        add(Kind::ResourceClaim, &text(&made, "resourceClaimName"));
    }
}

fn walk(value: &Value, namespace: &str, out: &mut BTreeSet<Vertex>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| walk(item, namespace, out)),
        Value::Object(fields) => {
            for (field, value) in fields {
                let name = value.get("name").and_then(Value::as_str);
                let (kind, name) = match (field.as_str(), name) {
                    ("secretName", _) => (Kind::Secret, value.as_str()),
                    ("secretRef" | "secretKeyRef" | "nodePublishSecretRef" | "secret", name) => (Kind::Secret, name),
                    ("configMapRef" | "configMapKeyRef" | "configMap", name) => (Kind::ConfigMap, name),
                    _ => (Kind::Pod, None),
                };
                if let Some(name) = name.filter(|name| !name.is_empty()) {
                    out.insert(Vertex::new(kind, namespace, name));
                }
                walk(value, namespace, out);
            }
        }
        _ => {}
    }
}

/// A volume's own references: each may name a namespace, or means that of the claim.
fn volume_secrets(source: &Value, namespace: &str, out: &mut BTreeSet<Vertex>) {
    let Value::Object(fields) = source else { return };
    let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    for (field, value) in fields {
        let (name, own) = match field.as_str() {
            "secretName" => (value.as_str().unwrap_or_default().to_owned(), text(source, "secretNamespace")),
            // The controller's secrets are not the node's.
            "secretRef" | "nodePublishSecretRef" | "nodeStageSecretRef" | "nodeExpandSecretRef" => {
                (text(value, "name"), text(value, "namespace"))
            }
            _ => continue,
        };
        if !name.is_empty() {
            let own = if own.is_empty() { namespace } else { &own };
            out.insert(Vertex::new(Kind::Secret, own, &name));
        }
    }
}
