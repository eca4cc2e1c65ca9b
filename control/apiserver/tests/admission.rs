//! Admission plugins that are chosen by flag and told their part by a file, in a server; the image policy webhook is a real
//! TLS server.

mod support;

use std::sync::Arc;

use serde_json::{Value, json};
use support::webhook::{Reply, Webhook};
use support::{Api, CONFIG_MAPS, PODS, config_map, pod};
use wharf_admission::{Chain, Configuration};
use wharf_apiserver::audit::{Auditor, Limits, Log, Policy};

/// The built-in plugins and one more, whose part of the configuration this is.
fn with(plugin: &str, part: Value) -> Result<Chain, String> {
    let file = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration",
        "plugins": [{"name": plugin, "configuration": part}],
    });
    let load = |path: &str| Err(format!("open {path}: no such file or directory"));
    let parts = Configuration::parse(&file.to_string(), &load)?;
    let chain = Chain::select(&[plugin.to_owned()], &[], Arc::default()).map_err(|error| error.to_string())?;
    chain.configured(&parts, &load).map_err(|error| error.to_string())
}

struct ImagePolicy {
    api: Api,
    hook: Webhook,
    folder: tempfile::TempDir,
}

impl ImagePolicy {
    async fn new(mut settings: Value, handler: impl Fn(&Value) -> Reply + Send + Sync + 'static) -> Self {
        let (hook, folder) = (Webhook::new(handler).await, tempfile::tempdir().expect("a folder"));
        let server = format!("https://127.0.0.1:{}/images", hook.port);
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "backend", "cluster": {"server": server, "certificate-authority-data": hook.ca}}],
            "users": [{"name": "api", "user": {"token": "t"}}],
            "contexts": [{"name": "c", "context": {"cluster": "backend", "user": "api"}}],
        });
        let path = folder.path().join("kubeconfig");
        std::fs::write(&path, kubeconfig.to_string()).expect("a kubeconfig");
        settings["kubeConfigFile"] = json!(path);
        let chain = with("ImagePolicyWebhook", json!({"imagePolicy": settings})).expect("a chain");
        let api = Api::admitting_by(chain).await;
        let log = Log::open(&folder.path().join("audit.log"), Limits::default()).expect("a log");
        let rules = "omitStages: [RequestReceived], rules: [{level: Metadata}]";
        let policy =
            Policy::read(&format!("{{apiVersion: audit.k8s.io/v1, kind: Policy, {rules}}}")).expect("a policy");
        api.server.audit_to(Arc::new(Auditor::new(policy, Some(log), None, false)));
        Self { api, hook, folder }
    }

    /// What the audit log has of the plugin, for the last request.
    fn told(&self) -> Value {
        let text = std::fs::read_to_string(self.folder.path().join("audit.log")).expect("the log");
        let event: Value = serde_json::from_str(text.lines().last().expect("an event")).expect("JSON");
        let annotations = event["annotations"].as_object().expect("annotations");
        annotations
            .iter()
            .filter(|(name, _)| name.starts_with("imagepolicywebhook."))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    }
}

fn of_image(name: &str, image: &str) -> Value {
    let mut pod = pod(name);
    pod["spec"]["containers"][0]["image"] = json!(image);
    pod
}

/// Answers a review: images of `evil` are refused.
fn no_evil(review: &Value) -> Reply {
    let bad = review["spec"]["containers"].to_string().contains("evil");
    let mut status = json!({"allowed": !bad, "auditAnnotations": {"seen": if bad { "bad" } else { "good" }}});
    if bad {
        status["reason"] = json!("no evil");
    }
    let answer = json!({"apiVersion": "imagepolicy.k8s.io/v1alpha1", "kind": "ImageReview", "status": status});
    Reply::Body(answer.to_string().into_bytes())
}

#[tokio::test]
async fn pods_are_let_in_by_their_images_and_answers_are_kept() {
    let world = ImagePolicy::new(json!({}), no_evil).await;
    let (api, seen) = (&world.api, || world.hook.seen.lock().clone());
    let mut first = of_image("first", "good:1");
    first["metadata"]["annotations"] = json!({"a.image-policy.k8s.io/ticket": "7", "other": "x"});
    api.post(PODS, &first).await.expect(201);
    let asked = seen().remove(0);
    assert_eq!((&asked["kind"], &asked["path"]), (&json!("ImageReview"), &json!("/images")));
    assert_eq!(
        asked["spec"],
        json!({"containers": [{"image": "good:1"}], "namespace": "default", "annotations": {"a.image-policy.k8s.io/ticket": "7"}})
    );
    assert_eq!(world.told(), json!({"imagepolicywebhook.image-policy.k8s.io/seen": "good"}));
    for name in ["second", "third"] {
        api.post(PODS, &of_image(name, "good:1")).await.expect(201);
    }
    assert_eq!(seen().len(), 2, "the third pod asks what the second has asked");
    assert_eq!(world.told(), json!({"imagepolicywebhook.image-policy.k8s.io/seen": "good"}), "kept, too");

    let why = "pods \"bad\" is forbidden: image policy webhook backend denied one or more images: no evil";
    for _ in 0..2 {
        api.post(PODS, &of_image("bad", "evil:1")).await.refused(403, "Forbidden", why);
    }
    assert_eq!(seen().len(), 3);
    let debugger = json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "evil:2"}]}});
    let path = format!("{PODS}/second/ephemeralcontainers");
    api.patch(&path, "strategic-merge", &debugger).await.refused(403, "Forbidden", "no evil");
    let images = &seen()[3]["spec"]["containers"];
    assert_eq!(*images, json!([{"image": "evil:2"}]));
}

