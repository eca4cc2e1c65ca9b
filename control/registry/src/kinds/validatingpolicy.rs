//! ValidatingAdmissionPolicies: CEL expressions that a write has to satisfy.
//!
//! Source: `pkg/registry/admissionregistration/validatingadmissionpolicy`. The status tells what type checking found.

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::admissionregistration::v1::{
    AuditAnnotation, ExpressionWarning, ValidatingAdmissionPolicy, ValidatingAdmissionPolicySpec, Validation,
};

use super::{created, generation, name};
use crate::admission::expression::{self, Returns, Scope};
use crate::admission::{policy, repeated};
use crate::checks;
use crate::strategy::{AGE, Column, NAME, Strategy};

const AUDIT_ANNOTATIONS_MAX: usize = 20;
/// Longest expression of an audit annotation's value, in bytes.
const VALUE_EXPRESSION_MAX: usize = 5 * 1024;
const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];

#[derive(Debug)]
pub struct ValidatingPolicies;

impl Strategy for ValidatingPolicies {
    type Object = ValidatingAdmissionPolicy;

    fn default(&self, policy: &mut ValidatingAdmissionPolicy) {
        let spec = policy.spec.get_or_insert_default();
        policy::default(&mut spec.failure_policy, spec.match_constraints.as_mut());
    }

    fn prepare_for_create(&self, policy: &mut ValidatingAdmissionPolicy) {
        policy.status = None;
        policy.metadata.generation = Some(1);
    }

    fn prepare_for_update(&self, policy: &mut ValidatingAdmissionPolicy, old: &ValidatingAdmissionPolicy) {
        policy.status.clone_from(&old.status);
        let changed = policy.spec != old.spec;
        generation(&mut policy.metadata, &old.metadata, changed);
    }

    fn prepare_for_status_update(&self, policy: &mut ValidatingAdmissionPolicy, old: &ValidatingAdmissionPolicy) {
        policy.spec.clone_from(&old.spec);
    }

    fn validate(&self, policy: &ValidatingAdmissionPolicy) -> Errors {
        let name = policy.metadata.name.as_deref().unwrap_or_default();
        policy.spec.as_ref().map_or_else(Vec::new, |spec| validate_spec(name, spec, &Path::new("spec")))
    }

    fn validate_status_update(&self, new: &ValidatingAdmissionPolicy, _old: &ValidatingAdmissionPolicy) -> Errors {
        let path = Path::new("status").child("typeChecking").child("expressionWarnings");
        let checking = new.status.as_ref().and_then(|status| status.type_checking.as_ref());
        let warnings = checking.iter().flat_map(|checking| checking.expression_warnings.iter().flatten());
        warnings.enumerate().flat_map(|(index, warning)| validate_warning(warning, &path.index(index))).collect()
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new(
                "Validations",
                "integer",
                "Validations indicates the number of validation rules defined in this configuration",
            ),
            Column::new(
                "ParamKind",
                "string",
                "ParamKind specifies the kind of resources used to parameterize this policy",
            ),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, policy: &ValidatingAdmissionPolicy, now: Timestamp) -> Vec<Value> {
        let spec = policy.spec.as_ref();
        let count = spec.and_then(|spec| spec.validations.as_ref()).map_or(0, Vec::len);
        let params = policy::param_kind_cell(spec.and_then(|spec| spec.param_kind.as_ref()));
        vec![name(&policy.metadata), count.into(), params.into(), created(&policy.metadata, now)]
    }
}

fn validate_spec(name: &str, spec: &ValidatingAdmissionPolicySpec, path: &Path) -> Errors {
    let (params, constraints) = (spec.param_kind.as_ref(), spec.match_constraints.as_ref());
    let mut errors = policy::validate_head(spec.failure_policy.as_deref(), params, constraints, path);
    let mut scope = Scope { params: params.is_some(), ..Scope::default() };
    let conditions = spec.match_conditions.as_deref().unwrap_or_default();
    errors.extend(expression::validate_conditions(conditions, &scope, &path.child("matchConditions")));
    let variables = spec.variables.as_deref().unwrap_or_default();
    scope.composes = !variables.is_empty();
    errors.extend(policy::validate_variables(variables, &mut scope, &path.child("variables")));
    let validations = spec.validations.as_deref().unwrap_or_default();
    let annotations = spec.audit_annotations.as_deref().unwrap_or_default();
    if validations.is_empty() && annotations.is_empty() {
        const NOTHING: &str = "validations or auditAnnotations must contain at least one item";
        errors.extend(["validations", "auditAnnotations"].map(|field| Error::required(&path.child(field), NOTHING)));
        return errors;
    }
    for (index, validation) in validations.iter().enumerate() {
        errors.extend(validate_validation(validation, &scope, &path.child("validations").index(index)));
    }
    errors.extend(validate_annotations(name, annotations, &scope, &path.child("auditAnnotations")));
    errors
}

