//! GET and LIST: selections, pages, versions, representations.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};
use support::{Api, CONFIG_MAPS, config_map, revision};

async fn with_maps(count: usize) -> Api {
    let api = Api::with_namespace().await;
    for index in 0..count {
        let mut map = config_map(&format!("m{index:03}"), &json!({"i": index.to_string()}));
        map["metadata"]["labels"] = json!({"parity": if index % 2 == 0 { "even" } else { "odd" }});
        api.post(CONFIG_MAPS, &map).await.expect(201);
    }
    api
}

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().expect("items").iter();
    items.map(|item| item["metadata"]["name"].as_str().expect("a name").to_owned()).collect()
}

#[tokio::test]
async fn a_list_has_what_there_is() {
    let api = with_maps(3).await;
    let list = api.get(CONFIG_MAPS).await.expect(200);
    assert_eq!(list["kind"], "ConfigMapList");
    assert_eq!(list["apiVersion"], "v1");
    assert_eq!(names(&list), ["m000", "m001", "m002"]);
    assert!(list["items"][0].get("kind").is_none(), "items of a typed list do not repeat their type");
    let newest = list["items"].as_array().unwrap().iter().map(revision).max().unwrap();
    assert!(revision(&list) >= newest);
}

#[tokio::test]
async fn a_list_spans_namespaces_or_keeps_to_one() {
    let api = with_maps(1).await;
    api.post("/api/v1/namespaces", &json!({"metadata": {"name": "default2"}})).await.expect(201);
    api.post("/api/v1/namespaces/default2/configmaps", &config_map("other", &json!({}))).await.expect(201);
    assert_eq!(names(&api.get("/api/v1/configmaps").await.expect(200)), ["m000", "other"]);
    assert_eq!(names(&api.get(CONFIG_MAPS).await.expect(200)), ["m000"]);
    let path = "/api/v1/configmaps?fieldSelector=metadata.namespace%3Ddefault2";
    assert_eq!(names(&api.get(path).await.expect(200)), ["other"]);
    assert_eq!(names(&api.get("/api/v1/namespaces/nowhere/configmaps").await.expect(200)), Vec::<String>::new());
}

#[tokio::test]
async fn selectors_narrow_a_list() {
    let api = with_maps(4).await;
    let select = |query: &'static str| {
        let api = &api;
        async move { names(&api.get(&format!("{CONFIG_MAPS}?{query}")).await.expect(200)) }
    };
    assert_eq!(select("labelSelector=parity%3Deven").await, ["m000", "m002"]);
    assert_eq!(select("labelSelector=parity%20notin%20(even)").await, ["m001", "m003"]);
    assert_eq!(select("fieldSelector=metadata.name%3Dm001").await, ["m001"]);
    assert_eq!(select("fieldSelector=metadata.name!%3Dm001").await, ["m000", "m002", "m003"]);
    let refused = api.get(&format!("{CONFIG_MAPS}?fieldSelector=data.x%3D1")).await;
    refused.refused(400, "BadRequest", "\"data.x\" is not a known field selector: only \"metadata.name\"");
    let refused = api.get(&format!("{CONFIG_MAPS}?labelSelector=a%20b")).await;
    refused.refused(400, "BadRequest", "unable to parse requirement");
}

