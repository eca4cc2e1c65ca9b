//! Judges writes by ValidatingAdmissionPolicies: each binding denies, warns or leaves a note for the audit log.
//!
//! Source: `k8s.io/apiserver/pkg/admission/plugin/policy/validating`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_json::{Value as Json, json};
use wharf_machinery::cel::{Budget, Value, Variables};
use wharf_types::k8s::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingAdmissionPolicySpec,
};
use wharf_types::meta::StatusCause;
use wharf_types::{AnyObject, ApiError, Gvr};

use crate::activation::Activation;
use crate::expression::{Expression, Failure};
use crate::matching::Matcher;
use crate::policy::{self, Binding, Bound, Evaluation, Index, Policy, PolicyKind};
use crate::subject::{Subject, View};
use crate::{Attributes, Notes, Operation, Plugin, Reader};

/// Longest message that an expression may make, in bytes.
const MESSAGE_MAX: usize = 5 * 1024;
/// Longest value of an audit annotation, in bytes; the rest is cut off.
const ANNOTATION_MAX: usize = 10 * 1024;

#[derive(Default)]
pub struct ValidatingAdmissionPolicies {
    index: Index<Validating>,
}

/// The kind.
struct Validating;

struct Rules {
    validations: Vec<Validation>,
    /// Key and value.
    annotations: Vec<(String, Expression)>,
}

struct Validation {
    expression: Expression,
    message: String,
    message_expression: Option<Expression>,
    /// Reason and code of a refusal.
    reason: (&'static str, u16),
}

const fn gvr(resource: &'static str) -> Gvr {
    Gvr {
        group: Cow::Borrowed("admissionregistration.k8s.io"),
        version: Cow::Borrowed("v1"),
        resource: Cow::Borrowed(resource),
    }
}

impl PolicyKind for Validating {
    type Rules = Rules;
    const POLICIES: Gvr = gvr("validatingadmissionpolicies");
    const BINDINGS: Gvr = gvr("validatingadmissionpolicybindings");

    fn policy(object: &dyn AnyObject) -> Option<Policy<Rules>> {
        let spec = object.downcast_ref::<ValidatingAdmissionPolicy>()?.spec.clone()?;
        let rules = Rules::compile(&spec);
        let expressions = (spec.match_conditions, spec.variables);
        let failure = spec.failure_policy.as_deref();
        Some(Policy::new(object.name(), spec.match_constraints, expressions, spec.param_kind, failure, rules))
    }

    fn binding(object: &dyn AnyObject) -> Option<(String, Binding)> {
        let spec = object.downcast_ref::<ValidatingAdmissionPolicyBinding>()?.spec.clone();
        let binding = Binding {
            name: object.name().to_owned(),
            matcher: spec.match_resources.map(Matcher::from),
            params: spec.param_ref,
            actions: spec.validation_actions,
        };
        Some((spec.policy_name, binding))
    }
}

impl Rules {
    fn compile(spec: &ValidatingAdmissionPolicySpec) -> Self {
        let validations = spec.validations.iter().flatten().map(|validation| Validation {
            expression: Expression::compile(&validation.expression),
            message: validation.message.as_deref().unwrap_or_default().trim().to_owned(),
            message_expression: validation.message_expression.as_deref().map(Expression::compile),
            reason: match validation.reason.as_deref() {
                Some("Forbidden") => ("Forbidden", 403),
                Some("Unauthorized") => ("Unauthorized", 401),
                Some("RequestEntityTooLarge") => ("RequestEntityTooLarge", 413),
                _ => INVALID,
            },
        });
        let annotations = spec.audit_annotations.iter().flatten();
        let annotations = annotations.map(|note| (note.key.clone(), Expression::compile(&note.value_expression)));
        Self { validations: validations.collect(), annotations: annotations.collect() }
    }
}

const INVALID: (&str, u16) = ("Invalid", 422);

/// Why a policy is not content.
struct Complaint {
    message: String,
    reason: (&'static str, u16),
}

impl Complaint {
    fn of(message: String) -> Self {
        Self { message, reason: INVALID }
    }
}

/// A complaint that refuses the write.
struct Denial<'p> {
    policy: &'p str,
    binding: Option<&'p str>,
    complaint: Complaint,
}

impl Denial<'_> {
    fn into_error(self, write: &Attributes) -> ApiError {
        let Self { policy, binding, complaint: Complaint { message, reason } } = self;
        let by = binding.map(|binding| format!(" with binding '{binding}'")).unwrap_or_default();
        let message = format!("ValidatingAdmissionPolicy '{policy}'{by} denied request: {message}");
        let mut error = write.forbidden(&message);
        (error.reason, error.code) = (reason.0.into(), reason.1);
        let cause = StatusCause { message: Some(message), ..StatusCause::default() };
        error.details.get_or_insert_default().causes.get_or_insert_default().push(cause);
        error
    }
}

