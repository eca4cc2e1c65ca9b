//! Nobody gets at more than they have: every way that RBAC is known to be stretched, and the questions one may ask about it.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use wharf_apiserver::ApiServer;
use wharf_auth::{MASTERS, User};

mod support;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-public/roles";

struct World {
    server: Arc<ApiServer>,
}

impl World {
    async fn new() -> Self {
        Self { server: support::server().await }
    }

    async fn send(
        &self,
        user: &User,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> (u16, Value) {
        let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let mut request = Request::builder().method(method).uri(path).header("content-type", kind);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed_unsync();
        let request = request.body(body).expect("a request");
        let Ok(response) = tower::ServiceExt::oneshot(self.server.service_for(user.clone()), request).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// Gives the user these rules in all namespaces.
    async fn grant(&self, user: &str, rules: Value) {
        let admin = User::new("admin", &[MASTERS]);
        let role = json!({"metadata": {"name": user}, "rules": rules});
        let (code, body) = self.send(&admin, Method::POST, &format!("{RBAC}/clusterroles"), &[], &role).await;
        assert_eq!(code, 201, "{body}");
        let binding = json!({
            "metadata": {"name": user},
            "roleRef": {"kind": "ClusterRole", "name": user}, "subjects": [{"kind": "User", "name": user}],
        });
        let (code, body) = self.send(&admin, Method::POST, &format!("{RBAC}/clusterrolebindings"), &[], &binding).await;
        assert_eq!(code, 201, "{body}");
    }

    #[track_caller]
    fn check(got: (u16, Value), code: u16, message: &str) {
        let text = got.1["message"].as_str().unwrap_or_default().to_owned();
        assert!(got.0 == code && text.contains(message), "{} {text:?}; expected {code} {message:?}", got.0);
    }
}

fn rule(verbs: &[&str], group: &str, resources: &[&str]) -> Value {
    json!({"verbs": verbs, "apiGroups": [group], "resources": resources})
}

/// May read pods, and write every role and binding.
fn manager() -> Value {
    json!([
        rule(&["get", "list"], "", &["pods"]),
        rule(
            &["get", "create", "update", "patch", "delete"],
            "rbac.authorization.k8s.io",
            &["roles", "rolebindings", "clusterroles", "clusterrolebindings"]
        ),
    ])
}

#[tokio::test]
async fn roles_hold_no_more_than_their_writer_has() {
    let world = World::new().await;
    world.grant("jane", manager()).await;
    let jane = User::new("jane", &[]);
    let role = |rules: Value| json!({"metadata": {"name": "own"}, "rules": rules});
    let post = async |rules: Value| world.send(&jane, Method::POST, ROLES, &[], &role(rules)).await;
    let held = "attempting to grant RBAC permissions not currently held:\n";
    let missing = |what: &str| format!("{held}{what}");
    World::check(
        post(json!([rule(&["get", "delete"], "", &["pods"])])).await,
        403,
        &missing(r#"{APIGroups:[""], Resources:["pods"], Verbs:["delete"]}"#),
    );
    World::check(post(json!([rule(&["*"], "*", &["*"])])).await, 403, held);
    World::check(post(json!([rule(&["get"], "", &["*"])])).await, 403, held);
    World::check(post(json!([rule(&["get"], "", &["pods/exec"])])).await, 403, held);
    World::check(post(json!([rule(&["impersonate"], "", &["users"])])).await, 403, held);
    World::check(post(json!([rule(&["create"], "", &["serviceaccounts/token"])])).await, 403, held);
    World::check(post(json!([rule(&["get"], "", &["nodes/proxy"])])).await, 403, held);
    World::check(post(json!([rule(&["approve", "sign"], "certificates.k8s.io", &["signers"])])).await, 403, held);
    let mut named = rule(&["delete"], "", &["pods"]);
    named["resourceNames"] = json!(["one"]);
    World::check(post(json!([named])).await, 403, held);
    World::check(post(json!([rule(&["get"], "", &["pods"])])).await, 201, "");
    // Neither an update nor a patch nor a create by PUT goes further.
    let wider = role(json!([rule(&["*"], "", &["pods"])]));
    let one = format!("{ROLES}/own");
    World::check(world.send(&jane, Method::PUT, &one, &[], &wider).await, 403, held);
    World::check(world.send(&jane, Method::PATCH, &one, &[], &json!({"rules": wider["rules"]})).await, 403, held);
    let mut other = wider.clone();
    other["metadata"]["name"] = json!("other");
    World::check(world.send(&jane, Method::PUT, &format!("{ROLES}/other"), &[], &other).await, 403, held);
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    World::check(world.send(&jane, Method::PATCH, &one, &[], &label).await, 200, "");
}

#[tokio::test]
async fn paths_and_sums_are_checked_as_resources_are() {
    let world = World::new().await;
    world.grant("jane", manager()).await;
    let jane = User::new("jane", &[]);
    let cluster_roles = format!("{RBAC}/clusterroles");
    let post = async |role: Value| world.send(&jane, Method::POST, &cluster_roles, &[], &role).await;
    let paths = json!({"metadata": {"name": "p"}, "rules": [{"verbs": ["get"], "nonResourceURLs": ["/metrics"]}]});
    World::check(post(paths).await, 403, r#"{NonResourceURLs:["/metrics"], Verbs:["get"]}"#);
    let open = json!({"metadata": {"name": "p"}, "rules": [{"verbs": ["get"], "nonResourceURLs": ["/apis/*"]}]});
    World::check(post(open).await, 201, "");
    let sum =
        json!({"metadata": {"name": "s"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}});
    World::check(post(sum).await, 403, "must have cluster-admin privileges to use the aggregationRule");
    // What is summed into `admin` must be held by whoever labels it.
    let labelled = json!({
        "metadata": {"name": "l", "labels": {"rbac.authorization.k8s.io/aggregate-to-admin": "true"}},
        "rules": [rule(&["*"], "*", &["*"])],
    });
    World::check(post(labelled).await, 403, "not currently held");
}

#[tokio::test]
async fn a_binding_gives_what_its_writer_has_or_may_bind() {
    let world = World::new().await;
    world.grant("jane", manager()).await;
    let jane = User::new("jane", &[]);
    let bindings = format!("{RBAC}/clusterrolebindings");
    let binding = |role: &str| {
        json!({
            "metadata": {"name": format!("jane-{role}")},
            "roleRef": {"kind": "ClusterRole", "name": role}, "subjects": [{"kind": "User", "name": "jane"}],
        })
    };
    let post = async |user: &User, role: &str| world.send(user, Method::POST, &bindings, &[], &binding(role)).await;
    World::check(post(&jane, "cluster-admin").await, 403, "not currently held");
    World::check(post(&jane, "ghost").await, 404, r#"clusterrole.rbac.authorization.k8s.io "ghost" not found"#);
    World::check(post(&jane, "jane").await, 201, "");
    let mut local = binding("cluster-admin");
    local["metadata"]["name"] = json!("local");
    let path = format!("{RBAC}/namespaces/kube-public/rolebindings");
    World::check(world.send(&jane, Method::POST, &path, &[], &local).await, 403, "not currently held");
    // Who may bind one role binds that one.
    let mut rules = manager();
    let mut bind = rule(&["bind"], "rbac.authorization.k8s.io", &["clusterroles"]);
    bind["resourceNames"] = json!(["view"]);
    rules.as_array_mut().expect("rules").push(bind);
    world.grant("bella", rules).await;
    let bella = User::new("bella", &[]);
    World::check(post(&bella, "view").await, 201, "");
    World::check(post(&bella, "edit").await, 201, "");
    World::check(post(&bella, "cluster-admin").await, 403, "not currently held");
}

#[tokio::test]
async fn escalate_lifts_the_check_for_the_roles_it_names() {
    let world = World::new().await;
    let mut rules = manager();
    rules.as_array_mut().expect("rules").push(rule(&["escalate"], "rbac.authorization.k8s.io", &["roles"]));
    world.grant("eve", rules).await;
    let eve = User::new("eve", &[]);
    let all = json!({"metadata": {"name": "own"}, "rules": [rule(&["*"], "*", &["*"])]});
    World::check(world.send(&eve, Method::POST, ROLES, &[], &all).await, 201, "");
    let cluster_roles = format!("{RBAC}/clusterroles");
    World::check(world.send(&eve, Method::POST, &cluster_roles, &[], &all).await, 403, "not currently held");
}

#[tokio::test]
async fn nobody_becomes_another_without_leave() {
    let world = World::new().await;
    world.grant("jane", json!([rule(&["impersonate"], "", &["users"])])).await;
    let jane = User::new("jane", &[]);
    let whoami = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let (code, who) = world.send(&jane, Method::POST, whoami, &[("impersonate-user", "bob")], &json!({})).await;
    assert_eq!((code, &who["status"]["userInfo"]["username"]), (201, &json!("bob")), "{who}");
    let masters = [("impersonate-user", "bob"), ("impersonate-group", "system:masters")];
    World::check(
        world.send(&jane, Method::POST, whoami, &masters, &json!({})).await,
        403,
        r#"User "jane" cannot impersonate resource "groups" in API group "" at the cluster scope"#,
    );
    // Rights are those of whom one has become.
    let as_bob = [("impersonate-user", "bob")];
    World::check(world.send(&jane, Method::GET, "/api/v1/pods", &as_bob, &json!({})).await, 403, r#"User "bob""#);
}

#[tokio::test]
async fn reviews_answer_what_the_authorizer_would() {
    let world = World::new().await;
    world.grant("jane", manager()).await;
    let (jane, admin) = (User::new("jane", &[]), User::new("admin", &[MASTERS]));
    let root = "/apis/authorization.k8s.io/v1";
    let may = async |verb: &str| {
        let ask =
            json!({"spec": {"resourceAttributes": {"verb": verb, "resource": "pods", "namespace": "kube-public"}}});
        world.send(&jane, Method::POST, &format!("{root}/selfsubjectaccessreviews"), &[], &ask).await
    };
    let (code, answer) = may("list").await;
    let reason = r#"RBAC: allowed by ClusterRoleBinding "jane" of ClusterRole "jane" to User "jane""#;
    assert_eq!((code, &answer["status"]), (201, &json!({"allowed": true, "reason": reason})), "{answer}");
    assert_eq!(may("delete").await.1["status"], json!({"allowed": false}));
    let ask = json!({"spec": {"user": "jane", "nonResourceAttributes": {"verb": "get", "path": "/metrics"}}});
    let reviews = format!("{root}/subjectaccessreviews");
    World::check(world.send(&jane, Method::POST, &reviews, &[], &ask).await, 403, "cannot create resource");
    assert_eq!(world.send(&admin, Method::POST, &reviews, &[], &ask).await.1["status"], json!({"allowed": false}));
    World::check(
        world.send(&admin, Method::POST, &reviews, &[], &json!({"spec": {}})).await,
        422,
        "[spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified, spec.user: Invalid value: \"\": at least one of user or group must be specified]",
    );
    let local = format!("{root}/namespaces/kube-public/localsubjectaccessreviews");
    let ask = json!({"spec": {"user": "jane", "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "kube-system"}}});
    World::check(world.send(&admin, Method::POST, &local, &[], &ask).await, 422, "must match metadata.namespace");
    let rules = format!("{root}/selfsubjectrulesreviews");
    let (code, answer) =
        world.send(&jane, Method::POST, &rules, &[], &json!({"spec": {"namespace": "kube-public"}})).await;
    let resources = answer["status"]["resourceRules"].as_array().expect("rules");
    assert_eq!(code, 201);
    assert!(resources.contains(&rule(&["get", "list"], "", &["pods"])), "{answer}");
    assert_eq!(answer["status"]["incomplete"], false);
    World::check(world.send(&jane, Method::GET, &rules, &[], &json!({})).await, 403, "");
    World::check(world.send(&admin, Method::GET, &rules, &[], &json!({})).await, 405, "");
}
