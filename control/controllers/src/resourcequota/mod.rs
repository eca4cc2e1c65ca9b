//! Counts what each ResourceQuota's namespace uses, so that quotas refill when objects go and are right when they are new.
//!
//! Source of the behaviour: `k8s.io/kubernetes/pkg/controller/resourcequota`. Everything is counted from shared views; nothing is
//! listed again. Invariant: admission charges a quota before it commits the object, so a quota that was changed just now may stand
//! for objects that are not to be seen yet; its figures are lowered only when it has been left alone for [`SETTLE`].

mod counts;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;
use wharf_client::{Action, Changed, Clock, Error, Index, Informed, Informers, Lister, ObjectKey, Reconcile, Trigger};
use wharf_machinery::quantity::Quantity;
use wharf_machinery::quota::{self, Amounts, Evaluator, read, write};
use wharf_types::k8s::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service};
use wharf_types::k8s::api::resource::v1::ResourceClaim;
use wharf_types::{AnyObject, KubeObject};

use self::counts::Counts;
use crate::call::{During as _, is_conflict, is_not_found};

/// How long a quota must be left alone until its figures are believed over what admission charged.
const SETTLE: Duration = Duration::from_millis(500);

/// Resources that have figures of their own, by group and name.
const PODS: (&str, &str) = ("", "pods");
const SERVICES: (&str, &str) = ("", "services");
const CLAIMS: (&str, &str) = ("", "persistentvolumeclaims");
const DEVICES: (&str, &str) = ("resource.k8s.io", "resourceclaims");

pub struct ResourceQuotas {
    client: Client,
    quotas: Lister<ResourceQuota>,
    pods: Lister<Pod>,
    services: Lister<Service>,
    claims: Lister<PersistentVolumeClaim>,
    devices: Lister<ResourceClaim>,
    counts: Counts,
    /// The version of each quota that was seen last, and since when.
    seen: Mutex<HashMap<ObjectKey, (String, Timestamp)>>,
    clock: Clock,
}

impl ResourceQuotas {
    pub fn new(informers: &Informers, clock: Clock) -> Self {
        let quotas = informers.of::<ResourceQuota>();
        let by_name: Index<ResourceQuota> = quotas.index(counted_names);
        Self {
            client: informers.client().clone(),
            counts: Counts::new(informers.client().clone(), quotas.clone(), by_name),
            quotas,
            pods: informers.of(),
            services: informers.of(),
            claims: informers.of(),
            devices: informers.of(),
            seen: Mutex::default(),
            clock,
        }
    }

    /// Wakes the quotas that a change of an object concerns.
    fn replenished<K: Informed + KubeObject>(
        &self,
        (group, resource): (&'static str, &'static str),
        lister: &Lister<K>,
    ) -> Trigger {
        let (quotas, clock) = (self.quotas.clone(), self.clock.clone());
        Trigger::mapped(lister, move |changed: &Changed<K>| {
            let Some(evaluator) = Evaluator::of(group, resource) else { return Vec::new() };
            let used = |object: &Option<Arc<K>>| object.as_ref().map(|object| evaluator.usage(&**object, clock.now()));
            if used(&changed.old) == used(&changed.new) {
                return Vec::new();
            }
            let concerned = quotas.list_in(&changed.key.namespace).into_iter();
            let concerned = concerned.filter(|quota| hard(quota).keys().any(|name| evaluator.answers_for(name)));
            concerned.map(|quota| ObjectKey::of(&*quota)).collect()
        })
    }

    /// How long the quota is to be left alone yet.
    fn unsettled(&self, key: &ObjectKey, quota: &ResourceQuota) -> Option<Duration> {
        let version = quota.metadata.resource_version.clone().unwrap_or_default();
        let now = self.clock.now();
        let mut seen = self.seen.lock();
        let (held, since) = seen.entry(key.clone()).or_insert_with(|| (String::new(), now));
        if *held != version {
            (*held, *since) = (version, now);
        }
        let age = Duration::try_from(now.duration_since(*since)).unwrap_or_default();
        SETTLE.checked_sub(age).filter(|rest| !rest.is_zero())
    }

    /// What the namespace uses of what the quota names. Names that nobody can count are left out.
    fn count(&self, quota: &ResourceQuota) -> Amounts {
        let namespace = quota.metadata.namespace.as_deref().unwrap_or_default();
        let names: Vec<String> = hard(quota).into_keys().collect();
        let now = self.clock.now();
        let mut used = Amounts::new();
        count_typed(PODS, &self.pods.list_in(namespace), quota, &names, now, &mut used);
        count_typed(SERVICES, &self.services.list_in(namespace), quota, &names, now, &mut used);
        count_typed(CLAIMS, &self.claims.list_in(namespace), quota, &names, now, &mut used);
        count_typed(DEVICES, &self.devices.list_in(namespace), quota, &names, now, &mut used);
        let is_scoped = !quota::scopes(quota).is_empty();
        for name in &names {
            let Some((group, resource)) = counted(name).filter(|_| !used.contains_key(name)) else { continue };
            if let Some(count) = self.counts.get(&group, &resource, namespace) {
                // Nothing that is only counted is in any scope.
                let count = if is_scoped { 0 } else { count };
                used.insert(name.clone(), Quantity::new(count as i64, wharf_machinery::quantity::Format::DecimalSi));
            }
        }
        used
    }
}

