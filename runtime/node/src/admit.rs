//! Whether the node takes a pod that was bound to it.
//!
//! The scheduler decided on what it knew; the node knows. A pod that does not fit is Failed with upstream's reason
//! (`OutOfcpu`, `NodeAffinity` …). Source: `k8s.io/kubernetes/pkg/kubelet/lifecycle/predicate.go`. The sums are kept as pods
//! come and go, so a decision costs the same however many there are. Absent on purpose: preemption of lesser pods.

use std::collections::{BTreeMap, HashMap, HashSet};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Taint};
use parking_lot::Mutex;
use wharf_machinery::placement;
use wharf_volumes::resources;

use crate::names::{self, Role};
use crate::observed::Rejection;
use crate::options::Capacity;

/// What a pod takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Demand {
    cpu_millis: i64,
    memory_bytes: i64,
    host_ports: Vec<(String, i32)>,
}

#[derive(Default)]
struct Used {
    pods: HashMap<String, Demand>,
    cpu_millis: i64,
    memory_bytes: i64,
    host_ports: HashSet<(String, i32)>,
}

pub struct Ledger {
    node: String,
    labels: Mutex<BTreeMap<String, String>>,
    taints: Mutex<Vec<Taint>>,
    max_pods: u32,
    capacity: Capacity,
    used: Mutex<Used>,
}

impl Ledger {
    pub fn new(node: &str, labels: BTreeMap<String, String>, max_pods: u32, capacity: Capacity) -> Self {
        Self {
            node: node.to_owned(),
            labels: Mutex::new(labels),
            taints: Mutex::default(),
            max_pods,
            capacity,
            used: Mutex::default(),
        }
    }

    /// The node object as the API has it.
    pub fn node_changed(&self, labels: BTreeMap<String, String>, taints: Vec<Taint>) {
        *self.labels.lock() = labels;
        *self.taints.lock() = taints;
    }

    /// Takes the pod in, or says why not. `started` pods were taken in by an earlier life of the node.
    pub fn admit(&self, pod: &Pod, started: bool) -> Result<(), Rejection> {
        let Some(spec) = &pod.spec else { return Ok(()) };
        let demand = demand(spec);
        let mut used = self.used.lock();
        if used.pods.contains_key(names::uid(pod)) {
            return Ok(());
        }
        if !started {
            self.fits(spec, &demand, &used)?;
        }
        used.cpu_millis += demand.cpu_millis;
        used.memory_bytes += demand.memory_bytes;
        used.host_ports.extend(demand.host_ports.iter().cloned());
        used.pods.insert(names::uid(pod).to_owned(), demand);
        Ok(())
    }

    pub fn release(&self, uid: &str) {
        let mut used = self.used.lock();
        if let Some(demand) = used.pods.remove(uid) {
            used.cpu_millis -= demand.cpu_millis;
            used.memory_bytes -= demand.memory_bytes;
            for port in &demand.host_ports {
                used.host_ports.remove(port);
            }
        }
    }