#[tokio::test]
async fn pages_show_the_first_pages_moment() {
    let api = with_maps(5).await;
    let first = api.get(&format!("{CONFIG_MAPS}?limit=2")).await.expect(200);
    assert_eq!(names(&first), ["m000", "m001"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    api.delete(&format!("{CONFIG_MAPS}/m003")).await.expect(200);
    api.post(CONFIG_MAPS, &config_map("m0025", &json!({}))).await.expect(201);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = api.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await.expect(200);
    assert_eq!(names(&second), ["m002", "m003"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let third = api.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await.expect(200);
    assert_eq!(names(&third), ["m004"]);
    assert!(third["metadata"].get("continue").is_none());
    assert!(third["metadata"].get("remainingItemCount").is_none());
}

#[tokio::test]
async fn a_selected_page_does_not_count_the_rest() {
    let api = with_maps(6).await;
    let page = api.get(&format!("{CONFIG_MAPS}?limit=1&labelSelector=parity%3Dodd")).await.expect(200);
    assert_eq!(names(&page), ["m001"]);
    assert!(page["metadata"].get("remainingItemCount").is_none());
    let token = page["metadata"]["continue"].as_str().unwrap();
    let rest = api.get(&format!("{CONFIG_MAPS}?labelSelector=parity%3Dodd&continue={token}")).await.expect(200);
    assert_eq!(names(&rest), ["m003", "m005"]);
}

#[tokio::test]
async fn pages_hold_together_while_others_write() {
    let api = Arc::new(with_maps(40).await);
    let expected: BTreeSet<String> = names(&api.get(CONFIG_MAPS).await.expect(200)).into_iter().collect();
    let writer = tokio::spawn({
        let api = api.clone();
        async move {
            for index in 0..200 {
                let name = format!("w{index:03}");
                api.post(CONFIG_MAPS, &config_map(&name, &json!({}))).await.expect(201);
                if index % 2 == 0 {
                    api.delete(&format!("{CONFIG_MAPS}/m{:03}", index / 8)).await;
                }
            }
        }
    });
    let (mut seen, mut path, mut versions) = (Vec::new(), format!("{CONFIG_MAPS}?limit=7"), BTreeSet::new());
    loop {
        let page = api.get(&path).await.expect(200);
        seen.extend(names(&page));
        versions.insert(revision(&page));
        let Some(token) = page["metadata"]["continue"].as_str() else { break };
        path = format!("{CONFIG_MAPS}?limit=7&continue={token}");
        tokio::task::yield_now().await;
    }
    writer.await.unwrap();
    assert_eq!(versions.len(), 1, "all pages are of one moment");
    let mut sorted = seen.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!(sorted, seen, "in order, and each once");
    let old: BTreeSet<String> = seen.into_iter().filter(|name| name.starts_with('m')).collect();
    assert!(old.is_subset(&expected));
}

#[tokio::test]
async fn tokens_and_versions_are_held_to_their_rules() {
    let api = with_maps(3).await;
    let token = api.get(&format!("{CONFIG_MAPS}?limit=1")).await.expect(200)["metadata"]["continue"]
        .as_str()
        .unwrap()
        .to_owned();
    let refused = |query: String, code: u16, reason: &'static str, message: &'static str| {
        let api = &api;
        async move { api.get(&format!("{CONFIG_MAPS}?{query}")).await.refused(code, reason, message) }
    };
    refused("continue=nonsense".to_owned(), 400, "BadRequest", "invalid continue token: continue key is not valid")
        .await;
    let both = format!("continue={token}&resourceVersion=5");
    refused(both, 400, "BadRequest", "specifying resource version is not allowed when using continue").await;
    refused("resourceVersion=x".to_owned(), 400, "BadRequest", "resourceVersion: Invalid value: \"x\"").await;
    let only = "resourceVersionMatch=Exact".to_owned();
    refused(only, 422, "Invalid", "resourceVersionMatch is forbidden unless resourceVersion is provided").await;
    let bad = "resourceVersion=5&resourceVersionMatch=Sometimes".to_owned();
    refused(bad, 422, "Invalid", "Unsupported value: \"Sometimes\"").await;
}

#[tokio::test]
async fn a_version_from_the_future_is_waited_for_and_then_refused() {
    let api = with_maps(1).await;
    let path = format!("{CONFIG_MAPS}?resourceVersion=999999&resourceVersionMatch=NotOlderThan");
    let answer = api.get(&path).await;
    assert_eq!(answer.headers["retry-after"], "1");
    let status = answer.refused(504, "Timeout", "Too large resource version: 999999, current: ");
    assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
}

#[tokio::test]
async fn an_exact_version_shows_that_moment() {
    let api = with_maps(2).await;
    let then = revision(&api.get(CONFIG_MAPS).await.expect(200));
    api.delete(&format!("{CONFIG_MAPS}/m000")).await.expect(200);
    let path = format!("{CONFIG_MAPS}?resourceVersion={then}&resourceVersionMatch=Exact");
    let list = api.get(&path).await.expect(200);
    assert_eq!(names(&list), ["m000", "m001"]);
    assert_eq!(revision(&list), then);
    let legacy = api.get(&format!("{CONFIG_MAPS}?resourceVersion={then}&limit=5")).await.expect(200);
    assert_eq!(names(&legacy), ["m000", "m001"]);
    let any = api.get(&format!("{CONFIG_MAPS}?resourceVersion=0&limit=1")).await.expect(200);
    assert_eq!(names(&any), ["m001"]);
}

#[tokio::test]
async fn a_token_that_is_too_old_comes_with_one_to_go_on_with() {
    let api = with_maps(4).await;
    let token = api.get(&format!("{CONFIG_MAPS}?limit=1")).await.expect(200)["metadata"]["continue"]
        .as_str()
        .unwrap()
        .to_owned();
    // The same token, of a moment that nobody keeps.
    use base64::Engine;
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let mut inside: Value = serde_json::from_slice(&engine.decode(&token).unwrap()).unwrap();
    inside["rv"] = json!(1);
    api.forget_history("m000").await;
    let old = engine.encode(inside.to_string());
    let status = api.get(&format!("{CONFIG_MAPS}?limit=1&continue={old}")).await.refused(
        410,
        "Expired",
        "The provided continue parameter is too old to display a consistent list result.",
    );
    let next = status["metadata"]["continue"].as_str().unwrap();
    let rest = api.get(&format!("{CONFIG_MAPS}?continue={next}")).await.expect(200);
    assert_eq!(names(&rest), ["m001", "m002", "m003"]);
}

#[tokio::test]
async fn tables_have_columns_and_rows() {
    let api = with_maps(2).await;
    let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let table = api.get_as(CONFIG_MAPS, kubectl).await.expect(200);
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["apiVersion"], "meta.k8s.io/v1");
    let columns = table["columnDefinitions"].as_array().unwrap();
    assert_eq!(columns[0]["name"], "Name");
    assert_eq!(columns[0]["format"], "name");
    let row = &table["rows"][0];
    assert_eq!(row["cells"].as_array().unwrap().len(), columns.len());
    assert_eq!(row["cells"][0], "m000");
    assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(row["object"]["metadata"]["name"], "m000");
    assert!(row["object"].get("data").is_none());
    let whole = api.get_as(&format!("{CONFIG_MAPS}?includeObject=Object"), kubectl).await.expect(200);
    assert_eq!(whole["rows"][1]["object"]["data"]["i"], "1");
    let bare = api.get_as(&format!("{CONFIG_MAPS}?includeObject=None"), kubectl).await.expect(200);
    assert!(bare["rows"][1]["object"].is_null());
    let one = api.get_as(&format!("{CONFIG_MAPS}/m001"), kubectl).await.expect(200);
    assert_eq!(one["rows"][0]["cells"][0], "m001");
    let refused = api.get_as(&format!("{CONFIG_MAPS}?includeObject=Some"), kubectl).await;
    refused.refused(400, "BadRequest", "includeObject");
}

#[tokio::test]
async fn metadata_alone_can_be_had() {
    let api = with_maps(2).await;
    let list =
        api.get_as(CONFIG_MAPS, "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").await.expect(200);
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0]["metadata"]["name"], "m000");
    assert!(list["items"][0].get("data").is_none());
    let one = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let object = api.get_as(&format!("{CONFIG_MAPS}/m001"), one).await.expect(200);
    assert_eq!(object["kind"], "PartialObjectMetadata");
    assert_eq!(object["metadata"]["labels"]["parity"], "odd");
    assert_eq!(api.get_as(CONFIG_MAPS, one).await.code, 406);
}

#[tokio::test]
async fn both_versions_of_metadata_are_served() {
    let api = with_maps(2).await;
    let beta = |kind: &str| format!("application/json;as={kind};g=meta.k8s.io;v=v1beta1");
    let table = api.get_as(CONFIG_MAPS, &beta("Table")).await.expect(200);
    assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1beta1")));
    assert_eq!(table["rows"][0]["object"]["apiVersion"], "meta.k8s.io/v1beta1");
    let list = api.get_as(CONFIG_MAPS, &beta("PartialObjectMetadataList")).await.expect(200);
    assert_eq!(list["apiVersion"], "meta.k8s.io/v1beta1");
    assert_eq!(list["items"][1]["apiVersion"], "meta.k8s.io/v1beta1");
    let one = format!("{CONFIG_MAPS}/m000");
    assert_eq!(api.get_as(&one, &beta("Table")).await.expect(200)["apiVersion"], "meta.k8s.io/v1beta1");
    assert_eq!(api.get_as(&one, &beta("PartialObjectMetadata")).await.expect(200)["apiVersion"], "meta.k8s.io/v1beta1");
    api.get_as(&one, &beta("PartialObjectMetadataList")).await.refused(
        406,
        "NotAcceptable",
        "you requested PartialObjectMetadataList, but the requested object is not a list",
    );
    assert_eq!(api.get_as(&one, &beta("Table").replace("v1beta1", "v1alpha1")).await.code, 406);
}

#[tokio::test]
async fn what_is_not_served_is_refused_with_what_is() {
    let api = with_maps(1).await;
    let refused = api.get_as(CONFIG_MAPS, "application/cbor").await;
    refused.refused(
        406,
        "NotAcceptable",
        "only the following media types are accepted: application/json, application/yaml",
    );
    let fallback = "application/cbor, application/json;q=0.8";
    assert_eq!(names(&api.get_as(CONFIG_MAPS, fallback).await.expect(200)), ["m000"]);
}

#[tokio::test]
async fn large_replies_are_compressed_for_who_can_unpack_them() {
    let api = Api::with_namespace().await;
    let map = config_map("big", &json!({"k": "x".repeat(200 << 10)}));
    api.post(CONFIG_MAPS, &map).await.expect(201);
    let packed = api.request(Method::GET, CONFIG_MAPS, &[("accept-encoding", "gzip")], "").await;
    assert_eq!(packed.headers["content-encoding"], "gzip");
    assert!(packed.bytes.len() < 20 << 10, "{}", packed.bytes.len());
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&packed.bytes[..]), &mut text).unwrap();
    let plain = api.get(CONFIG_MAPS).await;
    assert!(plain.headers.get("content-encoding").is_none());
    assert_eq!(text.as_bytes(), plain.bytes);
}

