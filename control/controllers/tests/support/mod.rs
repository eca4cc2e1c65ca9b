//! A cluster in memory: the real API server, the real controllers, and a node that only says that pods run.

#![allow(dead_code, reason = "each suite uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wharf_admission::Chain;
use wharf_apiserver::allocate::Allocators;
use wharf_apiserver::{ApiServer, Options, policy};
use wharf_auth::{Attributes, AuthenticateError, Authenticator, Authorizer, Decision, Rbac, Remarks, User};
use wharf_cache::Cache;
use wharf_client::{Clock, Informed, Informers, Lister, Manager, ObjectKey, StatusHandle, transport};
use wharf_registry::{Table, builtin};
use wharf_store::MemoryStore;
use wharf_types::k8s::api::core::v1::{Namespace, Node, Pod};

/// Far longer than anything here takes.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// Requests that the node makes at once.
const STEPS: usize = 32;
/// The one node.
pub const NODE: &str = "n1";

/// What somebody was allowed to write: user, verb, and resource with its subresource.
pub type Written = BTreeSet<(String, String, String)>;

/// The built-in identities may do what they may; others everything. Remembers what the former wrote.
struct Rules(Arc<Rbac>, Arc<Mutex<Written>>);

#[async_trait]
impl Authorizer for Rules {
    async fn authorize(&self, user: &User, attributes: &Attributes) -> Decision {
        let built_in = ["system:kube-", "system:serviceaccount:kube-system:"];
        if !built_in.iter().any(|prefix| user.name.starts_with(prefix)) {
            return Decision::Allow(String::new());
        }
        let decision = self.0.authorize(user, attributes).await;
        let Attributes { verb, resource, subresource, .. } = attributes;
        if matches!(decision, Decision::Allow(_)) && !matches!(verb.as_str(), "get" | "list" | "watch") {
            let resource = if subresource.is_empty() { resource.clone() } else { format!("{resource}/{subresource}") };
            self.1.lock().insert((user.name.clone(), verb.clone(), resource));
        }
        decision
    }
}

struct Nobody;

#[async_trait]
impl Authenticator for Nobody {
    async fn authenticate(&self, _: &http::request::Parts, _: &mut Remarks) -> Result<Option<User>, AuthenticateError> {
        Ok(None)
    }
}

pub struct Cluster {
    /// A user who may do everything.
    pub client: Client,
    pub informers: Informers,
    pub status: StatusHandle,
    written: Arc<Mutex<Written>>,
    server: Arc<ApiServer>,
    told: wharf_controllers::Options,
    cancel: CancellationToken,
    /// Ends the controllers; a child of the above.
    controllers: CancellationToken,
    manager: Option<tokio::task::JoinHandle<()>>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.cancel.cancel();
        if std::thread::panicking() {
            for controller in self.status.controllers() {
                eprintln!("{controller:?}");
            }
        }
    }
}

impl Cluster {
    /// With namespace `default` and a node on which pods run at once.
    pub async fn start() -> Self {
        let cluster = Self::without_node().await;
        cluster.run_node(true);
        cluster
    }

    pub async fn without_node() -> Self {
        Self::with(|_| {}).await
    }

    /// Without a node; `configure` changes what the controllers are told.
    pub async fn with(configure: impl FnOnce(&mut wharf_controllers::Options)) -> Self {
        let mut told = wharf_controllers::Options {
            clock: Clock::system(),
            ca_pem: Some(tokio::sync::watch::channel("PEM".to_owned()).1),
            ..wharf_controllers::Options::default()
        };
        configure(&mut told);
        let cancel = CancellationToken::new();
        let cache = Cache::open(Arc::new(MemoryStore::new())).await.expect("an empty cache");
        let (feeding, stop) = (cache.clone(), cancel.clone());
        tokio::spawn(async move { feeding.run(stop).await });
        let (rbac, written) = (Arc::new(Rbac::default()), Arc::<Mutex<Written>>::default());
        let options = Options {
            table: Arc::new(Table::new(builtin::rows())),
            cache,
            admission: Chain::default(),
            authenticator: Arc::new(Nobody),
            authorizer: Arc::new(Rules(rbac.clone(), written.clone())),
            rbac: Some(rbac.clone()),
            tokens: None,
            token_key: None,
            views: vec![rbac.clone()],
            allocators: Allocators::default(),
            nodes: None,
            front_proxy: None,
            metrics: Vec::new(),
            clock: Arc::new(jiff::Timestamp::now),
        };
        let server = ApiServer::new(options).await.expect("a server");
        let client = transport::from_service(server.service_for(User::new("tester", &[])));
        create::<Namespace>(&Api::all(client.clone()), json!({"metadata": {"name": "default"}})).await;
        for name in ["kube-system", "kube-public"] {
            create::<Namespace>(&Api::all(client.clone()), json!({"metadata": {"name": name}})).await;
        }
        policy::ensure(&server).await.expect("the roles that every cluster has");
        let controllers = cancel.child_token();
        let (status, manager) = run_controllers(&server, told.clone(), controllers.clone());
        let informers = Informers::new(client.clone());
        Self { client, informers, status, written, server, told, cancel, controllers, manager: Some(manager) }
    }

