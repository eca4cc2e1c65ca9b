//! Plugins at work, as real components: `tests/guests/admission` behaves as its parameters say.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::{Value, json};
use wharf_types::admission::AdmissionPlugin;
use wharf_types::k8s::api::core::v1::{ConfigMap, Namespace, Secret};
use wharf_types::{AnyObject, ApiError};

use super::{Component, Components, Hook, Host, LoadError, Phase, Pull, Stage, request};
use crate::plugins::testing::{Cluster, json, write};
use crate::subject::Subject;
use crate::{Attributes, Chain, Notes, Operation};

/// The guests that `cargo xtask guests` has built.
fn guest(name: &str) -> Vec<u8> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests");
    let folder = std::env::var_os("WHARF_GUESTS").map_or_else(default, PathBuf::from);
    std::fs::read(folder.join(format!("{name}.wasm"))).expect("`cargo xtask guests` has built it")
}

/// Images by their references.
struct Shelf(HashMap<&'static str, Vec<u8>>);

#[async_trait]
impl Components for Shelf {
    async fn resolve(&self, reference: &str, _: Pull, _: &[Secret]) -> Result<Component, String> {
        let bytes = self.0.get(reference).ok_or_else(|| format!("failed to pull image {reference:?}: not found"))?;
        Ok(Component { digest: format!("sha256:{reference}"), bytes: bytes.clone() })
    }
}

const IMAGE: &str = "plugin:v1";

fn plugin(name: &str, more: Value) -> AdmissionPlugin {
    let mut spec = json!({
        "image": IMAGE, "failurePolicy": "Fail", "timeoutSeconds": 30,
        "rules": [{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*"]}],
    });
    for (field, value) in more.as_object().expect("fields") {
        spec[field] = value.clone();
    }
    json(json!({"metadata": {"name": name}, "spec": spec}))
}

/// A cluster with plugins, and the chain that asks them.
struct World {
    cluster: Cluster,
    chain: Chain,
    notes: Notes,
}

impl World {
    async fn of(plugins: Vec<AdmissionPlugin>) -> Self {
        let shelf = HashMap::from([
            (IMAGE, guest("admission")),
            ("stranger:v1", guest("exit")),
            ("http:v1", guest("hello-http")),
            ("module:v1", b"\0asm\x01\0\0\0".to_vec()),
            ("garbage:v1", b"#!/bin/sh".to_vec()),
            ("torn:v1", guest("admission")[..1000].to_vec()),
        ]);
        let host = Arc::new(Host::new(Some(Arc::new(Shelf(shelf)))));
        let namespace: Namespace = json(json!({"metadata": {"name": "default", "labels": {"team": "a"}}}));
        let mut cluster = Cluster::default().with("namespaces", namespace);
        for plugin in plugins {
            // What cannot be loaded is what some tests are about.
            let _ = host
                .load(plugin.metadata.name.as_deref().unwrap_or_default(), &plugin.spec.image, Pull::Always, &[])
                .await;
            cluster = cluster.with("admissionplugins", plugin);
        }
        Self { cluster, chain: Chain::default_with(host), notes: Notes::default() }
    }

    async fn admit(&mut self, write: &mut Attributes) -> Result<(), ApiError> {
        self.chain.admit(write, &self.cluster, &mut self.notes).await?;
        self.chain.validate(write, &self.cluster, &mut self.notes).await
    }

    async fn create(&mut self) -> (Result<(), ApiError>, Value) {
        let mut write = create();
        let verdict = self.admit(&mut write).await;
        (verdict, data(&write))
    }
}

fn settings(data: Value) -> ConfigMap {
    json(json!({"metadata": {"name": "a", "namespace": "default"}, "data": data}))
}

fn create() -> Attributes {
    write(Operation::Create, "configmaps", settings(json!({"k": "v"})))
}

fn data(write: &Attributes) -> Value {
    let object: &dyn AnyObject = write.object.as_deref().expect("an object");
    serde_json::from_slice::<Value>(&object.to_vec()).expect("JSON")["data"].clone()
}

#[tokio::test]
async fn a_plugin_denies_in_its_own_words() {
    let denies = |more: Value| plugin("p", json!({"parameters": {"validate": more}}));
    for (what, expected) in [
        (json!({"deny": "not today"}), (403, "Forbidden")),
        (json!({"deny": "not today", "code": 422, "reason": "Invalid"}), (422, "Invalid")),
    ] {
        let error = World::of(vec![denies(what)]).await.create().await.0.expect_err("a refusal");
        assert_eq!((error.code, &*error.reason), expected);
        assert_eq!(error.message, "admission plugin \"p\" denied the request: not today");
    }
}

#[tokio::test]
async fn warnings_and_annotations_reach_whoever_reads_them() {
    let said = json!({"warn": "mind the gap", "audit": "seen"});
    let mut world = World::of(vec![plugin("p", json!({"parameters": {"validate": said}}))]).await;
    world.create().await.0.expect("let in");
    assert_eq!(world.notes.warnings, ["mind the gap"]);
    assert_eq!(world.notes.audit_annotations.get("p/note").map(String::as_str), Some("seen"));
}

#[tokio::test]
async fn each_plugin_sees_what_those_before_it_have_made() {
    let patch = json!({"change": {"patch": [{"op": "add", "path": "/data/more", "value": "yes"}]}});
    let counting = |name: &str| plugin(name, json!({"parameters": {"mutate": "count"}}));
    let mut world =
        World::of(vec![counting("c"), plugin("b", json!({"parameters": {"mutate": patch}})), counting("a")]).await;
    let (verdict, data) = world.create().await;
    verdict.expect("let in");
    assert_eq!(data, json!({"k": "v", "more": "yes", "count": "2"}));
    let told = |key: &str| world.notes.audit_annotations.get(key).cloned().unwrap_or_default();
    let place = "round_0_index_1";
    assert_eq!(told(&format!("mutation.plugin.admission.wharf.dev/{place}")), r#"{"mutated":true,"plugin":"b"}"#);
    assert!(told(&format!("patch.plugin.admission.wharf.dev/{place}")).contains("/data/more"));
}

#[tokio::test]
async fn a_plugin_that_asks_for_it_is_called_again_after_a_change() {
    let patch = json!({"change": {"patch": [{"op": "add", "path": "/data/more", "value": "yes"}]}});
    for (policy, count) in [("IfNeeded", "2"), ("Never", "1")] {
        let counting = plugin("a", json!({"parameters": {"mutate": "count"}, "reinvocationPolicy": policy}));
        let mut world = World::of(vec![counting, plugin("b", json!({"parameters": {"mutate": patch}}))]).await;
        let (verdict, data) = world.create().await;
        verdict.expect("let in");
        assert_eq!(data, json!({"k": "v", "more": "yes", "count": count}));
    }
}

#[tokio::test]
async fn the_request_says_everything_about_the_write() {
    let mut world = World::of(vec![plugin("p", json!({"parameters": {"validate": "echo"}}))]).await;
    let update = write(Operation::Update, "configmaps", settings(json!({"k": "2"})));
    let mut update = update.replacing(settings(json!({"k": "1"}))).by(wharf_auth::User::new("jane", &["dev"]));
    (update.dry_run, update.options) = (true, Some(json!({"kind": "UpdateOptions"})));
    world.admit(&mut update).await.expect("let in");
    let told: Value = serde_json::from_str(&world.notes.warnings[0]).expect("JSON");
    assert_eq!(
        told,
        json!({
            "operation": "Operation::Update", "kind": ["", "v1", "ConfigMap"], "target": ["", "v1", "configmaps", ""],
            "name": "a", "namespace": "default", "labels": [["team", "a"]], "user": ["jane", ""], "groups": ["dev", "system:authenticated"],
            "dryRun": true, "object": {"k": "2"}, "old": {"k": "1"}, "options": "UpdateOptions",
        })
    );
}

/// What a plugin that fails does to a write, under either failure policy.
#[track_caller]
fn check_words(error: &ApiError, message: &str) {
    assert_eq!((error.code, &*error.reason), (500, "InternalError"));
    let begins = format!("Internal error occurred: failed calling admission plugin \"p\": {message}");
    assert!(error.message.starts_with(&begins), "{} does not begin with {begins}", error.message);
}

async fn check_failure(more: Value, message: &str) {
    let mut world = World::of(vec![plugin("p", more.clone())]).await;
    check_words(&world.create().await.0.expect_err("a refusal"), message);
    let mut ignored = more;
    ignored["failurePolicy"] = json!("Ignore");
    let mut world = World::of(vec![plugin("p", ignored)]).await;
    let (verdict, data) = world.create().await;
    verdict.expect("let in");
    assert_eq!(data, json!({"k": "v"}), "what has failed has changed nothing");
    let open = world.notes.audit_annotations.keys().filter(|key| key.starts_with("failed-open.")).count();
    assert!(open > 0, "{:?}", world.notes);
}

#[tokio::test]
async fn a_guest_that_breaks_counts_as_the_failure_policy_says() {
    let told = |hook: &str, what: &str| json!({"parameters": {hook: what}});
    for hook in ["mutate", "validate"] {
        check_failure(told(hook, "panic"), "wasm trap: wasm `unreachable` instruction executed; it said: ").await;
        check_failure(told(hook, "exit"), "it exited with code 1").await;
        check_failure(told(hook, "recurse"), "wasm trap: ").await;
    }
    let panics = World::of(vec![plugin("p", told("validate", "panic"))]).await.create().await.0.expect_err("a trap");
    assert!(panics.message.contains("the plugin has lost its mind"), "{}", panics.message);
}

#[tokio::test]
async fn a_guest_meets_its_memory_limit() {
    let hoards = |limits: Value| json!({"parameters": {"validate": "hoard"}, "resources": {"limits": limits}});
    check_failure(hoards(json!({"memory": "8Mi"})), "it met its memory limit of 8388608 bytes").await;
    check_failure(hoards(json!({})), "it met its memory limit of 67108864 bytes").await;
    // One that does not fit at all.
    check_failure(hoards(json!({"memory": "64Ki"})), "it met its memory limit of 65536 bytes").await;
}

#[tokio::test]
async fn a_guest_meets_its_deadline_whether_it_computes_or_sleeps() {
    for what in ["spin", "sleep"] {
        let told = json!({"parameters": {"validate": what}, "timeoutSeconds": 1});
        check_failure(told, "it did not answer within 1 s").await;
    }
}

#[tokio::test]
async fn a_deadline_is_exact_and_counts_from_when_the_write_came() {
    let World { cluster, chain, .. } = World::of(vec![plugin("p", json!({}))]).await;
    let host = chain.host();
    let mut hook = Hook::from(plugin("p", json!({"parameters": {"validate": "spin"}})));
    hook.timeout = Duration::from_millis(250);
    let (write, code) = (create(), host.code("p", IMAGE).expect("loaded"));
    let view = Subject::default().view(&write, &write.row).await.expect("a view");
    let now = tokio::time::Instant::now();
    for began in [now, now - hook.timeout] {
        let request = request::make(&hook, &write, &view, &cluster);
        let answer = host.ask((&code, Phase::Validating), &hook, request, began).await;
        assert_eq!(answer.err().as_deref(), Some("it did not answer within 250 ms"));
    }
}

/// One image, and a folder for its code.
struct Kept {
    bytes: Vec<u8>,
    folder: tempfile::TempDir,
    compilations: AtomicUsize,
}

impl Kept {
    fn file(&self, key: &str) -> PathBuf {
        self.folder.path().join(key)
    }
}

#[async_trait]
impl Components for Kept {
    async fn resolve(&self, _: &str, _: Pull, _: &[Secret]) -> Result<Component, String> {
        Ok(Component { digest: "sha256:kept".to_owned(), bytes: self.bytes.clone() })
    }

    fn compiled(&self, key: &str) -> Option<PathBuf> {
        Some(self.file(key)).filter(|file| file.exists())
    }

    fn keep_compiled(&self, key: &str, code: &[u8]) -> std::io::Result<()> {
        self.compilations.fetch_add(1, Ordering::Relaxed);
        // Never in place: the older file may be mapped into memory.
        let fresh = self.file("fresh");
        std::fs::write(&fresh, code)?;
        std::fs::rename(fresh, self.file(key))
    }
}

#[tokio::test]
async fn what_was_compiled_once_is_not_compiled_again_by_the_next_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let kept = Arc::new(Kept { bytes: guest("admission"), folder, compilations: AtomicUsize::new(0) });
    let load = || async {
        let host = Host::new(Some(kept.clone()));
        host.load("p", IMAGE, Pull::Always, &[]).await.expect("loaded").hooks
    };
    for _ in 0..2 {
        assert_eq!(load().await, [Phase::Mutating, Phase::Validating]);
    }
    assert_eq!(kept.compilations.load(Ordering::Relaxed), 1);
    // Code that another version of the engine has left there does no harm.
    let code = kept.folder.path().read_dir().expect("files").next().expect("code").expect("a file").path();
    std::fs::remove_file(&code).expect("removed");
    std::fs::write(&code, b"of another engine").expect("written");
    assert_eq!(load().await, [Phase::Mutating, Phase::Validating]);
    assert_eq!(kept.compilations.load(Ordering::Relaxed), 2);
}

/// On one thread, so a guest that kept it would keep everything.
#[tokio::test]
async fn a_guest_that_computes_lets_others_run() {
    let told = json!({"parameters": {"validate": "spin"}, "timeoutSeconds": 30});
    let mut world = World::of(vec![plugin("p", told)]).await;
    let began = Instant::now();
    tokio::select! {
        biased;
        _ = world.create() => panic!("an endless loop has ended"),
        () = tokio::time::sleep(Duration::from_millis(100)) => {}
    }
    assert!(began.elapsed() < Duration::from_secs(25), "the timer had its turn before the guest's deadline");
}

#[tokio::test]
async fn answers_that_make_no_sense_are_failures() {
    let change = |change: Value| json!({"parameters": {"mutate": {"change": change}}});
    check_failure(change(json!({"patch": "garbage"})), "its change is no JSON: ").await;
    check_failure(change(json!({"patch": {"op": "add"}})), "its patch is no list of operations").await;
    check_failure(change(json!({"patch": [{"op": "remove", "path": "/none"}]})), "its patch does not apply: ").await;
    let other = json!({"object": {"apiVersion": "v1", "kind": "Secret"}});
    check_failure(change(other), "it has changed the object's kind from \"ConfigMap\" to \"Secret\"").await;
    let odd = json!({"object": {"apiVersion": "v1", "kind": "ConfigMap", "data": "text"}});
    check_failure(change(odd), "what it made cannot be read: ").await;
}

#[tokio::test]
async fn what_is_deleted_cannot_be_changed() {
    let object = json!({"object": {"apiVersion": "v1", "kind": "ConfigMap"}});
    let mut world = World::of(vec![plugin("p", json!({"parameters": {"mutate": {"change": object}}}))]).await;
    let error = world.admit(&mut create().deleting()).await.expect_err("a refusal");
    check_words(&error, "it attempted to modify the object, which is not supported for this operation");
}

#[tokio::test]
async fn what_cannot_be_loaded_counts_as_the_failure_policy_says() {
    check_failure(json!({"image": "nowhere:v1"}), "failed to pull image \"nowhere:v1\": not found").await;
    for (image, why) in [
        ("stranger:v1", "it exports wasi:cli/run@0.2"),
        // It asks for sockets, or for HTTP, which no plugin is given.
        ("http:v1", "it asks for too much: component imports instance `wasi:http/"),
        ("module:v1", "it is a core module, not a component"),
        ("garbage:v1", "it is not WebAssembly"),
        ("torn:v1", "it does not compile: "),
    ] {
        let message = format!("image {image:?} is no admission plugin: {why}");
        check_failure(json!({"image": image}), &message).await;
    }
}

#[tokio::test]
async fn a_plugin_counts_at_once_if_its_image_is_loaded_and_fails_until_then() {
    let denies = json!({"parameters": {"validate": {"deny": "no"}}});
    let world = World::of(vec![plugin("first", json!({}))]).await;
    let World { mut cluster, chain, .. } = world;
    cluster = cluster.with("admissionplugins", plugin("p", denies.clone()));
    let mut world = World { cluster, chain, notes: Notes::default() };
    let denied = world.create().await.0.expect_err("a refusal");
    assert_eq!(denied.message, "admission plugin \"p\" denied the request: no");
    let mut new = World::of(Vec::new()).await;
    new.cluster = std::mem::take(&mut new.cluster).with("admissionplugins", plugin("p", denies));
    check_words(&new.create().await.0.expect_err("a refusal"), "image \"plugin:v1\" is not loaded yet");
}

#[tokio::test]
async fn what_was_loaded_goes_on_until_something_better_is() {
    let host = Host::new(Some(Arc::new(Shelf(HashMap::from([(IMAGE, guest("admission"))])))));
    let both = vec![Phase::Mutating, Phase::Validating];
    let loaded = host.load("p", IMAGE, Pull::Always, &[]).await.expect("loaded");
    assert_eq!((loaded.digest.as_str(), &loaded.hooks), ("sha256:plugin:v1", &both));
    let gone = host.load("p", "gone:v1", Pull::Always, &[]).await;
    assert!(matches!(gone, Err(LoadError { stage: Stage::Pull, .. })), "{gone:?}");
    assert_eq!(host.loaded("p", "gone:v1"), None, "another image is another plugin");
    host.load("p", IMAGE, Pull::Always, &[]).await.expect("loaded");
    host.unload("p");
    assert_eq!(host.loaded("p", IMAGE), None);
}

#[tokio::test]
async fn only_what_the_rules_and_selectors_name_is_asked_about() {
    let denies = |more: Value| {
        let mut spec = json!({"parameters": {"validate": {"deny": "no"}}});
        spec.as_object_mut().expect("fields").extend(more.as_object().cloned().unwrap_or_default());
        plugin("p", spec)
    };
    let rule = |resource: &str, operation: &str| json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": [operation], "resources": [resource]}]);
    let condition = |expression: &str| json!([{"name": "c", "expression": expression}]);
    for (more, asked) in [
        (json!({"rules": rule("configmaps", "CREATE")}), true),
        (json!({"rules": rule("configmaps", "UPDATE")}), false),
        (json!({"rules": rule("secrets", "CREATE")}), false),
        (json!({"rules": []}), false),
        (json!({"namespaceSelector": {"matchLabels": {"team": "a"}}}), true),
        (json!({"namespaceSelector": {"matchLabels": {"team": "b"}}}), false),
        (json!({"objectSelector": {"matchLabels": {"watched": "yes"}}}), false),
        (json!({"matchConditions": condition("object.data.k == 'v'")}), true),
        (json!({"matchConditions": condition("request.userInfo.username == 'nobody'")}), false),
    ] {
        let verdict = World::of(vec![denies(more.clone())]).await.create().await.0;
        assert_eq!(verdict.is_err(), asked, "{more}");
    }
}

#[tokio::test]
async fn nobody_is_locked_out_by_a_plugin() {
    let mut world = World::of(vec![plugin("p", json!({"image": "nowhere:v1"}))]).await;
    let mut mend = write(Operation::Update, "admissionplugins", plugin("p", json!({})));
    world.admit(&mut mend).await.expect("let in");
    world.create().await.0.expect_err("all else is refused");
}

#[tokio::test]
async fn a_guest_reaches_nothing_but_the_request() {
    let mut world = World::of(vec![plugin("p", json!({"parameters": {"validate": "reach"}}))]).await;
    world.create().await.0.expect("let in");
    assert_eq!(world.notes.warnings, ["environment [], arguments 0, files false, time true"]);
}

#[tokio::test]
async fn what_a_guest_writes_is_bounded_and_does_it_no_harm() {
    let mut world = World::of(vec![plugin("p", json!({"parameters": {"validate": "shout"}}))]).await;
    world.create().await.0.expect("let in");
}
