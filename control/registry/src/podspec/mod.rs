//! The pod spec, which Pod and every kind with a pod template share: its defaults and its validation.
//!
//! Source: `pkg/apis/core/v1/defaults.go`, `pkg/apis/core/validation/validation.go`. A file for each part of the spec:
//! [`containers`](container), [`volumes`](volume), [`probes`](probe) and hooks, [`resources`], [`scheduling`], [`security`].

pub mod container;
pub mod defaults;
pub mod env;
mod mount;
pub mod probe;
mod projected;
pub mod qos;
pub mod resources;
pub mod scheduling;
pub mod security;
mod spec;
pub mod volume;
pub mod warnings;

use wharf_machinery::selector;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::{Container, PodSpec, PodTemplateSpec};
use wharf_types::meta::ObjectMeta;

/// Whose spec it is; some rules are for pods alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Pod,
    Template,
}

/// The init containers, then the others.
pub fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// A sidecar: an init container that goes on running beside the others.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Checks a pod template, whose own name and namespace mean nothing.
pub fn validate_template(template: &PodTemplateSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if let Some(meta) = &template.metadata {
        errors.extend(selector::validate_labels(meta.labels.as_ref(), &path.child("labels")));
        errors.extend(crate::meta::validate_annotations(meta, &path.child("annotations")));
    }
    let empty = PodSpec::default();
    let spec = template.spec.as_ref().unwrap_or(&empty);
    let path = path.child("spec");
    errors.extend(spec::validate(spec, Owner::Template, &path));
    if spec.ephemeral_containers.as_ref().is_some_and(|all| !all.is_empty()) {
        let why = "ephemeral containers not allowed in pod template";
        errors.push(Error::forbidden(&path.child("ephemeralContainers"), why));
    }
    errors
}

/// Checks the spec of a pod; `meta` is the pod's own.
pub fn validate_pod(pod: &PodSpec, meta: &ObjectMeta, path: &Path) -> Errors {
    let mut errors = spec::validate(pod, Owner::Pod, path);
    let gated = pod.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    if gated && pod.node_name.as_ref().is_some_and(|name| !name.is_empty()) {
        let why = "cannot be set until all schedulingGates have been cleared";
        errors.push(Error::forbidden(&path.child("nodeName"), why));
    }
    // A pod's first write has no version; its ephemeral containers come later, through their subresource.
    let is_new = meta.resource_version.as_deref().unwrap_or_default().is_empty();
    if is_new && pod.ephemeral_containers.as_ref().is_some_and(|all| !all.is_empty()) {
        errors.push(Error::forbidden(&path.child("ephemeralContainers"), "cannot be set on create"));
    }
    errors
}
