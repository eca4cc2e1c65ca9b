//! A server and its simulated nodes, and the questions that the tests ask of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use futures::future::try_join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use wharf_test_support::sim_node::Spec;
use wharf_test_support::{Cluster, SimNode, eventually};

/// A node is given up after this many seconds of silence: many renewals of its Lease, so that a busy machine loses none.
const GRACE_S: &str = "5";

pub struct Fleet {
    // Before the cluster, so that the nodes end first.
    pub nodes: Vec<SimNode>,
    pub cluster: Cluster,
}

/// A Deployment's pods, as the walk and the tests count them.
#[derive(Debug, Default)]
pub struct Seen {
    /// Those that are to stay, by node; `""` for those without one.
    pub on: BTreeMap<String, usize>,
    pub ready: usize,
    /// Those that are being deleted.
    pub going: usize,
}

impl Seen {
    pub fn total(&self) -> usize {
        self.on.values().sum()
    }

    pub fn nodes(&self) -> BTreeSet<&str> {
        self.on.keys().map(String::as_str).collect()
    }
}

impl Fleet {
    pub async fn of(specs: Vec<Spec>) -> Self {
        let cluster = Cluster::server(&["--node-monitor-grace-period", GRACE_S]).await;
        let joining = specs.into_iter().map(|spec| SimNode::join(&cluster, spec));
        let nodes = try_join_all(joining).await.expect("the nodes join");
        let fleet = Self { nodes, cluster };
        eventually("every node is Ready", || async {
            let ready = fleet.ready_nodes().await?;
            if ready.len() == fleet.nodes.len() { Ok(()) } else { Err(format!("{ready:?}")) }
        })
        .await;
        // Pods need their ServiceAccount.
        let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = fleet.api();
        eventually("the default ServiceAccount is there", || accounts.get("default")).await;
        fleet
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug,
    {
        Api::default_namespaced(self.cluster.client.clone())
    }

    pub fn node_api(&self) -> Api<Node> {
        Api::all(self.cluster.client.clone())
    }

    /// The names of nodes that are Ready.
    pub async fn ready_nodes(&self) -> Result<BTreeSet<String>, String> {
        let nodes = self.node_api().list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        Ok(nodes.iter().filter(|node| is_ready(node)).map(ResourceExt::name_any).collect())
    }

    pub async fn deploy(&self, deployment: &Deployment) {
        self.api().create(&PostParams::default(), deployment).await.expect("a Deployment is created");
    }

    pub async fn scale(&self, name: &str, replicas: usize) -> Result<(), kube::Error> {
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        self.api::<Deployment>().patch_scale(name, &PatchParams::default(), &patch).await.map(drop)
    }

    /// All pods of a Deployment.
    pub async fn pods(&self, name: &str) -> Result<Vec<Pod>, String> {
        let of_app = ListParams::default().labels(&format!("app={name}"));
        Ok(self.api::<Pod>().list(&of_app).await.map_err(|error| error.to_string())?.items)
    }

    pub async fn seen(&self, name: &str) -> Result<Seen, String> {
        let mut seen = Seen::default();
        for pod in self.pods(name).await? {
            if pod.metadata.deletion_timestamp.is_some() {
                seen.going += 1;
                continue;
            }
            seen.ready += usize::from(pod_is_ready(&pod));
            *seen.on.entry(node_of(&pod).to_owned()).or_default() += 1;
        }
        Ok(seen)
    }

    /// Waits until a Deployment has exactly so many pods and all are Ready, and it says so itself.
    pub async fn settled(&self, name: &str, replicas: usize) -> Seen {
        let wanted = i32::try_from(replicas).expect("a small number");
        eventually(&format!("{name} has {replicas} ready pods"), || async {
            let seen = self.seen(name).await?;
            let deployment = self.api::<Deployment>().get(name).await.map_err(|error| error.to_string())?;
            let available = deployment.status.and_then(|status| status.available_replicas).unwrap_or(0);
            if seen.total() == replicas && seen.ready == replicas && available == wanted {
                return Ok(seen);
            }
            Err(format!("{seen:?}, {available} available"))
        })
        .await
    }
}

/// `replicas` of a small pod that leaves a lost node after a second; `change` is merged into the pod's spec.
pub fn deployment(name: &str, replicas: usize, change: Value) -> Deployment {
    let tolerate = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1});
    let mut pod = json!({
        "terminationGracePeriodSeconds": 1,
        "tolerations": [tolerate("node.kubernetes.io/not-ready"), tolerate("node.kubernetes.io/unreachable")],
        "containers": [{"name": "main", "image": "sim:v1", "resources": {"requests": {"cpu": "10m"}}}],
    });
    if let (Value::Object(pod), Value::Object(change)) = (&mut pod, change) {
        pod.extend(change);
    }
    from_json(json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": pod},
        },
    }))
}

/// A Service of a Deployment's pods.
pub fn service(name: &str) -> Service {
    from_json(json!({"metadata": {"name": name}, "spec": {"selector": {"app": name}, "ports": [{"port": 80}]}}))
}

/// The ready addresses that a Service's slices name.
pub fn ready_addresses(slices: &[EndpointSlice]) -> BTreeSet<String> {
    let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let ready =
        endpoints.filter(|endpoint| endpoint.conditions.as_ref().is_some_and(|state| state.ready == Some(true)));
    ready.flat_map(|endpoint| endpoint.addresses.iter().cloned()).collect()
}

pub fn from_json<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object of its kind")
}

pub fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

pub fn address_of(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.pod_ip.as_deref()
}

/// The status and message of one of a pod's conditions.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<(&'a str, &'a str)> {
    let condition = pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)?;
    Some((&condition.status, condition.message.as_deref().unwrap_or_default()))
}

pub fn pod_is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|(status, _)| status == "True")
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
