//! Servers that are asked about tokens and rights: real ones, that are slow, dead, strange, or somebody else.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use wharf_auth::authorization::config::Configuration;
use wharf_auth::authorization::{BuiltIn, Configured};
use wharf_auth::token::CachedTokens;
use wharf_auth::webhook::{Client, WebhookTokens};
use wharf_auth::{Attributes, Authorizer, Decision, Follow, NodeAuthorizer, Rbac, Requirement, Tokens, User};

mod support;

use support::{Hands, Reply, Seen, Server, ok};

/// Far longer than anything here takes, and no wait between attempts.
const TIMEOUT: Duration = Duration::from_secs(60);
const NO_PAUSE: Duration = Duration::ZERO;

fn sent(seen: &Seen) -> Value {
    serde_json::from_str(&seen.body).expect("a review")
}

/// Who `good` is, and nothing of other tokens; some tokens make it misbehave.
fn knows_good(seen: &Seen) -> Reply {
    let review = sent(seen);
    match review["spec"]["token"].as_str().unwrap_or_default() {
        "good" => ok(json!({"status": {"authenticated": true, "user": {
            "username": "jane", "uid": "7", "groups": ["dev"], "extra": {"example.org/a": ["b"]}}}})),
        "vault" => ok(json!({"status": {"authenticated": true, "audiences": ["vault"], "user": {"username": "jane"}}})),
        "wrong" => ok(json!({"status": {"authenticated": false, "error": "not that one"}})),
        "garbage" => ok("<html>"),
        "crash" => Reply::Crash,
        "silence" => Reply::Silence,
        "gone" => Reply::Code(404, String::new()),
        "broken" => Reply::Code(500, "oops".to_owned()),
        _ => ok(json!({"status": {"authenticated": false}})),
    }
}

async fn tokens(server: &Server, version: &str, timeout: Duration) -> WebhookTokens {
    let client = Client::open(&server.kubeconfig("/authenticate"), timeout, NO_PAUSE).await.expect("a client");
    WebhookTokens::new(client, version, vec!["api".to_owned()])
}

/// `expected` is the user, `none`, or what the refusal contains.
async fn check(tokens: &dyn Tokens, token: &str, audiences: &[&str], expected: &str) {
    let audiences: Vec<String> = audiences.iter().map(|audience| (*audience).to_owned()).collect();
    let got = match tokens.authenticate_token(token, &audiences).await {
        Ok(Some(known)) => {
            let user = known.user;
            format!(
                "{} {} {} {:?} {}",
                user.name,
                user.uid,
                user.groups.join(","),
                user.extra,
                known.audiences.join(",")
            )
        }
        Ok(None) => "none".to_owned(),
        Err(error) => error.0,
    };
    assert!(got.contains(expected), "{got:?} does not contain {expected:?}");
}

#[tokio::test]
async fn a_server_tells_whose_a_token_is() {
    let server = Server::new(knows_good).await;
    let asked = tokens(&server, "v1", TIMEOUT).await;
    check(&asked, "good", &[], "jane 7 dev,system:authenticated {\"example.org/a\": [\"b\"]} api").await;
    let seen = server.seen.lock()[0].clone();
    assert_eq!(seen.path, "/authenticate", "exactly the path of the kubeconfig");
    assert_eq!(seen.headers["authorization"], "Bearer secret");
    let review = sent(&seen);
    assert_eq!((&review["apiVersion"], &review["kind"]), (&json!("authentication.k8s.io/v1"), &json!("TokenReview")));
    assert_eq!(review["spec"], json!({"token": "good", "audiences": ["api"]}));
    check(&asked, "other", &[], "none").await;
    check(&asked, "wrong", &[], "not that one").await;
    // What says nothing of audiences is for the API server.
    check(&asked, "good", &["vault"], "none").await;
    check(&asked, "vault", &["vault", "x"], "jane  system:authenticated {} vault").await;
    check(&asked, "vault", &[], "none").await;
    check(&tokens(&server, "v1beta1", TIMEOUT).await, "good", &[], "jane 7").await;
    assert_eq!(sent(server.seen.lock().last().expect("a request"))["apiVersion"], "authentication.k8s.io/v1beta1");
}

