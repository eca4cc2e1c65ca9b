//! The policies of one kind and their bindings, compiled.

use std::sync::Arc;

use wharf_types::k8s::api::admissionregistration::v1::{MatchCondition, MatchResources, ParamKind, ParamRef, Variable};
use wharf_types::{AnyObject, ApiError, Gvr};

use crate::conditions::Conditions;
use crate::expression::Expression;
use crate::matching::Matcher;
use crate::memo::Memo;
use crate::{Attributes, Reader};

/// A policy with the rules of its kind.
pub struct Policy<R> {
    pub name: String,
    pub matcher: Matcher,
    pub conditions: Conditions,
    /// In the order in which they stand: each sees those before it.
    pub variables: Vec<(String, Expression)>,
    /// apiVersion and kind of the parameters.
    pub params: Option<(String, String)>,
    pub ignores_failure: bool,
    pub rules: R,
}

impl<R> Policy<R> {
    pub fn new(
        name: &str,
        matched: Option<MatchResources>,
        (conditions, variables): (Option<Vec<MatchCondition>>, Option<Vec<Variable>>),
        params: Option<ParamKind>,
        failure_policy: Option<&str>,
        rules: R,
    ) -> Self {
        let compile = |variable: Variable| (variable.name, Expression::compile(&variable.expression));
        let params = params.map(|kind| (kind.api_version.unwrap_or_default(), kind.kind.unwrap_or_default()));
        Self {
            name: name.to_owned(),
            matcher: Matcher::from(matched.unwrap_or_default()),
            conditions: Conditions::compile(conditions.as_deref().unwrap_or_default()),
            variables: variables.into_iter().flatten().map(compile).collect(),
            params,
            ignores_failure: failure_policy == Some("Ignore"),
            rules,
        }
    }
}

pub struct Binding {
    pub name: String,
    /// None where the policy's own constraints say it all.
    pub matcher: Option<Matcher>,
    pub params: Option<ParamRef>,
    /// Of validating policies: `Deny`, `Warn`, `Audit`.
    pub actions: Vec<String>,
}

impl Binding {
    /// Whether the binding has its policy hold for the write.
    pub fn is_about(&self, write: &Attributes, cluster: &dyn Reader) -> Result<bool, ApiError> {
        self.matcher.as_ref().map_or(Ok(true), |matcher| Ok(matcher.matches(write, cluster)?.is_some()))
    }
}

/// A policy where it holds.
pub struct Bound<R> {
    pub policy: Policy<R>,
    pub bindings: Vec<Binding>,
}

/// A kind of policy.
pub trait PolicyKind: 'static {
    type Rules: Send + Sync;
    const POLICIES: Gvr;
    const BINDINGS: Gvr;
    fn policy(object: &dyn AnyObject) -> Option<Policy<Self::Rules>>;
    /// The binding, and the name of its policy.
    fn binding(object: &dyn AnyObject) -> Option<(String, Binding)>;
}

pub struct Index<K: PolicyKind> {
    held: Memo<(u64, u64), [Bound<K::Rules>]>,
}

impl<K: PolicyKind> Default for Index<K> {
    fn default() -> Self {
        Self { held: Memo::default() }
    }
}

impl<K: PolicyKind> Index<K> {
    /// Every policy that is bound, by name; compiled again only if a policy or binding has changed since.
    pub fn policies(&self, cluster: &dyn Reader) -> Arc<[Bound<K::Rules>]> {
        let revisions = (cluster.revision(&K::POLICIES), cluster.revision(&K::BINDINGS));
        self.held.at(revisions, || read::<K>(cluster).into())
    }
}

fn read<K: PolicyKind>(cluster: &dyn Reader) -> Vec<Bound<K::Rules>> {
    let bindings = cluster.list(&K::BINDINGS, None);
    let mut bindings: Vec<(String, Binding)> = bindings.iter().filter_map(|object| K::binding(&**object)).collect();
    bindings.sort_by(|a, b| a.1.name.cmp(&b.1.name));
    let mut bound: Vec<Bound<K::Rules>> = Vec::new();
    for object in cluster.list(&K::POLICIES, None) {
        let (own, rest): (Vec<_>, Vec<_>) = bindings.into_iter().partition(|(policy, _)| policy == object.name());
        bindings = rest;
        if own.is_empty() {
            continue;
        }
        let bindings = own.into_iter().map(|(_, binding)| binding).collect();
        bound.extend(K::policy(&*object).map(|policy| Bound { policy, bindings }));
    }
    bound.sort_by(|a, b| a.policy.name.cmp(&b.policy.name));
    bound
}