/// What a list shows at each meeting of `resourceVersion`, `resourceVersionMatch` and `limit`: upstream's table in
/// "The resourceVersion parameter" of the API concepts. `then` stands for a version from before `m000` was deleted.
#[tokio::test]
async fn versions_matches_and_limits_meet_as_upstream_says() {
    let api = with_maps(2).await;
    let then = revision(&api.get(CONFIG_MAPS).await.expect(200));
    api.delete(&format!("{CONFIG_MAPS}/m000")).await.expect(200);
    let (now, exact): (&[&str], &[&str]) = (&["m001"], &["m000", "m001"]);
    let refused: &[&str] = &["422"];
    for (version, rule, limit, expected, continues) in [
        ("", "", 0, now, false),
        ("", "", 5, now, false),
        ("0", "", 0, now, false),
        ("0", "", 1, now, false),
        ("then", "", 0, now, false),
        ("then", "", 1, &exact[..1], true),
        ("", "NotOlderThan", 0, refused, false),
        ("0", "NotOlderThan", 0, now, false),
        ("then", "NotOlderThan", 0, now, false),
        ("then", "NotOlderThan", 1, now, false),
        ("", "Exact", 0, refused, false),
        ("0", "Exact", 0, refused, false),
        ("then", "Exact", 0, exact, false),
        ("then", "Exact", 1, &exact[..1], true),
    ] {
        let version = version.replace("then", &then.to_string());
        let path = format!("{CONFIG_MAPS}?resourceVersion={version}&resourceVersionMatch={rule}&limit={limit}");
        let answer = api.get(&path).await;
        if answer.code != 200 {
            assert_eq!([answer.code.as_str()], *expected, "{path}");
            continue;
        }
        assert_eq!(names(&answer.json), expected, "{path}");
        assert_eq!(answer.json["metadata"]["continue"].is_string(), continues, "{path}");
        let shown = revision(&answer.json);
        assert_eq!(shown == then, expected.len() == 2 || continues, "{path} shows {shown}");
    }
}
