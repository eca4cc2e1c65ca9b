//! Lists in pages, while others write.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::http::{Http, revision};

const MAPS: &str = "/api/v1/namespaces/walk/configmaps";
const COUNT: usize = 90;
const PAGE: usize = 20;

#[tokio::test]
async fn pages_show_one_moment_while_others_write() {
    let (_cluster, http) = Http::server().await;
    pages(&http).await.expect("the pages hold together");
}

async fn pages(http: &Http) -> Result<()> {
    let name = |number: usize| format!("m{number:03}");
    for number in 0..COUNT {
        let object = json!({"metadata": {"name": name(number), "labels": {"paged": "yes"}}});
        http.post(MAPS, &object).await?.json(201)?;
    }
    let (mut seen, mut path, mut moment) = (Vec::new(), format!("{MAPS}?labelSelector=paged&limit={PAGE}"), None);
    for page in 0.. {
        let list = http.get(&path).await?.json(200)?;
        let at = *moment.get_or_insert(revision(&list)?);
        ensure!(revision(&list)? == at, "page {page} is of another moment: {}", list["metadata"]);
        let items = list["items"].as_array().context("items")?;
        seen.extend(items.iter().filter_map(|item| item["metadata"]["name"].as_str().map(str::to_owned)));
        for item in items {
            ensure!(revision(item)? <= at, "page {page} shows what came later: {item}");
        }
        // Behind and ahead of the page: an object comes, one changes, one goes.
        let (new, gone) = (format!("m{:03}b", page * PAGE), name(COUNT - 1 - page));
        http.post(MAPS, &json!({"metadata": {"name": new, "labels": {"paged": "yes"}}})).await?.json(201)?;
        http.post(
            MAPS,
            &json!({"metadata": {"name": format!("m{:03}c", COUNT - 2 - page), "labels": {"paged": "yes"}}}),
        )
        .await?
        .json(201)?;
        http.delete(&format!("{MAPS}/{gone}")).await?.json(200)?;
        http.patch(&format!("{MAPS}/{}", name(40)), "merge", &json!({"data": {"page": page.to_string()}}))
            .await?
            .json(200)?;
        let Some(token) = list["metadata"]["continue"].as_str().filter(|token| !token.is_empty()) else { break };
        ensure!(items.len() == PAGE, "page {page} has {}", items.len());
        path = format!("{MAPS}?labelSelector=paged&limit={PAGE}&continue={token}");
    }
    ensure!(seen == (0..COUNT).map(name).collect::<Vec<_>>(), "{seen:?}");

    let now = http.get(&format!("{MAPS}?labelSelector=paged")).await?.json(200)?;
    let names: BTreeSet<&str> =
        now["items"].as_array().context("items")?.iter().filter_map(|item| item["metadata"]["name"].as_str()).collect();
    ensure!(!names.contains(name(COUNT - 1).as_str()) && names.contains("m000b"), "{names:?}");
    http.get(&format!("{MAPS}?limit=1&continue=nonsense")).await?.refused(400, "BadRequest")?;
    Ok(())
}
