//! Nobody grants what they do not have: writes of roles need their rules or `escalate`, writes of bindings the role's rules
//! or `bind`.
//!
//! Source: `pkg/registry/rbac/{role,clusterrole,rolebinding,clusterrolebinding}/policybased`, `pkg/registry/rbac/helpers.go`.
//! Invariants: checked on the object as it will be stored, after mutating admission; for creates, updates, patches and
//! creates by PUT alike. An update that touches only owners and finalizers is nobody's gain and passes.

use wharf_admission::Attributes;
use wharf_auth::rbac::cover;
use wharf_auth::{Attributes as Asked, Decision, MASTERS, Rbac, rbac};
use wharf_types::k8s::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef};
use wharf_types::{AnyObject, ApiError};

use crate::call::Call;

const AGGREGATION: &str = "must have cluster-admin privileges to use the aggregationRule";

/// Refuses a write by which the caller would gain, or give, more than they have.
pub async fn check(call: &Call, write: &Attributes) -> Result<(), ApiError> {
    let (Some(rbac), Some(object)) = (&call.server.rbac, write.object.as_deref()) else { return Ok(()) };
    if call.gvr().group != rbac::GROUP || call.user.in_group(MASTERS) {
        return Ok(());
    }
    let old = write.old.as_deref();
    if old.is_some_and(|old| only_bookkeeping(object, old)) {
        return Ok(());
    }
    let guard = Guard { call, rbac, name: object.name() };
    if let Some(role) = object.downcast_ref::<Role>() {
        return guard.role(role.rules.as_deref().unwrap_or_default(), false).await;
    }
    if let Some(role) = object.downcast_ref::<ClusterRole>() {
        let before = old.and_then(|old| old.downcast_ref::<ClusterRole>());
        let sums = sums(role) || before.is_some_and(sums);
        return guard.role(role.rules.as_deref().unwrap_or_default(), sums).await;
    }
    if let Some(binding) = object.downcast_ref::<RoleBinding>() {
        return guard.binding(&binding.role_ref).await;
    }
    match object.downcast_ref::<ClusterRoleBinding>() {
        Some(binding) => guard.binding(&binding.role_ref).await,
        None => Ok(()),
    }
}

fn sums(role: &ClusterRole) -> bool {
    let selectors = role.aggregation_rule.as_ref().and_then(|rule| rule.cluster_role_selectors.as_ref());
    selectors.is_some_and(|selectors| !selectors.is_empty())
}

/// What the garbage collector must be able to write.
fn only_bookkeeping(new: &dyn AnyObject, old: &dyn AnyObject) -> bool {
    let (mut copy, held) = (new.clone_box(), old.meta());
    let meta = copy.meta_mut();
    meta.owner_references.clone_from(&held.owner_references);
    meta.finalizers.clone_from(&held.finalizers);
    meta.managed_fields.clone_from(&held.managed_fields);
    meta.self_link.clone_from(&held.self_link);
    // One that is left out means the one that is there.
    meta.resource_version.clone_from(&held.resource_version);
    copy.same(old)
}

struct Guard<'a> {
    call: &'a Call,
    rbac: &'a Rbac,
    name: &'a str,
}

impl Guard<'_> {
    async fn role(&self, rules: &[PolicyRule], sums: bool) -> Result<(), ApiError> {
        let call = self.call;
        // A create names nothing yet.
        let asked = self.asked("escalate", &call.gvr().group, &call.gvr().resource, &call.asked_name);
        if self.allowed(&asked).await {
            return Ok(());
        }
        self.confirm(rules)?;
        // A sum can gather anything.
        if sums && self.confirm(&cover::full_authority()).is_err() {
            return Err(ApiError::forbidden(call.gvr(), self.name, AGGREGATION));
        }
        Ok(())
    }

    async fn binding(&self, role: &RoleRef) -> Result<(), ApiError> {
        let resource = match role.kind.as_str() {
            "Role" => "roles",
            "ClusterRole" => "clusterroles",
            // Validation has its own words for it.
            _ => return Ok(()),
        };
        let group = role.api_group.as_deref().unwrap_or_default();
        if self.allowed(&self.asked("bind", group, resource, &role.name)).await {
            return Ok(());
        }
        let rules = self.rbac.role_rules(role, self.namespace()).map_err(|missing| {
            let gvr =
                wharf_types::Gvr { group: rbac::GROUP.into(), version: "v1".into(), resource: missing.kind.into() };
            ApiError::not_found(&gvr, &missing.name)
        })?;
        self.confirm(&rules)
    }

    /// The caller's own rules must cover these.
    fn confirm(&self, rules: &[PolicyRule]) -> Result<(), ApiError> {
        let held = self.rbac.rules_for(&self.call.user, self.namespace());
        let missing = cover::missing(&held.rules, rules);
        if missing.is_empty() {
            return Ok(());
        }
        let unresolved: Vec<String> = held.errors.iter().map(ToString::to_string).collect();
        let why = cover::refusal(&self.call.user, missing, &unresolved);
        Err(ApiError::forbidden(self.call.gvr(), self.name, why))
    }

    fn namespace(&self) -> &str {
        self.call.namespace.as_deref().unwrap_or_default()
    }

    fn asked(&self, verb: &str, group: &str, resource: &str, name: &str) -> Asked {
        Asked {
            verb: verb.to_owned(),
            resource_request: true,
            group: group.to_owned(),
            version: "*".to_owned(),
            resource: resource.to_owned(),
            namespace: self.namespace().to_owned(),
            name: name.to_owned(),
            ..Asked::default()
        }
    }

    async fn allowed(&self, asked: &Asked) -> bool {
        matches!(self.call.server.authorizer.authorize(&self.call.user, asked).await, Decision::Allow(_))
    }
}
