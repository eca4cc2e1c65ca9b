//! What Services take before they are stored: addresses of the ServiceCIDRs that are there, and node ports.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Event;
use kube::Client;
use kube::api::{Api as Kind, ListParams};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use support::{Answer, Api};
use wharf_apiserver::allocate::{Allocators, NODE_PORTS, Services, repair};
use wharf_auth::User;
use wharf_types::Gvr;

mod support;

const RANGE: &str = "127.96.0.0/12";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";

/// A server that allocates, started with `range`, which is there as a ServiceCIDR.
struct Cluster {
    api: Api,
    services: Services,
}

impl Cluster {
    async fn new(range: &str) -> Self {
        let rng = Box::new(StdRng::seed_from_u64(7));
        let services = Services::new(range.parse().expect("a range"), NODE_PORTS, rng);
        let allocators = Allocators::built_in(services.clone());
        let api = Api::with(|options| options.allocators = allocators).await;
        let cluster = Self { api, services };
        cluster.range("kubernetes", range).await;
        cluster
    }

    async fn range(&self, name: &str, block: &str) {
        let body = json!({"metadata": {"name": name}, "spec": {"cidrs": [block]}});
        self.api.post(RANGES, &body).await.expect(201);
    }

    async fn post(&self, name: &str, spec: Value) -> Answer {
        self.api.post(SERVICES, &json!({"metadata": {"name": name}, "spec": spec})).await
    }

    /// A Service's spec, or why there is none.
    async fn create(&self, name: &str, spec: Value) -> Result<Value, String> {
        told(self.post(name, with_a_port(spec)).await)
    }

    /// Replaces a Service's spec.
    async fn update(&self, name: &str, spec: Value) -> Result<Value, String> {
        let body = json!({"metadata": {"name": name}, "spec": spec});
        told(self.api.put(&format!("{SERVICES}/{name}"), &body).await)
    }

    /// Each address that is taken, with the Service that has it.
    async fn addresses(&self) -> Vec<String> {
        let list = self.api.get(ADDRESSES).await.expect(200);
        let shown = |item: &Value| {
            let parent = &item["spec"]["parentRef"];
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            format!("{} {}/{}", text(&item["metadata"]["name"]), text(&parent["namespace"]), text(&parent["name"]))
        };
        list["items"].as_array().expect("items").iter().map(shown).collect()
    }

    /// How many addresses and ports are taken.
    async fn taken(&self) -> (usize, usize) {
        (self.addresses().await.len(), self.services.ports_taken())
    }
}

fn with_a_port(mut spec: Value) -> Value {
    let is_name = spec["type"] == "ExternalName";
    if spec.get("ports").is_none() && !is_name {
        spec["ports"] = json!([{"port": 80}]);
    }
    spec
}

fn told(answer: Answer) -> Result<Value, String> {
    match answer.code.is_success() {
        true => Ok(answer.json["spec"].clone()),
        false => Err(answer.json["message"].as_str().unwrap_or_default().to_owned()),
    }
}

#[tokio::test]
async fn a_service_gets_an_address_and_single_stack_fields() {
    let cluster = Cluster::new(RANGE).await;
    let web = cluster.create("web", json!({})).await.expect("created");
    let address = web["clusterIP"].as_str().expect("an address").to_owned();
    assert_eq!(web["clusterIPs"], json!([address]));
    assert_eq!((&web["ipFamilies"], &web["ipFamilyPolicy"]), (&json!(["IPv4"]), &json!("SingleStack")));
    assert_eq!(cluster.addresses().await, [format!("{address} default/web")]);
    let held = cluster.api.get(&format!("{ADDRESSES}/{address}")).await.expect(200);
    assert_eq!(
        held["metadata"]["labels"],
        json!({"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"})
    );
    cluster.api.delete(&format!("{SERVICES}/web")).await.expect(200);
    assert_eq!(cluster.taken().await, (0, 0));
}

