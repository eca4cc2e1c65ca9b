//! The state of components: asked, in every form, and never stored.

mod support;

use serde_json::{Value, json};
use support::Api;
use wharf_apiserver::health::Check;
use wharf_machinery::protobuf::{self, MEDIA_TYPE};
use wharf_types::Gvk;

const ALL: &str = "/api/v1/componentstatuses";

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().expect("items").iter().filter_map(|item| item["metadata"]["name"].as_str()).collect()
}

async fn api() -> Api {
    let api = Api::new().await;
    while !api.server.cache.is_feeding() {
        tokio::task::yield_now().await;
    }
    api.server.components.add(Check::new("scheduler", || Err("its task has ended".to_owned())));
    api
}

#[tokio::test]
async fn components_tell_how_they_are() {
    let api = api().await;
    let list = api.get(ALL).await;
    assert_eq!(list.warnings(), ["299 - \"v1 ComponentStatus is deprecated in v1.19+\""]);
    let list = list.expect(200);
    assert_eq!((&list["kind"], &list["metadata"]), (&json!("ComponentStatusList"), &json!({})));
    assert_eq!(names(&list), ["etcd-0", "scheduler"]);
    let one = api.get(&format!("{ALL}/scheduler")).await.expect(200);
    assert_eq!(one["metadata"], json!({"name": "scheduler"}));
    assert_eq!(one["conditions"], json!([{"type": "Healthy", "status": "False", "error": "its task has ended"}]));
    let absent = api.get(&format!("{ALL}/nobody")).await;
    absent.refused(500, "InternalError", "Internal error occurred: Component not found: nobody");
}

#[tokio::test]
async fn components_are_selected_and_shown_as_asked() {
    let api = api().await;
    let chosen = api.get(&format!("{ALL}?fieldSelector=metadata.name%3Detcd-0")).await.expect(200);
    assert_eq!(names(&chosen), ["etcd-0"]);
    let none = api.get(&format!("{ALL}?labelSelector=a%3Db")).await.expect(200);
    assert_eq!(none["items"], json!([]));
    let table = api.get_as(ALL, "application/json;as=Table;v=v1;g=meta.k8s.io").await.expect(200);
    assert_eq!(table["rows"][0]["cells"], json!(["etcd-0", "Healthy", "ok", ""]));
    let packed = api.get_as(ALL, MEDIA_TYPE).await;
    let gvk = Gvk { group: "".into(), version: "v1".into(), kind: "ComponentStatus".into() };
    let list = protobuf::decode_object(&packed.bytes, &gvk).expect("protobuf").into_json();
    assert_eq!(names(&list), ["etcd-0", "scheduler"]);
}

#[tokio::test]
async fn nobody_writes_or_watches_them() {
    let api = api().await;
    api.post(ALL, &json!({"metadata": {"name": "a"}})).await.expect(405);
    api.delete(&format!("{ALL}/etcd-0")).await.expect(405);
    api.get(&format!("{ALL}?watch=1")).await.expect(405);
}
