//! WATCH: what is seen, from when, and how it ends.

mod support;

use std::time::Duration;

use serde_json::json;
use support::{Api, CONFIG_MAPS, config_map, revision};

fn labelled(name: &str, app: &str) -> serde_json::Value {
    let mut map = config_map(name, &json!({}));
    map["metadata"]["labels"] = json!({"app": app});
    map
}

#[tokio::test]
async fn a_watch_without_a_version_begins_with_what_there_is() {
    let api = Api::with_namespace().await;
    api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.expect(201);
    for version in ["", "&resourceVersion=0"] {
        let mut watch = api.watch(&format!("{CONFIG_MAPS}?watch=1{version}")).await;
        assert_eq!(watch.event().await, "ADDED a");
    }
    let mut watch = api.watch(&format!("{CONFIG_MAPS}?watch=true")).await;
    assert_eq!(watch.event().await, "ADDED a");
    api.patch(&format!("{CONFIG_MAPS}/a"), "merge", &json!({"data": {"k": "v"}})).await.expect(200);
    assert_eq!(watch.event().await, "MODIFIED a");
    api.delete(&format!("{CONFIG_MAPS}/a")).await.expect(200);
    assert_eq!(watch.event().await, "DELETED a");
}

#[tokio::test]
async fn a_watch_from_a_version_sees_what_came_after() {
    let api = Api::with_namespace().await;
    let a = api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.expect(201);
    api.post(CONFIG_MAPS, &config_map("b", &json!({}))).await.expect(201);
    api.delete(&format!("{CONFIG_MAPS}/a")).await.expect(200);
    let mut watch = api.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={}", revision(&a))).await;
    assert_eq!(watch.event().await, "ADDED b");
    let deleted = watch.next().await.unwrap();
    assert_eq!(deleted["type"], "DELETED");
    assert!(revision(&deleted["object"]) > revision(&a), "a deletion carries its own revision");
    api.post(CONFIG_MAPS, &config_map("c", &json!({}))).await.expect(201);
    assert_eq!(watch.event().await, "ADDED c");
}

#[tokio::test]
async fn selectors_turn_updates_into_comings_and_goings() {
    let api = Api::with_namespace().await;
    let mut watch = api.watch(&format!("{CONFIG_MAPS}?watch=1&labelSelector=app%3Dweb")).await;
    api.post(CONFIG_MAPS, &labelled("a", "db")).await.expect(201);
    api.post(CONFIG_MAPS, &labelled("b", "web")).await.expect(201);
    assert_eq!(watch.event().await, "ADDED b");
    let relabel = |app: &str| json!({"metadata": {"labels": {"app": app}}});
    api.patch(&format!("{CONFIG_MAPS}/a"), "merge", &relabel("web")).await.expect(200);
    assert_eq!(watch.event().await, "ADDED a");
    let left = api.patch(&format!("{CONFIG_MAPS}/b"), "merge", &relabel("db")).await.expect(200);
    let event = watch.next().await.unwrap();
    assert_eq!((event["type"].as_str(), event["object"]["metadata"]["name"].as_str()), (Some("DELETED"), Some("b")));
    assert_eq!(event["object"]["metadata"]["labels"]["app"], "web", "as it was when it was last selected");
    assert_eq!(revision(&event["object"]), revision(&left));
}

#[tokio::test]
async fn one_name_can_be_watched() {
    let api = Api::with_namespace().await;
    for path in [
        format!("{CONFIG_MAPS}?watch=1&fieldSelector=metadata.name%3Db"),
        "/api/v1/watch/namespaces/default/configmaps/b".to_owned(),
    ] {
        let mut watch = api.watch(&path).await;
        api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.expect(201);
        api.post(CONFIG_MAPS, &config_map("b", &json!({}))).await.expect(201);
        assert_eq!(watch.event().await, "ADDED b");
        for name in ["a", "b"] {
            api.delete(&format!("{CONFIG_MAPS}/{name}")).await.expect(200);
        }
        assert_eq!(watch.event().await, "DELETED b");
    }
}

#[tokio::test]
async fn a_watch_ends_in_time_with_a_bookmark_of_how_far_it_came() {
    let api = Api::with_namespace().await;
    let path = format!("{CONFIG_MAPS}?watch=1&timeoutSeconds=1&allowWatchBookmarks=true");
    let mut watch = api.watch(&path).await;
    let made = api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.expect(201);
    assert_eq!(watch.event().await, "ADDED a");
    let mark = watch.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(mark["object"]["kind"], "ConfigMap");
    assert!(revision(&mark["object"]) >= revision(&made));
    assert_eq!(watch.event().await, "END");
    let mut resumed = api.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={}", revision(&mark["object"]))).await;
    api.post(CONFIG_MAPS, &config_map("b", &json!({}))).await.expect(201);
    assert_eq!(resumed.event().await, "ADDED b");
    let mut plain = api
        .watch(&format!("{CONFIG_MAPS}?watch=1&timeoutSeconds=1&resourceVersion={}", revision(&mark["object"])))
        .await;
    assert_eq!(plain.event().await, "ADDED b");
    assert_eq!(plain.event().await, "END");
}

