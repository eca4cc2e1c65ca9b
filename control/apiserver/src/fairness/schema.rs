//! Which requests belong together. Source: `FlowSchema` and `k8s.io/apiserver/pkg/util/flowcontrol/rule.go`.

use std::hash::{DefaultHasher, Hash, Hasher};

use http::HeaderValue;
use wharf_auth::User;
use wharf_types::k8s::api::flowcontrol::v1::{FlowSchema, Subject as Stored};

use crate::request::{Info, Target};

const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    User(String),
    Group(String),
    ServiceAccount { namespace: String, name: String },
}

#[derive(Clone, Debug)]
pub struct Resources {
    pub verbs: Vec<String>,
    pub groups: Vec<String>,
    pub resources: Vec<String>,
    pub namespaces: Vec<String>,
    pub cluster_scope: bool,
}

#[derive(Clone, Debug)]
pub struct NonResources {
    pub verbs: Vec<String>,
    pub urls: Vec<String>,
}

/// What tells the flows of a schema apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distinguisher {
    None,
    User,
    Namespace,
}

/// Whom a rule is for, and which requests of theirs.
pub type Rule = (Vec<Subject>, Vec<Resources>, Vec<NonResources>);

#[derive(Clone, Debug)]
pub struct Schema {
    pub name: String,
    pub uid: Option<HeaderValue>,
    pub level: String,
    pub precedence: i32,
    by: Distinguisher,
    rules: Vec<Rule>,
}

impl Schema {
    pub fn new(name: &str, uid: &str, level: &str, precedence: i32, by: Distinguisher, rules: Vec<Rule>) -> Self {
        let uid = HeaderValue::from_str(uid).ok().filter(|uid| !uid.is_empty());
        Self { name: name.to_owned(), uid, level: level.to_owned(), precedence, by, rules }
    }

    pub fn read(object: &FlowSchema) -> Option<Self> {
        let spec = object.spec.as_ref()?;
        let by = match spec.distinguisher_method.as_ref().map(|method| method.type_.as_str()) {
            Some("ByUser") => Distinguisher::User,
            Some("ByNamespace") => Distinguisher::Namespace,
            _ => Distinguisher::None,
        };
        let rules = spec.rules.iter().flatten().map(|rule| {
            let resources = rule.resource_rules.iter().flatten().map(|rule| Resources {
                verbs: rule.verbs.clone(),
                groups: rule.api_groups.clone(),
                resources: rule.resources.clone(),
                namespaces: rule.namespaces.clone().unwrap_or_default(),
                cluster_scope: rule.cluster_scope == Some(true),
            });
            let paths = rule.non_resource_rules.iter().flatten();
            let paths =
                paths.map(|rule| NonResources { verbs: rule.verbs.clone(), urls: rule.non_resource_urls.clone() });
            (rule.subjects.iter().filter_map(subject).collect(), resources.collect(), paths.collect())
        });
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let uid = object.metadata.uid.as_deref().unwrap_or_default();
        let level = &spec.priority_level_configuration.name;
        // Source: `FlowSchemaDefaultMatchingPrecedence`.
        let precedence = spec.matching_precedence.filter(|precedence| *precedence != 0).unwrap_or(1000);
        Some(Self::new(name, uid, level, precedence, by, rules.collect()))
    }

    pub fn matches(&self, user: &User, info: &Info) -> bool {
        self.rules.iter().any(|(subjects, resources, paths)| {
            subjects.iter().any(|subject| subject.is(user))
                && match &info.target {
                    Target::Resource(_) => resources.iter().any(|rule| rule.covers(info)),
                    Target::Path => paths.iter().any(|rule| rule.covers(info)),
                }
        })
    }

    /// A number for the request's flow: the same for requests that belong together.
    pub fn flow(&self, user: &User, info: &Info) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.name.hash(&mut hasher);
        match (self.by, &info.target) {
            (Distinguisher::User, _) => user.name.hash(&mut hasher),
            (Distinguisher::Namespace, Target::Resource(resource)) => resource.namespace.hash(&mut hasher),
            _ => {}
        }
        hasher.finish()
    }
}

