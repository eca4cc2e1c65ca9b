//! AdmissionPlugins through the whole stack: loaded, asked, told of, and loaded again.

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;
use serde_json::{Value, json};
use support::{Api, CONFIG_MAPS, config_map, deployment};
use tokio_util::sync::{CancellationToken, DropGuard};
use wharf_admission::Chain;
use wharf_admission::wasm::{Component, Components, Host, Pull};
use wharf_apiserver::{ApiServer, plugins};
use wharf_auth::User;
use wharf_types::k8s::api::core::v1::Secret;

const PLUGINS: &str = "/apis/admission.wharf.dev/v1alpha1/admissionplugins";

/// The guests that `cargo xtask guests` has built.
fn guest(name: &str) -> Vec<u8> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests");
    let folder = std::env::var_os("WHARF_GUESTS").map_or_else(default, PathBuf::from);
    std::fs::read(folder.join(format!("{name}.wasm"))).expect("`cargo xtask guests` has built it")
}

/// One image, which may be put away, and who has asked for it.
#[derive(Default)]
struct Shelf {
    image: Mutex<Option<Component>>,
    asked: Mutex<Vec<Pull>>,
    /// What the last one brought along.
    secrets: Mutex<Vec<String>>,
}

impl Shelf {
    fn put(&self, digest: &str, guest: Vec<u8>) {
        *self.image.lock() = Some(Component { digest: digest.to_owned(), bytes: guest });
    }
}

#[async_trait]
impl Components for Shelf {
    async fn resolve(&self, reference: &str, pull: Pull, secrets: &[Secret]) -> Result<Component, String> {
        self.asked.lock().push(pull);
        *self.secrets.lock() = secrets.iter().filter_map(|secret| secret.metadata.name.clone()).collect();
        self.image.lock().clone().ok_or_else(|| format!("failed to pull image {reference:?}: not found"))
    }
}

struct World {
    api: Api,
    shelf: Arc<Shelf>,
    _running: DropGuard,
}

impl World {
    async fn new() -> Self {
        let shelf = Arc::new(Shelf::default());
        shelf.put("sha256:one", guest("admission"));
        let host = Arc::new(Host::new(Some(shelf.clone())));
        let api = Api::with(|options| options.admission = Chain::default_with(host)).await;
        api.post("/api/v1/namespaces", &json!({"metadata": {"name": "default"}})).await.expect(201);
        let cancel = CancellationToken::new();
        tokio::spawn(plugins::run(api.server.clone(), cancel.clone()));
        Self { api, shelf, _running: cancel.drop_guard() }
    }

    /// Registers a plugin about config maps and waits until its `Ready` has this status and reason.
    async fn install(&self, name: &str, parameters: &Value, ready: (&str, &str)) -> Value {
        self.api.post(PLUGINS, &plugin(name, parameters)).await.expect(201);
        self.settled(name, ready).await
    }

    async fn settled(&self, name: &str, (status, reason): (&str, &str)) -> Value {
        let mut watch = self.api.watch(&format!("{PLUGINS}?watch=1&fieldSelector=metadata.name%3D{name}")).await;
        loop {
            let object = watch.next().await.expect("an event")["object"].clone();
            let current = object["status"]["observedGeneration"] == object["metadata"]["generation"];
            let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let ready = conditions.iter().find(|condition| condition["type"] == "Ready");
            if current && ready.is_some_and(|ready| ready["status"] == status && ready["reason"] == reason) {
                return object;
            }
        }
    }

    async fn create(&self, name: &str) -> support::Answer {
        self.api.post(CONFIG_MAPS, &config_map(name, &json!({"k": "v"}))).await
    }
}

fn plugin(name: &str, parameters: &Value) -> Value {
    let rules = json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"]}]);
    json!({"metadata": {"name": name}, "spec": {"image": "plugin:v1", "rules": rules, "parameters": parameters}})
}

