//! What objects cost a ResourceQuota: shared by the admission plugin that charges and the controller that counts.
//!
//! An [`Evaluator`] knows one resource: which names of a quota it answers for, what an object uses of them, and which scopes the
//! object is in. Source: `pkg/quota/v1/evaluator/core` and `k8s.io/apiserver/pkg/quota/v1`. Pure: the time is an argument.

mod claims;
mod devices;
mod pods;
mod services;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ResourceQuota, ScopedResourceSelectorRequirement};
use wharf_types::AnyObject;

pub use claims::attributes_classes;
pub use pods::is_terminating;

pub use crate::pod_resources::{Amounts, add, read, write};
use crate::quantity::{Format, Quantity};

/// Resources that no quota counts. Source: `DefaultIgnoredResources`.
pub const IGNORED: &[(&str, &str)] = &[("", "events"), ("events.k8s.io", "events")];
/// Core resources that may also be counted by their bare name.
const ALIASED: &[&str] = &["configmaps", "resourcequotas", "replicationcontrollers", "secrets"];

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Evaluator {
    group: String,
    resource: String,
    what: What,
}

/// What there is to measure about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    Pods,
    Services,
    Claims,
    /// Claims of devices.
    Devices,
    /// Only that it is there.
    Count,
}

pub fn one() -> Quantity {
    Quantity::new(1, Format::DecimalSi)
}

impl Evaluator {
    /// None for resources that no quota counts.
    pub fn of(group: &str, resource: &str) -> Option<Self> {
        if IGNORED.contains(&(group, resource)) {
            return None;
        }
        let what = match (group, resource) {
            ("", "pods") => What::Pods,
            ("", "services") => What::Services,
            ("", "persistentvolumeclaims") => What::Claims,
            ("resource.k8s.io", "resourceclaims") => What::Devices,
            _ => What::Count,
        };
        Some(Self { group: group.to_owned(), resource: resource.to_owned(), what })
    }

    pub fn what(&self) -> What {
        self.what
    }

    pub fn group(&self) -> &str {
        &self.group
    }

    pub fn resource(&self) -> &str {
        &self.resource
    }

    /// `count/deployments.apps`
    pub fn count_name(&self) -> String {
        match self.group.as_str() {
            "" => format!("count/{}", self.resource),
            group => format!("count/{}.{group}", self.resource),
        }
    }

    /// True where a quota's entry of this name is about this resource.
    pub fn answers_for(&self, name: &str) -> bool {
        if name == self.count_name() {
            return true;
        }
        match self.what {
            What::Pods => pods::answers_for(name),
            What::Services => services::NAMES.contains(&name),
            What::Claims => claims::answers_for(name),
            What::Devices => devices::answers_for(name),
            What::Count => self.group.is_empty() && name == self.resource && ALIASED.contains(&name),
        }
    }

    /// Those of the names that this resource answers for.
    pub fn matching<'a>(&self, names: impl IntoIterator<Item = &'a String>) -> Vec<String> {
        names.into_iter().filter(|name| self.answers_for(name)).cloned().collect()
    }

    /// What the object uses; empty for an object of another kind.
    pub fn usage(&self, object: &dyn AnyObject, now: Timestamp) -> Amounts {
        let mut used = match self.what {
            What::Pods => object.downcast_ref().map(|pod| pods::usage(pod, now)).unwrap_or_default(),
            What::Services => object.downcast_ref().map(services::usage).unwrap_or_default(),
            What::Claims => object.downcast_ref().map(claims::usage).unwrap_or_default(),
            What::Devices => object.downcast_ref().map(devices::usage).unwrap_or_default(),
            What::Count if self.group.is_empty() && ALIASED.contains(&self.resource.as_str()) => {
                Amounts::from([(self.resource.clone(), one())])
            }
            What::Count => Amounts::new(),
        };
        used.insert(self.count_name(), one());
        used
    }

    /// True where the quota is about objects such as this: it names something of the resource, and all its scopes hold.
    pub fn matches(&self, quota: &ResourceQuota, object: &dyn AnyObject) -> bool {
        let hard = quota.status.as_ref().and_then(|status| status.hard.as_ref());
        hard.into_iter().flatten().any(|(name, _)| self.answers_for(name)) && self.in_scopes(quota, object)
    }

    /// True where the object is in all of the quota's scopes.
    pub fn in_scopes(&self, quota: &ResourceQuota, object: &dyn AnyObject) -> bool {
        scopes(quota).iter().all(|scope| self.in_scope(scope, object))
    }

    /// True where the object is in a scope; what no scope is about is in none.
    pub fn in_scope(&self, scope: &ScopedResourceSelectorRequirement, object: &dyn AnyObject) -> bool {
        match self.what {
            What::Pods => object.downcast_ref().is_some_and(|pod| pods::in_scope(pod, scope)),
            What::Claims => object.downcast_ref().is_some_and(|claim| claims::in_scope(claim, scope)),
            What::Services | What::Devices | What::Count => false,
        }
    }

    /// What the object must say because the quota counts it; the error tells what is missing.
    pub fn constraints(&self, required: &[String], object: &dyn AnyObject) -> Result<(), String> {
        match (self.what, object.downcast_ref()) {
            (What::Pods, Some(pod)) => pods::constraints(pod, required),
            _ => Ok(()),
        }
    }
}

