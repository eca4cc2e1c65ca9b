//! The built-in plugins, in the order of upstream's `AllOrderedPlugins`.

mod default_toleration_seconds;
mod namespace_lifecycle;
mod node_restriction;
mod priority;
mod service_account;
mod taint_nodes_by_condition;
#[cfg(test)]
pub(crate) mod testing;

use wharf_types::ApiError;

use crate::{Attributes, Plugin};

/// All of them. Adding one is a file and a line.
pub fn ordered() -> Vec<Box<dyn Plugin>> {
    vec![
        Box::new(namespace_lifecycle::NamespaceLifecycle),
        Box::new(service_account::ServiceAccountPlugin),
        Box::new(node_restriction::NodeRestriction),
        Box::new(taint_nodes_by_condition::TaintNodesByCondition),
        Box::new(priority::Priority),
        Box::new(default_toleration_seconds::DefaultTolerationSeconds),
    ]
}

/// On static pods' images in the API, which only their node may make.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

impl Attributes {
    /// The new object, if it is a `K`.
    fn new_as<K: 'static>(&self) -> Option<&K> {
        self.object.as_ref().and_then(|object| object.downcast_ref())
    }

    fn new_as_mut<K: 'static>(&mut self) -> Option<&mut K> {
        self.object.as_mut().and_then(|object| object.downcast_mut())
    }

    fn old_as<K: 'static>(&self) -> Option<&K> {
        self.old.as_ref().and_then(|object| object.downcast_ref())
    }

    /// True for the resource itself, not for one of its subresources.
    fn is(&self, group: &str, resource: &str) -> bool {
        self.subresource.is_none() && self.about(group, resource)
    }

    /// True for the resource and all of its subresources.
    fn about(&self, group: &str, resource: &str) -> bool {
        self.row.gvr.group == group && self.row.gvr.resource == resource
    }

    /// A refusal that names the object as far as it has a name yet (`admission.NewForbidden`).
    fn forbidden(&self, why: impl std::fmt::Display) -> ApiError {
        let meta = self.object.as_ref().map(|object| object.meta());
        let given = |name: Option<&String>| name.filter(|name| !name.is_empty()).cloned();
        let name = given(Some(&self.name))
            .or_else(|| given(meta?.name.as_ref()))
            .or_else(|| given(meta?.generate_name.as_ref()))
            .unwrap_or_else(|| "Unknown".to_owned());
        ApiError::forbidden(&self.row.gvr, &name, why)
    }
}
