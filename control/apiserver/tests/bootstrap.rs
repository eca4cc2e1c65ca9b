//! A new cluster's first objects, and what admission and allocation do through the whole stack.

use std::net::SocketAddr;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use wharf_apiserver::ApiServer;
use wharf_apiserver::bootstrap::{self, Location};
use wharf_auth::User;

mod support;

fn at(port: u16) -> Location {
    let services = "127.96.0.0/16".parse().expect("a range");
    Location { service_ip: [127, 96, 0, 1].into(), services, listener: SocketAddr::from(([127, 0, 0, 1], port)) }
}

async fn cluster() -> (Arc<ApiServer>, Client) {
    let server = support::server().await;
    bootstrap::ensure(&server, at(6443)).await.expect("bootstrap");
    let client = Client::new(server.service_for(User::new("system:admin", &["system:masters"])), "default");
    let accounts: Api<ServiceAccount> = Api::default_namespaced(client.clone());
    create(&accounts, json!({"metadata": {"name": "default"}})).await.expect("service account");
    (server, client)
}

async fn create<K>(api: &Api<K>, object: Value) -> Result<K, String>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    let object: K = serde_json::from_value(object).expect("an object of the kind");
    api.create(&PostParams::default(), &object).await.map_err(|error| match error {
        kube::Error::Api(status) => status.message,
        other => other.to_string(),
    })
}

#[tokio::test]
async fn a_cluster_starts_with_priorities_and_its_versions() {
    let (server, client) = cluster().await;
    let schemas: Api<FlowSchema> = Api::all(client.clone());
    assert_eq!(schemas.list(&ListParams::default()).await.expect("list").items.len(), 13);
    let levels: Api<PriorityLevelConfiguration> = Api::all(client.clone());
    assert_eq!(levels.list(&ListParams::default()).await.expect("list").items.len(), 8);

    let services: Api<APIService> = Api::all(client);
    let apps = services.get("v1.apps").await.expect("an APIService for apps/v1");
    assert_eq!(apps.spec.map(|spec| (spec.group_priority_minimum, spec.version_priority)), Some((17_800, 15)));
    let status = apps.status.and_then(|status| status.conditions).unwrap_or_default();
    assert_eq!(status.first().map(|condition| condition.status.as_str()), Some("True"));

    // Whoever restarts finds what is there as it should be.
    let before = server.cache.revision();
    bootstrap::ensure(&server, at(6443)).await.expect("bootstrap again");
    assert_eq!(server.cache.revision(), before, "nothing was written");
}

#[tokio::test]
async fn the_range_of_services_is_told() {
    let (server, client) = cluster().await;
    let ranges: Api<ServiceCIDR> = Api::all(client);
    let held = ranges.get("kubernetes").await.expect("the range");
    let first = held.metadata.uid.clone();
    assert_eq!(held.spec.and_then(|spec| spec.cidrs), Some(vec!["127.96.0.0/16".to_owned()]));
    let ready = held.status.and_then(|status| status.conditions).unwrap_or_default();
    let ready: Vec<_> = ready.iter().map(|condition| (&*condition.type_, &*condition.status)).collect();
    assert_eq!(ready, [("Ready", "True")]);

    let cancel = CancellationToken::new();
    let keeper = tokio::spawn(bootstrap::keep(server, at(6443), cancel.clone()));
    ranges.delete("kubernetes", &DeleteParams::default()).await.expect("delete");
    let by_name = watcher::Config::default().fields("metadata.name=kubernetes");
    let mut seen = watcher(ranges, by_name).applied_objects().boxed();
    let back = async {
        while let Some(range) = seen.next().await {
            if range.is_ok_and(|range| range.metadata.uid != first) {
                return;
            }
        }
    };
    tokio::time::timeout(support::DEADLINE, back).await.expect("the range comes back");
    cancel.cancel();
    keeper.await.expect("the keeper");
}

#[tokio::test]
async fn a_level_that_is_taken_away_comes_back() {
    let (server, client) = cluster().await;
    let cancel = CancellationToken::new();
    let keeper = tokio::spawn(bootstrap::keep(server, at(6443), cancel.clone()));
    let levels: Api<PriorityLevelConfiguration> = Api::all(client);
    let first = levels.get("catch-all").await.expect("a level").metadata.uid;
    levels.delete("catch-all", &DeleteParams::default()).await.expect("delete");
    let by_name = watcher::Config::default().fields("metadata.name=catch-all");
    let mut seen = watcher(levels, by_name).applied_objects().boxed();
    let back = async {
        while let Some(level) = seen.next().await {
            if level.is_ok_and(|level| level.metadata.uid != first) {
                return;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), back).await.expect("the level comes back");
    cancel.cancel();
    keeper.await.expect("the keeper ends");
}

#[tokio::test]
async fn an_api_service_is_made_and_judged() {
    let (_server, client) = cluster().await;
    let services: Api<APIService> = Api::all(client);
    let service = json!({
        "metadata": {"name": "v1.walk.example.com"},
        "spec": {
            "group": "walk.example.com", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1,
            "service": {"namespace": "default", "name": "absent"},
        },
    });
    let made = create(&services, service).await.expect("create");
    assert_eq!(made.spec.as_ref().and_then(|spec| spec.service.as_ref()?.port), Some(443));
    let mut judged = made.clone();
    judged.spec.get_or_insert_default().version_priority = 7;
    judged.status =
        serde_json::from_value(json!({"conditions": [{"type": "Available", "status": "False"}]})).expect("a status");
    let judged = services.replace_status("v1.walk.example.com", &PostParams::default(), &judged).await.expect("status");
    assert_eq!(judged.spec, made.spec);
    assert!(judged.status.is_some_and(|status| status.conditions.is_some()));
    let wrong = json!({"metadata": {"name": "mine"}, "spec": {"group": "a.b", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1}});
    let why = create(&services, wrong).await.expect_err("a name of its own");
    assert!(why.contains("must be `spec.version"), "{why}");
}

#[tokio::test]
async fn a_cluster_starts_with_its_namespaces_and_its_service() {
    let (server, client) = cluster().await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let names: Vec<String> = namespaces
        .list(&ListParams::default())
        .await
        .expect("list")
        .into_iter()
        .filter_map(|ns| ns.metadata.name)
        .collect();
    assert_eq!(names, ["default", "kube-node-lease", "kube-public", "kube-system"]);
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let first = services.get("kubernetes").await.expect("service");
    assert_eq!(first.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()), Some("127.96.0.1"));

    bootstrap::ensure(&server, at(6443)).await.expect("again");
    let again = services.get("kubernetes").await.expect("service");
    assert_eq!(first.metadata.resource_version, again.metadata.resource_version, "nothing to do");

    bootstrap::ensure(&server, at(7443)).await.expect("moved");
    let slices: Api<EndpointSlice> = Api::default_namespaced(client);
    let slice = slices.get("kubernetes").await.expect("slice");
    let port = slice.ports.and_then(|ports| ports.into_iter().next()).and_then(|port| port.port);
    assert_eq!(port, Some(7443));
    let moved = services.get("kubernetes").await.expect("service");
    assert_eq!(moved.metadata.uid, first.metadata.uid, "the object stays the same one");
}

