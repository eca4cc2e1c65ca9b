//! A seeded random walk: users scale and delete, roll out, machines die and come back, the server is killed; in the end the world converges.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::json;
use wharf_test_support::eventually;
use wharf_test_support::sim_node::Spec;

use crate::fleet::{Fleet, address_of, deployment, node_of, pod_is_ready, ready_addresses, service};

const NODES: u8 = 8;
/// So many stay in service, whatever happens to the others.
const SPARED: usize = 3;
const APPS: [&str; 3] = ["a", "b", "c"];
const REPLICAS_MAX: usize = 16;
const STEPS: usize = 24;
/// Restarts of the server take longest.
const RESTARTS_MAX: usize = 2;
const PAUSE_MS: u64 = 250;

struct Walk {
    fleet: Fleet,
    random: StdRng,
    replicas: BTreeMap<&'static str, usize>,
    cordoned: BTreeSet<String>,
    restarts: usize,
}

/// `WHARF_SEED`, or one that nobody chose.
fn seed() -> u64 {
    let given = std::env::var("WHARF_SEED").ok();
    given.map_or_else(rand::random, |seed| seed.parse().expect("WHARF_SEED is a number"))
}

impl Walk {
    async fn step(&mut self) {
        let what = self.random.random_range(0..100);
        match what {
            0..30 => self.scale().await,
            30..40 => self.delete_a_pod().await,
            40..50 => self.replace_a_deployment().await,
            50..62 => self.roll_out().await,
            62..74 => self.cordon_or_uncordon().await,
            74..89 => self.stop_or_start_a_node().await,
            89..93 => self.delete_a_node().await,
            _ => self.restart_the_server().await,
        }
        tokio::time::sleep(Duration::from_millis(self.random.random_range(0..PAUSE_MS))).await;
    }