#[tokio::test]
async fn what_goes_wrong_lets_nobody_in() {
    let server = Server::new(knows_good).await;
    let asked = tokens(&server, "v1", TIMEOUT).await;
    check(&asked, "garbage", &[], "json parse error").await;
    check(&asked, "crash", &[], "Post \"https://127.0.0.1:").await;
    let before = server.seen.lock().len();
    check(&asked, "gone", &[], "the server could not find the requested resource").await;
    assert_eq!(server.seen.lock().len(), before + 1, "another attempt would not help");
    check(&asked, "broken", &[], "an error on the server (\"oops\") has prevented the request from succeeding").await;
    assert_eq!(server.seen.lock().len(), before + 1 + 5, "it was asked again");
    let hasty = tokens(&server, "v1", Duration::from_millis(300)).await;
    check(&hasty, "silence", &[], "context deadline exceeded").await;

    let stranger = Server::new(knows_good).await;
    let kubeconfig = server.kubeconfig("/authenticate");
    let text = std::fs::read_to_string(&kubeconfig).expect("read").replace(&server.url, &stranger.url);
    std::fs::write(&kubeconfig, text).expect("write");
    let client = Client::open(&kubeconfig, TIMEOUT, NO_PAUSE).await.expect("a client");
    let asked = WebhookTokens::new(client, "v1", vec!["api".to_owned()]);
    check(&asked, "good", &[], "certificate signed by unknown authority").await;
    assert_eq!(stranger.seen.lock().len(), 0);
}

#[tokio::test]
async fn answers_are_kept_for_their_time_and_failures_are_not() {
    let server = Server::new(knows_good).await;
    let (inner, hands) = (Arc::new(tokens(&server, "v1", TIMEOUT).await), Hands::default());
    let cached = CachedTokens::new(inner, (Duration::from_secs(120), Duration::from_secs(120)), hands.clock());
    for (wait, token, asked) in [
        (0, "good", 1),
        (119, "good", 1),
        (1, "good", 2),
        (0, "other", 3),
        (0, "other", 3),
        (0, "gone", 4),
        (0, "gone", 5),
    ] {
        hands.forward(wait);
        let _ = cached.authenticate_token(token, &[]).await;
        assert_eq!(server.seen.lock().len(), asked, "{token}");
    }
}

/// Judges by the user's name.
fn judges(seen: &Seen) -> Reply {
    match sent(seen)["spec"]["user"].as_str().unwrap_or_default() {
        "jane" => ok(json!({"status": {"allowed": true, "reason": "she may"}})),
        "eve" => ok(json!({"status": {"allowed": false, "denied": true, "reason": "never"}})),
        "both" => ok(json!({"status": {"allowed": true, "denied": true}})),
        "gone" => Reply::Code(403, String::new()),
        _ => ok(json!({"status": {"allowed": false, "reason": "who knows"}})),
    }
}

async fn authorizers(kubeconfig: &Path, hands: &Hands, more: Value, after: &[&str]) -> Configured {
    let mut hook = json!({
        "timeout": "30s", "subjectAccessReviewVersion": "v1", "failurePolicy": "NoOpinion",
        "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": kubeconfig},
    });
    for (name, value) in more.as_object().cloned().unwrap_or_default() {
        hook[name] = value;
    }
    let mut all = vec![json!({"type": "Webhook", "name": "hook", "webhook": hook})];
    all.extend(after.iter().map(|kind| json!({"type": kind, "name": kind.to_lowercase()})));
    let text =
        json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration", "authorizers": all});
    let configuration = Configuration::parse(&text.to_string()).expect("a configuration");
    let (node, rbac) = (Arc::new(NodeAuthorizer::default()), Arc::new(Rbac::default()));
    let built_in = BuiltIn { node, rbac, abac: None, clock: hands.clock() };
    Configured::open(built_in, &configuration).await.expect("authorizers")
}

fn pods() -> Attributes {
    Attributes {
        verb: "list".to_owned(),
        resource_request: true,
        version: "v1".to_owned(),
        resource: "pods".to_owned(),
        namespace: "a".to_owned(),
        label_selector: vec![Requirement {
            key: "app".to_owned(),
            operator: "In".to_owned(),
            values: vec!["web".to_owned()],
        }],
        ..Attributes::default()
    }
}

async fn decides(authorizers: &Configured, user: &str, asked: &Attributes) -> String {
    match authorizers.authorize(&User::new(user, &[]), asked).await {
        Decision::Allow(why) => format!("allow {why}"),
        Decision::Deny(why) => format!("deny {why}"),
        Decision::NoOpinion(why) => format!("none {why}"),
        Decision::Failed { denied, why } => format!("failed {denied} {why}"),
    }
}

#[tokio::test]
async fn a_server_tells_who_may_do_what() {
    let server = Server::new(judges).await;
    let (file, hands) = (server.kubeconfig("/authorize"), Hands::default());
    let all = authorizers(&file, &hands, json!({}), &["RBAC"]).await;
    assert_eq!(decides(&all, "jane", &pods()).await, "allow she may");
    let review = sent(&server.seen.lock()[0]);
    assert_eq!(review["apiVersion"], "authorization.k8s.io/v1");
    let spec = json!({"user": "jane", "groups": ["system:authenticated"], "resourceAttributes": {
        "verb": "list", "version": "v1", "resource": "pods", "namespace": "a",
        "labelSelector": {"requirements": [{"key": "app", "operator": "In", "values": ["web"]}]}}});
    assert_eq!(review["spec"], spec);
    assert_eq!(decides(&all, "eve", &pods()).await, "deny never");
    assert_eq!(decides(&all, "bob", &pods()).await, "none who knows");
    let path = Attributes { verb: "get".to_owned(), path: "/metrics".to_owned(), ..Attributes::default() };
    assert_eq!(decides(&all, "jane", &path).await, "allow she may");
    let spec = sent(server.seen.lock().last().expect("a request"))["spec"].clone();
    assert_eq!(spec["nonResourceAttributes"], json!({"path": "/metrics", "verb": "get"}));
    // Nobody is asked about masters.
    let before = server.seen.lock().len();
    let master = all.authorize(&User::new("root", &["system:masters"]), &pods()).await;
    assert_eq!((master, server.seen.lock().len()), (Decision::Allow(String::new()), before));
    assert!(all.lists_rules().is_err());
}

