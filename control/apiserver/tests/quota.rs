//! Quotas and limit ranges through the whole stack.

mod support;

use serde_json::{Value, json};
use support::{Api, CONFIG_MAPS, IN_DEFAULT, PODS, config_map, pod};

/// A quota as its controller leaves it.
async fn quota(api: &Api, name: &str, hard: Value) {
    let path = format!("{IN_DEFAULT}/resourcequotas");
    let mut quota = api.post(&path, &json!({"metadata": {"name": name}, "spec": {"hard": hard}})).await.expect(201);
    let used: serde_json::Map<String, Value> =
        hard.as_object().expect("amounts").keys().map(|name| (name.clone(), json!("0"))).collect();
    quota["status"] = json!({"hard": hard, "used": used});
    api.put(&format!("{path}/{name}/status"), &quota).await.expect(200);
}

async fn used(api: &Api, name: &str) -> Value {
    api.get(&format!("{IN_DEFAULT}/resourcequotas/{name}")).await.expect(200)["status"]["used"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_writers_spend_exactly_a_quota_of_ten() {
    let api = Api::admitting().await;
    quota(&api, "ten", json!({"count/configmaps": "10"})).await;
    quota(&api, "many", json!({"configmaps": "100"})).await;
    let writes = (0..64).map(|index| {
        let (api, name) = (&api, format!("m{index}"));
        async move { api.post(CONFIG_MAPS, &config_map(&name, &json!({}))).await.code.as_u16() }
    });
    let codes = futures::future::join_all(writes).await;
    let created = codes.iter().filter(|code| **code == 201).count();
    let refused = codes.iter().filter(|code| **code == 403).count();
    assert_eq!((created, refused), (10, 54));
    assert_eq!(used(&api, "ten").await, json!({"count/configmaps": "10"}));
    assert_eq!(used(&api, "many").await, json!({"configmaps": "10"}));
    let list = api.get(CONFIG_MAPS).await.expect(200);
    assert_eq!(list["items"].as_array().expect("items").len(), 10);
}

#[tokio::test]
async fn what_comes_to_nothing_is_not_charged() {
    let api = Api::admitting().await;
    quota(&api, "q", json!({"count/configmaps": "2"})).await;
    api.post(&format!("{CONFIG_MAPS}?dryRun=All"), &config_map("a", &json!({}))).await.expect(201);
    assert_eq!(used(&api, "q").await, json!({"count/configmaps": "0"}));
    api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.expect(201);
    api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.refused(409, "AlreadyExists", "");
    assert_eq!(used(&api, "q").await, json!({"count/configmaps": "1"}));
}

#[tokio::test]
async fn limit_ranges_fill_in_and_hold_back() {
    let api = Api::admitting().await;
    let limits = json!([{"type": "Container", "default": {"cpu": "500m"}, "max": {"cpu": "1"}}]);
    let range = json!({"metadata": {"name": "r"}, "spec": {"limits": limits}});
    api.post(&format!("{IN_DEFAULT}/limitranges"), &range).await.expect(201);
    let made = api.post(PODS, &pod("a")).await.expect(201);
    let resources = &made["spec"]["containers"][0]["resources"];
    assert_eq!(*resources, json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "500m"}}));
    let mut big = pod("b");
    big["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "2"}});
    let message = "pods \"b\" is forbidden: maximum cpu usage per Container is 1, but limit is 2";
    api.post(PODS, &big).await.refused(403, "Forbidden", message);
}
