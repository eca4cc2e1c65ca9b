//! The AdmissionPlugins, compiled but for their components, in the order in which they are called.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use wharf_machinery::quantity::Quantity;
use wharf_types::Gvr;
use wharf_types::admission::AdmissionPlugin;

use crate::Reader;
use crate::hooks::{self, Gate};
use crate::matching::Matcher;
use crate::memo::Memo;

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
    reinvoked: bool,
    gate: Gate,
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
            reinvoked: spec.reinvocation_policy.as_deref() == Some("IfNeeded"),
            gate: Gate::new(
                Matcher::new(
                    spec.rules,
                    spec.match_policy.as_ref(),
                    spec.namespace_selector.as_ref(),
                    spec.object_selector.as_ref(),
                ),
                spec.match_conditions.as_deref(),
                spec.failure_policy.as_deref(),
            ),
        }
    }
}

impl hooks::Hook for Hook {
    fn uid(&self) -> &str {
        &self.name
    }

    fn gate(&self) -> &Gate {
        &self.gate
    }

    fn is_reinvoked(&self) -> bool {
        self.reinvoked
    }
}

/// What was read of the plugins.
#[derive(Default)]
pub struct Index(Memo<u64, [Hook]>);

impl Index {
    /// Every plugin, by name; read again only if one has changed since.
    pub fn hooks(&self, cluster: &dyn Reader) -> Arc<[Hook]> {
        self.0.at(cluster.revision(&GVR), || {
            let objects = cluster.list(&GVR, None);
            let plugins = objects.iter().filter_map(|object| object.downcast_ref::<AdmissionPlugin>());
            let mut hooks: Vec<Hook> = plugins.cloned().map(Hook::from).collect();
            hooks.sort_by(|a, b| a.name.cmp(&b.name));
            hooks.into()
        })
    }
}
