//! Walks every row of the resource table through its whole life, so that a new row is tested as soon as it is there.

mod support;

use http::Method;
use serde_json::{Value, json};
use support::{Api, deployment, pod, revision};
use wharf_apiserver::request::Verb;
use wharf_apiserver::route;
use wharf_machinery::protobuf::{self, MEDIA_TYPE};
use wharf_registry::{Row, Subresource, builtin};

/// An object of the kind that the server takes.
fn sample(row: &Row) -> Value {
    let template = pod("x")["spec"].clone();
    let mut object = match row.gvk.kind.as_ref() {
        "Pod" => pod("sample"),
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" => deployment("sample"),
        "ControllerRevision" => json!({"revision": 1, "data": {"spec": {"a": 1}}}),
        "CronJob" => {
            let mut spec = template;
            spec["restartPolicy"] = json!("Never");
            json!({"spec": {"schedule": "@hourly", "jobTemplate": {"spec": {"template": {"spec": spec}}}}})
        }
        "ReplicationController" => json!({"spec": {
            "selector": {"app": "web"},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": template},
        }}),
        "Job" => {
            let mut spec = template;
            spec["restartPolicy"] = json!("Never");
            json!({"spec": {"template": {"spec": spec}}})
        }
        "HorizontalPodAutoscaler" => json!({"spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, "maxReplicas": 3,
        }}),
        "Ingress" => json!({"spec": {"defaultBackend": {"service": {"name": "web", "port": {"number": 80}}}}}),
        "IngressClass" => json!({"spec": {"controller": "example.com/a"}}),
        "IPAddress" => json!({"spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "web"}}}),
        "ServiceCIDR" => json!({"spec": {"cidrs": ["10.9.0.0/16"]}}),
        "RuntimeClass" => json!({"handler": "wasm"}),
        "PodTemplate" => json!({"template": {"spec": template}}),
        "Service" => json!({"spec": {"clusterIP": "None", "ports": [{"port": 80}], "selector": {"app": "web"}}}),
        "EndpointSlice" => json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": []}),
        "Event" if row.gvr.group == "events.k8s.io" => json!({
            "regarding": {"kind": "Pod", "namespace": "default", "name": "a"}, "action": "Sampling", "reason": "Because",
            "note": "so", "type": "Normal", "eventTime": "2024-05-01T12:00:00.000000Z",
            "reportingController": "example.com/test", "reportingInstance": "test-1",
        }),
        "Event" => json!({
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": "a"},
            "reason": "Because", "message": "so", "type": "Normal", "source": {"component": "test"},
        }),
        "PersistentVolumeClaim" => json!({"spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
        }}),
        "PersistentVolume" => json!({"spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/tmp"},
        }}),
        kind @ ("RoleBinding" | "ClusterRoleBinding") => {
            json!({"roleRef": {"kind": kind.strip_suffix("Binding").unwrap_or(kind), "name": "sample"}})
        }
        kind if row.gvr.group == "admissionregistration.k8s.io" => admission(kind),
        _ => shared_sample(row),
    };
    object["apiVersion"] = json!(row.gvk.group_version().to_string());
    object["kind"] = json!(row.gvk.kind);
    object["metadata"] = json!({"name": name(row), "labels": {"walk": "yes"}});
    object
}

/// The one that the API suite walks with.
fn shared_sample(row: &Row) -> Value {
    const SAMPLES: &str = include_str!("../../../tests/api/tests/api/samples.yaml");
    let samples: Value = serde_yaml::from_str(SAMPLES).expect("samples.yaml is a table of samples");
    let object = samples[row.gvr.group_resource()]["object"].clone();
    if object.is_object() { object } else { json!({}) }
}

/// Something about a resource that nothing else writes.
fn admission(kind: &str) -> Value {
    let rule = json!({"apiGroups": ["example.com"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["samples"]});
    let constraints = json!({"resourceRules": [rule]});
    match kind {
        "ValidatingAdmissionPolicy" => {
            json!({"spec": {"matchConstraints": constraints, "validations": [{"expression": "true"}]}})
        }
        "MutatingAdmissionPolicy" => json!({"spec": {
            "matchConstraints": constraints, "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}],
        }}),
        "ValidatingAdmissionPolicyBinding" => json!({"spec": {"policyName": "none", "validationActions": ["Deny"]}}),
        "MutatingAdmissionPolicyBinding" => json!({"spec": {"policyName": "none"}}),
        _ => json!({"webhooks": [{
            "name": "sample.example.com", "clientConfig": {"url": "https://127.0.0.1:1/"}, "rules": [rule],
            "sideEffects": "None", "admissionReviewVersions": ["v1"],
        }]}),
    }
}

/// The sample's name; some kinds do not take any.
fn name(row: &Row) -> &'static str {
    match row.gvk.kind.as_ref() {
        "IPAddress" => "10.1.2.3",
        _ => "sample",
    }
}

