//! The built-in plugins, in the order of upstream's `AllOrderedPlugins`.

mod always_admit;
mod always_deny;
mod always_pull_images;
mod certificate_approval;
mod certificate_signing;
mod certificate_subject_restriction;
mod default_ingress_class;
mod default_storage_class;
mod default_toleration_seconds;
mod deny_service_external_ips;
mod event_rate_limit;
mod extended_resource_toleration;
mod gated;
mod image_policy_webhook;
mod limit_pod_hard_anti_affinity_topology;
mod limit_ranger;
mod mutating_plugin;
mod mutating_policy;
mod mutating_webhook;
mod namespace_autoprovision;
mod namespace_exists;
mod namespace_lifecycle;
mod node_declared_feature_validator;
mod node_restriction;
mod owner_references_permission_enforcement;
mod persistent_volume_claim_resize;
mod pod_node_selector;
mod pod_resize_validator;
pub mod pod_security;
mod pod_toleration_restriction;
mod pod_topology_labels;
mod priority;
mod resource_quota;
mod runtime_class;
mod service_account;
mod storage_object_in_use_protection;
mod taint_nodes_by_condition;
#[cfg(test)]
pub(crate) mod testing;
mod validating_plugin;
mod validating_policy;
mod validating_webhook;

use std::borrow::Cow;
use std::sync::Arc;

use wharf_types::k8s::api::core::v1::Pod;
use wharf_types::meta::ObjectMeta;
use wharf_types::{ApiError, Gvr};

use crate::wasm::Host;
use crate::{Attributes, Plugin, Reader};

/// All of them; `host` runs those that are components. Adding one is a file and a line.
pub fn ordered(host: &Arc<Host>) -> Vec<Box<dyn Plugin>> {
    vec![
        Box::new(always_admit::AlwaysAdmit),
        Box::new(namespace_autoprovision::NamespaceAutoProvision),
        Box::new(namespace_lifecycle::NamespaceLifecycle),
        Box::new(namespace_exists::NamespaceExists),
        Box::new(limit_pod_hard_anti_affinity_topology::LimitPodHardAntiAffinityTopology),
        Box::new(limit_ranger::LimitRanger),
        Box::new(service_account::ServiceAccountPlugin::default()),
        Box::new(node_restriction::NodeRestriction),
        Box::new(taint_nodes_by_condition::TaintNodesByCondition),
        Box::new(always_pull_images::AlwaysPullImages),
        Box::new(image_policy_webhook::ImagePolicyWebhook::default()),
        Box::new(pod_security::PodSecurity::default()),
        Box::new(pod_node_selector::PodNodeSelector::default()),
        Box::new(priority::Priority::default()),
        Box::new(default_toleration_seconds::DefaultTolerationSeconds),
        Box::new(pod_toleration_restriction::PodTolerationRestriction::default()),
        Box::new(event_rate_limit::EventRateLimit::default()),
        Box::new(extended_resource_toleration::ExtendedResourceToleration),
        Box::new(default_storage_class::DefaultStorageClass),
        Box::new(storage_object_in_use_protection::StorageObjectInUseProtection),
        Box::new(gated::POD_GROUP_PROTECTION),
        Box::new(owner_references_permission_enforcement::OwnerReferencesPermissionEnforcement),
        Box::new(persistent_volume_claim_resize::PersistentVolumeClaimResize),
        Box::new(runtime_class::RuntimeClassPlugin),
        Box::new(certificate_approval::CertificateApproval),
        Box::new(certificate_signing::CertificateSigning),
        Box::new(gated::CLUSTER_TRUST_BUNDLE_ATTEST),
        Box::new(certificate_subject_restriction::CertificateSubjectRestriction),
        Box::new(default_ingress_class::DefaultIngressClass),
        Box::new(deny_service_external_ips::DenyServiceExternalIps),
        Box::new(pod_topology_labels::PodTopologyLabels),
        Box::new(gated::POD_GROUP_WORKLOAD_EXISTS),
        Box::new(node_declared_feature_validator::NodeDeclaredFeatureValidator),
        Box::new(gated::JOB_VALIDATION),
        Box::new(pod_resize_validator::PodResizeValidator),
        Box::new(mutating_policy::MutatingAdmissionPolicies::default()),
        Box::new(mutating_plugin::MutatingAdmissionPlugin::new(host.clone())),
        Box::new(mutating_webhook::MutatingAdmissionWebhook::default()),
        Box::new(validating_policy::ValidatingAdmissionPolicies::default()),
        Box::new(validating_plugin::ValidatingAdmissionPlugin::new(host.clone())),
        Box::new(validating_webhook::ValidatingAdmissionWebhook::default()),
        // After all that may refuse: it charges.
        Box::new(resource_quota::ResourceQuotaPlugin::default()),
        Box::new(always_deny::AlwaysDeny),
    ]
}

