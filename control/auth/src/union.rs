//! Several authenticators as one, and the two that need no file of their own.

use std::sync::Arc;

use async_trait::async_trait;
use http::header::AUTHORIZATION;
use http::request::Parts;

use crate::{ANONYMOUS, AuthenticateError, Authenticator, UNAUTHENTICATED, User};

/// Asks each in turn: the first that knows the user wins; credentials that one refuses are refused, whatever the others say.
pub struct Union(Vec<Arc<dyn Authenticator>>);

impl Union {
    pub fn new(authenticators: Vec<Arc<dyn Authenticator>>) -> Self {
        Self(authenticators)
    }

    /// Front proxies; client certificates; bearer tokens refused; health and version for everyone.
    pub fn built_in() -> Self {
        Self::new(vec![
            Arc::new(crate::RequestHeader),
            Arc::new(crate::x509::X509),
            Arc::new(NoTokens),
            Arc::new(Anonymous),
        ])
    }
}

#[async_trait]
impl Authenticator for Union {
    async fn authenticate(&self, parts: &Parts) -> Result<Option<User>, AuthenticateError> {
        for authenticator in &self.0 {
            if let Some(user) = authenticator.authenticate(parts).await? {
                return Ok(Some(user));
            }
        }
        Ok(None)
    }
}

/// Refuses whoever shows a token or a password, so that bad credentials never pass for none.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTokens;

#[async_trait]
impl Authenticator for NoTokens {
    async fn authenticate(&self, parts: &Parts) -> Result<Option<User>, AuthenticateError> {
        match parts.headers.contains_key(AUTHORIZATION) {
            true => Err(AuthenticateError("the Authorization header carries no credentials known here".to_owned())),
            false => Ok(None),
        }
    }
}

/// Calls whoever has no credentials `system:anonymous`, on [`Anonymous::PATHS`] and nowhere else
/// (upstream: `AuthenticationConfiguration.anonymous.conditions`).
#[derive(Clone, Copy, Debug, Default)]
pub struct Anonymous;

impl Anonymous {
    pub const PATHS: &[&str] = &["/healthz", "/livez", "/readyz", "/version", "/version/"];
}

#[async_trait]
impl Authenticator for Anonymous {
    async fn authenticate(&self, parts: &Parts) -> Result<Option<User>, AuthenticateError> {
        let user = || User { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..User::default() };
        Ok(Self::PATHS.contains(&parts.uri.path()).then(user))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `expected` is the user's name, `none` or `refused`.
    async fn check(path: &str, header: Option<&str>, expected: &str) {
        let mut request = http::Request::get(path);
        if let Some(value) = header {
            request = request.header(AUTHORIZATION, value);
        }
        let (parts, ()) = request.body(()).expect("request").into_parts();
        let got = match Union::built_in().authenticate(&parts).await {
            Ok(Some(user)) => user.name,
            Ok(None) => "none".to_owned(),
            Err(_) => "refused".to_owned(),
        };
        assert_eq!(got, expected, "{path} {header:?}");
    }

    #[tokio::test]
    async fn strangers_are_known_on_health_and_version_only() {
        check("/healthz", None, "system:anonymous").await;
        check("/readyz?verbose", None, "system:anonymous").await;
        check("/version", None, "system:anonymous").await;
        for path in ["/", "/api", "/api/v1/pods", "/metrics", "/livez/ping", "/healthz/../api", "/openapi/v2"] {
            check(path, None, "none").await;
        }
    }

    #[tokio::test]
    async fn credentials_that_nobody_knows_are_refused_everywhere() {
        check("/api/v1/pods", Some("Bearer abc"), "refused").await;
        check("/healthz", Some("Basic YWRtaW46YWRtaW4="), "refused").await;
    }
}
