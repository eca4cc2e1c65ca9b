//! Role-based access control: roles say what may be done, bindings say who may do it.
//!
//! A pure resolver over an index that is kept as roles and bindings change: a request costs a look at the bindings of its user
//! and their groups, however many there are of other people's. Source: `plugin/pkg/auth/authorizer/rbac`,
//! `pkg/registry/rbac/validation`. Invariants: nothing is denied, only not allowed; a binding to a role that is not there
//! grants nothing and is told of. Absent on purpose: storing roles, and checking writes to them ([`cover`] says what may be granted).

pub mod bootstrap;
pub mod cover;
mod index;
pub mod rule;

use std::fmt;

use async_trait::async_trait;
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use wharf_types::Gvr;
use wharf_types::k8s::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef};

use crate::view::{View, gvr};
use crate::{Attributes, Authorizer, Decision, User};
use index::{Binding, Index};

pub const GROUP: &str = "rbac.authorization.k8s.io";
const ROLES: Gvr = gvr(GROUP, "v1", "roles");
const CLUSTER_ROLES: Gvr = gvr(GROUP, "v1", "clusterroles");
const ROLE_BINDINGS: Gvr = gvr(GROUP, "v1", "rolebindings");
const CLUSTER_ROLE_BINDINGS: Gvr = gvr(GROUP, "v1", "clusterrolebindings");

/// A binding whose role is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}.{GROUP} {name:?} not found")]
pub struct RoleNotFound {
    /// `role` or `clusterrole`
    pub kind: &'static str,
    pub name: String,
}

/// The rules of somebody in a namespace, and what could not be resolved.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    pub rules: Vec<PolicyRule>,
    pub errors: Vec<RoleNotFound>,
}

/// The view of all roles and bindings.
#[derive(Default)]
pub struct Rbac {
    index: RwLock<Index>,
}

impl Rbac {
    /// Everything that `user` may do in `namespace`; the cluster's own rules alone where that is empty.
    pub fn rules_for(&self, user: &User, namespace: &str) -> Rules {
        let mut found = Rules::default();
        self.index.read().visit(user, namespace, &mut |_, _, resolved| {
            match resolved {
                Ok(rules) => found.rules.extend(rules.iter().cloned()),
                Err(error) => found.errors.push(error),
            }
            true
        });
        found
    }

    /// The rules of the role that a binding in `namespace` refers to.
    pub fn role_rules(&self, role: &RoleRef, namespace: &str) -> Result<Vec<PolicyRule>, RoleNotFound> {
        self.index.read().rules(&role.kind, &role.name, namespace).map(<[PolicyRule]>::to_vec)
    }

    fn decide(&self, user: &User, asked: &Attributes) -> Decision {
        let (mut allowed, mut errors) = (None, Vec::new());
        self.index.read().visit(user, &asked.namespace, &mut |binding, subject, resolved| {
            match resolved {
                Ok(rules) if rules.iter().any(|rule| rule::allows(rule, asked)) => {
                    allowed = Some(format!("RBAC: allowed by {}", Granted { binding, subject }));
                    return false;
                }
                Ok(_) => {}
                Err(error) => errors.push(error.to_string()),
            }
            true
        });
        if let Some(reason) = allowed {
            return Decision::Allow(reason);
        }
        errors.dedup();
        Decision::NoOpinion(match errors.as_slice() {
            [] => String::new(),
            [one] => format!("RBAC: {one}"),
            many => format!("RBAC: [{}]", many.join(", ")),
        })
    }
}

#[async_trait]
impl Authorizer for Rbac {
    async fn authorize(&self, user: &User, attributes: &Attributes) -> Decision {
        self.decide(user, attributes)
    }
}

/// `ClusterRoleBinding "cluster-admins" of ClusterRole "cluster-admin" to Group "ops"`
struct Granted<'a> {
    binding: &'a Binding,
    subject: usize,
}

impl fmt::Display for Granted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Binding { namespace, name, role, subjects } = self.binding;
        if namespace.is_empty() {
            write!(f, "ClusterRoleBinding {name:?}")?;
        } else {
            write!(f, "RoleBinding {:?}", format!("{name}/{namespace}"))?;
        }
        write!(f, " of {} {:?} to ", role.kind, role.name)?;
        let subject = &subjects[self.subject];
        if subject.kind != "ServiceAccount" {
            return write!(f, "{} {:?}", subject.kind, subject.name);
        }
        let of = subject.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or(namespace);
        write!(f, "ServiceAccount {:?}", format!("{}/{of}", subject.name))
    }
}

impl View for Rbac {
    fn resources(&self) -> Vec<Gvr> {
        // Roles first: a binding that is seen before its role would be told of as broken.
        vec![CLUSTER_ROLES, ROLES, CLUSTER_ROLE_BINDINGS, ROLE_BINDINGS]
    }

    fn replace(&self, resource: &Gvr, objects: &mut dyn Iterator<Item = &[u8]>) {
        let objects: Vec<&[u8]> = objects.collect();
        let mut index = self.index.write();
        match resource.resource.as_ref() {
            "roles" => index.clear_roles(false),
            "clusterroles" => index.clear_roles(true),
            "rolebindings" => index.clear_bindings(false),
            _ => index.clear_bindings(true),
        }
        for object in objects {
            change(&mut index, resource, object, true);
        }
    }

    fn put(&self, resource: &Gvr, object: &[u8]) {
        change(&mut self.index.write(), resource, object, true);
    }

    fn remove(&self, resource: &Gvr, object: &[u8]) {
        change(&mut self.index.write(), resource, object, false);
    }
}

fn change(index: &mut Index, resource: &Gvr, object: &[u8], there: bool) {
    match resource.resource.as_ref() {
        "roles" => {
            let Some(Role { metadata, rules }) = read(object) else { return };
            let (namespace, name) = (metadata.namespace.unwrap_or_default(), metadata.name.unwrap_or_default());
            index.set_role(namespace, name, there.then(|| rules.unwrap_or_default()));
        }
        "clusterroles" => {
            let Some(ClusterRole { metadata, rules, .. }) = read(object) else { return };
            index.set_role(String::new(), metadata.name.unwrap_or_default(), there.then(|| rules.unwrap_or_default()));
        }
        "rolebindings" => {
            let Some(RoleBinding { metadata, role_ref, subjects }) = read(object) else { return };
            let (namespace, name) = (metadata.namespace.unwrap_or_default(), metadata.name.unwrap_or_default());
            let binding = Binding { namespace, name, role: role_ref, subjects: subjects.unwrap_or_default() };
            index.set_binding(binding, there);
        }
        _ => {
            let Some(ClusterRoleBinding { metadata, role_ref, subjects }) = read(object) else { return };
            let (namespace, name) = (String::new(), metadata.name.unwrap_or_default());
            let binding = Binding { namespace, name, role: role_ref, subjects: subjects.unwrap_or_default() };
            index.set_binding(binding, there);
        }
    }
}

fn read<T: DeserializeOwned>(object: &[u8]) -> Option<T> {
    // The server has written it: one that cannot be read grants nothing.
    serde_json::from_slice(object).inspect_err(|error| tracing::error!(%error, "read a stored role or binding")).ok()
}

#[cfg(test)]
mod tests;
