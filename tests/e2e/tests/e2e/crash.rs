//! `kill -9` in the middle of things.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ListParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, ResourceExt};
use wharf_test_support::{Cluster, eventually, http};

use crate::example;

fn map(name: &str) -> ConfigMap {
    serde_json::from_value(serde_json::json!({ "metadata": { "name": name } })).expect("a ConfigMap")
}

#[tokio::test]
async fn acknowledged_writes_survive_and_a_watch_resumes_where_it_was() {
    let mut cluster = Cluster::with_images(&[]).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client.clone());
    let first = maps.create(&PostParams::default(), &map("first")).await.expect("created");
    let seen = first.resource_version().expect("a version");

    // Writers go on until the server dies under them.
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let (maps, stop) = (maps.clone(), stop.clone());
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for number in 0.. {
                    let name = format!("w{writer}-{number}");
                    if stop.load(Ordering::Relaxed) || maps.create(&PostParams::default(), &map(&name)).await.is_err() {
                        break;
                    }
                    acknowledged.push(name);
                }
                acknowledged
            })
        })
        .collect();
    eventually("some writes are through", || async {
        let count = maps.list(&ListParams::default()).await.map(|list| list.items.len()).unwrap_or(0);
        if count > 100 { Ok(()) } else { Err(count) }
    })
    .await;
    cluster.kill().await;
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.expect("a writer ends"));
    }
    cluster.restart().await.expect("it starts again");

    let names: std::collections::BTreeSet<String> =
        maps.list(&ListParams::default()).await.expect("listed").items.iter().map(ResourceExt::name_any).collect();
    let lost: Vec<&String> = acknowledged.iter().filter(|name| !names.contains(*name)).collect();
    assert!(lost.is_empty(), "{} of {} acknowledged writes are gone: {lost:?}", lost.len(), acknowledged.len());

    let mut events = maps.watch(&WatchParams::default(), &seen).await.expect("the watch resumes").boxed();
    let mut last: u64 = seen.parse().expect("a number");
    let mut missing: std::collections::BTreeSet<&String> = acknowledged.iter().collect();
    while !missing.is_empty() {
        match events.try_next().await.expect("the watch goes on").expect("the watch does not end") {
            WatchEvent::Added(map) => {
                let version: u64 = map.resource_version().and_then(|version| version.parse().ok()).expect("a version");
                assert!(version > last, "events come in order");
                last = version;
                missing.remove(&map.name_any());
            }
            WatchEvent::Modified(_) | WatchEvent::Bookmark(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
}

#[tokio::test]
async fn pods_come_back_after_the_process_was_killed() {
    let mut cluster = Cluster::with_images(&["hello-http"]).await;
    cluster.kubectl(&["apply", "-f", &example("hello-http/app.yaml")]).await.success();
    cluster.kubectl(&["rollout", "status", "deploy/hello", "--timeout=60s"]).await.success();
    let pods =
        async |cluster: &Cluster| cluster.kubectl(&["get", "pods", "-l", "app=hello", "-o", "name"]).await.success();
    let before = pods(&cluster).await;
    cluster.kill().await;
    cluster.restart().await.expect("it starts again");
    let ip = cluster.kubectl(&["get", "service", "hello", "-o", "jsonpath={.spec.clusterIP}"]).await.success();
    let address = format!("{ip}:80");
    eventually("the service answers again", || async {
        match http::get(&address, "/").await {
            Ok((200, body)) if body.starts_with("Hello from hello-") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    cluster.kubectl(&["rollout", "status", "deploy/hello", "--timeout=60s"]).await.success();
    assert_eq!(pods(&cluster).await, before, "the same pods run again");
    eventually("each container counts its restart", || async {
        let path = "jsonpath={.items[*].status.containerStatuses[*].restartCount}";
        let counts = cluster.kubectl(&["get", "pods", "-l", "app=hello", "-o", path]).await.success();
        if counts == "1 1 1" { Ok(()) } else { Err(counts) }
    })
    .await;
}

#[tokio::test]
async fn a_finished_job_is_not_run_again() {
    let mut cluster = Cluster::with_images(&["job-primes"]).await;
    cluster.kubectl(&["apply", "-f", &example("job/job.yaml")]).await.success();
    cluster.kubectl(&["wait", "--for=condition=complete", "job/primes", "--timeout=60s"]).await.success();
    cluster.kill().await;
    cluster.restart().await.expect("it starts again");
    let pods = cluster.kubectl(&["get", "pods", "-l", "job-name=primes", "--no-headers"]).await.success();
    assert!(pods.lines().count() == 1 && pods.contains("Completed"), "{pods}");
}
