//! Flow schemas and priority levels as they are stored: what they say holds, and what every cluster has is kept.

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, Request};
use serde_json::{Value, json};
use support::{Api, DEADLINE, empty};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use wharf_apiserver::bootstrap::{self, Location};
use wharf_auth::User;

const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
const LEVELS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";
const MARK: &str = "apf.kubernetes.io/autoupdate-spec";

struct Cluster {
    api: Api,
    cancel: CancellationToken,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// A server whose first objects are kept.
async fn cluster() -> Cluster {
    let (api, cancel) = (Api::new().await, CancellationToken::new());
    let listener = SocketAddr::from(([127, 0, 0, 1], 6443));
    let services = "127.96.0.0/16".parse().expect("a range");
    let at = Location { service_ip: [127, 96, 0, 1].into(), services, listener };
    bootstrap::ensure(&api.server, at).await.expect("bootstrap");
    tokio::spawn(bootstrap::keep(api.server.clone(), at, cancel.clone()));
    Cluster { api, cancel }
}

impl Cluster {
    /// The object, once it is as wanted.
    async fn becomes(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let wait = async {
            loop {
                let answer = self.api.get(path).await;
                if answer.code == 200 && wanted(&answer.json) {
                    return answer.json;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("{path} becomes as wanted"))
    }

    /// The UIDs of the schema and the level that a request of the user was sorted into, and its code.
    async fn sorted(&self, user: &str) -> (String, String, u16) {
        let request = Request::builder().method(Method::GET).uri("/version").body(empty()).expect("a request");
        let answer = self.api.server.service_for(User::new(user, &[])).oneshot(request);
        let answer = tokio::time::timeout(DEADLINE, answer).await.expect("an answer in time").expect("an answer");
        let header = |name: &str| {
            answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        (
            header("x-kubernetes-pf-flowschema-uid"),
            header("x-kubernetes-pf-prioritylevel-uid"),
            answer.status().as_u16(),
        )
    }
}

fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().expect("a UID")
}

fn schema(level: &str, user: &str) -> Value {
    json!({"metadata": {"name": "testing"}, "spec": {
        "matchingPrecedence": 1000, "priorityLevelConfiguration": {"name": level}, "distinguisherMethod": {"type": "ByUser"},
        "rules": [{"subjects": [{"kind": "User", "user": {"name": user}}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}})
}

fn dangling(schema: &Value) -> (&Value, &Value) {
    let condition = &schema["status"]["conditions"][0];
    assert_eq!(condition["type"], "Dangling", "{schema}");
    (&condition["status"], &condition["reason"])
}

#[tokio::test]
async fn requests_are_sorted_by_what_is_stored_at_once() {
    let cluster = cluster().await;
    let made = cluster.api.post(SCHEMAS, &schema("testing", "noxu")).await.expect(201);
    let told = cluster.becomes(&format!("{SCHEMAS}/testing"), |it| it["status"]["conditions"].is_array()).await;
    assert_eq!(dangling(&told), (&json!("True"), &json!("NotFound")));
    let level = json!({"metadata": {"name": "testing"}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}}}});
    let level = cluster.api.post(LEVELS, &level).await.expect(201);
    assert_eq!(cluster.sorted("noxu").await, (uid(&made).to_owned(), uid(&level).to_owned(), 200));
    let (schema, level, code) = cluster.sorted("foo").await;
    assert!(schema != uid(&made) && !schema.is_empty() && !level.is_empty() && code == 200);
    let found = |it: &Value| it["status"]["conditions"][0]["status"] == "False";
    let told = cluster.becomes(&format!("{SCHEMAS}/testing"), found).await;
    assert_eq!(dangling(&told), (&json!("False"), &json!("Found")));
}

#[tokio::test]
async fn a_changed_level_acts_at_once() {
    let cluster = cluster().await;
    let seats = async |shares: u32| {
        let patch = json!({"spec": {"limited": {"nominalConcurrencyShares": shares}}});
        let annotated = json!({"metadata": {"annotations": {MARK: "false"}}});
        cluster.api.patch(&format!("{LEVELS}/global-default"), "merge", &annotated).await.expect(200);
        cluster.api.patch(&format!("{LEVELS}/global-default"), "merge", &patch).await.expect(200);
        cluster.sorted("foo").await;
        let text = String::from_utf8(cluster.api.get("/metrics").await.bytes.to_vec()).expect("text");
        let of = "apiserver_flowcontrol_nominal_limit_seats{priority_level=\"global-default\"} ";
        let line = text.lines().find_map(|line| line.strip_prefix(of)).expect("the level's seats");
        line.parse::<u32>().expect("a number")
    };
    let (few, many) = (seats(20).await, seats(200).await);
    assert!(many > 3 * few, "{few} {many}");
}

#[tokio::test]
async fn what_is_mandatory_stays_as_it_is() {
    let cluster = cluster().await;
    for path in [format!("{LEVELS}/catch-all"), format!("{SCHEMAS}/exempt")] {
        let held = cluster.api.get(&path).await.expect(200);
        cluster.api.delete(&path).await.expect(200);
        let back = cluster.becomes(&path, |it| uid(it) != uid(&held)).await;
        assert_eq!((&back["spec"], &back["metadata"]["annotations"][MARK]), (&held["spec"], &json!("true")));
        let managers = back["metadata"]["managedFields"].as_array().expect("managed fields");
        let producer = "api-priority-and-fairness-config-producer-v1";
        assert!(managers.iter().any(|entry| entry["manager"] == producer), "{managers:?}");
        let patch = json!({"metadata": {"annotations": {MARK: "false"}}});
        cluster.api.patch(&path, "merge", &patch).await.expect(200);
        cluster.becomes(&path, |it| it["metadata"]["annotations"][MARK] == "true").await;
    }
    let patch = json!({"spec": {"limited": {"nominalConcurrencyShares": 50}}});
    let refused = cluster.api.patch(&format!("{LEVELS}/catch-all"), "merge", &patch).await;
    refused.refused(422, "Invalid", "spec of 'catch-all' must equal the fixed value");
}

#[tokio::test]
async fn what_is_suggested_is_its_owners_once_they_say_so() {
    let cluster = cluster().await;
    let path = format!("{LEVELS}/workload-low");
    let shares = |it: &Value| it["spec"]["limited"]["nominalConcurrencyShares"].clone();
    let change = json!({"spec": {"limited": {"nominalConcurrencyShares": 7}}});
    cluster.api.patch(&path, "merge", &change).await.expect(200);
    cluster.becomes(&path, |it| shares(it) == 100).await;
    let mut owned = change.clone();
    owned["metadata"] = json!({"annotations": {MARK: "false"}});
    cluster.api.patch(&path, "merge", &owned).await.expect(200);
    // Something else is put right meanwhile, so this has been looked at.
    cluster.api.delete(&format!("{SCHEMAS}/probes")).await.expect(200);
    cluster.becomes(&format!("{SCHEMAS}/probes"), |_| true).await;
    assert_eq!(shares(&cluster.api.get(&path).await.expect(200)), 7);
}
