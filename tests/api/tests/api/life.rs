//! Each resource's whole life: what a client can do to an object, in the order in which it would.

use anyhow::{Context, Result, ensure};
use http::Method;
use serde_json::{Value, json};
use wharf_test_support::eventually;

use crate::http::{Http, METADATA, METADATA_LIST, TABLE, Watch, revision};
use crate::samples::{Resource, Sample, samples, served};

/// A definition's name, and an APIService's, is told by its spec; a binding needs a pod, and components and metrics are only read. Their walks
/// are tests of their own.
const WALKED_ELSEWHERE: &[&str] =
    &["APIService", "Binding", "ComponentStatus", "CustomResourceDefinition", "NodeMetrics", "PodMetrics"];

/// Kinds whose metadata a write of the status does not reach; that of all others it changes too, as conformance tests rely on.
const STATUS_ALONE: &[&str] = &[
    "AdmissionPlugin",
    "FlowSchema",
    "PriorityLevelConfiguration",
    "ResourceClaim",
    "ServiceCIDR",
    "VolumeAttachment",
];

/// Of an update that controllers get in the way of.
const TRIES: usize = 50;

#[tokio::test]
async fn every_served_resource_lives_its_whole_life() {
    let (_cluster, http) = Http::server().await;
    let (samples, served) = (samples(), served(&http).await.expect("discovery works"));
    let mut wrong = Vec::new();
    for resource in &served {
        if WALKED_ELSEWHERE.contains(&resource.kind.as_str()) {
            continue;
        }
        let Some(sample) = samples.get(&resource.name) else {
            wrong.push(format!("{}: no sample in samples.yaml", resource.name));
            continue;
        };
        let mut life = Life { http: &http, resource, sample, step: "" };
        if let Err(error) = life.live().await {
            wrong.push(format!("{}, {}: {error:#}", resource.name, life.step));
        }
    }
    let unserved = samples.keys().filter(|name| served.iter().all(|resource| resource.name != **name));
    wrong.extend(unserved.map(|name| format!("{name}: a sample of what is not served")));
    assert!(wrong.is_empty(), "{} things are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(served.len() > 15, "discovery has lost resources: {served:?}");
}

struct Life<'a> {
    http: &'a Http,
    resource: &'a Resource,
    sample: &'a Sample,
    /// Where it stands, for the failure.
    step: &'static str,
}

