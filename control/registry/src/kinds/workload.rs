//! What the kinds that make pods from a template say in the same way: of the selector, the template and its warnings.
//!
//! Source: `pkg/apis/apps/validation`, `ValidatePodTemplateSpecForRC`, and the `WarningsOnCreate` and `WarningsOnUpdate` of
//! the kinds. What their writes keep is in [`super::spec_status`].

use serde_json::Value;
use wharf_machinery::names;
use wharf_machinery::selector::{self, LabelSelector};
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::PodTemplateSpec;
use wharf_types::meta::{self, ObjectMeta};

use crate::checks;
use crate::podspec::{self, warnings};

/// The cells of the wide columns `Containers` and `Images`.
pub fn template_cells(template: &PodTemplateSpec) -> [Value; 2] {
    let containers = template.spec.as_ref().map_or(&[][..], |spec| &spec.containers);
    let names: Vec<&str> = containers.iter().map(|container| container.name.as_str()).collect();
    let images: Vec<&str> = containers.iter().map(|container| container.image.as_deref().unwrap_or_default()).collect();
    [names.join(",").into(), images.join(",").into()]
}

/// True where an update leaves the spec alone: then nothing is warned of again.
pub fn is_unchanged(meta: &ObjectMeta, old: Option<&ObjectMeta>) -> bool {
    old.is_some_and(|old| old.generation == meta.generation)
}

/// What is odd about the template of a new spec.
pub fn template_warnings(
    meta: &ObjectMeta,
    old: Option<&ObjectMeta>,
    template: Option<&PodTemplateSpec>,
) -> Vec<String> {
    if is_unchanged(meta, old) {
        return Vec::new();
    }
    template.into_iter().flat_map(|template| warnings::template(template, "spec.template")).collect()
}

/// Warns of a new object's name that makes no good hostname.
pub fn name_warnings(meta: &ObjectMeta, old: Option<&ObjectMeta>) -> Vec<String> {
    let wrong = names::dns1123_label(meta.name.as_deref().unwrap_or_default());
    if old.is_some() || wrong.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
        wrong.join(" ")
    )]
}

/// A workload's selector: there must be one, and it must select something less than everything. `kind` is how the message
/// names the kind.
///
/// A body that leaves the selector out cannot be told from one with `{}`; the former is the common mistake.
pub fn validate_selector(selector: &meta::LabelSelector, kind: &str, path: &Path) -> Errors {
    if *selector == meta::LabelSelector::default() {
        return vec![Error::required(path, "")];
    }
    let mut errors = selector::validate(selector, path);
    if is_empty(selector) {
        let why = format!("empty selector is invalid for {kind}");
        errors.push(Error::invalid(path, checks::json(selector), why));
    }
    errors
}

pub fn is_empty(selector: &meta::LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(|labels| labels.is_empty())
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// A template whose pods a controller of this kind keeps running.
pub fn validate_template(
    template: Option<&PodTemplateSpec>,
    selector: &meta::LabelSelector,
    kind: &str,
    path: &Path,
) -> Errors {
    let Some(template) = template else { return vec![Error::required(path, "")] };
    // Without a selector nothing matches; with an empty one there is nothing to match.
    let matcher = match selector {
        selector if *selector == meta::LabelSelector::default() => LabelSelector::nothing(),
        selector => LabelSelector::from_meta(selector),
    };
    let mut errors = Vec::new();
    if !matcher.is_everything() {
        errors.extend(validate_match(template, &matcher, path));
    }
    errors.extend(podspec::validate_template(template, path));
    errors.extend(validate_long_running(template, kind, path));
    errors
}

/// A controller must find the pods that it makes.
pub fn validate_match(template: &PodTemplateSpec, selector: &LabelSelector, path: &Path) -> Errors {
    let labels = template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
    if selector.matches(&labels.cloned().unwrap_or_default()) {
        return Vec::new();
    }
    let why = "`selector` does not match template `labels`";
    vec![Error::invalid(&path.child("metadata").child("labels"), checks::json(&labels), why)]
}

/// The names of revisions that were taken are counted, and the count never goes back.
pub fn validate_collisions(new: Option<i32>, old: Option<i32>) -> Errors {
    let (new, old) = (new.unwrap_or_default(), old.unwrap_or_default());
    if new >= old {
        return Vec::new();
    }
    vec![Error::invalid(&Path::new("status").child("collisionCount"), new, "cannot be decremented")]
}

/// What keeps running must not end on its own.
pub fn validate_long_running(template: &PodTemplateSpec, kind: &str, path: &Path) -> Errors {
    let path = path.child("spec");
    let policy = template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or_default();
    let mut errors = checks::one_of(policy, &["Always"], &path.child("restartPolicy"));
    if template.spec.as_ref().is_some_and(|spec| spec.active_deadline_seconds.is_some()) {
        let why = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.push(Error::forbidden(&path.child("activeDeadlineSeconds"), why));
    }
    errors
}
