//! Which lists merge, by what key, and which maps are atomic: the annotations that upstream's Go structs carry.
//!
//! k8s-openapi's schemas lack them, so they stand here as data, keyed by the schema type that owns the field. Strategic
//! merge reads the patch columns, OpenAPI publishes all of them, and server-side apply reads the topology.
//! Source: the `+patchStrategy`, `+patchMergeKey`, `+listType`, `+listMapKey`, `+mapType` and `+structType` markers of
//! `k8s.io/api`, `apimachinery`, `apiextensions-apiserver` and `kube-aggregator` v0.36.
//! A list without a row is atomic and is replaced by patches; an object without a row is granular.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use Strategy::{Merge, MergeRetainKeys, Plain, Replace, RetainKeys};
use Topology::{AtomicList, AtomicMap, Granular, Map, Set};

/// How a strategic merge patch treats a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// No annotation: objects merge, lists are replaced.
    Plain,
    Merge,
    MergeRetainKeys,
    RetainKeys,
    Replace,
}

impl Strategy {
    /// True where list items are merged one by one.
    pub fn merges(self) -> bool {
        matches!(self, Merge | MergeRetainKeys)
    }

    /// The value of `x-kubernetes-patch-strategy`.
    pub fn published(self) -> Option<&'static str> {
        match self {
            Plain => None,
            Merge => Some("merge"),
            MergeRetainKeys => Some("merge,retainKeys"),
            RetainKeys => Some("retainKeys"),
            Replace => Some("replace"),
        }
    }
}

/// How server-side apply sees a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// An object whose fields have owners of their own.
    Granular,
    /// A map owned as a whole.
    AtomicMap,
    /// A list owned as a whole.
    AtomicList,
    /// A list of distinct scalars.
    Set,
    /// A list of objects told apart by these fields.
    Map(&'static [&'static str]),
}

/// What is special about one field of one type.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    pub field: &'static str,
    pub strategy: Strategy,
    /// The field that tells list items apart in a strategic merge; empty for scalars.
    pub merge_key: &'static str,
    pub topology: Topology,
}

impl Rule {
    const fn new(field: &'static str, strategy: Strategy, merge_key: &'static str, topology: Topology) -> Self {
        Self { field, strategy, merge_key, topology }
    }
}

/// The rule for `field` of the schema type `owner`, e.g. `io.k8s.api.core.v1.PodSpec`.
pub fn rule(owner: &str, field: &str) -> Option<&'static Rule> {
    static BY_TYPE: LazyLock<HashMap<&str, &[Rule]>> = LazyLock::new(|| RULES.iter().copied().collect());
    BY_TYPE.get(owner)?.iter().find(|rule| rule.field == field)
}

/// True for types that server-side apply treats as one value.
pub fn is_atomic_type(name: &str) -> bool {
    static NAMES: LazyLock<HashSet<&str>> = LazyLock::new(|| ATOMIC_TYPES.iter().copied().collect());
    NAMES.contains(name)
}

/// Types marked `+structType=atomic`.
pub static ATOMIC_TYPES: &[&str] = &[
    "io.k8s.api.admissionregistration.v1.MatchResources",
    "io.k8s.api.admissionregistration.v1.NamedRuleWithOperations",
    "io.k8s.api.admissionregistration.v1.ParamKind",
    "io.k8s.api.admissionregistration.v1.ParamRef",
    "io.k8s.api.admissionregistration.v1.Variable",
    "io.k8s.api.admissionregistration.v1alpha1.MatchResources",
    "io.k8s.api.admissionregistration.v1alpha1.NamedRuleWithOperations",
    "io.k8s.api.admissionregistration.v1alpha1.ParamKind",
    "io.k8s.api.admissionregistration.v1alpha1.ParamRef",
    "io.k8s.api.admissionregistration.v1beta1.MatchResources",
    "io.k8s.api.admissionregistration.v1beta1.NamedRuleWithOperations",
    "io.k8s.api.admissionregistration.v1beta1.ParamKind",
    "io.k8s.api.admissionregistration.v1beta1.ParamRef",
    "io.k8s.api.admissionregistration.v1beta1.Variable",
    "io.k8s.api.autoscaling.v1.CrossVersionObjectReference",
    "io.k8s.api.core.v1.ConfigMapKeySelector",
    "io.k8s.api.core.v1.EndpointAddress",
    "io.k8s.api.core.v1.EndpointPort",
    "io.k8s.api.core.v1.FileKeySelector",
    "io.k8s.api.core.v1.LocalObjectReference",
    "io.k8s.api.core.v1.NodeSelector",
    "io.k8s.api.core.v1.NodeSelectorTerm",
    "io.k8s.api.core.v1.ObjectFieldSelector",
    "io.k8s.api.core.v1.ObjectReference",
    "io.k8s.api.core.v1.ResourceFieldSelector",
    "io.k8s.api.core.v1.ScopeSelector",
    "io.k8s.api.core.v1.SecretKeySelector",
    "io.k8s.api.core.v1.SecretReference",
    "io.k8s.api.core.v1.TopologySelectorTerm",
    "io.k8s.api.core.v1.TypedLocalObjectReference",
    "io.k8s.api.discovery.v1.EndpointPort",
    "io.k8s.api.networking.v1.ServiceBackendPort",
    "io.k8s.api.rbac.v1.RoleRef",
    "io.k8s.api.rbac.v1.Subject",
    "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector",
    "io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference",
];