    /// A node that reports pods as running and ready, if they may be, and lets them go when asked.
    pub fn run_node(&self, ready: bool) {
        let client = transport::from_service(self.server.service_for(User::new("fake-node", &[])));
        let cancel = self.cancel.clone();
        tokio::spawn(async move { cancel.run_until_cancelled(node(client, ready)).await });
    }

    /// One more node, on which pods run that name it.
    pub async fn add_node(&self, name: &str, labels: Value) {
        add_node(&self.client, name, labels).await;
    }

    /// Ends the controllers and starts new ones, which know nothing.
    pub async fn restart_controllers(&mut self) {
        self.controllers.cancel();
        if let Some(manager) = self.manager.take() {
            manager.await.expect("the manager ends");
        }
        self.controllers = self.cancel.child_token();
        let (status, manager) = run_controllers(&self.server, self.told.clone(), self.controllers.clone());
        (self.status, self.manager) = (status, Some(manager));
    }

    /// What the controllers have written so far, and as whom.
    pub fn written(&self) -> Written {
        self.written.lock().clone()
    }

    pub fn api<K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>>(&self) -> Api<K> {
        Api::default_namespaced(self.client.clone())
    }

    /// Waits until what the lister holds in `default` is as wanted.
    #[track_caller]
    pub fn wait<K: Informed>(
        &self,
        what: &'static str,
        wanted: impl Fn(&[Arc<K>]) -> bool + Send + Sync + 'static,
    ) -> BoxFuture<'static, Vec<Arc<K>>> {
        wait_for(self.informers.of::<K>(), what, move |lister| {
            let objects = lister.list_in("default");
            wanted(&objects).then_some(objects)
        })
    }

    /// Waits until this object of `default` is as wanted.
    pub fn wait_one<K: Informed>(
        &self,
        name: &str,
        what: &'static str,
        wanted: impl Fn(&K) -> bool + Send + Sync + 'static,
    ) -> BoxFuture<'static, Arc<K>> {
        let key = ObjectKey::new("default", name);
        wait_for(self.informers.of::<K>(), what, move |lister| lister.get(&key).filter(|object| wanted(object)))
    }
}

fn run_controllers(
    server: &Arc<ApiServer>,
    options: wharf_controllers::Options,
    cancel: CancellationToken,
) -> (StatusHandle, tokio::task::JoinHandle<()>) {
    let user = User::new("system:kube-controller-manager", &[]);
    let informers = Informers::new(transport::from_service(server.service_for(user)));
    let api = server.clone();
    let accounts = wharf_controllers::Accounts::new(move |name| {
        let name = format!("system:serviceaccount:kube-system:{name}");
        transport::from_service(api.service_for(User::new(&name, &["system:serviceaccounts"])))
    });
    let options = wharf_controllers::Options { accounts: Some(accounts), ..options };
    let mut manager = Manager::new();
    wharf_controllers::register(&mut manager, &informers, options);
    let status = manager.status();
    let running = tokio::spawn(async move {
        manager.run(cancel).await;
        informers.stop().await;
    });
    (status, running)
}

