//! What a second round of mutating admission needs to know of the first.
//!
//! Source: `k8s.io/apiserver/pkg/admission/reinvocation.go`, and the contexts of the plugins that use it.

use std::collections::BTreeSet;

use wharf_types::{AnyObject, BoxObject};

#[derive(Default)]
pub struct Reinvocation {
    /// True in the second round. There is no third.
    pub again: bool,
    /// True once something has changed that plugins before it may want to see.
    pub wanted: bool,
    pub webhooks: Round,
    pub policies: Round,
    pub plugins: Round,
}

/// The hooks of one plugin.
#[derive(Default)]
pub struct Round {
    /// What the plugin left behind when it last ran.
    pub last_output: Option<BoxObject>,
    /// Called, and to be called again if something changes.
    called: BTreeSet<String>,
    /// To be called again.
    required: BTreeSet<String>,
}

impl Round {
    pub fn changed_since(&self, object: Option<&dyn AnyObject>) -> bool {
        match (self.last_output.as_deref(), object) {
            (Some(last), Some(object)) => !last.same(object),
            (last, object) => last.is_some() != object.is_some(),
        }
    }

    /// Something has changed: all that were called before are called again.
    pub fn require(&mut self) {
        self.required.append(&mut self.called);
    }

    pub fn add(&mut self, uid: &str) {
        self.called.insert(uid.to_owned());
    }

    pub fn wanted(&self, uid: &str) -> bool {
        self.required.contains(uid)
    }
}
