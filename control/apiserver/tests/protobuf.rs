//! Protobuf: bodies that are refused, refusals, options of a delete, frames of a watch.

mod support;

use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use support::{Api, CONFIG_MAPS, config_map};
use wharf_machinery::protobuf::{self, MEDIA_TYPE, STREAM_MEDIA_TYPE};
use wharf_types::Gvk;

const HEADERS: [(&str, &str); 2] = [("content-type", MEDIA_TYPE), ("accept", MEDIA_TYPE)];

fn wire(object: &Value) -> Vec<u8> {
    protobuf::encode_object(object.to_string().as_bytes()).expect("an object of a kind that protobuf knows")
}

fn read(bytes: &[u8]) -> Value {
    let nothing = Gvk { group: "".into(), version: "v1".into(), kind: "Nothing".into() };
    protobuf::decode_object(bytes, &nothing).expect("an object in protobuf").into_json()
}

#[tokio::test]
async fn bodies_that_are_no_object_are_refused() {
    let api = Api::with_namespace().await;
    let post =
        async |body: Vec<u8>| api.request(Method::POST, CONFIG_MAPS, &[("content-type", MEDIA_TYPE)], body).await;
    let unrecognized = "the object provided is unrecognized (must be of type ConfigMap)";
    post(b"{}".to_vec()).await.refused(400, "BadRequest", unrecognized);
    post(b"k8s\0\x12\x05a".to_vec()).await.refused(400, "BadRequest", "unexpected EOF");
    let secret = wire(&json!({"apiVersion": "v1", "kind": "Secret"}));
    post(secret).await.refused(400, "BadRequest", "Secret in version \"v1\" cannot be handled as a ConfigMap");
    let made = wire(&config_map("a", &json!({"k": "v"})));
    assert_eq!(post(made).await.expect(201)["data"], json!({"k": "v"}));
}

#[tokio::test]
async fn refusals_and_options_are_protobuf_too() {
    let api = Api::with_namespace().await;
    api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.expect(201);
    let path = format!("{CONFIG_MAPS}/b");
    let refused = api.request(Method::GET, &path, &HEADERS, "").await;
    assert_eq!((refused.code.as_u16(), &refused.headers["content-type"]), (404, &MEDIA_TYPE.parse().unwrap()));
    assert_eq!(read(&refused.bytes)["reason"], "NotFound");
    let path = format!("{CONFIG_MAPS}/a");
    let options = json!({"apiVersion": "apps/v1", "kind": "DeleteOptions", "preconditions": {"uid": "other"}});
    let options = wire(&options);
    assert_eq!(api.request(Method::DELETE, &path, &HEADERS, options).await.code, 409);
    let options = wire(&json!({"apiVersion": "v1", "kind": "DeleteOptions"}));
    let deleted = api.request(Method::DELETE, &path, &HEADERS, options).await;
    assert_eq!(read(&deleted.bytes)["status"], "Success");
}

#[tokio::test]
async fn metadata_alone_is_protobuf_too() {
    let api = Api::with_namespace().await;
    let mut map = config_map("a", &json!({"k": "v"}));
    map["metadata"]["labels"] = json!({"x": "y"});
    api.post(CONFIG_MAPS, &map).await.expect(201);
    let accept = |kind: &str| {
        format!("{MEDIA_TYPE};as={kind};g=meta.k8s.io;v=v1, application/json;as={kind};g=meta.k8s.io;v=v1")
    };
    let list = api.get_as(CONFIG_MAPS, &accept("PartialObjectMetadataList")).await;
    assert_eq!(list.headers["content-type"], MEDIA_TYPE);
    let list = read(&list.bytes);
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("PartialObjectMetadataList"), &json!("meta.k8s.io/v1")));
    assert_eq!(list["items"][0]["metadata"]["labels"], json!({"x": "y"}));
    let older = api.get_as(CONFIG_MAPS, &accept("PartialObjectMetadataList").replace("v=v1", "v=v1beta1")).await;
    let older = read(&older.bytes);
    assert_eq!(older["apiVersion"], "meta.k8s.io/v1beta1");
    assert_eq!(older["items"][0]["metadata"]["labels"], json!({"x": "y"}));
    let one = read(&api.get_as(&format!("{CONFIG_MAPS}/a"), &accept("PartialObjectMetadata")).await.bytes);
    assert_eq!((&one["kind"], &one["data"]), (&json!("PartialObjectMetadata"), &Value::Null));
    let as_table = format!("{MEDIA_TYPE};as=Table;g=meta.k8s.io;v=v1");
    assert_eq!(api.get_as(CONFIG_MAPS, &as_table).await.code, 406);
    let watched = format!("{MEDIA_TYPE};stream=watch;as=PartialObjectMetadata;g=meta.k8s.io;v=v1");
    let request = http::Request::get(format!("{CONFIG_MAPS}?watch=1")).header("accept", watched);
    let response = api.send(request.body(support::empty()).unwrap()).await;
    assert_eq!(response.headers()["content-type"], STREAM_MEDIA_TYPE);
    let frame = response.into_body().frame().await.unwrap().unwrap().into_data().unwrap();
    let at = frame.windows(4).position(|part| part == protobuf::MAGIC).expect("an object");
    let seen = read(&frame[at..]);
    assert_eq!((&seen["kind"], &seen["metadata"]["name"]), (&json!("PartialObjectMetadata"), &json!("a")));
}

#[tokio::test]
async fn a_watch_frames_objects_and_bookmarks() {
    let api = Api::with_namespace().await;
    api.post(CONFIG_MAPS, &config_map("a", &json!({"k": "v"}))).await.expect(201);
    let path = format!(
        "{CONFIG_MAPS}?watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
    );
    let accept = format!("{MEDIA_TYPE};stream=watch, application/json");
    let request = http::Request::get(path).header("accept", accept);
    let empty = http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync();
    let response = api.send(request.body(empty).unwrap()).await;
    assert_eq!(response.headers()["content-type"], STREAM_MEDIA_TYPE);
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    let mut events = Vec::new();
    while events.len() < 2 {
        let piece = body.frame().await.expect("a frame").expect("a frame").into_data().expect("data");
        bytes.extend_from_slice(&piece);
        while let Some((head, rest)) = bytes.split_first_chunk::<4>() {
            let Some(event) = rest.get(..u32::from_be_bytes(*head) as usize) else { break };
            let at = event.windows(4).position(|part| part == protobuf::MAGIC).expect("an object");
            events.push((event[..at].to_vec(), read(&event[at..])));
            bytes.drain(..4 + event.len());
        }
    }
    assert!(events[0].0.starts_with(b"\x0a\x05ADDED"));
    assert_eq!(events[0].1["data"]["k"], "v");
    assert!(events[1].0.starts_with(b"\x0a\x08BOOKMARK"));
    assert_eq!(events[1].1["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}
