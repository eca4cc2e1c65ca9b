//! API calls that failed, with what was being done to what.

use std::fmt::Display;

use kube::core::Status;

/// `create pod default/web: …`
#[derive(Debug, thiserror::Error)]
#[error("{what} {key}")]
pub struct Failed {
    what: &'static str,
    key: String,
    #[source]
    pub source: kube::Error,
}

/// Names the operation that a result belongs to.
pub trait During<T> {
    fn during(self, what: &'static str, key: impl Display) -> Result<T, Failed>;
}

impl<T> During<T> for Result<T, kube::Error> {
    fn during(self, what: &'static str, key: impl Display) -> Result<T, Failed> {
        self.map_err(|source| Failed::new(what, key, source))
    }
}

impl Failed {
    pub fn new(what: &'static str, key: impl Display, source: kube::Error) -> Self {
        Self { what, key: key.to_string(), source }
    }
}

fn status(error: &kube::Error) -> Option<&Status> {
    match error {
        kube::Error::Api(status) => Some(status),
        _ => None,
    }
}

pub fn is_not_found(error: &kube::Error) -> bool {
    status(error).is_some_and(Status::is_not_found)
}

pub fn is_conflict(error: &kube::Error) -> bool {
    status(error).is_some_and(Status::is_conflict)
}

pub fn is_already_exists(error: &kube::Error) -> bool {
    status(error).is_some_and(Status::is_already_exists)
}

/// The namespace is going away: nothing will be created there, and there is no point in trying again.
pub fn is_namespace_terminating(error: &kube::Error) -> bool {
    let causes = status(error).and_then(|status| status.details.as_ref()).map(|details| details.causes.as_slice());
    causes.is_some_and(|causes| causes.iter().any(|cause| cause.reason == "NamespaceTerminating"))
}

/// The answer's message, as an event or a condition shows it.
pub fn message(error: &kube::Error) -> String {
    status(error).map_or_else(|| error.to_string(), |status| status.message.clone())
}

/// A delete whose object is already gone did what it should.
pub fn gone_is_fine<T>(result: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
