//! The AdmissionPlugins, compiled but for their components, in the order in which they are called.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use wharf_machinery::quantity::Quantity;
use wharf_types::admission::AdmissionPlugin;
use wharf_types::{ApiError, Gvr};

use crate::activation::Activation;
use crate::conditions::Conditions;
use crate::matching::Matcher;
use crate::subject::{Subject, View};
use crate::{Attributes, Reader};

pub const GVR: Gvr = Gvr {
    group: Cow::Borrowed("admission.wharf.dev"),
    version: Cow::Borrowed("v1alpha1"),
    resource: Cow::Borrowed("admissionplugins"),
};

/// How long a call may take that does not say.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What a call may use that does not say, in bytes.
const MEMORY_DEFAULT: u64 = 64 << 20;

pub struct Hook {
    pub name: String,
    pub image: String,
    /// As JSON.
    pub parameters: Option<Vec<u8>>,
    pub timeout: Duration,
    pub memory_bytes: u64,
    pub ignores_failure: bool,
    /// True where it is called again when something changes after it.
    pub reinvoked: bool,
    matcher: Matcher,
    conditions: Conditions,
}

impl From<AdmissionPlugin> for Hook {
    fn from(plugin: AdmissionPlugin) -> Self {
        let spec = plugin.spec;
        let limits = spec.resources.and_then(|resources| resources.limits).unwrap_or_default();
        let memory = limits.get("memory").and_then(|amount| amount.0.parse::<Quantity>().ok());
        let seconds = spec.timeout_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        Self {
            name: plugin.metadata.name.unwrap_or_default(),
            image: spec.image,
            parameters: spec
                .parameters
                .map(|parameters| serde_json::Value::Object(parameters).to_string().into_bytes()),
            timeout: seconds.map_or(TIMEOUT, Duration::from_secs),
            memory_bytes: memory.and_then(|amount| u64::try_from(amount.value()).ok()).unwrap_or(MEMORY_DEFAULT),
            ignores_failure: spec.failure_policy.as_deref() == Some("Ignore"),
            reinvoked: spec.reinvocation_policy.as_deref() == Some("IfNeeded"),
            matcher: Matcher::new(
                spec.rules,
                spec.match_policy.as_ref(),
                spec.namespace_selector.as_ref(),
                spec.object_selector.as_ref(),
            ),
            conditions: Conditions::compile(spec.match_conditions.as_deref().unwrap_or_default()),
        }
    }
}

impl Hook {
    /// What the plugin is to be shown of the write; none where it is not to be asked.
    pub async fn view(
        &self,
        write: &Attributes,
        subject: &Subject,
        cluster: &dyn Reader,
    ) -> Result<Option<Arc<View>>, ApiError> {
        let Some(row) = self.matcher.matches(write, cluster)? else { return Ok(None) };
        let view = subject.view(write, &row).await.map_err(ApiError::internal)?;
        if self.conditions.is_empty() {
            return Ok(Some(view));
        }
        let wanted = {
            let activation = Activation::new(&view, None, None, &write.user, cluster);
            self.conditions.hold(&activation.variables())
        };
        match wanted {
            Ok(wanted) => Ok(wanted.then_some(view)),
            Err(_) if self.ignores_failure => Ok(None),
            Err(why) => Err(ApiError::forbidden(&write.row.gvr, write.object_name(), why)),
        }
    }
}

/// What was read of the plugins as they were at a revision.
#[derive(Default)]
pub struct Index {
    held: Mutex<(Option<u64>, Arc<[Hook]>)>,
}

impl Index {
    /// Every plugin, by name; read again only if one has changed since.
    pub fn hooks(&self, cluster: &dyn Reader) -> Arc<[Hook]> {
        let revision = cluster.revision(&GVR);
        let mut held = self.held.lock();
        if held.0 != Some(revision) {
            let objects = cluster.list(&GVR, None);
            let mut hooks: Vec<Hook> = objects
                .iter()
                .filter_map(|object| Some(object.downcast_ref::<AdmissionPlugin>()?.clone().into()))
                .collect();
            hooks.sort_by(|a, b| a.name.cmp(&b.name));
            *held = (Some(revision), hooks.into());
        }
        held.1.clone()
    }
}
