//! Holds pods to the Pod Security Standard that their namespace asks for, and warns of workloads whose pods would be refused.
//!
//! Source: `plugin/pkg/admission/security/podsecurity` and `k8s.io/pod-security-admission/admission`; the checks are those of the
//! policy of v1.36. Only pods are refused; a workload's template is a warning and a note for the audit log.

mod baseline;
mod checks;
mod configuration;
mod policy;
mod restricted;

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_yaml::Value;
use wharf_registry::Subresource;
use wharf_types::k8s::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use wharf_types::k8s::api::batch::v1::{CronJob, Job};
use wharf_types::k8s::api::core::v1::{Namespace, Pod, PodSpec, PodTemplate, PodTemplateSpec, ReplicationController};
use wharf_types::meta::ObjectMeta;
use wharf_types::{AnyObject, ApiError, Gvr};

use self::checks::Subject;
pub use self::policy::{Level, LevelVersion, Policy, Version};
use crate::config::Load;
use crate::{Attributes, Notes, Operation, Plugin, Reader};

const NAMESPACES: Gvr = super::core_v1("namespaces");
const PODS: Gvr = super::core_v1("pods");

/// Pods of a namespace that are looked at when its policy gets stricter. Source: `defaultNamespaceMaxPodsToCheck`.
const PODS_MAX: usize = 3000;
/// How long that may take. Source: `defaultNamespacePodCheckTimeout`.
const PODS_PATIENCE: Duration = Duration::from_secs(1);

/// Says in the audit log why nothing was asked.
const EXEMPT: &str = "pod-security.kubernetes.io/exempt";

/// Upstream's `PodSecurityConfiguration`.
#[derive(Clone, Debug, Default)]
pub struct PodSecurity {
    /// What holds in namespaces that do not say.
    pub defaults: Policy,
    pub exempt_users: Vec<String>,
    pub exempt_namespaces: Vec<String>,
    pub exempt_runtime_classes: Vec<String>,
}

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn configure(&mut self, part: Option<&Value>, _: &Load<'_>) -> Result<(), String> {
        if let Some(part) = part {
            *self = configuration::read(part)?;
        }
        Ok(())
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, write: &Attributes, cluster: &dyn Reader, notes: &mut Notes) -> Result<(), ApiError> {
        let Some(object) = write.object.as_deref() else { return Ok(()) };
        if write.is("", "namespaces") {
            return self.namespace(write, cluster, notes);
        }
        let is_pod = write.about("", "pods");
        if !is_pod && write.subresource.is_some() || is_pod && !may_change_spec(write.subresource) {
            return Ok(());
        }
        let Some((meta, spec)) = template(object) else { return Ok(()) };
        if let Some(exempt) = self.exemption(write) {
            notes.audit_annotations.insert(EXEMPT.to_owned(), exempt.to_owned());
            return Ok(());
        }
        self.pod(&Subject { meta, spec }, write, cluster, notes)
    }
}

fn may_change_spec(subresource: Option<Subresource>) -> bool {
    matches!(subresource, None | Some(Subresource::EphemeralContainers | Subresource::Resize))
}

/// What pods of the object look like; none for a kind that makes none.
fn template(object: &dyn AnyObject) -> Option<(&ObjectMeta, &PodSpec)> {
    if let Some(pod) = object.downcast_ref::<Pod>() {
        return Some((&pod.metadata, pod.spec.as_ref()?));
    }
    macro_rules! template_of {
        ($($kind:ty => $path:expr),* $(,)?) => {
            $(if let Some(object) = object.downcast_ref::<$kind>() {
                let template: fn(&$kind) -> Option<&PodTemplateSpec> = $path;
                return of_template(template(object)?);
            })*
        };
    }
    template_of! {
        PodTemplate => |it| it.template.as_ref(),
        ReplicationController => |it| it.spec.as_ref()?.template.as_ref(),
        ReplicaSet => |it| it.spec.as_ref()?.template.as_ref(),
        Deployment => |it| Some(&it.spec.as_ref()?.template),
        DaemonSet => |it| Some(&it.spec.as_ref()?.template),
        StatefulSet => |it| Some(&it.spec.as_ref()?.template),
        Job => |it| Some(&it.spec.as_ref()?.template),
        CronJob => |it| Some(&it.spec.job_template.spec.as_ref()?.template),
    }
    None
}

