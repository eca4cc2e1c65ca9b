//! Nodes' certificates, as a cluster with more than one machine sees them: joining by a token, renewal, and who may have what.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Node;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;
use wharf_node::certificates::{self, CLIENT, Manager, Means, Pair, Store, Template};
use wharf_test_support::{Cluster, JoinedNode, eventually};

const TOKEN: &str = "abcdef.0123456789abcdef";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";

/// A control plane that nodes may join by [`TOKEN`].
async fn cluster() -> Cluster {
    let cluster = Cluster::server(&["--enable-bootstrap-token-auth"]).await;
    let secret = "{apiVersion: v1, kind: Secret, type: bootstrap.kubernetes.io/token, \
         metadata: {name: bootstrap-token-abcdef, namespace: kube-system}, \
         stringData: {token-id: abcdef, token-secret: '0123456789abcdef', usage-bootstrap-authentication: 'true', \
         auth-extra-groups: 'system:bootstrappers:kubeadm:default-node-token'}}";
    cluster.kubectl_with(&["apply", "-f", "-"], secret).await.success();
    cluster
}

async fn bootstrap(cluster: &Cluster) -> String {
    let path = cluster.kubeconfig_file("bootstrap", &["--token", TOKEN]).await.expect("a kubeconfig");
    path.display().to_string()
}

/// Requests for this signer, oldest first.
async fn requests(cluster: &Cluster, signer: &str) -> Vec<CertificateSigningRequest> {
    let api: Api<CertificateSigningRequest> = Api::all(cluster.client.clone());
    let mut all = api.list(&Default::default()).await.expect("requests").items;
    all.retain(|request| request.spec.signer_name == signer);
    all.sort_by_key(|request| request.metadata.creation_timestamp.clone());
    all
}

fn name(request: &CertificateSigningRequest) -> String {
    request.metadata.name.clone().expect("a name")
}

async fn ready(cluster: &Cluster, node: &str) {
    let api: Api<Node> = Api::all(cluster.client.clone());
    eventually("the node is Ready", || async {
        let found = api.get_opt(node).await.expect("an answer");
        let conditions = found.and_then(|node| node.status).and_then(|status| status.conditions).unwrap_or_default();
        let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
        if ready { Ok(()) } else { Err(conditions) }
    })
    .await;
}

async fn approve(cluster: &Cluster, signer: &str) {
    let request = eventually("a request waits", || async {
        let all = requests(cluster, signer).await;
        let waiting = |request: &&CertificateSigningRequest| {
            request.status.as_ref().and_then(|status| status.conditions.as_ref()).is_none_or(Vec::is_empty)
        };
        all.iter().find(waiting).map(name).ok_or(all.len())
    })
    .await;
    cluster.kubectl(&["certificate", "approve", &request]).await.success();
}

fn current(data: &Path) -> String {
    std::fs::read_to_string(data.join("node/pki/kubelet-client-current.pem")).expect("a certificate")
}

#[tokio::test]
async fn a_node_joins_by_a_token_and_needs_it_no_more() {
    let cluster = cluster().await;
    let mut node = JoinedNode::new(&cluster, "edge-1", 1).expect("a node");
    let file = bootstrap(&cluster).await;
    node.start(&["--bootstrap-kubeconfig", &file]).expect("the node starts");
    ready(&cluster, "edge-1").await;

    let asked = &requests(&cluster, CLIENT_SIGNER).await[0];
    assert_eq!(asked.spec.username.as_deref(), Some("system:bootstrap:abcdef"));
    assert!(name(asked).starts_with("node-csr-"), "{}", name(asked));
    let pki = node.data().join("node/pki");
    let link = pki.join("kubelet-client-current.pem");
    assert!(std::fs::symlink_metadata(&link).expect("a link").is_symlink());
    let mode = |path: &Path| std::fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
    assert_eq!((mode(&pki), mode(&link)), (0o700, 0o600));
    assert!(!pki.join("kubelet-client.key.tmp").exists());
    let kubeconfig = std::fs::read_to_string(node.data().join("node/kubeconfig")).expect("a kubeconfig");
    assert!(kubeconfig.contains("kubelet-client-current.pem") && !kubeconfig.contains(TOKEN), "{kubeconfig}");

    // Whom the API server calls must be vouched for, which nobody does unasked.
    let health = ["get", "--raw", "/api/v1/nodes/edge-1/proxy/healthz"];
    assert!(!cluster.kubectl(&health).await.ok, "nobody has approved of the serving certificate");
    approve(&cluster, SERVING_SIGNER).await;
    eventually("the API server reaches the node", || async {
        let ran = cluster.kubectl(&health).await;
        if ran.ok && ran.stdout == "ok" { Ok(()) } else { Err(ran) }
    })
    .await;

    node.kill().await;
    cluster.kubectl(&["-n", "kube-system", "delete", "secret", "bootstrap-token-abcdef"]).await.success();
    cluster.kubectl(&["delete", "node", "edge-1"]).await.success();
    let before = current(&node.data());
    node.start(&[]).expect("the node starts");
    ready(&cluster, "edge-1").await;
    assert_eq!(current(&node.data()), before, "what it had is what it has");
    assert_eq!(requests(&cluster, CLIENT_SIGNER).await.len(), 1);
}

