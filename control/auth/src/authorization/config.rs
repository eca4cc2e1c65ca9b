//! `AuthorizationConfiguration`: which authorizers are asked, in which order.
//!
//! Source: `k8s.io/apiserver/pkg/apis/apiserver` (types, defaults of `v1`, `ValidateAuthorizationConfiguration` with its
//! messages). Whether a kubeconfig is there is looked at when it is read. Absent on purpose: ABAC.

use std::collections::HashSet;
use std::path::{Path as File, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use wharf_machinery::names;
use wharf_types::field::{Error, Errors, Path};

use crate::duration;
use crate::webhook::{Conditions, FailurePolicy};

const API_VERSIONS: [&str; 2] = ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1"];
const KIND: &str = "AuthorizationConfiguration";
/// What an authorizer may be, as messages list it.
pub const TYPES: [&str; 6] = ["ABAC", "AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook"];
const WEBHOOK: &str = "Webhook";
/// Most match conditions of a webhook.
const CONDITIONS_MAX: usize = 64;
const TIMEOUT_MAX: Duration = Duration::from_secs(30);
const AUTHORIZED_TTL: &str = "5m";
const UNAUTHORIZED_TTL: &str = "30s";

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Configuration {
    pub api_version: String,
    pub kind: String,
    #[serde(default)]
    pub authorizers: Vec<AuthorizerConfig>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthorizerConfig {
    #[serde(rename = "type")]
    pub kind: String,
    pub name: String,
    pub webhook: Option<WebhookConfig>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct WebhookConfig {
    #[serde(rename = "authorizedTTL")]
    pub authorized_ttl: String,
    pub cache_authorized_requests: Option<bool>,
    #[serde(rename = "unauthorizedTTL")]
    pub unauthorized_ttl: String,
    pub cache_unauthorized_requests: Option<bool>,
    pub timeout: String,
    pub subject_access_review_version: String,
    pub match_condition_subject_access_review_version: String,
    pub failure_policy: String,
    pub connection_info: ConnectionInfo,
    pub match_conditions: Vec<MatchCondition>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct ConnectionInfo {
    #[serde(rename = "type")]
    pub kind: String,
    pub kube_config_file: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MatchCondition {
    pub expression: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("strict decoding error: {0}")]
    Decode(#[from] serde_yaml::Error),
    #[error("no kind {KIND:?} is registered for version {0:?}")]
    Kind(String),
    #[error("{}", crate::jwt::config::aggregate(.0))]
    Invalid(Errors),
}

/// An authorizer that is well described.
#[derive(Debug)]
pub enum Plan {
    Abac,
    AlwaysAllow,
    AlwaysDeny,
    Node,
    Rbac,
    Webhook(Box<WebhookPlan>),
}

#[derive(Debug)]
pub struct WebhookPlan {
    pub kubeconfig: PathBuf,
    pub version: String,
    pub timeout: Duration,
    pub authorized_ttl: Option<Duration>,
    pub unauthorized_ttl: Option<Duration>,
    pub failure_policy: FailurePolicy,
    pub conditions: Conditions,
}

impl Configuration {
    pub fn parse(yaml: &str) -> Result<Self, ConfigError> {
        let configuration: Self = serde_yaml::from_str(yaml)?;
        let Self { api_version, kind, .. } = &configuration;
        if !API_VERSIONS.contains(&api_version.as_str()) || kind != KIND {
            return Err(ConfigError::Kind(format!("{api_version}, Kind={kind}")));
        }
        Ok(configuration)
    }

    /// What each authorizer is to do, or all that is wrong.
    pub fn plan(&self) -> Result<Vec<Plan>, ConfigError> {
        let mut errors = Errors::new();
        let root = Path::new("authorizers");
        if self.authorizers.is_empty() {
            errors.push(Error::required(&root, "at least one authorization mode must be defined"));
        }
        let (mut types, mut names, mut plans) = (HashSet::new(), HashSet::new(), Vec::new());
        for (place, authorizer) in self.authorizers.iter().enumerate() {
            let path = root.index(place);
            if let Some(error) = wrong_type(&authorizer.kind, &mut types, &path.child("type")) {
                errors.push(error);
                continue;
            }
            errors.extend(wrong_name(&authorizer.name, &mut names, &path.child("name")));
            plans.extend(one(authorizer, &path, &mut errors));
        }
        if errors.is_empty() { Ok(plans) } else { Err(ConfigError::Invalid(errors)) }
    }
}

fn wrong_type<'a>(kind: &'a str, seen: &mut HashSet<&'a str>, path: &Path) -> Option<Error> {
    match kind {
        "" => Some(Error::required(path, "")),
        kind if !TYPES.contains(&kind) => Some(Error::not_supported(path, kind, &TYPES)),
        kind if !seen.insert(kind) && kind != WEBHOOK => Some(Error::duplicate(path, kind)),
        _ => None,
    }
}

fn wrong_name<'a>(name: &'a str, seen: &mut HashSet<&'a str>, path: &Path) -> Option<Error> {
    if name.is_empty() {
        return Some(Error::required(path, ""));
    }
    if !seen.insert(name) {
        return Some(Error::duplicate(path, name));
    }
    let why = names::dns1123_subdomain(name).join(", ");
    (!why.is_empty()).then(|| Error::invalid(path, name, format!("authorizer name is invalid: {why}")))
}

fn one(authorizer: &AuthorizerConfig, path: &Path, errors: &mut Errors) -> Option<Plan> {
    let plan = match authorizer.kind.as_str() {
        WEBHOOK => {
            let Some(hook) = &authorizer.webhook else {
                errors.push(Error::required(&path.child("webhook"), "required when type=Webhook"));
                return None;
            };
            // The paths of messages lack the field `webhook`, as upstream's do.
            return webhook(hook, path, errors).map(|plan| Plan::Webhook(Box::new(plan)));
        }
        "ABAC" => Plan::Abac,
        "AlwaysAllow" => Plan::AlwaysAllow,
        "AlwaysDeny" => Plan::AlwaysDeny,
        "Node" => Plan::Node,
        _ => Plan::Rbac,
    };
    if authorizer.webhook.is_some() {
        let why = "may only be specified when type=Webhook";
        errors.push(Error::invalid(&path.child("webhook"), "non-null", why));
    }
    Some(plan)
}

fn webhook(hook: &WebhookConfig, path: &Path, errors: &mut Errors) -> Option<WebhookPlan> {
    let before = errors.len();
    let timeout = time(&hook.timeout, &path.child("timeout"), Some(TIMEOUT_MAX), errors);
    let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
    let authorized_ttl = time(&or(&hook.authorized_ttl, AUTHORIZED_TTL), &path.child("authorizedTTL"), None, errors);
    let unauthorized_ttl =
        time(&or(&hook.unauthorized_ttl, UNAUTHORIZED_TTL), &path.child("unauthorizedTTL"), None, errors);
    let versions = [
        ("subjectAccessReviewVersion", &hook.subject_access_review_version, &["v1", "v1beta1"][..]),
        ("matchConditionSubjectAccessReviewVersion", &hook.match_condition_subject_access_review_version, &["v1"][..]),
    ];
    for (place, (field, version, known)) in versions.into_iter().enumerate() {
        let at = path.child(field);
        match version.as_str() {
            "" if place == 0 => errors.push(Error::required(&at, "")),
            "" if !hook.match_conditions.is_empty() => {
                errors.push(Error::required(&at, "required if match conditions are specified"));
            }
            "" => {}
            version if known.contains(&version) => {}
            version => errors.push(Error::not_supported(&at, version, known)),
        }
    }
    let failure_policy = match hook.failure_policy.as_str() {
        "NoOpinion" => FailurePolicy::NoOpinion,
        "Deny" => FailurePolicy::Deny,
        other => {
            let at = path.child("failurePolicy");
            errors.push(match other {
                "" => Error::required(&at, ""),
                other => Error::not_supported(&at, other, &["NoOpinion", "Deny"]),
            });
            FailurePolicy::Deny
        }
    };
    let kubeconfig = connection(&hook.connection_info, &path.child("connectionInfo"), errors);
    let conditions = conditions(&hook.match_conditions, path, errors);
    if errors.len() > before {
        return None;
    }
    Some(WebhookPlan {
        kubeconfig,
        version: hook.subject_access_review_version.clone(),
        timeout,
        authorized_ttl: hook.cache_authorized_requests.unwrap_or(true).then_some(authorized_ttl),
        unauthorized_ttl: hook.cache_unauthorized_requests.unwrap_or(true).then_some(unauthorized_ttl),
        failure_policy,
        conditions,
    })
}

fn time(text: &str, path: &Path, max: Option<Duration>, errors: &mut Errors) -> Duration {
    let negative = text.starts_with('-');
    let read = duration::parse(text.trim_start_matches('-')).filter(|time| !time.is_zero());
    match read {
        _ if text.is_empty() => errors.push(Error::required(path, "")),
        None => errors.push(Error::required(path, "")),
        Some(time) if negative || max.is_some_and(|max| time > max) => {
            let shown = format!("{}{}", if negative { "-" } else { "" }, duration::shown(time));
            let why = if max.is_some() { "must be > 0s and <= 30s" } else { "must be > 0s" };
            errors.push(Error::invalid(path, shown, why));
        }
        Some(time) => return time,
    }
    Duration::ZERO
}

fn connection(info: &ConnectionInfo, path: &Path, errors: &mut Errors) -> PathBuf {
    let at = path.child("kubeConfigFile");
    let file = info.kube_config_file.as_deref().unwrap_or_default();
    match info.kind.as_str() {
        "KubeConfigFile" if file.is_empty() => errors.push(Error::required(&at, "")),
        "KubeConfigFile" if !File::new(file).is_absolute() => {
            errors.push(Error::invalid(&at, file, "must be an absolute path"));
        }
        "KubeConfigFile" => match std::fs::metadata(file) {
            Ok(found) if found.is_file() => {}
            Ok(_) => errors.push(Error::invalid(&at, file, "must be a regular file")),
            Err(error) => errors.push(Error::invalid(&at, file, format!("error loading file: {error}"))),
        },
        "" => errors.push(Error::required(&path.child("type"), "")),
        // A server cannot ask itself.
        other => errors.push(Error::not_supported(&path.child("type"), other, &["KubeConfigFile"])),
    }
    PathBuf::from(file)
}

fn conditions(conditions: &[MatchCondition], path: &Path, errors: &mut Errors) -> Conditions {
    let (mut compiled, mut seen) = (Conditions::default(), HashSet::new());
    let root = path.child("matchConditions");
    if conditions.len() > CONDITIONS_MAX {
        errors.push(Error::too_many(&root, conditions.len(), CONDITIONS_MAX));
        return compiled;
    }
    for (place, MatchCondition { expression }) in conditions.iter().enumerate() {
        let at = root.index(place).child("expression");
        if expression.trim().is_empty() {
            errors.push(Error::required(&at, ""));
        } else if !seen.insert(expression) {
            errors.push(Error::duplicate(&at, expression));
        } else if let Err(why) = compiled.add(expression) {
            errors.push(Error::invalid(&at, expression, why));
        }
    }
    compiled
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The messages about a configuration of these authorizers.
    #[track_caller]
    fn check(authorizers: Value, expected: &str) {
        let text = json!({"apiVersion": API_VERSIONS[0], "kind": KIND, "authorizers": authorizers}).to_string();
        let planned = Configuration::parse(&text).and_then(|configuration| configuration.plan());
        assert_eq!(planned.err().map(|error| error.to_string()).unwrap_or_default(), expected, "{text}");
    }

    fn hook(more: Value) -> Value {
        let mut hook = json!({
            "timeout": "3s", "subjectAccessReviewVersion": "v1", "failurePolicy": "Deny",
            "matchConditionSubjectAccessReviewVersion": "v1",
            "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": "/proc/self/status"},
        });
        for (name, value) in more.as_object().cloned().unwrap_or_default() {
            hook[name] = value;
        }
        json!([{"type": "Webhook", "name": "a", "webhook": hook}])
    }

    #[test]
    fn authorizers_have_types_and_names() {
        let (node, rbac) = (json!({"type": "Node", "name": "node"}), json!({"type": "RBAC", "name": "rbac"}));
        check(json!([node, rbac]), "");
        check(json!([]), "authorizers: Required value: at least one authorization mode must be defined");
        check(
            json!([{"type": "Other"}, {"name": "a"}, {"type": "RBAC", "name": "A"}, rbac]),
            "[authorizers[0].type: Unsupported value: \"Other\": supported values: \"ABAC\", \"AlwaysAllow\", \"AlwaysDeny\", \"Node\", \"RBAC\", \"Webhook\", authorizers[1].type: Required value, authorizers[2].name: Invalid value: \"A\": authorizer name is invalid: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*'), authorizers[3].type: Duplicate value: \"RBAC\"]",
        );
        check(
            json!([{"type": "Node", "name": "a", "webhook": {}}]),
            "authorizers[0].webhook: Invalid value: \"non-null\": may only be specified when type=Webhook",
        );
        check(
            json!([{"type": "Webhook", "name": "a"}]),
            "authorizers[0].webhook: Required value: required when type=Webhook",
        );
    }

    #[test]
    fn webhooks_are_checked_in_upstreams_words() {
        check(hook(json!({})), "");
        check(
            hook(json!({"timeout": "31s"})),
            "authorizers[0].timeout: Invalid value: \"31s\": must be > 0s and <= 30s",
        );
        check(hook(json!({"timeout": ""})), "authorizers[0].timeout: Required value");
        check(
            hook(json!({"authorizedTTL": "-90s"})),
            "authorizers[0].authorizedTTL: Invalid value: \"-1m30s\": must be > 0s",
        );
        check(
            hook(json!({"subjectAccessReviewVersion": "v2", "failurePolicy": ""})),
            "[authorizers[0].subjectAccessReviewVersion: Unsupported value: \"v2\": supported values: \"v1\", \"v1beta1\", authorizers[0].failurePolicy: Required value]",
        );
        check(
            hook(json!({"connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": "a"}})),
            "authorizers[0].connectionInfo.kubeConfigFile: Invalid value: \"a\": must be an absolute path",
        );
        check(
            hook(
                json!({"matchConditionSubjectAccessReviewVersion": "", "matchConditions": [{"expression": "true"}, {"expression": "true"}, {"expression": " "}, {"expression": "1"}]}),
            ),
            "[authorizers[0].matchConditionSubjectAccessReviewVersion: Required value: required if match conditions are specified, authorizers[0].matchConditions[1].expression: Duplicate value: \"true\", authorizers[0].matchConditions[2].expression: Required value, authorizers[0].matchConditions[3].expression: Invalid value: \"1\": must evaluate to bool but got int]",
        );
    }
}
