//! An API failure as a Kubernetes `Status`, in upstream's words.
//!
//! Source: `k8s.io/apimachinery/pkg/api/errors`. Every constructor names the HTTP code it stands for.

use std::borrow::Cow;

use crate::field;
use crate::gvk::{Gvk, Gvr};
use crate::meta::{ListMeta, Status, StatusCause, StatusDetails};

/// A failed API request: what the server answers with, and what a client is told.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The HTTP status code.
    pub code: u16,
    /// A `metav1.StatusReason`, e.g. `NotFound`; webhooks may have reasons of their own.
    pub reason: Cow<'static, str>,
    pub message: String,
    pub details: Option<Box<StatusDetails>>,
    /// A token to go on with, where a list's own has expired.
    pub list_meta: Option<Box<ListMeta>>,
    /// What the answer's `status` says where a webhook wants it to be another word than `Failure`.
    pub outcome: Option<Box<str>>,
}

impl ApiError {
    pub fn new(code: u16, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        let (reason, message) = (reason.into(), message.into());
        Self { code, reason, message, details: None, list_meta: None, outcome: None }
    }

    fn about(mut self, resource: &str, group: &str, name: &str) -> Self {
        let details = self.details.get_or_insert_default();
        details.kind = Some(resource.to_owned()).filter(|kind| !kind.is_empty());
        details.group = Some(group.to_owned()).filter(|group| !group.is_empty());
        details.name = Some(name.to_owned()).filter(|name| !name.is_empty());
        self
    }

    /// 400
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403
    pub fn forbidden(gvr: &Gvr, name: &str, why: impl std::fmt::Display) -> Self {
        let subject = gvr.group_resource();
        let message = match (subject.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{subject} is forbidden: {why}"),
            (false, false) => format!("{subject} {name:?} is forbidden: {why}"),
        };
        Self::new(403, "Forbidden", message).about(&gvr.resource, &gvr.group, name)
    }

    /// 404 for an object
    pub fn not_found(gvr: &Gvr, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {name:?} not found", gvr.group_resource())).about(
            &gvr.resource,
            &gvr.group,
            name,
        )
    }

    /// 404 for a path that nothing serves
    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// 405
    pub fn method_not_supported(gvr: &Gvr, action: &str) -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            format!("{action} is not supported on resources of kind {:?}", gvr.group_resource()),
        )
        .about(&gvr.resource, &gvr.group, "")
    }

    /// 406
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::new(406, "NotAcceptable", message)
    }

    /// 409
    pub fn already_exists(gvr: &Gvr, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} {name:?} already exists", gvr.group_resource())).about(
            &gvr.resource,
            &gvr.group,
            name,
        )
    }

    /// 409
    pub fn conflict(gvr: &Gvr, name: &str, why: impl std::fmt::Display) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", gvr.group_resource());
        Self::new(409, "Conflict", message).about(&gvr.resource, &gvr.group, name)
    }

    /// 409, when an update names a resourceVersion that is no longer the latest
    pub fn modified(gvr: &Gvr, name: &str) -> Self {
        Self::conflict(
            gvr,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 410 for a resourceVersion or continue token that is too old
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 413
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// 415
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 422 with one cause for each field
    pub fn invalid(gvk: &Gvk, name: &str, errors: &[field::Error]) -> Self {
        let list = match errors {
            [one] => one.to_string(),
            many => format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        };
        let mut error = Self::new(422, "Invalid", format!("{} {name:?} is invalid: {list}", gvk.group_kind()))
            .about(&gvk.kind, &gvk.group, name);
        let causes: Vec<StatusCause> = errors.iter().map(field::Error::cause).collect();
        error.details.get_or_insert_default().causes = Some(causes);
        error
    }

    /// 429; `retry_after_s` is sent as `Retry-After` too, if there is something to wait for.
    pub fn too_many_requests(message: impl Into<String>, retry_after_s: i32) -> Self {
        let mut error = Self::new(429, "TooManyRequests", message);
        error.details.get_or_insert_default().retry_after_seconds = Some(retry_after_s).filter(|seconds| *seconds > 0);
        error
    }

    /// 500
    pub fn internal(why: impl std::fmt::Display) -> Self {
        let mut error = Self::new(500, "InternalError", format!("Internal error occurred: {why}"));
        let cause = StatusCause { field: None, message: Some(why.to_string()), reason: None };
        error.details.get_or_insert_default().causes = Some(vec![cause]);
        error
    }

    /// 503
    pub fn unavailable(why: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", why)
    }

    /// 504; the request ran out of its time.
    pub fn timeout(why: impl std::fmt::Display) -> Self {
        Self::new(504, "Timeout", format!("Timeout: {why}"))
    }

    pub fn is_not_found(&self) -> bool {
        self.reason == "NotFound"
    }

    pub fn is_conflict(&self) -> bool {
        self.reason == "Conflict"
    }

    pub fn is_already_exists(&self) -> bool {
        self.reason == "AlreadyExists"
    }

    /// The body of the reply.
    pub fn status(&self) -> Status {
        Status {
            code: Some(i32::from(self.code)),
            details: self.details.as_deref().cloned(),
            message: Some(self.message.clone()),
            metadata: self.list_meta.as_deref().cloned().unwrap_or_default(),
            reason: Some(self.reason.to_string()).filter(|reason| !reason.is_empty()),
            status: Some(self.outcome.as_deref().unwrap_or("Failure").to_owned()),
        }
    }
}