#[tokio::test]
async fn a_node_that_is_killed_while_it_waits_waits_for_the_same_request() {
    let cluster = cluster().await;
    cluster.kubectl(&["delete", "clusterrolebinding", "kubeadm:node-autoapprove-bootstrap"]).await.success();
    let mut node = JoinedNode::new(&cluster, "edge-1", 1).expect("a node");
    let file = bootstrap(&cluster).await;
    let arguments = ["--bootstrap-kubeconfig", &file];
    node.start(&arguments).expect("the node starts");
    let first = eventually("the node has asked", || async {
        let all = requests(&cluster, CLIENT_SIGNER).await;
        all.first().map(name).ok_or(())
    })
    .await;
    node.kill().await;
    node.start(&arguments).expect("the node starts");
    eventually("the node waits again", || async {
        let log = node.log();
        if log.matches("waiting for a certificate").count() == 2 { Ok(()) } else { Err(log) }
    })
    .await;
    let names: Vec<String> = requests(&cluster, CLIENT_SIGNER).await.iter().map(name).collect();
    assert_eq!(names, [first.as_str()], "one key, one request");
    cluster.kubectl(&["certificate", "approve", &first]).await.success();
    ready(&cluster, "edge-1").await;
}

#[tokio::test]
async fn a_node_that_is_denied_says_so_and_ends() {
    let cluster = cluster().await;
    cluster.kubectl(&["delete", "clusterrolebinding", "kubeadm:node-autoapprove-bootstrap"]).await.success();
    let mut node = JoinedNode::new(&cluster, "edge-1", 1).expect("a node");
    let file = bootstrap(&cluster).await;
    node.start(&["--bootstrap-kubeconfig", &file]).expect("the node starts");
    let request = eventually("the node has asked", || async {
        requests(&cluster, CLIENT_SIGNER).await.first().map(name).ok_or(())
    })
    .await;
    let shown = cluster.kubectl(&["get", "csr", &request]).await.success();
    assert!(shown.contains("Pending") && shown.contains("system:bootstrap:abcdef"), "{shown}");
    cluster.kubectl(&["certificate", "deny", &request]).await.success();
    eventually("the node says why it ends", || async {
        let log = node.log();
        if log.contains("is denied") { Ok(()) } else { Err(log) }
    })
    .await;
    let shown = cluster.kubectl(&["get", "csr", &request]).await.success();
    assert!(shown.contains("Denied"), "{shown}");
}

/// A client of the cluster by a certificate and its key.
async fn by(cluster: &Cluster, pair: &Pair) -> Client {
    let file = Kubeconfig::read_from(cluster.kubeconfig()).expect("the admin's kubeconfig");
    let mut config =
        kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.expect("a configuration");
    let path = cluster.home().join("pair.pem");
    std::fs::write(&path, format!("{}{}", pair.certificate_pem, pair.key_pem)).expect("the pair is written");
    let path = Some(path.display().to_string());
    config.auth_info =
        kube::config::AuthInfo { client_certificate: path.clone(), client_key: path, ..Default::default() };
    Client::try_from(config).expect("a client")
}

async fn who(client: &Client) -> String {
    let review = Api::<SelfSubjectReview>::all(client.clone());
    let answer = review.create(&Default::default(), &SelfSubjectReview::default()).await.expect("an answer");
    answer.status.and_then(|status| status.user_info).and_then(|user| user.username).unwrap_or_default()
}

