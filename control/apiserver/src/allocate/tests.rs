use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use wharf_types::k8s::api::core::v1::Service;

use super::service::{Cidr, NODE_PORTS, Services};
use super::{Allocate, Claim};

const RANGE: &str = "127.96.0.0/12";

fn services(range: &str) -> Services {
    let range: Cidr = range.parse().expect("range");
    Services::new(range, NODE_PORTS, Box::new(StdRng::seed_from_u64(7)))
}

fn service(name: &str, spec: Value) -> Service {
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec})).expect("service")
}

async fn begin(pool: &Services, new: &mut Service, old: Option<&Service>) -> Result<Box<dyn Claim>, String> {
    let old = old.map(|old| old as &dyn wharf_types::AnyObject);
    pool.begin(new, old, false).await.map_err(|error| error.message)
}

/// Creates a Service and keeps it.
async fn create(pool: &Services, name: &str, spec: Value) -> Result<Service, String> {
    let mut made = service(name, spec);
    begin(pool, &mut made, None).await?.keep();
    Ok(made)
}

/// Replaces a Service and keeps it.
async fn update(pool: &Services, old: &Service, spec: Value) -> Result<Service, String> {
    let mut new = service(old.metadata.name.as_deref().expect("name"), spec);
    begin(pool, &mut new, Some(old)).await?.keep();
    Ok(new)
}

fn spec(service: &Service) -> Value {
    serde_json::to_value(&service.spec).expect("json")
}

#[tokio::test]
async fn a_service_gets_an_address_and_single_stack_fields() {
    let pool = services(RANGE);
    let web = spec(&create(&pool, "web", json!({"ports": [{"port": 80}]})).await.expect("created"));
    let address = web["clusterIP"].as_str().expect("address").to_owned();
    assert!(address.starts_with("127.9") || address.starts_with("127.1"), "{address}");
    assert_eq!(web["clusterIPs"], json!([address]));
    assert_eq!((&web["ipFamilies"], &web["ipFamilyPolicy"]), (&json!(["IPv4"]), &json!("SingleStack")));
    assert_eq!(pool.taken(), (1, 0));
}

#[tokio::test]
async fn headless_and_external_services_take_nothing() {
    let pool = services(RANGE);
    let headless =
        spec(&create(&pool, "a", json!({"clusterIP": "None", "selector": {"a": "b"}})).await.expect("created"));
    assert_eq!((&headless["clusterIPs"], &headless["ipFamilies"]), (&json!(["None"]), &json!(["IPv4"])));
    let bare = spec(&create(&pool, "b", json!({"clusterIP": "None"})).await.expect("created"));
    assert_eq!((&bare["ipFamilies"], &bare["ipFamilyPolicy"]), (&json!(["IPv4", "IPv6"]), &json!("RequireDualStack")));
    let external = spec(
        &create(&pool, "c", json!({"type": "ExternalName", "externalName": "example.com"})).await.expect("created"),
    );
    assert_eq!((&external["clusterIP"], &external["ipFamilies"]), (&Value::Null, &Value::Null));
    assert_eq!(pool.taken(), (0, 0));
}

#[tokio::test]
async fn an_address_that_is_asked_for_is_given_once() {
    let pool = services(RANGE);
    create(&pool, "a", json!({"clusterIP": "127.96.7.7"})).await.expect("created");
    let refused = |address: &str, why: &str| {
        format!(
            "Service \"b\" is invalid: spec.clusterIPs: Invalid value: [\"{address}\"]: failed to allocate IP {address}: {why}"
        )
    };
    let taken = "provided IP is already allocated";
    for (address, why) in [
        ("127.96.7.7", taken.to_owned()),
        ("127.96.0.1", taken.to_owned()),
        ("127.96.0.10", taken.to_owned()),
        (
            "10.0.0.1",
            format!("the provided IP (10.0.0.1) is not in the valid range. The range of valid IPs is {RANGE}"),
        ),
        (
            "127.96.0.0",
            format!("the provided IP (127.96.0.0) is not in the valid range. The range of valid IPs is {RANGE}"),
        ),
    ] {
        assert_eq!(create(&pool, "b", json!({"clusterIP": address})).await.err(), Some(refused(address, &why)));
    }
    create(&pool, "kubernetes", json!({"clusterIP": "127.96.0.1"})).await.expect("its own address");
}

#[tokio::test]
async fn families_that_the_cluster_lacks_are_refused() {
    let pool = services(RANGE);
    let dual = create(&pool, "a", json!({"ipFamilyPolicy": "RequireDualStack"})).await;
    assert_eq!(
        dual.err().as_deref(),
        Some(
            "Service \"a\" is invalid: spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services"
        )
    );
    let six = create(&pool, "a", json!({"ipFamilies": ["IPv6"]})).await;
    assert_eq!(
        six.err().as_deref(),
        Some("Service \"a\" is invalid: spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster")
    );
    assert_eq!(pool.taken(), (0, 0));
}

