//! Admission policies: CEL expressions that judge or change what is written, where bindings say that they hold.
//!
//! ```text
//! policies, bindings ──(only when one changes)──► Index ──► Matcher ──► Params ──► Evaluation
//! ```
//!
//! Source: `k8s.io/apiserver/pkg/admission/plugin/policy`. What a policy does with its rules is in `plugins`.
//! Invariants: a write that no policy is about costs a comparison of revisions and of rules; a policy and its bindings count
//! from the moment that their writes are acknowledged; expressions see the object as JSON, whatever its kind.

mod evaluation;
mod index;
mod params;

pub use evaluation::Evaluation;
pub use index::{Binding, Bound, Index, Policy, PolicyKind};
pub use params::collect;

use serde_json::Value;
use wharf_registry::ConvertError;
use wharf_types::{ApiError, Gvr};

use crate::{Attributes, Reader};

const NAMESPACES: Gvr = Gvr {
    group: std::borrow::Cow::Borrowed(""),
    version: std::borrow::Cow::Borrowed("v1"),
    resource: std::borrow::Cow::Borrowed("namespaces"),
};

/// What a policy says of a write that cannot be shown in the version that it asks for.
pub fn unconverted(error: ConvertError) -> String {
    format!("failed to convert object version: {error}")
}

/// `namespaceObject`; none for what is in no namespace.
pub fn namespace(write: &Attributes, cluster: &dyn Reader) -> Result<Option<Value>, ApiError> {
    let Some(name) = &write.namespace else { return Ok(None) };
    let found = cluster.get(&NAMESPACES, None, name).ok_or_else(|| ApiError::not_found(&NAMESPACES, name))?;
    Ok(serde_json::from_slice(&found.to_vec()).ok())
}
