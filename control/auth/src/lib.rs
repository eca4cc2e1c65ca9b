//! Who is asking, and may they: the seams between the request stack and its authenticators and authorizers.
//!
//! Source of the shapes: `k8s.io/apiserver/pkg/authentication` and `pkg/authorization/authorizer`.
//! Invariants: an authenticator never guesses (no credentials is `None`, bad credentials an error); an authorizer that knows
//! nothing of a request says [`Decision::NoOpinion`], which the stack treats as a refusal.

pub mod abac;
pub mod authorization;
pub mod authorize;
pub mod bearer;
pub mod bootstrap;
pub mod duration;
pub mod follow;
mod https;
pub mod jwt;
pub mod kubeconfig;
pub mod node;
pub mod pki;
pub mod rbac;
pub mod requestheader;
pub mod tls;
pub mod token;
pub mod union;
pub mod view;
pub mod webhook;
pub mod x509;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

pub use abac::Abac;
pub use authorize::{FirstOpinion, Masters};
pub use bearer::{Bearer, TokenUnion};
pub use bootstrap::BootstrapTokens;
pub use follow::Follow;
pub use jwt::JwtTokens;
pub use kubeconfig::Kubeconfig;
pub use node::NodeAuthorizer;
pub use pki::{Identity, Leaf, Pki, ServerNames, Shown};
pub use rbac::Rbac;
pub use requestheader::{FrontProxyCertificates, RequestHeader};
pub use token::ServiceAccountTokens;
pub use union::{Anonymous, Union};
pub use view::{Lookup, View};
pub use x509::{PeerCertificates, X509};

/// `system:masters`: whoever is in it may do everything.
pub const MASTERS: &str = "system:masters";
/// The group of everyone who has proved who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The user and the group of whoever has no credentials.
pub const ANONYMOUS: &str = "system:anonymous";
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The group of all nodes, and what their users' names start with.
pub const NODES: &str = "system:nodes";
pub const NODE_USER_PREFIX: &str = "system:node:";
/// What service accounts' users' names start with; the namespace and the name follow.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Who makes a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user who has authenticated, in these groups and `system:authenticated`.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self { name: name.to_owned(), groups, ..Self::default() }
    }

    /// The user, in `system:authenticated` unless said to be a stranger.
    pub fn authenticated(mut self) -> Self {
        if !self.in_group(AUTHENTICATED) && !self.in_group(UNAUTHENTICATED) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
    }

    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|held| held == group)
    }
}

/// Credentials that do not hold. The reply is 401 and does not say why; the log does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("authenticate: {0}")]
pub struct AuthenticateError(pub String);

impl AuthenticateError {
    /// Several as one, worded as upstream's aggregates; none of none.
    pub fn of_all(mut errors: Vec<Self>) -> Option<Self> {
        match errors.len() {
            0 | 1 => errors.pop(),
            _ => {
                let all: Vec<String> = errors.into_iter().map(|error| error.0).collect();
                Some(Self(format!("[{}]", all.join(", "))))
            }
        }
    }
}

#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// `None` when the request carries no credentials that this authenticator knows.
    async fn authenticate(
        &self,
        parts: &http::request::Parts,
        remarks: &mut Remarks,
    ) -> Result<Option<User>, AuthenticateError>;
}

/// Whose a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whose {
    pub user: User,
    /// Those of the audiences asked about that the token is for.
    pub audiences: Vec<String>,
    pub remarks: Remarks,
}

impl Whose {
    pub fn new(user: User, audiences: Vec<String>) -> Self {
        Self { user, audiences, remarks: Remarks::default() }
    }
}

/// What is to be said of credentials that hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remarks {
    /// For whoever shows them.
    pub warnings: Vec<&'static str>,
    /// For the audit log: keys and values.
    pub annotations: Vec<(&'static str, String)>,
}

impl Remarks {
    pub fn extend(&mut self, other: Self) {
        self.warnings.extend(other.warnings);
        self.annotations.extend(other.annotations);
    }
}

/// For tokens that come by another way than a request's header: `TokenReview`.
#[async_trait]
pub trait Tokens: Send + Sync + 'static {
    /// `audiences` are those of the API server, if empty. `None` for a token of another kind.
    async fn authenticate_token(&self, token: &str, audiences: &[String]) -> Result<Option<Whose>, AuthenticateError>;
}

/// What is asked to be allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for other paths the method in lower case.
    pub verb: String,
    /// False for paths such as `/healthz`, which are judged by [`Attributes::path`].
    pub resource_request: bool,
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub path: String,
    /// What a list, watch or deletion of a collection selects by; empty where it selects all, or nothing that can be told.
    pub field_selector: Vec<Requirement>,
    pub label_selector: Vec<Requirement>,
}

/// One condition of a selector; all must hold. An authorizer may use what it understands and pass over the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    pub values: Vec<String>,
}

impl Attributes {
    /// Why `user` is refused, in upstream's words (`responsewriters.ForbiddenStatusError`).
    pub fn refusal(&self, user: &User) -> String {
        let Self { verb, group, resource, subresource, namespace, path, .. } = self;
        let user = &user.name;
        if !self.resource_request {
            return format!("User {user:?} cannot {verb} path {path:?}");
        }
        let slash = if subresource.is_empty() { "" } else { "/" };
        let place = match namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {namespace:?}"),
        };
        format!(
            "User {user:?} cannot {verb} resource \"{resource}{slash}{subresource}\" in API group {group:?} {place}"
        )
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The text says why, and may be empty.
    Allow(String),
    Deny(String),
    /// Nothing speaks for the request; the text says what was looked at, and may be empty.
    NoOpinion(String),
    /// It could not be decided, and nobody else has allowed it; `denied` where nobody else may. The text says why.
    Failed {
        denied: bool,
        why: String,
    },
}

#[async_trait]
pub trait Authorizer: Send + Sync + 'static {
    async fn authorize(&self, user: &User, attributes: &Attributes) -> Decision;

    /// Why it cannot list what a user may do, if it cannot.
    fn lists_rules(&self) -> Result<(), &'static str> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(attributes: Attributes, expected: &str) {
        assert_eq!(attributes.refusal(&User::new("jane", &[])), expected);
    }

    #[test]
    fn refusals_read_as_upstream_words_them() {
        let pods = |verb: &str| Attributes {
            verb: verb.into(),
            resource_request: true,
            resource: "pods".into(),
            ..Attributes::default()
        };
        check(
            Attributes { namespace: "default".into(), ..pods("get") },
            r#"User "jane" cannot get resource "pods" in API group "" in the namespace "default""#,
        );
        check(
            Attributes { subresource: "log".into(), ..pods("list") },
            r#"User "jane" cannot list resource "pods/log" in API group "" at the cluster scope"#,
        );
        check(
            Attributes { verb: "get".into(), path: "/metrics".into(), ..Attributes::default() },
            r#"User "jane" cannot get path "/metrics""#,
        );
    }
}