/// Those that run only where they are asked for: upstream's `DefaultOffAdmissionPlugins`, but for `NodeRestriction`, which
/// every installer asks for.
pub const OFF_BY_DEFAULT: &[&str] = &[
    "AlwaysAdmit",
    "NamespaceAutoProvision",
    "NamespaceExists",
    "LimitPodHardAntiAffinityTopology",
    "AlwaysPullImages",
    "ImagePolicyWebhook",
    "PodNodeSelector",
    "PodTolerationRestriction",
    "EventRateLimit",
    "ExtendedResourceToleration",
    "OwnerReferencesPermissionEnforcement",
    "DenyServiceExternalIPs",
    "AlwaysDeny",
];

/// In upstream's words, as such a plugin starts.
fn warn_deprecated(plugin: &str) {
    tracing::warn!(
        "{plugin} admission controller is deprecated. Please remove this controller from your configuration files and scripts."
    );
}

/// The name of the class that says it is the default one; of several the newest, and of those the first by name.
fn newest_default(cluster: &dyn Reader, classes: &Gvr, annotations: &[&str]) -> Option<String> {
    let all = cluster.list(classes, None);
    let is_default = |meta: &&ObjectMeta| {
        let held = meta.annotations.as_ref();
        annotations.iter().any(|key| held.and_then(|held| held.get(*key)).is_some_and(|value| value == "true"))
    };
    let mut found: Vec<&ObjectMeta> = all.iter().map(|object| object.meta()).filter(is_default).collect();
    found.sort_by(|a, b| b.creation_timestamp.cmp(&a.creation_timestamp).then_with(|| a.name.cmp(&b.name)));
    found.first().and_then(|meta| meta.name.clone())
}

/// A resource of the core group, for plugins to look things up by.
const fn core_v1(resource: &'static str) -> Gvr {
    gvr("", "v1", resource)
}

const fn gvr(group: &'static str, version: &'static str, resource: &'static str) -> Gvr {
    Gvr { group: Cow::Borrowed(group), version: Cow::Borrowed(version), resource: Cow::Borrowed(resource) }
}

