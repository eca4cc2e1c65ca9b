use serde_json::{Value, json};

use super::*;

fn role(namespace: &str, name: &str, verb: &str, resource: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": namespace}, "rules": [{"verbs": [verb], "apiGroups": [""], "resources": [resource]}]})
}

fn binding(namespace: &str, name: &str, role: &str, subjects: Value) -> Value {
    let (kind, role) = role.split_once('/').expect("KIND/NAME");
    json!({"metadata": {"name": name, "namespace": namespace}, "roleRef": {"apiGroup": GROUP, "kind": kind, "name": role}, "subjects": subjects})
}

fn put(rbac: &Rbac, resource: &Gvr, object: &Value) {
    rbac.put(resource, object.to_string().as_bytes());
}

fn rbac() -> Rbac {
    let rbac = Rbac::default();
    put(&rbac, &CLUSTER_ROLES, &role("", "reader", "get", "pods"));
    put(&rbac, &ROLES, &role("a", "writer", "update", "pods"));
    let ops = json!([{"kind": "Group", "name": "ops"}]);
    put(&rbac, &CLUSTER_ROLE_BINDINGS, &binding("", "ops-read", "ClusterRole/reader", ops));
    let mixed = json!([{"kind": "User", "name": "jane"}, {"kind": "ServiceAccount", "name": "bot"}, {"kind": "ServiceAccount", "name": "bot", "namespace": "b"}]);
    put(&rbac, &ROLE_BINDINGS, &binding("a", "mixed-write", "Role/writer", mixed.clone()));
    put(&rbac, &ROLE_BINDINGS, &binding("a", "mixed-read", "ClusterRole/reader", mixed));
    rbac
}

/// `request` is `verb resource namespace`; `expected` is the reason, after `yes: ` if it is allowed.
#[track_caller]
fn check(rbac: &Rbac, user: &User, request: &str, expected: &str) {
    let [verb, resource, namespace] = request.split(' ').collect::<Vec<_>>()[..] else { panic!("{request}") };
    let asked = Attributes {
        verb: verb.to_owned(),
        resource_request: true,
        resource: resource.to_owned(),
        namespace: namespace.trim_matches('-').to_owned(),
        name: "x".to_owned(),
        ..Attributes::default()
    };
    let got = match rbac.decide(user, &asked) {
        Decision::Allow(why) => format!("yes: {why}"),
        Decision::Deny(why) => format!("denied: {why}"),
        Decision::NoOpinion(why) | Decision::Failed { why, .. } => why,
    };
    assert_eq!(got, expected, "{} {request}", user.name);
}

#[test]
fn the_reason_names_binding_role_and_subject() {
    let rbac = rbac();
    let ops = User::new("olga", &["ops"]);
    let read = r#"yes: RBAC: allowed by ClusterRoleBinding "ops-read" of ClusterRole "reader" to Group "ops""#;
    check(&rbac, &ops, "get pods -", read);
    check(&rbac, &ops, "get pods a", read);
    let jane = User::new("jane", &[]);
    check(
        &rbac,
        &jane,
        "update pods a",
        r#"yes: RBAC: allowed by RoleBinding "mixed-write/a" of Role "writer" to User "jane""#,
    );
    check(
        &rbac,
        &User::new("system:serviceaccount:b:bot", &[]),
        "get pods a",
        r#"yes: RBAC: allowed by RoleBinding "mixed-read/a" of ClusterRole "reader" to ServiceAccount "bot/b""#,
    );
    check(
        &rbac,
        &User::new("system:serviceaccount:a:bot", &[]),
        "get pods a",
        r#"yes: RBAC: allowed by RoleBinding "mixed-read/a" of ClusterRole "reader" to ServiceAccount "bot/a""#,
    );
}

#[test]
fn a_role_of_a_namespace_ends_at_its_border() {
    let rbac = rbac();
    let jane = User::new("jane", &[]);
    check(&rbac, &jane, "update pods b", "");
    check(&rbac, &jane, "update pods -", "");
    check(&rbac, &jane, "get pods -", "");
    check(&rbac, &User::new("john", &[]), "get pods a", "");
    check(&rbac, &User::new("system:serviceaccount:c:bot", &[]), "get pods a", "");
}

#[test]
fn changes_count_from_the_next_request_on() {
    let rbac = rbac();
    let jane = User::new("jane", &[]);
    put(&rbac, &ROLES, &role("a", "writer", "delete", "pods"));
    check(&rbac, &jane, "update pods a", "");
    let narrowed = binding("a", "mixed-read", "ClusterRole/reader", json!([{"kind": "User", "name": "john"}]));
    put(&rbac, &ROLE_BINDINGS, &narrowed);
    check(&rbac, &jane, "get pods a", "");
    rbac.remove(&ROLE_BINDINGS, narrowed.to_string().as_bytes());
    check(&rbac, &User::new("john", &[]), "get pods a", "");
    rbac.replace(&CLUSTER_ROLE_BINDINGS, &mut std::iter::empty());
    check(&rbac, &User::new("olga", &["ops"]), "get pods a", "");
}

#[test]
fn a_missing_role_is_told_of_and_harms_nothing_else() {
    let rbac = rbac();
    let jane = json!([{"kind": "User", "name": "jane"}]);
    put(&rbac, &ROLE_BINDINGS, &binding("a", "broken", "Role/ghost", jane.clone()));
    let user = User::new("jane", &[]);
    check(&rbac, &user, "list pods a", r#"RBAC: role.rbac.authorization.k8s.io "ghost" not found"#);
    check(
        &rbac,
        &user,
        "get pods a",
        r#"yes: RBAC: allowed by RoleBinding "mixed-read/a" of ClusterRole "reader" to User "jane""#,
    );
    put(&rbac, &CLUSTER_ROLE_BINDINGS, &binding("", "broken", "ClusterRole/ghost", jane));
    check(
        &rbac,
        &user,
        "list pods a",
        r#"RBAC: [clusterrole.rbac.authorization.k8s.io "ghost" not found, role.rbac.authorization.k8s.io "ghost" not found]"#,
    );
}

#[test]
fn rules_are_those_of_the_cluster_and_the_namespace() {
    let rbac = rbac();
    let user = User::new("jane", &["ops"]);
    assert_eq!(rbac.rules_for(&user, "").rules.len(), 1);
    assert_eq!(rbac.rules_for(&user, "a").rules.len(), 3);
}
