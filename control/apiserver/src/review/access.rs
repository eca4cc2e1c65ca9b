//! May somebody do something?
//!
//! Source: `pkg/registry/authorization/{subject,localsubject,selfsubject}accessreview`, `pkg/apis/authorization/validation`.

use wharf_auth::{Attributes, Decision, Requirement, User};
use wharf_types::ApiError;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::authorization::v1::{
    FieldSelectorAttributes, LabelSelectorAttributes, LocalSubjectAccessReview, NonResourceAttributes,
    ResourceAttributes, SelfSubjectAccessReview, SubjectAccessReview, SubjectAccessReviewSpec,
    SubjectAccessReviewStatus,
};

use super::{Asked, bare};
use crate::request::{field_requirements, label_requirements};

impl Asked<'_> {
    pub(super) async fn subject_access(&self, review: &mut SubjectAccessReview) -> Result<(), ApiError> {
        let mut errors = validate_spec(&review.spec, &Path::new("spec"));
        errors.extend(bare(&review.metadata, false));
        self.invalid(&errors)?;
        review.status = Some(self.decide(&review.spec).await);
        Ok(())
    }

    pub(super) async fn local_subject_access(&self, review: &mut LocalSubjectAccessReview) -> Result<(), ApiError> {
        let path = Path::new("spec");
        let mut errors = validate_spec(&review.spec, &path);
        errors.extend(bare(&review.metadata, true));
        if let Some(attributes) = &review.spec.resource_attributes
            && attributes.namespace.as_deref().unwrap_or_default()
                != review.metadata.namespace.as_deref().unwrap_or_default()
        {
            let namespace = attributes.namespace.as_deref().unwrap_or_default();
            let path = path.child("resourceAttributes").child("namespace");
            errors.push(Error::invalid(&path, namespace, "must match metadata.namespace"));
        }
        if let Some(attributes) = &review.spec.non_resource_attributes {
            let why = "disallowed on this kind of request";
            errors.push(Error::invalid(&path.child("nonResourceAttributes"), json(attributes), why));
        }
        self.invalid(&errors)?;
        review.status = Some(self.decide(&review.spec).await);
        Ok(())
    }

    pub(super) async fn self_subject_access(&self, review: &mut SelfSubjectAccessReview) -> Result<(), ApiError> {
        let spec = &review.spec;
        let mut errors = validate_attributes(
            spec.resource_attributes.as_ref(),
            spec.non_resource_attributes.as_ref(),
            &Path::new("spec"),
        );
        errors.extend(bare(&review.metadata, false));
        self.invalid(&errors)?;
        let asked = attributes(spec.resource_attributes.as_ref(), spec.non_resource_attributes.as_ref());
        review.status = Some(status(self.server.authorizer.authorize(self.user, &asked).await));
        Ok(())
    }

    async fn decide(&self, spec: &SubjectAccessReviewSpec) -> SubjectAccessReviewStatus {
        let user = User {
            name: spec.user.clone().unwrap_or_default(),
            uid: spec.uid.clone().unwrap_or_default(),
            groups: spec.groups.clone().unwrap_or_default(),
            extra: spec.extra.clone().unwrap_or_default(),
        };
        let asked = attributes(spec.resource_attributes.as_ref(), spec.non_resource_attributes.as_ref());
        status(self.server.authorizer.authorize(&user, &asked).await)
    }
}

fn status(decision: Decision) -> SubjectAccessReviewStatus {
    let (allowed, denied, reason, error) = match decision {
        Decision::Allow(reason) => (true, None, reason, None),
        Decision::Deny(reason) => (false, Some(true), reason, None),
        Decision::NoOpinion(reason) => (false, None, reason, None),
        Decision::Failed { denied, why } => (false, denied.then_some(true), String::new(), Some(why)),
    };
    let reason = Some(reason).filter(|reason| !reason.is_empty());
    SubjectAccessReviewStatus { allowed, denied, reason, evaluation_error: error }
}

