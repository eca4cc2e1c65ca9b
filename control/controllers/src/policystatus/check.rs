//! What is wrong with the types in a policy's expressions. Pure: same policy and types, same warnings.
//!
//! Source: `k8s.io/apiserver/pkg/admission/plugin/policy/validating/typechecking.go`, whose words these are. What an expression
//! returns is not looked at here: that was checked when the policy was written.

use wharf_machinery::cel::{Env, Fields, Type, namespace_type, request_type};
use wharf_types::k8s::api::admissionregistration::v1::{ExpressionWarning, ValidatingAdmissionPolicy, Variable};
use wharf_types::{Gvk, Gvr};

use std::collections::BTreeMap;
use std::sync::Arc;

/// Most kinds that a policy is checked against: upstream's `maxTypesToCheck`.
pub const TYPES_MAX: usize = 10;

/// The resources that the policy names, without wildcards and subresources.
pub fn resources(policy: &ValidatingAdmissionPolicy) -> Vec<Gvr> {
    let matched = policy.spec.as_ref().and_then(|spec| spec.match_constraints.as_ref());
    let mut found = Vec::new();
    for rule in matched.into_iter().flat_map(|matched| matched.resource_rules.iter().flatten()) {
        let groups = named(rule.api_groups.as_deref());
        let versions = named(rule.api_versions.as_deref());
        let mut resources: Vec<&String> =
            rule.resources.iter().flatten().filter(|name| !name.contains(['*', '/'])).collect();
        resources.sort();
        for group in &groups {
            for version in &versions {
                found.extend(resources.iter().map(|resource| Gvr {
                    group: (*group).clone().into(),
                    version: (*version).clone().into(),
                    resource: (*resource).clone().into(),
                }));
            }
        }
    }
    found
}

/// The values in their order; none where one of them is a wildcard.
fn named(values: Option<&[String]>) -> Vec<&String> {
    let mut values: Vec<&String> = values.into_iter().flatten().collect();
    if values.iter().any(|value| value.contains('*')) {
        values.clear();
    }
    values.sort();
    values
}

/// A warning for each expression that does not fit one of the kinds.
pub fn check(
    policy: &ValidatingAdmissionPolicy,
    kinds: &[(Gvk, Type)],
    params: Option<&Type>,
) -> Vec<ExpressionWarning> {
    let Some(spec) = &policy.spec else { return Vec::new() };
    let variables = spec.variables.as_deref().unwrap_or_default();
    let envs: Vec<(&Gvk, Env)> = kinds.iter().map(|(gvk, ty)| (gvk, composed(env(ty, params), variables))).collect();
    let mut warnings = Vec::new();
    for (index, validation) in spec.validations.iter().flatten().enumerate() {
        let message = validation.message_expression.as_deref().filter(|text| !text.is_empty());
        let texts =
            [Some(("expression", validation.expression.as_str())), message.map(|text| ("messageExpression", text))];
        for (field, text) in texts.into_iter().flatten() {
            let found: Vec<String> = envs.iter().filter_map(|(gvk, env)| complaint(gvk, env, text)).collect();
            if !found.is_empty() {
                let field_ref = format!("spec.validations[{index}].{field}");
                warnings.push(ExpressionWarning { field_ref, warning: found.join("\n") });
            }
        }
    }
    warnings
}

fn complaint(gvk: &Gvk, env: &Env, text: &str) -> Option<String> {
    let error = env.compile(text).err()?;
    Some(format!("{}, Kind={}: {error}\n", gvk.group_version(), gvk.kind))
}

/// The names that every expression sees. The authorizer is let through: its answers depend on nothing that is typed.
fn env(object: &Type, params: Option<&Type>) -> Env {
    let env = Env::default()
        .variable("namespaceObject", namespace_type())
        .variable("request", request_type())
        .variable("object", object.clone())
        .variable("oldObject", object.clone())
        .variable("authorizer", Type::Dyn);
    match params {
        Some(params) => env.variable("params", params.clone()),
        None => env,
    }
}

/// The same with the policy's variables, each of which sees those before it. One that makes no sense may be anything.
fn composed(env: Env, variables: &[Variable]) -> Env {
    let mut known = BTreeMap::new();
    let with = |known: &BTreeMap<String, Type>| {
        let fields = Fields { name: "kubernetes.variables".to_owned(), fields: known.clone() };
        env.clone().variable("variables", Type::Object(Arc::new(fields)))
    };
    for variable in variables {
        let ty = with(&known).compile(&variable.expression).map_or(Type::Dyn, |program| program.output().clone());
        known.insert(variable.name.clone(), ty);
    }
    with(&known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn policy(spec: Value) -> ValidatingAdmissionPolicy {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a policy")
    }

    #[track_caller]
    fn check(spec: Value, expected: &[(&str, &str)]) {
        let of = |kind: &str, ty: Type| {
            let gvk = Gvk { group: "apps".into(), version: "v1".into(), kind: kind.to_owned().into() };
            (gvk, Type::object(kind, [("replicas", ty)]))
        };
        let kinds = [of("A", Type::Int), of("B", Type::STRING)];
        let found = super::check(&policy(spec), &kinds, None);
        let found: Vec<(&str, &str)> =
            found.iter().map(|warning| (warning.field_ref.as_str(), warning.warning.as_str())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_warning_names_the_place_the_kind_and_the_reason() {
        let shown = "apps/v1, Kind=A: ERROR: <input>:1:17: found no matching overload for '_>_' applied to '(int, string)'\n | object.replicas > '1'\n | ................^\n";
        let place = "spec.validations[1].expression";
        check(
            json!({"validations": [{"expression": "true"}, {"expression": "object.replicas > '1'"}]}),
            &[(place, shown)],
        );
    }

    #[test]
    fn every_kind_is_told_of() {
        let missing = |kind: &str| {
            format!("apps/v1, Kind={kind}: ERROR: <input>:1:7: undefined field 'x'\n | object.x\n | ......^\n")
        };
        let both = format!("{}\n{}", missing("A"), missing("B"));
        let spec = json!({"validations": [{"expression": "true", "messageExpression": "object.x"}]});
        check(spec, &[("spec.validations[0].messageExpression", &both)]);
    }

    #[test]
    fn variables_have_the_types_of_their_expressions() {
        let spec = json!({
            "variables": [{"name": "n", "expression": "'a'"}, {"name": "odd", "expression": "object.nothing"}],
            "validations": [
                {"expression": "variables.n.startsWith('a') && variables.odd > 1"},
                {"expression": "request.userInfo.username == 'x' && authorizer.group('').resource('pods').check('get').allowed()"},
                {"expression": "namespaceObject.metadata.labels['a'] == 'b'"},
            ],
        });
        check(spec, &[]);
    }

    #[test]
    fn wildcards_and_subresources_are_not_looked_at() {
        let rule = |groups: &[&str], resources: &[&str]| json!({"apiGroups": groups, "apiVersions": ["v1"], "operations": ["*"], "resources": resources});
        let rules = json!([rule(&["*"], &["pods"]), rule(&["apps", ""], &["pods", "*", "pods/status"])]);
        let found = resources(&policy(json!({"matchConstraints": {"resourceRules": rules}})));
        let found: Vec<String> = found.iter().map(|gvr| format!("{}/{}", gvr.group_version(), gvr.resource)).collect();
        assert_eq!(found, ["v1/pods", "apps/v1/pods"]);
    }
}