impl Life<'_> {
    async fn live(&mut self) -> Result<()> {
        let (http, all) = (self.http, self.resource.path.clone());
        let object = self.resource.object(self.sample, self.name(), "first");
        if !self.resource.can("get") {
            self.step = "create";
            // A question has no name.
            let object = json!({"spec": object["spec"]});
            return http.post(&all, &object).await?.json(201).map(drop);
        }
        self.step = "watch";
        let mut watch = http.watch(&format!("{all}?watch=1&labelSelector=walk%3Dfirst")).await?;
        self.refusals(&object).await?;
        let made = self.create(&object).await?;
        self.read(&made).await?;
        self.update(&made).await?;
        self.patch().await?;
        self.status().await?;
        self.yaml().await?;
        self.delete_collection().await?;
        self.delete().await?;
        self.step = "watch";
        watched(&mut watch).await
    }

    fn name(&self) -> &str {
        self.sample.names.as_ref().map_or("sample", |names| &names[0])
    }

    fn second_name(&self) -> &str {
        self.sample.names.as_ref().map_or("sample-yaml", |names| &names[1])
    }

    fn one(&self) -> String {
        format!("{}/{}", self.resource.path, self.name())
    }

    async fn current(&self) -> Result<Value> {
        self.http.get(&self.one()).await?.json(200)
    }

    /// What is no such object is refused, and nothing is made of it.
    async fn refusals(&mut self, object: &Value) -> Result<()> {
        let (http, all) = (self.http, &self.resource.path);
        let with = |change: &dyn Fn(&mut Value)| {
            let mut object = object.clone();
            change(&mut object);
            object
        };
        self.step = "create of another kind";
        let other = with(&|object| object["kind"] = json!("Other"));
        http.post(all, &other).await?.refused(400, "BadRequest")?;
        self.step = "create with an unknown field";
        let unknown = with(&|object| object["metadata"]["oddity"] = json!(1));
        http.post(&format!("{all}?fieldValidation=Strict"), &unknown).await?.refused(400, "BadRequest")?;
        self.step = "create without a name";
        let nameless = with(&|object| object["metadata"]["name"] = json!(null));
        http.post(all, &nameless).await?.refused(422, "Invalid")?;
        self.step = "create with a bad label";
        let label = with(&|object| object["metadata"]["labels"]["not a key"] = json!("x"));
        http.post(all, &label).await?.refused(422, "Invalid")?;
        if let Some((root, name)) = all.split_once("/namespaces/walk/") {
            self.step = "create in another namespace than the path's";
            let elsewhere = with(&|object| object["metadata"]["namespace"] = json!("default"));
            http.post(all, &elsewhere).await?.refused(400, "BadRequest")?;
            self.step = "create in a namespace that is not there";
            http.post(&format!("{root}/namespaces/absent/{name}"), object).await?.refused(404, "NotFound")?;
        }
        http.get(&self.one()).await?.refused(404, "NotFound")?;
        if self.sample.names.is_some() {
            return Ok(());
        }
        self.step = "create with a generated name";
        let mut named = self.resource.object(self.sample, "", "generated");
        named["metadata"]["generateName"] = json!("sample-");
        let named = http.post(&format!("{all}?dryRun=All"), &named).await?.json(201)?;
        let name = named["metadata"]["name"].as_str().unwrap_or_default();
        ensure!(name.starts_with("sample-") && name.len() > "sample-".len(), "{named}");
        Ok(())
    }

    async fn create(&mut self, object: &Value) -> Result<Value> {
        let (http, all) = (self.http, &self.resource.path);
        self.step = "dry-run create";
        let dry = http.post(&format!("{all}?dryRun=All"), object).await?.json(201)?;
        ensure!(dry["metadata"]["name"] == self.name(), "{dry}");
        http.get(&self.one()).await?.refused(404, "NotFound")?;
        self.step = "create";
        let made = http.post(all, object).await?.json(201)?;
        ensure!(made["kind"] == self.resource.kind.as_str(), "{made}");
        ensure!(made["apiVersion"] == self.resource.api_version.as_str(), "{made}");
        let metadata = &made["metadata"];
        ensure!(metadata["uid"].is_string() && metadata["creationTimestamp"].is_string(), "{made}");
        self.step = "create again";
        http.post(all, object).await?.refused(409, "AlreadyExists")?;
        Ok(made)
    }

    async fn read(&mut self, made: &Value) -> Result<()> {
        let (http, all) = (self.http, &self.resource.path);
        self.step = "get";
        let got = self.current().await?;
        ensure!(got["metadata"]["uid"] == made["metadata"]["uid"], "{got}");
        ensure!(revision(&got)? >= revision(made)?, "{got}");
        self.step = "list";
        let list = http.get(all).await?.json(200)?;
        ensure!(list["kind"] == format!("{}List", self.resource.kind), "{list}");
        let items = list["items"].as_array().context("a list has items")?;
        ensure!(items.iter().any(|item| item["metadata"]["uid"] == made["metadata"]["uid"]), "{list}");
        self.step = "list by label";
        for (selector, count) in [("walk%3Dfirst", 1), ("walk%20in%20(none)", 0), ("walk%3Dfirst,absent", 0)] {
            let list = http.get(&format!("{all}?labelSelector={selector}")).await?.json(200)?;
            ensure!(list["items"].as_array().map(Vec::len) == Some(count), "{selector}: {list}");
        }
        self.step = "list by name";
        let list = http.get(&format!("{all}?fieldSelector=metadata.name%3D{}", self.name())).await?.json(200)?;
        ensure!(list["items"].as_array().map(Vec::len) == Some(1), "{list}");
        self.step = "table";
        for path in [all.clone(), self.one()] {
            let table = http.get_as(&path, TABLE).await?.json(200)?;
            ensure!(
                table["kind"] == "Table" && table["columnDefinitions"][0]["name"] == column(self.resource),
                "{table}"
            );
            let columns = table["columnDefinitions"].as_array().map(Vec::len);
            let rows = table["rows"].as_array().context("a table has rows")?;
            let sane = |row: &Value| row["cells"].as_array().map(Vec::len) == columns;
            ensure!(!rows.is_empty() && rows.iter().all(sane), "{table}");
            ensure!(rows.iter().any(|row| row["object"]["metadata"]["name"] == self.name()), "{table}");
        }
        self.step = "metadata";
        let partial = http.get_as(&self.one(), METADATA).await?.json(200)?;
        ensure!(partial["kind"] == "PartialObjectMetadata" && partial.get("spec").is_none(), "{partial}");
        ensure!(partial["metadata"]["uid"] == made["metadata"]["uid"], "{partial}");
        let list = http.get_as(all, METADATA_LIST).await?.json(200)?;
        ensure!(list["kind"] == "PartialObjectMetadataList", "{list}");
        Ok(())
    }

    async fn update(&mut self, made: &Value) -> Result<()> {
        let (http, one) = (self.http, self.one());
        self.step = "dry-run update";
        let dry = format!("{one}?dryRun=All");
        let reply = self.put_with(&dry, |object| object["metadata"]["labels"]["dry"] = json!("yes")).await?;
        ensure!(reply["metadata"]["labels"]["dry"] == "yes", "{reply}");
        let current = self.current().await?;
        ensure!(current["metadata"]["labels"].get("dry").is_none(), "it was written: {current}");
        self.step = "update";
        let updated = self.put_with(&one, |object| object["metadata"]["labels"]["updated"] = json!("yes")).await?;
        ensure!(updated["metadata"]["labels"]["updated"] == "yes", "{updated}");
        ensure!(revision(&updated)? > revision(made)?, "{updated}");
        self.step = "stale update";
        let mut stale = made.clone();
        stale["metadata"]["labels"]["stale"] = json!("yes");
        http.put(&one, &stale).await?.refused(409, "Conflict")?;
        self.step = "update of another object";
        let mut other = self.current().await?;
        other["metadata"]["uid"] = json!("00000000-0000-0000-0000-000000000000");
        http.put(&one, &other).await?.refused(409, "Conflict")?;
        Ok(())
    }

    /// An update of what is there now, again while others are quicker.
    async fn put_with(&self, path: &str, change: impl Fn(&mut Value)) -> Result<Value> {
        for _ in 0..TRIES {
            let mut object = self.current().await?;
            change(&mut object);
            let reply = self.http.put(path, &object).await?;
            if !reply.is(409) {
                return reply.json(200);
            }
        }
        anyhow::bail!("PUT {path}: a conflict, {TRIES} times")
    }

    async fn patch(&mut self) -> Result<()> {
        let (http, one) = (self.http, self.one());
        self.step = "patch";
        for (kind, patch, value) in [
            ("merge", json!({"metadata": {"annotations": {"a": "1", "b": "1"}}}), "1"),
            ("strategic-merge", json!({"metadata": {"annotations": {"a": "2"}}}), "2"),
            ("json", json!([{"op": "replace", "path": "/metadata/annotations/a", "value": "3"}]), "3"),
        ] {
            let dry = http.patch(&format!("{one}?dryRun=All"), kind, &patch).await?.json(200)?;
            ensure!(dry["metadata"]["annotations"]["a"] == value, "{kind}: {dry}");
            ensure!(self.current().await?["metadata"]["annotations"]["a"] != value, "{kind}: a dry run was written");
            let patched = http.patch(&one, kind, &patch).await?.json(200)?;
            let annotations = &patched["metadata"]["annotations"];
            ensure!(annotations["a"] == value && annotations["b"] == "1", "{kind}: {patched}");
        }
        self.step = "patch that fails its test";
        let failing = json!([
            {"op": "test", "path": "/metadata/annotations/a", "value": "other"},
            {"op": "remove", "path": "/metadata/annotations/a"},
        ]);
        http.patch(&one, "json", &failing).await?.refused(422, "Invalid")?;
        ensure!(self.current().await?["metadata"]["annotations"]["a"] == "3", "it was written");
        Ok(())
    }

    async fn status(&mut self) -> Result<()> {
        if !self.resource.subresources.contains("status") {
            return Ok(());
        }
        let (path, sample) = (format!("{}/status", self.one()), self.sample);
        self.step = "status";
        ensure!(sample.status.is_object(), "samples.yaml has no status to write");
        let before = self.current().await?;
        let replied = |reply: Value| -> Result<()> {
            ensure!(holds(&reply["status"], &sample.status), "the status was not written: {reply}");
            ensure!(reply["spec"] == before["spec"], "the spec was written: {reply}");
            Ok(())
        };
        self.step = "status patch";
        let annotations = json!({"status": "patched"});
        let patch =
            json!({"metadata": {"annotations": annotations}, "spec": sample.other_spec, "status": sample.status});
        let patched = self.http.patch(&path, "merge", &patch).await?.json(200)?;
        let reached = patched["metadata"]["annotations"]["status"] == "patched";
        ensure!(
            reached != STATUS_ALONE.contains(&self.resource.kind.as_str()),
            "metadata beside the status: {patched}"
        );
        replied(patched)?;
        self.step = "status update";
        let put = self.put_with(&path, |object| {
            merge(&mut object["spec"], &sample.other_spec);
            merge(&mut object["status"], &sample.status);
        });
        replied(put.await?)?;
        self.step = "status get";
        ensure!(
            self.http.get(&path).await?.json(200)?["metadata"]["uid"] == before["metadata"]["uid"],
            "another object"
        );
        self.step = "update that leaves the status alone";
        let updated = self
            .put_with(&self.one(), |object| {
                object["metadata"]["labels"]["again"] = json!("yes");
                object["status"] = json!({});
            })
            .await?;
        ensure!(updated["status"].as_object().is_some_and(|status| !status.is_empty()), "{updated}");
        Ok(())
    }

    async fn yaml(&mut self) -> Result<()> {
        let (http, all) = (self.http, &self.resource.path);
        let one = format!("{all}/{}", self.second_name());
        self.step = "YAML create";
        let object = self.resource.object(self.sample, self.second_name(), "second");
        let made = http.yaml(Method::POST, all, &object).await?.read_yaml(201)?;
        ensure!(made["metadata"]["labels"]["walk"] == "second", "{made}");
        self.step = "YAML get and update";
        for _ in 0..TRIES {
            let mut object = http.get_as(&one, crate::http::YAML).await?.read_yaml(200)?;
            object["metadata"]["labels"]["yaml"] = json!("yes");
            let reply = http.yaml(Method::PUT, &one, &object).await?;
            if reply.is(409) {
                continue;
            }
            let updated = reply.read_yaml(200)?;
            ensure!(updated["metadata"]["labels"]["yaml"] == "yes", "{updated}");
            return Ok(());
        }
        anyhow::bail!("PUT {one}: a conflict, {TRIES} times")
    }

    async fn delete_collection(&mut self) -> Result<()> {
        let (http, all) = (self.http, &self.resource.path);
        let one = format!("{all}/{}", self.second_name());
        if !self.resource.can("deletecollection") {
            self.step = "delete of the second";
            http.delete(&one).await?.json(200)?;
            return self.gone(&one).await;
        }
        self.step = "dry-run deletecollection";
        http.delete(&format!("{all}?labelSelector=walk%3Dsecond&dryRun=All")).await?.json(200)?;
        let kept = http.get(&one).await?.json(200)?;
        ensure!(kept["metadata"].get("deletionTimestamp").is_none(), "it was deleted: {kept}");
        self.step = "deletecollection";
        http.delete(&format!("{all}?labelSelector=walk%3Dsecond")).await?.json(200)?;
        self.gone(&one).await?;
        let other = self.current().await?;
        ensure!(other["metadata"].get("deletionTimestamp").is_none(), "the other one was deleted too: {other}");
        Ok(())
    }

    async fn delete(&mut self) -> Result<()> {
        let (http, one) = (self.http, self.one());
        self.step = "dry-run delete";
        http.delete(&format!("{one}?dryRun=All")).await?.json(200)?;
        let kept = self.current().await?;
        ensure!(kept["metadata"].get("deletionTimestamp").is_none(), "it was deleted: {kept}");
        self.step = "delete of another object";
        let other = json!({"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}});
        http.delete_with(&one, &other).await?.refused(409, "Conflict")?;
        self.step = "delete";
        http.delete(&one).await?.json(200)?;
        self.gone(&one).await?;
        self.step = "delete again";
        http.delete(&one).await?.refused(404, "NotFound")?;
        Ok(())
    }

    /// Waits until a deleted object is gone. A finalizer that protects what is in use holds it: nothing serves that here.
    async fn gone(&self, one: &str) -> Result<()> {
        let protected = self.http.get(one).await?;
        if protected.is(200) {
            let object = protected.json(200)?;
            ensure!(object["metadata"]["deletionTimestamp"].is_string(), "it is not being deleted: {object}");
            let finalizers = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
            if finalizers.iter().any(|name| name.as_str().is_some_and(|name| name.ends_with("-protection"))) {
                self.http.patch(one, "merge", &json!({"metadata": {"finalizers": null}})).await?;
            }
        }
        eventually(&format!("{one} is gone"), || async { self.http.get(one).await?.refused(404, "NotFound") }).await;
        Ok(())
    }
}

/// The first column: a name, but of events, which show when.
fn column(resource: &Resource) -> &'static str {
    if resource.kind == "Event" { "Last Seen" } else { "Name" }
}

