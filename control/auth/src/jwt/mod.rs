//! JSON web tokens of other issuers (OpenID Connect): whose they are, as an `AuthenticationConfiguration` says.
//!
//! Source: `plugin/pkg/authenticator/token/oidc`, KEP-3331. Invariants: an issuer that is down keeps the server from nothing but
//! its own tokens; a token of an issuer that is not configured is somebody else's to know; new authenticators take the place
//! of old ones only when they are ready. The clock comes in as an argument.

pub mod config;
mod distributed;
mod expression;
mod keys;
mod mapping;
mod remote;
mod token;
mod validate;

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;

use self::config::{ClaimMappings, Configuration, Error, JwtAuthenticator};
use self::distributed::Resolver;
pub use self::keys::ALGORITHMS;
use self::mapping::Mapper;
use self::remote::Remote;
use self::token::Expected;
pub use self::validate::domain_prefixed_path;
use crate::follow::Follow;
use crate::https::Https;
use crate::{AuthenticateError, Clock, Tokens, Whose};

/// How often new authenticators are given the time to become ready, a [`remote::RETRY`] apart.
const READY_TRIES: u32 = 6;

/// Tokens of all configured issuers.
pub struct JwtTokens {
    issuers: ArcSwap<Vec<Issuer>>,
    /// Whose issuer must not be among them: the service accounts'.
    disallowed: Vec<String>,
    /// The audiences of the API server, for whoever asks for some.
    audiences: Vec<String>,
    algorithms: Vec<String>,
    clock: Clock,
}

struct Issuer {
    expected: Expected,
    mappings: ClaimMappings,
    mapper: Mapper,
    resolver: Option<Resolver>,
}

impl JwtTokens {
    /// Nobody's tokens yet. `algorithms` are the ones that signatures may have.
    pub fn new(disallowed: Vec<String>, audiences: Vec<String>, algorithms: Vec<String>, clock: Clock) -> Self {
        Self { issuers: ArcSwap::default(), disallowed, audiences, algorithms, clock }
    }

    /// Takes a configuration, at once. Keys are fetched behind.
    pub fn configure(&self, configuration: &Configuration) -> Result<(), Error> {
        let issuers = self.build(configuration)?;
        for issuer in &issuers {
            let keys = issuer.expected.keys.clone();
            // Why it fails has been logged; the first token tries again.
            tokio::spawn(async move { drop(keys.start().await) });
        }
        self.issuers.store(Arc::new(issuers));
        Ok(())
    }

    /// Takes a configuration once all of its issuers can be asked; until then, and if that never is, the old one stays.
    pub async fn reconfigure(&self, configuration: &Configuration) -> Result<(), Error> {
        let issuers = self.build(configuration)?;
        for issuer in &issuers {
            ready(&issuer.expected).await.map_err(Error::Use)?;
        }
        self.issuers.store(Arc::new(issuers));
        Ok(())
    }

    fn build(&self, configuration: &Configuration) -> Result<Vec<Issuer>, Error> {
        let mappers = configuration.compile(&self.disallowed)?;
        let both = configuration.jwt.iter().zip(mappers);
        both.map(|(authenticator, mapper)| self.issuer(authenticator, mapper)).collect()
    }

    fn issuer(&self, authenticator: &JwtAuthenticator, mapper: Mapper) -> Result<Issuer, Error> {
        let JwtAuthenticator { issuer, claim_mappings, .. } = authenticator;
        let client = Https::new(&issuer.certificate_authority).map_err(Error::Use)?;
        let expected = Expected {
            issuer: issuer.url.clone(),
            audiences: issuer.audiences.clone(),
            algorithms: self.algorithms.clone(),
            keys: Remote::new(&issuer.url, &issuer.discovery_url, client.clone(), self.clock.clone()),
        };
        let claim = &claim_mappings.groups.claim;
        let resolver = (!claim.is_empty()).then(|| Resolver::new(claim, &expected, client, self.clock.clone()));
        Ok(Issuer { expected, mappings: claim_mappings.clone(), mapper, resolver })
    }
}

#[async_trait]
impl Follow for JwtTokens {
    const WHAT: &'static str = "authentication";
    /// The keys of a new issuer may not be there yet.
    const TRIES_AGAIN: bool = true;

    async fn take(&self, text: &str) -> Result<(), String> {
        let configuration = Configuration::parse(text).map_err(|error| error.to_string())?;
        self.reconfigure(&configuration).await.map_err(|error| error.to_string())
    }
}

/// Waits until an issuer's keys are there.
async fn ready(expected: &Expected) -> Result<(), String> {
    let mut why = String::new();
    for _ in 0..READY_TRIES {
        match expected.keys.start().await {
            Ok(()) => return Ok(()),
            Err(error) => why = error,
        }
        tokio::time::sleep(remote::RETRY).await;
    }
    Err(format!("oidc: authenticator for issuer {:?} is not healthy: {why}", expected.issuer))
}

#[async_trait]
impl Tokens for JwtTokens {
    async fn authenticate_token(&self, token: &str, audiences: &[String]) -> Result<Option<Whose>, AuthenticateError> {
        let Some(audiences) = crate::token::shared(&self.audiences, audiences) else { return Ok(None) };
        let Some(from) = token::untrusted_issuer(token) else { return Ok(None) };
        let issuers = self.issuers.load_full();
        let Some(issuer) = issuers.iter().find(|issuer| issuer.expected.issuer == from) else { return Ok(None) };
        let refuse = |why: String| AuthenticateError(format!("oidc: {why}"));
        let verified = token::verify(token, &issuer.expected, (self.clock)()).await;
        let mut claims = verified.map_err(|why| refuse(format!("verify token: {why}")))?;
        if let Some(resolver) = &issuer.resolver {
            let expanded = resolver.expand(&mut claims).await;
            expanded.map_err(|why| refuse(format!("could not expand distributed claims: {why}")))?;
        }
        let user = issuer.mapper.user(&issuer.mappings, claims)?;
        Ok(Some(Whose::new(user, audiences)))
    }
}