    fn app(&mut self) -> &'static str {
        APPS.choose(&mut self.random).expect("there are some")
    }

    async fn scale(&mut self) {
        let (app, replicas) = (self.app(), self.random.random_range(0..=REPLICAS_MAX));
        println!("scale {app} to {replicas}");
        eventually("scaled", || self.fleet.scale(app, replicas)).await;
        self.replicas.insert(app, replicas);
    }

    async fn delete_a_pod(&mut self) {
        let (app, nth) = (self.app(), self.random.random::<u32>() as usize);
        let mut pods = eventually("pods are listed", || self.fleet.pods(app)).await;
        pods.sort_by_key(ResourceExt::name_any);
        let Some(pod) = pods.get(nth % pods.len().max(1)) else { return };
        println!("delete a pod of {app}");
        let api: Api<Pod> = self.fleet.api();
        eventually("deleted", || gone(api.clone(), pod.name_any())).await;
    }

    async fn replace_a_deployment(&mut self) {
        let (app, replicas) = (self.app(), self.random.random_range(0..=REPLICAS_MAX));
        println!("delete {app}, and create it with {replicas}");
        let api: Api<Deployment> = self.fleet.api();
        eventually("deleted", || gone(api.clone(), app.to_owned())).await;
        let wanted = deployment(app, replicas, json!({}));
        eventually("created", || async {
            match api.create(&PostParams::default(), &wanted).await {
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                other => other.map(drop),
            }
        })
        .await;
        self.replicas.insert(app, replicas);
    }

    async fn roll_out(&mut self) {
        let (app, note) = (self.app(), self.random.random::<u32>());
        println!("roll {app} out anew");
        let change = json!({"spec": {"template": {"metadata": {"annotations": {"note": note.to_string()}}}}});
        let api: Api<Deployment> = self.fleet.api();
        eventually("rolled out", || async {
            api.patch(app, &PatchParams::default(), &Patch::Merge(&change)).await.map(drop)
        })
        .await;
    }

    /// Its object, that is: the machine runs on and registers again.
    async fn delete_a_node(&mut self) {
        let number = self.random.random_range(0..self.fleet.nodes.len());
        let (node, nodes) = (&self.fleet.nodes[number], self.fleet.node_api());
        if !node.is_running() {
            return;
        }
        println!("delete {}", node.name);
        eventually("deleted", || gone(nodes.clone(), node.name.clone())).await;
        eventually("the node registers again", || nodes.get(&node.name)).await;
        self.cordoned.remove(&node.name);
    }

    /// How many nodes are in service.
    fn in_service(&self) -> usize {
        self.fleet.nodes.iter().filter(|node| node.is_running() && !self.cordoned.contains(&node.name)).count()
    }

    async fn cordon_or_uncordon(&mut self) {
        let number = self.random.random_range(0..self.fleet.nodes.len());
        let name = self.fleet.nodes[number].name.clone();
        let nodes = self.fleet.node_api();
        if self.cordoned.remove(&name) {
            println!("uncordon {name}");
            eventually("uncordoned", || nodes.uncordon(&name)).await;
        } else if self.in_service() > SPARED {
            println!("cordon {name}");
            eventually("cordoned", || nodes.cordon(&name)).await;
            self.cordoned.insert(name);
        }
    }

    async fn stop_or_start_a_node(&mut self) {
        let number = self.random.random_range(0..self.fleet.nodes.len());
        let (room, reboot) = (self.in_service() > SPARED, self.random.random());
        let node = &mut self.fleet.nodes[number];
        if node.is_running() && room {
            println!("stop {}", node.name);
            node.stop().await;
        } else if !node.is_running() {
            println!("start {}, reboot: {reboot}", node.name);
            if reboot { node.reboot().await } else { node.start().await }.expect("it comes back");
        }
    }

    async fn restart_the_server(&mut self) {
        if self.restarts == RESTARTS_MAX {
            return;
        }
        println!("kill the server and start it again");
        self.restarts += 1;
        self.fleet.cluster.kill().await;
        self.fleet.cluster.restart().await.expect("it starts again");
    }

    async fn converges(&self) {
        eventually("the world converges", || async {
            let wrong = self.wrong().await.unwrap_or_else(|error| vec![error.to_string()]);
            if wrong.is_empty() { Ok(()) } else { Err(wrong) }
        })
        .await;
    }

    /// What is not as it should be.
    async fn wrong(&self) -> Result<Vec<String>, kube::Error> {
        let mut wrong = Vec::new();
        let all = ListParams::default();
        let pods = self.fleet.api::<Pod>().list(&all).await?.items;
        let nodes: BTreeSet<String> =
            self.fleet.node_api().list(&all).await?.iter().map(ResourceExt::name_any).collect();
        let live: BTreeSet<&str> =
            self.fleet.nodes.iter().filter(|node| node.is_running()).map(|node| node.name.as_str()).collect();

        let mut holders: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for pod in &pods {
            let (name, node) = (pod.name_any(), node_of(pod));
            if !node.is_empty() && !nodes.contains(node) {
                wrong.push(format!("{name} is on {node}, which does not exist"));
            }
            if pod.metadata.deletion_timestamp.is_some() && live.contains(node) {
                wrong.push(format!("{name} is still going, on {node}"));
            }
            if let Some(address) = address_of(pod) {
                holders.entry(address).or_default().push(name);
            }
        }
        wrong.extend(
            holders
                .into_iter()
                .filter(|(_, pods)| pods.len() > 1)
                .map(|(address, pods)| format!("{address} is of {pods:?}")),
        );
        for (app, replicas) in &self.replicas {
            wrong.extend(self.wrong_with(app, *replicas, &pods, &live).await?);
        }
        Ok(wrong)
    }

    async fn wrong_with(
        &self,
        app: &str,
        replicas: usize,
        pods: &[Pod],
        live: &BTreeSet<&str>,
    ) -> Result<Vec<String>, kube::Error> {
        let mut wrong = Vec::new();
        let stays = |pod: &&Pod| pod.metadata.deletion_timestamp.is_none() && pod.labels()["app"] == app;
        let own: Vec<&Pod> = pods.iter().filter(stays).collect();
        let ready = own.iter().filter(|pod| pod_is_ready(pod) && live.contains(node_of(pod))).count();
        if (own.len(), ready) != (replicas, replicas) {
            wrong.push(format!("{app} has {} pods and {ready} ready on live nodes, of {replicas}", own.len()));
        }
        let status = self.fleet.api::<Deployment>().get(app).await?.status.unwrap_or_default();
        let told = [status.replicas, status.ready_replicas, status.available_replicas, status.updated_replicas];
        if told.iter().any(|told| usize::try_from(told.unwrap_or(0)) != Ok(replicas)) {
            wrong.push(format!("{app} says {told:?} of {replicas}"));
        }
        let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={app}"));
        let slices = self.fleet.api::<EndpointSlice>().list(&of_service).await?.items;
        let addresses: BTreeSet<String> =
            own.iter().filter(|pod| pod_is_ready(pod)).filter_map(|pod| address_of(pod)).map(str::to_owned).collect();
        let named = ready_addresses(&slices);
        if named != addresses {
            wrong.push(format!("{app}: slices name {named:?}, ready are {addresses:?}"));
        }
        Ok(wrong)
    }
}

/// Deletes; what is not there is fine.
async fn gone<K>(api: Api<K>, name: String) -> Result<(), kube::Error>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    match api.delete(&name, &DeleteParams::background()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_random_walk_the_world_converges() {
    let seed = seed();
    println!("WHARF_SEED={seed}");
    let fleet = Fleet::of((1..=NODES).map(Spec::new).collect()).await;
    let mut walk = Walk {
        fleet,
        random: StdRng::seed_from_u64(seed),
        replicas: BTreeMap::new(),
        cordoned: BTreeSet::new(),
        restarts: 0,
    };
    for app in APPS {
        let replicas = walk.random.random_range(1..=REPLICAS_MAX);
        println!("create {app} with {replicas}");
        walk.fleet.deploy(&deployment(app, replicas, json!({}))).await;
        walk.fleet.api().create(&PostParams::default(), &service(app)).await.expect("a Service is created");
        walk.replicas.insert(app, replicas);
    }
    for _ in 0..STEPS {
        walk.step().await;
    }
    println!("what is stopped stays so");
    walk.converges().await;
    println!("every node comes back");
    for node in &mut walk.fleet.nodes {
        node.start().await.expect("it comes back");
    }
    walk.converges().await;
    let nodes = walk.fleet.node_api().list(&ListParams::default()).await.expect("nodes are listed");
    assert_eq!(nodes.items.len(), usize::from(NODES), "{:?}", nodes.iter().map(Node::name_any).collect::<Vec<_>>());
}
