//! What every request passes: identity, authorization, routing, limits.

mod support;

use http::{Method, Request};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api as KubeApi, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;
use support::{Api, CONFIG_MAPS, config_map};
use wharf_auth::User;

#[tokio::test]
async fn strangers_are_refused() {
    let api = Api::with_namespace().await;
    let empty = http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync();
    let unknown = api.server.handle(Request::get(CONFIG_MAPS).body(empty).unwrap()).await;
    assert_eq!(unknown.status(), 401);
    let stranger = kube::Client::new(api.server.service_for(User::new("stranger", &[])), "default");
    let refused = |result: kube::Result<ConfigMap>| match result {
        Err(kube::Error::Api(status)) => status.message,
        other => panic!("{other:?}"),
    };
    let maps: KubeApi<ConfigMap> = KubeApi::default_namespaced(stranger.clone());
    assert_eq!(
        refused(maps.get("a").await),
        "configmaps \"a\" is forbidden: User \"stranger\" cannot get resource \"configmaps\" in API group \"\" in the namespace \"default\""
    );
    let path = stranger.request_text(Request::get("/metrics").body(Vec::new()).unwrap()).await;
    let Err(kube::Error::Api(status)) = path else { panic!("a stranger reads metrics") };
    assert_eq!(status.message, "forbidden: User \"stranger\" cannot get path \"/metrics\"");
}

#[tokio::test]
async fn an_ordinary_kube_client_works_in_process() {
    let api = Api::with_namespace().await;
    let client = kube::Client::new(api.server.service_for(User::new("someone", &[])), "default");
    let maps: KubeApi<ConfigMap> = KubeApi::default_namespaced(client);
    let map =
        ConfigMap { metadata: ObjectMeta { name: Some("a".into()), ..ObjectMeta::default() }, ..ConfigMap::default() };
    maps.create(&PostParams::default(), &map).await.unwrap();
    let patch = Patch::Merge(json!({"data": {"k": "v"}}));
    maps.patch("a", &PatchParams::default(), &patch).await.unwrap();
    let list = maps.list(&ListParams::default()).await.unwrap();
    assert_eq!(list.items[0].data.as_ref().unwrap()["k"], "v");
    assert!(maps.delete("a", &DeleteParams::default()).await.unwrap().is_right());
    assert!(maps.get_opt("a").await.unwrap().is_none());
}

#[tokio::test]
async fn paths_and_methods_that_are_not_served_are_refused() {
    let api = Api::with_namespace().await;
    for path in ["/api/v1/things", "/apis/nobody/v1/things", "/nonsense", "/api/v1/namespaces/default/pods/a/exec/more"]
    {
        api.get(path).await.refused(404, "NotFound", "the server could not find the requested resource");
    }
    for method in [Method::HEAD, Method::OPTIONS, Method::TRACE] {
        assert_eq!(api.request(method, CONFIG_MAPS, &[], "").await.code, 405);
    }
    let message = "the server does not allow this method on the requested resource";
    api.post("/api/v1/configmaps", &config_map("a", &json!({}))).await.refused(405, "MethodNotAllowed", message);
}

#[tokio::test]
async fn parameters_of_the_request_are_held_to_limits() {
    let api = Api::with_namespace().await;
    let bad = api.get(&format!("{CONFIG_MAPS}?timeout=5")).await;
    bad.refused(400, "BadRequest", "invalid timeout specified in the request URL");
    api.get(&format!("{CONFIG_MAPS}?timeout=5s")).await.expect(200);
    assert_eq!(api.get(&format!("{CONFIG_MAPS}?x={}", "y".repeat(65000))).await.code, 414);
    let named = api.request(Method::GET, CONFIG_MAPS, &[("audit-id", "my-id")], "").await;
    assert_eq!(named.headers["audit-id"], "my-id");
}

#[tokio::test]
async fn a_slow_body_is_given_up() {
    let api = Api::with_namespace().await;
    let never =
        http_body_util::StreamBody::new(futures::stream::pending::<Result<http_body::Frame<bytes::Bytes>, _>>());
    let request = Request::post(format!("{CONFIG_MAPS}?timeout=50ms")).body(never.boxed_unsync()).unwrap();
    let response = api.send(request).await;
    assert_eq!(response.status(), 504);
}
