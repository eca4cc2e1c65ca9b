//! Changes writes by MutatingAdmissionPolicies: an apply configuration that is merged, or a JSON patch.
//!
//! Source: `k8s.io/apiserver/pkg/admission/plugin/policy/mutating`. Policies run by name, bindings by name, mutations as they
//! stand; each sees what those before it have made of the object.

use std::borrow::Cow;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value as Json;
use wharf_machinery::apply;
use wharf_machinery::cel::Budget;
use wharf_machinery::{patch, tree};
use wharf_registry::Row;
use wharf_types::k8s::api::admissionregistration::v1::{
    MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, MutatingAdmissionPolicySpec,
};
use wharf_types::meta::StatusCause;
use wharf_types::{AnyObject, ApiError, Gvr};

use crate::activation::Activation;
use crate::expression::{Expression, Failure};
use crate::matching::Matcher;
use crate::policy::{self, Binding, Bound, Evaluation, Index, Policy, PolicyKind};
use crate::subject::{Subject, View};
use crate::{Attributes, Notes, Operation, Plugin, Reader};

#[derive(Default)]
pub struct MutatingAdmissionPolicies {
    index: Index<Mutating>,
}

/// The kind.
struct Mutating;

struct Rules {
    mutations: Vec<(Patch, Expression)>,
    reinvoked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patch {
    Apply,
    Json,
}

const fn gvr(resource: &'static str) -> Gvr {
    Gvr {
        group: Cow::Borrowed("admissionregistration.k8s.io"),
        version: Cow::Borrowed("v1"),
        resource: Cow::Borrowed(resource),
    }
}

impl PolicyKind for Mutating {
    type Rules = Rules;
    const POLICIES: Gvr = gvr("mutatingadmissionpolicies");
    const BINDINGS: Gvr = gvr("mutatingadmissionpolicybindings");

    fn policy(object: &dyn AnyObject) -> Option<Policy<Rules>> {
        let spec = object.downcast_ref::<MutatingAdmissionPolicy>()?.spec.clone()?;
        let rules = Rules::compile(&spec);
        let expressions = (spec.match_conditions, spec.variables);
        let failure = spec.failure_policy.as_deref();
        Some(Policy::new(object.name(), spec.match_constraints, expressions, spec.param_kind, failure, rules))
    }

    fn binding(object: &dyn AnyObject) -> Option<(String, Binding)> {
        let spec = object.downcast_ref::<MutatingAdmissionPolicyBinding>()?.spec.clone()?;
        let binding = Binding {
            name: object.name().to_owned(),
            matcher: spec.match_resources.map(Matcher::from),
            params: spec.param_ref,
            actions: Vec::new(),
        };
        Some((spec.policy_name.unwrap_or_default(), binding))
    }
}

impl Rules {
    fn compile(spec: &MutatingAdmissionPolicySpec) -> Self {
        let mutations = spec.mutations.iter().flatten().filter_map(|mutation| {
            let apply = mutation.apply_configuration.as_ref().and_then(|apply| apply.expression.as_deref());
            let json = mutation.json_patch.as_ref().and_then(|patch| patch.expression.as_deref());
            let apply = apply.map(|text| (Patch::Apply, Expression::compile(text)));
            apply.or(json.map(|text| (Patch::Json, Expression::compile(text))))
        });
        Self { mutations: mutations.collect(), reinvoked: spec.reinvocation_policy.as_deref() == Some("IfNeeded") }
    }
}

#[async_trait]
impl Plugin for MutatingAdmissionPolicies {
    fn name(&self) -> &'static str {
        "MutatingAdmissionPolicy"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation != Operation::Delete
    }

    async fn admit(&self, write: &mut Attributes, cluster: &dyn Reader, _: &mut Notes) -> Result<(), ApiError> {
        let policies = self.index.policies(cluster);
        if policies.is_empty() || write.is_beyond_policies() || write.object.is_none() {
            return Ok(());
        }
        if write.reinvocation.again && write.reinvocation.policies.changed_since(write.object.as_deref()) {
            write.reinvocation.policies.require();
        }
        let (subject, mut failures) = (Subject::default(), Vec::new());
        for bound in policies.iter() {
            match bound.policy.matcher.matches(write, cluster) {
                Ok(Some(row)) => run(bound, &row, write, &subject, cluster, &mut failures).await?,
                Ok(None) => {}
                Err(_) if bound.policy.ignores_failure => {}
                Err(error) => {
                    let name = &bound.policy.name;
                    let message = format!("policy '{name}' denied request: failed to configure policy: {error}");
                    failures.push(Failed { message, reason: CONFIGURATION });
                }
            }
        }
        write.reinvocation.policies.last_output = write.object.as_ref().map(|object| object.clone_box());
        if failures.is_empty() { Ok(()) } else { Err(refusal(write, failures)) }
    }
}

/// Why a policy refuses a write.
struct Failed {
    message: String,
    reason: &'static str,
}

/// The reason of a policy that cannot be asked, and of one whose mutation fails.
const CONFIGURATION: &str = "Forbidden";
const MUTATION: &str = "Invalid";

/// In the words of the first, with every one of them beside it. The code stays what it is for the first reason, as upstream.
fn refusal(write: &Attributes, failures: Vec<Failed>) -> ApiError {
    let mut error = write.forbidden("");
    if let Some(first) = failures.first() {
        (error.message, error.reason) = (first.message.clone(), first.reason.into());
    }
    let cause = |failed: Failed| StatusCause { message: Some(failed.message), ..StatusCause::default() };
    let causes = error.details.get_or_insert_default().causes.get_or_insert_default();
    causes.extend(failures.into_iter().map(cause));
    error
}