fn collection(row: &Row) -> String {
    let gv = row.gvr.group_version();
    let root = if gv.group.is_empty() { "/api" } else { "/apis" };
    let namespace = if row.namespaced() { "/namespaces/default" } else { "" };
    format!("{root}/{gv}{namespace}/{}", row.gvr.resource)
}

/// The row's life; `what` goes into every message.
async fn walk(api: &Api, row: &Row) {
    let (all, what) = (collection(row), row.gvr.group_resource());
    let one = format!("{all}/{}", name(row));
    let mut watch = api.watch(&format!("{all}?watch=1&labelSelector=walk%3Dyes")).await;
    api.post(&format!("{all}?dryRun=All"), &sample(row)).await.expect(201);
    api.get(&one).await.expect(404);

    let made = api.post(&all, &sample(row)).await.expect(201);
    assert_eq!(made["kind"], row.gvk.kind.as_ref(), "{what}");
    assert_eq!(api.get(&one).await.expect(200), made, "{what}");
    api.post(&all, &sample(row)).await.refused(409, "AlreadyExists", "already exists");
    assert_eq!(watch.event().await, format!("ADDED {}", name(row)), "{what}");

    let list = api.get(&format!("{all}?labelSelector=walk%3Dyes")).await.expect(200);
    assert_eq!(list["kind"], row.list_kind.as_str(), "{what}");
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{what}");
    let table = api.get_as(&all, "application/json;as=Table;v=v1;g=meta.k8s.io").await.expect(200);
    let columns = table["columnDefinitions"].as_array().expect("columns").len();
    for cells in table["rows"].as_array().expect("rows").iter().map(|row| &row["cells"]) {
        assert_eq!(cells.as_array().map(Vec::len), Some(columns), "{what}: {cells}");
    }

    assert_eq!(api.put(&one, &made).await.expect(200), made, "{what}: nothing changes");
    in_protobuf(api, row, &all, &made).await;
    let mut changed = made.clone();
    changed["metadata"]["labels"]["walked"] = json!("yes");
    let updated = api.put(&one, &changed).await.expect(200);
    assert!(revision(&updated) > revision(&made), "{what}");
    api.put(&one, &changed).await.refused(409, "Conflict", "the object has been modified");
    let modified = format!("MODIFIED {}", name(row));
    assert_eq!(watch.event().await, modified, "{what}");
    for (kind, patch) in [
        ("merge", json!({"metadata": {"annotations": {"a": "2"}}})),
        ("strategic-merge", json!({"metadata": {"annotations": {"a": "3"}}})),
        ("json", json!([{"op": "replace", "path": "/metadata/annotations/a", "value": "4"}])),
    ] {
        api.patch(&one, kind, &patch).await.expect(200);
        assert_eq!(watch.event().await, modified, "{what} {kind}");
    }
    let current = api.get(&one).await.expect(200);
    assert_eq!(current["metadata"]["annotations"]["a"], "4", "{what}");

    subresources(api, row, &one, &current).await;
    delete(api, row, &one, &made).await;
    loop {
        let event = watch.event().await;
        if event != modified {
            break assert_eq!(event, format!("DELETED {}", name(row)), "{what}");
        }
    }
}