#[tokio::test]
async fn verdicts_are_kept_each_for_its_time() {
    let server = Server::new(judges).await;
    let (file, hands) = (server.kubeconfig("/"), Hands::default());
    let all = authorizers(&file, &hands, json!({"authorizedTTL": "1m"}), &[]).await;
    let long = Attributes { name: "x".repeat(10_000), ..pods() };
    for (wait, user, asked, count) in [
        (0, "jane", pods(), 1),
        (59, "jane", pods(), 1),
        (1, "jane", pods(), 2),
        (0, "bob", pods(), 3),
        (29, "bob", pods(), 3),
        (1, "bob", pods(), 4),
        (0, "jane", Attributes { verb: "get".to_owned(), ..pods() }, 5),
        (0, "jane", long.clone(), 6),
        (0, "jane", long, 7),
    ] {
        hands.forward(wait);
        decides(&all, user, &asked).await;
        assert_eq!(server.seen.lock().len(), count, "{user} after {wait}");
    }
    let kept = authorizers(&file, &hands, json!({"cacheAuthorizedRequests": false}), &[]).await;
    decides(&kept, "jane", &pods()).await;
    decides(&kept, "jane", &pods()).await;
    assert_eq!(server.seen.lock().len(), 9);
}

#[tokio::test]
async fn a_server_that_fails_is_passed_over_or_refuses() {
    let server = Server::new(judges).await;
    let (file, hands) = (server.kubeconfig("/"), Hands::default());
    let open = authorizers(&file, &hands, json!({}), &["AlwaysAllow"]).await;
    assert_eq!(decides(&open, "gone", &pods()).await, "allow ");
    let deny = json!({"failurePolicy": "Deny"});
    let closed = authorizers(&file, &hands, deny.clone(), &["AlwaysAllow"]).await;
    assert_eq!(decides(&closed, "gone", &pods()).await, "failed true unknown");
    let alone = authorizers(&file, &hands, json!({}), &["RBAC"]).await;
    assert_eq!(decides(&alone, "gone", &pods()).await, "failed false unknown");
    let both = "failed true webhook subject access review returned both allow and deny response";
    assert_eq!(decides(&open, "both", &pods()).await, both);

    let conditions = |expression: &str| {
        let mut hook = deny.clone();
        hook["matchConditionSubjectAccessReviewVersion"] = json!("v1");
        hook["matchConditions"] = json!([{"expression": expression}]);
        hook
    };
    let before = server.seen.lock().len();
    let skipped = authorizers(&file, &hands, conditions("request.user != 'eve'"), &["AlwaysAllow"]).await;
    assert_eq!(decides(&skipped, "eve", &pods()).await, "allow ");
    let errs = authorizers(&file, &hands, conditions("request.extra['a'] == ['b']"), &["AlwaysAllow"]).await;
    let got = decides(&errs, "jane", &pods()).await;
    assert!(got.starts_with("failed true cel evaluation error: expression "), "{got}");
    assert_eq!(server.seen.lock().len(), before, "nobody was asked");
}

#[tokio::test]
async fn the_order_of_authorizers_follows_the_file() {
    let server = Server::new(judges).await;
    let hands = Hands::default();
    let all = Arc::new(authorizers(&server.kubeconfig("/"), &hands, json!({}), &[]).await);
    let path = server.directory.path().join("authorizers");
    let write = |kind: &str| {
        let text = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration",
            "authorizers": [{"type": kind, "name": "only"}]});
        std::fs::write(&path, text.to_string()).expect("write");
    };
    write("Nonsense");
    let looked = Arc::new(AtomicUsize::new(0));
    let following = tokio::spawn({
        let (all, path) = (all.clone(), path.clone());
        async move { all.follow(path, String::new(), Duration::from_millis(20)).await }
    });
    assert_eq!(decides(&all, "bob", &pods()).await, "none who knows");
    write("AlwaysAllow");
    let changed = async {
        while decides(&all, "bob", &pods()).await != "allow " {
            looked.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), changed).await.expect("the new file counts");
    following.abort();
}
