//! Charges what a write costs to the quotas of its namespace, or refuses it where a quota has too little left.
//!
//! Source: `k8s.io/apiserver/pkg/admission/plugin/resourcequota`. Invariants: a charge is committed to the quota's status, at the
//! version that it was decided on, before the write goes on, so no two writers ever spend the same rest; a dry run charges
//! nothing. Writes to one namespace that wait at the same time are decided together and cost one commit for each quota.
//! A write that fails after its charge leaves the quota too high until the controller has counted again, as upstream.
//! The configuration names resources that are not to be used where no quota covers them.

mod check;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_yaml::Value;
use wharf_machinery::quota::{self, Evaluator, What};
use wharf_registry::Subresource;
use wharf_types::field::{Error, Path};
use wharf_types::k8s::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota};
use wharf_types::{ApiError, Gvr};

use self::check::{Demand, Limited};
use crate::config;
use crate::{Attributes, Notes, Operation, Plugin, Reader};

const KIND: &str = "ResourceQuotaConfiguration";
const VERSIONS: [&str; 1] = ["apiserver.config.k8s.io/v1"];
const OLD_KIND: &str = "Configuration";
const OLD_VERSIONS: [&str; 2] = ["resourcequota.admission.k8s.io/v1beta1", "resourcequota.admission.k8s.io/v1alpha1"];
const QUOTAS: Gvr = super::core_v1("resourcequotas");
/// How often charges of one batch start again because a quota has changed: by the controller, or by another server.
const TRIES: usize = 10;
/// How long a write may wait for its charge. Source: `quotaEvaluator.Evaluate`.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Default)]
pub struct ResourceQuotaPlugin {
    /// Namespaces in which somebody is waiting.
    counters: Mutex<HashMap<String, Arc<Counter>>>,
    limited: Vec<Limited>,
}

/// The plugin's part of the configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Configuration {
    #[serde(default)]
    limited_resources: Vec<Limited>,
}

/// Where the writers of a namespace queue. Whoever holds `turn` decides for everyone who is waiting.
#[derive(Default)]
struct Counter {
    waiting: Mutex<Vec<Arc<Waiter>>>,
    turn: tokio::sync::Mutex<()>,
}

struct Waiter {
    demand: Demand,
    verdict: OnceLock<Result<(), ApiError>>,
}

#[async_trait]
impl Plugin for ResourceQuotaPlugin {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn configure(&mut self, part: Option<&Value>, _: &config::Load<'_>) -> Result<(), String> {
        let Some(part) = part else { return Ok(()) };
        let kind = if part.get("kind").and_then(Value::as_str) == Some(OLD_KIND) { OLD_KIND } else { KIND };
        let versions = if kind == OLD_KIND { &OLD_VERSIONS[..] } else { &VERSIONS[..] };
        let read: Configuration = config::read(part, versions, kind)?;
        let path = Path::new("limitedResources");
        let unnamed = read.limited_resources.iter().enumerate().filter(|(_, limit)| limit.resource.is_empty());
        let errors = unnamed.map(|(index, _)| Error::required(&path.index(index).child("resource"), "").to_string());
        let errors: Vec<String> = errors.collect();
        if !errors.is_empty() {
            return Err(super::refusals(&errors));
        }
        self.limited = read.limited_resources;
        Ok(())
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, write: &Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        let Some(namespace) = write.namespace.as_deref().filter(|_| !write.about("", "namespaces")) else {
            return Ok(());
        };
        let gvr = &write.row.gvr;
        let Some(evaluator) = Evaluator::of(&gvr.group, &gvr.resource).filter(|it| is_charged(it, write)) else {
            return Ok(());
        };
        if self.limited.is_empty() && cluster.list(&QUOTAS, Some(namespace)).is_empty() {
            return Ok(());
        }
        let Some(object) = write.object.as_ref().map(|object| object.clone_box()) else { return Ok(()) };
        // What exists already will not be created a second time.
        let doomed = write.operation == Operation::Create && cluster.get(gvr, Some(namespace), &write.name).is_some();
        let demand = Demand {
            evaluator,
            old: write.old.as_ref().filter(|_| write.operation == Operation::Update).map(|old| old.clone_box()),
            object,
            is_status: write.subresource == Some(Subresource::Status),
            charges: !write.dry_run && !doomed,
            refuse: write.forbidden(""),
            limited: self.limited.clone(),
        };
        let waiter = Arc::new(Waiter { demand, verdict: OnceLock::new() });
        tokio::time::timeout(PATIENCE, self.wait(namespace, &waiter, cluster))
            .await
            .unwrap_or_else(|_| Err(ApiError::internal("resource quota evaluation timed out")))
    }
}

