//! Service account tokens: JSON web tokens that say which account, and which pod, node or secret they die with.
//!
//! Source: `pkg/serviceaccount/{jwt,claims,openidmetadata}.go`. Signed with ES256 by the key beside the cluster's authority.
//! Invariants: a token counts only while what it names is there under the same uid; the clock comes in as an argument.
//! Tokens of the older kind, which are kept in secrets and never end, have a file of their own.
//! Absent on purpose: keys of other issuers.

mod cache;
mod file;
mod jwt;
mod legacy;
mod metrics;
mod verify;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::SERVICE_ACCOUNT_PREFIX;
pub use cache::{CachedTokens, SUCCESS_TTL};
pub use file::{FileError, FileTokens};
pub use jwt::{Key, KeyError};
use legacy::LegacyTokens;
pub use legacy::{LegacyClaims, Marks};
pub use metrics::TokenMetrics;
pub use verify::ServiceAccountTokens;

/// Who issues the tokens, and whom they are for unless they say: kubeadm's default.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// The life that a kubelet asks for: such a token is valid for longer, and told of when it is used after it.
const WARN_ONLY_S: i64 = 60 * 60 + 7;
const EXTENDED_S: i64 = 365 * 24 * 60 * 60;

/// What a token says (RFC 7519, and upstream's private claims).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub aud: Vec<String>,
    pub exp: i64,
    pub iat: i64,
    pub iss: String,
    #[serde(default)]
    pub jti: String,
    #[serde(rename = "kubernetes.io", default)]
    pub kubernetes: Private,
    #[serde(default)]
    pub nbf: i64,
    pub sub: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Private {
    #[serde(default)]
    pub namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Ref>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Ref>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Ref>,
    #[serde(default)]
    pub serviceaccount: Ref,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// An object, and which of its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ref {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// What a token is asked for.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub namespace: String,
    pub account: Ref,
    /// Those of the API server, if empty.
    pub audiences: Vec<String>,
    pub seconds: i64,
    pub pod: Option<Ref>,
    pub node: Option<Ref>,
    pub secret: Option<Ref>,
}

impl Claims {
    /// Pure: the claims of a new token. `id` is one of a kind.
    pub fn new(request: Request, id: String, now: Timestamp) -> Self {
        let Request { namespace, account, audiences, seconds, pod, node, secret } = request;
        let now = now.as_second();
        let ours = audiences.is_empty() || audiences.iter().all(|audience| audience == ISSUER);
        let extended = pod.is_some() && seconds == WARN_ONLY_S && ours;
        Self {
            aud: if audiences.is_empty() { vec![ISSUER.to_owned()] } else { audiences },
            exp: now + if extended { EXTENDED_S } else { seconds },
            iat: now,
            nbf: now,
            iss: ISSUER.to_owned(),
            jti: id,
            sub: format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{}", account.name),
            kubernetes: Private {
                namespace,
                node,
                pod,
                secret,
                serviceaccount: account,
                warnafter: extended.then_some(now + seconds),
            },
        }
    }
}

/// `/.well-known/openid-configuration`
pub fn configuration(keys_url: &str) -> Value {
    json!({
        "issuer": ISSUER,
        "jwks_uri": keys_url,
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

/// Those audiences of the API server that are asked for; all of them, if none is. None where nothing is left.
/// For tokens that say nothing of audiences themselves (`WrapAudienceAgnosticToken`).
pub(crate) fn shared(ours: &[String], asked: &[String]) -> Option<Vec<String>> {
    if asked.is_empty() {
        return Some(ours.to_vec());
    }
    let both: Vec<String> = ours.iter().filter(|audience| asked.contains(audience)).cloned().collect();
    (!both.is_empty()).then_some(both)
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}
/// Whom a token that was checked speaks for: a name, `none`, or why it is refused.
#[cfg(test)]
fn whom(checked: Result<Option<crate::Whose>, crate::AuthenticateError>) -> String {
    match checked {
        Ok(Some(known)) => known.user.name,
        Ok(None) => "none".to_owned(),
        Err(error) => error.0,
    }
}