    fn fits(&self, spec: &PodSpec, demand: &Demand, used: &Used) -> Result<(), Rejection> {
        self.matches_node(spec)?;
        let out_of = |resource: &str, asked: i64, used: i64, capacity: i64| {
            if used.saturating_add(asked) <= capacity || asked == 0 {
                return Ok(());
            }
            let message = format!(
                "Pod was rejected: Node didn't have enough resource: {resource}, requested: {asked}, used: {used}, capacity: {capacity}"
            );
            Err(Rejection { reason: format!("OutOf{resource}"), message })
        };
        let capacity = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        out_of("pods", 1, used.pods.len() as i64, i64::from(self.max_pods))?;
        out_of("cpu", demand.cpu_millis, used.cpu_millis, capacity(self.capacity.cpu_millis))?;
        out_of("memory", demand.memory_bytes, used.memory_bytes, capacity(self.capacity.memory_bytes))?;
        if demand.host_ports.iter().any(|port| used.host_ports.contains(port)) {
            return Err(predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports"));
        }
        Ok(())
    }

    fn matches_node(&self, spec: &PodSpec) -> Result<(), Rejection> {
        let labels = self.labels.lock();
        if !placement::selects(spec, &self.node, Some(&*labels)) {
            return Err(predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"));
        }
        let taints = self.taints.lock();
        let tolerations = spec.tolerations.as_deref().unwrap_or_default();
        let untolerated =
            taints.iter().find(|taint| taint.effect == "NoExecute" && !placement::tolerated(taint, tolerations));
        match untolerated {
            Some(taint) => Err(predicate(
                "TaintToleration",
                &format!(
                    "node(s) had untolerated taint {{{}: {}}}",
                    taint.key,
                    taint.value.as_deref().unwrap_or_default()
                ),
            )),
            None => Ok(()),
        }
    }
}

fn predicate(name: &str, why: &str) -> Rejection {
    Rejection { reason: name.to_owned(), message: format!("Pod was rejected: Predicate {name} failed: {why}") }
}

/// Requests as the scheduler counts them: containers and sidecars together, or the largest init step if that is more.
fn demand(spec: &PodSpec) -> Demand {
    let request = |container: &Container, name: &str, read: fn(&_) -> Option<i64>| {
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        requests.and_then(|requests| requests.get(name)).and_then(read).unwrap_or(0)
    };
    let total = |name: &str, read: fn(&_) -> Option<i64>| {
        let (mut sidecars, mut peak) = (0, 0);
        for (role, container) in names::containers(spec) {
            let own = request(container, name, read);
            match role {
                Role::Sidecar => {
                    sidecars += own;
                    peak = peak.max(sidecars);
                }
                Role::Init => peak = peak.max(sidecars + own),
                Role::Main => {}
            }
        }
        let main: i64 = spec.containers.iter().map(|container| request(container, name, read)).sum();
        let overhead = spec.overhead.as_ref().and_then(|overhead| overhead.get(name)).and_then(read).unwrap_or(0);
        peak.max(main + sidecars) + overhead
    };
    let ports = names::containers(spec).flat_map(|(_, container)| container.ports.iter().flatten());
    let host_ports = ports.filter_map(|port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        let ip = port.host_ip.as_deref().filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0");
        Some((format!("{}/{ip}", port.protocol.as_deref().unwrap_or("TCP")), number))
    });
    Demand {
        cpu_millis: total("cpu", resources::milli_value),
        memory_bytes: total("memory", resources::value),
        host_ports: host_ports.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(uid: &str, spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"uid": uid}, "spec": spec})).unwrap()
    }

    /// A node with one core, 1 GiB, two pods at most, on which one pod of 600m already is.
    fn check(spec: Value, expected: Result<(), &str>) {
        let labels = BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]);
        let capacity = Capacity { cpu_millis: 1000, memory_bytes: 1 << 30, ephemeral_storage_bytes: 0 };
        let ledger = Ledger::new("n", labels.clone(), 2, capacity);
        let taint = Taint { key: "k".into(), value: Some("v".into()), effect: "NoExecute".into(), time_added: None };
        ledger.node_changed(labels, vec![taint]);
        let first = json!({"tolerations": [{"operator": "Exists"}], "containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80}],
            "resources": {"requests": {"cpu": "600m"}}}]});
        ledger.admit(&pod("first", first), false).unwrap();
        let mut all = json!({"tolerations": [{"key": "k", "value": "v"}], "containers": []});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let result = ledger.admit(&pod("u", all), false).map_err(|rejection| rejection.reason);
        assert_eq!(result, expected.map_err(str::to_owned));
    }

    #[test]
    fn pods_must_fit_and_match() {
        let cpu = |cpu: &str| json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]});
        check(cpu("400m"), Ok(()));
        check(cpu("401m"), Err("OutOfcpu"));
        check(json!({"containers": [{"name": "c", "resources": {"requests": {"memory": "2Gi"}}}]}), Err("OutOfmemory"));
        check(
            json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80}]}]}),
            Err("NodePorts"),
        );
        check(json!({"nodeSelector": {"disk": "ssd"}}), Ok(()));
        check(json!({"nodeSelector": {"disk": "hdd"}}), Err("NodeAffinity"));
        check(json!({"tolerations": []}), Err("TaintToleration"));
        let affinity = |operator: &str| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "disk", "operator": operator, "values": ["ssd"]}]}]}}}})
        };
        check(affinity("In"), Ok(()));
        check(affinity("NotIn"), Err("NodeAffinity"));
    }

    #[test]
    fn the_number_of_pods_is_bounded_and_room_comes_back() {
        let ledger = Ledger::new("n", BTreeMap::new(), 1, Capacity::default());
        let spec = || json!({"containers": []});
        assert!(ledger.admit(&pod("a", spec()), false).is_ok());
        assert_eq!(ledger.admit(&pod("b", spec()), false).unwrap_err().reason, "OutOfpods");
        assert!(ledger.admit(&pod("c", spec()), true).is_ok(), "what already ran stays");
        ledger.release("a");
        ledger.release("c");
        assert!(ledger.admit(&pod("b", spec()), false).is_ok());
    }

    #[test]
    fn init_containers_count_by_their_peak() {
        let spec: PodSpec =
            serde_json::from_value(json!({"containers": [{"name": "m", "resources": {"requests": {"cpu": "100m"}}}],
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}},
                {"name": "i", "resources": {"requests": {"cpu": "200m"}}}]}))
            .unwrap();
        assert_eq!(demand(&spec).cpu_millis, 250);
    }
}
