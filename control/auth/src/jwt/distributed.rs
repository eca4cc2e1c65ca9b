//! Groups that a token does not hold, but says where they are: distributed claims (OpenID Connect Core 1.0, section 5.6.2).
//!
//! Source: `claimResolver` of `plugin/pkg/authenticator/token/oidc`. Only a verified token is followed; what the endpoint gives
//! is a token again, which its own issuer must have signed for the same audiences. Absent on purpose: aggregated claims.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value as Json;

use super::mapping::Claims;
use super::remote::Remote;
use super::token::{self, Expected};
use crate::Clock;
use crate::https::Https;

/// Most issuers that endpoints may bring in.
const ISSUERS_MAX: usize = 64;

pub struct Resolver {
    claim: String,
    audiences: Vec<String>,
    algorithms: Vec<String>,
    client: Https,
    clock: Clock,
    issuers: Mutex<HashMap<String, Arc<Expected>>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Endpoint {
    endpoint: String,
    access_token: String,
}

impl Resolver {
    /// For `claim`, in tokens for whom `like` expects them.
    pub fn new(claim: &str, like: &Expected, client: Https, clock: Clock) -> Self {
        let (audiences, algorithms) = (like.audiences.clone(), like.algorithms.clone());
        Self { claim: claim.to_owned(), audiences, algorithms, client, clock, issuers: Mutex::default() }
    }

    /// Puts the claim among the others, if they say where it is.
    pub async fn expand(&self, claims: &mut Claims) -> Result<(), String> {
        let Some(Endpoint { endpoint, access_token }) = self.endpoint(claims)? else { return Ok(()) };
        let claim = &self.claim;
        let token = Some(access_token.as_str()).filter(|token| !token.is_empty());
        let body = self.client.get(&endpoint, token).await;
        let body = body.map_err(|why| format!("while getting distributed claim {claim:?}: {why}"))?;
        let sent = String::from_utf8_lossy(&body);
        let issuer = token::untrusted_issuer(&sent).ok_or_else(|| {
            format!("getting untrusted issuer from endpoint {endpoint} failed for claim {claim:?}: malformed token")
        })?;
        let expected = self.issuer(&issuer)?;
        let verified = token::verify(&sent, &expected, (self.clock)()).await;
        let mut found = verified.map_err(|why| format!("verify distributed claim token: {why}"))?;
        match found.remove(claim) {
            Some(value) => {
                claims.insert(claim.clone(), value);
                Ok(())
            }
            None => {
                Err(format!("jwt returned by distributed claim endpoint {endpoint:?} did not contain claim: {claim}"))
            }
        }
    }

    fn endpoint(&self, claims: &Claims) -> Result<Option<Endpoint>, String> {
        if claims.contains_key(&self.claim) {
            return Ok(None);
        }
        let Some(names) = claims.get("_claim_names") else { return Ok(None) };
        let Some(names) = names.as_object() else {
            return Err("oidc: error parsing distributed claim names".to_owned());
        };
        let Some(sources) = claims.get("_claim_sources") else { return Err("oidc: no claim sources".to_owned()) };
        let sources: HashMap<String, Endpoint> = serde_json::from_value(sources.clone())
            .map_err(|error| format!("oidc: could not parse claim sources: {error}"))?;
        let Some(source) = names.get(&self.claim).and_then(Json::as_str) else { return Ok(None) };
        let mut sources = sources;
        match sources.remove(source) {
            Some(found) if found.endpoint.is_empty() => Ok(None),
            Some(found) => Ok(Some(found)),
            None => Err(format!("id token _claim_names contained a source {source} missing in _claims_sources")),
        }
    }

    fn issuer(&self, issuer: &str) -> Result<Arc<Expected>, String> {
        let mut issuers = self.issuers.lock();
        if let Some(known) = issuers.get(issuer) {
            return Ok(known.clone());
        }
        if issuers.len() >= ISSUERS_MAX {
            return Err(format!("verifying untrusted issuer {issuer} failed: there are {ISSUERS_MAX} others"));
        }
        let expected = Arc::new(Expected {
            issuer: issuer.to_owned(),
            audiences: self.audiences.clone(),
            algorithms: self.algorithms.clone(),
            keys: Remote::new(issuer, "", self.client.clone(), self.clock.clone()),
        });
        issuers.insert(issuer.to_owned(), expected.clone());
        Ok(expected)
    }
}