#[tokio::test]
async fn node_ports_follow_the_type() {
    let pool = services(RANGE);
    let two = json!([{"name": "a", "port": 80}, {"name": "b", "port": 81, "nodePort": 30080}]);
    let first = create(&pool, "web", json!({"type": "NodePort", "ports": two})).await.expect("created");
    assert_eq!(pool.taken(), (1, 2));
    let chosen = spec(&first)["ports"][0]["nodePort"].clone();

    // Left out, they stay; so does the address.
    let second = update(
        &pool,
        &first,
        json!({"type": "NodePort", "ports": [{"name": "b", "port": 81}, {"name": "a", "port": 80}]}),
    )
    .await
    .expect("updated");
    assert_eq!(
        (&spec(&second)["ports"][1]["nodePort"], &spec(&second)["ports"][0]["nodePort"]),
        (&chosen, &json!(30080))
    );
    assert_eq!(spec(&second)["clusterIP"], spec(&first)["clusterIP"]);
    assert_eq!(pool.taken(), (1, 2));

    let taken = create(&pool, "other", json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30080}]})).await;
    assert_eq!(
        taken.err().as_deref(),
        Some(
            "Service \"other\" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated"
        )
    );
    let outside = create(&pool, "other", json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 80}]})).await;
    assert_eq!(
        outside.err().as_deref(),
        Some(
            "Service \"other\" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767"
        )
    );
    assert_eq!(pool.taken(), (1, 2), "what was refused took nothing");

    let mut third = serde_json::to_value(&second.spec).expect("json");
    third["type"] = json!("ClusterIP");
    let third = update(&pool, &second, third).await.expect("updated");
    assert_eq!(spec(&third)["ports"][0]["nodePort"], Value::Null);
    assert_eq!(pool.taken(), (1, 0));

    let fourth = update(&pool, &third, json!({"type": "ExternalName", "externalName": "x", "clusterIP": spec(&third)["clusterIP"], "clusterIPs": spec(&third)["clusterIPs"]})).await.expect("updated");
    assert_eq!(spec(&fourth)["clusterIP"], Value::Null);
    assert_eq!(pool.taken(), (0, 0));
}

#[tokio::test]
async fn load_balancers_take_ports_as_asked() {
    let pool = services(RANGE);
    create(&pool, "a", json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]}))
        .await
        .expect("created");
    assert_eq!(pool.taken(), (1, 2), "one for the port, one for health checks");
    create(
        &pool,
        "b",
        json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"port": 80}]}),
    )
    .await
    .expect("created");
    assert_eq!(pool.taken(), (2, 2));
    let shared = json!([{"name": "t", "port": 53, "nodePort": 30053}, {"name": "u", "port": 53, "protocol": "UDP", "nodePort": 30053}]);
    create(&pool, "c", json!({"type": "NodePort", "ports": shared})).await.expect("two protocols share a port");
    assert_eq!(pool.taken(), (3, 3));
}

#[tokio::test]
async fn a_write_that_fails_gives_everything_back() {
    let pool = services(RANGE);
    let mut made = service("web", json!({"type": "NodePort", "ports": [{"port": 80}]}));
    drop(begin(&pool, &mut made, None).await.expect("begun"));
    assert_eq!(pool.taken(), (0, 0));
    pool.begin(&mut made, None, true).await.expect("dry run").keep();
    assert_eq!(pool.taken(), (0, 0), "a dry run takes nothing");

    let kept = create(&pool, "web", json!({"type": "NodePort", "ports": [{"port": 80}]})).await.expect("created");
    let mut changed = service("web", json!({"type": "ClusterIP", "ports": [{"port": 80}]}));
    drop(begin(&pool, &mut changed, Some(&kept)).await.expect("begun"));
    assert_eq!(pool.taken(), (1, 1), "the old ones are still the object's");
    pool.release(&kept);
    assert_eq!(pool.taken(), (0, 0));
}

#[tokio::test]
async fn a_restart_knows_what_is_taken() {
    let pool = services(RANGE);
    let kept = create(
        &pool,
        "web",
        json!({"type": "NodePort", "clusterIP": "127.96.1.1", "ports": [{"port": 80, "nodePort": 31000}]}),
    )
    .await
    .expect("created");
    let again = services(RANGE);
    again.seed([&kept]);
    assert_eq!(again.taken(), (1, 1));
    create(&again, "thief", json!({"clusterIP": "127.96.1.1"})).await.expect_err("taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_spent_twice_under_concurrency() {
    const TASKS: usize = 64;
    // 12 addresses (14 less the two reserved) for 64 tasks: most must fail, again and again, and none may share.
    let pool = services("127.96.0.0/28");
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let pool = pool.clone();
        tasks.spawn(async move {
            let mut kept = Vec::new();
            for round in 0..50 {
                let wish = if round % 3 == 0 { json!({"clusterIP": "127.96.0.9"}) } else { json!({}) };
                let mut made = service(&format!("s-{task}"), wish);
                if let Ok(claim) = begin(&pool, &mut made, None).await {
                    tokio::task::yield_now().await;
                    if round == 49 && task % 2 == 0 {
                        claim.keep();
                        kept.push(spec(&made)["clusterIP"].as_str().expect("address").to_owned());
                    }
                }
            }
            kept
        });
    }
    let mut all: Vec<String> = tasks.join_all().await.into_iter().flatten().collect();
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count, "an address was spent twice");
    assert_eq!(pool.taken(), (count, 0), "what was not kept is free");
    while create(&pool, "rest", json!({})).await.is_ok() {}
    assert_eq!(pool.taken(), (12, 0), "every address of the range can be spent, once");
}