fn count_typed<K: KubeObject>(
    (group, resource): (&str, &str),
    objects: &[Arc<K>],
    quota: &ResourceQuota,
    names: &[String],
    now: Timestamp,
    into: &mut Amounts,
) {
    let Some(evaluator) = Evaluator::of(group, resource) else { return };
    let matching = evaluator.matching(names);
    if matching.is_empty() {
        return;
    }
    let mut used: Amounts = matching.iter().map(|name| (name.clone(), Quantity::ZERO)).collect();
    for object in objects.iter().filter(|object| evaluator.in_scopes(quota, &***object as &dyn AnyObject)) {
        quota::add(&mut used, &quota::mask(&evaluator.usage(&**object, now), &matching));
    }
    // Pods and claims of devices may both answer for a class's devices.
    quota::add(into, &used);
}

/// The resource of which an entry counts the objects, for resources without figures of their own.
fn counted(name: &str) -> Option<(String, String)> {
    if matches!(name, "configmaps" | "secrets" | "resourcequotas" | "replicationcontrollers") {
        return Some((String::new(), name.to_owned()));
    }
    let what = name.strip_prefix("count/")?;
    let (resource, group) = what.split_once('.').unwrap_or((what, ""));
    let evaluator = Evaluator::of(group, resource)?;
    (evaluator.what() == quota::What::Count).then(|| (group.to_owned(), resource.to_owned()))
}

fn counted_names(quota: &ResourceQuota) -> Vec<String> {
    let names = hard(quota).into_keys().filter_map(|name| counted(&name));
    names.map(|(group, resource)| format!("{resource}.{group}")).collect()
}

fn hard(quota: &ResourceQuota) -> BTreeMap<String, wharf_types::k8s::apimachinery::pkg::api::resource::Quantity> {
    quota.spec.as_ref().and_then(|spec| spec.hard.clone()).unwrap_or_default()
}

#[async_trait]
impl Reconcile for ResourceQuotas {
    fn name(&self) -> &'static str {
        "resourcequota"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![
            Trigger::primary(&self.quotas),
            self.replenished(PODS, &self.pods),
            self.replenished(SERVICES, &self.services),
            self.replenished(CLAIMS, &self.claims),
            self.replenished(DEVICES, &self.devices),
            self.counts.trigger(),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(quota) = self.quotas.get(key) else {
            self.seen.lock().remove(key);
            return Ok(Action::done());
        };
        let rest = self.unsettled(key, &quota);
        let again = rest.map_or(Action::done(), Action::requeue_after);
        let Some(status) = plan(&quota, self.count(&quota), rest.is_none()) else { return Ok(again) };
        let namespace = key.namespace.to_string();
        let mut new = (*quota).clone();
        new.status = Some(status);
        let api = Api::<ResourceQuota>::namespaced(self.client.clone(), &namespace);
        match api.replace_status(&key.name, &PostParams::default(), &new).await {
            Ok(_) => Ok(again),
            // Somebody charged it meanwhile, or it is gone; the watch will tell.
            Err(error) if is_conflict(&error) || is_not_found(&error) => Ok(Action::requeue_after(SETTLE)),
            Err(error) => Err(error).during("write what is used of quota", key).map_err(Into::into),
        }
    }
}

/// The status that the quota should have; none where it has it. What was charged stands until the quota is settled.
fn plan(quota: &ResourceQuota, counted: Amounts, is_settled: bool) -> Option<ResourceQuotaStatus> {
    let hard = hard(quota);
    let status = quota.status.clone().unwrap_or_default();
    let before = quota::mask(&read(status.used.as_ref()), hard.keys());
    let mut used = before.clone();
    for (name, amount) in counted {
        let held = used.entry(name).or_insert(amount);
        *held = if is_settled { amount } else { amount.max(*held) };
    }
    let same_hard = read(status.hard.as_ref()) == read(Some(&hard)) && status.hard.is_some();
    if same_hard && status.used.is_some() && read(status.used.as_ref()) == used {
        return None;
    }
    Some(ResourceQuotaStatus { hard: Some(hard), used: Some(write(&used)) })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// `expected` is what is used then, or null where the status stays.
    fn check(status: Value, counted: Value, is_settled: bool, expected: Value) {
        let quota: ResourceQuota =
            serde_json::from_value(json!({"spec": {"hard": {"pods": "5"}}, "status": status})).expect("a quota");
        let counted = read(Some(&serde_json::from_value(counted).expect("amounts")));
        let planned = plan(&quota, counted, is_settled);
        assert_eq!(serde_json::to_value(planned.map(|status| status.used)).expect("json"), expected, "{status}");
    }

    #[test]
    fn what_was_charged_stands_until_the_quota_settles() {
        let held = |used: &str| json!({"hard": {"pods": "5"}, "used": {"pods": used}});
        check(json!({}), json!({"pods": "2"}), false, json!({"pods": "2"}));
        check(held("3"), json!({"pods": "2"}), false, Value::Null);
        check(held("3"), json!({"pods": "2"}), true, json!({"pods": "2"}));
        check(held("1"), json!({"pods": "2"}), false, json!({"pods": "2"}));
        check(held("2"), json!({"pods": "2"}), true, Value::Null);
        check(json!({"hard": {"pods": "4"}, "used": {"pods": "3"}}), json!({"pods": "0"}), false, json!({"pods": "3"}));
    }

    #[test]
    fn entries_name_the_resource_that_they_count() {
        let check = |name: &str, expected: Option<(&str, &str)>| {
            assert_eq!(counted(name), expected.map(|(group, resource)| (group.to_owned(), resource.to_owned())));
        };
        check("count/deployments.apps", Some(("apps", "deployments")));
        check("count/widgets.example.com", Some(("example.com", "widgets")));
        check("secrets", Some(("", "secrets")));
        check("count/pods", None);
        check("requests.cpu", None);
        check("count/events", None);
    }
}
