//! Discovery as clients read it.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use kube::Client;
use kube::discovery::{Discovery, Scope, verbs};
use serde_json::Value;
use tower::ServiceExt;
use wharf_apiserver::{ApiServer, Body, route};
use wharf_auth::User;

mod support;

fn admin() -> User {
    User::new("system:admin", &["system:masters"])
}

async fn send(server: &Arc<ApiServer>, request: http::request::Builder) -> Response<Body> {
    let request: Request<Full<Bytes>> = request.body(Full::default()).expect("request");
    server.service_for(admin()).oneshot(request).await.expect("a reply")
}

async fn document(server: &Arc<ApiServer>, path: &str) -> Value {
    let response = send(server, Request::get(path)).await;
    assert_eq!(response.status(), StatusCode::OK, "{path}");
    serde_json::from_slice(&response.into_body().collect().await.expect("body").to_bytes()).expect("JSON")
}

/// Both ways of discovery find the resource, with its scope and what can be done to it.
fn check(discovery: &Discovery, group: &str, kind: &str, scope: Scope, subresource: Option<&str>) {
    let group = discovery.groups().find(|held| held.name() == group).expect("group");
    let (resource, capabilities) = group.recommended_kind(kind).expect("kind");
    assert_eq!(capabilities.scope, scope, "{kind}");
    assert!(capabilities.supports_operation(verbs::WATCH) && capabilities.supports_operation(verbs::DELETE), "{kind}");
    if let Some(name) = subresource {
        let found = capabilities.subresources.iter().any(|(held, _)| held.plural.ends_with(name));
        assert!(found, "{}/{name}: {:?}", resource.plural, capabilities.subresources);
    }
}

#[tokio::test]
async fn kube_rs_reads_the_legacy_and_the_aggregated_documents() {
    let server = support::server().await;
    let client = Client::new(server.service_for(admin()), "default");
    for discovery in [
        Discovery::new(client.clone()).run().await.expect("legacy"),
        Discovery::new(client.clone()).run_aggregated().await.expect("aggregated"),
    ] {
        check(&discovery, "", "Pod", Scope::Namespaced, Some("log"));
        check(&discovery, "", "Node", Scope::Cluster, Some("status"));
        check(&discovery, "apps", "Deployment", Scope::Namespaced, Some("scale"));
        check(&discovery, "coordination.k8s.io", "Lease", Scope::Namespaced, None);
    }
    let version = client.apiserver_version().await.expect("version");
    assert_eq!(version.minor, "36");
}

#[tokio::test]
async fn every_row_is_found_under_its_group_version() {
    let server = support::server().await;
    for row in server.table.all() {
        let root = if row.gvr.group.is_empty() { "/api" } else { "/apis" };
        let list = document(&server, &format!("{root}/{}", row.gvr.group_version())).await;
        let names: Vec<&str> =
            list["resources"].as_array().expect("list").iter().filter_map(|entry| entry["name"].as_str()).collect();
        assert!(names.contains(&row.gvr.resource.as_ref()), "{}", row.gvr.resource);
        for subresource in &row.subresources {
            let name = format!("{}/{}", row.gvr.resource, subresource.name());
            let served = !route::verbs(&row, Some(*subresource)).is_empty();
            assert_eq!(names.contains(&name.as_str()), served, "{name}");
        }
    }
}

#[tokio::test]
async fn a_client_that_has_a_document_is_told_so() {
    let server = support::server().await;
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let first = send(&server, Request::get("/apis").header(header::ACCEPT, accept)).await;
    assert_eq!(first.headers()[header::CONTENT_TYPE], accept);
    let etag = first.headers()[header::ETAG].clone();
    let again = Request::get("/apis").header(header::ACCEPT, accept).header(header::IF_NONE_MATCH, etag.clone());
    let again = send(&server, again).await;
    assert_eq!((again.status(), &again.headers()[header::ETAG]), (StatusCode::NOT_MODIFIED, &etag));
    let other = Request::get("/apis").header(header::ACCEPT, accept).header(header::IF_NONE_MATCH, "\"stale\"");
    assert_eq!(send(&server, other).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn every_path_of_the_index_is_served() {
    let server = support::server().await;
    let index = document(&server, "/").await;
    let paths: Vec<&str> = index["paths"].as_array().expect("paths").iter().filter_map(Value::as_str).collect();
    assert!(paths.is_sorted() && paths.contains(&"/apis/apps/v1"), "{paths:?}");
    for path in paths {
        assert_eq!(send(&server, Request::get(path)).await.status(), StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_found_and_what_cannot_be_written_is_refused() {
    let server = support::server().await;
    for path in ["/apis/nobody.example", "/apis/apps/v9", "/api/v2", "/healthz/nothing", "/nowhere", "/version/x"] {
        assert_eq!(send(&server, Request::get(path)).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
    for path in ["/version", "/healthz", "/apis"] {
        let posted = send(&server, Request::builder().method(Method::POST).uri(path)).await;
        assert_eq!(posted.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
}

#[tokio::test]
async fn openapi_is_told_by_hash_and_compressed() {
    let server = support::server().await;
    let index = document(&server, "/openapi/v3").await;
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().expect("url").to_owned();
    let apps = document(&server, &url).await;
    assert!(apps["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"]["properties"]["spec"].is_object());
    assert!(apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"]["get"].is_object());

    let packed = send(&server, Request::get(&url).header(header::ACCEPT_ENCODING, "gzip")).await;
    assert_eq!(packed.headers()[header::CONTENT_ENCODING], "gzip");
    let etag = packed.headers()[header::ETAG].clone();
    let again = send(&server, Request::get(&url).header(header::IF_NONE_MATCH, etag)).await;
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);

    let moved = send(&server, Request::get("/openapi/v3/apis/apps/v1?hash=OLD")).await;
    assert_eq!(
        (moved.status(), &moved.headers()[header::LOCATION]),
        (StatusCode::MOVED_PERMANENTLY, &url.parse().expect("header"))
    );
    let protobuf = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    // client-go asks with an `@`, and reads nothing else.
    let asked = protobuf.replace("v2.v1", "v2@v1");
    let packed = send(&server, Request::get("/openapi/v2").header(header::ACCEPT, asked)).await;
    assert_eq!(
        (packed.status(), &packed.headers()[header::CONTENT_TYPE]),
        (StatusCode::OK, &protobuf.parse().expect("header"))
    );
    let refused = send(&server, Request::get("/openapi/v3").header(header::ACCEPT, protobuf)).await;
    assert_eq!(refused.status(), StatusCode::NOT_ACCEPTABLE);
    let two = document(&server, "/openapi/v2").await;
    assert!(two["definitions"]["io.k8s.api.core.v1.Pod"].is_object());
}