/// The quota's scopes in one form.
pub fn scopes(quota: &ResourceQuota) -> Vec<ScopedResourceSelectorRequirement> {
    let Some(spec) = &quota.spec else { return Vec::new() };
    let exists = |scope: &String| ScopedResourceSelectorRequirement {
        scope_name: scope.clone(),
        operator: "Exists".to_owned(),
        values: None,
    };
    let named = spec.scopes.iter().flatten().map(exists);
    let selected = spec.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten().cloned());
    named.chain(selected).collect()
}

/// A scope's operator and values on what the object says of it. Source: `ScopedResourceSelectorRequirementsAsSelector`.
fn selects(scope: &ScopedResourceSelectorRequirement, value: Option<&str>) -> bool {
    let listed = || value.is_some_and(|value| scope.values.iter().flatten().any(|listed| listed == value));
    match scope.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

/// `a` less `b`, and nothing below zero.
pub fn excess(a: &Amounts, b: &Amounts) -> Amounts {
    let less = |(name, amount): (&String, &Quantity)| {
        let rest = *amount - b.get(name).copied().unwrap_or_default();
        (name.clone(), if rest.is_negative() { Quantity::ZERO } else { rest })
    };
    a.iter().map(less).collect()
}

/// Only what is named.
pub fn mask<'a>(amounts: &Amounts, names: impl IntoIterator<Item = &'a String>) -> Amounts {
    names.into_iter().filter_map(|name| amounts.get(name).map(|amount| (name.clone(), *amount))).collect()
}