/// Rules by owning type, sorted.
#[rustfmt::skip]
pub static RULES: &[(&str, &[Rule])] = &[
    ("dev.wharf.admission.v1alpha1.AdmissionPluginSpec", &[
        Rule::new("matchConditions", Merge, "name", Map(&["name"])),
    ]),
    ("dev.wharf.admission.v1alpha1.AdmissionPluginStatus", &[
        Rule::new("conditions", Merge, "type", Map(&["type"])),
    ]),
    ("io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicySpec", &[
        Rule::new("matchConditions", Merge, "name", Map(&["name"])),
    ]),
    ("io.k8s.api.admissionregistration.v1.MutatingWebhook", &[
        Rule::new("matchConditions", Merge, "name", Map(&["name"])),
    ]),
    ("io.k8s.api.admissionregistration.v1.MutatingWebhookConfiguration", &[
        Rule::new("webhooks", Merge, "name", Map(&["name"])),
    ]),
    ("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBindingSpec", &[
        Rule::new("validationActions", Plain, "", Set),
    ]),
    ("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicySpec", &[
        Rule::new("matchConditions", Merge, "name", Map(&["name"])),
        Rule::new("variables", Merge, "name", Map(&["name"])),
    ]),
    ("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyStatus", &[
        Rule::new("conditions", Plain, "", Map(&["type"])),
    ]),
    ("io.k8s.api.admissionregistration.v1.ValidatingWebhook", &[
        Rule::new("matchConditions", Merge, "name", Map(&["name"])),
    ]),
    ("io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration", &[
        Rule::new("webhooks", Merge, "name", Map(&["name"])),
    ]),
    ("io.k8s.api.admissionregistration.v1alpha1.MutatingAdmissionPolicySpec", &[
        Rule::new("matchConditions", Merge, "name", Map(&["name"])),
    ]),
    ("io.k8s.api.admissionregistration.v1beta1.MutatingAdmissionPolicySpec", &[
        Rule::new("matchConditions", Merge, "name", Map(&["name"])),
    ]),
    ("io.k8s.api.apiserverinternal.v1alpha1.ServerStorageVersion", &[
        Rule::new("decodableVersions", Plain, "", Set),
        Rule::new("servedVersions", Plain, "", Set),
    ]),
    ("io.k8s.api.apiserverinternal.v1alpha1.StorageVersionStatus", &[
        Rule::new("conditions", Plain, "", Map(&["type"])),
        Rule::new("storageVersions", Plain, "", Map(&["apiServerID"])),
    ]),
    ("io.k8s.api.apps.v1.DaemonSetStatus", &[
        Rule::new("conditions", Merge, "type", Map(&["type"])),
    ]),
    ("io.k8s.api.apps.v1.DeploymentSpec", &[
        Rule::new("strategy", RetainKeys, "", Granular),
    ]),
    ("io.k8s.api.apps.v1.DeploymentStatus", &[
        Rule::new("conditions", Merge, "type", Map(&["type"])),
    ]),
    ("io.k8s.api.apps.v1.ReplicaSetStatus", &[
        Rule::new("conditions", Merge, "type", Map(&["type"])),
    ]),
    ("io.k8s.api.apps.v1.StatefulSetStatus", &[
        Rule::new("conditions", Merge, "type", Map(&["type"])),
    ]),
    ("io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerStatus", &[
        Rule::new("conditions", Merge, "type", Map(&["type"])),
    ]),
    ("io.k8s.api.batch.v1.JobStatus", &[
        Rule::new("conditions", Merge, "type", AtomicList),
    ]),
    ("io.k8s.api.batch.v1.PodFailurePolicyOnExitCodesRequirement", &[
        Rule::new("values", Plain, "", Set),
    ]),
    ("io.k8s.api.batch.v1.UncountedTerminatedPods", &[
        Rule::new("failed", Plain, "", Set),
        Rule::new("succeeded", Plain, "", Set),
    ]),
    ("io.k8s.api.certificates.v1.CertificateSigningRequestStatus", &[
        Rule::new("conditions", Plain, "", Map(&["type"])),
    ]),
    ("io.k8s.api.certificates.v1beta1.PodCertificateRequestStatus", &[
        Rule::new("conditions", Merge, "type", Map(&["type"])),
    ]),
    ("io.k8s.api.core.v1.ComponentStatus", &[
        Rule::new("conditions", Merge, "type", Map(&["type"])),
    ]),
    ("io.k8s.api.core.v1.Container", &[
        Rule::new("env", Merge, "name", Map(&["name"])),
        Rule::new("ports", Merge, "containerPort", Map(&["containerPort", "protocol"])),
        Rule::new("volumeDevices", Merge, "devicePath", Map(&["devicePath"])),
        Rule::new("volumeMounts", Merge, "mountPath", Map(&["mountPath"])),
    ]),
    ("io.k8s.api.core.v1.ContainerRestartRuleOnExitCodes", &[
        Rule::new("values", Plain, "", Set),
    ]),
    ("io.k8s.api.core.v1.ContainerStatus", &[
        Rule::new("allocatedResourcesStatus", Merge, "name", Map(&["name"])),
        Rule::new("volumeMounts", Merge, "mountPath", Map(&["mountPath"])),
    ]),
    ("io.k8s.api.core.v1.EphemeralContainer", &[
        Rule::new("env", Merge, "name", Map(&["name"])),
        Rule::new("ports", Merge, "containerPort", Map(&["containerPort", "protocol"])),
        Rule::new("volumeDevices", Merge, "devicePath", Map(&["devicePath"])),
        Rule::new("volumeMounts", Merge, "mountPath", Map(&["mountPath"])),
    ]),
    ("io.k8s.api.core.v1.NamespaceStatus", &[
        Rule::new("conditions", Merge, "type", Map(&["type"])),
    ]),
    ("io.k8s.api.core.v1.NodeAllocatableResourceClaimStatus", &[
        Rule::new("containers", Plain, "", Set),
    ]),
    ("io.k8s.api.core.v1.NodeSpec", &[
        Rule::new("podCIDRs", Merge, "", Set),
    ]),
    ("io.k8s.api.core.v1.NodeStatus", &[
        Rule::new("addresses", Merge, "type", Map(&["type"])),
        Rule::new("conditions", Merge, "type", Map(&["type"])),
    ]),
    ("io.k8s.api.core.v1.PersistentVolumeClaimStatus", &[
        Rule::new("conditions", Merge, "type", Map(&["type"])),
    ]),
    ("io.k8s.api.core.v1.PodSpec", &[
        Rule::new("containers", Merge, "name", Map(&["name"])),
        Rule::new("ephemeralContainers", Merge, "name", Map(&["name"])),
        Rule::new("hostAliases", Merge, "ip", Map(&["ip"])),
        Rule::new("imagePullSecrets", Merge, "name", Map(&["name"])),
        Rule::new("initContainers", Merge, "name", Map(&["name"])),
        Rule::new("nodeSelector", Plain, "", AtomicMap),
        Rule::new("resourceClaims", MergeRetainKeys, "name", Map(&["name"])),
        Rule::new("schedulingGates", Merge, "name", Map(&["name"])),
        Rule::new("topologySpreadConstraints", Merge, "topologyKey", Map(&["topologyKey", "whenUnsatisfiable"])),
        Rule::new("volumes", MergeRetainKeys, "name", Map(&["name"])),
    ]),
    ("io.k8s.api.core.v1.PodStatus", &[
        Rule::new("conditions", Merge, "type", Map(&["type"])),
        Rule::new("hostIPs", Merge, "ip", AtomicList),
        Rule::new("podIPs", Merge, "ip", Map(&["ip"])),
        Rule::new("resourceClaimStatuses", MergeRetainKeys, "name", Map(&["name"])),
    ]),
    ("io.k8s.api.core.v1.ReplicationControllerSpec", &[
        Rule::new("selector", Plain, "", AtomicMap),
    ]),
    ("io.k8s.api.core.v1.ReplicationControllerStatus", &[
        Rule::new("conditions", Merge, "type", Map(&["type"])),
    ]),
    ("io.k8s.api.core.v1.ResourceRequirements", &[
        Rule::new("claims", Plain, "", Map(&["name"])),
    ]),
    ("io.k8s.api.core.v1.ResourceStatus", &[
        Rule::new("resources", Plain, "", Map(&["resourceID"])),
    ]),
    ("io.k8s.api.core.v1.ServiceAccount", &[
        Rule::new("secrets", Merge, "name", Map(&["name"])),
    ]),
    ("io.k8s.api.core.v1.ServiceSpec", &[
        Rule::new("ports", Merge, "port", Map(&["port", "protocol"])),
        Rule::new("selector", Plain, "", AtomicMap),
    ]),
    ("io.k8s.api.core.v1.ServiceStatus", &[
        Rule::new("conditions", Merge, "type", Map(&["type"])),
    ]),
    ("io.k8s.api.discovery.v1.Endpoint", &[
        Rule::new("addresses", Plain, "", Set),
    ]),
    ("io.k8s.api.flowcontrol.v1.FlowSchemaStatus", &[
        Rule::new("conditions", Merge, "type", Map(&["type"])),
    ]),
    ("io.k8s.api.flowcontrol.v1.NonResourcePolicyRule", &[
        Rule::new("nonResourceURLs", Plain, "", Set),
        Rule::new("verbs", Plain, "", Set),
    ]),
    ("io.k8s.api.flowcontrol.v1.PriorityLevelConfigurationStatus", &[
        Rule::new("conditions", Merge, "type", Map(&["type"])),
    ]),
    ("io.k8s.api.flowcontrol.v1.ResourcePolicyRule", &[
        Rule::new("apiGroups", Plain, "", Set),
        Rule::new("namespaces", Plain, "", Set),
        Rule::new("resources", Plain, "", Set),
        Rule::new("verbs", Plain, "", Set),
    ]),
    ("io.k8s.api.networking.v1.ServiceCIDRStatus", &[
        Rule::new("conditions", Merge, "type", Map(&["type"])),
    ]),
    ("io.k8s.api.networking.v1beta1.ServiceCIDRStatus", &[
        Rule::new("conditions", Merge, "type", Map(&["type"])),
    ]),
    ("io.k8s.api.node.v1.Scheduling", &[
        Rule::new("nodeSelector", Plain, "", AtomicMap),
    ]),
    ("io.k8s.api.policy.v1.PodDisruptionBudgetSpec", &[
        Rule::new("selector", Replace, "", Granular),
    ]),
    ("io.k8s.api.policy.v1.PodDisruptionBudgetStatus", &[
        Rule::new("conditions", Merge, "type", Map(&["type"])),
    ]),
    ("io.k8s.api.resource.v1.AllocatedDeviceStatus", &[
        Rule::new("conditions", Plain, "", Map(&["type"])),
    ]),
    ("io.k8s.api.resource.v1.ResourceClaimStatus", &[
        Rule::new("devices", Plain, "", Map(&["driver", "device", "pool", "shareID"])),
        Rule::new("reservedFor", Merge, "uid", Map(&["uid"])),
    ]),
    ("io.k8s.api.resource.v1alpha3.DeviceTaintRuleStatus", &[
        Rule::new("conditions", Merge, "type", Map(&["type"])),
    ]),
    ("io.k8s.api.resource.v1alpha3.ResourcePoolStatusRequestStatus", &[
        Rule::new("conditions", Merge, "type", Map(&["type"])),
    ]),
    ("io.k8s.api.resource.v1beta1.AllocatedDeviceStatus", &[
        Rule::new("conditions", Plain, "", Map(&["type"])),
    ]),
    ("io.k8s.api.resource.v1beta1.ResourceClaimStatus", &[
        Rule::new("devices", Plain, "", Map(&["driver", "device", "pool", "shareID"])),
        Rule::new("reservedFor", Merge, "uid", Map(&["uid"])),
    ]),
    ("io.k8s.api.resource.v1beta2.AllocatedDeviceStatus", &[
        Rule::new("conditions", Plain, "", Map(&["type"])),
    ]),
    ("io.k8s.api.resource.v1beta2.DeviceTaintRuleStatus", &[
        Rule::new("conditions", Merge, "type", Map(&["type"])),
    ]),
    ("io.k8s.api.resource.v1beta2.ResourceClaimStatus", &[
        Rule::new("devices", Plain, "", Map(&["driver", "device", "pool", "shareID"])),
        Rule::new("reservedFor", Merge, "uid", Map(&["uid"])),
    ]),
    ("io.k8s.api.scheduling.v1alpha2.PodGroupSpec", &[
        Rule::new("resourceClaims", MergeRetainKeys, "name", Map(&["name"])),
    ]),
    ("io.k8s.api.scheduling.v1alpha2.PodGroupStatus", &[
        Rule::new("conditions", Merge, "type", Map(&["type"])),
        Rule::new("resourceClaimStatuses", MergeRetainKeys, "name", Map(&["name"])),
    ]),
    ("io.k8s.api.scheduling.v1alpha2.PodGroupTemplate", &[
        Rule::new("resourceClaims", MergeRetainKeys, "name", Map(&["name"])),
    ]),
    ("io.k8s.api.scheduling.v1alpha2.WorkloadSpec", &[
        Rule::new("podGroupTemplates", Plain, "", Map(&["name"])),
    ]),
    ("io.k8s.api.storage.v1.CSIDriverSpec", &[
        Rule::new("volumeLifecycleModes", Plain, "", Set),
    ]),
    ("io.k8s.api.storage.v1.CSINodeSpec", &[
        Rule::new("drivers", Merge, "name", Map(&["name"])),
    ]),
    ("io.k8s.api.storagemigration.v1beta1.StorageVersionMigrationStatus", &[
        Rule::new("conditions", Merge, "type", Map(&["type"])),
    ]),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionStatus", &[
        Rule::new("conditions", Plain, "", Map(&["type"])),
    ]),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps", &[
        Rule::new("x-kubernetes-validations", Merge, "rule", Map(&["rule"])),
    ]),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", &[
        Rule::new("finalizers", Merge, "", Set),
        Rule::new("ownerReferences", Merge, "uid", Map(&["uid"])),
    ]),
    ("io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIServiceStatus", &[
        Rule::new("conditions", Merge, "type", Map(&["type"])),
    ]),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Shape, types};

    #[test]
    fn every_rule_names_a_field_that_the_schema_has() {
        for (owner, rules) in RULES {
            for rule in *rules {
                let shape = types().field(owner, rule.field);
                assert!(shape.is_some(), "{owner}.{} is not in the schemas", rule.field);
                let is_list = matches!(shape, Some(Shape::List(_)));
                assert_eq!(is_list, matches!(rule.topology, AtomicList | Set | Map(_)), "{owner}.{}", rule.field);
            }
        }
    }

    #[test]
    fn every_key_is_a_field_of_the_list_items() {
        for (owner, rules) in RULES {
            for rule in *rules {
                let Some(Shape::List(item)) = types().field(owner, rule.field) else { continue };
                let keys: &[&str] = if let Map(keys) = rule.topology { keys } else { &[] };
                for key in keys.iter().chain(Some(&rule.merge_key).filter(|key| !key.is_empty())) {
                    let Shape::Named(item) = &**item else {
                        panic!("{owner}.{} has keys but scalar items", rule.field)
                    };
                    assert!(types().field(item, key).is_some(), "{item} has no {key}");
                }
            }
        }
    }

    #[test]
    fn the_tables_are_sorted_and_without_duplicates() {
        assert!(RULES.is_sorted_by(|a, b| a.0 < b.0));
        assert!(RULES.iter().all(|(_, rules)| rules.is_sorted_by(|a, b| a.field < b.field)));
        assert!(ATOMIC_TYPES.is_sorted_by(|a, b| a < b));
        assert!(ATOMIC_TYPES.iter().all(|name| types().knows(name)));
    }
}
