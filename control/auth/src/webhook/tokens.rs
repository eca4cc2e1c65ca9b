//! Tokens that somebody else knows: each is sent to a server as a `TokenReview`.
//!
//! Source: `plugin/pkg/authenticator/token/webhook`.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::json;

use super::client::Client;
use crate::{AuthenticateError, Tokens, User, Whose};

pub struct WebhookTokens {
    client: Client,
    /// `v1` or `v1beta1`.
    version: String,
    /// Those of the API server.
    audiences: Vec<String>,
}

#[derive(Deserialize)]
struct Review {
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    authenticated: bool,
    user: Info,
    audiences: Vec<String>,
    error: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Info {
    username: String,
    uid: String,
    groups: Vec<String>,
    extra: std::collections::BTreeMap<String, Vec<String>>,
}

impl WebhookTokens {
    pub fn new(client: Client, version: &str, audiences: Vec<String>) -> Self {
        Self { client, version: version.to_owned(), audiences }
    }
}

#[async_trait]
impl Tokens for WebhookTokens {
    async fn authenticate_token(&self, token: &str, audiences: &[String]) -> Result<Option<Whose>, AuthenticateError> {
        let wanted = if audiences.is_empty() { &self.audiences[..] } else { audiences };
        let review = json!({
            "apiVersion": format!("authentication.k8s.io/{}", self.version),
            "kind": "TokenReview",
            "metadata": {},
            "spec": {"token": token, "audiences": wanted},
            "status": {"user": {}},
        });
        let answer = self.client.post(&review).await.map_err(|error| {
            tracing::error!(error, "ask the token webhook");
            AuthenticateError(error)
        })?;
        let Review { status } = serde_json::from_value(answer)
            .map_err(|error| AuthenticateError(format!("read the token webhook's answer: {error}")))?;
        // An answer without audiences is for the API server's.
        let got = if status.audiences.is_empty() { &self.audiences } else { &status.audiences };
        let shared: Vec<String> = wanted.iter().filter(|audience| got.contains(audience)).cloned().collect();
        match (shared.is_empty(), status.authenticated) {
            (true, _) => Ok(None),
            (false, false) if status.error.is_empty() => Ok(None),
            (false, false) => Err(AuthenticateError(status.error)),
            (false, true) => {
                let Info { username: name, uid, groups, extra } = status.user;
                Ok(Some(Whose::new(User { name, uid, groups, extra }.authenticated(), shared)))
            }
        }
    }
}