#[tokio::test]
async fn headless_and_external_services_take_nothing() {
    let cluster = Cluster::new(RANGE).await;
    let headless = cluster.create("a", json!({"clusterIP": "None", "selector": {"a": "b"}})).await.expect("created");
    assert_eq!((&headless["clusterIPs"], &headless["ipFamilies"]), (&json!(["None"]), &json!(["IPv4"])));
    let bare = cluster.create("b", json!({"clusterIP": "None"})).await.expect("created");
    assert_eq!((&bare["ipFamilies"], &bare["ipFamilyPolicy"]), (&json!(["IPv4", "IPv6"]), &json!("RequireDualStack")));
    let named = json!({"type": "ExternalName", "externalName": "example.com"});
    let external = cluster.create("c", named).await.expect("created");
    assert_eq!((&external["clusterIP"], &external["ipFamilies"]), (&Value::Null, &Value::Null));
    assert_eq!(cluster.taken().await, (0, 0));
}

#[tokio::test]
async fn an_address_that_is_asked_for_is_given_once() {
    let cluster = Cluster::new(RANGE).await;
    cluster.create("a", json!({"clusterIP": "127.96.7.7"})).await.expect("created");
    let taken = "provided IP is already allocated";
    let outside = "the provided network does not match the current range";
    for (address, why) in [
        ("127.96.7.7", taken),
        ("127.96.0.1", taken),
        ("127.96.0.10", taken),
        ("10.0.0.1", outside),
        ("127.96.0.0", outside),
    ] {
        let refused = cluster.create("b", json!({"clusterIP": address})).await.expect_err("refused");
        let expected = format!(
            "Service \"b\" is invalid: spec.clusterIPs: Invalid value: [\"{address}\"]: failed to allocate IP {address}: {why}"
        );
        assert_eq!(refused, expected);
    }
    cluster.create("kubernetes", json!({"clusterIP": "127.96.0.1"})).await.expect("its own address");
}

#[tokio::test]
async fn a_range_is_used_from_its_first_moment_to_its_last() {
    let cluster = Cluster::new("127.96.0.0/28").await;
    let asked = json!({"clusterIP": "203.0.113.10"});
    cluster.create("early", asked.clone()).await.expect_err("no range has it");
    cluster.range("more", "203.0.113.0/24").await;
    cluster.create("web", asked.clone()).await.expect("created");

    // The first range has fourteen addresses, of which two are spoken for: the rest come of the other.
    for index in 0..40 {
        cluster.create(&format!("s-{index}"), json!({})).await.expect("created");
    }
    let addresses = cluster.addresses().await;
    let in_first = addresses.iter().filter(|line| line.starts_with("127.96.0.")).count();
    assert!((1..=12).contains(&in_first) && addresses.len() == 41, "{addresses:?}");

    // While it is being deleted nothing is taken of it, and what was taken is kept.
    let merge = json!({"metadata": {"finalizers": ["example.com/wait"]}});
    cluster.api.patch(&format!("{RANGES}/more"), "merge", &merge).await.expect(200);
    cluster.api.delete(&format!("{RANGES}/more")).await.expect(200);
    let late = cluster.create("late", json!({"clusterIP": "203.0.113.11"})).await.expect_err("the range goes");
    assert!(late.ends_with("the provided network does not match the current range"), "{late}");
    let web = cluster.api.get(&format!("{SERVICES}/web")).await.expect(200);
    assert_eq!(web["spec"]["clusterIP"], "203.0.113.10");
    cluster
        .update("web", with_a_port(json!({"clusterIP": "203.0.113.10", "selector": {"a": "b"}})))
        .await
        .expect("kept");
}

