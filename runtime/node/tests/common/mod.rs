//! A node on the fake runtime, before a small API.

#![allow(dead_code, reason = "each suite uses its own part")]

pub mod api;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wharf_cri::Runtime;
use wharf_cri::fake::{Behaviour, Fake, Options, Run, Stop};
use wharf_node::backoff::Policy;
use wharf_node::{Node, NodeOptions, Timings};

pub use api::{Api, PATIENCE};

/// What a node's server shows, as it is from first to last.
pub fn shown(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Arc<dyn rustls::server::ResolvesServerCert> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let certified = rustls::sign::CertifiedKey::from_der(chain, key, &provider).unwrap();
    Arc::new(rustls::sign::SingleCertAndKey::from(certified))
}

pub struct Bench {
    pub api: Api,
    pub runtime: Fake,
    pub dir: tempfile::TempDir,
    node: Option<Running>,
}

struct Running {
    cancel: CancellationToken,
    task: JoinHandle<Result<(), wharf_node::Error>>,
}

impl Bench {
    pub async fn new(behaviours: Options) -> Self {
        Self::with(behaviours, |_| {}).await
    }

    pub async fn with(behaviours: Options, change: impl FnOnce(&mut NodeOptions)) -> Self {
        let mut bench =
            Self { api: Api::new(), runtime: Fake::new(behaviours), dir: tempfile::tempdir().unwrap(), node: None };
        bench.start(change).await;
        bench
    }

    pub async fn start(&mut self, change: impl FnOnce(&mut NodeOptions)) {
        let runtime = Arc::new(self.runtime.clone());
        let mut options =
            NodeOptions::new("n1", self.api.client(), runtime.clone(), runtime, self.dir.path().to_path_buf());
        options.timings = quick();
        change(&mut options);
        let node = Node::new(options).await.unwrap();
        let cancel = CancellationToken::new();
        let task = tokio::spawn(node.run(cancel.clone()));
        self.node = Some(Running { cancel, task });
    }

    /// Ends the node as a crash of its process would end it for the API: pods are left as they are.
    pub async fn stop(&mut self) {
        let Some(node) = self.node.take() else { return };
        node.cancel.cancel();
        tokio::time::timeout(PATIENCE, node.task).await.expect("the node ends").unwrap().unwrap();
    }

    pub fn pod(&self, name: &str, spec: Value) {
        let mut spec = spec;
        spec["nodeName"] = json!("n1");
        self.api.create(
            "pods",
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "d"}, "spec": spec}),
        );
    }

    pub async fn wait(&self, name: &str, what: &str, test: impl Fn(&Value) -> bool) -> Value {
        self.api.wait("pods", "d", name, what, |pod| pod.is_some_and(&test)).await.expect("the pod is there")
    }

    pub async fn ready(&self, name: &str) -> Value {
        self.wait(name, "Ready", |pod| condition(pod, "Ready") == "True").await
    }

    pub async fn phase(&self, name: &str, phase: &str) -> Value {
        self.wait(name, phase, |pod| pod["status"]["phase"] == phase).await
    }

    /// Waits for the pod's end; returns its last state.
    pub async fn gone(&self, name: &str) -> Value {
        self.api.wait("pods", "d", name, "gone", |pod| pod.is_none()).await;
        self.api.last("pods", name).expect("the pod was there")
    }

    pub fn delete(&self, name: &str) -> impl Future<Output = ()> + use<> {
        use k8s_openapi::api::core::v1::Pod;
        let pods = kube::Api::<Pod>::namespaced(self.api.client(), "d");
        let name = name.to_owned();
        async move { pods.delete(&name, &Default::default()).await.map(drop).unwrap() }
    }

    /// Waits for an event about the pod; returns its message.
    pub async fn event(&self, pod: &str, reason: &str) -> String {
        let found = || {
            let events = self.api.list("events");
            let event =
                events.iter().find(|event| event["involvedObject"]["name"] == pod && event["reason"] == reason)?;
            event["message"].as_str().map(str::to_owned)
        };
        until(&format!("event {reason} of {pod}"), async || found()).await
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(node) = &self.node {
            node.cancel.cancel();
        }
    }
}

/// Asks until there is an answer, at most [`PATIENCE`] long.
pub async fn until<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"))
}

/// Upstream's behaviour in a hundredth of its time.
pub fn quick() -> Timings {
    let policy = Policy { initial: Duration::from_millis(100), max: Duration::from_secs(3) };
    Timings {
        restarts: policy,
        pulls: policy,
        volumes: policy,
        retry: Duration::from_millis(100),
        ..Timings::default()
    }
}

pub fn images() -> Options {
    Options::new(Timestamp::now)
}

pub fn exits(code: i32) -> Behaviour {
    Behaviour { run: Run::Exit { after: Duration::from_millis(1), code, reason: "" }, ..Behaviour::default() }
}

pub fn stops(stop: Stop) -> Behaviour {
    Behaviour { stop, ..Behaviour::default() }
}

pub fn condition(pod: &Value, kind: &str) -> String {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == kind);
    found.and_then(|condition| condition["status"].as_str()).unwrap_or_default().to_owned()
}

pub fn container(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

pub async fn nothing_runs(runtime: &Fake) {
    until("an empty runtime", async || {
        let empty = runtime.sandboxes().await.unwrap().is_empty() && runtime.containers().await.unwrap().is_empty();
        empty.then_some(())
    })
    .await;
}

pub async fn no_entries(dir: &Path) {
    until(&format!("an empty {}", dir.display()), async || {
        std::fs::read_dir(dir).unwrap().next().is_none().then_some(())
    })
    .await;
}