/// True where the write can raise what a quota counts.
fn is_charged(evaluator: &Evaluator, write: &Attributes) -> bool {
    let create = write.operation == Operation::Create;
    match (evaluator.what(), write.subresource) {
        (What::Pods, None) => create || is_rescoped(write),
        (What::Count, None) => create,
        (What::Services | What::Claims | What::Devices, None) => true,
        (What::Pods, Some(Subresource::Resize)) => !create,
        (What::Claims, Some(Subresource::Status)) => {
            let (Some(new), Some(old)) = (write.new_as::<PersistentVolumeClaim>(), write.old_as()) else {
                return false;
            };
            let allocated = |claim: &PersistentVolumeClaim| claim.status.as_ref()?.allocated_resources.clone();
            allocated(new) != allocated(old) || quota::attributes_classes(new) != quota::attributes_classes(old)
        }
        _ => false,
    }
}

/// True where a pod begins to be one that ends by itself, or ceases to.
fn is_rescoped(write: &Attributes) -> bool {
    let (Some(new), Some(old)) = (write.new_as::<Pod>(), write.old_as::<Pod>()) else { return false };
    quota::is_terminating(new) != quota::is_terminating(old)
}

impl ResourceQuotaPlugin {
    async fn wait(&self, namespace: &str, waiter: &Arc<Waiter>, cluster: &dyn Reader) -> Result<(), ApiError> {
        let counter = self.counters.lock().entry(namespace.to_owned()).or_default().clone();
        counter.waiting.lock().push(waiter.clone());
        let turn = counter.turn.lock().await;
        // Whoever had the turn before may have decided this already; if it was broken off half-way, this begins again.
        if waiter.verdict.get().is_none() {
            let mut batch = std::mem::take(&mut *counter.waiting.lock());
            if !batch.iter().any(|waiting| Arc::ptr_eq(waiting, waiter)) {
                batch.push(waiter.clone());
            }
            decide(namespace, &batch, cluster).await;
        }
        drop(turn);
        self.tidy(namespace, counter);
        let internal = || Err(ApiError::internal("the quota was not evaluated"));
        waiter.verdict.get().cloned().unwrap_or_else(internal)
    }

    fn tidy(&self, namespace: &str, counter: Arc<Counter>) {
        let mut counters = self.counters.lock();
        // The table's and this one: nobody else is waiting, and under the lock nobody can begin to.
        if Arc::strong_count(&counter) <= 2 {
            counters.remove(namespace);
        }
    }
}

/// Gives every waiter its verdict.
async fn decide(namespace: &str, batch: &[Arc<Waiter>], cluster: &dyn Reader) {
    let settle = |waiter: &Waiter, verdict| drop(waiter.verdict.set(verdict));
    let mut left: Option<Vec<String>> = None;
    let mut last = ApiError::internal("no quota was charged");
    for _ in 0..TRIES {
        let mut quotas = quotas(namespace, cluster);
        if let Some(names) = &left {
            // The others are charged already; a quota that is gone charges nobody.
            quotas.retain(|quota| quota.metadata.name.as_ref().is_some_and(|name| names.contains(name)));
        }
        let originals = quotas.clone();
        for waiter in batch.iter().filter(|waiter| waiter.verdict.get().is_none()) {
            match check::charge(&quotas, &waiter.demand) {
                Err(error) => settle(waiter, Err(error)),
                Ok(None) if left.is_none() => settle(waiter, Ok(())),
                Ok(Some(_)) if !waiter.demand.charges => settle(waiter, Ok(())),
                Ok(Some(charged)) => quotas = charged,
                Ok(None) => {}
            }
        }
        let mut failed = Vec::new();
        for (quota, _) in quotas.iter().zip(&originals).filter(|(new, old)| new.status != old.status) {
            if let Err(error) = cluster.replace_status(&QUOTAS, Box::new(quota.clone())).await {
                failed.extend(quota.metadata.name.clone());
                last = error;
            }
        }
        if failed.is_empty() {
            batch.iter().for_each(|waiter| settle(waiter, Ok(())));
            return;
        }
        left = Some(failed);
    }
    batch.iter().for_each(|waiter| settle(waiter, Err(last.clone())));
}

