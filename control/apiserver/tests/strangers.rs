//! Every path and every verb refuses whoever has not said who he is, and whoever may not.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use wharf_apiserver::ApiServer;
use wharf_apiserver::discovery;
use wharf_auth::User;

mod support;

/// What a stranger may GET, as upstream's `system:public-info-viewer`.
const PUBLIC: &[&str] = &["/healthz", "/livez", "/readyz", "/version", "/version/"];
/// What whoever has a certificate may GET (`system:discovery`), beside what is public.
const DISCOVERY: &[&str] = &["/api", "/apis", "/openapi"];

fn methods() -> [Method; 7] {
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS]
}

/// All paths of the resource table, each with all of its forms.
fn resource_paths(server: &ApiServer) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for row in server.table.all() {
        let root = if row.gvr.group.is_empty() { "/api" } else { "/apis" };
        let root = format!("{root}/{}", row.gvr.group_version());
        let collection = format!("{root}/{}", row.gvr.resource);
        let place = if row.namespaced() {
            format!("{root}/namespaces/default/{}", row.gvr.resource)
        } else {
            collection.clone()
        };
        for subresource in &row.subresources {
            paths.insert(format!("{place}/x/{}", subresource.name()));
        }
        paths.insert(format!("{place}/x/proxy/admin"));
        paths.insert(format!("{root}/watch/{}", row.gvr.resource));
        paths.insert(format!("{collection}?watch=true"));
        paths.extend([format!("{place}/x"), place, collection]);
    }
    paths
}

fn other_paths(server: &ApiServer) -> BTreeSet<String> {
    let mut paths: BTreeSet<String> =
        ["/", "/api", "/apis", "/metrics", "/openapi/v2", "/openapi/v3", "/logs", "/debug/pprof/", "/nowhere"]
            .iter()
            .map(|path| (*path).to_owned())
            .collect();
    for group in discovery::groups(&server.table.all()) {
        let root = if group.name.is_empty() { "/api".to_owned() } else { format!("/apis/{}", group.name) };
        paths.extend(group.versions.iter().map(|version| format!("{root}/{}", version.group_version.version)));
        paths.insert(root);
    }
    paths.extend(PUBLIC.iter().map(|path| format!("{}/ping", path.trim_end_matches('/'))));
    paths
}

async fn status(server: &std::sync::Arc<ApiServer>, user: Option<&User>, method: &Method, path: &str) -> StatusCode {
    let body = Full::new(Bytes::from_static(b"{}")).map_err(|never| match never {}).boxed_unsync();
    let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
    let request = request.body(body).expect("request");
    match user {
        None => server.handle(request).await.status(),
        Some(user) => {
            let Ok(response) = tower::ServiceExt::oneshot(server.service_for(user.clone()), request).await;
            response.status()
        }
    }
}

#[tokio::test]
async fn a_stranger_sees_health_and_version_and_nothing_else() {
    let server = support::server().await;
    let tricks = [
        "//api/v1/pods",
        "/API/v1/pods",
        "/healthz/../api/v1/pods",
        "/%61pi/v1/pods",
        "/api%2Fv1/pods",
        "/version/../metrics",
    ];
    let tricks = tricks.into_iter().map(str::to_owned);
    for path in resource_paths(&server).into_iter().chain(other_paths(&server)).chain(tricks) {
        for method in methods() {
            assert_eq!(status(&server, None, &method, &path).await, StatusCode::FORBIDDEN, "{method} {path}");
        }
    }
    for path in PUBLIC {
        for method in methods() {
            let expected = if method == Method::GET { StatusCode::OK } else { StatusCode::FORBIDDEN };
            assert_eq!(status(&server, None, &method, path).await, expected, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn a_stranger_is_told_who_he_is_and_bad_credentials_are_refused() {
    let server = support::server().await;
    let ask = async |token: Option<&str>, path: &str| {
        let mut request = Request::get(path);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let answer = server.handle(request.body(support::empty()).expect("request")).await;
        let bytes = answer.into_body().collect().await.expect("body").to_bytes();
        let status: serde_json::Value = serde_json::from_slice(&bytes).expect("a Status");
        format!("{} {}", status["code"], status["message"].as_str().unwrap_or_default())
    };
    assert_eq!(
        ask(None, "/api/v1/namespaces/default/pods").await,
        r#"403 pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group "" in the namespace "default""#
    );
    assert_eq!(ask(None, "/").await, r#"403 forbidden: User "system:anonymous" cannot get path "/""#);
    assert_eq!(ask(Some("abc"), "/api/v1/pods").await, "401 Unauthorized");
    assert_eq!(ask(Some("abc"), "/healthz").await, "401 Unauthorized");
}

#[tokio::test]
async fn whoever_has_no_rights_learns_what_is_served_and_nothing_else() {
    let server = support::server().await;
    let jane = User::new("jane", &["developers"]);
    for path in resource_paths(&server) {
        for method in methods() {
            // Everyone may ask who they are and what they may do (`system:basic-user`).
            let asks = path.split('/').any(|segment| segment.starts_with("selfsubject"));
            if asks && method == Method::POST {
                continue;
            }
            assert_eq!(status(&server, Some(&jane), &method, &path).await, StatusCode::FORBIDDEN, "{method} {path}");
        }
    }
    for path in other_paths(&server) {
        let told = DISCOVERY.iter().any(|root| path == *root || path.starts_with(&format!("{root}/")));
        let expected = if told { StatusCode::OK } else { StatusCode::FORBIDDEN };
        assert_eq!(status(&server, Some(&jane), &Method::GET, &path).await, expected, "{path}");
        assert_eq!(status(&server, Some(&jane), &Method::POST, &path).await, StatusCode::FORBIDDEN, "{path}");
    }
}

#[tokio::test]
async fn a_refusal_reads_as_upstream_words_it() {
    let server = support::server().await;
    let request = Request::get("/api/v1/namespaces/default/pods/web/log").body(support::empty()).expect("request");
    let jane = server.service_for(User::new("jane", &[]));
    let Ok(response) = tower::ServiceExt::oneshot(jane, request).await;
    let bytes = response.into_body().collect().await.expect("body").to_bytes();
    let status: serde_json::Value = serde_json::from_slice(&bytes).expect("a Status");
    assert_eq!(
        status["message"],
        r#"pods "web" is forbidden: User "jane" cannot get resource "pods/log" in API group "" in the namespace "default""#
    );
    assert_eq!(
        (&status["reason"], &status["details"]["name"], &status["code"]),
        (&"Forbidden".into(), &"web".into(), &403.into())
    );
}
