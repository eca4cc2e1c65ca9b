//! What the built-in identities may do: one table, until RBAC reads its roles from the cluster.
//!
//! Each block follows the upstream role of the same identity (`plugin/pkg/auth/authorizer/rbac/bootstrappolicy`): `system:node`
//! with `system:node-proxier`, `system:kube-scheduler`, the controllers' roles, `system:discovery`, `system:public-info-viewer`.
//! Invariants: nothing is allowed that no rule names; `system:masters` is the one group without limits, as upstream.
//! Absent on purpose: anything a user can configure, and the node's graph of what its pods refer to (the Node authorizer's):
//! until then a node reads any Secret or ConfigMap whose name it knows, and lists none.

use async_trait::async_trait;

use crate::{AUTHENTICATED, Attributes, Authorizer, Decision, MASTERS, NODE_USER_PREFIX, NODES, UNAUTHENTICATED, User};

/// Whom a rule is for.
#[derive(Clone, Copy, Debug)]
enum Who {
    User(&'static str),
    Group(&'static str),
}

/// What narrows a rule.
#[derive(Clone, Copy, Debug)]
enum Within {
    Anywhere,
    /// A single object, by name.
    OneByName,
    /// The object that is named like the node which asks; a create names none.
    OwnName,
    /// As `OwnName`, in this namespace.
    OwnNameIn(&'static str),
}

struct Rule {
    who: Who,
    verbs: &'static [&'static str],
    groups: &'static [&'static str],
    /// `pods` or `pods/status`; `*` is every resource and subresource.
    resources: &'static [&'static str],
    within: Within,
}

struct PathRule {
    group: &'static str,
    /// A path, or with `/*` at its end everything below.
    paths: &'static [&'static str],
}

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "update", "patch"];
const CHANGE: &[&str] = &["update", "patch"];
const CREATE: &[&str] = &["create"];
const ALL: &[&str] = &["*"];

const SCHEDULER: Who = Who::User("system:kube-scheduler");
const CONTROLLERS: Who = Who::User("system:kube-controller-manager");
const APISERVER: Who = Who::User("system:apiserver");
const NODE: Who = Who::Group(NODES);

const fn rule(
    who: Who,
    verbs: &'static [&'static str],
    groups: &'static [&'static str],
    resources: &'static [&'static str],
    within: Within,
) -> Rule {
    Rule { who, verbs, groups, resources, within }
}

use Within::{Anywhere, OneByName, OwnName, OwnNameIn};