fn quotas(namespace: &str, cluster: &dyn Reader) -> Vec<ResourceQuota> {
    let found = cluster.list(&QUOTAS, Some(namespace));
    found.iter().filter_map(|object| object.downcast_ref::<ResourceQuota>().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Cluster, json, run, write};
    use super::*;
    use serde_json::{Value, json};
    use wharf_types::KubeObject;
    use wharf_types::k8s::api::core::v1::{ConfigMap, Service};
    use wharf_types::k8s::api::resource::v1::ResourceClaim;

    fn quota(name: &str, spec: Value, hard: Value, used: Value) -> ResourceQuota {
        json(json!({
            "metadata": {"name": name, "namespace": "default", "resourceVersion": "1"},
            "spec": spec, "status": {"hard": hard, "used": used},
        }))
    }

    fn cluster(spec: Value, hard: Value, used: Value) -> Cluster {
        Cluster::default().with("resourcequotas", quota("q", spec, hard, used))
    }

    fn used(cluster: &Cluster, name: &str) -> Value {
        let found = cluster.get(&QUOTAS, Some("default"), name).expect("the quota");
        let quota: &ResourceQuota = found.downcast_ref().expect("a quota");
        serde_json::to_value(quota.status.as_ref().and_then(|status| status.used.as_ref())).expect("json")
    }

    /// The verdict, and what is used then.
    async fn check(cluster: &Cluster, mut write: Attributes, expected: Result<Value, &str>) {
        let verdict = run(&ResourceQuotaPlugin::default(), &mut write, cluster).await;
        let got = verdict.map(|()| used(cluster, "q")).map_err(|error| error.message);
        assert_eq!(got, expected.map_err(str::to_owned));
    }

    fn object<K: KubeObject>(name: &str, spec: Value) -> K {
        json(json!({"metadata": {"name": name, "namespace": "default", "resourceVersion": "1"}, "spec": spec}))
    }

    fn pod(cpu: &str) -> Pod {
        object("web", json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}}}]}))
    }

    #[tokio::test]
    async fn writes_are_charged_until_nothing_is_left() {
        let cluster =
            cluster(json!({}), json!({"pods": "2", "requests.cpu": "1"}), json!({"pods": "0", "requests.cpu": "0"}));
        check(
            &cluster,
            write(Operation::Create, "pods", pod("600m")),
            Ok(json!({"pods": "1", "requests.cpu": "600m"})),
        )
        .await;
        let refused = r#"pods "web" is forbidden: exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=600m, limited: requests.cpu=1"#;
        check(&cluster, write(Operation::Create, "pods", pod("600m")), Err(refused)).await;
        let mut dry = write(Operation::Create, "pods", pod("100m"));
        dry.dry_run = true;
        check(&cluster, dry, Ok(json!({"pods": "1", "requests.cpu": "600m"}))).await;
        check(&cluster, write(Operation::Create, "pods", pod("400m")), Ok(json!({"pods": "2", "requests.cpu": "1"})))
            .await;
        check(&cluster, write(Operation::Update, "pods", pod("2")), Ok(json!({"pods": "2", "requests.cpu": "1"})))
            .await;
    }

    #[tokio::test]
    async fn a_quota_wants_to_know() {
        let fresh = cluster(json!({}), json!({"pods": "2"}), json!({}));
        check(
            &fresh,
            write(Operation::Create, "pods", pod("1")),
            Err(r#"pods "web" is forbidden: status unknown for quota: q, resources: pods"#),
        )
        .await;
        let demanding = cluster(json!({}), json!({"limits.memory": "2Gi"}), json!({"limits.memory": "0"}));
        check(
            &demanding,
            write(Operation::Create, "pods", pod("1")),
            Err(r#"pods "web" is forbidden: failed quota: q: must specify limits.memory for: a"#),
        )
        .await;
    }

    #[tokio::test]
    async fn updates_are_charged_the_difference() {
        let hard = json!({"services.nodeports": "2", "services": "1"});
        let cluster = cluster(json!({}), hard, json!({"services.nodeports": "0", "services": "1"}));
        let service = |kind: &str, ports: usize| -> Service {
            let ports: Vec<Value> = (0..ports).map(|index| json!({"port": 80 + index})).collect();
            object("s", json!({"type": kind, "ports": ports}))
        };
        let update = |new, old| write(Operation::Update, "services", new).replacing(old);
        let two = json!({"services.nodeports": "2", "services": "1"});
        check(&cluster, update(service("NodePort", 2), service("ClusterIP", 2)), Ok(two.clone())).await;
        let refused = r#"services "s" is forbidden: exceeded quota: q, requested: services.nodeports=1, used: services.nodeports=2, limited: services.nodeports=2"#;
        check(&cluster, update(service("NodePort", 3), service("NodePort", 2)), Err(refused)).await;
        check(&cluster, update(service("ClusterIP", 2), service("NodePort", 2)), Ok(two)).await;
    }

    #[tokio::test]
    async fn only_quotas_whose_scopes_hold_are_charged() {
        let cluster = cluster(json!({"scopes": ["BestEffort"]}), json!({"pods": "1"}), json!({"pods": "0"}));
        check(&cluster, write(Operation::Create, "pods", pod("1")), Ok(json!({"pods": "0"}))).await;
        let best_effort: Pod = object("b", json!({"containers": [{"name": "a"}]}));
        check(&cluster, write(Operation::Create, "pods", best_effort), Ok(json!({"pods": "1"}))).await;
    }

    #[tokio::test]
    async fn a_pod_that_moves_into_a_scope_is_charged_there() {
        let cluster = cluster(json!({"scopes": ["Terminating"]}), json!({"pods": "1"}), json!({"pods": "0"}));
        let ends = || {
            let mut pod = pod("1");
            pod.spec.get_or_insert_default().active_deadline_seconds = Some(5);
            pod
        };
        let update = |new, old| write(Operation::Update, "pods", new).replacing(old);
        check(&cluster, update(ends(), pod("1")), Ok(json!({"pods": "1"}))).await;
        check(&cluster, update(ends(), ends()), Ok(json!({"pods": "1"}))).await;
        let refused = r#"pods "web" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1"#;
        check(&cluster, update(ends(), pod("1")), Err(refused)).await;
    }

    #[tokio::test]
    async fn devices_are_charged_by_their_class() {
        let name = "gpu.deviceclass.resource.k8s.io/devices";
        let cluster = cluster(json!({}), json!({name: "2"}), json!({name: "0"}));
        let claim = |count: u32| -> ResourceClaim {
            let exactly = json!({"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": count});
            object("c", json!({"devices": {"requests": [{"name": "a", "exactly": exactly}]}}))
        };
        check(&cluster, write(Operation::Create, "resourceclaims", claim(2)), Ok(json!({name: "2"}))).await;
        let refused = r#"resourceclaims.resource.k8s.io "c" is forbidden: exceeded quota: q, requested: gpu.deviceclass.resource.k8s.io/devices=1, used: gpu.deviceclass.resource.k8s.io/devices=2, limited: gpu.deviceclass.resource.k8s.io/devices=2"#;
        check(&cluster, write(Operation::Create, "resourceclaims", claim(1)), Err(refused)).await;
    }

    #[tokio::test]
    async fn anything_can_be_counted() {
        let cluster = cluster(json!({}), json!({"count/configmaps": "1"}), json!({"count/configmaps": "0"}));
        let map = || -> ConfigMap { json(json!({"metadata": {"name": "m", "namespace": "default"}})) };
        check(&cluster, write(Operation::Create, "configmaps", map()), Ok(json!({"count/configmaps": "1"}))).await;
        let refused = r#"configmaps "m" is forbidden: exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=1, limited: count/configmaps=1"#;
        check(&cluster, write(Operation::Create, "configmaps", map()), Err(refused)).await;
    }

    #[tokio::test]
    async fn a_rush_spends_exactly_what_there_is() {
        let cluster = cluster(json!({}), json!({"pods": "10"}), json!({"pods": "0"}));
        let plugin = ResourceQuotaPlugin::default();
        let writes = (0..64).map(|_| {
            let (plugin, cluster) = (&plugin, &cluster);
            async move { run(plugin, &mut write(Operation::Create, "pods", pod("1")), cluster).await.is_ok() }
        });
        let admitted = futures::future::join_all(writes).await.into_iter().filter(|admitted| *admitted).count();
        assert_eq!((admitted, used(&cluster, "q")), (10, json!({"pods": "10"})));
        assert!(plugin.counters.lock().is_empty());
    }
    #[tokio::test]
    async fn what_the_configuration_limits_needs_a_quota() {
        let part = "{apiVersion: apiserver.config.k8s.io/v1, kind: ResourceQuotaConfiguration, limitedResources: [
            {resource: pods, matchContains: [requests.cpu], matchScopes: [{scopeName: PriorityClass, operator: In, values: [high]}]}]}";
        let mut plugin = ResourceQuotaPlugin::default();
        plugin.configure(serde_yaml::from_str(part).ok().as_ref(), &|_| Ok(String::new())).expect("a configuration");
        let check = async |cluster: &Cluster, pod: Pod, expected: Option<&str>| {
            let verdict = run(&plugin, &mut write(Operation::Create, "pods", pod), cluster).await;
            assert_eq!(verdict.err().map(|error| error.message).as_deref(), expected);
        };
        let none = Cluster::default();
        let refused = "pods \"web\" is forbidden: insufficient quota to consume: requests.cpu";
        check(&none, pod("1"), Some(refused)).await;
        let cpu = || cluster(json!({}), json!({"requests.cpu": "9"}), json!({"requests.cpu": "0"}));
        check(&cpu(), pod("1"), None).await;
        let mut urgent = pod("1");
        urgent.spec.as_mut().expect("a spec").priority_class_name = Some("high".to_owned());
        let refused = "insufficient quota to match these scopes: [{PriorityClass In [high]}]";
        check(&cpu(), urgent, Some(refused)).await;
    }
}
