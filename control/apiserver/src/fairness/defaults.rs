//! The priority levels and flow schemas that every cluster has.
//!
//! Source: `k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap/default.go`. They hold as long as nothing is stored; those that are
//! mandatory hold even then.

use super::schema::{NonResources, Resources, Rule, Schema, Subject};
use super::spec::{Limited, Queuing, Spec};
use wharf_auth::{AUTHENTICATED, MASTERS, NODES, UNAUTHENTICATED};

pub const EXEMPT: &str = "exempt";
pub const CATCH_ALL: &str = "catch-all";

pub fn levels() -> Vec<(&'static str, Spec)> {
    let queue = |shares, lendable_percent, queues, hand_size| {
        let queuing = Queuing { queues, hand_size, length_max: 50 };
        Spec::Limited(Limited { shares, lendable_percent, borrowing_percent: None, queuing: Some(queuing) })
    };
    vec![
        (EXEMPT, Spec::Exempt { shares: 0, lendable_percent: 0 }),
        (CATCH_ALL, Spec::Limited(Limited { shares: 5, lendable_percent: 0, borrowing_percent: None, queuing: None })),
        ("system", queue(30, 33, 64, 6)),
        ("node-high", queue(40, 25, 64, 6)),
        ("leader-election", queue(10, 0, 16, 4)),
        ("workload-high", queue(40, 50, 128, 6)),
        ("workload-low", queue(100, 90, 128, 6)),
        ("global-default", queue(20, 50, 128, 6)),
    ]
}

fn user(name: &str) -> Subject {
    Subject::User(name.to_owned())
}

fn group(name: &str) -> Subject {
    Subject::Group(name.to_owned())
}

fn account(namespace: &str, name: &str) -> Subject {
    Subject::ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() }
}

fn owned(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

fn resources(
    verbs: &[&str],
    groups: &[&str],
    resources: &[&str],
    namespaces: &[&str],
    cluster_scope: bool,
) -> Resources {
    Resources {
        verbs: owned(verbs),
        groups: owned(groups),
        resources: owned(resources),
        namespaces: owned(namespaces),
        cluster_scope,
    }
}

fn everything() -> (Vec<Resources>, Vec<NonResources>) {
    let all = &["*"];
    (vec![resources(all, all, all, all, true)], vec![NonResources { verbs: owned(all), urls: owned(all) }])
}

pub fn schemas() -> Vec<Schema> {
    use super::schema::Distinguisher::{Namespace, None, User};
    let schema =
        |name: &str, level: &str, precedence, by, rules: Vec<Rule>| Schema::new(name, "", level, precedence, by, rules);
    let to_all = |subjects: Vec<Subject>| {
        let (resources, paths) = everything();
        vec![(subjects, resources, paths)]
    };
    let kube_system = &["kube-system"];
    let leases = resources(&["get", "create", "update"], &["coordination.k8s.io"], &["leases"], &["*"], false);
    let status = resources(&["*"], &[""], &["nodes", "nodes/status"], &["*"], true);
    let node_leases = resources(&["*"], &["coordination.k8s.io"], &["leases"], &["*"], false);
    let endpoints = [
        resources(&["get", "create", "update"], &[""], &["endpoints"], kube_system, false),
        resources(&["*"], &["coordination.k8s.io"], &["leases"], kube_system, false),
    ];
    let probes = NonResources { verbs: owned(&["get"]), urls: owned(&["/healthz", "/readyz", "/livez"]) };
    vec![
        schema(EXEMPT, EXEMPT, 1, None, to_all(vec![group(MASTERS)])),
        schema(
            "probes",
            EXEMPT,
            2,
            None,
            vec![(vec![group(UNAUTHENTICATED), group(AUTHENTICATED)], vec![], vec![probes])],
        ),
        schema(
            "system-leader-election",
            "leader-election",
            100,
            User,
            vec![(
                vec![
                    user("system:kube-controller-manager"),
                    user("system:kube-scheduler"),
                    group("system:serviceaccounts:kube-system"),
                ],
                vec![leases.clone()],
                vec![],
            )],
        ),
        schema(
            "endpoint-controller",
            "workload-high",
            150,
            User,
            vec![(
                vec![
                    user("system:kube-controller-manager"),
                    account("kube-system", "endpoint-controller"),
                    account("kube-system", "endpointslicemirroring-controller"),
                ],
                vec![resources(&["get", "create", "update"], &[""], &["endpoints"], &["*"], false)],
                vec![],
            )],
        ),
        schema(
            "workload-leader-election",
            "leader-election",
            200,
            User,
            vec![(vec![account("kube-system", "*")], endpoints.to_vec(), vec![])],
        ),
        schema(
            "system-node-high",
            "node-high",
            400,
            User,
            vec![(vec![group(NODES)], vec![status, node_leases], vec![])],
        ),
        schema("system-nodes", "system", 500, User, to_all(vec![group(NODES)])),
        schema(
            "kube-controller-manager",
            "workload-high",
            800,
            Namespace,
            to_all(vec![user("system:kube-controller-manager")]),
        ),
        schema("kube-scheduler", "workload-high", 800, Namespace, to_all(vec![user("system:kube-scheduler")])),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            Namespace,
            to_all(vec![account("kube-system", "*")]),
        ),
        schema("service-accounts", "workload-low", 9000, User, to_all(vec![group("system:serviceaccounts")])),
        schema(
            "global-default",
            "global-default",
            9900,
            User,
            to_all(vec![group(UNAUTHENTICATED), group(AUTHENTICATED)]),
        ),
        schema(CATCH_ALL, CATCH_ALL, 10_000, User, to_all(vec![group(UNAUTHENTICATED), group(AUTHENTICATED)])),
    ]
}
