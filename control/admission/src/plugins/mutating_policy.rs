//! Changes writes by MutatingAdmissionPolicies: an apply configuration that is merged, or a JSON patch.
//!
//! Source: `k8s.io/apiserver/pkg/admission/plugin/policy/mutating`. Policies run by name, bindings by name, mutations as they
//! stand; each sees what those before it have made of the object.

use std::borrow::Cow;

use async_trait::async_trait;
use serde_json::Value as Json;
use wharf_machinery::apply::{self, Root};
use wharf_machinery::cel::{Budget, Value};
use wharf_machinery::{patch, schema, tree};
use wharf_types::k8s::api::admissionregistration::v1::{
    MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, MutatingAdmissionPolicySpec,
};
use wharf_types::{AnyObject, ApiError, Gvr};

use crate::activation::Activation;
use crate::expression::Expression;
use crate::matching::Matcher;
use crate::policy::{self, Binding, Bound, Context, Evaluation, Index, Policy, PolicyKind};
use crate::subject::Subject;
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

    fn sees_managed_fields(&self, cluster: &dyn Reader) -> bool {
        !self.index.policies(cluster).is_empty()
    }

    async fn admit(&self, write: &mut Attributes, cluster: &dyn Reader, _: &mut Notes) -> Result<(), ApiError> {
        let policies = self.index.policies(cluster);
        if policies.is_empty() || write.is_exempt() || write.object.is_none() {
            return Ok(());
        }
        if write.reinvocation.again && write.reinvocation.policies.changed_since(write.object.as_deref()) {
            write.reinvocation.policies.require();
        }
        let (mut subject, mut failures) = (Subject::default(), Vec::new());
        for bound in policies.iter() {
            match bound.policy.matcher.matches(write, cluster) {
                Ok(true) => run(bound, write, &mut subject, cluster, &mut failures)?,
                Ok(false) => {}
                Err(_) if bound.policy.ignores_failure => {}
                Err(error) => failures.push(format!(
                    "policy '{}' denied request: failed to configure policy: {error}",
                    bound.policy.name
                )),
            }
        }
        write.reinvocation.policies.last_output = write.object.as_ref().map(|object| object.clone_box());
        match failures.len() {
            0 => Ok(()),
            1 => Err(write.forbidden(&failures[0])),
            _ => Err(write.forbidden(format!("[{}]", failures.join(", ")))),
        }
    }
}

/// One policy under each of its bindings.
fn run(
    bound: &Bound<Rules>,
    write: &mut Attributes,
    subject: &mut Subject,
    cluster: &dyn Reader,
    failures: &mut Vec<String>,
) -> Result<(), ApiError> {
    let policy = &bound.policy;
    for binding in &bound.bindings {
        let about = binding.matcher.as_ref().map_or(Ok(true), |matcher| matcher.matches(write, cluster));
        let params = match about {
            Ok(false) => continue,
            Ok(true) => policy::collect(policy.params.as_ref(), binding.params.as_ref(), write.in_namespace(), cluster),
            Err(error) => Err(error.to_string()),
        };
        let by = |why: &str| format!("policy '{}' with binding '{}' denied request: {why}", policy.name, binding.name);
        let params = match params {
            Ok(params) => params,
            Err(_) if policy.ignores_failure => continue,
            Err(why) => {
                failures.push(by(&format!("failed to configure binding: {why}")));
                continue;
            }
        };
        for (index, params) in params.iter().enumerate() {
            let uid = format!("{}/{}/{index}", policy.name, binding.name);
            if write.reinvocation.again && !write.reinvocation.policies.wanted(&uid) {
                continue;
            }
            let before = write.object.as_ref().map(|object| object.clone_box());
            let result = mutate(policy, params.as_ref(), write, subject, cluster)?;
            let changed = match (&before, &write.object) {
                (Some(before), Some(after)) => !after.same(&**before),
                _ => false,
            };
            if changed {
                write.reinvocation.policies.require();
                write.reinvocation.wanted = true;
            }
            if policy.rules.reinvoked {
                write.reinvocation.policies.add(&uid);
            }
            if let Err(why) = result
                && !policy.ignores_failure
            {
                failures.push(by(&why));
            }
        }
    }
    Ok(())
}

/// Runs the mutations of a policy, one after the other. The inner error is for the failure policy.
fn mutate(
    policy: &Policy<Rules>,
    params: Option<&Json>,
    write: &mut Attributes,
    subject: &mut Subject,
    cluster: &dyn Reader,
) -> Result<Result<(), String>, ApiError> {
    for (index, (kind, expression)) in policy.rules.mutations.iter().enumerate() {
        let context = Context::new(write, subject, cluster)?;
        let activation = Activation {
            object: subject.object(write),
            old: subject.old(write),
            request: &context.request,
            namespace: context.namespace.as_ref(),
            params,
            user: &write.user,
            cluster,
        };
        let evaluation = Evaluation::new(activation, &policy.variables);
        let variables = evaluation.variables();
        if index == 0 {
            match policy.conditions.hold(&variables) {
                Ok(true) => {}
                Ok(false) => return Ok(Ok(())),
                Err(why) => return Ok(Err(why)),
            }
        }
        let value = match expression.evaluate(&variables, &mut Budget::admission()) {
            Ok(value) => value,
            Err(failure) => return Ok(Err(failure.message())),
        };
        let changed = match changed(*kind, &value, write, subject) {
            Ok(changed) => changed,
            Err(why) => return Ok(Err(why)),
        };
        drop((value, variables, evaluation));
        if let Some(document) = changed {
            subject.replace(write, &document)?;
        }
    }
    Ok(Ok(()))
}

/// The object as a mutation makes it; none where that leaves it as it is.
fn changed(kind: Patch, value: &Value<'_>, write: &Attributes, subject: &Subject) -> Result<Option<Json>, String> {
    let Some(object) = subject.object(write) else { return Ok(None) };
    let value = value.to_json().map_err(|error| error.to_string())?;
    let made = match kind {
        Patch::Json => {
            let mut document = object.clone();
            patch::json(&mut document, &value).map_err(|error| format!("JSON Patch: {error}"))?;
            document
        }
        Patch::Apply => {
            let kind = subject.kind(write);
            let own = kind == write.row.gvk;
            let root = if own { write.row.kind.merge_root() } else { Root::built_in(&schema::type_name(&kind)) };
            let (base, over) = (object.to_string(), value.to_string());
            let read = |text: &str| tree::Value::parse(text.as_bytes()).map(tree::Value::into_owned);
            let (base, over) = (read(&base), read(&over));
            let (base, over) = (base.map_err(|error| error.to_string())?, over.map_err(|error| error.to_string())?);
            let merged = apply::merge(&base, &over, root.get());
            merged.map_err(|why| format!("error applying patch: {why}"))?.into_json()
        }
    };
    Ok((made != *object).then_some(made))
}