/// Several reasons as one, as upstream's `utilerrors.NewAggregate` words them: each once.
fn refusals(reasons: &[String]) -> String {
    let mut distinct: Vec<&str> = Vec::new();
    for reason in reasons {
        if !distinct.contains(&reason.as_str()) {
            distinct.push(reason);
        }
    }
    match distinct.as_slice() {
        [one] => (*one).to_owned(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// The new pod and its node, where the spec of a pod that has a node changes.
fn changed_on_node(write: &Attributes) -> Option<(&Pod, &str)> {
    let (new, old) = (write.new_as::<Pod>()?, write.old_as::<Pod>()?);
    let node = new.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())?;
    // A change of the spec is what makes a new generation.
    (write.about("", "pods") && new.metadata.generation != old.metadata.generation).then_some((new, node))
}

/// On static pods' images in the API, which only their node may make.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

impl Attributes {
    /// The new object, if it is a `K`.
    fn new_as<K: 'static>(&self) -> Option<&K> {
        self.object.as_ref().and_then(|object| object.downcast_ref())
    }

    fn new_as_mut<K: 'static>(&mut self) -> Option<&mut K> {
        self.object.as_mut().and_then(|object| object.downcast_mut())
    }

    fn old_as<K: 'static>(&self) -> Option<&K> {
        self.old.as_ref().and_then(|object| object.downcast_ref())
    }

    /// True for the resource itself, not for one of its subresources.
    fn is(&self, group: &str, resource: &str) -> bool {
        self.subresource.is_none() && self.about(group, resource)
    }

    /// True for the resource and all of its subresources.
    fn about(&self, group: &str, resource: &str) -> bool {
        self.row.gvr.group == group && self.row.gvr.resource == resource
    }

    /// A refusal that names the object as far as it has a name yet (`admission.NewForbidden`).
    fn forbidden(&self, why: impl std::fmt::Display) -> ApiError {
        let meta = self.object.as_ref().map(|object| object.meta());
        let given = |name: Option<&String>| name.filter(|name| !name.is_empty()).cloned();
        let name = given(Some(&self.name))
            .or_else(|| given(meta?.name.as_ref()))
            .or_else(|| given(meta?.generate_name.as_ref()))
            .unwrap_or_else(|| "Unknown".to_owned());
        ApiError::forbidden(&self.row.gvr, &name, why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Chain;

    /// Upstream's `AllOrderedPlugins`, with a minus before those that are off by default.
    const UPSTREAM: &str = "
        -AlwaysAdmit -NamespaceAutoProvision NamespaceLifecycle -NamespaceExists -LimitPodHardAntiAffinityTopology
        LimitRanger ServiceAccount -NodeRestriction TaintNodesByCondition -AlwaysPullImages -ImagePolicyWebhook PodSecurity
        -PodNodeSelector Priority DefaultTolerationSeconds -PodTolerationRestriction -EventRateLimit
        -ExtendedResourceToleration DefaultStorageClass StorageObjectInUseProtection PodGroupProtection
        -OwnerReferencesPermissionEnforcement PersistentVolumeClaimResize RuntimeClass CertificateApproval
        CertificateSigning ClusterTrustBundleAttest CertificateSubjectRestriction DefaultIngressClass
        -DenyServiceExternalIPs PodTopologyLabels PodGroupWorkloadExists NodeDeclaredFeatureValidator JobValidation
        PodResizeValidator MutatingAdmissionPolicy MutatingAdmissionWebhook ValidatingAdmissionPolicy
        ValidatingAdmissionWebhook ResourceQuota -AlwaysDeny";
    /// Plugins that upstream does not have.
    const OWN: [&str; 2] = ["MutatingAdmissionPlugin", "ValidatingAdmissionPlugin"];

    #[test]
    fn plugins_are_upstreams_in_name_order_and_default() {
        let upstream = || UPSTREAM.split_whitespace();
        let all: Vec<&str> = ordered(&Arc::default()).iter().map(|plugin| plugin.name()).collect();
        let shared = |names: &[&'static str]| -> Vec<&str> {
            names.iter().copied().filter(|name| !OWN.contains(name)).collect()
        };
        assert_eq!(shared(&all), upstream().map(|name| name.trim_start_matches('-')).collect::<Vec<_>>());
        let chain = Chain::built_in();
        let on: Vec<&str> = chain.names().filter(|name| *name != "NodeRestriction").collect();
        assert_eq!(shared(&on), upstream().filter(|name| !name.starts_with('-')).collect::<Vec<_>>());
        assert!(chain.names().any(|name| name == "NodeRestriction"), "as installers have it");
        for (own, before) in OWN.iter().zip(["MutatingAdmissionWebhook", "ValidatingAdmissionWebhook"]) {
            let place = |name: &str| all.iter().position(|held| *held == name);
            assert_eq!(place(own).map(|at| at + 1), place(before), "{own}");
        }
    }
}
