//! Whether somebody's rules cover others: nobody grants what they do not have.
//!
//! Source: `k8s.io/component-helpers/auth/rbac/validation/policy_comparator.go`, `pkg/registry/rbac/validation/{rule,
//! policy_compact}.go`. Every rule asked for is broken into parts of one verb, resource and name, so each part is covered by
//! one rule or by none; that two rules together cover a part is never considered.

use std::collections::BTreeSet;

use wharf_types::k8s::api::rbac::v1::PolicyRule;

use super::rule::{ALL, has, has_or_all, list};
use crate::User;

/// The parts of `asked` that no rule of `held` covers.
pub fn missing(held: &[PolicyRule], asked: &[PolicyRule]) -> Vec<PolicyRule> {
    let parts = asked.iter().flat_map(parts);
    parts.filter(|part| !held.iter().any(|rule| covers(rule, part))).collect()
}

/// Why the user may not grant what is missing, in upstream's words.
pub fn refusal(user: &User, missing: Vec<PolicyRule>, unresolved: &[String]) -> String {
    let lines: BTreeSet<String> = compact(missing).iter().map(shown).collect();
    let lines: Vec<String> = lines.into_iter().collect();
    let mut message = format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        quoted(&user.groups),
        lines.join("\n")
    );
    if !unresolved.is_empty() {
        message += &format!("; resolution errors: [{}]", unresolved.join(" "));
    }
    message
}

/// Everything, on resources and on paths: what setting an aggregation rule takes.
pub fn full_authority() -> Vec<PolicyRule> {
    let all = || Some(vec![ALL.to_owned()]);
    let verbs = || vec![ALL.to_owned()];
    vec![
        PolicyRule { verbs: verbs(), api_groups: all(), resources: all(), ..PolicyRule::default() },
        PolicyRule { verbs: verbs(), non_resource_urls: all(), ..PolicyRule::default() },
    ]
}

/// One verb, group, resource and name each, or one verb and path.
fn parts(rule: &PolicyRule) -> Vec<PolicyRule> {
    let one = |value: &String| Some(vec![value.clone()]);
    let mut parts = Vec::new();
    let names: Vec<Option<&String>> = match list(&rule.resource_names) {
        [] => vec![None],
        names => names.iter().map(Some).collect(),
    };
    for group in list(&rule.api_groups) {
        for resource in list(&rule.resources) {
            for verb in &rule.verbs {
                parts.extend(names.iter().map(|name| PolicyRule {
                    api_groups: one(group),
                    resources: one(resource),
                    verbs: vec![verb.clone()],
                    resource_names: name.and_then(one),
                    non_resource_urls: None,
                }));
            }
        }
    }
    for url in list(&rule.non_resource_urls) {
        let part = |verb: &String| PolicyRule {
            verbs: vec![verb.clone()],
            non_resource_urls: one(url),
            ..PolicyRule::default()
        };
        parts.extend(rule.verbs.iter().map(part));
    }
    parts
}

fn covers(held: &PolicyRule, part: &PolicyRule) -> bool {
    let each = |held: &[String], asked: &[String]| asked.iter().all(|value| has_or_all(held, value));
    let names = list(&held.resource_names);
    let named = match list(&part.resource_names) {
        [] => names.is_empty(),
        asked => names.is_empty() || asked.iter().all(|name| has(names, name)),
    };
    named
        && each(&held.verbs, &part.verbs)
        && each(list(&held.api_groups), list(&part.api_groups))
        && list(&part.resources).iter().all(|resource| resource_covered(list(&held.resources), resource))
        && list(&part.non_resource_urls).iter().all(|url| path_covered(list(&held.non_resource_urls), url))
}

fn resource_covered(held: &[String], resource: &str) -> bool {
    has_or_all(held, resource) || resource.split_once('/').is_some_and(|(_, below)| has(held, &format!("*/{below}")))
}

fn path_covered(held: &[String], path: &str) -> bool {
    held.iter().any(|held| held == path || held.ends_with('*') && path.starts_with(held.trim_end_matches('*')))
}