#[async_trait]
impl Plugin for ValidatingAdmissionPolicies {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    fn handles(&self, _: Operation) -> bool {
        true
    }

    async fn validate(&self, write: &Attributes, cluster: &dyn Reader, notes: &mut Notes) -> Result<(), ApiError> {
        let policies = self.index.policies(cluster);
        if policies.is_empty() || write.is_beyond_policies() {
            return Ok(());
        }
        let (subject, mut namespace, mut denials) = (Subject::default(), None, Vec::new());
        for bound in policies.iter() {
            let policy = &bound.policy;
            let mut refuse = |binding: Option<&'_ str>, complaint: Complaint| {
                let binding = bound.bindings.iter().map(|held| held.name.as_str()).find(|held| Some(*held) == binding);
                denials.push(Denial { policy: &policy.name, binding, complaint });
            };
            let view = match policy.matcher.matches(write, cluster) {
                Ok(Some(row)) => subject.view(write, &row).await.map_err(policy::unconverted),
                Ok(None) => continue,
                Err(error) => Err(format!("failed to configure policy: {error}")),
            };
            let view = match view {
                Ok(view) => view,
                Err(_) if policy.ignores_failure => continue,
                Err(why) => {
                    refuse(None, Complaint::of(why));
                    continue;
                }
            };
            if namespace.is_none() {
                namespace = Some(policy::namespace(write, cluster)?);
            }
            let namespace = namespace.as_ref().and_then(Option::as_ref);
            judge(bound, write, (&view, namespace), cluster, notes, &mut refuse);
        }
        denials.into_iter().next().map_or(Ok(()), |denial| Err(denial.into_error(write)))
    }
}

/// One policy under each of its bindings.
fn judge(
    bound: &Bound<Rules>,
    write: &Attributes,
    (view, namespace): (&View, Option<&Json>),
    cluster: &dyn Reader,
    notes: &mut Notes,
    refuse: &mut dyn FnMut(Option<&str>, Complaint),
) {
    let policy = &bound.policy;
    let mut annotations: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for binding in &bound.bindings {
        let about = binding.is_about(write, cluster);
        let params = match about {
            Ok(false) => continue,
            Ok(true) => policy::collect(policy.params.as_ref(), binding.params.as_ref(), write.in_namespace(), cluster),
            Err(error) => Err(error.to_string()),
        };
        let params = match params {
            Ok(params) => params,
            Err(_) if policy.ignores_failure => continue,
            Err(why) => {
                refuse(Some(&binding.name), Complaint::of(format!("failed to configure binding: {why}")));
                continue;
            }
        };
        for params in &params {
            let activation = Activation::new(view, namespace, params.as_ref(), &write.user, cluster);
            let evaluation = Evaluation::new(activation, &policy.variables);
            let outcome = evaluate(policy, &evaluation.variables());
            for (index, complaint) in outcome.complaints {
                act(policy, binding, (index, complaint), notes, refuse);
            }
            for (key, value) in outcome.annotations {
                match value {
                    Ok(value) => {
                        let values = annotations.entry(key).or_default();
                        if !values.contains(&value) {
                            values.push(value);
                        }
                    }
                    Err(why) => refuse(Some(&binding.name), Complaint::of(why)),
                }
            }
        }
    }
    for (key, values) in annotations {
        notes.audit_annotations.insert(format!("{}/{key}", policy.name), values.join(", "));
    }
}

