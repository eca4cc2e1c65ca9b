//! Bootstrap tokens: who shows one is `system:bootstrap:<id>`, in `system:bootstrappers` and the groups that its secret names.
//!
//! Source: `plugin/pkg/auth/authenticator/token/bootstrap`. Invariants: the secret decides anew at each use; what is wrong with
//! one is logged, never told; the clock comes in as an argument.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use wharf_machinery::bootstrap_token::{self, NAME_PREFIX, NAMESPACE, USER_PREFIX};
use wharf_types::Gvr;
use wharf_types::k8s::api::core::v1::Secret;

use crate::token::ISSUER;
use crate::view::gvr;
use crate::{AuthenticateError, Lookup, Tokens, User, Whose};

const SECRETS: Gvr = gvr("", "v1", "secrets");

pub struct BootstrapTokens {
    objects: Arc<dyn Lookup>,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl BootstrapTokens {
    pub fn new(objects: Arc<dyn Lookup>, clock: Arc<dyn Fn() -> Timestamp + Send + Sync>) -> Self {
        Self { objects, clock }
    }

    /// None for whatever does not hold: another authenticator may know the token.
    fn user(&self, token: &str) -> Option<User> {
        let (id, word) = bootstrap_token::parse(token)?;
        let name = format!("{NAME_PREFIX}{id}");
        let bytes = self.objects.get(&SECRETS, Some(NAMESPACE), &name)?;
        let secret: Secret = serde_json::from_slice(&bytes).ok()?;
        let authenticated = bootstrap_token::authenticates(&secret, id, word, (self.clock)());
        let groups = authenticated.map_err(str::to_owned).and_then(|()| bootstrap_token::groups(&secret));
        match groups {
            Ok(groups) => {
                let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
                Some(User::new(&format!("{USER_PREFIX}{id}"), &groups))
            }
            Err(why) => {
                tracing::info!(secret = name, why, "a bootstrap token does not hold");
                None
            }
        }
    }
}

#[async_trait]
impl Tokens for BootstrapTokens {
    async fn authenticate_token(&self, token: &str, audiences: &[String]) -> Result<Option<Whose>, AuthenticateError> {
        // Such a token names no audience: it is for the API server.
        let asked_of_us = audiences.is_empty() || audiences.iter().any(|audience| audience == ISSUER);
        let user = self.user(token).filter(|_| asked_of_us);
        Ok(user.map(|user| Whose::new(user, vec![ISSUER.to_owned()])))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;

    struct One(Bytes);

    impl Lookup for One {
        fn get(&self, resource: &Gvr, namespace: Option<&str>, name: &str) -> Option<Bytes> {
            let found = *resource == SECRETS && namespace == Some("kube-system") && name == "bootstrap-token-abcdef";
            found.then(|| self.0.clone())
        }
    }

    /// Data in base64: of the token `abcdef.0123456789abcdef`, for authentication, until 2030.
    fn tokens(groups: &str, now: &str) -> BootstrapTokens {
        let secret = json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token", "data": {
            "token-id": "YWJjZGVm", "token-secret": "MDEyMzQ1Njc4OWFiY2RlZg==", "usage-bootstrap-authentication": "dHJ1ZQ==",
            "expiration": "MjAzMC0wMS0wMVQwMDowMDowMFo=", "auth-extra-groups": groups,
        }});
        let now: Timestamp = now.parse().expect("a time");
        BootstrapTokens::new(Arc::new(One(secret.to_string().into())), Arc::new(move || now))
    }

    const EARLY: &str = "2029-12-31T23:59:59Z";
    const TOKEN: &str = "abcdef.0123456789abcdef";

    #[test]
    fn a_token_names_its_user_and_groups() {
        // `system:bootstrappers:kubeadm:default-node-token`
        let groups = "c3lzdGVtOmJvb3RzdHJhcHBlcnM6a3ViZWFkbTpkZWZhdWx0LW5vZGUtdG9rZW4=";
        let user = tokens(groups, EARLY).user(TOKEN).expect("a user");
        assert_eq!(user.name, "system:bootstrap:abcdef");
        let expected =
            ["system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token", "system:authenticated"];
        assert_eq!(user.groups, expected);
    }

    #[test]
    fn what_does_not_hold_is_left_to_others() {
        assert_eq!(tokens("", EARLY).user("abcdef.0123456789abcdee"), None);
        assert_eq!(tokens("", EARLY).user("abcdee.0123456789abcdef"), None);
        assert_eq!(tokens("", EARLY).user("no token"), None);
        assert_eq!(tokens("", "2030-01-01T00:00:00Z").user(TOKEN), None);
        // `system:masters`
        assert_eq!(tokens("c3lzdGVtOm1hc3RlcnM=", EARLY).user(TOKEN), None);
    }
}
