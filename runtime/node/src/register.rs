//! The node's own object and its Lease.
//!
//! Registers over an object that is there already, reports Ready as soon as the runtime answers, patches the status when it
//! changes and every five minutes, and renews the Lease in `kube-node-lease` every ten seconds. Absent on purpose: pressure
//! detection (the conditions say that there is none), cloud providers.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus,
    NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use wharf_cri::ImageStatus;

use crate::names::time;
use crate::options::Capacity;

/// As upstream's `nodeStatusMaxImages`.
const MAX_IMAGES: usize = 50;
/// As upstream's `nodeLeaseDurationSeconds`.
const LEASE_DURATION_S: i32 = 40;
/// What the API server may count on: websockets come here as they are.
const DECLARED_FEATURES: &[&str] = &["ExtendWebSocketsToKubelet"];
pub const LEASE_NAMESPACE: &str = "kube-node-lease";

/// What does not change while the node runs.
#[derive(Clone, Debug)]
pub struct Identity {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub pod_cidr: Option<String>,
    pub addresses: Vec<std::net::IpAddr>,
    pub capacity: Capacity,
    pub max_pods: u32,
    pub kubelet_port: Option<u16>,
    /// `wharf://0.1.0`
    pub runtime_version: String,
}

/// Why the node is not ready, if it is not.
pub type Health = Option<String>;

impl Identity {
    pub fn all_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.labels.clone();
        for (key, value) in [
            ("kubernetes.io/hostname", self.name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", go_arch()),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", go_arch()),
            ("wharf.dev/runtime", "wasm"),
        ] {
            labels.entry(key.to_owned()).or_insert_with(|| value.to_owned());
        }
        labels
    }

    pub fn node(&self, health: &Health, images: &[ImageStatus], now: Timestamp) -> Node {
        let spec = NodeSpec {
            pod_cidr: self.pod_cidr.clone(),
            pod_cidrs: self.pod_cidr.clone().map(|cidr| vec![cidr]),
            taints: Some(self.taints.clone()).filter(|taints| !taints.is_empty()),
            ..NodeSpec::default()
        };
        Node {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(self.all_labels()),
                ..ObjectMeta::default()
            },
            spec: Some(spec),
            status: Some(self.status(None, health, images, now)),
        }
    }

    /// The status to report; `held` is what the API has.
    pub fn status(
        &self,
        held: Option<&NodeStatus>,
        health: &Health,
        images: &[ImageStatus],
        now: Timestamp,
    ) -> NodeStatus {
        let resources = self.resources();
        let address = |kind: &str, address: String| NodeAddress { type_: kind.to_owned(), address };
        let mut addresses: Vec<NodeAddress> =
            self.addresses.iter().map(|ip| address("InternalIP", ip.to_string())).collect();
        addresses.push(address("Hostname", self.name.clone()));
        let conditions = held.and_then(|held| held.conditions.as_deref()).unwrap_or_default();
        NodeStatus {
            addresses: Some(addresses),
            capacity: Some(resources.clone()),
            allocatable: Some(resources),
            conditions: Some(merge_conditions(conditions, health, now)),
            daemon_endpoints: self
                .kubelet_port
                .map(|port| NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(port) }) }),
            node_info: Some(self.info()),
            images: Some(shown_images(images)),
            declared_features: Some(DECLARED_FEATURES.iter().map(|feature| (*feature).to_owned()).collect()),
            ..NodeStatus::default()
        }
    }

    pub fn resources(&self) -> BTreeMap<String, Quantity> {
        let cpu = match self.capacity.cpu_millis {
            millis if millis % 1000 == 0 => (millis / 1000).to_string(),
            millis => format!("{millis}m"),
        };
        [
            ("cpu", cpu),
            ("memory", format!("{}Ki", self.capacity.memory_bytes / 1024)),
            ("ephemeral-storage", format!("{}Ki", self.capacity.ephemeral_storage_bytes / 1024)),
            ("pods", self.max_pods.to_string()),
        ]
        .into_iter()
        .map(|(name, amount)| (name.to_owned(), Quantity(amount)))
        .collect()
    }

    fn info(&self) -> NodeSystemInfo {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let os_release = read("/etc/os-release");
        let pretty = os_release
            .lines()
            .find_map(|line| line.strip_prefix("PRETTY_NAME="))
            .map(|name| name.trim_matches('"').to_owned());
        NodeSystemInfo {
            architecture: go_arch().to_owned(),
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            container_runtime_version: self.runtime_version.clone(),
            kernel_version: read("/proc/sys/kernel/osrelease"),
            kube_proxy_version: String::new(),
            kubelet_version: format!("{}+wharf", wharf_types::KUBERNETES_VERSION),
            machine_id: read("/etc/machine-id"),
            operating_system: "linux".to_owned(),
            os_image: pretty.unwrap_or_else(|| "Linux".to_owned()),
            system_uuid: read("/etc/machine-id"),
            swap: None,
        }
    }
}