/// Waits for a change after which `wanted` finds something; no sleeping, no asking again.
pub fn wait_for<K: Informed, T: Send + 'static>(
    lister: Lister<K>,
    what: &'static str,
    wanted: impl Fn(&Lister<K>) -> Option<T> + Send + Sync + 'static,
) -> BoxFuture<'static, T> {
    Box::pin(async move {
        let mut changes = lister.subscribe();
        let found = tokio::time::timeout(DEADLINE, async {
            lister.synced().await;
            loop {
                if let Some(found) = wanted(&lister) {
                    return found;
                }
                changes.next().await.expect("the informer runs");
                while changes.try_next().is_some() {}
            }
        });
        match found.await {
            Ok(found) => found,
            Err(_) => panic!("waited in vain: {what}; there is {:#?}", lister.list()),
        }
    })
}

pub async fn create<K>(api: &Api<K>, object: Value) -> K
where
    K: Clone + Debug + serde::de::DeserializeOwned + serde::Serialize,
{
    let object: K = serde_json::from_value(object).expect("a valid object");
    api.create(&PostParams::default(), &object).await.expect("created")
}

/// Labels, selector and one container: what every test workload is made of.
pub fn template(app: &str, image: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": app}},
        "spec": {"containers": [{"name": "main", "image": image, "ports": [{"name": "http", "containerPort": 8080}]}]},
    })
}

async fn add_node(client: &Client, name: &str, labels: Value) {
    let nodes = Api::<Node>::all(client.clone());
    create::<Node>(&nodes, json!({"metadata": {"name": name, "labels": labels}})).await;
    let status = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]}});
    nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.expect("node status");
}

/// The node that a pod names itself, as pods of DaemonSets do; else the one that all are on.
fn target(pod: &Pod) -> String {
    const NAME: &str =
        "/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let affinity = serde_json::to_value(affinity).expect("JSON");
    affinity.pointer(NAME).and_then(Value::as_str).unwrap_or(NODE).to_owned()
}

/// A node without anything behind it: scheduler, kubelet and runtime in a page. It does the work of all other nodes, too.
async fn node(client: Client, ready: bool) {
    add_node(&client, NODE, json!({})).await;
    let informers = Informers::new(client.clone());
    let mut changes = informers.of::<Pod>().subscribe();
    let mut steps = JoinSet::new();
    let free = Arc::new(Semaphore::new(STEPS));
    let mut addresses: BTreeMap<String, usize> = BTreeMap::new();
    while let Some(changed) = changes.next().await {
        let Some(pod) = changed.new else { continue };
        let number = addresses.len();
        let number = *addresses.entry(pod.metadata.uid.clone().unwrap_or_default()).or_insert(number);
        let (client, slot) = (client.clone(), free.clone().acquire_owned().await.expect("open"));
        steps.spawn(async move {
            step(client, pod, number, ready).await;
            drop(slot);
        });
        while steps.try_join_next().is_some() {}
    }
}

async fn step(client: Client, pod: Arc<Pod>, number: usize, ready: bool) {
    let api = Api::<Pod>::namespaced(client, pod.metadata.namespace.as_deref().unwrap_or_default());
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let assigned = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()).is_some();
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    if pod.metadata.deletion_timestamp.is_some() {
        settle(api.delete(name, &DeleteParams::default().grace_period(0)).await);
    } else if !assigned {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": name}, "target": {"apiVersion": "v1", "kind": "Node", "name": target(&pod)},
        });
        let bound: Result<Value, kube::Error> =
            api.create_subresource("binding", name, &PostParams::default(), &binding).await;
        settle(bound);
    } else if phase == "Pending" && ready {
        let now = jiff::Timestamp::now().to_string();
        let status = json!({"status": {
            "phase": "Running",
            "podIP": format!("10.0.{}.{}", number / 250, number % 250 + 1),
            "podIPs": [{"ip": format!("10.0.{}.{}", number / 250, number % 250 + 1)}],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}],
        }});
        settle(api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await);
    }
}

/// Another was faster, and its event comes; anything else is a fault.
fn settle<T>(result: Result<T, kube::Error>) {
    match result {
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
        Err(error) => eprintln!("the node's request failed: {error}"),
        Ok(_) => {}
    }
}

/// Says that a pod has ended.
pub async fn end(client: &Client, pod: &Pod, phase: &str) {
    let api = Api::<Pod>::namespaced(client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default());
    let status = json!({"status": {"phase": phase, "conditions": [{"type": "Ready", "status": "False"}]}});
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.expect("pod status");
}
