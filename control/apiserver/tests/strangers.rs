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

fn namespaced(namespaced: bool) -> &'static str {
    if namespaced { "/namespaces/default" } else { "" }
}

/// All paths of the resource table, each with all of its forms.
fn resource_paths(server: &ApiServer) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for row in server.table.all() {
        let root = if row.gvr.group.is_empty() { "/api" } else { "/apis" };
        let root = format!("{root}/{}", row.gvr.group_version());
        let collection = format!("{root}/{}", row.gvr.resource);
        let place = format!("{root}{}/{}", namespaced(row.namespaced()), row.gvr.resource);
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
    let fixed = [
        "/",
        "/.well-known/openid-configuration",
        "/api",
        "/apis",
        "/configz",
        "/debug/pprof/",
        "/debug/pprof/profile",
        "/flagz",
        "/logs",
        "/logs/kube-apiserver.log",
        "/metrics",
        "/metrics/slis",
        "/nowhere",
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/api/v1",
        "/openid/v1/jwks",
        "/statusz",
    ];
    let mut paths: BTreeSet<String> = fixed.iter().map(|path| (*path).to_owned()).collect();
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

/// What the server tells its administrator, as JSON.
async fn told(server: &std::sync::Arc<ApiServer>, path: &str) -> serde_json::Value {
    let request = Request::get(path).body(support::empty()).expect("request");
    let root = server.service_for(User::new("root", &["system:masters"]));
    let Ok(response) = tower::ServiceExt::oneshot(root, request).await;
    assert_eq!(response.status(), StatusCode::OK, "{path}");
    serde_json::from_slice(&response.into_body().collect().await.expect("body").to_bytes()).expect("JSON")
}

fn text(value: &serde_json::Value) -> &str {
    value.as_str().expect("a string")
}

/// Nothing that the server says it serves is left out of the walks below.
#[tokio::test]
async fn the_walks_go_by_every_path_that_discovery_names() {
    let server = support::server().await;
    let (resources, others) = (resource_paths(&server), other_paths(&server));
    let root = told(&server, "/").await;
    let mut versions = Vec::new();
    for path in root["paths"].as_array().expect("paths").iter().map(text) {
        assert!(others.contains(path) || PUBLIC.contains(&path), "{path} is walked");
        let depth = path.matches('/').count();
        let is_version = path.starts_with("/apis/") && depth == 3 || path.starts_with("/api/") && depth == 2;
        versions.extend(is_version.then(|| path.to_owned()));
    }
    assert!(versions.len() > 20, "{versions:?}");
    for version in versions {
        let list = told(&server, &version).await;
        for resource in list["resources"].as_array().expect("resources") {
            let place = format!("{version}{}", namespaced(resource["namespaced"] == true));
            let path = match text(&resource["name"]).split_once('/') {
                Some((collection, part)) => format!("{place}/{collection}/x/{part}"),
                None => format!("{place}/{}", text(&resource["name"])),
            };
            assert!(resources.contains(&path), "{path} is walked");
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
        for method in methods() {
            let expected = if told && method == Method::GET { StatusCode::OK } else { StatusCode::FORBIDDEN };
            assert_eq!(status(&server, Some(&jane), &method, &path).await, expected, "{method} {path}");
        }
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
