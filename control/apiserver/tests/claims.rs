//! Claims for devices: who may ask for administrative access, and who may write which part of a claim's status.

mod support;

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use support::Api;
use wharf_auth::{Attributes, Authorizer, Decision, User};

const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
const TEMPLATES: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaimtemplates";

/// Lets everybody do everything but this to claims.
struct Without(&'static str);

#[async_trait]
impl Authorizer for Without {
    async fn authorize(&self, _: &User, asked: &Attributes) -> Decision {
        match asked.subresource == self.0 {
            true => Decision::NoOpinion("no rule".to_owned()),
            false => Decision::Allow(String::new()),
        }
    }
}

async fn without(subresource: &'static str) -> Api {
    let api = Api::guarded(None, Arc::new(Without(subresource))).await;
    api.post("/api/v1/namespaces", &json!({"metadata": {"name": "default"}})).await.expect(201);
    api.post(CLAIMS, &claim("c", false)).await.expect(201);
    api
}

fn claim(name: &str, admin: bool) -> Value {
    let exactly = match admin {
        true => json!({"deviceClassName": "gpu.example.com", "adminAccess": true}),
        false => json!({"deviceClassName": "gpu.example.com"}),
    };
    json!({"metadata": {"name": name}, "spec": {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}})
}

fn allocation(admin: bool) -> Value {
    let mut result = json!({"request": "gpu", "driver": "gpu.example.com", "pool": "n1", "device": "d0"});
    if admin {
        result["adminAccess"] = json!(true);
    }
    json!({"devices": {"results": [result]}})
}

fn device() -> Value {
    json!([{"driver": "gpu.example.com", "pool": "n1", "device": "d0", "data": {"x": 1}}])
}

async fn label_namespace(api: &Api, value: &str) {
    let patch = json!({"metadata": {"labels": {"resource.kubernetes.io/admin-access": value}}});
    api.patch("/api/v1/namespaces/default", "merge", &patch).await.expect(200);
}

#[tokio::test]
async fn administrative_access_is_for_namespaces_that_are_labelled_for_it() {
    let api = Api::with_namespace().await;
    let why = "spec.devices.requests[0].adminAccess: Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace";
    let template = |name: &str| json!({"metadata": {"name": name}, "spec": {"spec": claim("x", true)["spec"]}});
    for value in ["", "True"] {
        label_namespace(&api, value).await;
        api.post(CLAIMS, &claim("c", true)).await.refused(422, "Invalid", why);
        api.post(TEMPLATES, &template("t")).await.refused(422, "Invalid", why);
    }
    label_namespace(&api, "true").await;
    api.post(CLAIMS, &claim("c", true)).await.expect(201);
    api.post(TEMPLATES, &template("t")).await.expect(201);
    label_namespace(&api, "").await;
    // What is there stays changeable.
    api.patch(&format!("{CLAIMS}/c"), "merge", &json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
    let status = format!("{CLAIMS}/c/status");
    api.patch(&status, "merge", &json!({"status": {"allocation": allocation(true)}})).await.refused(
        422,
        "Invalid",
        "status.allocation.devices.results[0].adminAccess: Forbidden: admin access to devices requires",
    );
    api.patch(&status, "merge", &json!({"status": {"allocation": allocation(false)}})).await.expect(200);
}

#[tokio::test]
async fn an_allocation_is_for_who_may_bind() {
    let api = without("binding").await;
    let status = format!("{CLAIMS}/c/status");
    api.patch(&status, "merge", &json!({"status": {"allocation": allocation(false)}})).await.refused(
        422,
        "Invalid",
        "status: Forbidden: changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", verb=\"patch\" permission: resourceclaims.resource.k8s.io is forbidden: User \"tester\" cannot patch resource \"resourceclaims/binding\" in API group \"resource.k8s.io\" at the cluster scope: no rule",
    );
}

#[tokio::test]
async fn what_is_said_of_a_device_is_for_its_driver() {
    let api = without("driver").await;
    let status = format!("{CLAIMS}/c/status");
    api.patch(&status, "merge", &json!({"status": {"allocation": allocation(false)}})).await.expect(200);
    api.patch(&status, "merge", &json!({"status": {"devices": device()}})).await.refused(
        422,
        "Invalid",
        "status.devices: Forbidden: changing status.devices requires resource=\"resourceclaims/driver\", verb=\"[arbitrary-node:patch]\" permission: resourceclaims.resource.k8s.io \"gpu.example.com\" is forbidden: User \"tester\" cannot arbitrary-node:patch resource \"resourceclaims/driver\" in API group \"resource.k8s.io\" in the namespace \"default\": no rule",
    );
}

#[tokio::test]
async fn what_was_said_of_a_device_goes_with_it() {
    let api = Api::with_namespace().await;
    api.post(CLAIMS, &claim("c", false)).await.expect(201);
    let status = format!("{CLAIMS}/c/status");
    let devices = json!({"status": {"devices": device()}});
    api.patch(&status, "merge", &devices).await.refused(
        422,
        "Invalid",
        "status.devices[0]: Invalid value: \"gpu.example.com/n1/d0\": must be an allocated device in the claim",
    );
    let reserved = json!([{"resource": "pods", "name": "p", "uid": "u"}]);
    let patch = json!({"status": {"allocation": allocation(false), "reservedFor": reserved}});
    api.patch(&status, "merge", &patch).await.expect(200);
    api.patch(&status, "merge", &devices).await.expect(200);
    let freed = json!({"status": {"allocation": null, "reservedFor": null}});
    let freed = api.patch(&status, "merge", &freed).await.expect(200);
    assert!(freed["status"].get("devices").is_none(), "{freed}");
}