#[tokio::test]
async fn what_somebody_takes_away_comes_back() {
    let (server, client) = cluster().await;
    let cancel = CancellationToken::new();
    let task = tokio::spawn(bootstrap::keep(server, at(6443), cancel.clone()));
    let services: Api<Service> = Api::default_namespaced(client);
    let before = services.get("kubernetes").await.expect("service").metadata.uid;
    services.delete("kubernetes", &DeleteParams::default()).await.expect("delete");
    let back = async {
        let only = watcher::Config::default().fields("metadata.name=kubernetes");
        let mut events = std::pin::pin!(watcher(services.clone(), only).default_backoff().applied_objects());
        while let Some(next) = events.next().await {
            if next.expect("an event").metadata.uid != before {
                return;
            }
        }
    };
    tokio::time::timeout(support::DEADLINE, back).await.expect("it comes back");
    cancel.cancel();
    task.await.expect("the keeper ends");
}

#[tokio::test]
async fn admission_stands_before_the_store() {
    let (_server, client) = cluster().await;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let pod = json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "web", "image": "web:v1"}]}});
    let made = create(&pods, pod.clone()).await.expect("created");
    let spec = made.spec.expect("spec");
    assert_eq!((spec.service_account_name.as_deref(), spec.priority), (Some("default"), Some(0)));
    assert_eq!(spec.tolerations.map(|tolerations| tolerations.len()), Some(2));

    let elsewhere: Api<Pod> = Api::namespaced(client.clone(), "nowhere");
    assert_eq!(create(&elsewhere, pod).await.err().as_deref(), Some(r#"namespaces "nowhere" not found"#));
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let refused = namespaces.delete("kube-system", &DeleteParams::default()).await.expect_err("immortal");
    assert!(refused.to_string().contains("this namespace may not be deleted"), "{refused}");

    let nodes: Api<Node> = Api::all(client);
    let node = create(&nodes, json!({"metadata": {"name": "n1"}})).await.expect("created");
    let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    assert_eq!(taints.first().map(|taint| taint.key.as_str()), Some("node.kubernetes.io/not-ready"));
}

#[tokio::test]
async fn a_node_is_held_to_what_is_its_own() {
    let (server, _client) = cluster().await;
    let node = Client::new(server.service_for(User::new("system:node:n1", &["system:nodes"])), "default");
    let nodes: Api<Node> = Api::all(node.clone());
    create(&nodes, json!({"metadata": {"name": "n1"}})).await.expect("its own");
    let other = create(&nodes, json!({"metadata": {"name": "n2"}})).await.expect_err("another's");
    assert_eq!(other, r#"nodes "n2" is forbidden: node "n1" is not allowed to modify node "n2""#);
    let pods: Api<Pod> = Api::default_namespaced(node);
    let pod = json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "web", "image": "web:v1"}]}});
    create(&pods, pod).await.expect_err("not a mirror pod");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_ask_for_one_address_one_gets_it() {
    const CLIENTS: usize = 64;
    let (server, client) = cluster().await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let services: Api<Service> = Api::default_namespaced(client.clone());
        tasks.spawn(async move {
            let spec = json!({"clusterIP": "127.96.5.5", "type": "NodePort", "ports": [{"port": 80}]});
            create(&services, json!({"metadata": {"name": format!("s-{number}")}, "spec": spec})).await
        });
    }
    let results = tasks.join_all().await;
    let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, CLIENTS - 1));
    for refusal in lost.into_iter().filter_map(Result::err) {
        assert!(refusal.ends_with("failed to allocate IP 127.96.5.5: provided IP is already allocated"), "{refusal}");
    }
    // Gone with its Service, it is free again; and so is the port.
    let winner = won.into_iter().flatten().next().expect("a winner");
    let services: Api<Service> = Api::default_namespaced(client);
    let port = winner.spec.and_then(|spec| spec.ports).and_then(|ports| ports[0].node_port).expect("a node port");
    services.delete(&winner.metadata.name.expect("name"), &DeleteParams::default()).await.expect("delete");
    let spec = json!({"clusterIP": "127.96.5.5", "type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    create(&services, json!({"metadata": {"name": "next"}, "spec": spec})).await.expect("free again");
    drop(server);
}