#[tokio::test]
async fn a_range_that_is_told_not_to_be_ready_is_not_used() {
    let cluster = Cluster::new(RANGE).await;
    let condition = json!({"type": "Ready", "status": "False", "reason": "Terminating", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let status = json!({"status": {"conditions": [condition]}});
    cluster.api.patch(&format!("{RANGES}/kubernetes/status"), "merge", &status).await.expect(200);
    let refused = cluster.create("web", json!({})).await.expect_err("no range");
    assert_eq!(refused, "Internal error occurred: failed to allocate a serviceIP: range is full");
}

#[tokio::test]
async fn families_that_the_cluster_lacks_are_refused() {
    let cluster = Cluster::new(RANGE).await;
    let dual = cluster.create("a", json!({"ipFamilyPolicy": "RequireDualStack"})).await;
    assert_eq!(
        dual.err().as_deref(),
        Some(
            "Service \"a\" is invalid: spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services"
        )
    );
    // A range of the other family does not make the cluster have it.
    cluster.range("six", "2001:db8::/64").await;
    let six = cluster.create("a", json!({"ipFamilies": ["IPv6"]})).await;
    assert_eq!(
        six.err().as_deref(),
        Some("Service \"a\" is invalid: spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster")
    );
    assert_eq!(cluster.taken().await, (0, 0));
}

#[tokio::test]
async fn node_ports_follow_the_type() {
    let cluster = Cluster::new(RANGE).await;
    let two = json!([{"name": "a", "port": 80}, {"name": "b", "port": 81, "nodePort": 30080}]);
    let first = cluster.create("web", json!({"type": "NodePort", "ports": two})).await.expect("created");
    assert_eq!(cluster.taken().await, (1, 2));
    let chosen = first["ports"][0]["nodePort"].clone();

    // Left out, they stay; so does the address.
    let ports = json!([{"name": "b", "port": 81}, {"name": "a", "port": 80}]);
    let second = cluster.update("web", json!({"type": "NodePort", "ports": ports})).await.expect("updated");
    assert_eq!((&second["ports"][1]["nodePort"], &second["ports"][0]["nodePort"]), (&chosen, &json!(30080)));
    assert_eq!(second["clusterIP"], first["clusterIP"]);
    assert_eq!(cluster.taken().await, (1, 2));

    for (port, why) in [
        (30080, "provided port is already allocated"),
        (80, "provided port is not in the valid range. The range of valid ports is 30000-32767"),
    ] {
        let asked = json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": port}]});
        let refused = cluster.create("other", asked).await.expect_err("refused");
        let expected = format!("Service \"other\" is invalid: spec.ports[0].nodePort: Invalid value: {port}: {why}");
        assert_eq!(refused, expected);
    }
    assert_eq!(cluster.taken().await, (1, 2), "what was refused took nothing");

    let mut third = second.clone();
    third["type"] = json!("ClusterIP");
    let third = cluster.update("web", third).await.expect("updated");
    assert_eq!(third["ports"][0]["nodePort"], Value::Null);
    assert_eq!(cluster.taken().await, (1, 0));

    let named = json!({"type": "ExternalName", "externalName": "x", "clusterIP": third["clusterIP"], "clusterIPs": third["clusterIPs"]});
    let fourth = cluster.update("web", named).await.expect("updated");
    assert_eq!(fourth["clusterIP"], Value::Null);
    assert_eq!(cluster.taken().await, (0, 0));
}

#[tokio::test]
async fn load_balancers_take_ports_as_asked() {
    let cluster = Cluster::new(RANGE).await;
    let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
    cluster.create("a", local).await.expect("created");
    assert_eq!(cluster.taken().await, (1, 2), "one for the port, one for health checks");
    let without = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false});
    cluster.create("b", without).await.expect("created");
    assert_eq!(cluster.taken().await, (2, 2));
    let shared = json!([{"name": "t", "port": 53, "nodePort": 30053}, {"name": "u", "port": 53, "protocol": "UDP", "nodePort": 30053}]);
    cluster.create("c", json!({"type": "NodePort", "ports": shared})).await.expect("two protocols share a port");
    assert_eq!(cluster.taken().await, (3, 3));
}

