//! The webhooks of a configuration, mutating or validating, and how a configuration is shown.

use jiff::Timestamp;
use serde_json::Value;
use wharf_machinery::{names, selector};
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::admissionregistration::v1::{
    MatchCondition, MutatingWebhook, RuleWithOperations, ValidatingWebhook, WebhookClientConfig,
};
use wharf_types::meta::{LabelSelector, ObjectMeta};

use super::expression::{self, Scope};
use super::rules::{default_scope, validate_rule};
use super::{FAILURE_POLICIES, MATCH_POLICIES, REINVOCATION_POLICIES, endpoint, repeated};
use crate::checks;
use crate::kinds::{created, name};
use crate::strategy::{AGE, Column, NAME};

/// How long a webhook may take that does not say.
pub const TIMEOUT_DEFAULT_S: i32 = 10;
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];
/// Side effects that a webhook may have.
const SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun"];
/// Labels of a fully qualified name.
const NAME_SEGMENTS_MIN: usize = 3;

/// What both kinds of webhook say.
pub struct Webhook<'a> {
    pub name: &'a str,
    pub client: &'a WebhookClientConfig,
    pub rules: &'a [RuleWithOperations],
    pub failure_policy: Option<&'a str>,
    pub match_policy: Option<&'a str>,
    pub namespace_selector: Option<&'a LabelSelector>,
    pub object_selector: Option<&'a LabelSelector>,
    pub side_effects: &'a str,
    pub timeout_s: Option<i32>,
    pub review_versions: &'a [String],
    pub match_conditions: &'a [MatchCondition],
    /// None for a validating webhook.
    pub reinvocation_policy: Option<&'a str>,
}