#[rustfmt::skip]
const RULES: &[Rule] = &[
    rule(Who::Group(AUTHENTICATED), CREATE, &["authorization.k8s.io"], &["selfsubjectaccessreviews", "selfsubjectrulesreviews"], Anywhere),
    rule(Who::Group(AUTHENTICATED), CREATE, &["authentication.k8s.io"], &["selfsubjectreviews"], Anywhere),

    // Its namespaces, the `kubernetes` Service and the system's priority classes.
    rule(APISERVER, &["get", "list", "watch", "create", "update", "patch"], &[""], &["namespaces", "services", "endpoints"], Anywhere),
    rule(APISERVER, &["get", "list", "watch", "create", "update", "patch"], &["discovery.k8s.io"], &["endpointslices"], Anywhere),
    rule(APISERVER, &["get", "create"], &["scheduling.k8s.io"], &["priorityclasses"], Anywhere),

    rule(SCHEDULER, WRITE, &["", "events.k8s.io"], &["events"], Anywhere),
    rule(SCHEDULER, &["get", "list", "watch", "create", "update"], &["coordination.k8s.io"], &["leases"], Anywhere),
    rule(SCHEDULER, &["get", "list", "watch", "delete"], &[""], &["pods"], Anywhere),
    rule(SCHEDULER, CREATE, &[""], &["bindings", "pods/binding"], Anywhere),
    rule(SCHEDULER, CHANGE, &[""], &["pods/status"], Anywhere),
    rule(SCHEDULER, READ, &[""], &["nodes", "namespaces", "services", "replicationcontrollers", "persistentvolumeclaims", "persistentvolumes"], Anywhere),
    rule(SCHEDULER, READ, &["apps"], &["replicasets", "statefulsets"], Anywhere),
    rule(SCHEDULER, READ, &["policy"], &["poddisruptionbudgets"], Anywhere),
    rule(SCHEDULER, READ, &["scheduling.k8s.io"], &["priorityclasses"], Anywhere),
    rule(SCHEDULER, READ, &["storage.k8s.io"], &["csinodes", "csidrivers", "csistoragecapacities", "storageclasses", "volumeattachments"], Anywhere),

    // The garbage collector and the namespace controller work on every kind, those of custom resources too.
    rule(CONTROLLERS, &["get", "list", "watch", "update", "patch", "delete", "deletecollection"], ALL, ALL, Anywhere),
    rule(CONTROLLERS, CREATE, &[""], &["pods", "pods/eviction", "events", "endpoints", "serviceaccounts", "serviceaccounts/token", "configmaps", "secrets", "persistentvolumeclaims"], Anywhere),
    rule(CONTROLLERS, CREATE, &["apps"], &["replicasets", "controllerrevisions"], Anywhere),
    rule(CONTROLLERS, CREATE, &["batch"], &["jobs"], Anywhere),
    rule(CONTROLLERS, CREATE, &["discovery.k8s.io"], &["endpointslices"], Anywhere),
    rule(CONTROLLERS, CREATE, &["coordination.k8s.io"], &["leases"], Anywhere),
    rule(CONTROLLERS, CREATE, &["events.k8s.io"], &["events"], Anywhere),

    rule(NODE, READ, &[""], &["pods", "services", "nodes", "namespaces"], Anywhere),
    rule(NODE, READ, &["discovery.k8s.io"], &["endpointslices"], Anywhere),
    rule(NODE, READ, &["node.k8s.io"], &["runtimeclasses"], Anywhere),
    rule(NODE, READ, &[""], &["configmaps", "secrets"], OneByName),
    rule(NODE, &["get"], &[""], &["endpoints", "persistentvolumeclaims", "persistentvolumes", "serviceaccounts"], OneByName),
    rule(NODE, WRITE, &[""], &["nodes"], OwnName),
    rule(NODE, CHANGE, &[""], &["nodes/status"], OwnName),
    rule(NODE, &["get", "create", "update", "patch", "delete"], &["coordination.k8s.io"], &["leases"], OwnNameIn("kube-node-lease")),
    rule(NODE, &["create", "delete"], &[""], &["pods"], Anywhere),
    rule(NODE, CHANGE, &[""], &["pods/status"], Anywhere),
    rule(NODE, CREATE, &[""], &["pods/eviction", "serviceaccounts/token"], Anywhere),
    rule(NODE, WRITE, &["", "events.k8s.io"], &["events"], Anywhere),
    rule(NODE, CREATE, &["authentication.k8s.io"], &["tokenreviews"], Anywhere),
    rule(NODE, CREATE, &["authorization.k8s.io"], &["subjectaccessreviews", "localsubjectaccessreviews"], Anywhere),
    rule(NODE, &["get", "list", "watch", "create"], &["certificates.k8s.io"], &["certificatesigningrequests"], Anywhere),
];

/// All are for `get`.
const PATHS: &[PathRule] = &[
    PathRule { group: UNAUTHENTICATED, paths: &["/healthz", "/livez", "/readyz", "/version", "/version/"] },
    PathRule {
        group: AUTHENTICATED,
        paths: &[
            "/healthz",
            "/livez",
            "/readyz",
            "/version",
            "/version/",
            "/api",
            "/api/*",
            "/apis",
            "/apis/*",
            "/openapi",
            "/openapi/*",
        ],
    },
    PathRule { group: "system:monitoring", paths: &["/metrics", "/metrics/*", "/healthz/*", "/livez/*", "/readyz/*"] },
];

/// The table as an [`Authorizer`].
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowList;

