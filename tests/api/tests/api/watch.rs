//! Watches over a real connection: they resume, they say how far they came, and they say when they cannot go on.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::http::{Http, revision};

const MAPS: &str = "/api/v1/namespaces/walk/configmaps";
/// More than the history that the server keeps, in large objects.
const LARGE_BYTES: usize = 1_000_000;
const LARGE_WRITES: usize = 80;

async fn make(http: &Http, name: &str) -> Result<Value> {
    let object = json!({"metadata": {"name": name, "labels": {"watched": "yes"}}});
    http.post(MAPS, &object).await?.json(201)
}

fn told(event: &(String, Value)) -> String {
    format!("{} {}", event.0, event.1["metadata"]["name"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn a_watch_resumes_where_it_was_even_after_a_crash() {
    let (mut cluster, http) = Http::server().await;
    let resumed = async {
        let first = revision(&make(&http, "a").await?)?;
        let path = format!("{MAPS}?watch=1&labelSelector=watched&resourceVersion={first}");
        let mut watch = http.watch(&path).await?;
        make(&http, "b").await?;
        http.patch(&format!("{MAPS}/a"), "merge", &json!({"data": {"x": "1"}})).await?.json(200)?;
        ensure!(told(&watch.event().await?) == "ADDED b", "b comes first");
        let seen = watch.event().await?;
        ensure!(told(&seen) == "MODIFIED a", "{seen:?}");
        let seen = revision(&seen.1)?;

        http.delete(&format!("{MAPS}/b")).await?.json(200)?;
        cluster.kill().await;
        // What the server sent before it died may still come, and then the connection ends.
        while let Ok(Some(event)) = watch.next().await {
            ensure!(event["type"] == "DELETED", "{event}");
        }
        cluster.restart().await?;
        let again = format!("{MAPS}?watch=1&labelSelector=watched&resourceVersion={seen}");
        // The client may only now learn that its connection is gone.
        let mut watch = wharf_test_support::eventually("the watch resumes", || http.watch(&again)).await;
        let deleted = watch.event().await?;
        ensure!(told(&deleted) == "DELETED b", "{deleted:?}");
        ensure!(revision(&deleted.1)? > seen, "a deletion has a version of its own");
        make(&http, "c").await?;
        ensure!(told(&watch.event().await?) == "ADDED c", "and it goes on");
        anyhow::Ok(())
    };
    resumed.await.expect("the watch resumes");
}

#[tokio::test]
async fn a_watch_that_ends_in_time_says_how_far_it_came() {
    let (_cluster, http) = Http::server().await;
    let bookmarked = async {
        let first = revision(&make(&http, "a").await?)?;
        // A write that the selector hides moves the watch forward nevertheless.
        let hidden = json!({"metadata": {"name": "hidden"}});
        let hidden = revision(&http.post(MAPS, &hidden).await?.json(201)?)?;
        let path = format!(
            "{MAPS}?watch=1&labelSelector=watched&allowWatchBookmarks=true&timeoutSeconds=3&resourceVersion={first}"
        );
        let mut watch = http.watch(&path).await?;
        let (kind, object) = watch.event().await?;
        ensure!(kind == "BOOKMARK" && object["kind"] == "ConfigMap", "{kind} {object}");
        ensure!(revision(&object)? >= hidden, "{object}");
        ensure!(watch.next().await?.is_none(), "a bookmark is the last event");
        anyhow::Ok(())
    };
    bookmarked.await.expect("a bookmark comes");
}

#[tokio::test]
async fn the_initial_events_end_with_a_bookmark() {
    let (_cluster, http) = Http::server().await;
    let listed = async {
        for name in ["a", "b"] {
            make(&http, name).await?;
        }
        let path = format!(
            "{MAPS}?watch=1&labelSelector=watched&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
        );
        let mut watch = http.watch(&path).await?;
        for name in ["a", "b"] {
            ensure!(told(&watch.event().await?) == format!("ADDED {name}"), "{name}");
        }
        let (kind, object) = watch.event().await?;
        let end = object["metadata"]["annotations"]["k8s.io/initial-events-end"].as_str();
        ensure!(kind == "BOOKMARK" && end == Some("true"), "{kind} {object}");
        anyhow::Ok(())
    };
    listed.await.expect("a watch can list");
}

#[tokio::test]
async fn a_version_that_history_has_lost_is_gone() {
    let (_cluster, http) = Http::server().await;
    let lost = async {
        let first = revision(&make(&http, "a").await?)?;
        let large = "x".repeat(LARGE_BYTES);
        make(&http, "large").await?;
        for number in 0..LARGE_WRITES {
            let change = json!({"data": {"number": number.to_string(), "large": large}});
            http.patch(&format!("{MAPS}/large"), "merge", &change).await?.json(200)?;
        }
        let mut watch = http.watch(&format!("{MAPS}?watch=1&resourceVersion={first}")).await?;
        let (kind, status) = watch.event().await?;
        ensure!(kind == "ERROR" && status["code"] == 410 && status["reason"] == "Expired", "{kind} {status}");
        ensure!(watch.next().await?.is_none(), "nothing comes after it");
        // And the way out: list, then watch from there.
        let list = http.get(&format!("{MAPS}?labelSelector=watched&limit=1")).await?.json(200)?;
        let now = list["metadata"]["resourceVersion"].as_str().context("a list has a version")?;
        let mut watch = http.watch(&format!("{MAPS}?watch=1&resourceVersion={now}")).await?;
        make(&http, "b").await?;
        ensure!(told(&watch.event().await?) == "ADDED b", "the new watch goes on");
        anyhow::Ok(())
    };
    lost.await.expect("the client is told");
}