fn subject(stored: &Stored) -> Option<Subject> {
    match stored.kind.as_str() {
        "User" => Some(Subject::User(stored.user.as_ref()?.name.clone())),
        "Group" => Some(Subject::Group(stored.group.as_ref()?.name.clone())),
        "ServiceAccount" => {
            let account = stored.service_account.as_ref()?;
            Some(Subject::ServiceAccount { namespace: account.namespace.clone(), name: account.name.clone() })
        }
        _ => None,
    }
}

impl Subject {
    fn is(&self, user: &User) -> bool {
        match self {
            Subject::User(name) => name == "*" || *name == user.name,
            Subject::Group(name) => name == "*" || user.in_group(name),
            Subject::ServiceAccount { namespace, name } => {
                let rest =
                    user.name.strip_prefix(SERVICE_ACCOUNT).and_then(|rest| rest.strip_prefix(namespace.as_str()));
                rest.and_then(|rest| rest.strip_prefix(':')).is_some_and(|own| name == "*" || own == name)
            }
        }
    }
}

fn holds(list: &[String], value: &str) -> bool {
    list.iter().any(|held| held == "*" || held == value)
}

impl Resources {
    fn covers(&self, info: &Info) -> bool {
        let Target::Resource(asked) = &info.target else { return false };
        let resource = |held: &String| match (held.as_str(), asked.subresource.as_deref()) {
            ("*", _) => true,
            (held, None) => held == asked.resource,
            (held, Some(subresource)) => {
                held.split_once('/').is_some_and(|(resource, sub)| resource == asked.resource && sub == subresource)
            }
        };
        let place = match asked.namespace.as_deref().filter(|namespace| !namespace.is_empty()) {
            Some(namespace) => holds(&self.namespaces, namespace),
            None => self.cluster_scope,
        };
        place
            && holds(&self.verbs, info.verb.name())
            && holds(&self.groups, &asked.group)
            && self.resources.iter().any(resource)
    }
}

impl NonResources {
    fn covers(&self, info: &Info) -> bool {
        let verb = |held: &String| held == "*" || held.eq_ignore_ascii_case(info.method.as_str());
        let url = |held: &String| match held.strip_suffix('*') {
            Some(prefix) => info.path.starts_with(prefix),
            None => *held == info.path,
        };
        self.verbs.iter().any(verb) && self.urls.iter().any(url)
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use wharf_registry::flowcontrol::{mandatory_schemas, suggested_schemas};

    use super::*;
    use crate::query::Query;

    /// The first of the default schemas that matches.
    #[track_caller]
    fn check(user: &User, method: Method, uri: &str, expected: &str) {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let info = Info::parse(&method, path, &Query::parse(query));
        let mut schemas: Vec<Schema> =
            mandatory_schemas().iter().chain(&suggested_schemas()).filter_map(Schema::read).collect();
        schemas.sort_by_key(|schema| schema.precedence);
        let found = schemas.iter().find(|schema| schema.matches(user, &info)).map(|schema| schema.name.as_str());
        assert_eq!(found, Some(expected), "{} {uri}", user.name);
    }

    #[test]
    fn requests_are_sorted_as_upstream_sorts_them() {
        let pods = "/api/v1/namespaces/default/pods";
        check(&User::new("admin", &[wharf_auth::MASTERS]), Method::POST, pods, "exempt");
        check(&User::new("jane", &[]), Method::GET, "/readyz", "probes");
        check(&User::new("jane", &[]), Method::GET, "/readyz/etcd", "global-default");
        let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x";
        check(&User::new("system:kube-scheduler", &[]), Method::PUT, lease, "system-leader-election");
        check(&User::new("system:kube-scheduler", &[]), Method::GET, pods, "kube-scheduler");
        let node = User::new("system:node:n1", &[wharf_auth::NODES]);
        check(&node, Method::PATCH, "/api/v1/nodes/n1/status", "system-node-high");
        check(&node, Method::GET, pods, "system-nodes");
        let account = |namespace: &str| {
            let name = format!("system:serviceaccount:{namespace}:a");
            User::new(&name, &["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")])
        };
        check(&account("kube-system"), Method::GET, pods, "kube-system-service-accounts");
        check(&account("team"), Method::GET, pods, "service-accounts");
        check(&User::new("jane", &[]), Method::GET, pods, "global-default");
    }
}