#[async_trait]
impl Authorizer for AllowList {
    async fn authorize(&self, user: &User, attributes: &Attributes) -> Decision {
        decide(user, attributes)
    }
}

/// Pure: same user, same request, same decision.
fn decide(user: &User, attributes: &Attributes) -> Decision {
    let allowed = user.in_group(MASTERS)
        || match attributes.resource_request {
            true => RULES.iter().any(|rule| rule.allows(user, attributes)),
            false => PATHS.iter().any(|rule| rule.allows(user, attributes)),
        };
    if allowed { Decision::Allow } else { Decision::NoOpinion(String::new()) }
}

impl Rule {
    fn allows(&self, user: &User, asked: &Attributes) -> bool {
        let subject = match self.who {
            Who::User(name) => user.name == name,
            Who::Group(group) => user.in_group(group),
        };
        subject
            && holds(self.verbs, &asked.verb)
            && holds(self.groups, &asked.group)
            && self.resources.iter().any(|resource| covers(resource, asked))
            && self.within.holds(user, asked)
    }
}

impl Within {
    fn holds(self, user: &User, asked: &Attributes) -> bool {
        let own = || match user.name.strip_prefix(NODE_USER_PREFIX) {
            Some(node) if !node.is_empty() => asked.name == node || asked.verb == "create" && asked.name.is_empty(),
            _ => false,
        };
        match self {
            Anywhere => true,
            OneByName => !asked.name.is_empty(),
            OwnName => own(),
            OwnNameIn(namespace) => asked.namespace == namespace && own(),
        }
    }
}

impl PathRule {
    fn allows(&self, user: &User, asked: &Attributes) -> bool {
        let under = |rule: &str| match rule.strip_suffix('*') {
            Some(prefix) => asked.path.starts_with(prefix),
            None => asked.path == rule,
        };
        user.in_group(self.group) && asked.verb == "get" && self.paths.iter().any(|rule| under(rule))
    }
}

fn holds(list: &[&str], value: &str) -> bool {
    list.iter().any(|held| *held == "*" || *held == value)
}