#[tokio::test(start_paused = true)]
async fn bookmarks_come_every_minute() {
    let api = Api::with_namespace().await;
    let mut watch = api.watch(&format!("{CONFIG_MAPS}?watch=1&allowWatchBookmarks=true&timeoutSeconds=600")).await;
    for _ in 0..3 {
        let event =
            tokio::time::timeout(Duration::from_secs(61), watch.next_unhurried()).await.expect("a bookmark").unwrap();
        assert_eq!(event["type"], "BOOKMARK");
    }
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark_for_who_asks() {
    let api = Api::with_namespace().await;
    let made = api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.expect(201);
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = api.watch(&format!("{CONFIG_MAPS}?{query}")).await;
    assert_eq!(watch.event().await, "ADDED a");
    let mark = watch.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert!(revision(&mark["object"]) >= revision(&made));
    api.post(CONFIG_MAPS, &config_map("b", &json!({}))).await.expect(201);
    assert_eq!(watch.event().await, "ADDED b");
    let none = "watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan";
    let mut watch = api.watch(&format!("{CONFIG_MAPS}?{none}")).await;
    api.post(CONFIG_MAPS, &config_map("c", &json!({}))).await.expect(201);
    assert_eq!(watch.event().await, "ADDED c");
    let refused = api.get(&format!("{CONFIG_MAPS}?watch=1&sendInitialEvents=true")).await;
    refused.refused(422, "Invalid", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
}

#[tokio::test]
async fn a_version_that_is_too_old_is_told_as_an_event() {
    let api = Api::with_namespace().await;
    let first = revision(&api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.expect(201));
    api.forget_history("a").await;
    let mut watch = api.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={first}")).await;
    let event = watch.next().await.unwrap();
    assert_eq!(event["type"], "ERROR");
    assert_eq!(event["object"]["kind"], "Status");
    assert_eq!(event["object"]["code"], 410);
    assert_eq!(event["object"]["reason"], "Expired");
    let message = event["object"]["message"].as_str().unwrap();
    assert!(message.starts_with(&format!("too old resource version: {first} (")), "{message}");
    assert_eq!(watch.event().await, "END");
}

#[tokio::test]
async fn tables_and_metadata_can_be_watched() {
    let api = Api::with_namespace().await;
    let path = format!("{CONFIG_MAPS}?watch=1");
    let mut tables = api.watch_as(&path, "application/json;as=Table;v=v1;g=meta.k8s.io,application/json").await;
    let mut metadata = api.watch_as(&path, "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io").await;
    for name in ["a", "b"] {
        api.post(CONFIG_MAPS, &config_map(name, &json!({"k": "v"}))).await.expect(201);
    }
    let first = tables.next().await.unwrap();
    assert_eq!(first["type"], "ADDED");
    assert_eq!(first["object"]["kind"], "Table");
    assert!(first["object"]["columnDefinitions"].is_array());
    assert_eq!(first["object"]["rows"][0]["cells"][0], "a");
    let second = tables.next().await.unwrap();
    assert!(second["object"]["columnDefinitions"].is_null());
    assert_eq!(second["object"]["rows"][0]["object"]["metadata"]["name"], "b");
    let partial = metadata.next().await.unwrap();
    assert_eq!(partial["object"]["kind"], "PartialObjectMetadata");
    assert!(partial["object"].get("data").is_none());
}

#[tokio::test]
async fn a_table_says_where_the_initial_events_end() {
    let api = Api::with_namespace().await;
    api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.expect(201);
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    for (version, include) in [("v1", ""), ("v1beta1", "&includeObject=None"), ("v1", "&includeObject=Object")] {
        let accept = format!("application/json;as=Table;v={version};g=meta.k8s.io");
        let mut tables = api.watch_as(&format!("{CONFIG_MAPS}?{query}{include}"), &accept).await;
        assert_eq!(tables.next().await.unwrap()["type"], "ADDED");
        let mark = tables.next().await.unwrap();
        assert_eq!(mark["type"], "BOOKMARK");
        let table = &mark["object"];
        assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!(format!("meta.k8s.io/{version}"))));
        assert!(revision(table) > 0 && table["columnDefinitions"].is_null());
        let metadata = &table["rows"][0]["object"]["metadata"];
        assert_eq!(metadata["annotations"]["k8s.io/initial-events-end"], "true", "{mark}");
        assert!(metadata.get("creationTimestamp").is_none(), "nothing was created");
    }
}

#[tokio::test]
async fn a_name_in_the_path_is_got_not_watched() {
    let api = Api::with_namespace().await;
    api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.expect(201);
    assert_eq!(api.get(&format!("{CONFIG_MAPS}/a?watch=1")).await.expect(200)["kind"], "ConfigMap");
    let answer = api.get_as(&format!("{CONFIG_MAPS}?watch=1"), "application/yaml").await;
    answer.refused(406, "NotAcceptable", "application/json;stream=watch");
}