/// What a binding does about a complaint.
fn act(
    policy: &Policy<Rules>,
    binding: &Binding,
    (index, complaint): (usize, Complaint),
    notes: &mut Notes,
    refuse: &mut dyn FnMut(Option<&str>, Complaint),
) {
    let has = |action: &str| binding.actions.iter().any(|held| held == action);
    if has("Audit") {
        let failure = json!([{
            "message": complaint.message, "policy": policy.name, "binding": binding.name,
            "expressionIndex": index, "validationActions": binding.actions,
        }]);
        let key = "validation.policy.admission.k8s.io/validation_failure";
        notes.audit_annotations.insert(key.to_owned(), failure.to_string());
    }
    if has("Warn") {
        notes.warnings.push(format!(
            "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
            policy.name, binding.name, complaint.message
        ));
    }
    if has("Deny") {
        refuse(Some(&binding.name), complaint);
    }
}

#[derive(Default)]
struct Outcome {
    /// Each with the index of its validation.
    complaints: Vec<(usize, Complaint)>,
    annotations: Vec<(String, Result<String, String>)>,
}

/// Runs the expressions of a policy. An error is a complaint where the failure policy is `Fail`.
fn evaluate<'a>(policy: &'a Policy<Rules>, variables: &Variables<'a>) -> Outcome {
    let mut outcome = Outcome::default();
    match policy.conditions.hold(variables) {
        Ok(true) => {}
        Ok(false) => return outcome,
        Err(_) if policy.ignores_failure => return outcome,
        Err(why) => {
            outcome.complaints.push((0, Complaint::of(why)));
            return outcome;
        }
    }
    let (mut budget, mut verdicts) = (Budget::admission(), Vec::new());
    for validation in &policy.rules.validations {
        match validation.expression.evaluate(variables, &mut budget) {
            Err(Failure::Exhausted(why)) => {
                // Nothing that was found so far counts any more, as upstream.
                if !policy.ignores_failure {
                    outcome.complaints.push((0, Complaint::of(why)));
                }
                return outcome;
            }
            verdict => verdicts.push(verdict),
        }
    }
    for (index, (validation, verdict)) in policy.rules.validations.iter().zip(verdicts).enumerate() {
        match verdict {
            Ok(Value::Bool(true)) => {}
            Ok(_) => outcome.complaints.push((index, validation.complain(variables, &mut budget))),
            Err(_) if policy.ignores_failure => {}
            Err(failure) => outcome.complaints.push((index, Complaint::of(failure.message()))),
        }
    }
    annotate(policy, variables, &mut outcome);
    outcome
}

impl Validation {
    /// In the words of the policy, or else in the expression's own.
    fn complain<'a>(&'a self, variables: &Variables<'a>, budget: &mut Budget) -> Complaint {
        let made = match self.message_expression.as_ref().map(|expression| expression.evaluate(variables, budget)) {
            Some(Err(Failure::Exhausted(why))) => return Complaint::of(format!("failed messageExpression: {why}")),
            Some(Ok(Value::String(text))) => text.trim().to_owned(),
            _ => String::new(),
        };
        let fits = !made.is_empty() && made.len() <= MESSAGE_MAX && !made.contains('\n');
        let message = match (fits, self.message.as_str()) {
            (true, _) => made,
            (false, "") => format!("failed expression: {}", self.expression.text),
            (false, message) => message.to_owned(),
        };
        Complaint { message, reason: self.reason }
    }
}

fn annotate<'a>(policy: &'a Policy<Rules>, variables: &Variables<'a>, outcome: &mut Outcome) {
    let mut budget = Budget::admission();
    for (key, expression) in &policy.rules.annotations {
        let value = match expression.evaluate(variables, &mut budget) {
            Ok(Value::Null) => continue,
            Ok(Value::String(text)) if text.trim().is_empty() => continue,
            Ok(Value::String(text)) => {
                let text = text.trim();
                let end = (0..=text.len().min(ANNOTATION_MAX)).rev().find(|end| text.is_char_boundary(*end));
                Ok(text[..end.unwrap_or_default()].to_owned())
            }
            Ok(other) => Err(format!(
                "valueExpression '{}' resulted in unsupported return type: {}. Return type must be either string or null.",
                expression.text,
                other.type_name()
            )),
            Err(_) if policy.ignores_failure => continue,
            Err(failure) => Err(failure.message()),
        };
        outcome.annotations.push((key.clone(), value));
    }
}
