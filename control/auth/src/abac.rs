//! Who may do what, by the lines of a file: attribute-based access control.
//!
//! Source: `pkg/auth/authorizer/abac` and `pkg/apis/abac`. The file is read when the server starts; each line is a policy, and any of
//! them is enough. A policy without a kind is of the oldest form, which leaves out what it does not restrict.
//! Absent on purpose: reading the file again, which upstream does not do either.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;

use crate::{AUTHENTICATED, Attributes, Authorizer, Decision, User};

const KIND: &str = "Policy";
const V1BETA1: &str = "abac.authorization.kubernetes.io/v1beta1";
const V0: &str = "abac.authorization.kubernetes.io/v0";
const ANY: &str = "*";
/// Verbs that change nothing. Source: `AttributesRecord.IsReadOnly`.
const READ_ONLY: [&str; 3] = ["get", "list", "watch"];

/// Why a file is refused, and in which line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {text}: {why}")]
pub struct Error {
    pub line: usize,
    pub text: String,
    pub why: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    user: String,
    group: String,
    readonly: bool,
    api_group: String,
    resource: String,
    namespace: String,
    non_resource_path: String,
}

/// All lines of a file.
#[derive(Debug)]
pub struct Abac(Vec<Spec>);

impl Abac {
    /// Reads a file's text. Empty lines and those that begin with `#` say nothing.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut policies = Vec::new();
        for (place, line) in text.lines().enumerate() {
            let trimmed = line.trim();
            if trimmed.is_empty() || trimmed.starts_with('#') {
                continue;
            }
            let refuse = |why| Error { line: place, text: line.to_owned(), why };
            policies.push(policy(trimmed).map_err(refuse)?);
        }
        Ok(Self(policies))
    }
}

fn policy(line: &str) -> Result<Spec, String> {
    let value: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let text = |field: &str| value[field].as_str().unwrap_or_default();
    let read = |value: &Value| serde_json::from_value::<Spec>(value.clone()).map_err(|error| error.to_string());
    match (text("apiVersion"), text("kind")) {
        (V1BETA1, KIND) => Ok(read(&value["spec"]).map(everybody)?),
        ("" | V0, "" | KIND) => Ok(read(&value).map(unrestricted)?),
        (version, kind) => Err(format!("no kind {kind:?} is registered for version {version:?} in scheme")),
    }
}

/// Any user and any group are those who have proved who they are.
fn everybody(spec: Spec) -> Spec {
    match spec.user == ANY || spec.group == ANY {
        true => Spec { user: String::new(), group: AUTHENTICATED.to_owned(), ..spec },
        false => spec,
    }
}

/// What the oldest form leaves out is not restricted.
fn unrestricted(spec: Spec) -> Spec {
    let mut spec = everybody(spec);
    if spec.user.is_empty() && spec.group.is_empty() {
        spec.group = AUTHENTICATED.to_owned();
    }
    spec.non_resource_path.clear();
    if spec.namespace.is_empty() && spec.resource.is_empty() {
        spec.non_resource_path = ANY.to_owned();
    }
    for field in [&mut spec.namespace, &mut spec.resource] {
        if field.is_empty() {
            *field = ANY.to_owned();
        }
    }
    spec.api_group = ANY.to_owned();
    spec
}

impl Spec {
    fn allows(&self, user: &User, asked: &Attributes) -> bool {
        let reads = READ_ONLY.contains(&asked.verb.as_str());
        self.is_about(user) && (reads || !self.readonly) && (self.is_resource(asked) || self.is_path(asked))
    }

    fn is_about(&self, user: &User) -> bool {
        let by_name = self.user.is_empty() || self.user == user.name;
        let by_group = self.group.is_empty() || user.in_group(&self.group);
        !(self.user.is_empty() && self.group.is_empty()) && by_name && by_group
    }

    fn is_resource(&self, asked: &Attributes) -> bool {
        let fits = |rule: &str, value: &str| rule == ANY || rule == value;
        asked.resource_request
            && fits(&self.namespace, &asked.namespace)
            && fits(&self.resource, &asked.resource)
            && fits(&self.api_group, &asked.group)
    }

    fn is_path(&self, asked: &Attributes) -> bool {
        let rule = self.non_resource_path.as_str();
        let below = rule.ends_with(ANY) && asked.path.starts_with(rule.trim_end_matches(ANY));
        !asked.resource_request && (below || rule == asked.path)
    }
}

#[async_trait]
impl Authorizer for Abac {
    async fn authorize(&self, user: &User, attributes: &Attributes) -> Decision {
        match self.0.iter().any(|policy| policy.allows(user, attributes)) {
            true => Decision::Allow(String::new()),
            false => Decision::NoOpinion("No policy matched.".to_owned()),
        }
    }

    fn lists_rules(&self) -> Result<(), &'static str> {
        Err("ABAC authorizer does not support user rule resolution")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
# The examples of Kubernetes' documentation.
{"apiVersion": "abac.authorization.kubernetes.io/v1beta1", "kind": "Policy", "spec": {"user": "alice", "namespace": "*", "resource": "*", "apiGroup": "*"}}
{"apiVersion": "abac.authorization.kubernetes.io/v1beta1", "kind": "Policy", "spec": {"user": "bob", "namespace": "projectCaribou", "resource": "pods", "readonly": true}}
{"apiVersion": "abac.authorization.kubernetes.io/v1beta1", "kind": "Policy", "spec": {"group": "system:authenticated", "readonly": true, "nonResourcePath": "/api*"}}
{"user":"carol","resource":"events"}
{"user":"dave"}
"#;

    #[track_caller]
    fn check(user: &str, asked: &str, expected: bool) {
        let words: Vec<&str> = asked.split(' ').collect();
        let (verb, rest) = (words[0].to_owned(), &words[1..]);
        let attributes = match rest {
            [path] => Attributes { verb, path: (*path).to_owned(), ..Attributes::default() },
            [namespace, group, resource] => Attributes {
                verb,
                resource_request: true,
                namespace: (*namespace).to_owned(),
                group: group.trim_matches('-').to_owned(),
                resource: (*resource).to_owned(),
                ..Attributes::default()
            },
            _ => panic!("{asked:?}"),
        };
        let policies = Abac::parse(FILE).expect("a file");
        let allowed = policies.0.iter().any(|policy| policy.allows(&User::new(user, &[]), &attributes));
        assert_eq!(allowed, expected, "{user} {asked}");
    }

    #[test]
    fn a_line_allows_what_it_names() {
        check("alice", "delete kube-system apps deployments", true);
        check("alice", "get /metrics", false);
        check("bob", "list projectCaribou - pods", true);
        check("bob", "delete projectCaribou - pods", false);
        check("bob", "list default - pods", false);
        check("bob", "list projectCaribou metrics.k8s.io pods", false);
        check("bob", "get /apis/apps", true);
        check("bob", "get /healthz", false);
        check("carol", "delete default events.k8s.io events", true);
        check("carol", "get default - pods", false);
        check("carol", "get /metrics", false);
        check("dave", "post /metrics", true);
        check("dave", "delete default - pods", true);
        check("nobody", "get default - pods", false);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let why = |text: &str| Abac::parse(text).expect_err("refused").to_string();
        assert!(why("# fine\n\n{").starts_with("line 2: {: "), "{}", why("# fine\n\n{"));
        assert_eq!(
            why(r#"{"apiVersion": "v2", "kind": "Policy"}"#),
            r#"line 0: {"apiVersion": "v2", "kind": "Policy"}: no kind "Policy" is registered for version "v2" in scheme"#
        );
    }
}
