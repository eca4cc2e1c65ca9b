//! The webhooks of all configurations, compiled, in the order in which they are called.

use std::sync::Arc;

use parking_lot::Mutex;
use wharf_types::k8s::api::admissionregistration::v1::{
    MutatingWebhook, MutatingWebhookConfiguration, ValidatingWebhook, ValidatingWebhookConfiguration,
    WebhookClientConfig,
};
use wharf_types::{ApiError, Gvr};

use crate::activation::Activation;
use crate::conditions::Conditions;
use crate::matching::Matcher;
use crate::subject::{Subject, View};
use crate::{Attributes, Reader};

pub struct Hook {
    /// Of all hooks, told apart: configurations may name theirs alike.
    pub uid: String,
    pub configuration: String,
    pub name: String,
    pub matcher: Matcher,
    pub conditions: Conditions,
    pub client: WebhookClientConfig,
    pub review_versions: Vec<String>,
    pub side_effects: String,
    pub timeout_s: u64,
    pub ignores_failure: bool,
    pub mutating: bool,
    /// True for a mutating webhook that is called again where something changes after it.
    pub reinvoked: bool,
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
                    matcher: Matcher::new(
                        hook.rules,
                        hook.match_policy.as_ref(),
                        hook.namespace_selector.as_ref(),
                        hook.object_selector.as_ref(),
                    ),
                    conditions: Conditions::compile(hook.match_conditions.as_deref().unwrap_or_default()),
                    client: hook.client_config,
                    review_versions: hook.admission_review_versions,
                    side_effects: hook.side_effects,
                    timeout_s: hook.timeout_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(TIMEOUT_S),
                    ignores_failure: hook.failure_policy.as_deref() == Some("Ignore"),
                    name: hook.name,
                }
            }
        }
    };
}
hook!(mutating, MutatingWebhook, true, |hook: &MutatingWebhook| hook.reinvocation_policy.as_deref()
    == Some("IfNeeded"));
hook!(validating, ValidatingWebhook, false, |_| false);

impl Hook {
    /// What the webhook is to be shown of the write; none where it is not to be asked.
    pub async fn view(
        &self,
        write: &Attributes,
        subject: &Subject,
        cluster: &dyn Reader,
    ) -> Result<Option<Arc<View>>, ApiError> {
        let Some(row) = self.matcher.matches(write, cluster)? else { return Ok(None) };
        let view = subject.view(write, &row).await.map_err(ApiError::internal)?;
        Ok(self.is_wanted(write, &view, cluster)?.then_some(view))
    }

    fn is_wanted(&self, write: &Attributes, view: &View, cluster: &dyn Reader) -> Result<bool, ApiError> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        let activation = Activation::new(view, None, None, &write.user, cluster);
        match self.conditions.hold(&activation.variables()) {
            Ok(hold) => Ok(hold),
            Err(_) if self.ignores_failure => Ok(false),
            Err(why) => Err(ApiError::forbidden(&write.row.gvr, write.object_name(), why)),
        }
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

/// What was compiled from the configurations as they were at a revision.
#[derive(Default)]
pub struct Index {
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    revision: Option<u64>,
    hooks: Arc<[Hook]>,
}

impl Index {
    /// Every hook; compiled again only if a configuration has changed since.
    pub fn hooks<K: Configuration + Clone>(&self, cluster: &dyn Reader) -> Arc<[Hook]> {
        let revision = cluster.revision(&K::GVR);
        let mut held = self.held.lock();
        if held.revision != Some(revision) {
            let objects = cluster.list(&K::GVR, None);
            let mut known: Vec<(String, K)> = objects
                .iter()
                .filter_map(|object| Some((object.name().to_owned(), object.downcast_ref::<K>()?.clone())))
                .collect();
            known.sort_by(|a, b| a.0.cmp(&b.0));
            let hooks: Vec<Hook> =
                known.into_iter().flat_map(|(name, configuration)| configuration.hooks(&name)).collect();
            *held = Held { revision: Some(revision), hooks: hooks.into() };
        }
        held.hooks.clone()
    }
}
