//! The authorizers that a configuration asks for, in its order, behind the one that is always there.
//!
//! Source: `pkg/kubeapiserver/authorizer` (`reload.go`): `system:masters` may do everything before anybody else is asked.
//! Invariant: a new configuration takes the place of the old one whole, or not at all.

pub mod config;

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;

use self::config::{ConfigError, Configuration, Plan, WebhookPlan};
use crate::follow::Follow;
use crate::webhook::{self, OpenError, Options, Webhook};
use crate::{Attributes, Authorizer, Clock, Decision, FirstOpinion, Masters, User};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("authorization-mode ABAC's authorization policy file not passed")]
    NoPolicies,
    #[error("open the webhook of {0}")]
    Webhook(String, #[source] OpenError),
}

/// What a configuration may name and does not describe.
pub struct BuiltIn {
    pub node: Arc<dyn Authorizer>,
    pub rbac: Arc<dyn Authorizer>,
    /// None where no file of policies is told of.
    pub abac: Option<Arc<dyn Authorizer>>,
    pub clock: Clock,
}

/// Asks the configured authorizers, whichever they are now.
pub struct Configured {
    built_in: BuiltIn,
    current: ArcSwap<FirstOpinion>,
}

/// Answers the same to everybody.
struct Always(Decision);

#[async_trait]
impl Authorizer for Always {
    async fn authorize(&self, _: &User, _: &Attributes) -> Decision {
        self.0.clone()
    }
}

impl Configured {
    pub async fn open(built_in: BuiltIn, configuration: &Configuration) -> Result<Self, Error> {
        let current = ArcSwap::from_pointee(build(&built_in, configuration).await?);
        Ok(Self { built_in, current })
    }

    /// Takes another configuration.
    pub async fn reconfigure(&self, configuration: &Configuration) -> Result<(), Error> {
        self.current.store(Arc::new(build(&self.built_in, configuration).await?));
        Ok(())
    }
}

#[async_trait]
impl Follow for Configured {
    const WHAT: &'static str = "authorization";
    const TRIES_AGAIN: bool = false;

    async fn take(&self, text: &str) -> Result<(), String> {
        let configuration = Configuration::parse(text).map_err(|error| error.to_string())?;
        self.reconfigure(&configuration).await.map_err(|error| error.to_string())
    }
}

async fn build(built_in: &BuiltIn, configuration: &Configuration) -> Result<FirstOpinion, Error> {
    let plans = configuration.plan()?;
    let mut all: Vec<Arc<dyn Authorizer>> = vec![Arc::new(Masters)];
    for (plan, told) in plans.into_iter().zip(&configuration.authorizers) {
        all.push(match plan {
            Plan::AlwaysAllow => Arc::new(Always(Decision::Allow(String::new()))),
            Plan::AlwaysDeny => Arc::new(Always(Decision::NoOpinion("Everything is forbidden.".to_owned()))),
            Plan::Node => built_in.node.clone(),
            Plan::Rbac => built_in.rbac.clone(),
            Plan::Abac => built_in.abac.clone().ok_or(Error::NoPolicies)?,
            Plan::Webhook(plan) => {
                let hook = open(*plan, built_in.clock.clone()).await;
                Arc::new(hook.map_err(|error| Error::Webhook(told.name.clone(), error))?)
            }
        });
    }
    Ok(FirstOpinion::new(all))
}

async fn open(plan: WebhookPlan, clock: Clock) -> Result<Webhook, OpenError> {
    let WebhookPlan { kubeconfig, version, timeout, authorized_ttl, unauthorized_ttl, failure_policy, conditions } =
        plan;
    let client = webhook::Client::open(&kubeconfig, timeout, webhook::PAUSE).await?;
    Ok(Webhook::new(Options { client, version, authorized_ttl, unauthorized_ttl, failure_policy, conditions, clock }))
}

#[async_trait]
impl Authorizer for Configured {
    async fn authorize(&self, user: &User, attributes: &Attributes) -> Decision {
        self.current.load_full().authorize(user, attributes).await
    }

    fn lists_rules(&self) -> Result<(), &'static str> {
        self.current.load().lists_rules()
    }
}