#[tokio::test]
async fn every_watcher_sees_every_change_in_order() {
    let api = Api::with_namespace().await;
    let mut watches = Vec::new();
    for _ in 0..8 {
        watches.push(api.watch(&format!("{CONFIG_MAPS}?watch=1")).await);
    }
    for index in 0..400 {
        let map = config_map(&format!("m{}", index % 7), &json!({"i": index.to_string()}));
        if index < 7 {
            api.post(CONFIG_MAPS, &map).await.expect(201);
        } else {
            api.put(&format!("{CONFIG_MAPS}/m{}", index % 7), &map).await.expect(200);
        }
    }
    for watch in &mut watches {
        for index in 0..400 {
            let event = watch.next().await.unwrap();
            assert_eq!(event["object"]["data"]["i"], index.to_string());
        }
    }
}

#[tokio::test]
async fn a_watch_can_be_had_over_a_websocket() {
    use futures::StreamExt;
    use tokio_tungstenite::tungstenite::{Error, Message, http};
    let api = Api::with_namespace().await;
    api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.expect(201);
    let address = api.listen().await;
    let open = async |query: &str| {
        let request = http::Request::get(format!("ws://{address}{CONFIG_MAPS}?{query}"))
            .header("host", "x")
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .body(())
            .unwrap();
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        tokio_tungstenite::client_async(request, stream).await
    };
    let (mut socket, _) = open("watch=1&timeoutSeconds=2").await.unwrap();
    let next =
        async |socket: &mut tokio_tungstenite::WebSocketStream<tokio::net::TcpStream>| match tokio::time::timeout(
            support::DEADLINE,
            socket.next(),
        )
        .await
        .expect("a message in time")
        {
            Some(Ok(Message::Text(text))) => serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            Some(Ok(Message::Close(_))) | None => serde_json::Value::Null,
            other => panic!("{other:?}"),
        };
    let added = next(&mut socket).await;
    assert_eq!((&added["type"], &added["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("a")));
    api.delete(&format!("{CONFIG_MAPS}/a")).await.expect(200);
    assert_eq!(next(&mut socket).await["type"], "DELETED");
    assert!(next(&mut socket).await.is_null(), "the websocket ends with the watch");
    match open("watch=1&labelSelector=a%20b").await {
        Err(Error::Http(refused)) => assert_eq!(refused.status().as_u16(), 400),
        other => panic!("{other:?}"),
    }
}

/// Where a watch begins, by `sendInitialEvents`, `resourceVersion` and `resourceVersionMatch`.
#[tokio::test]
async fn initial_events_versions_and_matches_meet_as_upstream_says() {
    let api = Api::with_namespace().await;
    api.post(CONFIG_MAPS, &config_map("old", &json!({}))).await.expect(201);
    let then = revision(&api.get(CONFIG_MAPS).await.expect(200)).to_string();
    api.post(CONFIG_MAPS, &config_map("new", &json!({}))).await.expect(201);
    let (all, since, none): (&[&str], &[&str], &[&str]) = (&["new", "old"], &["new"], &[]);
    for (initial, version, rule, expected) in [
        ("", "", "", Some(all)),
        ("", "0", "", Some(all)),
        ("", "then", "", Some(since)),
        ("", "then", "NotOlderThan", None),
        ("true", "", "NotOlderThan", Some(all)),
        ("true", "0", "NotOlderThan", Some(all)),
        ("true", "then", "NotOlderThan", Some(all)),
        ("true", "", "", None),
        ("true", "then", "Exact", None),
        ("false", "", "NotOlderThan", Some(none)),
        ("false", "0", "NotOlderThan", Some(none)),
        ("false", "then", "NotOlderThan", Some(since)),
        ("false", "then", "", None),
    ] {
        let initial = if initial.is_empty() { String::new() } else { format!("&sendInitialEvents={initial}") };
        let version = version.replace("then", &then);
        let path = format!(
            "{CONFIG_MAPS}?watch=1&allowWatchBookmarks=true{initial}&resourceVersion={version}&resourceVersionMatch={rule}"
        );
        let Some(expected) = expected else {
            api.get(&path).await.refused(422, "Invalid", "resourceVersionMatch");
            continue;
        };
        let mut watch = api.watch(&path).await;
        // What comes after the beginning tells where that ended.
        api.post(CONFIG_MAPS, &config_map("mark", &json!({}))).await.expect(201);
        let (mut seen, mut marked) = (Vec::new(), false);
        loop {
            let event = watch.next().await.expect("an event");
            let meta = &event["object"]["metadata"];
            match (event["type"].as_str(), meta["name"].as_str()) {
                (Some("BOOKMARK"), _) => marked |= meta["annotations"]["k8s.io/initial-events-end"] == "true",
                (_, Some("mark")) => break,
                (_, name) => seen.push(name.unwrap_or_default().to_owned()),
            }
        }
        seen.sort();
        assert_eq!(seen, expected, "{path}");
        assert_eq!(marked, initial.ends_with("=true"), "{path}");
        api.delete(&format!("{CONFIG_MAPS}/mark")).await.expect(200);
    }
}