/// One policy under each of its bindings.
async fn run(
    bound: &Bound<Rules>,
    row: &Arc<Row>,
    write: &mut Attributes,
    subject: &Subject,
    cluster: &dyn Reader,
    failures: &mut Vec<Failed>,
) -> Result<(), ApiError> {
    let policy = &bound.policy;
    for binding in &bound.bindings {
        let params = match binding.is_about(write, cluster) {
            Ok(false) => continue,
            Ok(true) => policy::collect(policy.params.as_ref(), binding.params.as_ref(), write.in_namespace(), cluster),
            Err(error) => Err(error.to_string()),
        };
        let failed = |why: &str, reason| Failed {
            message: format!("policy '{}' with binding '{}' denied request: {why}", policy.name, binding.name),
            reason,
        };
        let params = match params {
            Ok(params) => params,
            Err(_) if policy.ignores_failure => continue,
            Err(why) => {
                failures.push(failed(&format!("failed to configure binding: {why}"), CONFIGURATION));
                continue;
            }
        };
        for (index, params) in params.iter().enumerate() {
            let uid = format!("{}/{}/{index}", policy.name, binding.name);
            if write.reinvocation.again && !write.reinvocation.policies.wanted(&uid) {
                continue;
            }
            let mut run = Run { policy, row, params: params.as_ref(), subject, cluster, changed: false };
            let found = run.mutate(write).await?;
            if run.changed {
                write.reinvocation.policies.require();
                write.reinvocation.wanted = true;
            }
            if policy.rules.reinvoked {
                write.reinvocation.policies.add(&uid);
            }
            if !policy.ignores_failure {
                failures.extend(found.iter().map(|why| failed(why, MUTATION)));
            }
        }
    }
    Ok(())
}

/// A policy under one binding, with one set of parameters.
struct Run<'a> {
    policy: &'a Policy<Rules>,
    /// The version in which the policy sees the object.
    row: &'a Arc<Row>,
    params: Option<&'a Json>,
    subject: &'a Subject,
    cluster: &'a dyn Reader,
    changed: bool,
}

impl Run<'_> {
    /// Runs the mutations, one after the other; what goes wrong is for the failure policy.
    async fn mutate(&mut self, write: &mut Attributes) -> Result<Vec<String>, ApiError> {
        let mut failures = Vec::new();
        let namespace = policy::namespace(write, self.cluster)?;
        for (index, (kind, expression)) in self.policy.rules.mutations.iter().enumerate() {
            let view = match self.subject.view(write, self.row).await {
                Ok(view) => view,
                Err(error) => return Ok(vec![policy::unconverted(error)]),
            };
            if index == 0 {
                match self.is_wanted(write, &view, namespace.as_ref()) {
                    Ok(true) => {}
                    Ok(false) => return Ok(failures),
                    Err(why) => return Ok(vec![why]),
                }
            }
            match self.changed(write, &view, namespace.as_ref(), (*kind, expression)) {
                Ok(Some(document)) => self.changed |= self.subject.replace(write, &view, document).await?,
                Ok(None) => {}
                Err(why) => failures.push(why),
            }
        }
        Ok(failures)
    }

    fn is_wanted(&self, write: &Attributes, view: &View, namespace: Option<&Json>) -> Result<bool, String> {
        let activation = Activation::new(view, namespace, self.params, &write.user, self.cluster);
        self.policy.conditions.hold(&Evaluation::new(activation, &self.policy.variables).variables())
    }

    /// The object as a mutation makes it; none where that leaves it as it is.
    fn changed(
        &self,
        write: &Attributes,
        view: &View,
        namespace: Option<&Json>,
        (kind, expression): (Patch, &Expression),
    ) -> Result<Option<Json>, String> {
        let Some(object) = &view.object else { return Ok(None) };
        let activation = Activation::new(view, namespace, self.params, &write.user, self.cluster);
        let evaluation = Evaluation::new(activation, &self.policy.variables);
        let value = expression.evaluate(&evaluation.variables(), &mut Budget::admission());
        let value = value.map_err(Failure::message)?.to_json().map_err(|error| error.to_string())?;
        let misnamed = if kind == Patch::Apply { expression.misnamed() } else { Vec::new() };
        if !misnamed.is_empty() {
            return Err(format!("type mismatch: {}", misnamed.join("\n")));
        }
        let made = match kind {
            Patch::Json => {
                let mut document = object.clone();
                patch::json(&mut document, &value).map_err(|error| format!("JSON Patch: {error}"))?;
                document
            }
            Patch::Apply => applied(view, object, &value).map_err(|why| format!("error applying patch: {why}"))?,
        };
        Ok((made != *object).then_some(made))
    }
}

/// Merges an apply configuration into the object. Source: `ApplyStructuredMergeDiff`.
fn applied(view: &View, object: &Json, configuration: &Json) -> Result<Json, String> {
    let root = view.merge_root();
    let (base, over) = (object.to_string(), configuration.to_string());
    let read = |text: &str| tree::Value::parse(text.as_bytes()).map(tree::Value::into_owned);
    let untyped = |why: String| format!("failed to convert patch object to typed object: {why}");
    let over = read(&over).map_err(|error| untyped(error.to_string()))?;
    apply::validate(&over, root.get(), false).map_err(untyped)?;
    let atomics = apply::atomics(&over, root.get());
    if !atomics.is_empty() {
        let paths = atomics.join(", ");
        return Err(format!("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {paths}"));
    }
    let base = read(&base).map_err(|error| format!("failed to convert original object to typed object: {error}"))?;
    let merged = apply::merge(&base, &over, root.get()).map_err(|why| format!("failed to merge patch: {why}"))?;
    Ok(merged.into_json())
}