/// The life as its watch tells it.
async fn watched(watch: &mut Watch) -> Result<()> {
    let (first, object) = watch.event().await?;
    ensure!(first == "ADDED", "the life begins with {first}");
    let mut last = revision(&object)?;
    loop {
        let (kind, object) = watch.event().await?;
        let revision = revision(&object)?;
        ensure!(revision > last, "{kind} at {revision} after {last}");
        last = revision;
        ensure!(object["metadata"]["labels"].get("dry").is_none(), "a dry run was seen: {object}");
        match kind.as_str() {
            "MODIFIED" => {}
            "DELETED" => return Ok(()),
            other => anyhow::bail!("unexpected {other}"),
        }
    }
}

/// Whether `actual` has all that `wanted` has; lists are compared by what is in them.
fn holds(actual: &Value, wanted: &Value) -> bool {
    match (actual, wanted) {
        (Value::Object(actual), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| actual.get(key).is_some_and(|actual| holds(actual, wanted)))
        }
        (Value::Array(actual), Value::Array(wanted)) => {
            wanted.iter().all(|wanted| actual.iter().any(|actual| holds(actual, wanted)))
        }
        (actual, wanted) => actual == wanted,
    }
}

/// Sets the fields of an object that `change` has.
fn merge(object: &mut Value, change: &Value) {
    let Value::Object(change) = change else { return };
    if !object.is_object() {
        *object = json!({});
    }
    for (key, value) in change {
        object[key] = value.clone();
    }
}