fn of_template(template: &PodTemplateSpec) -> Option<(&ObjectMeta, &PodSpec)> {
    static NO_META: std::sync::LazyLock<ObjectMeta> = std::sync::LazyLock::new(ObjectMeta::default);
    Some((template.metadata.as_ref().unwrap_or(&NO_META), template.spec.as_ref()?))
}

/// An update of a pod matters where a container is new, has another image, or is confined otherwise by an annotation.
fn is_significant(write: &Attributes) -> bool {
    let (Some(new), Some(old)) = (write.new_as::<Pod>(), write.old_as::<Pod>()) else { return true };
    let confined = |pod: &Pod| -> Vec<(String, String)> {
        let all = pod.metadata.annotations.iter().flatten();
        let seccomp = all.filter(|(key, _)| baseline::is_seccomp(key));
        seccomp.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let images = |pod: &Pod| -> Vec<(String, String)> {
        let spec = pod.spec.iter();
        let all = spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
        all.map(|it| (it.name.clone(), it.image.clone().unwrap_or_default())).collect()
    };
    let debuggers = |pod: &Pod| -> HashSet<(String, String)> {
        let all = pod.spec.iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten());
        all.map(|it| (it.name.clone(), it.image.clone().unwrap_or_default())).collect()
    };
    confined(new) != confined(old) || images(new) != images(old) || !debuggers(new).is_subset(&debuggers(old))
}

fn is_in(list: &[String], name: Option<&str>) -> bool {
    name.is_some_and(|name| list.iter().any(|held| held == name))
}