#[tokio::test]
async fn a_write_that_fails_gives_everything_back() {
    let cluster = Cluster::new(RANGE).await;
    let invalid = json!({"type": "NodePort", "sessionAffinity": "Sometimes", "ports": [{"port": 80}]});
    cluster.create("web", invalid).await.expect_err("refused");
    assert_eq!(cluster.taken().await, (0, 0));

    let ported = json!({"type": "NodePort", "ports": [{"port": 80}]});
    let dry = json!({"metadata": {"name": "web"}, "spec": ported});
    let shown = cluster.api.post(&format!("{SERVICES}?dryRun=All"), &dry).await.expect(201);
    assert_eq!(shown["spec"]["clusterIP"], "127.96.0.0", "as upstream, a dry run shows the network's own");
    assert_eq!(cluster.taken().await, (0, 0), "a dry run takes nothing");

    cluster.create("web", ported.clone()).await.expect("created");
    cluster.create("web", ported).await.expect_err("there is one");
    assert_eq!(cluster.taken().await, (1, 1));
    let invalid = json!({"type": "ClusterIP", "sessionAffinity": "Sometimes", "ports": [{"port": 80}]});
    cluster.update("web", invalid).await.expect_err("refused");
    assert_eq!(cluster.taken().await, (1, 1), "the old ones are still the object's");
    cluster.api.delete(&format!("{SERVICES}/web")).await.expect(200);
    assert_eq!(cluster.taken().await, (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_spent_twice_under_concurrency() {
    const TASKS: usize = 32;
    // Twelve addresses, fourteen less the two that are spoken for: most must fail, again and again, and none may share.
    let cluster = std::sync::Arc::new(Cluster::new("127.96.0.0/28").await);
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let cluster = cluster.clone();
        tasks.spawn(async move {
            let mut kept = None;
            for round in 0..12 {
                let name = format!("s-{task}");
                let wish = if round % 3 == 0 { json!({"clusterIP": "127.96.0.9"}) } else { json!({}) };
                let Ok(spec) = cluster.create(&name, wish).await else { continue };
                if task % 2 == 0 {
                    kept = Some(spec["clusterIP"].as_str().expect("an address").to_owned());
                    break;
                }
                cluster.api.delete(&format!("{SERVICES}/{name}")).await.expect(200);
            }
            kept
        });
    }
    let kept: Vec<String> = tasks.join_all().await.into_iter().flatten().collect();
    let different: BTreeSet<&String> = kept.iter().collect();
    assert_eq!(different.len(), kept.len(), "an address was spent twice: {kept:?}");
    assert_eq!(cluster.taken().await.0, kept.len(), "what was not kept is free");
    let mut index = 0;
    while cluster.create(&format!("rest-{index}"), json!({})).await.is_ok() {
        index += 1;
    }
    assert_eq!(cluster.taken().await, (12, 0), "every address of the range can be spent, once");
}

#[tokio::test]
async fn what_does_not_agree_is_put_right_and_told() {
    let cluster = Cluster::new(RANGE).await;
    cluster.create("web", json!({"clusterIP": "127.96.1.1"})).await.expect("created");
    cluster.api.delete(&format!("{ADDRESSES}/127.96.1.1")).await.expect(200);
    repair::ensure(&cluster.api.server).await.expect("looked at");
    assert_eq!(cluster.addresses().await, ["127.96.1.1 default/web"]);

    let client = Client::new(cluster.api.server.service_for(User::new("tester", &[])), "default");
    let events = Kind::<Event>::default_namespaced(client).list(&ListParams::default()).await.expect("events");
    let told: Vec<_> = events.iter().map(|event| (event.reason.as_deref(), event.message.as_deref())).collect();
    let note = "Cluster IP [IPv4]: 127.96.1.1 is not allocated; repairing";
    assert_eq!(told, [(Some("ClusterIPNotAllocated"), Some(note))]);
    let about = events.items.first().map(|event| event.involved_object.name.as_deref());
    assert_eq!(about, Some(Some("web")));
}

#[tokio::test]
async fn an_address_that_goes_comes_back_while_its_service_has_it() {
    let cluster = Cluster::new(RANGE).await;
    cluster.create("web", json!({"clusterIP": "127.96.1.1"})).await.expect("created");
    let server = cluster.api.server.clone();
    let keeper = tokio::spawn(async move { repair::keep(&server).await });
    let mut seen = cluster.api.watch(&format!("{ADDRESSES}?watch=true")).await;
    assert_eq!(seen.event().await, "ADDED 127.96.1.1");
    let gvr = Gvr { group: "networking.k8s.io".into(), version: "v1".into(), resource: "ipaddresses".into() };
    let held = cluster.api.server.collection_of(&gvr).expect("served");
    while held.watchers() < 2 {
        tokio::task::yield_now().await;
    }
    cluster.api.delete(&format!("{ADDRESSES}/127.96.1.1")).await.expect(200);
    assert_eq!(seen.event().await, "DELETED 127.96.1.1");
    assert_eq!(seen.event().await, "ADDED 127.96.1.1");
    cluster.api.delete(&format!("{SERVICES}/web")).await.expect(200);
    assert_eq!(seen.event().await, "DELETED 127.96.1.1");
    keeper.abort();
}