/// The question as the authorizer is asked it.
fn attributes(resource: Option<&ResourceAttributes>, path: Option<&NonResourceAttributes>) -> Attributes {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    if let Some(asked) = resource {
        return Attributes {
            verb: text(&asked.verb),
            resource_request: true,
            group: text(&asked.group),
            version: text(&asked.version),
            resource: text(&asked.resource),
            subresource: text(&asked.subresource),
            namespace: text(&asked.namespace),
            name: text(&asked.name),
            path: String::new(),
            field_selector: asked.field_selector.as_ref().map(fields).unwrap_or_default(),
            label_selector: asked.label_selector.as_ref().map(labels).unwrap_or_default(),
        };
    }
    let asked = path.cloned().unwrap_or_default();
    Attributes { verb: text(&asked.verb), path: text(&asked.path), ..Attributes::default() }
}

fn fields(selector: &FieldSelectorAttributes) -> Vec<Requirement> {
    let listed = selector.requirements.iter().flatten().map(|held| Requirement {
        key: held.key.clone(),
        operator: held.operator.clone(),
        values: held.values.clone().unwrap_or_default(),
    });
    listed.chain(field_requirements(selector.raw_selector.as_deref().unwrap_or_default())).collect()
}

fn labels(selector: &LabelSelectorAttributes) -> Vec<Requirement> {
    let listed = selector.requirements.iter().flatten().map(|held| Requirement {
        key: held.key.clone(),
        operator: held.operator.clone(),
        values: held.values.clone().unwrap_or_default(),
    });
    listed.chain(label_requirements(selector.raw_selector.as_deref().unwrap_or_default())).collect()
}

fn validate_spec(spec: &SubjectAccessReviewSpec, path: &Path) -> Errors {
    let mut errors =
        validate_attributes(spec.resource_attributes.as_ref(), spec.non_resource_attributes.as_ref(), path);
    let nobody = spec.user.as_deref().unwrap_or_default().is_empty() && spec.groups.as_ref().is_none_or(Vec::is_empty);
    if nobody {
        errors.push(Error::invalid(&path.child("user"), "", "at least one of user or group must be specified"));
    }
    errors
}

fn validate_attributes(
    resource: Option<&ResourceAttributes>,
    other: Option<&NonResourceAttributes>,
    path: &Path,
) -> Errors {
    match (resource, other) {
        (Some(_), Some(other)) => {
            let why = "cannot be specified in combination with resourceAttributes";
            vec![Error::invalid(&path.child("nonResourceAttributes"), json(other), why)]
        }
        (None, None) => {
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            vec![Error::invalid(&path.child("resourceAttributes"), serde_json::Value::Null, why)]
        }
        (Some(resource), None) => {
            let path = path.child("resourceAttributes");
            let fields = resource.field_selector.as_ref().map(|selector| {
                (
                    path.child("fieldSelector"),
                    &selector.raw_selector,
                    selector.requirements.as_ref().map_or(0, Vec::len),
                )
            });
            let labels = resource.label_selector.as_ref().map(|selector| {
                (
                    path.child("labelSelector"),
                    &selector.raw_selector,
                    selector.requirements.as_ref().map_or(0, Vec::len),
                )
            });
            fields
                .into_iter()
                .chain(labels)
                .flat_map(|(path, raw, count)| validate_selector(&path, raw, count))
                .collect()
        }
        (None, Some(_)) => Vec::new(),
    }
}

/// A selector is text or a list, and something.
fn validate_selector(path: &Path, raw: &Option<String>, requirements: usize) -> Errors {
    let raw = raw.as_deref().unwrap_or_default();
    match (raw.is_empty(), requirements) {
        (false, 1..) => {
            vec![Error::invalid(&path.child("rawSelector"), raw, "may not specified at the same time as requirements")]
        }
        (true, 0) => {
            let why = format!("when {path} is specified, requirements or rawSelector is required");
            vec![Error::required(&path.child("requirements"), why)]
        }
        _ => Vec::new(),
    }
}

fn json(value: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or_default()
}