impl PodSecurity {
    /// Why nothing is asked here, whatever the namespace says.
    fn exemption(&self, write: &Attributes) -> Option<&'static str> {
        if is_in(&self.exempt_namespaces, write.namespace.as_deref()) {
            return Some("namespace");
        }
        is_in(&self.exempt_users, Some(&write.user.name)).then_some("user")
    }

    /// Judges a pod, or what would become one.
    fn pod(
        &self,
        subject: &Subject,
        write: &Attributes,
        cluster: &dyn Reader,
        notes: &mut Notes,
    ) -> Result<(), ApiError> {
        let is_pod = write.about("", "pods");
        let name = write.namespace.as_deref().unwrap_or_default();
        let mut note = |key: &str, text: String| {
            notes.audit_annotations.insert(format!("{}{key}", policy::PREFIX), text);
        };
        let found = cluster.get(&NAMESPACES, None, name);
        let Some(namespace) = found.as_ref().and_then(|object| object.downcast_ref::<Namespace>()) else {
            let missing = format!("failed to lookup namespace {name:?}");
            if is_pod {
                return Err(ApiError::internal(missing));
            }
            note("error", format!("{missing}: namespaces {name:?} not found"));
            return Ok(());
        };
        let (policy, errors) = Policy::of(namespace.metadata.labels.as_ref(), &self.defaults);
        if errors.is_empty() && policy.is_privileged() {
            if is_pod {
                note("enforce-policy", "privileged:latest".to_owned());
            }
            return Ok(());
        }
        if is_pod && !is_significant(write) {
            return Ok(());
        }
        if is_in(&self.exempt_runtime_classes, subject.spec.runtime_class_name.as_deref()) {
            notes.audit_annotations.insert(EXEMPT.to_owned(), "runtimeClass".to_owned());
            return Ok(());
        }
        let mut note = |key: &str, text: String| {
            notes.audit_annotations.insert(format!("{}{key}", policy::PREFIX), text);
        };
        if !errors.is_empty() {
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            note("error", format!("Failed to parse policy: {}", super::refusals(&errors)));
        }
        let details = |asked: LevelVersion| {
            let broken = checks::evaluate(asked, subject);
            (!broken.is_empty()).then(|| checks::details(&broken))
        };
        let would = |asked: LevelVersion| {
            details(asked).map(|details| format!("would violate PodSecurity \"{asked}\": {details}"))
        };
        if let Some(text) = would(policy.audit) {
            note("audit-violations", text);
        }
        if is_pod {
            note("enforce-policy", policy.enforce.to_string());
            if let Some(details) = details(policy.enforce) {
                return Err(write.forbidden(format_args!("violates PodSecurity \"{}\": {details}", policy.enforce)));
            }
        }
        notes.warnings.extend(would(policy.warn));
        Ok(())
    }

    /// Labels must be readable; whoever makes a policy stricter hears of the pods that break it already.
    fn namespace(&self, write: &Attributes, cluster: &dyn Reader, notes: &mut Notes) -> Result<(), ApiError> {
        let Some(namespace) = write.new_as::<Namespace>() else { return Ok(()) };
        let labels = namespace.metadata.labels.as_ref();
        let (policy, errors) = Policy::of(labels, &self.defaults);
        let old = write.old_as::<Namespace>().filter(|_| write.operation == Operation::Update);
        let before = old.map(|old| Policy::of(old.metadata.labels.as_ref(), &self.defaults));
        if !errors.is_empty() && before.as_ref().is_none_or(|(_, held)| *held != errors) {
            return Err(ApiError::invalid(&write.row.gvk, &write.name, &errors));
        }
        if let Some((before, _)) = before {
            let (new, old) = (policy.enforce, before.enforce);
            let is_looser = new.version == old.version && new.level <= old.level;
            if new == old || new.level == Level::Privileged || is_looser {
                return Ok(());
            }
        }
        let name = namespace.metadata.name.as_deref().unwrap_or_default();
        if self.exempt_namespaces.iter().any(|exempt| exempt == name) {
            notes.warnings.extend(self.ignored(name, labels, &policy));
        } else if write.operation == Operation::Update {
            notes.warnings.extend(self.existing_pods(name, policy.enforce, cluster));
        }
        Ok(())
    }

    /// Tells that labels of an exempt namespace do nothing.
    fn ignored(&self, name: &str, labels: Option<&BTreeMap<String, String>>, policy: &Policy) -> Option<String> {
        if policy.is_privileged() || *policy == self.defaults {
            return None;
        }
        let has = |label: String| labels.is_some_and(|labels| labels.contains_key(&label));
        let modes = [("enforce", policy.enforce), ("audit", policy.audit), ("warn", policy.warn)];
        let said = modes.iter().filter(|(mode, asked)| {
            let label = format!("{}{mode}", policy::PREFIX);
            asked.level != Level::Privileged && (has(label.clone()) || has(format!("{label}-version")))
        });
        let said: Vec<String> = said.map(|(mode, asked)| format!("{mode}={asked}")).collect();
        let said = said.join(", ");
        Some(format!("namespace {name:?} is exempt from Pod Security, and the policy ({said}) will be ignored"))
    }

    fn existing_pods(&self, namespace: &str, asked: LevelVersion, cluster: &dyn Reader) -> Vec<String> {
        let until = Instant::now() + PODS_PATIENCE;
        let found = cluster.list(&PODS, Some(namespace));
        let pods = self.by_priority(found.iter().filter_map(|object| object.downcast_ref::<Pod>()).collect());
        // For each list of reasons the first pod that has them, and how many do.
        let mut broken: BTreeMap<String, (&str, usize)> = BTreeMap::new();
        let mut checked = 0;
        for pod in pods.iter().take(PODS_MAX) {
            checked += 1;
            let Some(spec) = &pod.spec else { continue };
            let found = checks::evaluate(asked, &Subject { meta: &pod.metadata, spec });
            if !found.is_empty() {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                let (first, count) = broken.entry(checks::reasons(&found)).or_insert((name, 0));
                *first = name.min(first);
                *count += 1;
            }
            if Instant::now() > until {
                break;
            }
        }
        let mut warnings = Vec::new();
        if checked < pods.len() {
            let all = pods.len();
            warnings.push(format!(
                "new PodSecurity enforce level only checked against the first {checked} of {all} existing pods"
            ));
        }
        if !broken.is_empty() {
            warnings.push(format!(
                "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{asked}\""
            ));
        }
        let mut shown: Vec<String> = broken
            .into_iter()
            .map(|(reasons, (first, count))| match count {
                1 => format!("{first}: {reasons}"),
                2 => format!("{first} (and 1 other pod): {reasons}"),
                _ => format!("{first} (and {} other pods): {reasons}", count - 1),
            })
            .collect();
        shown.sort();
        warnings.extend(shown);
        warnings
    }

    /// One pod of each controller first: the others will be like it.
    fn by_priority<'a>(&self, pods: Vec<&'a Pod>) -> Vec<&'a Pod> {
        let mut seen: HashSet<&str> = HashSet::new();
        let controller = |pod: &'a Pod| {
            let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
            owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
        };
        let class = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.clone());
        let counted =
            pods.into_iter().filter(|pod| class(pod).is_none_or(|it| !self.exempt_runtime_classes.contains(&it)));
        let (mut first, rest): (Vec<&Pod>, Vec<&Pod>) =
            counted.partition(|pod| controller(pod).is_none_or(|uid| seen.insert(uid)));
        first.extend(rest);
        first
    }
}

#[cfg(test)]
mod tests;
