//! More requests than the server can carry: who waits, who is refused, and who goes on as ever.

mod support;

use std::sync::Arc;

use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::json;
use support::{Api, CONFIG_MAPS, DEADLINE, config_map, empty};
use tower::ServiceExt;
use wharf_auth::{MASTERS, NODES, User};

/// More than all seats and all places in one flow's queues.
const FLOOD: usize = 1000;

async fn get(api: &Api, user: &User) -> u16 {
    let request = Request::builder().method(Method::GET).uri(CONFIG_MAPS).body(empty()).expect("a request");
    let answered = api.server.service_for(user.clone()).oneshot(request);
    tokio::time::timeout(DEADLINE, answered).await.expect("an answer in time").expect("an answer").status().as_u16()
}

#[tokio::test]
async fn a_flood_of_one_user_leaves_the_system_alone() {
    let api = Arc::new(Api::with_namespace().await);
    let mut held = tokio::task::JoinSet::new();
    for _ in 0..FLOOD {
        let api = api.clone();
        held.spawn(async move {
            // A body that never comes.
            let never = futures::stream::pending::<Result<http_body::Frame<bytes::Bytes>, _>>();
            let body = http_body_util::StreamBody::new(never).boxed_unsync();
            api.send(Request::post(CONFIG_MAPS).body(body).expect("a request")).await.status().as_u16()
        });
    }
    // Some hold seats, some wait in their queues, and the rest is refused.
    let first = tokio::time::timeout(DEADLINE, held.join_next()).await.expect("a refusal in time");
    assert_eq!(first.expect("a request").expect("an answer"), 429);
    let refused = api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await;
    assert_eq!(refused.headers["retry-after"], "1");
    refused.refused(429, "TooManyRequests", "Too many requests, please try again later.");
    for user in [
        User::new("system:node:n1", &[NODES]),
        User::new("system:kube-scheduler", &[]),
        User::new("system:kube-controller-manager", &[]),
        User::new("system:serviceaccount:team:bot", &["system:serviceaccounts", "system:serviceaccounts:team"]),
        User::new("admin", &[MASTERS]),
    ] {
        assert_eq!(get(&api, &user).await, 200, "{}", user.name);
    }
    // Whoever goes away leaves a seat, or a place in a queue.
    held.shutdown().await;
    api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.expect(201);
}

#[tokio::test]
async fn metrics_tell_of_seats_and_refusals() {
    let api = Api::with_namespace().await;
    api.get(CONFIG_MAPS).await.expect(200);
    let text = String::from_utf8(api.get("/metrics").await.bytes.to_vec()).expect("text");
    for line in [
        "apiserver_flowcontrol_nominal_limit_seats{priority_level=\"global-default\"} 49",
        "apiserver_flowcontrol_current_inqueue_requests{priority_level=\"system\"} 0",
    ] {
        assert!(text.lines().any(|held| held == line), "{line} is not in\n{text}");
    }
    let dispatched = "apiserver_flowcontrol_dispatched_requests_total{priority_level=\"global-default\",flow_schema=\"global-default\"}";
    assert!(text.lines().any(|held| held.starts_with(dispatched)), "{text}");
}