#[tokio::test]
async fn a_plugin_is_loaded_asked_and_told_of() {
    let world = World::new().await;
    let ready = world.install("p", &json!({"validate": {"deny": "not today"}}), ("True", "Loaded")).await;
    assert_eq!(ready["status"]["imageID"], "sha256:one");
    assert_eq!(ready["status"]["hooks"], json!(["Mutating", "Validating"]));
    let denied = "admission plugin \"p\" denied the request: not today";
    world.create("a").await.refused(403, "Forbidden", denied);
    // What is said counts from the moment that it is acknowledged.
    let spec = json!({"spec": {"parameters": {"validate": {"deny": null, "warn": "mind the gap"}}}});
    world.api.patch(&format!("{PLUGINS}/p"), "merge", &spec).await.expect(200);
    let answer = world.create("a").await;
    assert_eq!(answer.warnings(), ["299 - \"mind the gap\""]);
    answer.expect(201);
    let spec = json!({"spec": {"parameters": {"validate": null, "mutate": "count"}}});
    world.api.patch(&format!("{PLUGINS}/p"), "merge", &spec).await.expect(200);
    assert_eq!(world.create("b").await.expect(201)["data"], json!({"k": "v", "count": "1"}));
    world.api.delete(&format!("{PLUGINS}/p")).await.expect(200);
    assert_eq!(world.create("c").await.expect(201)["data"], json!({"k": "v"}));
}

