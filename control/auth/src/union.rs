//! Several authenticators as one, and the one that needs no file of its own.
//!
//! Source: `k8s.io/apiserver/pkg/authentication/request/{union,anonymous}` as `pkg/kubeapiserver/authenticator` puts them
//! together. Invariant: credentials that are shown and do not hold never pass for none.

use std::sync::Arc;

use async_trait::async_trait;
use http::request::Parts;

use crate::{ANONYMOUS, AuthenticateError, Authenticator, Remarks, UNAUTHENTICATED, User};

/// Asks each in turn: the first that knows the user wins. Who is known to none is anonymous, if that is allowed and nothing
/// was wrong.
pub struct Union {
    authenticators: Vec<Arc<dyn Authenticator>>,
    anonymous: Option<Anonymous>,
}

impl Union {
    /// `anonymous` is none where everyone must say who they are.
    pub fn new(authenticators: Vec<Arc<dyn Authenticator>>, anonymous: Option<Anonymous>) -> Self {
        Self { authenticators, anonymous }
    }

    /// Front proxies; client certificates; bearer tokens refused; everyone else is anonymous.
    pub fn built_in(clock: crate::Clock) -> Self {
        let no_tokens = crate::Bearer::new(Arc::new(crate::TokenUnion::default()));
        let all: Vec<Arc<dyn Authenticator>> =
            vec![Arc::new(crate::RequestHeader), Arc::new(crate::X509::new(clock)), Arc::new(no_tokens)];
        Self::new(all, Some(Anonymous::default()))
    }
}

#[async_trait]
impl Authenticator for Union {
    async fn authenticate(&self, parts: &Parts, remarks: &mut Remarks) -> Result<Option<User>, AuthenticateError> {
        let mut errors = Vec::new();
        for authenticator in &self.authenticators {
            match authenticator.authenticate(parts, remarks).await {
                Ok(Some(user)) => return Ok(Some(user)),
                Ok(None) => {}
                Err(error) => errors.push(error),
            }
        }
        match AuthenticateError::of_all(errors) {
            Some(error) => Err(error),
            None => Ok(self.anonymous.as_ref().and_then(|anonymous| anonymous.user(parts.uri.path()))),
        }
    }
}

/// Calls whoever has no credentials `system:anonymous`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Anonymous {
    /// On these paths and nowhere else; everywhere, if empty (upstream: `AuthenticationConfiguration.anonymous.conditions`).
    pub paths: Vec<String>,
}

impl Anonymous {
    fn user(&self, path: &str) -> Option<User> {
        let here = self.paths.is_empty() || self.paths.iter().any(|allowed| allowed == path);
        let user = || User { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..User::default() };
        here.then(user)
    }
}

#[cfg(test)]
mod tests {
    use http::header::AUTHORIZATION;

    use super::*;

    struct Fixed(Result<Option<&'static str>, &'static str>);

    #[async_trait]
    impl Authenticator for Fixed {
        async fn authenticate(&self, _: &Parts, _: &mut Remarks) -> Result<Option<User>, AuthenticateError> {
            match self.0 {
                Ok(name) => Ok(name.map(|name| User::new(name, &[]))),
                Err(why) => Err(AuthenticateError(why.to_owned())),
            }
        }
    }

    /// `expected` is the user's name, `none` or why there is none.
    async fn check(union: Union, path: &str, header: Option<&str>, expected: &str) {
        let mut request = http::Request::get(path);
        if let Some(value) = header {
            request = request.header(AUTHORIZATION, value);
        }
        let (parts, ()) = request.body(()).expect("request").into_parts();
        let got = match union.authenticate(&parts, &mut Remarks::default()).await {
            Ok(Some(user)) => user.name,
            Ok(None) => "none".to_owned(),
            Err(error) => error.0,
        };
        assert_eq!(got, expected, "{path} {header:?}");
    }

    #[tokio::test]
    async fn who_shows_nothing_is_anonymous() {
        for path in ["/healthz", "/api/v1/pods", "/"] {
            check(Union::built_in(Arc::new(jiff::Timestamp::now)), path, None, ANONYMOUS).await;
        }
        // Nobody here knows what a password is: none was shown, as upstream sees it.
        check(Union::built_in(Arc::new(jiff::Timestamp::now)), "/healthz", Some("Basic YWRtaW46YWRtaW4="), ANONYMOUS)
            .await;
    }

    #[tokio::test]
    async fn tokens_that_nobody_knows_are_refused_everywhere() {
        check(Union::built_in(Arc::new(jiff::Timestamp::now)), "/healthz", Some("Bearer abc"), "invalid bearer token")
            .await;
    }

    #[tokio::test]
    async fn anonymous_may_be_narrowed_to_paths_or_turned_off() {
        let only = || Union::new(Vec::new(), Some(Anonymous { paths: vec!["/livez".to_owned()] }));
        check(only(), "/livez?verbose", None, ANONYMOUS).await;
        for path in ["/livez/", "/livez/ping", "/healthz", "/livez/../api"] {
            check(only(), path, None, "none").await;
        }
        check(Union::new(Vec::new(), None), "/livez", None, "none").await;
    }

    #[tokio::test]
    async fn one_that_fails_does_not_stop_the_next() {
        let of = |all: &[Result<Option<&'static str>, &'static str>]| {
            let all = all.iter().map(|it| Arc::new(Fixed(*it)) as Arc<dyn Authenticator>);
            Union::new(all.collect(), Some(Anonymous::default()))
        };
        check(of(&[Err("bad"), Ok(Some("jane"))]), "/", None, "jane").await;
        check(of(&[Err("bad"), Ok(None)]), "/", None, "bad").await;
        check(of(&[Err("bad"), Err("worse")]), "/", None, "[bad, worse]").await;
        check(of(&[Ok(None)]), "/", None, ANONYMOUS).await;
    }
}