async fn joining(cluster: &Cluster) -> Client {
    let file = Kubeconfig::read_from(bootstrap(cluster).await).expect("a kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    Client::try_from(config.expect("a configuration")).expect("a client")
}

#[tokio::test]
async fn a_certificate_is_exchanged_in_time_by_the_node_itself() {
    let cluster = cluster().await;
    let directory = tempfile::tempdir().expect("a directory");
    let store = || Store::open(directory.path(), CLIENT.prefix).expect("a store");
    let template = Template::client("n1");
    let first = certificates::first(&joining(&cluster).await, &store(), &template, &Timestamp::now).await;
    let first = first.expect("a first certificate");
    assert_eq!(who(&by(&cluster, &first).await).await, "system:node:n1");

    // Four fifths of a year later.
    let ahead_s = Arc::new(AtomicI64::new(292 * 24 * 60 * 60));
    let (ahead, (sender, mut taken)) = (ahead_s.clone(), tokio::sync::mpsc::unbounded_channel());
    let means = Means {
        client: by(&cluster, &first).await,
        bootstrap: None,
        clock: Arc::new(move || Timestamp::now() + jiff::SignedDuration::from_secs(ahead.load(Ordering::Relaxed))),
        luck: Arc::new(|| 0.4),
        taken: Box::new(move |pair| {
            // Back to a time at which what it has now is new.
            ahead_s.store(0, Ordering::Relaxed);
            sender.send(pair.clone()).expect("the test listens");
        }),
    };
    let manager = Manager::new(&CLIENT, template, store(), Some(first.clone()), means);
    let cancel = CancellationToken::new();
    let task = tokio::spawn(manager.run(cancel.clone()));
    let second = taken.recv().await.expect("a second certificate");
    assert_ne!(second, first);
    assert_eq!(who(&by(&cluster, &second).await).await, "system:node:n1");
    let stored = store().current().expect("a store").expect("a pair");
    assert_eq!(stored.certificate_pem.trim_end(), second.certificate_pem.trim_end());
    let asked = requests(&cluster, CLIENT_SIGNER).await;
    let mut askers: Vec<&str> = asked.iter().filter_map(|request| request.spec.username.as_deref()).collect();
    askers.sort_unstable();
    assert_eq!(askers, ["system:bootstrap:abcdef", "system:node:n1"]);
    assert!(taken.try_recv().is_err(), "once is enough");
    cancel.cancel();
    task.await.expect("the manager ends");
}

#[tokio::test]
async fn nobody_gets_the_certificate_of_another_node() {
    let cluster = cluster().await;
    let node = cluster.client_as("system:node:n1", &["system:nodes"]).await.expect("a client");
    let directory = tempfile::tempdir().expect("a directory");
    let ask = async |client: &Client, of: &str, at: &str| {
        let store = Store::open(&directory.path().join(at), CLIENT.prefix).expect("a store");
        certificates::first(client, &store, &Template::client(of), &Timestamp::now).await
    };
    let refused = ask(&node, "n2", "a").await.expect_err("the admission plugin stands before");
    let told = std::error::Error::source(&refused).map(ToString::to_string).unwrap_or_default();
    assert!(told.contains("can only create a node CSR with CN=system:node:n1"), "{told}");

    // Whoever may not ask in the name of nodes waits for somebody to look.
    let stranger = cluster.client_as("mallory", &[]).await.expect("a client");
    let role =
        ["create", "clusterrole", "asks", "--verb=create,get,list,watch", "--resource=certificatesigningrequests"];
    cluster.kubectl(&role).await.success();
    cluster.kubectl(&["create", "clusterrolebinding", "asks", "--clusterrole=asks", "--user=mallory"]).await.success();
    let waiting = {
        let store = Store::open(&directory.path().join("b"), CLIENT.prefix).expect("a store");
        tokio::spawn(
            async move { certificates::first(&stranger, &store, &Template::client("n1"), &Timestamp::now).await },
        )
    };
    eventually("the stranger has asked", || async {
        let all = requests(&cluster, CLIENT_SIGNER).await;
        if all.iter().any(|request| request.spec.username.as_deref() == Some("mallory")) {
            Ok(())
        } else {
            Err(all.len())
        }
    })
    .await;
    // What comes after it is settled, and it is not.
    ask(&node, "n1", "c").await.expect("its own");
    ask(&joining(&cluster).await, "n3", "d").await.expect("a bootstrapper's");
    let all = requests(&cluster, CLIENT_SIGNER).await;
    let asked = all.iter().find(|request| request.spec.username.as_deref() == Some("mallory")).expect("the request");
    let conditions = asked.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    assert_eq!(conditions, [], "nobody has approved it");
    assert!(!waiting.is_finished());
    waiting.abort();
}

#[tokio::test]
async fn a_node_with_a_certificate_of_its_own_exchanges_it() {
    let cluster = cluster().await;
    let mut node = JoinedNode::new(&cluster, "edge-2", 1).expect("a node");
    let identity = ["--user", "system:node:edge-2", "--group", "system:nodes"];
    let file = cluster.kubeconfig_file("node", &identity).await.expect("a kubeconfig");
    let pki = cluster.data().join("pki").display().to_string();
    node.start(&["--kubeconfig", &file.display().to_string(), "--pki", &pki]).expect("the node starts");
    ready(&cluster, "edge-2").await;
    let health = cluster.kubectl(&["get", "--raw", "/api/v1/nodes/edge-2/proxy/healthz"]).await;
    assert_eq!(health.success(), "ok", "its serving certificate is the authority's at once");
    eventually("the node has a certificate that the cluster signed", || async {
        let asked = requests(&cluster, CLIENT_SIGNER).await;
        let path = node.data().join("node/pki/kubelet-client-current.pem");
        if asked.len() == 1 && path.exists() { Ok(()) } else { Err(asked.len()) }
    })
    .await;
    node.kill().await;
    let before = current(&node.data());
    node.start(&["--kubeconfig", &file.display().to_string(), "--pki", &pki]).expect("the node starts");
    cluster.kubectl(&["delete", "node", "edge-2"]).await.success();
    ready(&cluster, "edge-2").await;
    assert_eq!(current(&node.data()), before);
    assert_eq!(requests(&cluster, CLIENT_SIGNER).await.len(), 1, "what it has is used again");
}
