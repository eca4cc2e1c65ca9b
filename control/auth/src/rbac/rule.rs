//! Whether a rule allows a request.
//!
//! Source: `pkg/apis/rbac/v1/evaluation_helpers.go`. Oddities that are upstream's: a rule with names never allows what has no
//! name (a create, a list), and `pods/*` is no pattern, while `*/scale` is one.

use wharf_types::k8s::api::rbac::v1::PolicyRule;

use crate::Attributes;

pub const ALL: &str = "*";

pub fn allows(rule: &PolicyRule, asked: &Attributes) -> bool {
    if !has_or_all(&rule.verbs, &asked.verb) {
        return false;
    }
    if !asked.resource_request {
        return list(&rule.non_resource_urls).iter().any(|pattern| path_matches(pattern, &asked.path));
    }
    has_or_all(list(&rule.api_groups), &asked.group)
        && list(&rule.resources).iter().any(|pattern| resource_matches(pattern, &asked.resource, &asked.subresource))
        && name_matches(list(&rule.resource_names), &asked.name)
}

pub fn list(field: &Option<Vec<String>>) -> &[String] {
    field.as_deref().unwrap_or_default()
}

pub fn has(list: &[String], value: &str) -> bool {
    list.iter().any(|held| held == value)
}

pub fn has_or_all(list: &[String], value: &str) -> bool {
    list.iter().any(|held| held == ALL || held == value)
}

fn resource_matches(pattern: &str, resource: &str, subresource: &str) -> bool {
    if pattern == ALL {
        return true;
    }
    match (pattern.split_once('/'), subresource.is_empty()) {
        (None, true) => pattern == resource,
        (Some((of, below)), false) => (of == resource || of == ALL) && below == subresource,
        _ => false,
    }
}

fn name_matches(names: &[String], name: &str) -> bool {
    names.is_empty() || has(names, name)
}

/// A `*` counts at the end only.
pub fn path_matches(pattern: &str, path: &str) -> bool {
    pattern == ALL || pattern == path || pattern.ends_with('*') && path.starts_with(pattern.trim_end_matches('*'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// `verb group/resource[/subresource] [name]`, or `verb /path`.
    #[track_caller]
    fn check(rule: Value, request: &str, expected: bool) {
        let rule: PolicyRule = serde_json::from_value(rule).expect("a rule");
        let words: Vec<&str> = request.split(' ').collect();
        let text = |index: usize| words.get(index).copied().unwrap_or_default().to_owned();
        let mut asked = Attributes { verb: text(0), path: text(1), ..Attributes::default() };
        if !words[1].starts_with('/') {
            let mut parts = words[1].split('/').map(str::to_owned);
            asked.resource_request = true;
            asked.group = parts.next().filter(|group| group != "core").unwrap_or_default();
            asked.resource = parts.next().unwrap_or_default();
            asked.subresource = parts.next().unwrap_or_default();
            asked.name = text(2);
        }
        assert_eq!(allows(&rule, &asked), expected, "{request}");
    }

    #[test]
    fn a_rule_allows_what_it_names() {
        let pods = || json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]});
        check(pods(), "get core/pods a", true);
        check(pods(), "list core/pods", false);
        check(pods(), "get core/pods/log a", false);
        check(pods(), "get apps/pods a", false);
        check(pods(), "get core/secrets a", false);
    }

    #[test]
    fn stars_stand_for_everything() {
        let all = || json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]});
        check(all(), "escalate rbac.authorization.k8s.io/roles/any a", true);
        check(all(), "get /healthz", false);
        check(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}), "post /anything", true);
        check(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}), "get core/pods a", false);
    }

    #[test]
    fn a_star_stands_for_every_resource_of_a_subresource_and_not_the_other_way() {
        let rule = |resource: &str| json!({"verbs": ["get"], "apiGroups": ["apps"], "resources": [resource]});
        check(rule("*/scale"), "get apps/deployments/scale a", true);
        check(rule("*/scale"), "get apps/deployments a", false);
        check(rule("*/scale"), "get apps/deployments/scaled a", false);
        check(rule("deployments/*"), "get apps/deployments/scale a", false);
        check(rule("deployments/scale"), "get apps/deployments/scale a", true);
    }

    #[test]
    fn names_narrow() {
        let rule = || json!({"verbs": ["get", "list", "create"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"]});
        check(rule(), "get core/pods a", true);
        check(rule(), "get core/pods b", false);
        check(rule(), "create core/pods", false);
        check(rule(), "list core/pods", false);
    }

    #[test]
    fn paths_may_end_in_a_star() {
        let rule = |path: &str| json!({"verbs": ["get"], "nonResourceURLs": [path]});
        check(rule("/api/*"), "get /api/v1", true);
        check(rule("/api/*"), "get /api", false);
        check(rule("/api/*"), "get /apis", false);
        check(rule("/api*"), "get /apis", true);
        check(rule("/a/*/b"), "get /a/x/b", false);
        check(rule("/api"), "post /api", false);
    }
}