/// What is read in protobuf is what JSON has, and written back it changes nothing.
async fn in_protobuf(api: &Api, row: &Row, all: &str, made: &Value) {
    // Our own kinds have none, as custom resources.
    if !protobuf::knows(&row.gvk) {
        return;
    }
    let (one, headers) = (format!("{all}/{}", name(row)), [("content-type", MEDIA_TYPE), ("accept", MEDIA_TYPE)]);
    let read = api.get_as(&one, MEDIA_TYPE).await;
    assert_eq!(read.headers["content-type"], MEDIA_TYPE, "{one}");
    assert_eq!(protobuf::decode_object(&read.bytes, &row.gvk).unwrap().into_json(), without_empty_lists(made));
    let written = api.request(Method::PUT, &one, &headers, read.bytes.clone()).await;
    assert_eq!((written.code.as_u16(), written.bytes), (200, read.bytes), "{one}");
    assert_eq!(api.get(&one).await.expect(200), *made, "{one}");
    let list = api.get_as(&format!("{all}?labelSelector=walk%3Dyes"), MEDIA_TYPE).await;
    let list = protobuf::decode_object(&list.bytes, &row.gvk).unwrap().into_json();
    assert_eq!(list["kind"], row.list_kind.as_str());
    assert_eq!(list["items"][0]["metadata"], made["metadata"], "{one}");
}

/// Protobuf has no empty lists.
fn without_empty_lists(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, value)| value.as_array().is_none_or(|items| !items.is_empty()))
            .map(|(name, value)| (name.clone(), without_empty_lists(value)))
            .collect(),
        Value::Array(items) => items.iter().map(without_empty_lists).collect(),
        value => value.clone(),
    }
}

async fn subresources(api: &Api, row: &Row, one: &str, current: &Value) {
    if row.has(Subresource::Status) {
        let path = format!("{one}/status");
        assert_eq!(api.get(&path).await.expect(200), *current, "{one}");
        assert_eq!(api.put(&path, current).await.expect(200), *current, "{one}");
        let patch = json!({"spec": {"walked": true}});
        let spec = api.patch(&format!("{path}?fieldValidation=Ignore"), "merge", &patch).await.expect(200);
        assert_eq!(spec["spec"], current["spec"], "{one}: status leaves the spec alone");
    }
    if row.has(Subresource::Scale) {
        assert_eq!(api.get(&format!("{one}/scale")).await.expect(200)["kind"], "Scale");
        let patch = json!({"spec": {"replicas": 2}});
        assert_eq!(api.patch(&format!("{one}/scale"), "merge", &patch).await.expect(200)["spec"]["replicas"], 2);
    }
}

async fn delete(api: &Api, row: &Row, one: &str, made: &Value) {
    api.delete(&format!("{one}?dryRun=All")).await.expect(200);
    let wrong = json!({"preconditions": {"uid": "other"}});
    api.delete_with(one, &wrong).await.refused(409, "Conflict", "the UID in the precondition (other)");
    let right = json!({"preconditions": {"uid": made["metadata"]["uid"]}});
    let deleted = api.delete_with(one, &right).await.expect(200);
    if row.gvk.kind == "Namespace" {
        let mut finalized = deleted;
        finalized["spec"]["finalizers"] = json!([]);
        api.put(&format!("{one}/finalize"), &finalized).await.expect(200);
    } else if let Some(finalizers) = deleted["metadata"]["finalizers"].as_array() {
        assert!(deleted["metadata"]["deletionTimestamp"].is_string(), "{one} is held by {finalizers:?}");
        api.patch(one, "merge", &json!({"metadata": {"finalizers": null}})).await.expect(200);
    }
    api.get(one).await.expect(404);
}

/// What is stored. A definition's name, and an APIService's, is told by its spec, so each has tests of its own.
fn rows() -> impl Iterator<Item = Row> {
    let named_freely = |row: &Row| !matches!(row.gvk.kind.as_ref(), "CustomResourceDefinition" | "APIService");
    builtin::rows().into_iter().filter(|row| !row.is_virtual()).filter(named_freely)
}

#[tokio::test]
async fn every_row_lives_its_whole_life() {
    let api = Api::with_namespace().await;
    for row in rows() {
        walk(&api, &row).await;
    }
}

#[tokio::test]
async fn every_collection_can_be_deleted() {
    let api = Api::with_namespace().await;
    for row in rows() {
        if !route::verbs(&row, None).contains(&Verb::DeleteCollection) {
            continue;
        }
        let all = collection(&row);
        let made = api.post(&all, &sample(&row)).await.expect(201);
        let listed = api.delete(&format!("{all}?labelSelector=walk%3Dyes")).await.expect(200);
        assert_eq!(listed["items"].as_array().map(Vec::len), Some(1), "{all}");
        if made["metadata"]["finalizers"].is_null() && !row.kind.orphans_by_default() {
            api.get(&format!("{all}/{}", name(&row))).await.expect(404);
        }
    }
}