#[tokio::test]
async fn nothing_is_kept_where_the_file_says_so() {
    let world = ImagePolicy::new(json!({"allowTTL": -1, "denyTTL": -1}), no_evil).await;
    for name in ["a", "b"] {
        world.api.post(PODS, &of_image(name, "good:1")).await.expect(201);
        world.api.post(PODS, &of_image(name, "evil:1")).await.expect(403);
    }
    assert_eq!(world.hook.seen.lock().len(), 4);
}

#[tokio::test]
async fn a_webhook_that_fails_counts_as_the_file_says() {
    let failing = |_: &Value| Reply::Code(500, "x-why", "tired");
    let open = ImagePolicy::new(json!({"defaultAllow": true, "retryBackoff": -1}), failing).await;
    open.api.post(PODS, &pod("a")).await.expect(201);
    assert_eq!(open.hook.seen.lock().len(), 5, "it is asked so often");
    assert_eq!(open.told(), json!({"imagepolicywebhook.image-policy.k8s.io/failed-open": "true"}));

    let closed = ImagePolicy::new(json!({"retryBackoff": -1}), failing).await;
    let why = "pods \"a\" is forbidden: an error on the server (\"oops\") has prevented the request from succeeding";
    closed.api.post(PODS, &pod("a")).await.refused(403, "Forbidden", why);
    assert_eq!(closed.told(), json!({}));

    let odd = json!({"apiVersion": "v1", "kind": "Pod"}).to_string();
    let garbage = ImagePolicy::new(json!({}), move |_| Reply::Body(odd.clone().into_bytes())).await;
    let why = "no kind \"Pod\" is registered for version \"v1\" in scheme";
    garbage.api.post(PODS, &pod("a")).await.refused(403, "Forbidden", why);
    assert_eq!(garbage.hook.seen.lock().len(), 1, "asking once more would not help");
}

#[tokio::test]
async fn a_namespace_is_made_with_what_is_first_created_in_it() {
    let api = Api::admitting_by(with("NamespaceAutoProvision", json!({})).expect("a chain")).await;
    let path = CONFIG_MAPS.replace("default", "fresh");
    let map = config_map("m", &json!({}));
    api.post(&format!("{path}?dryRun=All"), &map).await.refused(404, "NotFound", "namespaces \"fresh\" not found");
    api.post(&path, &map).await.expect(201);
    let made = api.get("/api/v1/namespaces/fresh").await.expect(200);
    assert_eq!(made["metadata"]["labels"], json!({"kubernetes.io/metadata.name": "fresh"}));
    assert_eq!(made["status"]["phase"], "Active");
    Api::admitting().await.post(&path, &map).await.refused(404, "NotFound", "namespaces \"fresh\" not found");
}

#[tokio::test]
async fn a_resize_that_the_node_has_no_room_for_is_refused() {
    let api = Api::admitting().await;
    let node = json!({"metadata": {"name": "n", "labels": {"kubernetes.io/os": "linux"}}});
    api.post("/api/v1/nodes", &node).await.expect(201);
    let room = json!({"status": {"allocatable": {"cpu": "2", "memory": "1Gi"}}});
    api.patch("/api/v1/nodes/n/status", "merge", &room).await.expect(200);
    let mut bound = pod("web");
    bound["spec"]["nodeName"] = json!("n");
    bound["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}});
    api.post(PODS, &bound).await.expect(201);
    let resize = async |cpu: &str| {
        let change = json!({"spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": cpu}}}]}});
        api.patch(&format!("{PODS}/web/resize"), "strategic-merge", &change).await
    };
    resize("2").await.expect(200);
    let why = "Node didn't have enough allocatable resources: cpu, requested: 3000, allocatable: 2000";
    let refusal = resize("3").await.refused(403, "Forbidden", why);
    assert_eq!(refusal["details"]["causes"], json!([{"reason": "NodeCapacity"}]));
}