#[tokio::test]
async fn every_verb_and_dry_runs_ask() {
    let world = World::new().await;
    world.install("p", &json!({"validate": "echo"}), ("True", "Loaded")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let said = |answer: &support::Answer| answer.warnings().concat();
    let created = world.create("a").await;
    assert!(said(&created).contains("Operation::Create"), "{}", said(&created));
    created.expect(201);
    let apply = world
        .api
        .request(
            Method::PATCH,
            &format!("{path}?fieldManager=me&force=true&dryRun=All"),
            &[("content-type", "application/apply-patch+yaml")],
            config_map("a", &json!({"k": "2"})).to_string(),
        )
        .await;
    let told = said(&apply);
    assert!(told.contains("Operation::Update") && told.contains(r#"\"dryRun\":true"#), "{told}");
    apply.expect(200);
    let deleted = world.api.delete(&path).await;
    assert!(said(&deleted).contains("Operation::Delete"), "{}", said(&deleted));
    deleted.expect(200);
}

#[tokio::test]
async fn until_its_image_is_there_a_plugin_fails_and_says_why() {
    let world = World::new().await;
    let image = world.shelf.image.lock().take().expect("an image");
    let waiting = world.install("p", &json!({}), ("False", "PullFailed")).await;
    let conditions = waiting["status"]["conditions"].as_array().expect("conditions");
    let why = "failed to pull image \"plugin:v1\": not found";
    assert!(conditions.iter().any(|held| held["type"] == "ImagePulled" && held["message"] == why), "{conditions:?}");
    let failed = format!("Internal error occurred: failed calling admission plugin \"p\": {why}");
    world.create("a").await.refused(500, "InternalError", &failed);
    let ignore = json!({"spec": {"failurePolicy": "Ignore"}});
    world.api.patch(&format!("{PLUGINS}/p"), "merge", &ignore).await.expect(200);
    world.create("a").await.expect(201);
    // A touch is enough to have it pulled again.
    *world.shelf.image.lock() = Some(image);
    let touch = json!({"metadata": {"annotations": {"pulled": "now"}}});
    world.api.patch(&format!("{PLUGINS}/p"), "merge", &touch).await.expect(200);
    world.settled("p", ("True", "Loaded")).await;
}

#[tokio::test]
async fn a_newer_image_replaces_the_older_only_if_it_works() {
    let world = World::new().await;
    let denies = json!({"validate": {"deny": "no"}});
    world.install("p", &denies, ("True", "Loaded")).await;
    world.shelf.put("sha256:broken", guest("exit"));
    let touch = |value: &str| json!({"metadata": {"annotations": {"pulled": value}}});
    world.api.patch(&format!("{PLUGINS}/p"), "merge", &touch("1")).await.expect(200);
    let outdated = world.settled("p", ("True", "Outdated")).await;
    assert_eq!(outdated["status"]["imageID"], "sha256:one");
    let conditions = outdated["status"]["conditions"].as_array().expect("conditions");
    let compiled = conditions.iter().find(|held| held["type"] == "Compiled").expect("a condition");
    assert_eq!((&compiled["status"], &compiled["reason"]), (&json!("False"), &json!("InvalidComponent")));
    world.create("a").await.refused(403, "Forbidden", "denied the request: no");
    world.shelf.put("sha256:two", guest("admission"));
    world.api.patch(&format!("{PLUGINS}/p"), "merge", &touch("2")).await.expect(200);
    assert_eq!(world.settled("p", ("True", "Loaded")).await["status"]["imageID"], "sha256:two");
}

#[tokio::test]
async fn an_image_is_pulled_with_the_secrets_that_its_plugin_names() {
    let world = World::new().await;
    let secret = json!({"metadata": {"name": "registry"}, "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": "{\"auths\": {}}"}});
    world.api.post("/api/v1/namespaces/default/secrets", &secret).await.expect(201);
    let mut private = plugin("p", &json!({}));
    private["spec"]["imagePullSecrets"] =
        json!([{"namespace": "default", "name": "registry"}, {"namespace": "default", "name": "gone"}]);
    world.api.post(PLUGINS, &private).await.expect(201);
    world.settled("p", ("True", "Loaded")).await;
    assert_eq!(*world.shelf.secrets.lock(), ["registry"]);
}

#[tokio::test]
async fn calls_are_counted() {
    let world = World::new().await;
    world.install("p", &json!({"validate": {"deny": "no"}}), ("True", "Loaded")).await;
    world.create("a").await.expect(403);
    let text = String::from_utf8(world.api.get("/metrics").await.bytes.to_vec()).expect("text");
    for line in [
        r#"apiserver_admission_plugin_admission_duration_seconds_count{name="p",type="validating",operation="CREATE",rejected="true"} 1"#,
        r#"apiserver_admission_plugin_rejection_total{name="p",type="validating",operation="CREATE",error_type="no_error",rejection_code="403"} 1"#,
    ] {
        assert!(text.lines().any(|held| held == line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn other_resources_are_none_of_its_business() {
    let world = World::new().await;
    world.install("p", &json!({"validate": {"deny": "no"}}), ("True", "Loaded")).await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    world.api.post(path, &deployment("web")).await.expect(201);
    world.api.post(PLUGINS, &plugin("q", &json!({}))).await.expect(201);
}

/// Posts as a user and returns the code.
async fn post(server: &Arc<ApiServer>, user: User, path: &str, body: &Value) -> u16 {
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed_unsync();
    let request = Request::post(path).header("content-type", "application/json").body(body).expect("a request");
    let Ok(response) = tower::ServiceExt::oneshot(server.service_for(user), request).await;
    response.status().as_u16()
}

#[tokio::test]
async fn only_administrators_register_plugins() {
    let server = support::server().await;
    let root = User::new("root", &["system:masters"]);
    for role in ["view", "edit", "admin"] {
        let binding = json!({
            "metadata": {"name": role}, "roleRef": {"kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "User", "name": role}],
        });
        let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
        assert_eq!(post(&server, root.clone(), bindings, &binding).await, 201);
        let asked = post(&server, User::new(role, &[]), PLUGINS, &plugin("p", &json!({}))).await;
        assert_eq!(asked, 403, "{role}");
    }
    assert_eq!(post(&server, root, PLUGINS, &plugin("p", &json!({}))).await, 201);
}