/// Parts of the same resource and name as one rule with their verbs.
fn compact(parts: Vec<PolicyRule>) -> Vec<PolicyRule> {
    let mut rules: Vec<PolicyRule> = Vec::new();
    for part in parts {
        let same = |rule: &&mut PolicyRule| {
            rule.non_resource_urls.is_none()
                && part.non_resource_urls.is_none()
                && (&rule.api_groups, &rule.resources, &rule.resource_names)
                    == (&part.api_groups, &part.resources, &part.resource_names)
        };
        match rules.iter_mut().find(same) {
            Some(rule) => rule.verbs.extend(part.verbs),
            None => rules.push(part),
        }
    }
    rules
}

/// `{APIGroups:["apps"], Resources:["deployments"], Verbs:["get" "list"]}`
fn shown(rule: &PolicyRule) -> String {
    let fields = [
        ("APIGroups", list(&rule.api_groups)),
        ("Resources", list(&rule.resources)),
        ("NonResourceURLs", list(&rule.non_resource_urls)),
        ("ResourceNames", list(&rule.resource_names)),
        ("Verbs", &rule.verbs),
    ];
    let parts = fields.iter().filter(|(_, values)| !values.is_empty());
    let parts: Vec<String> = parts.map(|(name, values)| format!("{name}:{}", quoted(values))).collect();
    format!("{{{}}}", parts.join(", "))
}

fn quoted(values: &[String]) -> String {
    format!("[{}]", values.iter().map(|value| format!("{value:?}")).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[track_caller]
    fn check(held: Value, asked: Value, expected: &[&str]) {
        let rules = |value: Value| -> Vec<PolicyRule> { serde_json::from_value(value).expect("rules") };
        let missing = compact(missing(&rules(held), &rules(asked)));
        assert_eq!(missing.iter().map(shown).collect::<Vec<_>>(), expected);
    }

    fn rule(verbs: &[&str], resources: &[&str]) -> Value {
        json!({"verbs": verbs, "apiGroups": [""], "resources": resources})
    }

    #[test]
    fn what_is_held_may_be_granted() {
        check(json!([rule(&["*"], &["*"])]), json!([rule(&["get"], &["pods"])]), &[]);
        check(
            json!([rule(&["get"], &["pods"]), rule(&["list"], &["pods"])]),
            json!([rule(&["get", "list"], &["pods"])]),
            &[],
        );
        check(json!([rule(&["get"], &["*/scale"])]), json!([rule(&["get"], &["deployments/scale"])]), &[]);
        check(
            json!([{"verbs": ["get"], "nonResourceURLs": ["/api*"]}]),
            json!([{"verbs": ["get"], "nonResourceURLs": ["/apis/*"]}]),
            &[],
        );
    }

    #[test]
    fn what_is_not_held_is_named() {
        check(
            json!([rule(&["get"], &["pods"])]),
            json!([rule(&["get", "list", "watch"], &["pods"])]),
            &[r#"{APIGroups:[""], Resources:["pods"], Verbs:["list" "watch"]}"#],
        );
        check(json!([]), json!([rule(&["*"], &["*"])]), &[r#"{APIGroups:[""], Resources:["*"], Verbs:["*"]}"#]);
        // Every verb that there is, one by one, is not all of them.
        check(
            json!([rule(&["get", "list", "watch", "create", "update", "patch", "delete"], &["pods"])]),
            json!([rule(&["*"], &["pods"])]),
            &[r#"{APIGroups:[""], Resources:["pods"], Verbs:["*"]}"#],
        );
    }

    #[test]
    fn names_never_widen() {
        let named = |names: &[&str]| json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": names});
        check(json!([named(&["a"])]), json!([named(&["a"])]), &[]);
        check(json!([rule(&["get"], &["pods"])]), json!([named(&["a"])]), &[]);
        check(
            json!([named(&["a"])]),
            json!([rule(&["get"], &["pods"])]),
            &[r#"{APIGroups:[""], Resources:["pods"], Verbs:["get"]}"#],
        );
        check(
            json!([named(&["a"])]),
            json!([named(&["a", "b"])]),
            &[r#"{APIGroups:[""], Resources:["pods"], ResourceNames:["b"], Verbs:["get"]}"#],
        );
    }

    #[test]
    fn the_refusal_lists_what_is_missing() {
        let rules: Vec<PolicyRule> = serde_json::from_value(json!([rule(&["get"], &["pods"])])).expect("rules");
        assert_eq!(
            refusal(&User::new("jane", &["dev"]), missing(&[], &rules), &[]),
            "user \"jane\" (groups=[\"dev\" \"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\"]}"
        );
    }
}