/// `cpu=1,memory=2Gi`
pub fn show(amounts: &Amounts) -> String {
    amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service};
    use k8s_openapi::api::resource::v1::ResourceClaim;
    use wharf_types::KubeObject;

    use super::*;

    fn read<K: KubeObject>(text: &str) -> K {
        serde_yaml::from_str(text).expect("an object")
    }

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().expect("a time")
    }

    #[track_caller]
    fn check<K: KubeObject>(group: &str, resource: &str, object: &str, expected: &str) {
        let evaluator = Evaluator::of(group, resource).expect("a counted resource");
        assert_eq!(show(&evaluator.usage(&read::<K>(object), now())), expected, "{object}");
    }

    #[test]
    fn pods_cost_what_they_ask_for_until_they_end() {
        let spec = "spec: {containers: [{name: a, resources: {requests: {cpu: 1, example.com/gpu: 2, hugepages-2Mi: 4Mi}, limits: {memory: 1Gi}}}]}";
        let live = "count/pods=1,cpu=1,hugepages-2Mi=4Mi,limits.memory=1Gi,pods=1,requests.cpu=1,requests.example.com/gpu=2,requests.hugepages-2Mi=4Mi";
        check::<Pod>("", "pods", &format!("{{{spec}}}"), live);
        check::<Pod>("", "pods", &format!("{{{spec}, status: {{phase: Failed}}}}"), "count/pods=1");
        let going = "metadata: {deletionTimestamp: '2025-12-31T23:59:00Z', deletionGracePeriodSeconds: 30}";
        check::<Pod>("", "pods", &format!("{{{spec}, {going}}}"), "count/pods=1");
        let device = "{spec: {containers: [{name: a, resources: {requests: {deviceclass.resource.kubernetes.io/gpu: 1, kubernetes.io/odd: 1}}}]}}";
        check::<Pod>("", "pods", device, "count/pods=1,pods=1,requests.deviceclass.resource.kubernetes.io/gpu=1");
    }

    #[test]
    fn services_cost_their_ports() {
        let check = |spec: &str, ports: u32, balancers: u32| {
            let expected =
                format!("count/services=1,services=1,services.loadbalancers={balancers},services.nodeports={ports}");
            check::<Service>("", "services", &format!("{{spec: {spec}}}"), &expected);
        };
        check("{ports: [{port: 80}]}", 0, 0);
        check("{type: NodePort, ports: [{port: 80}, {port: 81}]}", 2, 0);
        check("{type: LoadBalancer, ports: [{port: 80}]}", 1, 1);
        check(
            "{type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{port: 80}, {port: 81, nodePort: 30000}]}",
            1,
            1,
        );
    }

    #[test]
    fn claims_cost_whole_bytes_in_their_class() {
        check::<PersistentVolumeClaim>(
            "",
            "persistentvolumeclaims",
            "{spec: {storageClassName: gold, resources: {requests: {storage: 1500m}}}}",
            "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/requests.storage=2,persistentvolumeclaims=1,requests.storage=2",
        );
    }

    #[test]
    fn claims_of_devices_cost_the_most_that_they_may_be_given() {
        let check = |requests: &str, expected: &str| {
            let claim = format!("{{spec: {{devices: {{requests: {requests}}}}}}}");
            check::<ResourceClaim>("resource.k8s.io", "resourceclaims", &claim, expected);
        };
        check("[]", "count/resourceclaims.resource.k8s.io=1");
        check(
            "[{name: a, exactly: {deviceClassName: gpu, allocationMode: ExactCount, count: 2}}, {name: b, exactly: {deviceClassName: gpu, allocationMode: All}}]",
            "count/resourceclaims.resource.k8s.io=1,gpu.deviceclass.resource.k8s.io/devices=34,requests.deviceclass.resource.kubernetes.io/gpu=34",
        );
        check(
            "[{name: a, firstAvailable: [{name: x, deviceClassName: big, allocationMode: ExactCount, count: 1}, {name: y, deviceClassName: small, allocationMode: ExactCount, count: 2}, {name: z, deviceClassName: small, allocationMode: ExactCount, count: 4}]}]",
            "big.deviceclass.resource.k8s.io/devices=1,count/resourceclaims.resource.k8s.io=1,requests.deviceclass.resource.kubernetes.io/big=1,requests.deviceclass.resource.kubernetes.io/small=4,small.deviceclass.resource.k8s.io/devices=4",
        );
        check(
            "[{name: a, exactly: {deviceClassName: gpu, allocationMode: Odd}}]",
            "count/resourceclaims.resource.k8s.io=1,gpu.deviceclass.resource.k8s.io/devices=0",
        );
    }

    #[test]
    fn everything_else_is_counted() {
        check::<ConfigMap>("", "configmaps", "{}", "configmaps=1,count/configmaps=1");
        check::<ConfigMap>("example.com", "widgets", "{}", "count/widgets.example.com=1");
        assert_eq!(Evaluator::of("", "events"), None);
    }

    #[test]
    fn scopes_select_pods_and_claims() {
        let pods = Evaluator::of("", "pods").expect("pods");
        let pod = |spec: &str| read::<Pod>(&format!("{{spec: {spec}}}"));
        let check = |scope: &str, spec: &str, expected: bool| {
            let quota = read(&format!("{{spec: {{{scope}}}, status: {{hard: {{pods: '1'}}}}}}"));
            assert_eq!(pods.matches(&quota, &pod(spec)), expected, "{scope} {spec}");
        };
        check("scopes: [Terminating]", "{containers: [], activeDeadlineSeconds: 5}", true);
        check("scopes: [NotTerminating]", "{containers: [], activeDeadlineSeconds: 5}", false);
        check("scopes: [BestEffort]", "{containers: [{name: a}]}", true);
        check(
            "scopes: [NotBestEffort, NotTerminating]",
            "{containers: [{name: a, resources: {limits: {cpu: 1}}}]}",
            true,
        );
        let classes = "scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: In, values: [high]}]}";
        check(classes, "{containers: [], priorityClassName: high}", true);
        check(classes, "{containers: [], priorityClassName: low}", false);
        check(&classes.replace("In,", "NotIn,"), "{containers: []}", true);
        check("scopes: [PriorityClass]", "{containers: []}", false);
        let far = "{containers: [], affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: x, namespaces: [b]}]}}}";
        check("scopes: [CrossNamespacePodAffinity]", far, true);
        check("scopes: [VolumeAttributesClass]", "{containers: []}", false);
    }

    #[test]
    fn containers_must_say_what_is_counted() {
        let pods = Evaluator::of("", "pods").expect("pods");
        let check = |spec: &str, expected: Result<(), &str>| {
            let required = ["limits.cpu", "pods", "requests.memory", "requests.example.com/gpu"].map(str::to_owned);
            let pod = read::<Pod>(&format!("{{spec: {spec}}}"));
            assert_eq!(pods.constraints(&required, &pod), expected.map_err(str::to_owned), "{spec}");
        };
        check(
            "{containers: [{name: b}, {name: a, resources: {limits: {cpu: 1}}}]}",
            Err("must specify limits.cpu for: b; requests.memory for: a,b"),
        );
        // What is said of the pod as a whole is enough.
        check("{containers: [{name: a}], resources: {limits: {cpu: 1}}}", Ok(()));
        check(
            "{containers: [{name: a}], resources: {requests: {example.com/gpu: 1}}}",
            Err("must specify limits.cpu for: a; requests.memory for: a"),
        );
    }
}