macro_rules! view {
    ($kind:ty, $reinvocation:expr) => {
        impl<'a> From<&'a $kind> for Webhook<'a> {
            fn from(hook: &'a $kind) -> Self {
                Self {
                    name: &hook.name,
                    client: &hook.client_config,
                    rules: hook.rules.as_deref().unwrap_or_default(),
                    failure_policy: hook.failure_policy.as_deref(),
                    match_policy: hook.match_policy.as_deref(),
                    namespace_selector: hook.namespace_selector.as_ref(),
                    object_selector: hook.object_selector.as_ref(),
                    side_effects: &hook.side_effects,
                    timeout_s: hook.timeout_seconds,
                    review_versions: &hook.admission_review_versions,
                    match_conditions: hook.match_conditions.as_deref().unwrap_or_default(),
                    reinvocation_policy: $reinvocation(hook),
                }
            }
        }
    };
}
view!(MutatingWebhook, |hook: &'a MutatingWebhook| hook.reinvocation_policy.as_deref());
view!(ValidatingWebhook, |_| None);

macro_rules! defaults {
    ($visible:vis $name:ident, $kind:ty) => {
        $visible fn $name(hook: &mut $kind) {
            hook.failure_policy.get_or_insert_with(|| "Fail".to_owned());
            hook.match_policy.get_or_insert_with(|| "Equivalent".to_owned());
            hook.namespace_selector.get_or_insert_default();
            hook.object_selector.get_or_insert_default();
            hook.timeout_seconds.get_or_insert(TIMEOUT_DEFAULT_S);
            hook.rules.iter_mut().flatten().for_each(|rule| default_scope(&mut rule.scope));
            endpoint::default(&mut hook.client_config);
        }
    };
}
defaults!(default_common, MutatingWebhook);
defaults!(pub default_validating, ValidatingWebhook);

pub fn default_mutating(hook: &mut MutatingWebhook) {
    default_common(hook);
    hook.reinvocation_policy.get_or_insert_with(|| "Never".to_owned());
}

/// Of a configuration of either kind.
pub const COLUMNS: &[Column] = &[
    NAME,
    Column::new("Webhooks", "integer", "Webhooks indicates the number of webhooks registered in this configuration"),
    AGE,
];

/// The cells of [`COLUMNS`].
pub fn cells<W>(meta: &ObjectMeta, webhooks: &[W], now: Timestamp) -> Vec<Value> {
    vec![name(meta), webhooks.len().into(), created(meta, now)]
}

/// The webhooks of a configuration. Upstream lets an update keep what an older version let through; nothing here is so old.
pub fn validate(hooks: &[Webhook<'_>]) -> Errors {
    let path = Path::new("webhooks");
    let mut errors = Vec::new();
    for (index, hook) in hooks.iter().enumerate() {
        let path = path.index(index);
        errors.extend(validate_one(hook, &path));
        errors.extend(validate_versions(hook.review_versions, &path.child("admissionReviewVersions")));
    }
    errors.extend(repeated(hooks.iter().map(|hook| hook.name), &path, Some("name")));
    errors
}

fn validate_one(hook: &Webhook<'_>, path: &Path) -> Errors {
    let mut errors = fully_qualified(hook.name, &path.child("name"));
    for (index, rule) in hook.rules.iter().enumerate() {
        errors.extend(validate_rule(&rule.into(), &path.child("rules").index(index)));
    }
    let choices =
        [("failurePolicy", hook.failure_policy, FAILURE_POLICIES), ("matchPolicy", hook.match_policy, MATCH_POLICIES)];
    for (field, value, supported) in choices {
        errors.extend(value.map(|value| checks::one_of(value, supported, &path.child(field))).unwrap_or_default());
    }
    let side_effects = path.child("sideEffects");
    if hook.side_effects.is_empty() {
        errors.push(Error::required(&side_effects, format!("must specify one of {}", SIDE_EFFECTS.join(", "))));
    } else {
        errors.extend(checks::one_of(hook.side_effects, SIDE_EFFECTS, &side_effects));
    }
    if let Some(seconds) = hook.timeout_s.filter(|seconds| !(1..=30).contains(seconds)) {
        let why = "the timeout value must be between 1 and 30 seconds";
        errors.push(Error::invalid(&path.child("timeoutSeconds"), seconds, why));
    }
    errors.extend(validate_selectors(hook, path));
    if let Some(policy) = hook.reinvocation_policy {
        errors.extend(checks::one_of(policy, REINVOCATION_POLICIES, &path.child("reinvocationPolicy")));
    }
    errors.extend(endpoint::validate(hook.client, &path.child("clientConfig")));
    let conditions = path.child("matchConditions");
    errors.extend(expression::validate_conditions(hook.match_conditions, &Scope::default(), &conditions));
    errors
}

fn validate_selectors(hook: &Webhook<'_>, path: &Path) -> Errors {
    let both = [("namespaceSelector", hook.namespace_selector), ("objectSelector", hook.object_selector)];
    let given = both.into_iter().filter_map(|(field, selector)| Some((field, selector?)));
    given.flat_map(|(field, selector)| selector::validate(selector, &path.child(field))).collect()
}

/// A name of three labels or more, such as `pods.example.com`.
fn fully_qualified(name: &str, path: &Path) -> Errors {
    if name.is_empty() {
        return vec![Error::required(path, "")];
    }
    let messages = names::dns1123_subdomain(name);
    if !messages.is_empty() {
        return vec![Error::invalid(path, name, messages.join(","))];
    }
    if name.split('.').count() < NAME_SEGMENTS_MIN {
        let why = "should be a domain with at least three segments separated by dots";
        return vec![Error::invalid(path, name, why)];
    }
    Vec::new()
}

fn validate_versions(versions: &[String], path: &Path) -> Errors {
    if versions.is_empty() {
        return vec![Error::required(path, format!("must specify one of {}", REVIEW_VERSIONS.join(", ")))];
    }
    let (mut errors, mut seen) = (Vec::new(), std::collections::BTreeSet::new());
    for (index, version) in versions.iter().enumerate() {
        let path = path.index(index);
        if seen.insert(version) {
            errors.extend(checks::invalid(names::dns1035_label(version), &path, version));
        } else {
            errors.push(Error::invalid(&path, version, "duplicate version"));
        }
    }
    let known = versions.iter().any(|version| REVIEW_VERSIONS.contains(&version.as_str()));
    if !known {
        let why = format!("must include at least one of {}", REVIEW_VERSIONS.join(", "));
        errors.push(Error::invalid(path, checks::json(versions), why));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(yaml: &str, expected: &[&str]) {
        let hook: ValidatingWebhook = serde_yaml::from_str(yaml).expect("a webhook");
        let errors: Vec<String> = validate(&[Webhook::from(&hook)]).iter().map(ToString::to_string).collect();
        assert_eq!(errors, expected);
    }

    #[test]
    fn every_part_is_looked_at() {
        check(
            "{name: a.b, clientConfig: {service: {name: '', namespace: '', path: a/B, port: 0}}, sideEffects: Some, timeoutSeconds: 31, failurePolicy: Maybe, admissionReviewVersions: [v0, v0]}",
            &[
                "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots",
                "webhooks[0].failurePolicy: Unsupported value: \"Maybe\": supported values: \"Fail\", \"Ignore\"",
                "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
                "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
                "webhooks[0].clientConfig.service.name: Required value: service name is required",
                "webhooks[0].clientConfig.service.namespace: Required value: service namespace is required",
                "webhooks[0].clientConfig.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive",
                "webhooks[0].clientConfig.service.path: Invalid value: \"a/B\": must start with a '/'",
                "webhooks[0].clientConfig.service.path: Invalid value: \"a/B\": segment[0] may not be empty",
                "webhooks[0].clientConfig.service.path: Invalid value: \"a/B\": segment[1]: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                "webhooks[0].admissionReviewVersions[1]: Invalid value: \"v0\": duplicate version",
                "webhooks[0].admissionReviewVersions: Invalid value: [\"v0\",\"v0\"]: must include at least one of v1, v1beta1",
            ],
        );
    }

    #[test]
    fn rules_and_conditions_are_looked_at() {
        let head = "name: a.b.c, clientConfig: {url: 'https://x'}, sideEffects: None, admissionReviewVersions: [v1]";
        check(
            &format!(
                "{{{head}, rules: [{{operations: ['*', CREATE], apiGroups: [], apiVersions: [''], resources: ['pods/*', pods/log], scope: Odd}}]}}"
            ),
            &[
                "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other operations",
                "webhooks[0].rules[0].apiGroups: Required value",
                "webhooks[0].rules[0].apiVersions[0]: Required value",
                "webhooks[0].rules[0].resources[1]: Invalid value: \"pods/log\": if 'pods/*' is present, must not specify pods/log",
                "webhooks[0].rules[0].scope: Unsupported value: \"Odd\": supported values: \"*\", \"Cluster\", \"Namespaced\"",
            ],
        );
        check(
            &format!(
                "{{{head}, matchConditions: [{{name: a, expression: 'true'}}, {{name: a, expression: ''}}, {{name: '', expression: '1'}}]}}"
            ),
            &[
                "webhooks[0].matchConditions[1].expression: Required value",
                "webhooks[0].matchConditions[2].expression: Invalid value: \"1\": must evaluate to bool but got int",
                "webhooks[0].matchConditions[2].name: Required value",
                "webhooks[0].matchConditions[1].name: Duplicate value: \"a\"",
            ],
        );
    }
}