/// The host's architecture in Go's words, as the well-known label has it.
fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn shown_images(images: &[ImageStatus]) -> Vec<ContainerImage> {
    let mut images: Vec<&ImageStatus> = images.iter().collect();
    images.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.id.cmp(&b.id)));
    let shown = |image: &ImageStatus| ContainerImage {
        names: Some(image.digests.iter().chain(&image.tags).cloned().collect()),
        size_bytes: Some(i64::try_from(image.size_bytes).unwrap_or(i64::MAX)),
    };
    images.into_iter().take(MAX_IMAGES).map(shown).collect()
}

/// Ours, with the times of those that did not change; then those of others.
fn merge_conditions(held: &[NodeCondition], health: &Health, now: Timestamp) -> Vec<NodeCondition> {
    let ready = match health {
        None => ("True", "KubeletReady", "kubelet is posting ready status".to_owned()),
        Some(why) => ("False", "KubeletNotReady", why.clone()),
    };
    let fine = |reason: &'static str, message: &str| ("False", reason, message.to_owned());
    let ours = [
        ("MemoryPressure", fine("KubeletHasSufficientMemory", "kubelet has sufficient memory available")),
        ("DiskPressure", fine("KubeletHasNoDiskPressure", "kubelet has no disk pressure")),
        ("PIDPressure", fine("KubeletHasSufficientPID", "kubelet has sufficient PID available")),
        ("Ready", ready),
    ];
    let mut conditions: Vec<NodeCondition> = ours
        .iter()
        .map(|(kind, (status, reason, message))| {
            let before = held.iter().find(|condition| condition.type_ == *kind && condition.status == *status);
            NodeCondition {
                type_: (*kind).to_owned(),
                status: (*status).to_owned(),
                reason: Some((*reason).to_owned()),
                message: Some(message.clone()),
                last_heartbeat_time: Some(time(now)),
                last_transition_time: before
                    .and_then(|before| before.last_transition_time.clone())
                    .or_else(|| Some(time(now))),
            }
        })
        .collect();
    conditions.extend(held.iter().filter(|condition| ours.iter().all(|(kind, _)| *kind != condition.type_)).cloned());
    conditions
}

/// True when the two say the same but for the heartbeat.
pub fn same_status(a: &NodeStatus, b: &NodeStatus) -> bool {
    let still = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    still(a) == still(b)
}

/// Creates the node, or takes over the object that is there: labels and pod CIDR are ours, taints and the rest stay.
pub async fn register(client: &Client, identity: &Identity, node: &Node) -> Result<Node, kube::Error> {
    let nodes = Api::<Node>::all(client.clone());
    match nodes.create(&PostParams::default(), node).await {
        Ok(created) => Ok(created),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let held = nodes.get(&identity.name).await?;
            let mut patch = json!({"metadata": {"labels": identity.all_labels()}});
            if held.spec.as_ref().is_none_or(|spec| spec.pod_cidr.is_none()) && identity.pod_cidr.is_some() {
                patch["spec"] = json!({"podCIDR": identity.pod_cidr, "podCIDRs": [identity.pod_cidr]});
            }
            nodes.patch(&identity.name, &PatchParams::default(), &Patch::Merge(patch)).await
        }
        Err(error) => Err(error),
    }
}

