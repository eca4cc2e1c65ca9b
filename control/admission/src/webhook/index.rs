//! The webhooks of all configurations, compiled, in the order in which they are called.

use std::sync::Arc;

use wharf_types::Gvr;
use wharf_types::k8s::api::admissionregistration::v1::{
    MutatingWebhook, MutatingWebhookConfiguration, ValidatingWebhook, ValidatingWebhookConfiguration,
    WebhookClientConfig,
};

use crate::Reader;
use crate::hooks::{self, Gate};
use crate::matching::Matcher;
use crate::memo::Memo;

pub struct Hook {
    /// Of all hooks, told apart: configurations may name theirs alike.
    uid: String,
    pub configuration: String,
    pub name: String,
    gate: Gate,
    pub client: WebhookClientConfig,
    pub review_versions: Vec<String>,
    pub side_effects: String,
    pub timeout_s: u64,
    pub mutating: bool,
    reinvoked: bool,
}

/// How long a webhook may take that does not say.
const TIMEOUT_S: u64 = 10;

macro_rules! hook {
    ($name:ident, $kind:ty, $mutating:literal, $reinvoked:expr) => {
        impl Hook {
            fn $name(configuration: &str, index: usize, hook: $kind) -> Self {
                Self {
                    uid: format!("{configuration}/{}/{index}", hook.name),
                    configuration: configuration.to_owned(),
                    mutating: $mutating,
                    reinvoked: $reinvoked(&hook),
                    gate: Gate::new(
                        Matcher::new(
                            hook.rules,
                            hook.match_policy.as_ref(),
                            hook.namespace_selector.as_ref(),
                            hook.object_selector.as_ref(),
                        ),
                        hook.match_conditions.as_deref(),
                        hook.failure_policy.as_deref(),
                    ),
                    client: hook.client_config,
                    review_versions: hook.admission_review_versions,
                    side_effects: hook.side_effects,
                    timeout_s: hook.timeout_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(TIMEOUT_S),
                    name: hook.name,
                }
            }
        }
    };
}
hook!(mutating, MutatingWebhook, true, |hook: &MutatingWebhook| hook.reinvocation_policy.as_deref()
    == Some("IfNeeded"));
hook!(validating, ValidatingWebhook, false, |_| false);

impl hooks::Hook for Hook {
    fn uid(&self) -> &str {
        &self.uid
    }

    fn gate(&self) -> &Gate {
        &self.gate
    }

    fn is_reinvoked(&self) -> bool {
        self.reinvoked
    }
}

/// A kind whose objects are configurations.
pub trait Configuration: 'static {
    const GVR: Gvr;
    fn hooks(self, name: &str) -> Vec<Hook>;
}

macro_rules! configuration {
    ($kind:ty, $resource:literal, $make:expr) => {
        impl Configuration for $kind {
            const GVR: Gvr = Gvr {
                group: std::borrow::Cow::Borrowed("admissionregistration.k8s.io"),
                version: std::borrow::Cow::Borrowed("v1"),
                resource: std::borrow::Cow::Borrowed($resource),
            };

            fn hooks(self, name: &str) -> Vec<Hook> {
                let hooks = self.webhooks.into_iter().flatten().enumerate();
                hooks.map(|(index, hook)| $make(name, index, hook)).collect()
            }
        }
    };
}
configuration!(MutatingWebhookConfiguration, "mutatingwebhookconfigurations", Hook::mutating);
configuration!(ValidatingWebhookConfiguration, "validatingwebhookconfigurations", Hook::validating);

/// What was compiled from the configurations of one kind.
#[derive(Default)]
pub struct Index(Memo<u64, [Hook]>);

impl Index {
    /// Every hook; compiled again only if a configuration has changed since.
    pub fn hooks<K: Configuration + Clone>(&self, cluster: &dyn Reader) -> Arc<[Hook]> {
        self.0.at(cluster.revision(&K::GVR), || {
            let objects = cluster.list(&K::GVR, None);
            let mut known: Vec<(String, K)> = objects
                .iter()
                .filter_map(|object| Some((object.name().to_owned(), object.downcast_ref::<K>()?.clone())))
                .collect();
            known.sort_by(|a, b| a.0.cmp(&b.0));
            known.into_iter().flat_map(|(name, configuration)| configuration.hooks(&name)).collect()
        })
    }
}