fn validate_validation(validation: &Validation, scope: &Scope, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let text = path.child("expression");
    if validation.expression.trim().is_empty() {
        errors.push(Error::required(&text, "expression is not specified"));
    } else {
        errors.extend(expression::check(&validation.expression, scope, Returns::Bool, &text));
    }
    let (given, text) = (validation.message_expression.as_deref().unwrap_or_default(), path.child("messageExpression"));
    if !given.is_empty() && given.trim().is_empty() {
        errors.push(Error::invalid(&text, given, "must be non-empty if specified"));
    } else if !given.is_empty() {
        let scope = Scope { without_authorizer: true, ..scope.clone() };
        errors.extend(expression::check(given, &scope, Returns::Text, &text));
    }
    let (given, text) = (validation.message.as_deref().unwrap_or_default(), path.child("message"));
    if !given.is_empty() && given.trim().is_empty() {
        errors.push(Error::invalid(&text, given, "message must be non-empty if specified"));
    } else if given.trim().contains(['\n', '\r']) {
        errors.push(Error::invalid(&text, given, "message must not contain line breaks"));
    }
    let reason = validation.reason.as_deref();
    errors.extend(reason.map(|reason| checks::one_of(reason, REASONS, &path.child("reason"))).unwrap_or_default());
    errors
}

fn validate_annotations(policy: &str, annotations: &[AuditAnnotation], scope: &Scope, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if annotations.len() > AUDIT_ANNOTATIONS_MAX {
        let why = format!("must not have more than {AUDIT_ANNOTATIONS_MAX} auditAnnotations");
        errors.push(Error::invalid(path, checks::json(annotations), why));
    }
    for (index, annotation) in annotations.iter().enumerate() {
        let (key, path) = (annotation.key.as_str(), path.index(index));
        if policy.is_empty() {
            errors.push(Error::invalid(&path.child("key"), key, "requires metadata.name be non-empty"));
        } else {
            errors.extend(checks::qualified_name(&format!("{policy}/{key}"), &path.child("key")));
        }
        let (text, value) = (annotation.value_expression.trim(), path.child("valueExpression"));
        match text.len() {
            0 => errors.push(Error::required(&value, "valueExpression is not specified")),
            length if length > VALUE_EXPRESSION_MAX => {
                let why = format!("must not exceed {VALUE_EXPRESSION_MAX} bytes in length");
                errors.push(Error::required(&value, why));
            }
            _ => errors.extend(expression::check(text, scope, Returns::TextOrNull, &value)),
        }
    }
    errors.extend(repeated(annotations.iter().map(|annotation| annotation.key.as_str()), path, Some("key")));
    errors
}

fn validate_warning(warning: &ExpressionWarning, path: &Path) -> Errors {
    let fields = [("warning", warning.warning.as_str()), ("fieldRef", warning.field_ref.trim())];
    let missing = fields.into_iter().filter(|(_, value)| value.is_empty());
    missing.map(|(field, _)| Error::required(&path.child(field), "")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, check_update, created};

    const RULES: &str = "matchConstraints: {resourceRules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE], resources: [deployments]}]}";

    #[test]
    fn a_policy_says_what_it_is_about_and_what_has_to_hold() {
        check(
            &ValidatingPolicies,
            &format!("{{spec: {{{RULES}, validations: [{{expression: object.spec.replicas <= 5}}]}}}}"),
            &[],
        );
        check(
            &ValidatingPolicies,
            "{spec: {}}",
            &[
                "spec.matchConstraints: Required value",
                "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
                "spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item",
            ],
        );
        check(
            &ValidatingPolicies,
            &format!(
                "{{spec: {{{RULES}, failurePolicy: Maybe, paramKind: {{apiVersion: a/b/c, kind: '1'}}, validations: [{{expression: ' ', message: \"a\\nb\", reason: Odd}}]}}}}"
            ),
            &[
                "spec.failurePolicy: Unsupported value: \"Maybe\": supported values: \"Fail\", \"Ignore\"",
                "spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
                "spec.paramKind.kind: Invalid value: \"1\": may have mixed case, but should otherwise match: a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
                "spec.validations[0].expression: Required value: expression is not specified",
                "spec.validations[0].message: Invalid value: \"a\\nb\": message must not contain line breaks",
                "spec.validations[0].reason: Unsupported value: \"Odd\": supported values: \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\", \"Unauthorized\"",
            ],
        );
    }

    #[test]
    fn variables_see_those_before_them() {
        check(
            &ValidatingPolicies,
            &format!(
                "{{metadata: {{name: p}}, spec: {{{RULES}, variables: [{{name: a, expression: variables.b}}, {{name: b, expression: '1'}}], validations: [{{expression: variables.a == variables.b}}]}}}}"
            ),
            &[
                "spec.variables[0].expression: Invalid value: \"variables.b\": compilation failed: ERROR: <input>:1:10: undefined field 'b'\n | variables.b\n | .........^",
            ],
        );
    }

    #[test]
    fn the_server_counts_generations() {
        let body =
            format!("{{spec: {{{RULES}, validations: [{{expression: 'true'}}]}}, status: {{observedGeneration: 7}}}}");
        created(
            &ValidatingPolicies,
            &body,
            r#"{"metadata": {"generation": 1}, "spec": {"failurePolicy": "Fail", "matchConstraints": {"matchPolicy": "Equivalent", "namespaceSelector": {}, "objectSelector": {},
                "resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"], "scope": "*"}]},
                "validations": [{"expression": "true"}]}}"#,
        );
        check_update(&ValidatingPolicies, &body, &body, &[]);
    }

    #[test]
    fn parameters_are_shown() {
        let spec =
            format!("{RULES}, paramKind: {{apiVersion: v1, kind: ConfigMap}}, validations: [{{expression: 'true'}}]");
        check_cells(
            &ValidatingPolicies,
            &format!("{{metadata: {{name: p, creationTimestamp: '2024-05-01T10:00:00Z'}}, spec: {{{spec}}}}}"),
            "p | 1 | v1/ConfigMap | 120m",
        );
    }
}