/// True when the rule's resource is the one asked for, with the same subresource or the same lack of one.
fn covers(rule: &str, asked: &Attributes) -> bool {
    match rule.split_once('/') {
        _ if rule == "*" => true,
        Some((resource, subresource)) => resource == asked.resource && subresource == asked.subresource,
        None => rule == asked.resource && asked.subresource.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `request` reads `verb group/resource[/subresource] [namespace[/name]]`, with an empty group as `//pods` and `-` for
    /// the cluster scope, or `verb /path`.
    fn attributes(request: &str) -> Attributes {
        let mut words = request.split(' ');
        let verb = words.next().expect("verb").to_owned();
        let target = words.next().expect("target");
        if target == "/" || target.starts_with('/') && !target.starts_with("//") {
            return Attributes { verb, path: target.to_owned(), ..Attributes::default() };
        }
        let mut parts = target.trim_start_matches("//").split('/').map(str::to_owned);
        let group = if target.starts_with("//") { String::new() } else { parts.next().expect("group") };
        let resource = parts.next().expect("resource");
        let subresource = parts.next().unwrap_or_default();
        let place = words.next().unwrap_or("-");
        let (namespace, name) = place.split_once('/').unwrap_or((place, ""));
        let namespace = if namespace == "-" { "" } else { namespace };
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        Attributes {
            verb,
            resource_request: true,
            group,
            resource,
            subresource,
            namespace,
            name,
            ..Attributes::default()
        }
    }

    fn check(user: &User, request: &str, allowed: bool) {
        let decision = decide(user, &attributes(request));
        assert_eq!(decision == Decision::Allow, allowed, "{} {request}", user.name);
    }

    #[test]
    fn masters_may_do_everything() {
        let admin = User::new("system:admin", &[MASTERS]);
        for request in [
            "delete //namespaces -/default",
            "get /metrics",
            "post /anything",
            "escalate rbac.authorization.k8s.io/roles a/b",
        ] {
            check(&admin, request, true);
        }
    }

    #[test]
    fn nobody_else_may_do_what_no_rule_names() {
        let users = [
            User::new("jane", &["developers"]),
            User::new("system:kube-scheduler", &[]),
            User::new("system:node:n1", &[NODES]),
            User::new("system:apiserver", &[]),
            User { name: "system:anonymous".into(), groups: vec![UNAUTHENTICATED.into()], ..User::default() },
        ];
        for user in &users {
            for request in [
                "list //secrets default",
                "list //secrets -",
                "create rbac.authorization.k8s.io/clusterrolebindings -",
                "delete //namespaces -/default",
                "create //pods/exec default/web",
                "update apps/deployments default/web",
                "impersonate //users -/system:admin",
                "get /metrics",
                "get /",
                "post /healthz",
                "get /logs/",
            ] {
                check(user, request, false);
            }
        }
    }

    #[test]
    fn nodes_touch_what_is_theirs() {
        let node = User::new("system:node:n1", &[NODES]);
        for (request, allowed) in [
            ("watch //pods -", true),
            ("update //nodes/status -/n1", true),
            ("patch //nodes/status -/n2", false),
            ("create //nodes -", true),
            ("create //nodes -/n2", false),
            ("delete //nodes -/n1", false),
            ("update coordination.k8s.io/leases kube-node-lease/n1", true),
            ("create coordination.k8s.io/leases kube-node-lease", true),
            ("update coordination.k8s.io/leases kube-node-lease/n2", false),
            ("update coordination.k8s.io/leases kube-system/n1", false),
            ("patch //pods/status default/web", true),
            ("update //pods default/web", false),
            ("delete //pods default/web", true),
            ("get //secrets default/token", true),
            ("watch //secrets default/token", true),
            ("watch //configmaps default", false),
            ("update //configmaps default/settings", false),
            ("list discovery.k8s.io/endpointslices -", true),
            ("create //events default", true),
            ("create //pods/binding default/web", false),
        ] {
            check(&node, request, allowed);
        }
        check(&User::new("jane", &[NODES]), "update //nodes -/jane", false);
        check(&User::new("system:node:", &[NODES]), "create //nodes -", false);
        check(&User::new("system:node:n1", &[]), "watch //pods -", false);
    }

    #[test]
    fn scheduler_and_controllers_do_their_work_and_no_more() {
        let scheduler = User::new("system:kube-scheduler", &[]);
        check(&scheduler, "create //pods/binding default/web", true);
        check(&scheduler, "patch //pods/status default/web", true);
        check(&scheduler, "create //pods default", false);
        check(&scheduler, "get //secrets default/token", false);
        let controllers = User::new("system:kube-controller-manager", &[]);
        check(&controllers, "create //pods default", true);
        check(&controllers, "update apps/deployments/status default/web", true);
        check(&controllers, "deletecollection example.com/widgets doomed", true);
        check(&controllers, "update //namespaces/finalize -/doomed", true);
        check(&controllers, "create rbac.authorization.k8s.io/roles default", false);
        check(&controllers, "create //nodes -", false);
        check(&controllers, "create //pods/exec default/web", false);
        check(&User::new("system:apiserver", &[]), "create //services default", true);
    }

    #[test]
    fn discovery_is_for_the_authenticated_and_health_for_all() {
        let jane = User::new("jane", &[]);
        let stranger =
            User { name: "system:anonymous".into(), groups: vec![UNAUTHENTICATED.into()], ..User::default() };
        for (path, known, unknown) in [
            ("/healthz", true, true),
            ("/version", true, true),
            ("/healthz/ping", false, false),
            ("/api", true, false),
            ("/apis/apps/v1", true, false),
            ("/openapi/v3", true, false),
            ("/apiserver", false, false),
        ] {
            check(&jane, &format!("get {path}"), known);
            check(&stranger, &format!("get {path}"), unknown);
        }
        check(&User::new("scraper", &["system:monitoring"]), "get /metrics", true);
    }
}