/// Writes the status. Conditions merge by type, so those of others stay.
pub async fn write_status(client: &Client, name: &str, status: &NodeStatus) -> Result<Node, kube::Error> {
    let patch = Patch::Strategic(json!({"status": status}));
    Api::<Node>::all(client.clone()).patch_status(name, &PatchParams::default(), &patch).await
}

/// Renews the Lease, or makes it.
pub async fn renew(client: &Client, node: &Node, now: Timestamp) -> Result<(), kube::Error> {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let leases = Api::<Lease>::namespaced(client.clone(), LEASE_NAMESPACE);
    let patch = Patch::Merge(
        json!({"spec": {"holderIdentity": name, "leaseDurationSeconds": LEASE_DURATION_S, "renewTime": MicroTime(micros(now))}}),
    );
    match leases.patch(name, &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            leases.create(&PostParams::default(), &lease(node, name, now)).await.map(drop)
        }
        other => other.map(drop),
    }
}

fn lease(node: &Node, name: &str, now: Timestamp) -> Lease {
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.to_owned(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    };
    Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(LEASE_NAMESPACE.to_owned()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.to_owned()),
            lease_duration_seconds: Some(LEASE_DURATION_S),
            renew_time: Some(MicroTime(micros(now))),
            ..LeaseSpec::default()
        }),
    }
}

/// The API keeps microseconds.
fn micros(at: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at)
}

/// Waits longer after each failure, up to this.
pub const MAX_RETRY: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            name: "n1".into(),
            labels: [("zone".to_owned(), "a".to_owned())].into(),
            taints: Vec::new(),
            pod_cidr: Some("127.64.0.0/20".into()),
            addresses: vec!["127.0.0.1".parse().unwrap()],
            capacity: Capacity { cpu_millis: 1500, memory_bytes: 1 << 30, ephemeral_storage_bytes: 1 << 20 },
            max_pods: 10_000,
            kubelet_port: Some(10250),
            runtime_version: "wharf://0.1.0".into(),
        }
    }

    #[test]
    fn a_node_says_what_it_is_and_has() {
        let node = identity().node(&None, &[], Timestamp::UNIX_EPOCH);
        let labels = node.metadata.labels.unwrap();
        assert_eq!((labels["kubernetes.io/hostname"].as_str(), labels["zone"].as_str()), ("n1", "a"));
        let status = node.status.unwrap();
        let amounts: Vec<String> =
            status.capacity.unwrap().into_iter().map(|(name, amount)| format!("{name}={}", amount.0)).collect();
        assert_eq!(amounts.join(" "), "cpu=1500m ephemeral-storage=1024Ki memory=1048576Ki pods=10000");
        assert_eq!(status.daemon_endpoints.unwrap().kubelet_endpoint.unwrap().port, 10250);
    }

    #[test]
    fn conditions_change_their_time_with_their_status_only() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = merge_conditions(&[], &Some("runtime is down".into()), at(1));
        let second = merge_conditions(&first, &None, at(2));
        let shown = |conditions: &[NodeCondition]| {
            let one = |condition: &NodeCondition| {
                format!(
                    "{}={}@{}",
                    condition.type_,
                    condition.status,
                    condition.last_transition_time.as_ref().unwrap().0.as_second()
                )
            };
            conditions.iter().map(one).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(shown(&first), "MemoryPressure=False@1 DiskPressure=False@1 PIDPressure=False@1 Ready=False@1");
        assert_eq!(shown(&second), "MemoryPressure=False@1 DiskPressure=False@1 PIDPressure=False@1 Ready=True@2");
    }

    #[test]
    fn a_heartbeat_alone_is_no_change() {
        let identity = identity();
        let first = identity.status(None, &None, &[], Timestamp::UNIX_EPOCH);
        let later = identity.status(Some(&first), &None, &[], Timestamp::from_second(60).unwrap());
        assert!(same_status(&first, &later));
        assert!(!same_status(&first, &identity.status(Some(&first), &Some("x".into()), &[], Timestamp::UNIX_EPOCH)));
    }
}
