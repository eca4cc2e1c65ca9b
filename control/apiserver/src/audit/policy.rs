//! The audit policy: how much of which requests is recorded.
//!
//! Source: `audit.k8s.io/v1` and `k8s.io/apiserver/pkg/audit/policy`. The first rule that matches decides; a request that none
//! matches is not recorded.

use serde::{Deserialize, Serialize};
use wharf_auth::{Attributes, User};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub enum Level {
    #[default]
    None,
    /// Who asked for what, and how it was answered.
    Metadata,
    /// And what was sent.
    Request,
    /// And what was returned.
    RequestResponse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: serde_json::Value,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Rule {
    level: Level,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<Resources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Resources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

/// What is to be recorded of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub level: Level,
    pub omit_stages: Vec<Stage>,
    pub omit_managed_fields: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read the audit policy")]
    Syntax(#[source] serde_yaml::Error),
    #[error("an audit policy is of apiVersion audit.k8s.io/v1 and kind Policy, not {0}")]
    Kind(String),
    #[error("an audit policy needs at least one rule")]
    NoRules,
    #[error("rules[{index}]: {why}")]
    Rule { index: usize, why: &'static str },
}

impl Policy {
    /// Reads a policy file, YAML or JSON.
    pub fn read(text: &str) -> Result<Self, Error> {
        let policy: Self = serde_yaml::from_str(text).map_err(Error::Syntax)?;
        if (policy.api_version.as_str(), policy.kind.as_str()) != ("audit.k8s.io/v1", "Policy") {
            return Err(Error::Kind(format!("{} {}", policy.api_version, policy.kind)));
        }
        if policy.rules.is_empty() {
            return Err(Error::NoRules);
        }
        for (index, rule) in policy.rules.iter().enumerate() {
            rule.check().map_err(|why| Error::Rule { index, why })?;
        }
        Ok(policy)
    }

    pub fn judge(&self, user: Option<&User>, asked: &Attributes) -> Verdict {
        let Some(rule) = self.rules.iter().find(|rule| rule.matches(user, asked)) else {
            return Verdict { omit_stages: self.omit_stages.clone(), ..Verdict::default() };
        };
        Verdict {
            level: rule.level,
            omit_stages: self.omit_stages.iter().chain(&rule.omit_stages).copied().collect(),
            omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
        }
    }
}

impl Rule {
    fn check(&self) -> Result<(), &'static str> {
        let of_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if of_resources && !self.non_resource_urls.is_empty() {
            return Err("rules cannot apply to both regular resources and non-resource URLs");
        }
        if self
            .non_resource_urls
            .iter()
            .any(|url| url != "*" && (!url.starts_with('/') || url[..url.len() - 1].contains('*')))
        {
            return Err("a nonResourceURL begins with '/', and '*' stands at its end only");
        }
        if self.resources.iter().any(|it| !it.resource_names.is_empty() && it.resources.is_empty()) {
            return Err("using resourceNames requires at least one resource");
        }
        Ok(())
    }

    fn matches(&self, user: Option<&User>, asked: &Attributes) -> bool {
        let or_all = |list: &[String], value: &str| list.is_empty() || list.iter().any(|held| held == value);
        if !self.users.is_empty() && !user.is_some_and(|user| or_all(&self.users, &user.name)) {
            return false;
        }
        let in_group = |user: &User| self.user_groups.iter().any(|group| user.in_group(group));
        if !self.user_groups.is_empty() && !user.is_some_and(in_group) || !or_all(&self.verbs, &asked.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return asked.resource_request
                && or_all(&self.namespaces, &asked.namespace)
                && (self.resources.is_empty() || self.resources.iter().any(|it| it.covers(asked)));
        }
        if self.non_resource_urls.is_empty() {
            return true;
        }
        let covers = |url: &String| match url.strip_suffix('*') {
            Some(prefix) => asked.path.starts_with(prefix),
            None => asked.path == *url,
        };
        !asked.resource_request && self.non_resource_urls.iter().any(covers)
    }
}

impl Resources {
    fn covers(&self, asked: &Attributes) -> bool {
        if self.group != asked.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        let named = self.resource_names.is_empty() || self.resource_names.contains(&asked.name);
        let sub = asked.subresource.as_str();
        named
            && self.resources.iter().any(|held| match held.split_once('/') {
                _ if held == "*" => true,
                None => sub.is_empty() && *held == asked.resource,
                Some(("*", wanted)) => !sub.is_empty() && wanted == sub,
                Some((resource, "*")) => resource == asked.resource,
                Some((resource, wanted)) => resource == asked.resource && wanted == sub,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, users: ['system:kube-proxy'], verbs: [watch], resources: [{group: '', resources: [endpoints, services]}]}
- {level: None, nonResourceURLs: ['/healthz*', /version]}
- {level: Metadata, resources: [{group: '', resources: [secrets, pods/log]}], omitManagedFields: true}
- {level: Request, userGroups: ['system:nodes'], namespaces: [kube-system], omitStages: [Panic]}
- {level: RequestResponse, resources: [{group: apps, resources: ['*/scale'], resourceNames: [web]}]}
- {level: Metadata, nonResourceURLs: ['*']}
";

    /// `asked` is `verb namespace group resource[/subresource] name`, or a path.
    #[track_caller]
    fn check(user: &User, asked: &str, expected: Level) {
        let policy = Policy::read(POLICY).expect("a policy");
        let words: Vec<&str> = asked.split(' ').collect();
        let attributes = match words.as_slice() {
            [verb, namespace, group, resource, name] => {
                let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
                let given = |text: &str| text.trim_matches('-').to_owned();
                Attributes {
                    verb: given(verb),
                    resource_request: true,
                    namespace: given(namespace),
                    group: given(group),
                    resource: given(resource),
                    subresource: given(subresource),
                    name: given(name),
                    ..Attributes::default()
                }
            }
            _ => Attributes { verb: "get".into(), path: asked.into(), ..Attributes::default() },
        };
        assert_eq!(policy.judge(Some(user), &attributes).level, expected, "{asked}");
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let (proxy, node, jane) =
            (User::new("system:kube-proxy", &[]), User::new("n", &["system:nodes"]), User::new("jane", &[]));
        check(&proxy, "watch - - services -", Level::None);
        check(&jane, "get default - secrets s", Level::Metadata);
        check(&jane, "get default - pods p", Level::None);
        check(&jane, "get default - pods/log p", Level::Metadata);
        check(&node, "create kube-system - configmaps c", Level::Request);
        check(&jane, "create kube-system - configmaps c", Level::None);
        check(&jane, "update default apps deployments/scale web", Level::RequestResponse);
        check(&jane, "update default apps deployments/scale api", Level::None);
        check(&jane, "/healthz/ready", Level::None);
        check(&jane, "/metrics", Level::Metadata);
    }

    #[test]
    fn a_policy_that_makes_no_sense_is_refused() {
        let check = |rule: &str, expected: &str| {
            let text = format!("{{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{rule}]}}");
            let error = Policy::read(&text).expect_err("refused");
            assert_eq!(error.to_string(), expected);
        };
        check("", "an audit policy needs at least one rule");
        check("{level: Loud}", "read the audit policy");
        let both = "rules[0]: rules cannot apply to both regular resources and non-resource URLs";
        check("{level: None, namespaces: [a], nonResourceURLs: ['*']}", both);
        assert!(Policy::read("{rules: [{level: None}]}").is_err());
    }
}
